"""Figures of the report that every recipe has, readable on their own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
_SIZE = (8.0, 4.5)

Array = npt.NDArray[np.float64]
Bounds = Mapping[str, tuple[Array, float, float | None]]
Picture = tuple[str, Figure]


def plot_bounds(bounds: Bounds, title: str, *, held_out: bool = False) -> Figure:
    """Draw the bound against steps, and the exact log evidence where it is known.

    Parameters
    ----------
    bounds : mapping
        Guide → (losses, final ELBO, log evidence or None).
    title : str
    held_out : bool, default False
        Whether the final ELBO is of other rows than the losses; then all are a row's.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    finals = [final for _, final, _ in bounds.values()]
    evidences = sorted({round(e, 6) for _, _, e in bounds.values() if e is not None})
    low, high = min(finals + evidences), max(finals + evidences)
    for index, (guide, (losses, final, _)) in enumerate(bounds.items()):
        colour = COLOURS[index % len(COLOURS)]
        if not len(losses):  # nothing was climbed: the guide is what another one's θ makes it
            axes.axhline(final, color=colour, linestyle=":", lw=2, label=f"{guide}: {final:.1f}")
            continue
        elbo = -np.asarray(losses)
        size = max(1, len(elbo) // 200)
        means = elbo[: len(elbo) // size * size].reshape(-1, size).mean(1)
        steps = np.arange(1, len(means) + 1) * size
        axes.plot(
            steps,
            means,
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            markevery=max(1, len(means) // 8),
            markersize=5,
            label=f"{guide}: {final:.2f}" if held_out else f"{guide}: {final:.1f}",
        )
        if held_out:  # the rows that are fitted end elsewhere
            axes.axhline(final, color=colour, linestyle=":", lw=2)
            end = float(means[-(-9 * len(means) // 10) - 1 :].mean())
            low, high = min(low, end), max(high, end)
    for evidence in evidences:
        axes.axhline(evidence, color="black", linestyle="--", linewidth=1)
        axes.annotate(
            f"exact log evidence {evidence:.1f}",
            (1, evidence),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
    spread = max(high - low, 1.0)
    axes.set_ylim(low - 0.9 * spread, high + 0.25 * spread)
    axes.set_xscale("log")
    axes.set_xlabel("step (SVI) or iteration (closed form)")
    axes.set_ylabel("ELBO a row (nats)" if held_out else "ELBO (nats)")
    axes.set_title(f"{title[:1].upper()}{title[1:]}: the bound as the guides are fitted")
    told = "guide: final ELBO a row, rows held out (dotted)" if held_out else "guide: final ELBO"
    axes.legend(title=told, loc="lower right")
    return figure


def plot_predictive(
    tree: xr.DataTree,
    guide: str,
    units: tuple[Array, Array] | None = None,
    called: str | None = None,
) -> Picture:
    """Draw ArviZ's posterior predictive check: a panel a feature, or one for a single column.

    Parameters
    ----------
    tree : xarray.DataTree
        With sample dimensions (chain, draw).
    guide : str
    units : (array, array), optional
        Mean and sd of each feature in its own units, in which it is drawn.
    called : str, optional
        What to call what is observed. Default: as its site.
    """
    import arviz as az

    (name,) = tree.observed_data.data_vars
    called = called or str(name)
    if units is not None and "feature" in tree.observed_data[name].dims:
        tree = _in_units(tree, name, *units)
    observed = tree.observed_data[name]
    if np.isin(observed, (0, 1)).all():
        plot: Any = az.plot_ppc_pava(_in_one_row(tree, name), figure_kwargs={"figsize": (5.0, 4.5)})
        figure = plot.viz["figure"].item()
        figure.suptitle(f"Predicted probability of {called} = 1 against its share, {guide}")
        return f"Calibration of the posterior predictive probabilities, guide {guide}", figure
    # Of pictures with many pixels, sixteen of them, evenly spaced.
    size = observed.sizes.get("feature", 0)
    few = np.unique(np.linspace(0, size - 1, min(size, 16)).round().astype(int))
    panels: dict[str, Any] = {"cols": ["feature"], "col_wrap": 4} if size else {}
    height = 0.5 + 2.2 * -(-len(few) // 4) if size else 4.0
    groups = {
        group: tree[group].to_dataset()[[name]].isel(feature=few) if size else tree[group]
        for group in ("posterior_predictive", "observed_data")
    }
    plot = az.plot_ppc_dist(
        xr.DataTree.from_dict(groups),
        var_names=[name],
        num_samples=25,
        group="posterior_predictive",
        figure_kwargs={"figsize": (9.0 if size else 7.0, height), "layout": "constrained"},
        **panels,
    )
    figure = plot.viz["figure"].item()
    of = "each feature" if size else called
    figure.suptitle(
        f"Distribution of {of}: the data (black), draws from the fitted model (blue), {guide}"
    )
    return f"Posterior predictive check of {of}, guide {guide}", figure


def _in_units(tree: xr.DataTree, name: Any, loc: Array, scale: Array) -> xr.DataTree:
    """Undo the standardisation of what is observed, and of what is predicted."""
    groups = {}
    for group in ("posterior_predictive", "observed_data"):
        value = tree[group][name]
        by_feature = {"feature": value.feature} if "feature" in value.coords else None
        shift, width = (xr.DataArray(x, by_feature, "feature") for x in (loc, scale))
        groups[group] = (value * width + shift).rename(name).to_dataset()
    return xr.DataTree.from_dict(groups)


def _in_one_row(tree: xr.DataTree, name: Any) -> xr.DataTree:
    """Lay the entries of what is observed in one dimension: ArviZ's calibration plot takes no more.

    Only the observed site and its draws are kept.
    """
    groups = {}
    for group in ("posterior_predictive", "observed_data"):
        value = tree[group][name]
        entries = [dim for dim in value.dims if dim not in ("chain", "draw")]
        stacked = value.stack(entry=entries, create_index=False)
        groups[group] = stacked.drop_vars(entries, errors="ignore").to_dataset()
    return xr.DataTree.from_dict(groups)


def plot_estimates(estimates: pd.DataFrame, most: int = 40) -> Picture:
    """Draw mean and interval of each quantity, the first on top.

    Parameters
    ----------
    estimates : pandas.DataFrame
        With a column of means and two of an interval's ends, as `arviz.summary` has them.
    most : int
        Quantities that are drawn.
    """
    shown = estimates.head(most)
    low, high = (shown.filter(regex=end).iloc[:, 0] for end in ("_lb$|lower", "_ub$|upper"))
    figure = Figure(figsize=(_SIZE[0], 1.2 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    heights = np.arange(len(shown))[::-1]
    axes.hlines(heights, low, high, color=COLOURS[0], lw=2)
    axes.plot(shown["mean"], heights, "o", color=COLOURS[0], ms=5)
    axes.axvline(0.0, color="0.6", lw=0.8, zorder=0)
    axes.set_yticks(heights, [str(name) for name in shown.index])
    axes.set_ylim(-0.8, len(shown) - 0.2)
    axes.set_xlabel("mean and interval of 89%")
    more = "" if len(shown) == len(estimates) else f", the first {len(shown)} of {len(estimates)}"
    axes.set_title(f"Posterior{more}")
    return f"Posterior means and intervals of {len(shown)} quantities", figure
