"""Every recipe taken home: the project stands alone, and its oracle notices a wrong model."""

import ast
import doctest
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from publish.projects import alone, failures

import pyro_cookbook as pc
from pyro_cookbook import data
from pyro_cookbook.catalogue import RECIPES, recipe
from pyro_cookbook.data import standardise
from pyro_cookbook.publish.adapt import adapt
from pyro_cookbook.publish.adapt.particulars import PARTICULARS

ROOT = Path(__file__).parents[2]
FILES = {
    "README.md", "model.py", "guide.py", "fit.py", "notebook.ipynb", "test_model.py", "data.csv",
    "environment.yml",
}  # fmt: skip
EACH = [(r.name, guide) for r in RECIPES for guide in r.guides]
MAY_IMPORT = {
    "collections", "itertools", "pathlib", "typing", "IPython", "matplotlib", "numpy", "pandas",
    "pyro", "pyro_cookbook", "pytest", "scipy", "sklearn", "torch", "xarray", "model", "guide",
}  # fmt: skip


# Recipes that need some columns, as a formula does.
FEW = {"regression": ["bmi", "bp", "s5", "sex"]}


def few_rows(name):
    """A recipe's own table, cut to 16 rows and 7 columns, the last among them."""
    table = data.load(recipe(name).data)
    frame = pd.DataFrame(table.raw.numpy(), columns=list(table.columns)).iloc[::3].iloc[:16]
    frame = frame.loc[:, frame.nunique() > 1]
    first = FEW.get(name, list(frame.columns[:-1][:6]))
    return standardise(frame[[*first, frame.columns[-1]]], table.name, (), "")


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Every recipe under every guide, on a few rows."""
    folder = tmp_path_factory.mktemp("projects")
    for name, guide in EACH:
        size = 2 if recipe(name).size_name else None
        adapt(name, folder / f"{name}-{guide}", guide=guide, table=few_rows(name), size=size)
    return folder


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(adapt.__doc__, {}, "adapt", None, 0)
    assert doctest.DocTestRunner().run(example) == (0, 3)


def test_every_guide_of_every_recipe_has_its_particulars():
    wanted = {r.name: set(r.guides) for r in RECIPES}
    assert {name: set(entry.pairs) for name, entry in PARTICULARS.items()} == wanted
    assert all(entry.exact for entry in PARTICULARS.values())


@pytest.mark.parametrize(("name", "guide"), EACH)
def test_a_project_stands_alone_and_its_oracle_holds(name, guide, projects):
    folder = projects / f"{name}-{guide}"
    assert {path.name for path in folder.iterdir()} - {"LICENSE"} == FILES
    sources = [path.read_text("utf-8") for path in folder.glob("*.py")]
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    sources.append("\n".join(c.source for c in notebook.cells if c.cell_type == "code"))
    for source in sources:
        nodes = list(ast.walk(ast.parse(source)))
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        names += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
        assert {name.split(".")[0] for name in names} <= MAY_IMPORT
    with alone(folder) as tests:
        count, failed = failures(tests)
    assert count >= 2
    assert failed == []


@pytest.mark.parametrize(("name", "guide"), EACH)
def test_what_stands_in_a_project_is_the_source_that_is_installed(name, guide, projects):
    pair = PARTICULARS[name].pairs[guide]
    for package, path in (("models", pair.model), ("guides", pair.guide)):
        module, _, what = path.partition(".")
        source = inspect.getsource(getattr(importlib.import_module(f"{package}.{module}"), what))
        file = projects / f"{name}-{guide}" / f"{package[:-1]}.py"
        assert source in file.read_text("utf-8")


# Recipe → a mistake in its model, and one in its guide by default.
MISTAKES = {
    "01_inference_as_optimisation": [
        ("model", "h @ self.W.mT + self.b", "h @ self.W.mT - self.b"),
        ("guide", "(self.encoder(v), ", "(2 * self.encoder(v), "),
    ],
    "02_expectation_maximisation": [
        ("model", "scale_tril=scale_tril[h]", "scale_tril=2 * scale_tril[h]"),
        ("guide", "+ self.weights.log()", "- self.weights.log()"),
    ],
    "03_sparse_coding": [
        ("model", "unit / self.rate", "unit * self.rate"),
        ("guide", "dist.Normal(self.h_loc, self.h_scale)", "dist.Normal(self.h_loc, 0.5)"),
    ],
    "04a_binary_sparse_coding": [
        ("model", "BernoulliVector(b)", "BernoulliVector(-b)"),
        ("guide", "BernoulliVector(self.h_logits)", "BernoulliVector(self.h_logits / 2)"),
    ],
    "04b_calculus_of_variations": [
        ("model", "+ quadratic *", "+ quadratic / 2 *"),
        ("guide", "dist.Normal(self.h_loc,", "dist.Normal(-self.h_loc,"),
    ],
    "04c_explaining_away": [
        ("model", "(h * w).sum", "(h * -w).sum"),
        ("guide", "scale_tril=self.h_scale_tril", "scale_tril=self.h_scale_tril / 2"),
    ],
    "04c_logistic_regression": [
        ("model", "logits=intercept + score", "logits=intercept - score"),
        ("model", "score.squeeze(-2)", "score"),
        ("guide", "* tril[1:, 0]", "* tril[0, 1:]"),
    ],
    "04c_eight_schools": [
        ("model", "mu + tau * eta", "mu - tau * eta"),
        ("guide", "latent[..., 2:].squeeze(-2)", "latent[..., 2:]"),
        ("guide", "log_density=-log_tau", "log_density=log_tau"),
    ],
    "04d_learning_meets_inference": [
        ("model", "dist.Normal(loc, self.scale)", "dist.Normal(loc, self.scale**0.5)"),
        ("guide", "scale_tril=self.h_scale_tril", "scale_tril=self.h_scale_tril * 2"),
    ],
    "05a_wake_sleep": [
        ("model", "h @ W.mT + c", "h @ W.mT - c"),
        ("guide", "BernoulliVector(self.h_logits)", "BernoulliVector(-self.h_logits)"),
    ],
    "05b_learned_codes": [
        ("model", "h @ self.W.mT", "-h @ self.W.mT"),
        ("guide", "momentum[t - 1] * (h - old)", "momentum[t - 1] * (old - h)"),
    ],
    "05c_variational_autoencoder": [
        ("model", "logits=f", "logits=-f"),
        ("guide", "log_scale.exp()", "(log_scale / 2).exp()"),
    ],
    "regression": [
        ("model", "outside = scale**share, scale ** (1 - share)",
         "outside = scale ** (1 - share), scale**share"),
        ("model", "score.squeeze(-2) if", "score if"),
        ("model", "found.squeeze(-2) if", "found if"),
        ("guide", "-transform.log_abs", "transform.log_abs"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", [r.name for r in RECIPES])
def test_the_oracle_notices_a_mistake(name, projects):
    folder = projects / f"{name}-{recipe(name).default}"
    for file, right, wrong in MISTAKES[name]:
        source = (folder / f"{file}.py").read_text("utf-8")
        assert source.count(right) >= 1
        with alone(folder, sources={file: source.replace(right, wrong)}) as tests:
            _, failed = failures(tests)
        assert failed, (file, wrong)


@pytest.fixture
def plainly():
    """Pyro as a script finds it: one store for all parameters, empty."""
    with pyro.settings.context(module_local_params=False):
        pyro.clear_param_store()
        yield
        pyro.clear_param_store()


@pytest.fixture
def hurried(monkeypatch, plainly):
    """Let `pc.fit` and `pc.diagnose` stop early: what is tested is the way through."""
    for name, less in (("fit", {"max_steps": 20}), ("diagnose", {"num_draws": 100})):
        full = getattr(pc, name)
        monkeypatch.setattr(pc, name, lambda *a, full=full, less=less, **k: full(*a, **k | less))


@pytest.mark.parametrize("name", [r.name for r in RECIPES])
def test_fit_py_goes_all_the_way(name, projects, hurried, capsys, monkeypatch):
    kept, save = [], pc.save
    monkeypatch.setattr(pc, "save", lambda fit, path: kept.append(fit) or save(fit, path))
    folder = projects / f"{name}-{recipe(name).default}"
    with alone(folder, "fit") as script:
        for constant in ("NUM_STEPS", "MAX_STEPS"):
            if hasattr(script, constant):
                setattr(script, constant, 20)
        script.main()
        fit = kept[0]
        file = folder / "results" / "fit.safetensors"
        assert pc.load(file, model=fit.model, guide=fit.guide).elbo == fit.elbo
    told = capsys.readouterr().out
    assert "Verdict: " in told
    estimates = pd.read_csv(folder / "results" / "estimates.csv", index_col=0)
    assert np.isfinite(estimates.select_dtypes("number")).any(axis=None)
    assert (folder / "results" / "fit.nc").exists()
    rows = folder / "results" / "rows.csv"
    if "rows.csv" in told:
        assert len(pd.read_csv(rows)) == len(few_rows(name).v)
    assert rows.exists() == ("rows.csv" in told)


def script_of(folder):
    """Run fit.py's steps without a verdict, and give its table, fit, estimates and rows."""
    with alone(folder, "fit") as script:
        table = script.read(folder / "data.csv")
        fit = script.fit_to(table)
        tree = script.draws_of(fit, SimpleNamespace(verdict="reliable"))
        rows = script.by_row(fit, table, tree)
        return table, fit, script.estimates(fit, table, tree), rows


