"""Build the executed notebooks from their percent-format sources.

``python -m pyro_cookbook.publish.notebooks`` rebuilds every notebook; names rebuild some. A cell
that fails or warns stops its notebook, and the old file stays as it was.
"""

import os
import platform
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import jupytext
import matplotlib.font_manager  # noqa: F401  Fills the font cache here: a cell doing it would warn.
import nbformat
import typer
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from pyro_cookbook.publish.notebook_diff import differences

__all__ = ["NotebookError", "build", "differences", "sources", "write"]

MAX_BYTES = 2_000_000

_KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
_WIDGET = "application/vnd.jupyter.widget-view+json"
# The line of the cell that IPython's traceback points at, first among the frames.
_ARROW = re.compile(r"^-+> *\d+ *(.*)", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NotebookError(Exception):
    """A notebook that cannot be built; the message is one line."""


def sources(root: Path) -> list[Path]:
    """Find the percent-format sources of the notebooks.

    Parameters
    ----------
    root
        The repository.

    Returns
    -------
    list of Path
        Recipes, then solutions, each in order of name.
    """
    recipes = root / "recipes"
    found = [*sorted(recipes.glob("*.py")), *sorted((recipes / "solutions").glob("*.py"))]
    return [path for path in found if re.search(r"^# %%", path.read_text("utf-8"), re.MULTILINE)]


def build(source: Path) -> NotebookNode:
    """Execute a source from its first cell to its last.

    The kernel runs in the source's folder, on one thread and with fixed vector instructions, so
    that one machine's numbers are another's.

    Parameters
    ----------
    source
        A percent-format ``.py`` file.

    Returns
    -------
    NotebookNode
        The notebook with its outputs. Ids, counts and metadata are the same in every build.

    Raises
    ------
    NotebookError
        If a cell fails, takes over 300 s, or writes to stderr, as a warning does.
    """
    notebook: NotebookNode = jupytext.read(source, fmt="py:percent")
    begun: list[int] = []
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        # The kernel's own warnings, such as of an open local port, are not the recipe's.
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_start=lambda cell, cell_index: begun.append(cell_index),
    )
    try:
        client.execute(env=_environment())
    except CellExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
        raise _error(source, notebook, begun[-1], reason, error.traceback) from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise _error(source, notebook, begun[-1], str(error)) from error
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise _error(source, notebook, index, output.text)
    return _tidied(notebook)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all.

    Parameters
    ----------
    notebook
        What `build` returned.
    path
        The ``.ipynb`` file.

    Raises
    ------
    NotebookError
        If the file would be 2 MB or more.
    """
    text = nbformat.writes(notebook) + "\n"
    if (size := len(text.encode())) >= MAX_BYTES:
        raise NotebookError(f"{path.name}: {size / 1e6:.1f} MB, expected under 2 MB")
    unfinished = path.with_suffix(".ipynb.new")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)


def _environment() -> dict[str, str]:
    """Return this process's environment, with what could change an output fixed."""
    environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    environment |= {"PYTHONHASHSEED": "0", "TQDM_DISABLE": "1"}
    environment |= {f"{library}_NUM_THREADS": "1" for library in ("MKL", "OMP", "OPENBLAS")}
    if platform.machine() in {"x86_64", "AMD64"}:
        environment |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
    return environment


def _tidied(notebook: NotebookNode) -> NotebookNode:
    """Fix what differs from build to build, and drop widgets, which are dead in a file."""
    notebook.metadata = {"kernelspec": _KERNELSPEC, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if cell.cell_type == "code":
            cell.outputs = _joined(
                out for out in cell.outputs if _WIDGET not in out.get("data", {})
            )
    # xarray's HTML links its parts by random ids.
    ids: dict[str, str] = {}
    text = _UUID.sub(
        lambda found: ids.setdefault(found[0], f"html-{len(ids)}"), nbformat.writes(notebook)
    )
    tidied: NotebookNode = nbformat.reads(text, as_version=4)
    return tidied


def _joined(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Join consecutive prints: the kernel cuts them wherever its buffer was emptied."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _error(
    source: Path, notebook: NotebookNode, index: int, reason: str, traceback: str = ""
) -> NotebookError:
    arrow = _ARROW.search(_COLOUR.sub("", traceback))
    code = arrow[1] if arrow else notebook.cells[index].source.strip().partition("\n")[0]
    where = f"{source.parent.name}/{source.name}, cell {index + 1} ({code[:60].strip()})"
    return NotebookError(f"{where}: {reason.strip().partition('\n')[0]}")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Such as 07_your_model.")] = None,
    root: Annotated[Path, typer.Option(help="The repository.")] = Path(__file__).parents[2],
) -> None:
    """Rebuild the executed notebooks from their sources."""
    known = {
        path.relative_to(root / "recipes").with_suffix("").as_posix(): path
        for path in sources(root)
    }
    unknown = sorted(set(names or ()) - set(known))
    if unknown or not known:
        typer.echo(f"no such recipe: {', '.join(unknown)}; expected: {', '.join(known)}", err=True)
        raise typer.Exit(2)
    failures = []
    for name in (progress := tqdm(names or known, unit="notebook")):
        progress.set_description(name)
        start = time.perf_counter()
        try:
            write(build(known[name]), known[name].with_suffix(".ipynb"))
        except NotebookError as error:
            failures.append(str(error))
        progress.write(f"{name}  {time.perf_counter() - start:.1f} s")
    for failure in failures:
        typer.echo(failure, err=True)
    raise typer.Exit(bool(failures))


if __name__ == "__main__":
    typer.run(main)
