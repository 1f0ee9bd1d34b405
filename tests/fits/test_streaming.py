"""Fits to rows in files: their bound, their resumption, several processes, and what is refused."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import streamed_program
import torch
from build import exact_encoder
from pyro.infer import Trace_ELBO
from streamed_program import KILLED_AT, NUM_FACTORS, NUM_FEATURES, fit_shards, state_of

import pyro_cookbook as pc
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.algorithms.factor_analysis import em, log_evidence
from pyro_cookbook.data import Shards
from pyro_cookbook.engines.streams.source import Streamed
from pyro_cookbook.fits.keeping.tensor_files import read_tensors
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.holding import hold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """600 rows of one factor in three shards."""
    rng = np.random.default_rng(0)
    loadings, noise = rng.normal(size=(NUM_FACTORS, NUM_FEATURES)), [0.3, 0.5, 0.4, 0.6]
    rows = rng.normal(size=(600, NUM_FACTORS)) @ loadings
    rows = rows + noise * rng.normal(size=rows.shape)
    found = tmp_path_factory.mktemp("rows")
    for i, part in enumerate(np.split(rows, [130, 390])):
        frame = pd.DataFrame(part, columns=list("abcd"))
        frame.to_parquet(found / f"{i}.parquet", row_group_size=60)
    return found


@pytest.fixture(scope="module")
def whole(folder):
    """The fit that nothing interrupts, by one process in two parts."""
    return fit_shards(folder)


def run(what: str, folder: Path, checkpoint: Path, out: Path, *, processes: int = 1) -> int:
    script = streamed_program.__file__
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        launch += ["--master-port", "0", "--standalone"]
    words = [script, what, *map(str, (folder, checkpoint, out))]
    return subprocess.run([*launch, *words], capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def killed(folder, tmp_path_factory):
    """The checkpoint of a fit that was killed at a step between two saves."""
    checkpoint = tmp_path_factory.mktemp("killed") / "fit.safetensors"
    code = run("killed", folder, checkpoint, checkpoint.with_name("never.pt"))
    assert code == -signal.SIGKILL
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    state = read_tensors(checkpoint, "checkpoint")["starts"][0]
    assert len(state["losses"]) == KILLED_AT // 50 * 50
    epoch, taken = state["place"]
    assert epoch > 0
    assert 0 < taken < 540
    return checkpoint


def test_a_killed_fit_goes_on_bit_for_bit(folder, whole, killed, tmp_path):
    checkpoint = Path(shutil.copy(killed, tmp_path / "fit.safetensors"))
    again, wanted = state_of(fit_shards(folder, checkpoint)), state_of(whole)
    assert again.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(again[name], wanted[name])] == []
    assert len(again["losses"]) > KILLED_AT


def test_two_processes_are_one_up_to_rounding(folder, whole, killed, tmp_path):
    """They go on from what one has begun, in the parts of a default: one for each."""
    checkpoint = Path(shutil.copy(killed, tmp_path / "fit.safetensors"))
    assert run("both", folder, checkpoint, tmp_path / "two.pt", processes=2) == 0
    two, one = torch.load(tmp_path / "two.pt"), state_of(whole)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-9)
    assert abs(one["losses"][-1] - one["losses"][0]) > 100
    # Other parts are other random numbers.
    other = state_of(fit_shards(folder, parts=1, steps=1))
    assert (other["losses"][0] - one["losses"][0]).abs() > 1e-3


def test_the_fit_is_as_good_as_the_best(folder, whole):
    """The bound on rows held out is the evidence there, at parameters near the best for all."""
    rows = Shards(folder, held_out=0.1, dtype=torch.float64)
    (held,) = rows.held_out()
    assert torch.equal(whole.args[0], held)
    assert (len(held), len(rows)) == (60, 540)
    theta, _ = em(torch.cat([v for (v,) in rows.batches(99, seed=0, epoch=0)]), NUM_FACTORS)
    best = float(log_evidence(theta, held).sum())
    start = FactorAnalysis(NUM_FEATURES, NUM_FACTORS).double()
    loss = Trace_ELBO(num_particles=50).loss(start, exact_encoder(theta, held), held)
    assert best + loss > 50  # nats that the start lacks
    assert whole.elbo.value == pytest.approx(best, abs=1.5 + 4 * whole.elbo.se)
    assert whole.why.endswith("540 rows and 4 columns in 3 shards of " + folder.name
                              + "; 60 more rows held out")  # fmt: skip


def test_mean_bound_of_an_epoch_is_the_bound_of_all_rows(folder):
    """With the exact posterior there is no noise: batch by batch, N / B times what its rows add."""
    rows = Shards(folder, buffer=100, dtype=torch.float64)
    v = torch.cat([one for (one,) in rows.batches(100, seed=0, epoch=0)])
    theta, _ = em(v, NUM_FACTORS)
    model, guide = hold(FactorAnalysis(NUM_FEATURES, NUM_FACTORS), theta), exact_encoder(theta, v)
    batches = Streamed(Program(model, rows.held_out()), 64, rows, 0)
    total, taken = 0.0, 0
    with torch.no_grad():
        while taken < len(rows):
            one = batches.take()
            size = len(one.args[0])
            bound = -Trace_ELBO().loss(model, guide, *one.args, **one.kwargs)
            total += size / len(rows) * bound
            taken += size
    assert size < 64
    assert total == pytest.approx(float(log_evidence(theta, v).sum()), rel=1e-9)


def test_a_verdict_is_of_the_rows_held_out(whole, tmp_path):
    diagnosis = pc.diagnose(whole, num_draws=500)
    assert diagnosis.elbo.value == pytest.approx(whole.elbo.value, abs=4 * diagnosis.elbo.se + 1)
    assert len(diagnosis.table) == 60 * NUM_FACTORS
    pc.save(whole, tmp_path / "fit.safetensors")
    assert torch.equal(pc.load(tmp_path / "fit.safetensors").args[0], whole.args[0])


def test_a_checkpoint_of_other_rows_is_refused(folder, killed, tmp_path):
    other = tmp_path / "rows"
    shutil.copytree(folder, other)
    frame = pd.read_parquet(other / "2.parquet")
    frame.assign(a=frame.a + 1).to_parquet(other / "2.parquet", row_group_size=60)
    checkpoint = Path(shutil.copy(killed, tmp_path / "fit.safetensors"))
    with pytest.raises(ValueError, match=r"checkpoint: .* was written with"):
        fit_shards(other, checkpoint)


def encoder(v, num_obs=None):
    with pyro.plate("row", num_obs or len(v), subsample_size=len(v)):
        pyro.sample("h", dist.Normal(v[:, 0], 1.0))


def by_rows(v, num_obs=None):
    with pyro.plate("row", num_obs or len(v), subsample_size=len(v)):
        h = pyro.sample("h", dist.Normal(0.0, 1.0).expand([len(v)]))
        pyro.sample("v", dist.Normal(h[:, None], 1.0).expand([len(v), 4]).to_event(1), obs=v)


def with_global(v, num_obs=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", num_obs or len(v), subsample_size=len(v)):
        pyro.sample("v", dist.Normal(mu, 1.0).expand([len(v), 4]).to_event(1), obs=v)


@pytest.mark.parametrize(
    ("model", "guide", "options", "told"),
    [
        (by_rows, encoder, {}, "batch_size: expected one, as the rows are read from files"),
        (by_rows, "mean_field", {"batch_size": 9}, "guide: got 'mean_field', .* amortised guide"),
        (with_global, encoder, {"batch_size": 9}, "model: latent 'mu' is in no plate of rows"),
        (by_rows, encoder, {"batch_size": 9, "weights": torch.ones(3)}, "data: got 2 arguments"),
    ],
)
def test_what_rows_from_files_cannot_serve_is_refused(folder, model, guide, options, told):
    with pytest.raises(ValueError, match=told):
        pc.fit(model, guide, Shards(folder), **options)