def test_estimates_are_in_the_units_of_the_table(tmp_path, plainly):
    """EM's mixture has the rows' own mean and, between and within components, their variance."""
    adapt("02", tmp_path / "mixture")
    table, _, found, rows = script_of(tmp_path / "mixture")
    for d, name in enumerate(table.columns):
        mean, sd = found[f"{name}: mean"], found[f"{name}: sd"]
        assert found.weight @ mean == pytest.approx(float(table.raw[:, d].mean()), rel=1e-3)
        second = found.weight @ (sd**2 + mean**2)
        assert second == pytest.approx(float(table.raw[:, d].square().mean()), rel=1e-3)
    assert rows.sum(axis=1).to_numpy() == pytest.approx(1)


def test_coefficients_are_for_one_unit_of_each_column(tmp_path, plainly):
    """The same score comes from the raw columns as from the standardised ones."""
    adapt("04c_logistic", tmp_path / "project", guide="laplace")
    table, fit, found, rows = script_of(tmp_path / "project")
    raw = found.loc["(intercept)", "mean"] + table.raw[:, :-1].numpy() @ found["mean"].iloc[1:]
    guide = fit.guide.loc.detach().numpy()
    score = guide[0] + table.v[:, :-1].numpy() @ guide[1:]
    sd = np.sqrt(
        np.diag(fit.guide.scale_tril.detach().numpy() @ fit.guide.scale_tril.detach().numpy().T)
    )
    # Means of NUM_DRAWS draws: four standard errors of the sum, were all coefficients one.
    error = 4 * (np.abs(np.c_[np.ones(len(score)), table.v[:, :-1].numpy()]) @ sd) / 300**0.5
    assert (np.abs(raw - score) < error).all()
    assert np.abs(raw).max() > 5  # the starting point, 0, is far outside
    y = table.raw[:, -1].numpy()
    assert ((rows.probability > 0.5) == y).mean() > 0.9


