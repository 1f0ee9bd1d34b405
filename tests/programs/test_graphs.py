"""Batches computed as a graph: the same numbers as without, and only where it is the same."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_cookbook.programs.density import graphs, unconstrained
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program


@pytest.fixture(autouse=True)
def graphs_at_once(monkeypatch):
    monkeypatch.setattr(unconstrained, "CALLS_BEFORE", 3)


def density_of(model, *args):
    return UnconstrainedDensity(Program(model, args).wide)


def called(density, z, times):
    return [density.value_and_grad(z) for _ in range(times)]


def regression(x, y):
    slope = pyro.sample("slope", dist.StudentT(4.0, x.new_zeros(()), 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(x.new_tensor(1.0)))
    z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(2), scale * torch.eye(2).to(x)))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Poisson((slope * x + z.sum()).exp()), obs=y)


def test_a_graph_gives_the_numbers_of_the_model():
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    density = density_of(regression, x, torch.arange(7.0, dtype=torch.float64))
    z = np.random.default_rng(0).standard_normal((5, density.dim))
    eager, *others = called(density, z, 5)
    assert list(density._graphs._kept) == [(5, density.dim)]
    for found in others:
        for a, b in zip(found, eager, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    # At other vectors too, and of another number there is no graph yet.
    other = np.random.default_rng(1).standard_normal((5, density.dim))
    both = density.value_and_grad(other), [density.value_and_grad(row[None]) for row in other]
    for part in (0, 1):
        np.testing.assert_allclose(
            both[0][part], np.concatenate([one[part] for one in both[1]]), rtol=1e-12
        )


def test_evaluations_are_counted_with_and_without_a_graph():
    density = density_of(lambda: pyro.sample("h", dist.Normal(torch.zeros(3), 1.0).to_event(1)))
    before = density.evaluations
    called(density, np.zeros((4, 3)), 6)
    assert density.evaluations - before == 24


def test_a_model_that_branches_has_no_graph():
    def model():
        h = pyro.sample("h", dist.Normal(torch.zeros(()), 1.0))
        if h > 0:
            pyro.factor("f", -h)

    density = density_of(model)
    z = np.array([[-1.0], [1.0]])
    for value, gradient in called(density, z, 6):
        np.testing.assert_allclose(gradient[:, 0], [1.0, -2.0])
        assert value[1] - value[0] == pytest.approx(-1.0)
    assert not density._graphs._kept


def test_a_singular_matrix_at_one_vector_spoils_no_other():
    def model():
        h = pyro.sample("h", dist.Normal(torch.zeros(()), 1.0))
        matrix = torch.eye(2).to(h) * (1 + h)
        pyro.factor("f", -torch.linalg.cholesky(matrix).diagonal().log().sum())

    density = density_of(model)
    called(density, np.array([[0.0], [1.0]]), 4)
    assert density._graphs._kept
    value, gradient = density.value_and_grad(np.array([[1.0], [-3.0]]))
    assert np.isfinite(value[0])
    assert value[1] == -np.inf
    # d/dh of −h²/2 − log(1 + h) at 1.
    assert gradient[0, 0] == pytest.approx(-1.5)


def test_few_calls_find_the_vectors_of_singular_matrices():
    calls = 0

    def model():
        nonlocal calls
        calls += 1
        h = pyro.sample("h", dist.Normal(torch.zeros(()), 1.0))
        matrix = torch.eye(2).to(h) * (1 + h)
        pyro.factor("f", -torch.linalg.cholesky(matrix).diagonal().log().sum())

    density = density_of(model)
    z = np.linspace(0, 1, 256)[:, None]
    z[[100, 200]] = -3.0
    expected = -(z[:, 0] ** 2) / 2 - np.log1p(np.abs(z[:, 0])) - np.log(2 * np.pi) / 2
    expected[[100, 200]] = -np.inf
    calls = 0
    np.testing.assert_allclose(density.value(z), expected, rtol=1e-6)
    assert calls < 2 * 2 * 9  # two vectors, eight halvings, and the vectors themselves
    assert not density.obstacle


def test_an_operator_without_a_trace_is_named_and_the_model_is_computed(monkeypatch):
    density = density_of(lambda: pyro.sample("h", dist.Normal(torch.zeros(()), 1.0)))

    def fail(*_):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(graphs, "record", fail)
    (first, *_, last) = called(density, np.ones((2, 1)), 5)
    for a, b in zip(first, last, strict=True):
        np.testing.assert_array_equal(a, b)
    assert density._graphs.obstacle == "RuntimeError: no such"
