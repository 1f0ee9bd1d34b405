"""`calibrate`: simulation-based calibration, does a family recover what the model generated?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr
from pyro import poutine
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from pyro_cookbook.fits.fitting import fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.arguments import named_arguments, observed_arguments, with_arguments
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.observing import is_derived
from pyro_cookbook.programs.options import check_whole
from pyro_cookbook.programs.predictive import derived_values, released
from pyro_cookbook.programs.program import Function, Program, quietly, sample_sites
from pyro_cookbook.programs.state.copying import copy_programs
from pyro_cookbook.programs.state.isolation import isolated
from pyro_cookbook.programs.state.progress import shown

# A family-wise error of 1%: a calibrated guide is called wrong once in a hundred studies.
ALPHA = 0.01


@dataclass(frozen=True, eq=False)
class Calibration:
    """Where the values that generated data sets lie in their fitted posteriors.

    Attributes
    ----------
    probabilities : xarray.Dataset
        P_q(h ≤ h*) for every latent scalar and simulation: uniform where the family is right on
        average; low or high on average where it is biased; near 0 and 1 where it is too narrow.
    table : pandas.DataFrame
        A row for each scalar: mean of the probabilities (0.5), their spread relative to a uniform
        (1; above: too narrow, below: too wide), p-values of a Kolmogorov–Smirnov test of
        uniformity and of the symmetry of Yao et al. around ½.
    calibrated : bool
        Whether uniformity is not refuted for any scalar, at 1% for all of them together. Few
        simulations refute little: of 12, an sd of half the right one passes nine times in ten.
    num_simulations, num_failed : int
        Simulations used, and those whose fit raised an error.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> found = pc.calibrate(model, "full_rank", torch.tensor(0.0), num_simulations=20)
    >>> dict(found.probabilities.sizes)
    {'simulation': 20}
    """

    probabilities: xr.Dataset
    table: pd.DataFrame
    calibrated: bool
    num_simulations: int
    num_failed: int

    def plot(self, **options: Any) -> Any:
        """Draw ArviZ's ECDF of the probabilities against the uniform.

        Returns
        -------
        arviz_plots.PlotCollection
        """
        tree = xr.DataTree.from_dict(
            {"posterior": self.probabilities.expand_dims("chain").rename(simulation="draw")}
        )
        return az.plot_ecdf_pit(tree, group="posterior", **options)

    def __str__(self) -> str:
        """Say in a line whether the simulations refute the family, and where it is worst."""
        verdict = "not refuted" if self.calibrated else "NOT calibrated"
        worst = str(self.table["uniform_p"].idxmin())
        row: Any = self.table.loc[str(worst)]
        return (
            f"{verdict} in {self.num_simulations} simulations; worst {worst!r}: mean probability"
            f" {row['mean']:.2f} (0.5), spread {row['spread']:.2f} (1), p = {row['uniform_p']:.2g}"
        )


def calibrate(
    model: Function,
    guide: str | Callable[..., Any] = "auto",
    *data: Any,
    num_simulations: int = 100,
    num_draws: int = 1000,
    seed: int = 0,
    progress: bool | None = None,
    data_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Calibration:
    """Variational simulation-based calibration.

    Draw latents h* from the prior and data from the model at h*; fit; record P_q(h ≤ h*). Averaged
    over data sets the exact posterior makes these probabilities uniform.

    Parameters
    ----------
    model : callable
        With proper priors.
    guide : str or callable
        The name of a family, or any function ``guide(model, *data) -> Fit``, for fits made in
        another way.
    *data, data_kwargs
        What the model is called with. Simulated values take the place of the arguments that hold
        its observations.
    num_simulations, num_draws : int, default 100 and 1000
        Data sets, and draws of each fitted guide.
    seed : int, default 0
    progress : bool, optional
        Show a progress bar. Default: at a terminal and in a notebook.
    **options
        Go to `fit`.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If no argument of the model holds the observations, the model cannot be simulated, or most
        fits failed.

    Notes
    -----
    Probabilities near uniform do not make any one fit right: errors may cancel over data sets. The
    test of symmetry alone finds bias, not a wrong spread.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), *Yes, but did it work?*, arXiv:1802.02538, algorithm 2.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> found = pc.calibrate(model, "full_rank", torch.tensor(0.0), num_simulations=20)
    >>> found.calibrated, found.num_failed
    (True, 0)
    """
    check_whole(1, num_simulations=num_simulations)
    check_whole(2, num_draws=num_draws)
    program, _ = copy_programs(Program(model, data, dict(data_kwargs or {})))
    observed = _observed(program)
    _refuse_feedback(program, observed, seed)
    options.setdefault("num_restarts", 2)  # modes are looked for when one fit is judged
    found: list[dict[str, np.ndarray]] = []
    failed: list[str] = []
    for s in tqdm(range(num_simulations), desc="simulations", disable=not shown(progress)):
        latents, simulated = _simulate(program, observed, seed + s)
        try:
            one = _fit(simulated, guide, seed + s, options)
        except (ValueError, ArithmeticError) as error:  # refused, or an ELBO that is not finite
            failed.append(str(error))
            continue
        found.append(_probabilities(one, latents, num_draws, seed + s))
    return _summed_up(found, failed)


def _summed_up(found: Sequence[Mapping[str, np.ndarray]], failed: Sequence[str]) -> Calibration:
    """Test the probabilities of all simulations; refuse where most of the fits failed."""
    total = len(found) + len(failed)
    if len(failed) > total // 2:
        raise ValueError(f"model: {len(failed)} of {total} fits failed: {failed[0]}")
    stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
    table = _table(stacked)
    probabilities = xr.Dataset({
        name: (["simulation", *(f"{name}_dim_{i}" for i in range(value.ndim - 1))], value)
        for name, value in stacked.items()
    })  # fmt: skip
    return Calibration(probabilities, table, is_uniform(table), len(found), len(failed))


def _observed(model: Program) -> dict[str, str]:
    """Say which argument holds which site's observations; refuse what cannot be simulated."""
    with isolated(0):
        nodes = model.nodes
    for name, node in nodes.items():
        if node["is_observed"] and not node["value"].numel():
            raise ValueError(
                f"model: {name!r} is a pyro.factor, from which no data can be simulated; write the"
                " likelihood as an observed pyro.sample"
            )
    found = observed_arguments(model)
    if not found:
        raise ValueError("model: it observes nothing, so there is nothing to simulate")
    for argument in set(found.values()):
        sites = [repr(site) for site, held in found.items() if held == argument]
        if len(sites) > 1:
            raise ValueError(
                f"model: argument {argument!r} holds the observations of sites {', '.join(sites)};"
                " give each site an argument of its own"
            )
    return found