def test_the_two_commands_run_in_a_process_of_their_own(tmp_path):
    """One for both: most of its time goes into imports."""
    adapt("02_expectation", tmp_path / "mixture")
    command = (
        "import runpy, sys, pytest; sys.modules['models'] = sys.modules['guides'] = None;"
        "sys.path.insert(0, ''); runpy.run_path('fit.py', run_name='__main__');"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    )
    quick = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path / "mixture", capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONPATH": str(ROOT)} | quick,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Verdict: reliable" in done.stdout
    assert "4 passed" in done.stdout


def test_the_notebook_walks_the_same_way(tmp_path, monkeypatch, plainly):
    adapt("02_expectation", tmp_path / "mixture")
    monkeypatch.chdir(tmp_path / "mixture")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads(Path("notebook.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    space: dict[str, object] = {"__name__": "notebook"}
    with alone(Path.cwd(), "fit"):
        import matplotlib.pyplot as plt

        monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
        for cell in cells:
            exec(compile(cell, "cell", "exec"), space)
    assert space["diagnosis"].verdict == "reliable"
    assert space["fit"].elbo.value == pytest.approx(-290.531, abs=1e-3)


def test_projects_are_in_the_style_of_ruff(projects):
    """Each from its own folder, as its owner would ask."""
    settings = 'line-length = 100\ntarget-version = "py312"\nlint.select = '
    settings += (
        '["E", "F", "I", "B", "UP", "SIM", "RUF059", "D"]\nlint.pydocstyle.convention = "numpy"\n'
    )
    settings += 'lint.ignore = ["D102", "D105", "D403", "D107"]\n'
    (projects / "ruff.toml").write_text(settings)
    for name in ("05c_variational_autoencoder-amortized",):
        assert name in {p.name for p in projects.iterdir()}
    sources = ", ".join(f'"{n}-{g}"' for n, g in EACH)
    (projects / "ruff.toml").write_text(settings + f"src = [{sources}]\n")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=projects,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:]


def test_a_project_has_the_reader_s_rows_to_the_last_digit(tmp_path):
    frame = pd.DataFrame(
        {"a, b": [0.1, 1 / 3, 2e-7, 5.0], 'c "d"': [1e10, -2.5, 3.0, 4.0], "é": [1.0, 0, 0, 3]}
    )
    table = standardise(frame, "mine", (), "somewhere/mine.csv")
    adapt("02", tmp_path / "p", table=table, size=2, guide="map")
    back = pd.read_csv(tmp_path / "p" / "data.csv")
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    assert "NUM_COMPONENTS = 2\n" in (tmp_path / "p" / "fit.py").read_text("utf-8")
    assert "somewhere" not in (tmp_path / "p" / "README.md").read_text("utf-8")


def test_a_size_that_a_small_table_cannot_have_is_made_smaller(tmp_path):
    table = few_rows("01")
    small = standardise(
        pd.DataFrame(table.raw[:8, :2].numpy(), columns=["a", "b"]), "small", (), ""
    )
    adapt("05c", tmp_path / "p", table=small)
    adapt("03", tmp_path / "q", table=small)
    assert "NUM_LATENTS = 2\n" in (tmp_path / "p" / "fit.py").read_text("utf-8")
    assert "NUM_ATOMS = 8\n" in (tmp_path / "q" / "fit.py").read_text("utf-8")


def test_the_likelihood_follows_the_rows(tmp_path):
    bits = few_rows("05a")
    for name, table in (("bits", bits), ("counts", None), ("real", few_rows("01"))):
        adapt("05c", tmp_path / name, table=table)
    told = {n: (tmp_path / n / "fit.py").read_text("utf-8") for n in ("bits", "counts", "real")}
    assert 'TOTAL_COUNT = "bernoulli", 1' in told["bits"]
    assert 'TOTAL_COUNT = "beta_binomial", 16' in told["counts"]
    assert 'TOTAL_COUNT = "gaussian", 1' in told["real"]


def test_two_writings_are_the_same(tmp_path, projects):
    name = "03_sparse_coding"
    for path in adapt(name, tmp_path / "again", guide="map", table=few_rows(name), size=2):
        assert path.read_bytes() == (projects / f"{name}-map" / path.name).read_bytes()
    assert torch.get_default_dtype() == torch.float32
