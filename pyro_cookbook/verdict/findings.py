"""What a judge says of a fit, and how what several say adds up."""

from dataclasses import dataclass

RELIABLE = "reliable"
REWEIGHT = "reliable after reweighting"
REFINED = "reliable after refining"
UNRELIABLE = "unreliable"
# From the best to the worst.
VERDICTS = (RELIABLE, REWEIGHT, REFINED, UNRELIABLE)

# A mean off by more than this many posterior sds, or an sd by more than this share, is wrong.
MAX_SHIFT, MAX_STRETCH = 0.25, 0.25

# Errors beyond these are not told apart: a share of one, sds, nats.
_MAX_SHARE, _MAX_SDS, _MAX_NATS = 10.0, 1000.0, 1e6


@dataclass(frozen=True)
class Finding:
    """What one judge says.

    Findings add up: the worst verdict wins, reasons follow each other, a piece of advice is given
    once.

    Attributes
    ----------
    verdict : str
        One of `VERDICTS`.
    reasons, advice : tuple of str
        Why, and what to do next.
    site : str
        Where the numbers are most wrong; "" if the judge cannot tell.
    bad_rows : tuple of int
        Rows whose own approximation failed, worst first.
    """

    verdict: str = RELIABLE
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    site: str = ""
    bad_rows: tuple[int, ...] = ()

    def __add__(self, other: "Finding") -> "Finding":
        return Finding(
            max(self.verdict, other.verdict, key=VERDICTS.index),
            self.reasons + other.reasons,
            tuple(dict.fromkeys(self.advice + other.advice)),
            self.site or other.site,
            tuple(dict.fromkeys(self.bad_rows + other.bad_rows)),
        )


# What a judge says who has nothing against a fit.
NOTHING = Finding()


def percent(share: float, digits: int = 0) -> str:
    """Write a share or a relative error: "12%", and ">1000%" for all that is above."""
    return _capped(share, f".{digits}%", _MAX_SHARE)


def sds(number: float, digits: int = 2) -> str:
    """Write a distance in sds: "0.31", and ">1000" for all that is above."""
    return _capped(number, f".{digits}f", _MAX_SDS)


def nats(number: float) -> str:
    """Write a difference of log densities: "4.1", and ">1000000" for all that is above."""
    return _capped(number, ".1f", _MAX_NATS)


def _capped(number: float, spec: str, limit: float) -> str:
    """Format a number; one too large to mean anything, as "more than the limit"."""
    if number > limit:
        return f">{limit:.0%}" if spec.endswith("%") else f">{limit:.0f}"
    return f"{number:{spec}}"
