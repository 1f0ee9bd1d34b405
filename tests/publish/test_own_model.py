"""A reader's model on a reader's table, from outside."""

import arviz as az
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pyro_cookbook as pc
from pyro_cookbook.cli import app
from pyro_cookbook.publish.own_model import load_model

MODEL = """
import beside
import pyro
import pyro.distributions as dist
import torch


def model(dose, team, y=None, weight=1.0):
    slope = pyro.sample("slope", dist.Normal(0.0, beside.WIDE))
    with pyro.plate("team", int(team.max()) + 1):
        level = pyro.sample("level", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(dose)):
        pyro.sample("y", dist.Normal(level[team] + slope * dose, 0.5), obs=y)


class Kind:
    pass


NUMBER = 3
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    team, dose = rng.choice(["red", "blue", "green"], 60), rng.random(60)
    level = pd.Series({"blue": -1.0, "green": 0.0, "red": 2.0})
    y = level[team].to_numpy() + 3 * dose + 0.5 * rng.standard_normal(60)
    frame = pd.DataFrame({"dose": dose, "team": team, "y": y, "id": np.arange(60)})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    (tmp_path / "own.py").write_text(MODEL)
    (tmp_path / "beside.py").write_text("WIDE = 10.0\n")
    monkeypatch.chdir(tmp_path)
    return frame


def call(*arguments):
    return CliRunner().invoke(app, ["infer", *arguments])


def exact(frame):
    """Posterior of slope and levels: a normal linear model of known noise."""
    codes, kinds = pd.factorize(frame.team, sort=True)
    design = np.column_stack([frame.dose, np.eye(len(kinds))[codes]])
    precision = np.diag([1 / 100] + [1 / 25] * 3) + design.T @ design / 0.25
    covariance = np.linalg.inv(precision)
    return covariance @ design.T @ frame.y / 0.25, np.sqrt(np.diag(covariance))


def test_columns_go_to_arguments_and_the_answer_is_the_exact_one(files):
    result = call("own.py:model", "--data", "mine.csv", "--out", "out")
    assert result.exit_code == 0, result.output
    assert "team: 3 words: 0 blue, 1 green, 2 red" in result.output
    assert "not used: id" in result.output
    assert "Verdict: reliable" in result.output
    table = pd.read_csv("out/summary.csv", index_col=0)
    mean, sd = exact(files)
    names = ["slope", "level[0]", "level[1]", "level[2]"]
    np.testing.assert_allclose(table.loc[names, "mean"], mean, atol=0.25 * sd.max())
    np.testing.assert_allclose(table.loc[names, "sd"], sd, rtol=0.15)
    assert np.abs(mean).min() > 0.1 or np.abs(mean).max() > 1  # a prior's draws are elsewhere
    assert az.from_netcdf("out/fit.nc").posterior["level"].sizes["team"] == 3
    fit = pc.load("out/state.safetensors", model=load_model("own.py:model"))
    assert pc.diagnose(fit).verdict == "reliable"


@pytest.mark.parametrize(
    ("model", "table", "told"),
    [
        ("own.py", "mine.csv", "model: got 'own.py', expected a file and a function"),
        ("none.py:model", "mine.csv", "model: none.py: no such file"),
        ("own.py:modle", "mine.csv", "model: own.py has no function 'modle'; it has model"),
        ("own.py:Kind", "mine.csv", "model: own.py has no function 'Kind'; it has model"),
        ("own.py:NUMBER", "mine.csv", "model: own.py has no function 'NUMBER'; it has model"),
        ("broken.py:model", "mine.csv", "model: broken.py does not run: NameError: name 'x'"),
        ("own.py:model", "none.csv", "none.csv: no such file"),
        ("own.py:model", "renamed.csv", "renamed.csv: no column 'team', which the model takes;"
         " there are dose, teams, y, id; did you mean 'teams'?"),
        ("own.py:model", "gap.csv", "gap.csv: line 5, column 'team': got '', which is missing,"
         " expected a word (missing: 'team' 1 of 60 rows)"),
        ("own.py:model", "hole.csv", "hole.csv: line 3, column 'y': got '', which is missing,"
         " expected a number (missing: 'y' 1 of 60 rows)"),
        ("alone.py:model", "mine.csv", "mine.csv: none of its columns is an argument of the model,"
         " which takes z"),
        ("prior.py:model", "mine.csv", "model: it has no latent site"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    files, tmp_path, model, table, told
):
    files.rename(columns={"team": "teams"}).to_csv("renamed.csv", index=False)
    files.assign(team=files.team.where(files.index != 3)).to_csv("gap.csv", index=False)
    files.assign(y=files.y.where(files.index != 1)).to_csv("hole.csv", index=False)
    (tmp_path / "broken.py").write_text("x")
    (tmp_path / "alone.py").write_text("def model(z=1): pass")
    (tmp_path / "prior.py").write_text("def model(y): pass")
    result = call(model, "--data", table, "--out", "out")
    assert result.exit_code == 2, result.output
    assert told in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
