"""Figures of the report, readable on their own."""

from collections.abc import Callable, Mapping
from typing import Any

import arviz as az
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from pyro_cookbook.data import Table

# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_SIZE = (8.0, 4.5)

Array = npt.NDArray[np.float64]
Bounds = Mapping[str, tuple[Array, float, float | None]]
Picture = tuple[str, Figure]


def plot_bounds(bounds: Bounds, title: str) -> Figure:
    """Draw the bound against steps, and the exact log evidence where it is known.

    Parameters
    ----------
    bounds : mapping
        Guide → (losses, final ELBO, log evidence or None).
    title : str
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
            marker=_MARKERS[index % len(_MARKERS)],
            markevery=max(1, len(means) // 8),
            markersize=5,
            label=f"{guide}: {final:.1f}",
        )
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
    axes.set_ylabel("ELBO (nats)")
    axes.set_title(f"{title[:1].upper()}{title[1:]}: the bound as the guides are fitted")
    axes.legend(title="guide: final ELBO", loc="lower right")
    return figure


def plot_predictive(tree: xr.DataTree, guide: str) -> Picture:
    """Draw ArviZ's posterior predictive check, one panel a feature.

    Parameters
    ----------
    tree : xarray.DataTree
        With sample dimensions (chain, draw).
    guide : str
    """
    (name,) = tree.observed_data.data_vars
    num_rows = -(-tree.observed_data.sizes["feature"] // 4)
    plot = az.plot_ppc_dist(
        tree,
        var_names=[name],
        cols=["feature"],
        col_wrap=4,
        num_samples=40,
        group="posterior_predictive",
        figure_kwargs={"figsize": (9.0, 0.5 + 2.2 * num_rows), "layout": "constrained"},
    )
    figure = plot.viz["figure"].item()
    figure.suptitle(
        f"Density of each feature: the data (black), draws from the fitted model (blue), {guide}"
    )
    return f"Posterior predictive check for every feature, guide {guide}", figure


def plot_factors(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw the rows in the plane of their two most spread factors, and one row's posterior."""
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    tree = trees["full_rank"]
    mean = tree.posterior.h.mean("sample").to_numpy()
    i, j = np.argsort(-mean.std(0))[:2]
    # Factors are known up to a rotation: the axes along which the rows spread most show them best.
    centred = mean - mean.mean(0)
    spread = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    labels = np.asarray(table.labels or [table.name] * len(mean))
    for index, label in enumerate(sorted(set(labels))):
        rows = labels == label
        left.scatter(
            spread[rows, 0], spread[rows, 1], s=18, color=COLOURS[index], marker=_MARKERS[index],
            label=label,
        )  # fmt: skip
    left.set_xlabel("first principal axis of the factors")
    left.set_ylabel("second principal axis")
    left.set_title("Posterior means of the rows\n(the classes were never shown)")
    left.legend(title="class")
    for index, (guide, one) in enumerate(trees.items()):
        draws = one.posterior.h.isel(row=0).to_numpy()[:, [i, j]]
        colour = COLOURS[index]
        if draws.std() < 1e-9 or np.allclose(draws, draws[0]):
            right.plot(
                *draws[0], "x", color=colour, markersize=10, mew=2, label=f"{guide} (a point)"
            )
        else:
            _ellipse(right, draws.mean(0), np.cov(draws.T), colour, guide)
    right.autoscale_view()
    right.margins(0.15)
    right.set_title("Posterior of row 0 under each guide\n(ellipses hold 90%)")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    right.set_xlabel(f"factor {i}")
    right.set_ylabel(f"factor {j}")
    return "Posterior means of all rows; posterior of one row under each guide", figure


def plot_components(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw the fitted components over the third and fourth column, or the last, for two guides."""
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    v = table.v.numpy()
    i, j = min(2, v.shape[1] - 1), min(3, v.shape[1] - 1)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, guide in zip(panels, ("exact", "mean_field"), strict=True):
        tree = trees[guide]
        h = tree.posterior.h.to_numpy()
        share = np.stack([(h == k).mean(0) for k in range(h.max() + 1)], axis=1)
        top = share.argmax(1)
        used = [k for k in range(share.shape[1]) if (top == k).any()]
        for k in used:
            rows = top == k
            axes.scatter(
                v[rows, i], v[rows, j], s=12 + 30 * (1 - share[rows, k]) * 2, color=COLOURS[k % 6],
                marker=_MARKERS[k % 6], alpha=0.8, label=f"component {k} ({rows.sum()} rows)",
            )  # fmt: skip
        gaussians = _gaussians(tree)
        for k in used:
            loc, cov = gaussians[k]
            _ellipse(axes, loc[[i, j]], cov[np.ix_([i, j], [i, j])], COLOURS[k % 6], None)
        empty = len(gaussians) - len(used)
        axes.set_title(
            f"{guide}: {len(used)} components in use, {empty} empty\n(larger marks: less certain)"
        )
        axes.set_xlabel(f"{table.columns[i]} (standardised)")
        axes.legend(fontsize="small")
    panels[0].set_ylabel(f"{table.columns[j]} (standardised)")
    return "Fitted components in two columns, exact E step beside variational Bayes", figure


def _gaussians(tree: xr.DataTree) -> list[tuple[Array, Array]]:
    """Means and covariances of the components: θ, or the posterior mean of those in use."""
    if "theta" in tree.children:
        tril = tree.theta.scale_tril.to_numpy()
        return list(zip(tree.theta.loc.to_numpy(), tril @ tril.swapaxes(1, 2), strict=True))
    loc = tree.posterior["loc"].mean("sample").to_numpy()
    precision = tree.posterior.precision.mean("sample").to_numpy()
    return list(zip(loc, np.linalg.inv(precision), strict=True))


def _ellipse(axes: Any, loc: Array, cov: Array, colour: str, label: str | None) -> None:
    """Add the region that holds 90% of a normal in the plane."""
    values, vectors = np.linalg.eigh(cov)
    width, height = 2 * np.sqrt(4.605 * values.clip(min=0))  # χ² with 2 degrees of freedom
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    axes.add_patch(
        Ellipse(tuple(loc), width, height, angle=angle, fill=False, color=colour, lw=2, label=label)
    )


PICTURES: dict[str, Callable[[Mapping[str, xr.DataTree], Table], Picture]] = {
    "01_inference_as_optimisation": plot_factors,
    "02_expectation_maximisation": plot_components,
}
