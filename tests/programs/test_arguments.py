"""Which argument holds the observations is seen in a run, not in the values."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_cookbook.programs.arguments import (
    holders,
    named_arguments,
    observed_arguments,
    with_arguments,
)
from pyro_cookbook.programs.program import Program

ONES = torch.ones(20)


def poisson(exposure, counts=None):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(exposure), dim=-1):
        return pyro.sample("y", dist.Poisson(rate * exposure), obs=counts)


def model_of(see):
    """A model that observes `see(y)`, a function of its argument."""

    def model(x, y=None):
        seen = see(y)
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(loc + 0 * seen, 1.0).to_event(seen.dim()), obs=seen)

    return model


Y = torch.arange(1.0, 7.0)
X = Y.clone()


@pytest.mark.parametrize("swap", [False, True])
def test_arguments_of_equal_value_are_told_apart(swap):
    if swap:

        def model(counts, exposure):
            return poisson(exposure, counts)

        assert observed_arguments(Program(model, (ONES, ONES))) == {"y": "counts"}
    assert observed_arguments(Program(poisson, (ONES, ONES))) == {"y": "counts"}
    assert observed_arguments(Program(poisson, (ONES,), {"counts": ONES})) == {"y": "counts"}
    swapped = Program(poisson, (), {"counts": ONES, "exposure": ONES})
    assert observed_arguments(swapped) == {"y": "counts"}


@pytest.mark.parametrize(
    "see",
    [
        lambda y: y,
        lambda y: y.float(),  # which it is
        lambda y: y[:],
        lambda y: y.reshape(-1),
        lambda y: y.reshape(2, 3),
        lambda y: y[:, None],
        lambda y: y.detach(),
    ],
)
def test_an_argument_under_another_shape_is_the_argument(see):
    assert observed_arguments(Program(model_of(see), (X, Y))) == {"obs": "y"}


@pytest.mark.parametrize(
    "see",
    [
        lambda y: y.log(),
        lambda y: y[torch.arange(6)],  # equal, and a choice of rows
        lambda y: y[1:],
        lambda y: y[:1],
        lambda y: y[::2],
        lambda y: y.reshape(2, 3).T,
        lambda y: y.flip(0),
        lambda y: y.double(),
        lambda y: y + 0,
        lambda y: y.clone(),
        lambda y: Y,  # a constant of equal value
    ],
)
def test_what_a_model_makes_of_its_argument_is_not_the_argument(see):
    with pytest.raises(ValueError, match=r"no argument holds the value of observed site 'obs'"):
        observed_arguments(Program(model_of(see), (X, Y)))
    assert holders(Program(model_of(see), (X, Y))) == {"obs": None}


def test_an_argument_that_is_changed_in_place_is_not_what_was_given():
    def centring(x, y):
        y -= y.mean()
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(loc, 1.0).expand([6]).to_event(1), obs=y)

    before = Y.clone()
    with pytest.raises(ValueError, match="no argument holds"):
        observed_arguments(Program(centring, (X, Y)))
    assert torch.equal(before, Y)


def test_missing_values_are_equal_to_themselves():
    y = torch.tensor([1.0, torch.nan, 2.0])

    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=~torch.isnan(y)):
            pyro.sample("obs", dist.Normal(loc, 1.0).expand([3]), obs=y)

    assert observed_arguments(Program(model, (y,))) == {"obs": "y"}


def test_an_observation_mask_leaves_the_argument_observed():
    def model(y, seen):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 6, dim=-1):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y, obs_mask=seen)

    assert observed_arguments(Program(model, (Y, Y > 2))) == {"y_observed": "y"}


def test_numpy_arrays_are_followed_where_torch_shares_their_memory():
    def model(x, y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(loc, 1.0).expand([6]), obs=torch.as_tensor(y))

    y = np.arange(6.0)
    assert observed_arguments(Program(model, (y, y))) == {"obs": "y"}
    np.testing.assert_array_equal(y, np.arange(6.0))


def test_every_site_has_its_argument_and_several_may_have_one():
    def model(a, b, c):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        for name, value in (("first", c), ("second", a), ("third", c)):
            pyro.sample(name, dist.Normal(loc, 1.0).expand([6]), obs=value)

    found = observed_arguments(Program(model, (Y, Y, Y)))
    assert found == {"first": "c", "second": "a", "third": "c"}


def test_latents_computed_values_and_factors_are_no_observations():
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * y)
        pyro.factor("extra", -(loc**2))
        pyro.sample("obs", dist.Normal(loc, 1.0).expand([6]), obs=y)

    assert observed_arguments(Program(model, (Y,))) == {"obs": "y"}


def test_a_model_that_observes_nothing_has_no_such_argument():
    assert observed_arguments(Program(poisson, (ONES,))) == {}


def test_conditioning_is_no_argument():
    conditioned = poutine.condition(poisson, data={"y": ONES})
    assert holders(Program(conditioned, (ONES,))) == {"y": None}


class Module(nn.Module):
    def forward(self, x, *data, **named):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        for i, value in enumerate((*data, *named.values())):
            pyro.sample(f"site{i}", dist.Normal(loc, 1.0).expand([6]), obs=value)


def test_arguments_without_names_of_their_own_are_numbered():
    found = observed_arguments(Program(Module(), (Y, Y, Y), {"last": Y}))
    assert found == {"site0": "data[0]", "site1": "data[1]", "site2": "last"}
    assert list(named_arguments(Program(Module(), (1, 2, 3), {"last": 4})).items()) == [
        ("x", 1),
        ("data[0]", 2),
        ("data[1]", 3),
        ("last", 4),
    ]


def test_a_callable_that_does_not_tell_has_its_arguments_numbered():
    found = named_arguments(Program(dict, (1, 2), {"a": 3}))
    assert found == {"argument 0": 1, "argument 1": 2, "a": 3}


def test_a_model_with_an_argument_filled_in_has_the_others():
    held = functools.partial(poisson, ONES)
    assert observed_arguments(Program(held, (ONES,))) == {"y": "counts"}


def test_values_are_put_in_the_place_of_arguments():
    program = Program(Module(), (1, 2, 3), {"last": 4})
    other = with_arguments(program, {"data[1]": 30, "last": 40})
    assert (other.args, other.kwargs) == ((1, 2, 30), {"last": 40})
    other = with_arguments(Program(Module(), (1, 2), {"last": None}), {"x": None})
    assert (other.args, other.kwargs) == ((None, 2), {"last": None})
    with pytest.raises(ValueError, match=r"got 'z', expected one of those given: x, last"):
        with_arguments(program.on(1, last=4), {"z": 0})


def test_the_callers_data_and_random_state_stay_as_they_are():
    before, state = Y.clone(), torch.get_rng_state()
    observed_arguments(Program(model_of(lambda y: y), (X, Y)))
    assert torch.equal(before, Y)
    assert torch.equal(state, torch.get_rng_state())
