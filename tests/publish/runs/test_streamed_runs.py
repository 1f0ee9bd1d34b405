"""`pyro-cookbook fit` on a folder of shards: streamed when it is asked for, judged, written."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_cookbook import catalogue, data
from pyro_cookbook.cli import app
from pyro_cookbook.engines.streams import ranks
from pyro_cookbook.publish import outcome, report
from pyro_cookbook.publish.figures import plot_bounds
from pyro_cookbook.publish.runs import streaming


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """700 rows in two shards, columns far from mean 0 and sd 1."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(700, 1))
    rows = 50 + 4 * (h @ np.array([[1.0, -2.0, 0.5]])) + rng.normal(size=(700, 3))
    found = tmp_path_factory.mktemp("walks")
    for i, part in enumerate(np.split(rows, [300])):
        frame = pd.DataFrame(part, columns=["x", "y", "z"])
        frame.to_parquet(found / f"{i}.parquet", row_group_size=80)
    return found


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "run"
    options = ["--latents", 1, "--max-steps", 500, "--batch-size", 64, "--held-out", 0.015]
    result = run("fit", "05c", "--data", folder, *options, "--draws", 20, "--out", place)
    assert result.exit_code == 0, result.output
    return place, result.output


def test_what_is_streamed_is_said_and_kept(done, folder):
    place, printed = done
    assert "690 rows and 3 columns in 2 shards of " + folder.name + "; 10 more rows" in printed
    record = json.loads((place / "run.json").read_text("utf-8"))
    assert record["options"]["batch_size"] == 64
    assert record["data"]["rows"] == 10
    assert len(pd.read_parquet(place / "data.parquet")) == 10
    assert "Verdict: " in printed
    assert not place.with_name("run.unfinished").exists()


def test_numbers_are_those_of_the_columns_units(done):
    summary = pd.read_csv(done[0] / "summary.csv", index_col=0)["mean"]
    noise = summary[[f"noise sd[{name}]" for name in "xyz"]]
    assert noise.between(0.8, 2.0).all()  # 1 in the files; 4.1, 8.1 and 2.2 before the fit
    assert summary["active latents"] == 1


def test_it_serves_rows_never_seen(done, folder, tmp_path):
    out = tmp_path / "new.csv"
    result = run("predict", done[0], "--data", folder / "1.parquet", "--out", out)
    assert result.exit_code == 0, result.output
    found, rows = pd.read_csv(out), pd.read_parquet(folder / "1.parquet")
    assert len(found) == 400
    for name in "xyz":
        assert np.std(found[f"reconstruction[{name}]"] - rows[name]) < 2.0


