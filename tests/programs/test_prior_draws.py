"""Starts of climbs: draws of a prior, proper or not, and angles turned to one copy."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program


def test_angles_are_turned_to_the_copy_that_is_nearest():
    def model():
        pyro.sample("angle", dist.VonMises(torch.zeros((), dtype=torch.float64), 2.0))
        pyro.sample("x", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))

    density, turn = UnconstrainedDensity(Program(model)), 2 * np.pi
    for turns in (-3, -1, 0, 2):
        z = np.array([0.5 + turns * turn, 40.0])
        np.testing.assert_allclose(density.nearest_copy(z, np.array([3.0, 0.0])), [0.5, 40.0])


def test_improper_priors_are_drawn_around_0_in_units_of_1_and_of_the_data():
    """Every other draw has the data's root mean square for sd; positive latents never have it."""

    def model(y):
        loc = pyro.sample("loc", dist.ImproperUniform(constraints.real, (), ()))
        scale = pyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, scale), obs=y)

    y = torch.tensor([3e3, -4e3, 5e3, 0.0], dtype=torch.float64)
    size = float(y.square().mean().sqrt())
    draws = UnconstrainedDensity(Program(model, (y,))).prior_draws(800)
    assert draws.shape == (800, 2)
    error = 4 / np.sqrt(2 * 400)  # of an sd, relative
    np.testing.assert_allclose(draws[::2].std(0), [1.0, 1.0], rtol=error)
    np.testing.assert_allclose(draws[1::2].std(0), [size, 1.0], rtol=error)
