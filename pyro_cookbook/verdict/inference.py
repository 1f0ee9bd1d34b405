"""`infer`: fit, judge, repair, refine, until there are numbers that may be used."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from pyro_cookbook.fits.fitting import fit as fit_once
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.datatree import to_datatree
from pyro_cookbook.posterior.refining.beginning import LEAST_SHARE
from pyro_cookbook.posterior.refining.by_nuts import refine_by_nuts
from pyro_cookbook.posterior.refining.refine import refine_as_it_is
from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.noncentring import candidates
from pyro_cookbook.programs.options import check_positive
from pyro_cookbook.programs.program import Function
from pyro_cookbook.programs.state.isolation import isolated
from pyro_cookbook.verdict.diagnosis import Diagnosis, diagnose
from pyro_cookbook.verdict.findings import REWEIGHT, UNRELIABLE

# Chains go on for at least so many seconds, whatever was before them has taken, and short ones else
# for this share of what is left.
_LEAST_SECONDS, _SHARE_OF_CHAINS = 5.0, 0.75


@dataclass(frozen=True, eq=False)
class Answer:
    """What `infer` has found.

    Attributes
    ----------
    fit : Fit
        The last one tried, or the one whose numbers may be used.
    diagnosis : Diagnosis
        The verdict on it.
    tried : pandas.DataFrame
        A row for each rung of the ladder: the family, the verdict, seconds, and why.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> answer = pc.infer(model, torch.tensor([1.0, 2.0, 3.0]))
    >>> answer.may_be_used, list(answer.tried.index)
    (True, ['as it is'])
    """

    fit: Fit
    diagnosis: Diagnosis
    tried: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The verdict on the last rung."""
        return self.diagnosis.verdict

    @property
    def may_be_used(self) -> bool:
        """Whether means, sds and intervals of `tree` may be used."""
        return self.verdict != UNRELIABLE

    def tree(self, **options: Any) -> xr.DataTree:
        """Lay the draws out as `to_datatree`, reweighted where the verdict says so."""
        return to_datatree(self.fit, reweight=self.verdict == REWEIGHT, **options)

    def __str__(self) -> str:
        """Write the verdict, and what was tried."""
        shown = self.tried.assign(seconds=self.tried["seconds"].map("{:.1f}".format))
        return f"{self.diagnosis}\n\n{shown[['family', 'verdict', 'seconds']].to_string()}"


def infer(
    model: Function,
    *data: Any,
    data_kwargs: Mapping[str, Any] | None = None,
    budget: float = 60.0,
    seed: int = 0,
    progress: bool | None = None,
    **kwargs: Any,
) -> Answer:
    """Find numbers that may be used, by the first rung of a ladder that gives them.

    Parameters
    ----------
    model : callable
        Any Pyro model whose latents are continuous, or discrete with few values: those are summed
        out.
    *data, **kwargs
        What it is called with.
    data_kwargs : mapping, optional
        More keyword data: the place for names that clash with an option here.
    budget : float, default 60
        Seconds of wall time after which nothing new is begun. A fit that is under way is finished;
        chains end with the draws that they have.
    seed : int, default 0
        Same seed, same numbers, if the budget suffices.
    progress : bool, optional
        Show progress bars. Default: at a terminal and in a notebook.

    Returns
    -------
    Answer
        With the verdict, and a table of what was tried. Where nothing may be used, its verdict is
        "unreliable", with reasons and what to do next.

    Raises
    ------
    ValueError
        As `fit`: model or data are wrong, in one line.

    Notes
    -----
    The rungs: a Gaussian with a whole covariance (low rank, where there are many latents), judged
    and if need be reweighted; the same with sites non-centred, where the model has such;
    many short chains from the better of the two, until they agree; four long chains of NUTS, unless
    there are several modes. Chains leave a quarter of the budget for NUTS, which is begun if there
    are seconds left, and then gets five at least. What it cannot do in time is said in `tried`.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> answer = pc.infer(model, torch.tensor([1.0, 2.0, 3.0]))
    >>> f"{float(answer.tree()['posterior']['mu'].mean()):.1f}"
    '2.0'
    """
    check_positive(budget=budget)
    started = time.perf_counter()
    options: Any = {"seed": seed, "progress": progress}
    best: Fit | None = None
    tried: dict[str, dict[str, Any]] = {}

    def rest() -> float:
        return budget - (time.perf_counter() - started)

    data_kwargs = {**kwargs, **(data_kwargs or {})}
    for rung, attempt in _ladder(model, data, data_kwargs, options, rest):
        begun = time.perf_counter()
        try:
            found = attempt(best)
            if best is not None and not found.refinements and not _better(found, best):
                tried[rung] = _row(found.family, UNRELIABLE, begun, "its bound is lower")
                continue
            diagnosis = diagnose(found, seed=seed, progress=progress)
        except (ValueError, ArithmeticError) as error:  # refused, or numbers overflow
            if best is None:
                raise
            tried[rung] = _row("", UNRELIABLE, begun, f"refused: {first_line(error)}")
            continue
        tried[rung] = _row(found.family, diagnosis.verdict, begun, diagnosis.reasons[0])
        best, last = found, diagnosis
        if diagnosis.verdict != UNRELIABLE or rest() < 0:
            break
    assert best is not None
    return Answer(best, last, pd.DataFrame.from_dict(tried, orient="index"))


def _row(family: str, verdict: str, begun: float, why: str) -> dict[str, Any]:
    return {
        "family": family,
        "verdict": verdict,
        "seconds": time.perf_counter() - begun,
        "why": why,
    }


def _better(found: Fit, best: Fit) -> bool:
    """Whether a fit has the higher bound: in other coordinates it is of the same evidence."""
    return found.elbo.value > best.elbo.value


def _ladder(
    model: Function, data: Any, kwargs: Any, options: Any, rest: Callable[[], float]
) -> Iterator[tuple[str, Callable[[Fit | None], Fit]]]:
    """Name each rung and give what it does with the best fit so far."""
    first: list[Fit] = []

    def as_it_is(_: Fit | None) -> Fit:
        first.append(fit_once(model, "auto", *data, data_kwargs=kwargs, **options))
        return first[0]

    yield "as it is", as_it_is
    with isolated(options["seed"], first[0].param_state):
        splittable = candidates(first[0].programs.model)
    if splittable:
        family = first[0].family
        yield (
            "non-centred",
            lambda _: fit_once(
                model, family, *data, data_kwargs=kwargs, noncentred=splittable, **options
            ),
        )

    def refined(best: Fit | None) -> Fit:
        assert best is not None
        share = max(_SHARE_OF_CHAINS * rest(), _LEAST_SECONDS)
        return refine_as_it_is(best, budget=share, **options)

    yield "refined", refined
    if sum(mode.share > LEAST_SHARE for mode in first[0].modes) > 1:
        return  # what keeps many chains in their modes keeps four of NUTS

    def sampled(best: Fit | None) -> Fit:
        assert best is not None
        return refine_by_nuts(best, budget=max(rest(), _LEAST_SECONDS), **options)

    yield "NUTS", sampled
