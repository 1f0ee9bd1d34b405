"""Each committed notebook is what its source gives today, and the comparison can fail."""

import ast
import base64
import copy
import re
import struct
from pathlib import Path

import matplotlib
import nbformat
import pandas as pd
import pytest
import typer
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pyro_cookbook.publish.figures import COLOURS
from pyro_cookbook.publish.notebook_diff import table_difference, text_difference
from pyro_cookbook.publish.notebooks import NotebookError, build, differences, main, sources, write

ROOT = Path(__file__).parents[2]
SOURCES = sources(ROOT)


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_every_recipe_has_its_notebook_and_its_solutions():
    recipes = {path.name for path in SOURCES if path.parent.name == "recipes"}
    solutions = {path.name for path in SOURCES if path.parent.name == "solutions"}
    assert recipes
    assert recipes == solutions
    built = {path.with_suffix("") for path in (ROOT / "recipes").rglob("[!.]*.ipynb")}
    assert built == {path.with_suffix("") for path in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_committed_notebook_is_what_its_source_gives(source):
    path = source.with_suffix(".ipynb")
    committed = nbformat.read(path, as_version=4)
    assert differences(committed, build(source)) == []
    assert [cell.execution_count for cell in committed.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in committed.cells))
    )
    assert not [output for output in outputs(committed) if output.output_type == "error"]
    assert path.stat().st_size < 2_000_000


STYLE = ROOT / "recipes" / "cookbook.mplstyle"


def style_faults(source: str, folder: Path) -> list[str]:
    """Return what a recipe's source says against the one style of all figures."""
    used = [
        folder / path for path in re.findall(r'^plt\.style\.use\("(.*)"\)$', source, re.MULTILINE)
    ]
    found = [word for word in ("rcParams", "rc_context", "tight_layout") if word in source]
    if re.search(r"\bplt\.(subplots|figure|gcf)\b|\baz\.plot", source):
        found += ["no style"] * ([path.resolve() for path in used] != [STYLE])
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_that_draws_uses_the_style(source):
    assert style_faults(source.read_text("utf-8"), source.parent) == []


@pytest.mark.parametrize(
    ("source", "folder", "faults"),
    [
        ('plt.style.use("cookbook.mplstyle")\nplt.subplots()', "recipes", []),
        ('plt.style.use("../cookbook.mplstyle")\naz.plot_forest(tree)', "recipes/solutions", []),
        ("print(1)", "recipes", []),
        ("fig, ax = plt.subplots()", "recipes", ["no style"]),
        ('plt.style.use("cookbook.mplstyle")\nplt.gcf()', "recipes/solutions", ["no style"]),
        ('plt.style.use("ggplot")\nplt.subplots()', "recipes", ["no style"]),
        ('plt.rcParams["font.size"] = 9', "recipes", ["rcParams"]),
        ("fig.tight_layout()", "recipes", ["tight_layout"]),
    ],
)
def test_a_figure_without_the_style_is_a_fault(source, folder, faults):
    assert style_faults(source, ROOT / folder) == faults


def test_the_style_has_the_colours_of_the_report():
    style = matplotlib.rc_params_from_file(STYLE, fail_on_error=True, use_default_template=False)
    assert tuple(style["axes.prop_cycle"].by_key()["color"]) == COLOURS


