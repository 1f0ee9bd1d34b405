"""Ctrl-C at the command line: what is kept, and how to go on."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import pyro_cookbook as pc
from pyro_cookbook.cli import app
from pyro_cookbook.fits.keeping.tensor_files import read_tensors, write_tensors
from pyro_cookbook.publish import outcome

runner = CliRunner()
QUICK = ("fit", "04c_log", "--guide", "map", "--draws", 50)
STEM = "04c_logistic_regression-map"


def call(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def command(*arguments):
    """Run the command line as a terminal does: what a shell starts behind ignores Ctrl-C."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " from pyro_cookbook.cli import app; app()"
    )
    return [sys.executable, "-c", code, *map(str, arguments)]


def interrupted(arguments, out):
    """Press Ctrl-C once a state is kept; give the exit code, what was said, the state's file."""
    run = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"TQDM_DISABLE": "1"},
    )  # fmt: skip
    while (
        not (kept := list(out.with_name("out.unfinished").glob("*.safetensors")))
        and run.poll() is None
    ):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    told = run.communicate(timeout=600)[0].decode()
    return run.returncode, told, kept


def test_ctrl_c_keeps_the_fit_so_far_and_the_same_command_goes_on(tmp_path):
    rows = torch.randn(20, generator=torch.Generator().manual_seed(0)).numpy()
    pd.DataFrame({"x": rows}).to_csv(tmp_path / "mine.csv", index=False)
    out = tmp_path / "out"
    fit = ("fit", "04b", "--data", tmp_path / "mine.csv", "--out", out)

    returncode, told, kept = interrupted(fit, out)
    assert returncode == 130
    assert " ".join(told.split()).endswith(
        f"interrupted; the fit so far is kept in {kept[0]}; the same command goes on from there"
    )
    assert not out.exists()

    content = read_tensors(kept[0], "checkpoint")
    done = content["starts"][0]["losses"]
    assert len(done) >= 500
    done[0] = 12345.0  # to know it by
    write_tensors(content, kept[0])
    result = call(*fit)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv", "out"]
    resumed = pc.load(out / "state.safetensors").losses
    assert len(resumed) > len(done)
    np.testing.assert_array_equal(resumed[: len(done)], done)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("pyro_cookbook.catalogue.topics.logistic_regression.newton", "nothing was kept"),
        ("pyro_cookbook.publish.outcome.diagnose", "the fit is kept in {}, not judged yet"),
        ("pyro_cookbook.publish.outcome.to_datatree", "the fit is kept in {}, not judged yet"),
    ],
)
def test_ctrl_c_elsewhere_tells_what_is_kept(where, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(where, raising(KeyboardInterrupt()))
    result = call(*QUICK, "--out", tmp_path / "out")
    assert result.exit_code == 130
    files = list(tmp_path.glob("out.unfinished/*"))
    assert len(files) == ("judged" in kept)
    assert result.output.strip() == f"interrupted; {kept.format(*files)}"
    assert not (tmp_path / "out").exists()


def test_ctrl_c_in_a_run_tells_how_many_fits_are_written(tmp_path, monkeypatch):
    judge = outcome.diagnose

    def second(fit, **options):
        if fit.family.endswith("Laplace"):
            raise KeyboardInterrupt
        return judge(fit, **options)

    monkeypatch.setattr(outcome, "diagnose", second)
    result = call("run", "04c_log", "--out", tmp_path, "--draws", 10)
    assert result.exit_code == 130
    (kept,) = (tmp_path / "unfinished").iterdir()
    told = (
        f"interrupted; 1 of 4 fits are written; of the next, the fit is kept in {kept},"
        " not judged yet"
    )
    assert told in result.output
    assert (tmp_path / STEM / "fit.nc").exists()
