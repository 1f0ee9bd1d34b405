"""The report: one HTML page with its figures inside, no reference to anything outside."""

import base64
import io
import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from pyro_cookbook.fits.keeping.files import write_bytes
from pyro_cookbook.fits.result import Estimate
from pyro_cookbook.posterior.datatree import to_datatree
from pyro_cookbook.publish.figures import Picture, plot_bounds, plot_predictive
from pyro_cookbook.publish.outcome import Outcome
from pyro_cookbook.publish.topic_figures import PICTURES
from pyro_cookbook.verdict.findings import VERDICTS

_PACKAGES = ("torch", "pyro-ppl", "arviz", "numpy")


def write_report(outcomes: Sequence[Outcome], path: Path, *, command: str, seed: int) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    outcomes : sequence of Outcome
        In the order of the catalogue.
    path : Path
        Of the HTML file; replaced whole.
    command : str
        The command that made it.
    seed : int

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    sections = []
    for recipe, group in groupby(outcomes, key=lambda outcome: outcome.recipe):
        members = list(group)
        sections.append(
            {
                "recipe": recipe,
                "table": members[0].table,
                "rows": [row(outcome) for outcome in members],
                "figures": [(alt, encode(figure)) for alt, figure in draw_figures(members)],
            }
        )
    write_bytes(render("report.html.j2", sections=sections, command=command, seed=seed), path)
    return path


def render(template: str, **values: Any) -> bytes:
    """Fill a template in; text of a reader's file is escaped."""
    environment = Environment(
        loader=PackageLoader("pyro_cookbook.publish"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    versions = {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    return environment.get_template(template).render(versions=versions, **values).encode()


def draw_figures(outcomes: Sequence[Outcome]) -> list[Picture]:
    """Draw the figures of one recipe: alternative text and figure."""
    outcomes = [_without_formulas(outcome) for outcome in outcomes]
    first = outcomes[0]
    drawn = [
        (
            f"Bound against steps for every guide of {first.recipe.title}",
            plot_bounds(
                {o.guide: _bound(o) for o in outcomes},
                first.recipe.title.rsplit(":", maxsplit=1)[-1].strip(),
                held_out=first.num_streamed is not None,
            ),
        )
    ]
    draw = PICTURES.get(first.recipe.name)
    if draw is not None:
        drawn.append(draw({o.guide: _without_chain(o.tree) for o in outcomes}, first.table))
    spread = [o for o in outcomes if np.isfinite(o.diagnosis.evidence.value)]  # no points
    best = min(
        spread or [first], key=lambda o: (VERDICTS.index(o.diagnosis.verdict), -o.fit.elbo.value)
    )
    chains = to_datatree(
        best.fit,
        num_draws=200,
        coords=best.coords,
        dims=best.dims,
        sample_dims=("chain", "draw"),
    )
    if "observed_data" in chains.children:
        table = best.table
        units = (table.loc.numpy(), table.scale.numpy()) if _is_standardised(best) else None
        drawn.append(plot_predictive(chains, best.guide, units))
    return drawn


def _is_standardised(outcome: Outcome) -> bool:
    """Whether what was fitted are the table's columns in sds: some recipes decide by the rows."""
    given, v = outcome.fit.args[0], outcome.table.v
    if outcome.recipe.standardised or not isinstance(given, Tensor) or given.shape != v.shape:
        return outcome.recipe.standardised
    return torch.allclose(given, v.to(given), atol=1e-4)


def _bound(outcome: Outcome) -> tuple[npt.NDArray[np.float64], float, float | None]:
    """Give losses, final bound and evidence; where others are judged than fitted, a row."""
    fit, evidence = outcome.fit, outcome.log_evidence
    losses = np.asarray(fit.losses)
    if outcome.num_streamed is None:
        return losses, fit.elbo.value, evidence
    num = len(outcome.table.v)
    evidence = None if evidence is None else evidence / num
    return losses / outcome.num_streamed, fit.elbo.value / num, evidence


def _without_formulas(outcome: Outcome) -> Outcome:
    """Escape the $ in names from a file: matplotlib would set what follows as a formula."""

    def plain(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name.replace("$", r"\$") for name in names)

    table = outcome.table
    shown = replace(
        table, columns=plain(table.columns), labels=plain(table.labels),
        name=table.name.replace("$", r"\$"),
    )  # fmt: skip
    coords = {
        name: list(plain(values)) if all(isinstance(one, str) for one in values) else values
        for name, values in outcome.coords.items()
    }
    there = {name: values for name, values in coords.items() if name in outcome.tree.coords}
    trees = {
        path.path: path.to_dataset(inherit=False).assign_coords(
            {name: values for name, values in coords.items() if name in path.coords}
        )
        for path in outcome.tree.subtree
    }
    tree = xr.DataTree.from_dict(trees) if there or coords else outcome.tree
    return replace(outcome, table=shown, coords=coords, tree=tree)


def _without_chain(tree: xr.DataTree) -> xr.DataTree:
    """Give posterior and θ of a tree whose draws are one chain, which is left out."""
    parts = {"posterior": tree["posterior"].to_dataset().isel(chain=0, drop=True)}
    if "theta" in tree.children:
        parts["theta"] = tree["theta"].to_dataset()
    return xr.DataTree.from_dict(parts)


def row(outcome: Outcome) -> dict[str, str | tuple[str, ...]]:
    """Write an outcome as the cells of a table, as text."""
    diagnosis = outcome.diagnosis
    evidence = outcome.log_evidence
    has_khat = diagnosis.khat == diagnosis.khat  # NaN for a point
    gap = "–"
    if diagnosis.gap is not None and evidence is not None:
        gap = gap_cell(diagnosis.gap, evidence)
    return {
        "topic": outcome.recipe.topic,
        "model": outcome.recipe.model,
        "recipe": outcome.recipe.name,
        "guide": outcome.guide,
        "summary": outcome.recipe.guides[outcome.guide].summary,
        "elbo": str(diagnosis.elbo),
        "evidence": "–" if evidence is None else f"{evidence:.2f}",
        "gap": gap,
        "khat": f"{diagnosis.khat:.2f}" if has_khat else "–",
        "verdict": diagnosis.verdict,
        "seconds": f"{outcome.seconds:.1f}",
        "reasons": diagnosis.reasons,
        "advice": diagnosis.advice,
        "stopped": outcome.fit.reason,
    }


def gap_cell(gap: Estimate, evidence: float) -> str:
    """Write a gap to the evidence as it was estimated: below 0 by chance, or by a fault.

    Parameters
    ----------
    gap : Estimate
        log p(v) − ELBO, in nats.
    evidence : float
        log p(v): the difference of two numbers of its size is rounded to 1e-9 of it.

    Returns
    -------
    str
        With "!" where the bound is above the evidence by more than four standard errors.
    """
    text = f"{gap.value:.2f}".replace("-0.00", "0.00")
    if f"{gap.se:.2f}" != "0.00":
        text += f" ± {gap.se:.2f}"
    return f"{text} !" if gap.value < -4 * gap.se - 1e-9 * abs(evidence) else text


def encode(figure: Figure) -> str:
    """Write a figure as the base64 text of a PNG; ArviZ's are pyplot's, which keeps them open."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()
