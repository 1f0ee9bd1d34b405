"""Graphs with fewer operations: the function that was traced is the oracle, bit for bit."""

import pytest
import torch

from pyro_cookbook.programs.density import simplifying
from pyro_cookbook.programs.density.recording import record
from pyro_cookbook.programs.density.simplifying import (
    as_function,
    pass_over_order,
    simplify,
    written_constants,
)

X, Y = torch.tensor([0.5, -1.25, 3.0]), torch.tensor([2.0, 0.1, -0.7])
KEPT = torch.zeros(3)


def idle(x, y):
    return (x.expand(3).view(3) * 1 / 1 - 0.0).neg().neg() + y.detach()


def twice(x, y):
    return (x - y) ** 2 + (x - y) ** 2 / 3 + (x - y).sum().sum()


def numbers(x, y):
    return 2 * x + 0.3, y / 7 - 1.5, torch.where(x > 0, -torch.inf, y)


def constants(x, y):
    scale = torch.tensor(3.0)
    return x / scale**2 - scale.log() + torch.zeros_like(y)


def points(x, y):
    return (x == x.expand(3)).to(x).log() + y


def draws(x, y):
    return x * torch.randn(3) + torch.randn(3), torch.empty(3).normal_() + y, torch.rand(3)


def in_place(x, y):
    new = x + y
    new.masked_fill_(x > 0, 2.5)
    return new * 2


def through_a_view(x, y):
    new = x + y
    view = new[:2]
    new.mul_(3.0)
    return view + 1, new


def read_after(x, y):
    new = x + y
    new.add_(1.0)
    return new * y


def unseen_orders(x, y):
    """Two permutations of as many numbers that nobody looks at, one that somebody does."""
    torch.randperm(1000)
    torch.randperm(1000)[:20]
    torch.randperm(1)
    return x[torch.randperm(3)] + torch.randn(3), y


CASES = [
    idle,
    twice,
    numbers,
    constants,
    points,
    draws,
    unseen_orders,
    in_place,
    through_a_view,
    read_after,
]


def test_an_order_that_nobody_looks_at_is_not_made():
    assert operations(unseen_orders).count(pass_over_order) == 3
    assert operations(unseen_orders).count(torch.ops.aten.randperm.default) == 1


def test_where_orders_take_other_numbers_they_are_made(monkeypatch):
    monkeypatch.setattr(simplifying, "takes_as_many", lambda: False)
    assert operations(unseen_orders).count(torch.ops.aten.randperm.default) == 4


def test_passing_over_orders_takes_as_many_numbers_up_to_the_most():
    for num in (1, 2, 313, 624, 2**16, simplifying._FEW):
        torch.manual_seed(num)
        torch.randperm(num)
        expected = torch.get_rng_state()
        torch.manual_seed(num)
        pass_over_order(num)
        assert torch.equal(torch.get_rng_state(), expected)


def leaves(values):
    return list(values) if isinstance(values, tuple) else [values]


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_numbers_and_random_numbers_stay(function):
    graph = record(function, X, Y)
    run = as_function(simplify(graph))
    for x, y in ((X, Y), (Y, 3 * X)):
        torch.manual_seed(3)
        expected, after = leaves(function(x, y)), torch.get_rng_state()
        for again in (run, graph):
            torch.manual_seed(3)
            found = leaves(again(x, y))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert torch.equal(torch.get_rng_state(), after)


def operations(function):
    graph = simplify(record(function, X, Y))
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_what_changes_nothing_is_gone():
    aten = torch.ops.aten
    assert operations(idle) == [aten.add.Tensor]
    assert operations(twice).count(aten.sub.Tensor) == 1
    assert aten.sum.default in operations(twice)
    assert operations(twice).count(aten.sum.default) == 1
    assert operations(points) == [aten.add.Tensor]
    assert operations(in_place) == [
        aten.add.Tensor, aten.gt.Scalar, aten.masked_fill.Scalar, aten.mul.Tensor,
    ]  # fmt: skip
    assert operations(draws).count(aten.randn.default) == 3  # each draw is another
    assert aten.mul_.Tensor in operations(through_a_view)


def test_what_a_graph_writes_into_is_named():
    def keeps(x):
        KEPT.add_(x)
        return KEPT * 2

    assert len(written_constants(record(keeps, X))) == 1
    assert written_constants(record(in_place, X, Y)) == []
