"""A run applied to new rows and made again, from the command line and in a fresh process."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.mixture import GaussianMixture
from typer.testing import CliRunner

from pyro_cookbook.cli import app
from pyro_cookbook.publish.runs.folder import read_record
from pyro_cookbook.publish.runs.reproducing import compared

MODEL = """
import pyro
import pyro.distributions as dist


def model(dose, team, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    with pyro.plate("team", 3):
        level = pyro.sample("level", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(dose)):
        pyro.sample("y", dist.Normal(level[team] + slope * dose, 0.5), obs=y)
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def flat(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """A table of lengths in mm and weights in kg, and a mixture fitted to it."""
    place = tmp_path_factory.mktemp("clusters")
    rng = np.random.default_rng(0)
    rows = np.concatenate([
        rng.multivariate_normal([1500, 40], [[900, 20], [20, 4]], 60),
        rng.multivariate_normal([1900, 70], [[400, 0], [0, 9]], 40),
    ])  # fmt: skip
    frame = pd.DataFrame(rows, columns=["length", "weight"])
    frame.to_csv(place / "mine.csv", index=False)
    done = call(
        "fit", "02", "--data", place / "mine.csv", "--components", 2, "--out", place / "run",
        "--draws", 20,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return place, frame


def test_new_rows_get_the_probabilities_of_their_clusters_in_any_units_order_and_file(clusters):
    place, frame = clusters
    new = frame.iloc[::-7][["weight", "length"]].assign(note="x")
    new.to_csv(place / "new.csv", index=False, sep=";", decimal=",")
    done = call("predict", place / "run", "--data", place / "new.csv", "--out", place / "p.csv")
    assert done.exit_code == 0, done.output
    found = pd.read_csv(place / "p.csv", index_col="row")
    peer = GaussianMixture(2, tol=1e-8, max_iter=1000, reg_covar=1e-12, random_state=0)
    peer.fit(frame.to_numpy())
    exact = peer.predict_proba(new[["length", "weight"]].to_numpy())
    ours = found[["P[0]", "P[1]"]].to_numpy()
    order = [0, 1] if abs(ours - exact).max() < abs(ours[:, ::-1] - exact).max() else [1, 0]
    np.testing.assert_allclose(ours[:, order], exact, atol=1e-4)
    assert exact.max(0).min() > 0.9  # rows of both
    assert list(found.index) == list(range(len(new)))


def test_a_fresh_process_predicts_the_same_to_parquet(clusters):
    place, _ = clusters
    code = "from pyro_cookbook.cli import app; app()"
    arguments = ["predict", "run", "--data", "mine.csv", "--out", "p.parquet"]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=place, check=True)
    done = call("predict", place / "run", "--data", place / "mine.csv", "--out", place / "q.csv")
    assert done.exit_code == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(place / "p.parquet"), pd.read_csv(place / "q.csv", index_col="row"),
        rtol=1e-14,
    )  # fmt: skip


def test_a_run_is_reproduced_bit_for_bit_and_a_change_is_told(clusters, monkeypatch):
    place, frame = clusters
    frame.iloc[:50].to_csv(place / "mine.csv", index=False)  # the rows are kept with the run
    done = call("reproduce", place / "run")
    assert done.exit_code == 0, done.output
    assert re.search(r"the same numbers: \d+ arrays, bit for bit", done.output)
    frame.to_csv(place / "mine.csv", index=False)

    from pyro_cookbook.publish.runs import reproducing

    again = reproducing.run_guide

    def other(*args, **options):
        return again(*args, **{**options, "seed": 1})

    monkeypatch.setattr(reproducing, "run_guide", other)
    done = call("reproduce", place / "run")
    assert done.exit_code == 1
    assert re.search(r"other numbers: \d+ of \d+ arrays differ", done.output)
    assert "versions: the same" in done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["predict", "none", "--data", "mine.csv", "--out", "p.csv"], "none: no such folder"),
        (["predict", ".", "--data", "mine.csv", "--out", "p.csv"], "no run's folder: it has no"),
        (["predict", "run", "--data", "mine.csv", "--out", "p.xlsx"], "ends in .csv or .parquet"),
        (["predict", "run", "--data", "mine.csv", "--out", "run"], "ends in .csv or .parquet"),
        (["predict", "run", "--data", "one.csv", "--out", "p.csv"], "no column 'weight'"),
        (["predict", "run", "--data", "gap.csv", "--out", "p.csv"], "gap.csv: line 3, column"),
        (["predict", "run", "--data", "no.csv", "--out", "p.csv"], "no.csv: no such file"),
        (["predict", "run", "--data", "mine.csv", "--model", "a.py:m", "--out", "p.csv"],
         "--model: the run is of the recipe 02_expectation_maximisation; leave it out"),
        (["predict", "bent", "--data", "mine.csv", "--out", "p.csv"], "changed since the run"),
        (["reproduce", "bent"], "changed since the run"),
        (["reproduce", "edited"], "edited/summary.csv: changed since the run"),
        (["reproduce", "none"], "none: no such folder"),
        (["fit", "02", "--data", "mine.csv", "--components", "3", "--out", "run"],
         "--out: run has another run, of 02_expectation_maximisation (exact) on 'mine', seed 0,"
         " size 2 (now 3); choose another folder, or --overwrite"),
        (["fit", "02", "--data", "mine.csv", "--out", "mine.csv"], "is a file, expected a folder"),
        (["fit", "02", "--data", "mine.csv", "--component", "3"],
         "--component: no such option of 02_expectation_maximisation; it has --components; did you"
         " mean '--components'?"),
        (["fit", "02", "--data", "mine.csv", "--components", "three"],
         "--components: got 'three', expected a whole number"),
        (["fit", "02", "--data", "mine.csv", "--components"], "--components: expected a value"),
        (["fit", "02", "--components", "2", "--components", "3"], "--components: given twice"),
        (["fit", "04c_log", "--coefficient-scale", "-1"], "expected a positive number"),
        (["fit", "04c_log", "--coeficient-scale", "1"], "did you mean '--coefficient-scale'?"),
        (["fit", "02", "--colums", "a"], "did you mean '--columns'?"),
        (["fit", "02", "--guide", "exakt"], "did you mean 'exact'?"),
        (["fit", "02", "--data", "mine.csv", "--columns", "length,,weight"],
         "--columns: got 'length,,weight', expected names separated by commas"),
        (["fit", "02", "--missing", "drop", "--separator", ";"], "--separator: it is about --data"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_written(arguments, told, clusters, monkeypatch):
    place, frame = clusters
    monkeypatch.chdir(place)
    frame[["length"]].to_csv("one.csv", index=False)
    gap = frame.copy()
    gap.iloc[1, 1] = np.nan
    gap.to_csv("gap.csv", index=False)
    if not (place / "bent").exists():
        (place / "bent").mkdir()
        for path in (place / "run").iterdir():
            content = bytearray(path.read_bytes())
            if path.suffix == ".safetensors":
                content[-1] ^= 1
            if path.suffix == ".nc":
                content[len(content) // 2] ^= 1
            (place / "bent" / path.name).write_bytes(content)
        shutil.copytree(place / "run", place / "edited")
        with (place / "edited" / "summary.csv").open("a") as file:
            file.write("\n")
    before = sorted(path.name for path in place.iterdir())
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert told in flat(done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A reader's own model on a table with words, answered."""
    place = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    team, dose = rng.choice(["red", "blue", "green"], 60), rng.random(60)
    level = pd.Series({"blue": -1.0, "green": 0.0, "red": 2.0})
    y = level[team].to_numpy() + 3 * dose + 0.5 * rng.standard_normal(60)
    frame = pd.DataFrame({"dose": dose, "team": team, "y": y})
    frame.to_csv(place / "mine.csv", index=False)
    (place / "own.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        done = call("infer", "own.py:model", "--data", "mine.csv", "--out", "run")
    assert done.exit_code == 0, done.output
    return place, frame


def test_an_own_model_predicts_and_is_made_again(own, monkeypatch):
    place, frame = own
    monkeypatch.chdir(place)
    new = pd.DataFrame({"team": ["red", "blue", "red"], "dose": [0.0, 0.5, 1.0]})
    new.to_csv("new.csv", index=False)
    model = ("--model", "own.py:model")
    done = call("predict", "run", "--data", "new.csv", "--out", "p.csv", *model)
    assert done.exit_code == 0, done.output
    found = pd.read_csv("p.csv", index_col="row")
    codes, _ = pd.factorize(frame.team, sort=True)
    design = np.column_stack([frame.dose, np.eye(3)[codes]])
    covariance = np.linalg.inv(np.diag([1 / 100] + [1 / 25] * 3) + design.T @ design / 0.25)
    rows = np.column_stack([new.dose, np.eye(3)[[2, 0, 2]]])
    mean = rows @ covariance @ design.T @ frame.y / 0.25
    sd = np.sqrt(0.25 + (rows @ covariance * rows).sum(1))
    error = sd / np.sqrt(1000)
    np.testing.assert_allclose(found["y mean"], mean, atol=5 * error.max())
    np.testing.assert_allclose(found["y sd"], sd, rtol=0.15)
    assert np.ptp(mean) > 10 * error.max()
    assert (found["y lower"] < found["y mean"]).all()
    done = call("reproduce", "run", *model)
    assert done.exit_code == 0, done.output
    assert "bit for bit" in done.output
    assert read_record(place / "run").versions["torch"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "mine.csv"], "--model: the run is of own.py:model; name the file and the"),
        (["--data", "blues.csv", "--model", "own.py:model"],
         "blues.csv: line 3, column 'team': got 'blues', which the fit has not seen; it has blue,"
         " green, red (1 such of 60 rows)"),
        (["--data", "no_dose.csv", "--model", "own.py:model"], "no_dose.csv: no column 'dose'"),
        (["--data", "mine.csv", "--model", "changed.py:model"],
         "model: its source has changed since the fit"),
        (["--data", "mine.csv", "--model", "own.py:modle"], "has no function 'modle'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_an_own_model_is_one_line(arguments, told, own, monkeypatch):
    place, frame = own
    monkeypatch.chdir(place)
    blues = frame.assign(team=frame.team.where(frame.index != 1, "blues"))
    blues.to_csv("blues.csv", index=False)
    frame[["team"]].to_csv("no_dose.csv", index=False)
    (place / "changed.py").write_text(MODEL.replace("0.5)", "0.6)"))
    done = call("predict", "run", "--out", "q.csv", *arguments)
    assert done.exit_code == 2, done.output
    assert told in flat(done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (place / "q.csv").exists()


def test_differences_are_measured_in_sds():
    draws = np.random.default_rng(0).standard_normal((1, 1000, 2)) * [1.0, 5.0]

    def tree(values):
        array = xr.DataArray(values, dims=("chain", "draw", "k"))
        return xr.DataTree.from_dict({"posterior": xr.Dataset({"x": array})})

    assert compared(tree(draws), tree(draws)) == (1, 1, 0.0)
    arrays, equal, largest = compared(tree(draws), tree(draws + np.array([0.0, 1.0])))
    assert (arrays, equal) == (1, 0)
    assert largest == pytest.approx(0.2, rel=0.1)
