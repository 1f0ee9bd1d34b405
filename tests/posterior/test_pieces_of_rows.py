"""Weights of many rows: summed up in parts, drawn in groups, kept on disk, and the peak of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.posterior import importance, on_disk
from pyro_cookbook.posterior.importance import weigh
from pyro_cookbook.programs.density import log_density as densities
from pyro_cookbook.verdict import by_chains

Y = torch.linspace(-2.0, 2.0, 7, dtype=torch.float64)
P = torch.tensor([0.3, 0.7], dtype=torch.float64)


def groups(y):
    """p(y_r | mu) is N(mu, 5)."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    with pyro.plate("group", len(y), dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


def groups_guide(y):
    """Exact in theta given mu."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.2), 0.9))
    with pyro.plate("group", len(y), dim=-1):
        pyro.sample("theta", dist.Normal((4 * mu + y) / 5, 0.8**0.5))


def alone(y):
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def alone_guide(y):
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("h", dist.Normal(y / 2 + 0.2, 0.8))


def states(y):
    a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Categorical(P))
        pyro.sample("y", dist.Normal(2.0 * h + a, 1.0), obs=y)


def states_guide(y):
    pyro.sample("a", dist.Normal(y.new_tensor(-0.4), 0.5))
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("h", dist.Categorical(logits=torch.stack([0 * y, y], -1)))


PAIRS = [(groups, groups_guide), (alone, alone_guide), (states, states_guide)]


def weights_of(pair, num_draws=50, **options):
    return weigh(pc.as_fit(*pair, Y), num_draws, **options)


@pytest.fixture
def small_parts(monkeypatch):
    """Densities of a few draws at a time, and all that is large on disk."""
    monkeypatch.setattr(densities, "CHUNK_SCALARS", 4 * 30 * 5)
    monkeypatch.setattr(on_disk, "ON_DISK", 100)
    monkeypatch.setattr(on_disk, "_COLUMNS", 100)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("apart", [True, False])
def test_parts_of_the_draws_have_the_weights_of_all_at_once(pair, apart, request):
    whole = weights_of(pair, sum_rows_out=apart)
    evidence = whole.evidence()
    request.getfixturevalue("small_parts")
    found = weights_of(pair, sum_rows_out=apart)
    for name, value in whole.draws.values.items():
        assert torch.equal(found.draws.values[name], value)
    for name in ("joint", "rows", "shared"):
        ours, other = getattr(found, name), getattr(whole, name)
        assert (ours is None) == (other is None)
        if ours is not None:
            np.testing.assert_allclose(ours, other, rtol=1e-12)
    if found.states is not None:
        np.testing.assert_allclose(found.states.log_p, whole.states.log_p, rtol=1e-12)
        np.testing.assert_allclose(found.states.guide, whole.states.guide, rtol=1e-12)
    assert found.evidence().value == pytest.approx(evidence.value, rel=1e-12)
    assert found.evidence().se == pytest.approx(evidence.se, rel=1e-9)


@pytest.fixture
def small_groups(monkeypatch, small_parts):
    """As where the draws would fill more than a gigabyte: a few are drawn at a time."""
    monkeypatch.setattr(importance, "_MAX_SCALARS", 1)
    monkeypatch.setattr(importance, "_GROUP_SCALARS", 600)
    monkeypatch.setattr(importance, "_FEWEST", 50)


def test_draws_in_groups_have_the_weights_of_their_own_latents(small_groups):
    weights = weights_of((groups, groups_guide))
    values = {name: value.numpy() for name, value in weights.draws.values.items()}
    mu, theta, y = values["mu"][:, None], values["theta"], Y.numpy()
    assert len(np.unique(mu)) == len(np.unique(theta)) / len(y) == 50
    rows = stats.norm.logpdf(y, mu, 5**0.5)  # constant over theta
    np.testing.assert_allclose(weights.rows, rows, atol=1e-9)
    outside = (stats.norm.logpdf(mu, 0, 5) - stats.norm.logpdf(mu, 0.2, 0.9))[:, 0]
    np.testing.assert_allclose(weights.joint, rows.sum(1) + outside, atol=1e-9)
    np.testing.assert_allclose(weights.shared, rows.sum(1) + outside, atol=1e-9)
    some = weights_of((states, states_guide))
    log_p = np.log(P.numpy()) + stats.norm.logpdf(
        y[:, None], 2 * np.arange(2) + some.draws.values["a"].numpy()[:, None, None]
    )
    np.testing.assert_allclose(some.states.log_p, log_p, atol=1e-9)
    again = weights_of((states, states_guide))
    np.testing.assert_array_equal(again.joint, some.joint)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_verdict_does_not_depend_on_the_pieces(pair, request, monkeypatch):
    monkeypatch.setattr(by_chains, "num_chains", lambda *_, **__: 0)
    fit = pc.as_fit(*pair, Y)
    whole = pc.diagnose(fit, num_draws=230)
    request.getfixturevalue("small_parts")
    found = pc.diagnose(fit, num_draws=230)
    assert (found.verdict, found.reasons, found.advice) == (
        whole.verdict, whole.reasons, whole.advice,
    )  # fmt: skip
    assert found.khats == pytest.approx(whole.khats, rel=1e-10)
    assert found.bad_rows == whole.bad_rows
    np.testing.assert_allclose(found.table, whole.table, rtol=1e-12)


def test_columns_come_in_pieces_and_mapped_pages_are_read_again(monkeypatch):
    monkeypatch.setattr(on_disk, "ON_DISK", 100)
    monkeypatch.setattr(on_disk, "_COLUMNS", 12)
    values = np.arange(40.0).reshape(4, 10)
    filled = on_disk.Filled(values.shape, values.dtype, shared=True)
    filled.write(slice(0, 4), values)
    found = list(on_disk.by_columns(filled.array))
    assert [part.shape[1] for _, part in found] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([part for _, part in found], axis=1), values)
    assert [part.shape[1] for _, part in on_disk.by_columns(values, copies=3)] == [1] * 10
    filled.array[0, 0] = 7.0
    on_disk.let_go()
    assert filled.array[0, 0] == 7.0  # what is shared lies in the file


# --- the peak -------------------------------------------------------------------------------------

SCRIPT = """
import pyro, pyro.distributions as dist, torch
import pyro_cookbook as pc
from benchmarks.harness.memory import above

ROWS = 200_000
x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
y = x.sum(1) + torch.randn(ROWS, generator=torch.Generator().manual_seed(1))
precision = torch.eye(4) + x.T @ x
loc = torch.linalg.solve(precision, x.T @ y)

def model(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

def guide(x, y):
    pyro.sample("w", dist.MultivariateNormal(loc, precision_matrix=precision))

pc.diagnose(pc.as_fit(model, guide, x[:500], y[:500]), num_draws=100, progress=False)
fit = pc.as_fit(model, guide, x, y)
found, rise = above(lambda: pc.diagnose(fit, num_draws=200, progress=False))
print(found.verdict, rise)
"""


def test_a_verdict_on_many_rows_fills_no_more_than_a_few_draws_of_them():
    """A density for each of 200 draws and row fills 320 MB, and was held twice."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    verdict, rise = done.stdout.split()
    assert verdict == "reliable"
    assert float(rise) < 200  # MB
