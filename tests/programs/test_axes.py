"""What moving one scalar does to the log density, for all of them: as one by one, in fewer runs."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_cookbook.programs.density import axes
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program

GROUPS = 130
GROUP = (torch.arange(3 * GROUPS) * 7) % GROUPS


def nested(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    with pyro.plate("group", GROUPS, dim=-2):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("each", 3, dim=-1):
            pyro.sample("y", dist.Normal(mu + tau * theta, 1.0), obs=y.reshape(GROUPS, 3))


def indexed(y):
    """Groups by an index, which no plate tells; scales as well as locations."""
    with pyro.plate("group", GROUPS):
        loc = pyro.sample("loc", dist.StudentT(3.0, 0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(loc[GROUP], scale[GROUP]), obs=y)


def vectors(y):
    """Three scalars for each group, which one prior binds together."""
    prior = dist.MultivariateNormal(torch.zeros(3), 0.5 * torch.eye(3) + 0.5)
    with pyro.plate("group", GROUPS):
        a = pyro.sample("a", prior)
        pyro.sample("y", dist.Normal(a, 1.0).to_event(1), obs=y.reshape(GROUPS, 3))


def walk(y):
    """Every scalar in all later terms."""
    steps = pyro.sample("steps", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(steps.cumsum(0), 1.0), obs=y)


def pairs(y):
    """Neighbours meet in a term: no two of a plate are independent."""
    with pyro.plate("row", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x + x.roll(1), 1.0), obs=y)


MODELS = {nested: True, indexed: True, vectors: True, walk: False, pairs: False}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def density_of(model):
    torch.manual_seed(0)
    return UnconstrainedDensity(Program(model, (torch.randn(3 * GROUPS),)))


def alone(density, z, moves):
    """Compute the rises as they are defined: D densities of D terms."""
    return density.value(z + np.diag(moves)) - density.value(z[None])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("length", [1e-2, 1.0, 1e3, 1e9])
def test_rises_are_those_of_each_scalar_alone(model, length):
    density = density_of(model)
    rng = np.random.default_rng(1)
    z = 0.3 * rng.standard_normal(density.dim)
    moves = length * rng.uniform(-2, 2, density.dim)
    exact = alone(density, z, moves)
    # Sums of hundreds of terms in another order; effects below 1e-6 of a term are not seen.
    np.testing.assert_allclose(axes.rises(density, z, moves), exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("model", "at_once"), MODELS.items())
def test_sites_of_independent_entries_cost_a_few_runs(model, at_once, monkeypatch):
    density = density_of(model)
    runs = []
    plain = axes._terms

    def counted(density, points):
        runs.append(len(points))
        return plain(density, points)

    monkeypatch.setattr(axes, "_terms", counted)
    before = density.evaluations
    axes.rises(density, np.zeros(density.dim), np.ones(density.dim))
    one_by_one = density.evaluations - before
    assert (one_by_one < 10) == at_once  # the few global ones, and the point itself
    assert max(runs, default=0) <= 2 + 2 * 9  # eight digits tell 130 apart, nine 390


def test_one_flat_entry_of_many_is_seen():
    def loose(y):
        with pyro.plate("group", GROUPS):
            a = pyro.sample("a", dist.ImproperUniform(constraints.real, (), ()))
            seen = torch.ones(GROUPS)
            seen[77] = 0.0
            pyro.sample("y", dist.Normal(a * seen, 1.0), obs=y[:GROUPS])

    density = density_of(loose)
    rise = axes.rises(density, np.zeros(density.dim), np.full(density.dim, 1e3))
    assert rise[77] == 0
    assert (np.delete(rise, 77) < -1e5).all()
