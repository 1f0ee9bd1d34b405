"""`compare`: fits and runs of NUTS side by side, in one table and one plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.datatree import to_datatree
from pyro_cookbook.posterior.layout import Coords, Dims
from pyro_cookbook.verdict.diagnosis import Diagnosis, diagnose
from pyro_cookbook.verdict.findings import REWEIGHT


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several answers to one question.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each fit, the best ELBO first: family, ELBO and how far it is below the best (in
        nats), k-hat, verdict, seconds; with a reference, the largest error of a mean (in the
        reference's sds) and of an sd (relative), and the variable where the larger one is.
    trees : dict of str to xarray.DataTree
        Draws, reweighted where the verdict says so.
    diagnoses : dict of str to Diagnosis

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> fits = {"normal": pc.fit(model, "full_rank", y), "mode": pc.fit(model, "map", y)}
    >>> found = pc.compare(fits)
    >>> found.table["verdict"].to_dict()
    {'normal': 'reliable', 'mode': 'unreliable'}
    """

    table: pd.DataFrame
    trees: dict[str, xr.DataTree]
    diagnoses: dict[str, Diagnosis]

    def plot(self, *, legend: bool = True, **options: Any) -> Any:
        """Draw ArviZ's forest plot of all of them; other options go to ``arviz.plot_forest``.

        Returns
        -------
        arviz_plots.PlotCollection
        """
        import arviz as az

        shared = set.intersection(*(set(_variables(tree)) for tree in self.trees.values()))
        options.setdefault("var_names", sorted(shared))
        sizes = [
            _as_matrix(next(iter(_variables(t).values()))).shape[0] for t in self.trees.values()
        ]
        chains = {name: _thinned(tree, min(sizes)) for name, tree in self.trees.items()}
        plot: Any = az.plot_forest(chains, sample_dims="sample", **options)
        if legend and len(chains) > 1:
            plot.add_legend("model", title="")
        return plot


def compare(
    fits: Mapping[str, Fit | xr.DataTree],
    *,
    reference: str | None = None,
    diagnoses: Mapping[str, Diagnosis] | None = None,
    num_draws: int = 4000,
    seed: int = 0,
    progress: bool | None = None,
    coords: Coords | None = None,
    dims: Dims | None = None,
) -> Comparison:
    """Put fits of one model side by side.

    Parameters
    ----------
    fits : mapping of str to Fit or DataTree
        Name → fit, or a run of NUTS as `sample` or `from_pyro_mcmc` gives it.
    reference : str, optional
        The one that the others' means and sds are measured against. Default: the first tree, if
        there is one.
    diagnoses : mapping of str to Diagnosis, optional
        Those that are already made, under the names of `fits`: the other fits are diagnosed.
    num_draws : int, default 4000
        Draws of each fit.
    seed : int, default 0
    progress : bool, optional
        Show a progress bar for each diagnosis. Default: at a terminal and in a notebook.
    coords, dims : mapping, optional
        As for `to_datatree`; a DataTree keeps its own.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there is nothing to compare or something that is no fit, the reference is not among the
        names, or a diagnosis is not of one of the fits.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> fits = {family: pc.fit(model, family, y) for family in ("mean_field", "full_rank")}
    >>> sorted(pc.compare(fits).trees)
    ['full_rank', 'mean_field']
    """
    known = dict(diagnoses or {})
    reference = _check(fits, reference, known)
    for name, one in fits.items():
        if isinstance(one, Fit) and name not in known:
            known[name] = diagnose(one, seed=seed, progress=progress)
    drawn: dict[str, Any] = {"num_draws": num_draws, "seed": seed, "coords": coords, "dims": dims}
    trees = {
        name: to_datatree(one, reweight=known[name].verdict == REWEIGHT, **drawn)
        if isinstance(one, Fit)
        else one
        for name, one in fits.items()
    }
    table = _table(fits, known)
    if reference is not None:
        table = table.join(_table_of_errors(trees, reference))
    table = table.sort_values("below_best", na_position="last")
    return Comparison(table, trees, {name: known[name] for name in fits if name in known})


