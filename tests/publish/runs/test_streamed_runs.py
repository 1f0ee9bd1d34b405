"""`pyro-cookbook fit` on a folder of shards: streamed when it is asked for, judged, written."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_cookbook import catalogue, data
from pyro_cookbook.cli import app
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
        ("05c", ["--held-out", "2"], "held_out: got 2.0, expected a share"),
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
