"""A project's notebook: its script, cut into the cells of a walk."""

import ast

import jupytext
import nbformat
from nbformat import NotebookNode

from pyro_cookbook.publish.adapt.sources import used_imports

_KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# What only a notebook needs: it shows sources and draws the bound.
_MORE_IMPORTS = "\nimport matplotlib.pyplot as plt\nfrom IPython.display import Code\n"
CUT = "# ---"


def pieces(script: str) -> dict[str, str]:
    """Cut a ``fit.py`` into pieces for cells.

    Parameters
    ----------
    script : str
        With a docstring, imports, constants and functions, `judge` and `draws_of` among them, and
        `main` last.

    Returns
    -------
    dict of str to str
        ``"imports"``, ``"constants"`` (what else stands before the first function),
        ``"fitting"`` (the functions before `judge`), ``"judging"`` and ``"reporting"`` (the others
        before `main`).
    """
    tree, lines = ast.parse(script), script.splitlines()
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    order = list(functions)
    last_import = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)][-1]
    end = int(last_import.end_lineno or 0)

    def text(names: list[str]) -> str:
        parts = [ast.get_source_segment(script, functions[name]) or "" for name in names]
        return "\n\n\n".join(parts)

    judge, main = order.index("judge"), order.index("main")
    start = int(tree.body[0].end_lineno or 0)
    constants = "\n".join(lines[end : functions[order[0]].lineno - 1]).strip()
    return {
        "imports": "\n".join(lines[start:end]).strip(),
        # A notebook has no __file__: it is run from its folder.
        "constants": constants.replace("Path(__file__).parent", "Path()"),
        "fitting": text(order[:judge]),
        "judging": text(["judge"]),
        "reporting": text(order[judge + 1 : main]),
    }


def notebook(source: str) -> str:
    """Make a notebook, not executed, of a percent-format source; the same each time.

    Its first cell of code has imports, of which the used ones are kept, and after `CUT` constants.
    """
    made: NotebookNode = jupytext.reads(source, fmt="py:percent")
    first, *others = [cell for cell in made.cells if cell.cell_type == "code"]
    imports, constants = first.source.split(CUT)
    code = "\n".join([constants, *(cell.source for cell in others)])
    first.source = f"{used_imports(imports + _MORE_IMPORTS, code)}\n{constants}"
    made.metadata = {"kernelspec": _KERNELSPEC, "language_info": {"name": "python"}}
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    nbformat.validate(made)
    return str(nbformat.writes(made)) + "\n"