def _refuse_feedback(model: Program, observed: Mapping[str, str], seed: int) -> None:
    """Refuse a model that, with the same random numbers, draws other values from other data."""
    first, simulated = _simulate(model, observed, seed)
    second, again = _simulate(simulated, observed, seed)
    before = first | named_arguments(simulated)
    after = second | named_arguments(again)
    sites = {name: name for name in first} | dict(observed)
    for site, name in sites.items():
        if not np.array_equal(np.asarray(before[name]), np.asarray(after[name]), equal_nan=True):
            raise ValueError(
                f"model: what it draws at site {site!r} depends on the observations that it is"
                f" given (arguments {', '.join(map(repr, observed.values()))}), so data cannot be"
                " simulated from it"
            )


def _simulate(
    model: Program, observed: Mapping[str, str], seed: int
) -> tuple[dict[str, Tensor], Program]:
    """Draw latents from the prior and data given them; return the latents, and the model on it."""
    try:
        with isolated(seed), quietly():
            nodes = sample_sites(poutine.trace(released(model)).get_trace())
    except NotImplementedError as error:  # a distribution without `sample`
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"model: it cannot be drawn from ({first}); calibration needs proper priors"
        ) from error
    given = named_arguments(model)
    values = {
        argument: _like(nodes[site]["value"], given[argument])
        for site, argument in observed.items()
    }
    latents = {
        name: node["value"]
        for name, node in nodes.items()
        if name not in observed and not is_derived(node)
    }
    return latents, with_arguments(model, values)


def _like(value: Tensor, given: Any) -> Any:
    """Give simulated values the shape of the argument whose place they take, and its library."""
    shaped = value.reshape(given.shape)
    return shaped.cpu().numpy() if isinstance(given, np.ndarray) else shaped


def _fit(
    model: Program,
    guide: str | Callable[..., Any],
    seed: int,
    options: Mapping[str, Any],
) -> Fit:
    if isinstance(guide, str):
        return fit(
            model.function, guide, *model.args, data_kwargs=model.kwargs, seed=seed,
            progress=False, **options,
        )  # fmt: skip
    made: Fit = guide(model.function, *model.args, **model.kwargs)
    return made


def _probabilities(
    one: Fit, latents: Mapping[str, Tensor], num_draws: int, seed: int
) -> dict[str, np.ndarray]:
    """P_q(h ≤ h*) of every latent that the fit has."""
    with isolated(seed, one.param_state):
        values = draw(one.programs.guide, num_draws).values
        drawn = {**derived_values(one.programs.model, values), **values}
    return {
        name: (drawn[name] <= value).double().mean(0).cpu().numpy()
        for name, value in latents.items()
        if name in drawn
    }


def is_uniform(table: pd.DataFrame) -> bool:
    """Whether no scalar refutes uniformity, at a level that is divided among them (Bonferroni)."""
    return bool((table["uniform_p"] > ALPHA / len(table)).all())


def _table(stacked: Mapping[str, np.ndarray]) -> pd.DataFrame:
    rows = {}
    for name, value in stacked.items():
        for index in np.ndindex(*value.shape[1:]):
            p = value[(slice(None), *index)]
            label = f"{name}[{','.join(map(str, index))}]" if index else name
            rows[label] = {
                "mean": p.mean(),
                "spread": p.std() * 12**0.5,
                "uniform_p": stats.kstest(p, "uniform").pvalue,
                "symmetric_p": stats.ks_2samp(p, 1 - p).pvalue,
            }
    return pd.DataFrame.from_dict(rows, orient="index")
