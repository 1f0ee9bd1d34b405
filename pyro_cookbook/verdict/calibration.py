"""`calibrate`: simulation-based calibration, does a family recover what the model generated?"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import torch
import xarray as xr
from pyro import poutine
from scipy import stats
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_cookbook.fits.fitting import fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.copying import copy_programs
from pyro_cookbook.programs.drawing import (
    Program,
    draw,
    is_derived,
    quietly,
    sample_sites,
    trace_once,
)
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.predictive import derived_values, released

# A family-wise error of 1%: a calibrated guide is called wrong once in a hundred studies.
_ALPHA = 0.01


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
        Whether all scalars are uniform, at 1% for all of them together.
    num_simulations, num_failed : int
        Simulations used, and those whose fit raised an error.
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
        """Say in a line whether the family is calibrated, and where it is worst."""
        verdict = "calibrated" if self.calibrated else "NOT calibrated"
        worst = str(self.table["uniform_p"].idxmin())
        row: Any = self.table.loc[str(worst)]
        return (
            f"{verdict} in {self.num_simulations} simulations; worst {worst!r}: mean probability"
            f" {row['mean']:.2f} (0.5), spread {row['spread']:.2f} (1), p = {row['uniform_p']:.2g}"
        )


def calibrate(
    model: Program,
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
        What the model is called with. Where an observed site's value is given, simulated values
        take its place.
    num_simulations : int, default 100
    num_draws : int, default 1000
        Draws of each fitted guide.
    seed : int, default 0
    progress : bool, optional
        Show a progress bar. Default: if standard error is a terminal.
    **options
        Go to `fit`.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If no argument of the model holds the observations, or most fits failed.

    Notes
    -----
    Probabilities near uniform do not make any one fit right: errors may cancel over data sets. The
    test of symmetry alone finds bias, not a wrong spread.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), *Yes, but did it work?*, arXiv:1802.02538, algorithm 2.
    """
    kwargs = dict(data_kwargs or {})
    model, _ = copy_programs(model, None, (), {})
    with isolated(seed):
        observed = _observed_arguments(model, data, kwargs)
    options.setdefault("num_restarts", 2)  # modes are looked for when one fit is judged
    shown = sys.stderr.isatty() if progress is None else progress
    found: list[dict[str, np.ndarray]] = []
    failed: list[str] = []
    for s in tqdm(range(num_simulations), desc="simulations", disable=not shown):
        latents, args, keywords = _simulate(model, observed, data, kwargs, seed + s)
        try:
            if isinstance(guide, str):
                one: Fit = fit(
                    model, guide, *args, data_kwargs=keywords, seed=seed, progress=False, **options
                )
            else:
                one = guide(model, *args, **keywords)
        except (ValueError, ArithmeticError) as error:
            failed.append(str(error))
            continue
        with isolated(seed + s, one.param_state):
            values = draw(one.guide, num_draws, *args, **keywords).values
            drawn = {**derived_values(one.model, values, *args, **keywords), **values}
        found.append({
            name: (drawn[name] <= value).double().mean(0).cpu().numpy()
            for name, value in latents.items()
            if name in drawn
        })  # fmt: skip
    if len(failed) > num_simulations // 2:
        raise ValueError(f"model: {len(failed)} of {num_simulations} fits failed: {failed[0]}")
    stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
    table = _table(stacked, num_draws)
    calibrated = bool((table["uniform_p"] > _ALPHA / len(table)).all())
    probabilities = xr.Dataset({
        name: (["simulation", *(f"{name}_dim_{i}" for i in range(value.ndim - 1))], value)
        for name, value in stacked.items()
    })  # fmt: skip
    return Calibration(probabilities, table, calibrated, len(found), len(failed))


def _observed_arguments(model: Program, args: Any, kwargs: Any) -> dict[str, str]:
    """Which argument holds which observed site's value."""
    target = model.forward if isinstance(model, nn.Module) else model
    given = inspect.signature(target).bind_partial(*args, **kwargs).arguments
    nodes = trace_once(model, *args, **kwargs)
    found = {}
    for name, node in nodes.items():
        if not node["is_observed"] or is_derived(node):
            continue
        value = node["value"]
        if not value.numel():
            raise ValueError(
                f"model: {name!r} is a pyro.factor, from which no data can be simulated; write the"
                " likelihood as an observed pyro.sample"
            )
        for argument, held in given.items():
            if isinstance(held, Tensor) and held.shape == value.shape and torch.equal(held, value):
                found[name] = argument
                break
        else:
            raise ValueError(
                f"model: no argument holds the value of observed site {name!r}; pass the"
                " observations as an argument of the model"
            )
    if not found:
        raise ValueError("model: it observes nothing, so there is nothing to simulate")
    return found


def _simulate(
    model: Program, observed: Mapping[str, str], args: Any, kwargs: Any, seed: int
) -> tuple[dict[str, Tensor], Any, Any]:
    """Draw latents from the prior and data given them; return the latents and the new arguments."""
    with isolated(seed), quietly():
        nodes = sample_sites(poutine.trace(released(model)).get_trace(*args, **kwargs))
    target = model.forward if isinstance(model, nn.Module) else model
    bound = inspect.signature(target).bind_partial(*args, **kwargs)
    for name, argument in observed.items():
        bound.arguments[argument] = nodes[name]["value"]
    latents = {
        name: node["value"]
        for name, node in nodes.items()
        if name not in observed and not is_derived(node)
    }
    return latents, bound.args, bound.kwargs


def _table(stacked: Mapping[str, np.ndarray], num_draws: int) -> pd.DataFrame:
    rows = {}
    for name, value in stacked.items():
        for index in np.ndindex(*value.shape[1:]):
            p = value[(slice(None), *index)]
            label = f"{name}[{','.join(map(str, index))}]" if index else name
            # Draws make the probabilities a grid: half a step of jitter would be as wide.
            symmetric = stats.ks_2samp(p, 1 - p).pvalue
            rows[label] = {
                "mean": p.mean(),
                "spread": p.std() * 12**0.5,
                "uniform_p": stats.kstest(p, "uniform").pvalue,
                "symmetric_p": symmetric,
            }
    return pd.DataFrame.from_dict(rows, orient="index")
