"""Figures of the report that belong to one topic."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from pyro_cookbook.data import Table
from pyro_cookbook.publish.figures import COLOURS, MARKERS, Array, Picture


def plot_factors(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw the rows in the plane of their two most spread factors, and one row's posterior."""
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    tree = trees.get("full_rank", next(iter(trees.values())))
    mean = tree.posterior.h.mean("draw").to_numpy()
    # Factors are known up to a rotation: the axes along which the rows spread most show them best.
    centred = mean - mean.mean(0)
    spread = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    _scatter_by_class(left, spread, table)
    left.set_xlabel("first principal axis of the factors")
    left.set_ylabel("second principal axis" if spread.shape[1] > 1 else "row")
    told = "\n(the classes were never shown)" if table.labels else ""
    left.set_title(f"Posterior means of the rows{told}")
    if table.labels:
        left.legend(title="class", fontsize="small")
    if mean.shape[1] == 1:
        _draw_one_factor(right, trees)
    else:
        _draw_two_factors(right, trees, np.argsort(-mean.std(0))[:2])
    return "Posterior means of all rows; posterior of one row under each guide", figure


def _draw_two_factors(axes: Any, trees: Mapping[str, xr.DataTree], chosen: Array) -> None:
    for index, (guide, one) in enumerate(trees.items()):
        draws = one.posterior.h.isel(row=0).to_numpy()[:, chosen]
        colour = COLOURS[index % len(COLOURS)]
        if draws.std() < 1e-9 or np.allclose(draws, draws[0]):
            axes.plot(
                *draws[0], "x", color=colour, markersize=10, mew=2, label=f"{guide} (a point)"
            )
        else:
            _ellipse(axes, draws.mean(0), np.cov(draws.T), colour, guide)
    axes.autoscale_view()
    axes.margins(0.15)
    axes.set_title("Posterior of row 0 under each guide\n(ellipses hold 90%)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    axes.set_xlabel(f"factor {chosen[0]}")
    axes.set_ylabel(f"factor {chosen[1]}")


def _draw_one_factor(axes: Any, trees: Mapping[str, xr.DataTree]) -> None:
    for index, (guide, one) in enumerate(trees.items()):
        draws = one.posterior.h.isel(row=0).to_numpy()[:, 0]
        colour = COLOURS[index % len(COLOURS)]
        if np.allclose(draws, draws[0]):
            axes.axvline(draws[0], color=colour, lw=2, label=f"{guide} (a point)")
        else:
            heights, edges = np.histogram(draws, bins=40, density=True)
            axes.stairs(heights, edges, color=colour, lw=1.5, label=guide)
    axes.set_title("Posterior of row 0 under each guide")
    axes.set_xlabel("factor 0")
    axes.set_ylabel("density")
    axes.legend(fontsize="small")


def _scatter_by_class(axes: Any, points: Array, table: Table, size: float = 18) -> None:
    """Draw points, shape (n, K), in their first two coordinates, or the first against the row."""
    second = points[:, 1] if points.shape[1] > 1 else np.arange(len(points))
    labels = np.asarray(table.labels or [table.name] * len(points))
    for index, label in enumerate(sorted(set(labels))):
        rows = labels == label
        axes.scatter(
            points[rows, 0], second[rows], s=size, color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[(index + index // len(COLOURS)) % len(MARKERS)], alpha=0.7,
            label=label,
        )  # fmt: skip


def plot_components(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw the fitted components over the third and fourth column, or the last two."""
    compared = {guide: tree for guide, tree in trees.items() if guide in {"exact", "mean_field"}}
    compared = compared or dict(trees)
    figure = Figure(figsize=(max(4.5 * len(compared), 6.5), 4.5), layout="constrained")
    v, loc, scale = table.raw.numpy(), table.loc.numpy(), table.scale.numpy()
    last = v.shape[1] - 1
    i, j = (2, 3) if last >= 3 else (max(last - 1, 0), last)
    panels = figure.subplots(1, len(compared), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (guide, tree) in zip(panels, compared.items(), strict=True):
        h = tree.posterior.h.to_numpy()
        share = np.stack([(h == k).mean(0) for k in range(h.max() + 1)], axis=1)
        top = share.argmax(1)
        used = [k for k in range(share.shape[1]) if (top == k).any()]
        gaussians = _gaussians(tree)
        for k in used:
            rows, colour = top == k, COLOURS[k % 6]
            across = v[rows, i]
            up = np.flatnonzero(rows) if i == j else v[rows, j]
            axes.scatter(
                across, up, s=12 + 30 * (1 - share[rows, k]) * 2, color=colour,
                marker=MARKERS[k % 6], alpha=0.8, label=f"component {k} ({rows.sum()} rows)",
            )  # fmt: skip
            mean, cov = gaussians[k][0] * scale + loc, gaussians[k][1] * np.outer(scale, scale)
            if i == j:  # one column: the middle 90% of each component
                half = 1.645 * float(np.sqrt(cov[0, 0]))
                axes.axvspan(mean[0] - half, mean[0] + half, color=colour, alpha=0.15)
            else:
                _ellipse(axes, mean[[i, j]], cov[np.ix_([i, j], [i, j])], colour, None)
        empty = len(gaussians) - len(used)
        axes.set_title(
            f"{guide}: {len(used)} components in use, {empty} empty\n(larger marks: less certain)"
        )
        axes.set_xlabel(table.columns[i])
        axes.legend(fontsize="small")
    panels[0].set_ylabel("row" if i == j else table.columns[j])
    return f"Fitted components in two columns: {' beside '.join(compared)}", figure


def _gaussians(tree: xr.DataTree) -> list[tuple[Array, Array]]:
    """Means and covariances of the components: θ, or the posterior mean of those in use."""
    if "theta" in tree.children:
        tril = tree.theta.scale_tril.to_numpy()
        return list(zip(tree.theta.loc.to_numpy(), tril @ tril.swapaxes(1, 2), strict=True))
    loc = tree.posterior["loc"].mean("draw").to_numpy()
    precision = tree.posterior.precision.mean("draw").to_numpy()
    return list(zip(loc, np.linalg.inv(precision), strict=True))


def _ellipse(axes: Any, loc: Array, cov: Array, colour: str, label: str | None) -> None:
    """Add the region that holds 90% of a normal in the plane."""
    values, vectors = np.linalg.eigh(cov)
    width, height = 2 * np.sqrt(4.605 * values.clip(min=0))  # χ² with 2 degrees of freedom
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    axes.add_patch(
        Ellipse(tuple(loc), width, height, angle=angle, fill=False, color=colour, lw=2, label=label)
    )


def plot_dictionary(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw the atoms as pictures, and the code of the first row under each guide."""
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    atoms = next(iter(trees.values())).theta.W.to_numpy()
    if round(len(atoms) ** 0.5) ** 2 == len(atoms) > 1:
        left.imshow(_mosaic(atoms), cmap="gray")
        left.set_axis_off()
        left.set_title(f"The dictionary: {atoms.shape[1]} atoms, each scaled to its range")
    else:
        _draw_matrix(figure, left, atoms, table)
    for index, (guide, tree) in enumerate(trees.items()):
        code = tree.posterior.h.isel(row=0).mean("draw").to_numpy()
        right.plot(
            np.arange(len(code)) + 0.15 * index, code, MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            ms=5, alpha=0.8, label=guide,
        )  # fmt: skip
    right.axhline(0, color="black", lw=0.8)
    right.set_xlabel("atom")
    right.set_ylabel("posterior mean of its code, row 0")
    right.set_title(f"Which atoms explain row 0 of {table.name}")
    right.legend(title="guide")
    return "The dictionary as pictures; the code of one row under each guide", figure


def _draw_matrix(figure: Figure, axes: Any, atoms: Array, table: Table) -> None:
    """Draw atoms that are no pictures as columns of a matrix."""
    most = np.abs(atoms).max()
    image = axes.imshow(atoms, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    figure.colorbar(image, ax=axes, shrink=0.8, label="entry")
    axes.set_title(f"The dictionary: {atoms.shape[1]} atoms")
    axes.set_xlabel("atom")
    if len(atoms) <= 25 and len(table.columns) == len(atoms):
        axes.set_yticks(range(len(atoms)), table.columns, fontsize="small")
    else:
        axes.set_ylabel("column")


def _mosaic(atoms: Array) -> Array:
    """Lay square atoms, the columns of `atoms`, out on a grid with a light frame between."""
    side, count = round(atoms.shape[0] ** 0.5), atoms.shape[1]
    across = int(np.ceil(count**0.5))
    down = -(-count // across)
    canvas = np.ones((down * (side + 1) + 1, across * (side + 1) + 1))
    for k, atom in enumerate(atoms.T):
        low, high = atom.min(), atom.max()
        row, column = divmod(k, across)
        top, start = row * (side + 1) + 1, column * (side + 1) + 1
        square = (atom.reshape(side, side) - low) / max(high - low, 1e-12)
        canvas[top : top + side, start : start + side] = square
    return canvas


def plot_intervals(
    trees: Mapping[str, xr.DataTree], table: Table, *, names: Sequence[str], title: str
) -> Picture:
    """Draw ArviZ's forest plot of some variables under every guide that has them."""
    there = next(iter(trees.values())).posterior
    names = [name for name in names if name in there]  # a regression may have no intercept
    import arviz as az

    shown = {
        guide: xr.DataTree.from_dict({"posterior": tree.posterior.to_dataset()[names]})
        for guide, tree in trees.items()
    }
    rows = sum(int(np.prod(v.shape)) // v.sizes["draw"]
               for v in next(iter(shown.values())).posterior.data_vars.values())  # fmt: skip
    several = len(shown) > 1  # a plot of one tree has no dimension for models
    colours: Any = {"color": list(COLOURS[: len(shown)])} if several else {}
    plot: Any = az.plot_forest(
        shown if several else next(iter(shown.values())),
        sample_dims="draw",
        **colours,
        figure_kwargs={"figsize": (9.0, 1.5 + 0.16 * rows * len(shown)), "layout": "constrained"},
    )
    if several:
        plot.add_legend("model", title="guide")
    figure = plot.viz["figure"].item()
    figure.suptitle(f"{title} ({table.name}; 50 and 89% intervals)")
    return f"{title}, under every guide", figure


def plot_correlations(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw the exact posterior correlations of the factors under each learned θ."""
    figure = Figure(figsize=(4.5 * len(trees), 4.2), layout="constrained")
    image: Any = None
    panels = figure.subplots(1, len(trees), squeeze=False)[0]
    for axes, (guide, tree) in zip(panels, trees.items(), strict=True):
        W, scale = tree.theta.W.to_numpy(), tree.theta.scale.to_numpy()
        scaled = W / np.broadcast_to(scale, len(W))[:, None]
        covariance = np.linalg.inv(np.eye(W.shape[1]) + scaled.T @ scaled)
        sd = np.sqrt(np.diag(covariance))
        correlation = covariance / sd / sd[:, None]
        image = axes.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r")
        off = np.abs(correlation - np.eye(len(sd))).max()
        axes.set_title(f"θ learned under {guide}\nlargest correlation {off:.2f}")
        axes.set_xlabel("factor")
        axes.set_ylabel("factor")
        axes.set_xticks(range(len(sd)))
        axes.set_yticks(range(len(sd)))
    figure.colorbar(image, ax=figure.axes, label="exact posterior correlation", shrink=0.8)
    return f"Exact posterior correlations of the factors of {table.name} under each θ", figure


def plot_densities(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw the density that each guide found, beside the Gaussian of the same mean and variance."""
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (guide, tree) in enumerate(trees.items()):
        draws = tree.posterior["h"].isel(feature=0).to_numpy().ravel()
        heights, edges = np.histogram(draws, bins=40, density=True)
        axes.stairs(heights, edges, color=COLOURS[index], lw=1.5, label=f"{guide}, draws")
    loc, scale = draws.mean(), draws.std()
    grid = np.linspace(loc - 4 * scale, loc + 4 * scale, 400)
    normal = np.exp(-(((grid - loc) / scale) ** 2) / 2) / (scale * np.sqrt(2 * np.pi))
    axes.plot(grid, normal, color="black", lw=1, label="the Gaussian of that mean and variance")
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    axes.set_title("Largest entropy under a fixed mean and variance")
    axes.legend()
    return f"Densities of largest entropy for {table.name}", figure


def plot_latent_map(trees: Mapping[str, xr.DataTree], table: Table) -> Picture:
    """Draw where each guide puts the rows: posterior means of the first two latents, by class."""
    figure = Figure(figsize=(4.6 * len(trees), 4.6), layout="constrained")
    panels = figure.subplots(1, len(trees), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (guide, tree) in zip(panels, trees.items(), strict=True):
        mean = tree.posterior.h.mean("draw").to_numpy()
        _scatter_by_class(axes, mean, table, size=9)
        axes.set_title(guide)
        axes.set_xlabel("first latent")
    panels[0].set_ylabel("second latent" if mean.shape[1] > 1 else "row")
    if table.labels:
        panels[-1].legend(title="class", bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False)
    return "Posterior means of all rows in the plane of two latents, under each guide", figure


PICTURES: dict[str, Callable[[Mapping[str, xr.DataTree], Table], Picture]] = {
    "01_inference_as_optimisation": plot_factors,
    "02_expectation_maximisation": plot_components,
    "03_sparse_coding": plot_dictionary,
    "04a_binary_sparse_coding": plot_dictionary,
    "04b_calculus_of_variations": plot_densities,
    "04c_explaining_away": plot_factors,
    "04c_logistic_regression": partial(
        plot_intervals,
        names=("intercept", "coefficient"),
        title="Coefficients in log odds per sd of their columns",
    ),
    "04c_eight_schools": partial(
        plot_intervals, names=("mu", "tau", "theta"), title="Effects in points of the test"
    ),
    "04d_learning_meets_inference": plot_correlations,
    "05a_wake_sleep": plot_dictionary,
    "05b_learned_codes": plot_dictionary,
    "05c_variational_autoencoder": plot_latent_map,
    "regression": partial(
        plot_intervals,
        names=("intercept", "coefficient", "group_scale"),
        title="Coefficients of standardised columns",
    ),
}
