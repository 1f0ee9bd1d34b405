"""Advice at the command line names what is there."""

import pandas as pd
import torch
from typer.testing import CliRunner

from pyro_cookbook.cli import app
from pyro_cookbook.publish.runs.folder import read_record


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_advice_can_be_typed_and_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double() @ torch.tensor(
        [[1.0, 0.9], [0.0, 0.5]], dtype=torch.float64
    )
    pd.DataFrame(rows.numpy(), columns=["a", "b"]).to_csv("mine.csv", index=False)
    fit = ("fit", "01", "--guide", "amortized", "--data", "mine.csv", "--factors", "1")
    done = call(*fit, "--max-steps", "60", "--out", "short", "--draws", "20")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "raise --max-steps" in said
    assert "elbo=" not in said
    assert "(fit)" not in said
    assert "raise --max-steps" in (tmp_path / "short" / "report.html").read_text("utf-8")
    assert read_record(tmp_path / "short").options["max_steps"] == 60
    done = call(*fit, "--max-steps", "4000", "--out", "long", "--draws", "20")
    assert "raise --max-steps" not in " ".join(done.output.split())


def test_steps_are_for_guides_that_are_fitted_by_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("fit", "02", "--max-steps", "10", "--out", "run")
    assert done.exit_code == 2
    assert done.stderr.strip() == "error: --max-steps: exact is not fitted by steps; leave it out"
    assert list(tmp_path.iterdir()) == []