def library_imports(source: str) -> set[tuple[str, str]]:
    """Return what a source imports from the library: full name, and the name it goes by here."""
    return {
        (f"{node.module}.{alias.name}", alias.asname or alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pyro_cookbook")
        for alias in node.names
    }


def test_recipes_import_algorithms_and_data_each_under_one_name():
    found = {pair for path in SOURCES for pair in library_imports(path.read_text("utf-8"))}
    rooms = ("pyro_cookbook.algorithms.", "pyro_cookbook.data", "pyro_cookbook.estimators")
    assert [full for full, _ in found if not full.startswith(rooms)] == []
    assert len({full for full, _ in found}) == len({name for _, name in found}) == len(found)


def png(width: int, height: int, size: int = 1000) -> str:
    """Return the head of a PNG file of this size, as far as the comparison reads it."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return base64.b64encode(head.ljust(size, b"\0")).decode()


@pytest.fixture
def notebook() -> NotebookNode:
    cell = new_code_cell(
        "plot(fit)",
        execution_count=1,
        outputs=[
            new_output("stream", name="stdout", text="3 of 4 fits; elbo -12.34\n"),
            new_output(
                "display_data",
                data={
                    "image/png": png(600, 400),
                    "text/html": "<style>td {width: 1px}</style>\n<table><tr>\n<td>0.4</table>",
                    "text/plain": "<Figure>",
                },
            ),
        ],
    )
    return new_notebook(cells=[new_markdown_cell("# A recipe"), cell])


def test_equal_notebooks_have_no_difference(notebook):
    assert differences(notebook, copy.deepcopy(notebook)) == []


def change_source(cell):
    cell.source = "plot(fit, bins=30)"


def change_number(cell):
    cell.outputs[0].text = "3 of 4 fits; elbo -12.84\n"


def change_count(cell):
    cell.outputs[0].text = "2 of 4 fits; elbo -12.34\n"


def change_word(cell):
    cell.outputs[0].text = "3 of 4 fits; loss -12.34\n"


def add_line(cell):
    cell.outputs[0].text += "done\n"


def lose_image(cell):
    del cell.outputs[1].data["image/png"]


def lose_output(cell):
    del cell.outputs[1]


def widen_image(cell):
    cell.outputs[1].data["image/png"] = png(800, 400)


def empty_image(cell):
    cell.outputs[1].data["image/png"] = png(600, 400, size=400)


def change_table(cell):
    cell.outputs[1].data["text/html"] = "<table><tr><td>0.7</td></table>"


def fail(cell):
    cell.outputs[0] = new_output("error", ename="ValueError", evalue="no", traceback=[])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (change_source, "the source differs"),
        (change_number, "stdout: -12.34 is now -12.84"),
        (change_count, "stdout: 3 is now 2"),
        (change_word, "elbo"),
        (add_line, "stdout: '' is now 'done'"),
        (lose_image, "image/png"),
        (lose_output, "image/png"),
        (widen_image, "width 600 is now 800"),
        (empty_image, "bytes 1000 is now 400"),
        (change_table, "text/html: row '', column 1: 0.4 is now 0.7"),
        (fail, "error"),
    ],
)
def test_a_change_is_a_difference(notebook, change, line):
    fresh = copy.deepcopy(notebook)
    change(fresh.cells[1])
    (found,) = differences(notebook, fresh)
    assert found.startswith("cell 2: ")
    assert line in found


def test_markup_is_no_difference(notebook):
    fresh = copy.deepcopy(notebook)
    fresh.cells[1].outputs[1].data["text/html"] = (
        '<div><table class="t"><tr><td><b>0.4</b></td></table></div>'
    )
    assert differences(notebook, fresh) == []


def test_a_missing_cell_is_a_difference(notebook):
    fresh = new_notebook(cells=notebook.cells[:1])
    assert differences(notebook, fresh) == ["2 cells are now 1"]


@pytest.mark.parametrize(
    ("committed", "fresh"),
    [
        ("elbo -1234.5", "elbo -1234.7"),  # two units of the last place
        ("sd 0.3", "sd 0.1"),
        ("1.0e-03", "1.2e-03"),
        ("loc −0.30", "loc -0.30".replace("-", "−")),
        ("[ 0.01  9.99]", "[-0.00 10.01]"),  # padding follows the width
        ("1.", "0.99"),
        ("99 %", "98 %"),  # a share is measured
        ("a share of 15% ", "a share of 13% "),
        ("1,999 draws", "2,001 draws"),  # whole numbers: 2 %
        ("gap 40.73 ± 0.15 nats", "gap 41.18 ± 0.15 nats"),  # three standard errors
        ("gap 40.73 ± 0.24 nats", "gap 40.73 ± 0.12 nats"),  # which are known to a half
        ("-290.5311 ± 0.0000", "-290.5312 ± 0.0000"),
        ("by at most 20% (most at 'h[116,0]')", "by at most 20% (most at 'h[9,1]')"),
    ],
)
def test_what_another_machine_may_print_is_no_difference(committed, fresh):
    assert text_difference(committed, fresh) is None
    assert text_difference(fresh, committed) is None


@pytest.mark.parametrize(
    ("committed", "fresh"),
    [
        ("elbo -1234.5", "elbo 1234.5"),
        ("elbo -1234.5", "elbo -1234.8"),
        ("sd 0.3", "sd 0.0"),
        ("1.0e-03", "1.3e-03"),
        ("1.0e-03", "1.0e-02"),
        ("99 %", "96 %"),
        ("a share of 15% ", "a share of 12% "),
        ("15 %", "15"),
        ("40 draws", "41 draws"),
        ("2,000 draws", "2,050 draws"),
        ("gap 40.73 ± 0.15 nats", "gap 41.19 ± 0.15 nats"),
        ("gap 40.73 ± 0.24 nats", "gap 40.73 ± 0.11 nats"),
        ("gap 40.73, error 0.15", "gap 41.18, error 0.15"),  # no ± to say so
        ("non-centre 'h[116,0]'", "non-centre 'h[9,1]'"),
        ("x1 = 5", "x2 = 5"),
        ("topic 1", "topic 2"),
        ("loc nan", "loc 0.3"),
        ("1 2", "12"),
        ("12 draws", "1.2e1 draws of"),
    ],
)
def test_more_than_that_is_a_difference(committed, fresh):
    assert text_difference(committed, fresh)
    assert text_difference(fresh, committed)


FITS = pd.DataFrame(
    {"elbo": [-31.4, -33.5], "verdict": ["reliable", "unreliable"]}, index=["η", "θ"]
)


@pytest.mark.parametrize(
    ("fresh", "line"),
    [
        (FITS.assign(elbo=FITS.elbo - 0.2), None),
        (FITS.iloc[::-1], "row 'η': 'η' is now 'θ'"),
        (FITS.iloc[:1], "3 rows are now 2"),
        (FITS[["verdict"]], "row 'elbo verdict': 'elbo verdict' is now 'verdict'"),
        (FITS.rename(columns={"elbo": "bound"}), "row 'elbo verdict': "),
        (FITS.assign(elbo=[-31.4, -33.9]), "row 'θ', column 1: -33.5 is now -33.9"),
        (FITS.assign(verdict="reliable"), "row 'θ', column 2: 'unreliable' is now 'reliable'"),
    ],
)
def test_tables_are_compared_row_by_row(fresh, line):
    found = table_difference(FITS.to_html(), fresh.to_html())
    assert (found is None) == (line is None)
    assert (found or "").startswith(line or "")


def test_the_plain_text_beside_a_table_is_not_compared(notebook):
    """Pandas breaks it where the window ends, which moves with the width of a number."""
    fresh = copy.deepcopy(notebook)
    for book, text in ((notebook, "a  b\n1  2"), (fresh, "a  \\\n1\n\n  b\n  2")):
        table = {"text/html": FITS.to_html(), "text/plain": text}
        book.cells[1].outputs.append(new_output("execute_result", data=table))
    assert differences(notebook, fresh) == []
    fresh.cells[1].outputs[-1].data["text/html"] = FITS.assign(elbo=0.0).to_html()
    (found,) = differences(notebook, fresh)
    assert found.startswith("cell 2: execute_result text/html: row 'η', column 1: -31.4 is now 0.0")


RECIPE = """# %% [markdown]
# # A recipe

# %%
import matplotlib.pyplot as plt
from tqdm.auto import tqdm

for i in tqdm(range(2)):
    print(f"step {i}, {i / 3:.3f}", flush=True)

# %% tags=["figure"]
fig, ax = plt.subplots()
ax.plot([0, 1])
plt.show()
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "recipes" / "01_line.py"
    path.parent.mkdir()
    path.write_text(RECIPE, "utf-8")
    return path


def test_build_gives_a_clean_notebook(recipe):
    first = build(recipe)
    assert [cell.get("execution_count") for cell in first.cells] == [None, 1, 2]
    assert [output.output_type for output in outputs(first)] == ["stream", "display_data"]
    assert first.cells[1].outputs[0].text == "step 0, 0.000\nstep 1, 0.333\n"
    assert set(first.metadata) == {"kernelspec", "language_info"}
    assert [dict(cell.metadata) for cell in first.cells] == [{}, {}, {"tags": ["figure"]}]
    assert build(recipe) == first


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("x = 1\nassert x == 2", r"cell 4 \(assert x == 2\): AssertionError:$"),
        ("1 / 0", r"cell 4 \(1 / 0\): ZeroDivisionError: division by zero$"),
        ("import warnings; warnings.warn('hm')", r"cell 4 .*: .*UserWarning: hm$"),
        ("import os; os._exit(1)", "cell 4 .*: .*died"),
    ],
)
def test_a_cell_that_fails_or_warns_is_an_error(recipe, code, line):
    recipe.write_text(f"{RECIPE}\n# %%\n{code}\n", "utf-8")
    with pytest.raises(NotebookError, match=f"^recipes/01_line.py, {line}"):
        build(recipe)