def _check(
    fits: Mapping[str, Fit | xr.DataTree],
    reference: str | None,
    diagnoses: Mapping[str, Diagnosis],
) -> str | None:
    """Refuse what cannot be compared; return the reference, by default the first tree."""
    if not fits:
        raise ValueError("fits: got none, expected a mapping of names to fits")
    if reference is not None and reference not in fits:
        raise ValueError(f"reference: got {reference!r}, expected one of {', '.join(fits)}")
    for name, one in fits.items():
        if not isinstance(one, Fit | xr.DataTree):
            raise ValueError(
                f"fits: got a {type(one).__name__} for {name!r}, expected a Fit or a DataTree"
            )
    for name, found in diagnoses.items():
        if not isinstance(fits.get(name), Fit):
            named = ", ".join(key for key, fit in fits.items() if isinstance(fit, Fit))
            raise ValueError(
                f"diagnoses: got {name!r}, expected names of fits: {named or 'there are none'}"
            )
        if not isinstance(found, Diagnosis):
            raise ValueError(
                f"diagnoses: got a {type(found).__name__} for {name!r}, expected what pc.diagnose"
                " returns"
            )
    sampled = [name for name, one in fits.items() if isinstance(one, xr.DataTree)]
    return reference or (sampled[0] if sampled else None)


def _table(
    fits: Mapping[str, Fit | xr.DataTree], diagnoses: Mapping[str, Diagnosis]
) -> pd.DataFrame:
    rows = {name: _row(one, diagnoses.get(name)) for name, one in fits.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    # A point's ELBO is the height of a density: it is no bound, and not comparable.
    is_point = [name in diagnoses and diagnoses[name].is_point for name in rows]
    bounds = table["elbo"].mask(np.array(is_point))
    table.insert(2, "below_best", bounds.max() - bounds)
    return table


def _row(one: Fit | xr.DataTree, found: Diagnosis | None) -> dict[str, Any]:
    """Give the row of a fit or tree in the table."""
    if not isinstance(one, Fit) or found is None:
        return {"family": "NUTS", "elbo": np.nan, "khat": np.nan, "verdict": ""}
    return {
        "family": one.family,
        "elbo": found.elbo.value,
        "khat": found.khats.get("joint", found.khat),
        "verdict": found.verdict,
        "seconds": one.seconds,
    }


def _table_of_errors(trees: Mapping[str, xr.DataTree], reference: str) -> pd.DataFrame:
    known = trees[reference]
    errors = {name: _errors(tree, known) for name, tree in trees.items() if name != reference}
    columns = ["mean_error", "sd_error", "where"]
    return pd.DataFrame.from_dict(errors, orient="index", columns=columns)


def _errors(tree: xr.DataTree, reference: xr.DataTree) -> tuple[float, float, str]:
    """Largest error of means, in the reference's sds, and of sds, relative, and the variable."""
    found = []
    own = _variables(tree)
    for name, known in _variables(reference).items():
        if name not in own:
            continue
        ours, theirs = _as_matrix(own[name]), _as_matrix(known)
        sd = theirs.std(0)
        varies = sd > 0
        mean_error = np.abs(ours.mean(0) - theirs.mean(0))[varies] / sd[varies]
        sd_error = np.abs(ours.std(0)[varies] / sd[varies] - 1)
        found.append((float(mean_error.max(initial=0)), float(sd_error.max(initial=0)), name))
    if not found:
        return float("nan"), float("nan"), ""
    where = max(found, key=lambda one: max(one[:2]))[2]
    return max(one[0] for one in found), max(one[1] for one in found), where


def _variables(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    return {str(n): v for n, v in tree["posterior"].to_dataset().data_vars.items()}


def _as_matrix(value: xr.DataArray) -> np.ndarray:
    sample = [dim for dim in ("chain", "draw", "sample") if dim in value.dims]
    stacked = value.stack(__s=sample).transpose("__s", ...)
    return np.asarray(stacked.to_numpy().reshape(stacked.sizes["__s"], -1))


def _thinned(tree: xr.DataTree, num_draws: int) -> xr.DataTree:
    """Keep as many draws as the shortest has, without chains, as plots of several trees need."""
    posterior = tree["posterior"].to_dataset()
    if "sample" not in posterior.dims:
        posterior = posterior.stack(sample=("chain", "draw"))
    taken = np.linspace(0, posterior.sizes["sample"] - 1, num_draws).astype(int)
    posterior = posterior.isel(sample=taken).drop_vars(["sample", "chain", "draw"], errors="ignore")
    return xr.DataTree.from_dict({"posterior": posterior})
