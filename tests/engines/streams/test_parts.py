"""A mini-batch in parts has the bound and the gradient of the whole, whoever computes which."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from pyro_cookbook.engines.batches import Batches
from pyro_cookbook.engines.streams import parts as module
from pyro_cookbook.engines.streams import ranks
from pyro_cookbook.engines.streams.parts import Parts
from pyro_cookbook.engines.streams.source import FirstRows, Streamed
from pyro_cookbook.programs.program import Program


class Scaled(PyroModule):
    """h_n ~ N(0, 1), v_n ~ N(a h_n + Σ unit, 1): `unit` has as many entries as a batch has rows."""

    def __init__(self):
        super().__init__()
        self.a = PyroParam(torch.tensor(0.7, dtype=torch.float64))
        self.idle = PyroParam(torch.zeros(2, dtype=torch.float64))

    def forward(self, v: Tensor, unit: Tensor, num_obs: int | None = None) -> None:
        assert unit.shape == (6,)  # never cut
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(v), 1.0))
            pyro.sample("v", dist.Normal(self.a * h + unit.sum(), 1.0), obs=v)


class Point(PyroModule):
    """q is a normal at b v_n, whose draws are noise that a seed decides; without an sd a point."""

    def __init__(self, sd: float):
        super().__init__()
        self.b = PyroParam(torch.tensor(0.3, dtype=torch.float64))
        self.sd = sd

    def forward(self, v: Tensor, unit: Tensor, num_obs: int | None = None) -> None:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v)):
            loc = self.b * v
            pyro.sample("h", dist.Normal(loc, self.sd) if self.sd else dist.Delta(loc))


def setting(sd: float):
    rows = torch.linspace(-1, 2, 50, dtype=torch.float64)
    model, guide = Scaled(), Point(sd)
    batches = Batches(Program(model, (rows, torch.full((6,), 0.1))), 6)
    batch = batches.take()
    params = [*model.parameters(), *guide.parameters()]

    def estimate(one: Program) -> tuple[float, list[Tensor | None]]:
        for p in params:
            p.grad = None
        loss = float(Trace_ELBO().loss_and_grads(model, guide, *one.args, **one.kwargs))
        return loss, [p.grad for p in params]

    return batches, batch, params, estimate


def flat(gradients, params) -> Tensor:
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                      for p, g in zip(params, gradients, strict=True)])  # fmt: skip


@pytest.mark.parametrize("num", [1, 2, 4, 6])
def test_parts_add_up_to_the_whole(num):
    """Without noise: six rows in parts of one, two or more."""
    batches, batch, params, estimate = setting(0.0)
    loss, gradients = estimate(batch)
    whole = flat(gradients, params)
    assert whole[0].abs() > 1
    found, gradients = Parts(num, 6, batches.names).run(estimate, batch, params)
    assert found == pytest.approx(loss, rel=1e-10)
    torch.testing.assert_close(flat(gradients, params), whole, rtol=1e-9, atol=1e-9)
    alone, none = Parts(num, 6, batches.names).run(lambda one: (estimate(one)[0], []), batch, ())
    assert (alone, none) == (found, [])


def test_a_ragged_batch_has_fewer_parts():
    batches, batch, params, estimate = setting(0.0)
    few = batch.on(batch.args[0][:3], batch.args[1], **batch.kwargs)
    assert [len(one.args[0]) for _, _, one in Parts(6, 6, batches.names).own(few)] == [1, 1, 1]
    loss, gradients = estimate(few)
    found, others = Parts(6, 6, batches.names).run(estimate, few, params)
    assert found == pytest.approx(loss, rel=1e-10)
    torch.testing.assert_close(flat(others, params), flat(gradients, params), rtol=1e-9, atol=1e-9)


def test_processes_add_up_to_one(monkeypatch):
    """Each computes its own parts with their own noise: the sums are those of one process."""
    batches, batch, params, estimate = setting(0.5)
    torch.manual_seed(4)
    loss, found = Parts(4, 6, batches.names).run(estimate, batch, params)
    whole, after = flat(found, params), torch.get_rng_state()
    losses, gradients = [], []
    for rank in range(2):
        monkeypatch.setattr(ranks, "world", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(ranks, "total", lambda values: values)
        torch.manual_seed(4)
        part, found = Parts(4, 6, batches.names).run(estimate, batch, params)
        losses.append(part)
        gradients.append(flat(found, params))
        assert torch.equal(torch.get_rng_state(), after)
    assert sum(losses) == pytest.approx(loss, rel=1e-14)
    torch.testing.assert_close(sum(gradients), whole, rtol=1e-13, atol=1e-13)
    torch.manual_seed(5)
    assert abs(Parts(4, 6, batches.names).run(estimate, batch, params)[0] - loss) > 0.1


def test_two_steps_have_other_noise():
    batches, batch, params, estimate = setting(0.5)
    parts = Parts(2, 6, batches.names)
    first, second = (parts.run(estimate, batch, params)[0] for _ in range(2))
    assert abs(first - second) > 1e-3


def test_too_few_parts_or_rows_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"batch_size: got 3, expected at least 4 rows"):
        Parts(4, 3, {0})
    monkeypatch.setattr(module.ranks, "world", lambda: (0, 3))
    with pytest.raises(ValueError, match=r"parts: got 2, expected .* each of 3 processes"):
        Parts(2, 100, {0})
    assert Parts(None, 100, {0}).num == 3


class Numbers:
    """A source of the numbers 0, 1, …, in an order turned by the epoch."""

    num_rows, parts = 10, None

    def batches(self, size, *, seed, epoch, start=0):
        rows = torch.arange(10.0).roll(epoch + seed)[start:]
        return ((one,) for one in rows.split(size))

    def sample(self, num, seed):
        return (torch.arange(10.0)[:num],)


def test_streamed_batches_go_through_epochs_and_from_any_place():
    def opened():
        return Streamed(Program(print, (torch.zeros(2),), {"unit": 3.0}), 4, Numbers(), 0)

    streamed = opened()
    places, taken = [], []
    for _ in range(7):
        places.append(streamed.place)
        taken.append(streamed.take())
    assert [len(one.args[0]) for one in taken] == [4, 4, 2, 4, 4, 2, 4]
    assert taken[0].kwargs == {"unit": 3.0, "num_obs": 10}
    assert places[3:5] == [[0, 10], [1, 4]]
    for place, wanted in zip(places, taken, strict=True):
        other = opened()
        other.place = place
        assert torch.equal(other.take().args[0], wanted.args[0])
    streamed.rewind()
    assert torch.equal(streamed.take().args[0], taken[6].args[0])
    assert len(streamed.some(2).args[0]) == 8
    assert streamed.some(9).kwargs["num_obs"] == 10


def test_plates_do_not_permute_all_rows():
    """Billions of them would not fit; and no random number is drawn for it."""

    def model(v, num_obs):
        with pyro.plate("row", num_obs, subsample_size=len(v)):
            pyro.sample("v", dist.Normal(0.0, 1.0), obs=v)
        with pyro.plate("other", 3) as index:
            assert index.tolist() == [0, 1, 2]

    before = torch.get_rng_state()
    trace = poutine.trace(FirstRows()(model)).get_trace(torch.zeros(4), 10**13)
    assert torch.equal(torch.get_rng_state(), before)
    assert trace.nodes["v"]["scale"] == 10**13 / 4