def test_the_command_builds_what_it_can_and_names_what_failed(recipe, capsys):
    bad = recipe.with_name("00_bad.py")
    bad.write_text("# %%\n1 / 0\n", "utf-8")
    bad.with_suffix(".ipynb").write_text("old", "utf-8")
    with pytest.raises(typer.Exit) as stop:
        main(root=recipe.parents[1])
    assert stop.value.exit_code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "recipes/00_bad.py, cell 1 (1 / 0): ZeroDivisionError: division by zero"
    assert bad.with_suffix(".ipynb").read_text("utf-8") == "old"
    assert differences(nbformat.read(recipe.with_suffix(".ipynb"), 4), build(recipe)) == []


def test_the_command_refuses_an_unknown_name(recipe, capsys):
    with pytest.raises(typer.Exit) as stop:
        main(["02_none"], root=recipe.parents[1])
    assert stop.value.exit_code == 2
    assert capsys.readouterr().err == "no such recipe: 02_none; expected: 01_line\n"


def test_a_large_notebook_is_refused(notebook, tmp_path):
    notebook.cells[0].source = "x" * 2_000_000
    with pytest.raises(NotebookError, match=r"1\.ipynb: 2\.0 MB, expected under 2 MB"):
        write(notebook, tmp_path / "1.ipynb")
    assert not list(tmp_path.iterdir())
