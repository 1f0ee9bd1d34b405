"""The command line, from outside: what it prints, writes and refuses."""

import dataclasses
import re
import resource
import subprocess
import sys
from functools import partial
from html import unescape
from html.parser import HTMLParser

import arviz as az
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import pyro_cookbook as pc
from pyro_cookbook import catalogue, data
from pyro_cookbook.cli import app
from pyro_cookbook.publish import outcome
from pyro_cookbook.publish.runs.folder import checked, read_record

runner = CliRunner()
FILES = {
    "data.parquet", "fit.nc", "report.html", "run.json", "state.safetensors", "summary.csv"
}  # fmt: skip


def call(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def prints_one_row_and_writes_one_file_for_every_guide(result, out):
    assert result.exit_code == 0, result.output
    for recipe in catalogue.RECIPES:
        for guide in recipe.guides:
            named = rf"{re.escape(recipe.topic)} +│ {recipe.model} +│ {guide} "
            assert len(re.findall(named, result.output)) == 1
            tree = az.from_netcdf(out / f"{recipe.name}-{guide}" / "fit.nc")
            fit = pc.load(out / f"{recipe.name}-{guide}" / "state.safetensors")
            latents = fit.programs.model.latents
            assert latents
            assert all(tree.posterior[name].sizes["draw"] == 50 for name in latents)
            assert tree.attrs["guide"] == guide
            assert fit.elbo.value == tree.attrs["elbo"]
    assert "report.html" in result.output
    assert not (out / "unfinished").exists()


def tells_reliable_fits_from_others(result):
    verdicts = dict(
        re.findall(r"19\.1 +│ factor analysis +│ (\w+) .*│ ([a-z ]+?) +│ +[\d.]+ │", result.output)
    )
    assert verdicts == {
        "map": "unreliable",
        "mean_field": "reliable",  # sds 15% too small at most, below the limit of 25%
    }


class References(HTMLParser):
    """Collects everything a page refers to."""

    def __init__(self):
        super().__init__()
        self.found, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"src", "href", "srcset", "action", "data"}:
                self.found.append(value)
        self.images += tag == "img"
        if tag == "img":
            assert dict(attrs)["alt"]


def report_refers_to_nothing_outside_itself(out):
    page = (out / "report.html").read_text("utf-8")
    parser = References()
    parser.feed(page)
    assert parser.images >= 2 * len(catalogue.RECIPES)
    assert all(reference.startswith("data:image/png;base64,") for reference in parser.found)
    assert "url(" not in page
    assert "@import" not in page
    for recipe in catalogue.RECIPES:
        assert recipe.title in unescape(page)
        for guide in recipe.guides.values():
            assert guide.summary in unescape(page)


# Each is fitted, written and drawn in a test of its own: tests/topics, tests/catalogue/answers,
# test_report.py; one of every kind of figure and of engine is enough here.
LEFT_OUT = {
    "03_sparse_coding",
    "04a_binary_sparse_coding",
    "04c_explaining_away",
    "04c_eight_schools",
    "05b_learned_codes",
    "05c_variational_autoencoder",
    "regression",
}


def reduced(recipe):
    """Keep the guide by default, for a few steps; of the first recipe two that differ, in full."""
    if recipe is catalogue.RECIPES[0]:
        guides = {name: recipe.guides[name] for name in ("map", "mean_field")}
    else:
        entry = recipe.guides[recipe.default]
        guides = {recipe.default: dataclasses.replace(entry, prepare=cut_short(entry.prepare))}
    return dataclasses.replace(recipe, guides=guides)


def cut_short(prepare):
    def wrapped(*args, **options):
        prepared = prepare(*args, **options)
        prepared.options["max_steps"] = min(300, prepared.options.get("max_steps", 300))
        return prepared

    return wrapped


def test_run_fits_judges_and_reports_every_recipe(tmp_path, monkeypatch):
    """Not every guide, and few steps and draws: other tests look at fits and verdicts."""
    chosen = tuple(reduced(one) for one in catalogue.RECIPES if one.name not in LEFT_OUT)
    monkeypatch.setattr(catalogue, "RECIPES", chosen)
    monkeypatch.setattr(outcome, "diagnose", partial(outcome.diagnose, num_draws=2000))
    result = call("run", "--out", tmp_path, "--draws", 50)
    prints_one_row_and_writes_one_file_for_every_guide(result, tmp_path)
    tells_reliable_fits_from_others(result)
    report_refers_to_nothing_outside_itself(tmp_path)


