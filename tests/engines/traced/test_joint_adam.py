"""Adam on joined parameters: torch's own is the oracle."""

import pytest
import torch

from pyro_cookbook.engines.traced.adam import LARGE, Adam

SHAPES = [(), (3,), (7, 5), (1000,)]


def gradients(step: int, shapes=SHAPES) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=rng) * 10.0 ** (step % 5 - 3) for shape in shapes]


def leaves(shapes=SHAPES) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(99)
    return [torch.randn(shape, generator=rng).requires_grad_() for shape in shapes]


def by_torch(steps, given=gradients, shapes=SHAPES, **options):
    own = leaves(shapes)
    optimizer = torch.optim.Adam(own, lr=0.03, **options)
    for step in steps:
        for parameter, gradient in zip(own, given(step), strict=True):
            parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = 0.03 / (1 + step // 4)
        optimizer.step()
    return own, optimizer


def by_ours(steps, given=gradients, shapes=SHAPES):
    own = leaves(shapes)
    optimizer = Adam(own, 0.03)
    go_on(optimizer, steps, given)
    return own, optimizer


def go_on(optimizer, steps, given=gradients):
    for step in steps:
        assert optimizer.take(given(step))
        for group in optimizer.param_groups:
            group["lr"] = 0.03 / (1 + step // 4)
        optimizer.step()


def equal(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


def test_small_parameters_move_as_torchs_do_bit_for_bit():
    ours, optimizer = by_ours(range(12))
    theirs, reference = by_torch(range(12))
    assert equal(ours, theirs)
    assert not equal(ours, leaves())
    state = optimizer.state_dict()
    assert state["param_groups"] == reference.state_dict()["param_groups"]
    for i, one in reference.state_dict()["state"].items():
        assert equal(one.values(), state["state"][i].values())


def test_a_parameter_without_a_gradient_stays_and_does_not_count_the_step():
    def given(step):
        found = gradients(step)
        return [None if step in {0, 5, 6} and i == 2 else g for i, g in enumerate(found)]

    assert equal(by_ours(range(12), given)[0], by_torch(range(12), given)[0])


def test_steps_go_on_from_a_saved_state_that_later_steps_leave_alone():
    whole, _ = by_ours(range(12))
    first, optimizer = by_ours(range(6))
    state, values = optimizer.state_dict(), [p.detach().clone() for p in first]
    go_on(optimizer, range(6, 9))
    own = leaves()
    with torch.no_grad():
        for parameter, value in zip(own, values, strict=True):
            parameter.copy_(value)
    second = Adam(own, 0.03)
    second.load_state_dict(state)
    go_on(second, range(6, 12))
    assert equal(own, whole)
    assert not equal(own, first)


def test_large_parameters_move_by_torchs_fused_kernel():
    shapes = [(LARGE + 1,), (4,)]
    given = lambda step: gradients(step, shapes)  # noqa: E731
    ours, optimizer = by_ours(range(6), given, shapes)
    fused, _ = by_torch(range(6), given, shapes, fused=True)
    plain, _ = by_torch(range(6), given, shapes)
    assert torch.equal(ours[0], fused[0])
    assert torch.equal(ours[1], plain[1])
    torch.testing.assert_close(ours[0], plain[0])
    assert [group.get("fused") for group in optimizer.param_groups] == [None, True]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("done", [0, 3])
def test_a_gradient_that_is_no_number_is_told_before_anything_moves(bad, which, done):
    shapes = [(LARGE + 1,), (4,)]
    own, optimizer = by_ours(range(done), lambda step: gradients(step, shapes), shapes)
    before = [p.detach().clone() for p in own]
    given = gradients(done, shapes)
    given[which][2] = bad
    assert not optimizer.take(given)
    assert equal(before, [p.detach() for p in own])
