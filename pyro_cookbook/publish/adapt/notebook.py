"""A project's notebook: its script, cut into the cells of a walk."""

import ast
import json
import re
from typing import Any

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
    Written here in nbformat 4.5: jupytext and nbformat take as long to import as all the rest.

    Parameters
    ----------
    source : str
        Cells that begin with ``# %%`` or ``# %% [markdown]``; no more of the format is read.
    """
    _, *parts = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)
    cells = list(zip(map(str.strip, parts[::2]), map(str.strip, parts[1::2]), strict=True))
    where, *others = [number for number, (kind, _) in enumerate(cells) if not kind]
    imports, constants = cells[where][1].split(CUT)
    code = "\n".join([constants, *(cells[number][1] for number in others)])
    cells[where] = "", f"{used_imports(imports + _MORE_IMPORTS, code)}\n{constants}"
    made: list[dict[str, Any]] = []
    for number, (kind, text) in enumerate(cells):
        cell: dict[str, Any] = {"cell_type": "code", "execution_count": None, "outputs": []}
        shown = text
        if kind:
            cell = {"cell_type": "markdown"}
            shown = re.sub("^# ?", "", text, flags=re.MULTILINE)
        lines = shown.splitlines(keepends=True)
        made.append(cell | {"id": f"cell-{number}", "metadata": {}, "source": lines})
    about = {"kernelspec": _KERNELSPEC, "language_info": {"name": "python"}}
    whole = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