def test_list_shows_every_recipe_and_guide():
    result = call("list")
    assert result.exit_code == 0
    words = re.sub(r"[│\s]+", " ", result.output)
    for recipe in catalogue.RECIPES:
        assert recipe.name in words
        assert all(guide in words for guide in recipe.guides)
    assert "full_rank: non-centred" in words  # the guide by default, and why
    assert "07_your_model: a notebook about models of your own" in words


def test_fit_takes_a_table_of_ones_own(tmp_path):
    table = data.load("iris")
    frame = pd.DataFrame(table.v[:, :3].numpy(), columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "mine.csv", index=False)
    result = call(
        "fit", "02", "--guide", "exact", "--data", tmp_path / "mine.csv", "--columns", "a,c",
        "--components", 2, "--out", tmp_path / "out", "--draws", 20,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Verdict: reliable" in result.output
    assert "weight[1]" in result.output
    tree = az.from_netcdf(tmp_path / "out" / "fit.nc")
    assert list(tree.observed_data.feature.values) == ["a", "c"]


@pytest.fixture
def mine(tmp_path):
    """A table with an outcome in front, and one with collinear columns."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 40))
    frame = pd.DataFrame({"sick": (a + rng.standard_normal(40) > 0).astype(int), "a": a, "b": b})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    collinear = {"a": a, "b": b, "3a": 3 * a, "a+b": a + b}
    pd.DataFrame(collinear).to_csv(tmp_path / "collinear.csv", index=False)
    return tmp_path / "mine.csv"


def test_without_a_guide_the_recipes_own_is_taken(mine, tmp_path):
    result = call(
        "fit", "02", "--data", mine, "--columns", "a,b", "--size", 2, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    record = read_record(tmp_path / "out")
    assert (record.guide, record.options["size"]) == ("exact", 2)


@pytest.mark.parametrize("columns", [None, "sick,b,a", "b,a"])
def test_the_outcome_is_named_wherever_it_stands(columns, mine, tmp_path):
    chosen = ["--columns", columns] if columns else []
    result = call(
        "fit", "04c_log", "--guide", "map", "--data", mine, "--outcome", "sick", *chosen,
        "--out", tmp_path / "out", "--draws", 10,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    fit = pc.load(tmp_path / "out" / "state.safetensors")
    frame = pd.read_csv(mine)
    assert fit.args[1].tolist() == frame["sick"].tolist()
    covariates = ["b", "a"] if columns else ["a", "b"]
    exact = torch.as_tensor(frame[covariates].to_numpy())
    torch.testing.assert_close(fit.args[0] * exact.std(0, correction=0) + exact.mean(0), exact)
    tree = az.from_netcdf(tmp_path / "out" / "fit.nc")
    assert list(tree.posterior.covariate.values) == covariates


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "99", "--guide", "exact"], "recipe: got '99', expected one of 01_"),
        (["fit", "04c"], "recipe: got '04c', which fits 3 recipes, expected one of 04c_expl"),
        (["fit", "07"], "recipe: 07_your_model is a notebook about models of your own"),
        (["run", "07_your_model"], "recipe: 07_your_model is a notebook about models of your"),
        (["fit", "02", "--guide", "full_rank"], "--guide: got 'full_rank', expected one of exact"),
        (["fit", "01", "--guide", "map", "--size", "40"], "--size: got 40 factors, expected 1 to"),
        (["fit", "01", "--guide", "map", "--data", "none.csv"], "none.csv: no such file"),
        (
            ["fit", "01", "--guide", "map", "--columns", "a"],
            "--columns: it is about --data, which is not given",
        ),
        (["fit", "01", "--outcome", "a"], "--outcome: 01_inference_as_optimisation has none"),
        (["fit", "04c_log", "--outcome", "a"], "breast_cancer: no column 'a'; there are radius,"),
        (["fit", "04c_log", "--data", "mine.csv"], "--outcome: column 'b' is the outcome, 0 or 1"),
        (["fit", "04c_log", "--data", "mine.csv", "--outcome", "c"], "mine.csv: no column 'c'"),
        (["fit", "02", "--guide", "mean_field", "--data", "collinear.csv"], "(a, 3a), (a, b, a+b)"),
        (["fit", "01", "--guide", "full_rank", "--data", "collinear.csv"], "(a, 3a), (a, b, a+b)"),
        (["run", "nothing"], "recipe: got 'nothing'"),
    ],
)
def test_bad_input_is_one_line_and_code_2_and_writes_nothing(
    arguments, message, mine, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


# --- faults, full disks, little memory -----------------------------------------------------------

QUICK = ("fit", "04c_log", "--guide", "map", "--draws", 50)
STEM = "04c_logistic_regression-map"


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("name", ["diagnose", "to_datatree", "digest"])
@pytest.mark.parametrize(
    "error", [ValueError("a fault"), TypeError("a fault"), KeyError("a fault"), RuntimeError("odd")]
)
def test_a_fault_of_our_own_shows_its_traceback(name, error, tmp_path, monkeypatch):
    monkeypatch.setattr(outcome, name, raising(error))
    result = call(*QUICK, "--out", tmp_path / "out")
    assert result.exception is error
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("pyro_cookbook.catalogue.entries.as_fit", ValueError("site 'y': outside the support")),
        ("pyro_cookbook.catalogue.entries.as_fit", pc.NonFiniteELBO(3, "y", pd.DataFrame())),
        (
            "pyro_cookbook.publish.outcome.save",
            PermissionError(13, "Permission denied", "x.safetensors"),
        ),
        ("pyro_cookbook.publish.outcome.run_guide", data.InputError("two\nlines")),
    ],
)
def test_what_a_fit_says_of_the_rows_is_one_line(where, error, tmp_path, monkeypatch):
    monkeypatch.setattr(where, raising(error))
    result = call(*QUICK, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert " ".join(str(error).split()) in result.output


MEMORY = [
    MemoryError("Unable to allocate 37.3 GiB for an array"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("name", ["diagnose", "to_datatree"])
@pytest.mark.parametrize("error", MEMORY, ids=["numpy", "torch"])
def test_a_fit_is_written_before_it_is_judged(name, error, tmp_path, monkeypatch):
    monkeypatch.setattr(outcome, name, raising(error))
    result = call(*QUICK, "--out", tmp_path / "out")
    assert result.exit_code == 2
    (kept,) = (tmp_path / "out.unfinished").iterdir()
    told = f"out of memory; the fit is kept in {kept}, not judged yet; take fewer"
    assert told in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert pc.load(kept).converged
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("limit", "kept"), [(10**9, 50), (500_000, None), (1, 1)])
def test_the_size_of_what_is_written_is_bounded(limit, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(outcome, "MAX_BYTES", limit)
    result = call(*QUICK, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    tree = az.from_netcdf(tmp_path / "out" / "fit.nc")
    count = tree.posterior.sizes["draw"]
    drawn = sum(v.nbytes for node in tree.subtree for v in node.data_vars.values()
                if "draw" in v.dims)  # fmt: skip
    if kept is None:  # as many as there is room for
        assert 1 < count < 50
        assert drawn <= limit < drawn * (count + 1) / count
    else:
        assert count == kept
    assert (f"Note: {count} of 50 draws kept" in result.output) == (count < 50)


@pytest.mark.parametrize(
    ("arguments", "limit", "file"),
    [
        (QUICK, 100_000, "out"),  # the fit is smaller, the draws are not
        (QUICK, 10_000, f"out.unfinished/{STEM}-.*-unjudged.safetensors"),
        (("fit", "04b"), 10_000, "out.unfinished/04b_calculus_of_variations-normal-.*.safetensors"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(arguments, limit, file, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        result = call(*arguments, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 2
    told = result.output.strip().splitlines()
    assert len(told) == 1
    assert re.fullmatch(f"error: {tmp_path}/{file}: not written: File too large", told[0])
    assert list(tmp_path.iterdir()) == []


def command(*arguments):
    code = "from pyro_cookbook.cli import app; app()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_two_runs_into_one_folder_leave_whole_files(tmp_path):
    runs = [
        subprocess.Popen(
            command(*QUICK, "--out", tmp_path / "out"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]
    for run in runs:
        told, _ = run.communicate(timeout=600)
        assert run.returncode == 0, told.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    record = read_record(tmp_path / "out")
    assert all(checked(tmp_path / "out", record, name) for name in record.files)


def test_doctor_passes_here_and_fails_on_a_stranger(monkeypatch, tmp_path):
    result = call("doctor")
    assert result.exit_code == 0, result.output
    assert "exact fit" in result.output
    monkeypatch.setattr("pyro_cookbook.doctor.ROOT", tmp_path)
    assert call("doctor").exit_code == 1


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "pyro_cookbook", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "diagnoses and a verdict" in done.stdout
