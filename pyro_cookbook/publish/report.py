"""The report: one HTML page with its figures inside, no reference to anything outside."""

import base64
import io
import platform
from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from pyro_cookbook.publish.outcome import Outcome, draw_figures

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
    environment = Environment(
        loader=PackageLoader("pyro_cookbook.publish"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        sections=sections,
        command=command,
        seed=seed,
        python=platform.python_version(),
        versions={name: version(name) for name in _PACKAGES},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(page, "utf-8")
    return part.replace(path)


def row(outcome: Outcome) -> dict[str, str | tuple[str, ...]]:
    """Write an outcome as the cells of a table, as text."""
    diagnosis = outcome.diagnosis
    evidence = outcome.log_evidence
    has_khat = diagnosis.khat == diagnosis.khat  # NaN for a point
    return {
        "topic": outcome.recipe.topic,
        "recipe": outcome.recipe.name,
        "guide": outcome.guide,
        "summary": outcome.recipe.guides[outcome.guide].summary,
        "elbo": str(diagnosis.elbo),
        "evidence": "–" if evidence is None else f"{evidence:.2f}",
        "gap": "–" if diagnosis.gap is None else f"{max(diagnosis.gap.value, 0.0):.2f}",
        "khat": f"{diagnosis.khat:.2f}" if has_khat else "–",
        "verdict": diagnosis.verdict,
        "seconds": f"{outcome.seconds:.1f}",
        "reasons": diagnosis.reasons,
        "advice": diagnosis.advice,
        "stopped": outcome.fit.reason,
    }


def encode(figure: Figure) -> str:
    """Write a figure as the base64 text of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()
