"""Where climbs start and end: curvature, modes, valleys, and what is no start."""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import some_centre
from pyro.distributions import constraints

import pyro_cookbook as pc
from pyro_cookbook.engines import climbing
from pyro_cookbook.engines.choosing import Mode
from pyro_cookbook.engines.climbing import _diagonal, look
from pyro_cookbook.engines.deterministic import _pack_start, _unpack_start
from pyro_cookbook.engines.multistart import (
    Improper,
    Start,
    _refuse_flat,
    _same,
    dispersed,
    find_start,
    has_valley,
)
from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program

ORIGIN = torch.zeros((), dtype=torch.float64)


def test_an_estimated_curvature_stays_above_zero():
    """Of 64 random signs: a small entry beside large ones is noise, of either sign."""

    large, small, joint = 100.0, 1e-3, 0.1
    precision = np.kron([[large, joint], [joint, small]], np.eye(10))
    assert np.linalg.eigvalsh(precision)[0] > 0
    density = SimpleNamespace(dim=20, hvp=lambda z, v: -(v @ precision))
    diagonal = _diagonal(density, np.zeros(20))
    assert (diagonal > 0).all()
    np.testing.assert_allclose(diagonal[:10], large, rtol=joint / large)  # signs square to 1


def test_a_start_comes_back_from_a_checkpoint_whole():

    mode = Mode(-3.0, 1.0, 5, 0.0, "h", (0.5, 2.0))
    start = Start(some_centre(2, 0, dense=True), (mode,), lost=3)
    back = _unpack_start(_pack_start(start))
    assert (back.modes, back.lost) == ((mode,), 3)
    np.testing.assert_array_equal(back.centre.coordinates.root, start.centre.coordinates.root)
    np.testing.assert_array_equal(back.centre.z, start.centre.z)


def test_a_turn_apart_is_the_same_mode():

    def model():
        pyro.sample("angle", dist.VonMises(torch.zeros((), dtype=torch.float64), 2.0))

    density = UnconstrainedDensity(Program(model))
    here, turned = look(density, np.zeros(1)), look(density, np.full(1, 2 * np.pi))
    assert _same(density, turned, here)
    assert not _same(density, look(density, np.full(1, 3.0)), here)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_density_that_is_level_on_one_side_is_improper(sign):
    def model(_):
        x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        pyro.factor("hill", -((sign * x).clamp(max=1.0) ** 2) / 2 + 0 * ORIGIN)

    with pytest.raises(ValueError, match=r"improper: the log density does not fall along .* 'x'"):
        pc.fit(model, "full_rank", ORIGIN)


def test_a_valley_is_seen_between_two_hills_and_not_on_one():

    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        hills = torch.stack(
            [dist.Normal(-ORIGIN - 2, 1.0).log_prob(x), dist.Normal(2.0, 1.0).log_prob(x)]
        )
        pyro.factor("hills", torch.logsumexp(hills, 0))

    density = UnconstrainedDensity(Program(model))
    left, right, beyond = (np.array([x]) for x in (-2.0, 2.0, 3.0))
    assert has_valley(density, left, right)
    assert has_valley(density, left, beyond)
    assert not has_valley(density, right, beyond)


def test_a_mode_whose_gaussian_has_no_density_is_no_start():
    """Level to 1e-8 within [−1, 1], nothing outside: the curvature's sd is 10 000."""

    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        wall = torch.where(x.abs() < 1, 0.0, -torch.inf)
        pyro.factor("box", wall - 1e-8 * x**2 / 2 + 0 * ORIGIN)

    start = find_start(UnconstrainedDensity(Program(model)), 4, seed=0)
    assert start.modes == ()
    assert start.centre.scale.max() < 10


def test_no_two_starts_are_the_same_under_a_flat_prior():
    """Such a prior gives one value many times where it is asked for draws."""

    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.positive, (2,), ()).to_event(1))
        pyro.sample("y", dist.Normal(x, ORIGIN + 1.0).to_event(1), obs=torch.ones(2) + ORIGIN)

    points = dispersed(UnconstrainedDensity(Program(model)), 100, 0)
    assert len(points) > 20
    assert len(np.unique(points, axis=0)) == len(points)


def test_a_climb_in_a_neck_ends_after_one_round(monkeypatch):
    """The density rises without end, and a Newton step promises more the farther the climb is."""

    def model():
        tau = pyro.sample("tau", dist.HalfNormal(ORIGIN + 5.0))
        pyro.sample("h", dist.Normal(ORIGIN, tau).expand([20]).to_event(1))

    found = []

    def counted(density, z):
        found.append(look(density, z))
        return found[-1]

    monkeypatch.setattr(climbing, "look", counted)
    end = climbing.climb(UnconstrainedDensity(Program(model)), np.r_[1.0, np.full(20, 0.5)])
    assert not end.is_mode
    assert len(found) == 2
    assert found[1].decrement > found[0].decrement
    assert found[1].log_density > found[0].log_density + 20


def test_a_start_without_a_density_does_not_keep_others_from_climbing():
    """Its wall once stood in the sum of all, 200 digits high, in which no other's climb showed."""

    class OneSided:
        def value_and_grad(self, z):
            inside = z[:, 0] > 0
            value = np.where(inside, -((z - 3.0) ** 2).sum(1), -np.inf)
            return value, np.where(inside[:, None], -2 * (z - 3.0), np.nan)

    starts = np.array([[-1.0, 5.0], [1.0, 5.0], [9.0, -2.0]])
    coordinates = Coordinates(np.zeros(2), np.ones(2))
    with np.errstate(all="raise"):
        ends = climbing.ascend(OneSided(), starts, coordinates, 50)
        alone = climbing.ascend(OneSided(), starts[:1], coordinates, 50)
    assert np.abs(starts[1:] - 3.0).max() > 1
    np.testing.assert_allclose(ends[1:], 3.0, atol=1e-5)
    np.testing.assert_array_equal(ends[0], starts[0])
    np.testing.assert_array_equal(alone, starts[:1])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_latent_of_many_that_is_flat_on_one_side_is_refused(sign):
    num, where = 700, 456  # more than 600: the whitening is a diagonal

    def model(flat):
        with pyro.plate("row", num):
            h = pyro.sample("h", dist.ImproperUniform(constraints.real, (), ()))
            ends = flat & (sign * h > 0)  # there it falls by half a nat, and no further
            pyro.factor("fit", -(h**2) / 2 / torch.where(ends, 1 + h**2, 1.0))

    for flat in (torch.zeros(num, dtype=torch.bool), torch.arange(num) == where):
        density = UnconstrainedDensity(Program(model, (flat,)))
        end = look(density, np.zeros(num))
        assert end.is_mode
        if not flat.any():
            _refuse_flat(density, end)
            continue
        with pytest.raises(Improper, match=rf"improper.*'h\[{where}\]'"):
            _refuse_flat(density, end)
