"""Constants of a graph are computed once, and it gives the same numbers to the last bit."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_cookbook.programs.density.folding import fold_constants
from pyro_cookbook.programs.density.recording import record

Z = torch.linspace(-1, 1, 3, dtype=torch.float64)


def num_operations(graph) -> int:
    return sum(node.op == "call_function" for node in graph.graph.nodes)


def both(function):
    """A graph, and one of its own that was folded."""
    with pyro.validation_enabled(False):  # it looks at values
        return record(function, Z), fold_constants(record(function, Z))


def test_a_density_and_its_gradient_keep_every_bit_in_fewer_operations():
    def log_density(z):
        prior = dist.Normal(0.0, torch.tensor(2.0, dtype=z.dtype)).expand([3]).to_event(1)
        return prior.log_prob(z) + dist.HalfCauchy(z.new_tensor(0.7)).log_prob(z.exp()).sum()

    plain, folded = both(torch.func.grad_and_value(log_density))
    for z in (Z, Z.sin(), 30 * Z, Z.new_full((3,), torch.nan)):
        for a, b in zip(folded(z), plain(z), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert num_operations(folded) < 0.8 * num_operations(plain)


def test_what_fills_a_shape_is_a_constant_of_that_value():
    def function(z):
        filled = torch.full_like(z, 0.25).sum() + torch.ones_like(z).sum()
        return z * filled + torch.zeros_like(z)

    plain, folded = both(function)
    assert torch.equal(folded(Z), plain(Z))
    assert num_operations(folded) == 2  # a product and a sum


def test_what_is_drawn_is_drawn_each_time():
    _, folded = both(lambda z: z + torch.rand(3, dtype=z.dtype))
    assert not torch.equal(folded(Z), folded(Z))


def added_in_place(z):
    total = torch.zeros(3, dtype=z.dtype)
    total.add_(1.0)
    return z * total


def put_in_place(z):
    total = torch.ones(3, dtype=z.dtype)
    total[torch.tensor([0, 2])] *= 2.0
    return z * total


def put_into_a_view(z):
    total = torch.ones(3, dtype=z.dtype)
    total[1:].mul_(2.0)
    return z * total


@pytest.mark.parametrize("function", [added_in_place, put_in_place, put_into_a_view])
def test_a_constant_that_is_changed_in_place_is_made_anew_each_time(function):
    _, folded = both(function)
    for _ in range(3):
        assert torch.equal(folded(Z), function(Z))


def test_what_depends_on_the_argument_may_be_changed_in_place():
    def function(z):
        value = z.square().sub_(torch.tensor(2.0, dtype=z.dtype).log())
        value[z < 0] = -torch.inf
        return value

    _, folded = both(function)
    for z in (Z, -Z, Z.abs()):
        assert torch.equal(folded(z), function(z))


def test_a_constant_that_is_returned_is_returned():
    def function(z):
        return z.sum(), torch.tensor([4.0]).log().exp()

    plain, folded = both(function)
    for a, b in zip(folded(Z), plain(Z), strict=True):
        assert torch.equal(a, b)