def test_its_rows_are_not_kept_to_reproduce_it(done):
    result = run("reproduce", done[0])
    assert result.exit_code == 2
    assert "was fitted to shards" in result.output
    assert "run again: pyro-cookbook" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        ("05c", ["--guide", "mean_field"], "--guide: mean_field is not fitted to shards; expected"),
        ("05c", ["--separator", ";"], "--separator: it is for tables in memory"),
        ("05c", ["--held-out", "nowhere"], "nowhere: no such folder"),
        ("05c", ["--held-out", "2"], "--held-out: got 2.0, expected a share"),
        ("05c", ["--held-out", "0"], "--held-out: got 0.0, expected a share"),
        ("05c", ["--parts", "0"], "--parts: got 0, expected a whole number of at least 1"),
        ("05c", ["--parts", "51"], "--batch-size: got 50, expected at least 51 rows"),
        ("05c", ["--exclude", "x"], "--exclude: it is for tables in memory; name --columns"),
        ("05c", ["--missing", "drop"], "--missing: it is for tables in memory"),
        ("05c", ["--outcome", "x"], "--outcome: it is for tables in memory"),
        ("05c", ["--patches", "8"], "--patches: it is for tables in memory"),
        ("05c", ["--columns", "x,x"], "--columns: 'x' is named twice"),
        (
            "05c",
            ["--guide", "amortised"],
            "amortised is not fitted to shards; expected amortized; did you mean 'amortized'?",
        ),
        ("05c", ["--latents", "9"], "--size: got 9 latents, expected 1 to 3"),
        ("05c", ["--columns", "x,w"], "no column 'w'; there are x, y, z"),
        ("01", [], "--batch-size: no such option of 01_inference_as_optimisation"),
    ],
)
def test_what_cannot_be_streamed_is_refused(folder, tmp_path, recipe, words, told):
    place = tmp_path / "run"
    words = ["--data", folder, "--batch-size", 50, "--out", place, *words]
    result = run("fit", recipe, *words)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "nowhere", "--batch-size", 9], "error: nowhere: no such folder"),
        (["--data", ".", "--batch-size", 9], "error: .: expected a folder of Parquet files"),
        (["--batch-size", 9], "--batch-size: it is for --data with a folder of Parquet files; giv"),
        (["--data", "walks", "--batch-size", 0], "--batch-size: got 0, expected a whole number of"),
    ],
)
def test_what_is_no_folder_or_no_size_is_refused(folder, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    words = [folder if word == "walks" else word for word in words]
    result = run("fit", "05c", *words)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_shards_that_have_changed_are_another_run(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "walks")
    words = ["--max-steps", 40, "--latents", 1, "--batch-size", 64, "--held-out", 0.01]
    words = ["fit", "05c", "--data", tmp_path / "walks", *words, "--draws", 10]
    words += ["--out", tmp_path / "run"]

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(outcome, "diagnose", stopped)
        assert run(*words).exit_code == 130
    drawn = []
    with monkeypatch.context() as patched:
        patched.setattr(
            report, "plot_bounds", lambda *a, **k: drawn.append(a) or plot_bounds(*a, **k)
        )
        result = run(*words, "--out", tmp_path / "other", "--seed", 1)
    assert result.exit_code == 0
    losses, final, _ = drawn[0][0]["amortized"]
    assert final == pytest.approx(-losses[-10:].mean(), abs=1.5)  # of a row, both
    frame = pd.read_parquet(tmp_path / "walks" / "1.parquet")
    frame.loc[7, "y"] += 100.0
    frame.to_parquet(tmp_path / "walks" / "1.parquet", row_group_size=80)
    result = run(*words)
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert "was written with another content of the shards; remove it to begin anew" in told
    result = run(*words, "--out", tmp_path / "other", "--seed", 1)
    assert result.exit_code == 2
    assert "other has another run, of 05c" in " ".join(result.output.split())


@pytest.mark.parametrize(("first", "told"), [(True, ""), (False, "--held-out: got 0.0")])
def test_of_several_processes_the_first_that_fails_says_so(folder, monkeypatch, first, told):
    words = ["fit", "05c", "--data", folder, "--batch-size", 50, "--held-out", 0]
    monkeypatch.setattr(ranks, "world", lambda: (1, 2))

    def gathered(found, own):
        found[:] = [first, own]

    monkeypatch.setattr(ranks.dist, "all_gather_object", gathered)
    result = run(*words)
    assert result.exit_code == 2
    assert told in result.output
    assert bool(told) == bool(result.output)


def test_the_bound_of_other_rows_is_drawn_beside_the_fits():
    losses = np.linspace(9.0, 5.0, 400)
    for held_out, inside in ((True, True), (False, False)):
        axes = plot_bounds({"encoder": (losses, -2.0, None)}, "x", held_out=held_out).axes[0]
        low, high = axes.get_ylim()
        assert low < -2.0 < high
        assert (low < axes.lines[0].get_ydata()[-1] < high) == inside
    figure = plot_bounds({"encoder": (losses, -2.0, None)}, "x", held_out=True)
    assert list(figure.axes[0].lines[1].get_ydata()) == [-2.0, -2.0]
    assert figure.axes[0].get_ylabel() == "ELBO a row (nats)"


def test_its_page_says_whose_numbers_are_whose(done):
    page = (done[0] / "report.html").read_text("utf-8")
    told = " ".join(page.split())
    assert "690 rows and 3 columns of walks" in told
    assert "judged on the 10 rows held out" in told
    assert "nats on the 10 rows held out. Of the rows fitted: " in told
    assert "pyro-cookbook predict" in told
    assert "pyro-cookbook reproduce" not in told


def test_a_file_is_no_folder_of_shards(folder):
    result = run("fit", "05c", "--data", folder / "0.parquet", "--batch-size", 50)
    assert result.exit_code == 2
    assert "--batch-size: it is for --data with a folder of Parquet files" in result.output


def test_several_processes_stream_and_one_does_not(folder, monkeypatch):
    recipe = catalogue.recipe("05c")
    assert streaming.streaming(recipe, None, str(folder), {}, {}, 0) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert streaming.streaming(recipe, None, str(folder), {}, {}, 0) is not None
    with pytest.raises(data.InputError, match="torchrun: it is for --data with a folder"):
        streaming.streaming(recipe, None, None, {}, {}, 0)


def test_constant_columns_are_named(folder, tmp_path):
    for path in folder.iterdir():
        pd.read_parquet(path).assign(one=1.0).to_parquet(tmp_path / path.name)
    result = run("fit", "05c", "--data", tmp_path, "--batch-size", 50)
    assert result.exit_code == 2
    assert "column 'one' is constant" in " ".join(result.output.split())
