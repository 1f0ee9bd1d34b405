"""What to do when the verdict is no: which site, which reparametrisation, which family."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.fits.settings import MAX_FULL_RANK, is_named
from pyro_cookbook.programs.noncentring import candidates
from pyro_cookbook.verdict.shape import Curved

Array = npt.NDArray[np.float64]

# What to do when chains do not agree yet.
GO_ON = "let the chains go on: pc.refine(fit, budget=…)"
SAMPLE = "sample it with NUTS, started and scaled by this fit: pc.sample(fit)"
REFINE = "let many chains go on from its draws until they agree: pc.refine(fit)"
# With more latents neither is done in an hour.
MAX_CHAINS = 20_000
# Names in a piece of advice.
MAX_NAMES = 4
# A correlation from here on is worth a word: factors lose a seventh of an sd by it.
STRONG = 0.5
# Families that have every covariance, and those that "full_rank" is richer than.
_WHOLE = {"full_rank", "flow"}
_NARROW = {"mean_field", "map", "laplace", "whitened_mean_field", "low_rank"}


def advise(
    fit: Fit,
    worst: str,
    unconstrained: Array | None,
    labels: list[str],
    curved: Curved | None = None,
) -> tuple[str, ...]:
    """Name concrete steps, most promising first.

    Parameters
    ----------
    fit : Fit
    worst : str
        The site whose numbers are most wrong; "" if unknown.
    unconstrained : array, shape (S, D), or None
        Draws nearer to the posterior than the guide's, where there are any.
    labels : list of str
        Their entries' names.
    curved : Curved, optional
        Where the posterior is least like a Gaussian.
    """
    if any(site.is_discrete for site in fit.programs.model.latents.values()):
        return (
            "sum the discrete sites out of the model and fit 'full_rank', or sample it with NUTS",
        )
    if curved is not None and curved.is_gaussian and fit.family in _WHOLE:
        curved = None  # nearly a Gaussian, and refused all the same: shape is not what tells
    steps, because = [], "" if curved is None else f"{curved}; "
    splittable = candidates(fit.programs.model)
    if splittable:
        listed = listed_names(splittable)
        steps.append(
            f"non-centre {listed}, whose location or scale is itself a latent: fit(...,"
            " noncentred=True) does it with pyro.infer.reparam.LocScaleReparam and keeps the better"
        )
    missed, size = "", fit.programs.model.num_latents
    if fit.family == "mean_field" and unconstrained is not None and size <= MAX_FULL_RANK:
        missed = missed_correlation(unconstrained, labels)
    families = richer(fit.family, size, worst, missed)
    chains = [REFINE, SAMPLE] if size <= MAX_CHAINS else []
    if curved is not None and curved.is_gaussian and families:
        steps = [*families, *steps, *chains]  # coordinates do not matter, a covariance does
    elif curved is not None and fit.family in _NARROW:
        steps = [*steps, *chains, *families]  # a richer Gaussian would not do
    else:
        steps = [*steps, *families, *chains]
    return tuple([because + steps[0], *steps[1:]] if steps else [])


def listed_names(names: Sequence[str]) -> str:
    """Quote names; of many the first three, and how many more there are."""
    shown = names if len(names) <= MAX_NAMES else names[: MAX_NAMES - 1]
    listed = ", ".join(repr(name) for name in shown)
    return listed if len(shown) == len(names) else f"{listed} and {len(names) - len(shown)} more"


def vectorise(obstacle: str) -> tuple[str, ...]:
    """Say that a model is slow for want of a form that vmap can follow.

    Parameters
    ----------
    obstacle : str
        What stood in vmap's way; "" if nothing did.
    """
    if not obstacle:
        return ()
    why = obstacle.partition(". ")[0]  # torch goes on to ask for a report
    return (
        "write the model so that torch.vmap can follow it, such as torch.where in place of if: it"
        f" was run once for each draw ({why})",
    )


def richer(family: str, size: int, worst: str, missed: str) -> list[str]:
    """Name the family to fit next, if there is one.

    Parameters
    ----------
    family : str
        The one that was fitted.
    size : int
        Number of latent scalars.
    worst : str
        The site whose numbers are most wrong; "" if unknown.
    missed : str
        What the family has missed, as `missed_correlation` gives it.
    """
    if family in _NARROW and size <= MAX_FULL_RANK:
        return [f"fit the richer family 'full_rank'{missed}"]
    if family == "full_rank" and size <= MAX_FULL_RANK:
        skewed = f", {worst!r} most of all," if worst else ""
        return [
            f"the posterior{skewed} is not Gaussian on the unconstrained scale: fit 'flow', or"
            " reparametrise"
        ]
    if not is_named(family):
        return ["give the guide more capacity or fit 'full_rank'; try another start"]
    return []


def missed_correlation(draws: Array, labels: list[str]) -> str:
    """Name the strongest correlation of draws, shape (S, D); "" where none is strong."""
    if draws.shape[1] < 2:
        return ""
    with np.errstate(all="ignore"):  # what never varies is correlated with nothing
        correlation: Array = np.triu(np.asarray(np.corrcoef(draws.T)), k=1)
    i, j = np.unravel_index(np.abs(np.nan_to_num(correlation)).argmax(), correlation.shape)
    if not abs(correlation[i, j]) >= STRONG:
        return ""
    return (
        f": {labels[int(i)]!r} and {labels[int(j)]!r} are correlated ({correlation[i, j]:+.2f}),"
        " which independent factors cannot follow"
    )
