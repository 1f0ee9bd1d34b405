"""The notebook of a project that goes home is the one that jupytext and nbformat would write."""

import jupytext
import nbformat
import pytest

from pyro_cookbook.catalogue import recipe
from pyro_cookbook.data import load
from pyro_cookbook.publish.adapt import project
from pyro_cookbook.publish.adapt.notebook import CUT, notebook
from pyro_cookbook.publish.adapt.sources import used_imports

MORE = "\nimport matplotlib.pyplot as plt\nfrom IPython.display import Code\n"


def by_jupytext(source):
    made = jupytext.reads(source, fmt="py:percent")
    first, *others = [cell for cell in made.cells if cell.cell_type == "code"]
    imports, constants = first.source.split(CUT)
    code = "\n".join([constants, *(cell.source for cell in others)])
    first.source = f"{used_imports(imports + MORE, code)}\n{constants}"
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    made.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


@pytest.mark.parametrize("name", ["02", "regression", "04a"])
def test_every_character_is_the_same(name, tmp_path, monkeypatch):
    sources = []

    def kept(source):
        sources.append(source)
        return notebook(source)

    monkeypatch.setattr(project, "notebook", kept)
    chosen = recipe(name)
    guide = next(iter(chosen.guides))
    project.adapt(chosen.name, tmp_path / "mine", guide=guide, table=load(chosen.data))
    (source,) = sources
    assert (tmp_path / "mine" / "notebook.ipynb").read_text("utf-8") == by_jupytext(source)


def test_of_text_and_code_that_look_alike():
    source = (
        "# %% [markdown]\n# # Title\n#\n#   indented: à, 二\n# a # sign\n\n"
        f"# %%\nimport numpy as np\nimport pandas as pd\n{CUT}\nA = np.pi  # %% no cell\n\n\n"
        '# %%\nprint("# %% [markdown]", A)\n# a comment\n\n\ndef f():\n    return 1\n'
    )
    assert notebook(source) == by_jupytext(source)
    assert "pandas" not in notebook(source)
