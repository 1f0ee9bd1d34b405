"""Networks that functions refer to and register by `pyro.module`: the caller's stay untrained."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_cookbook as pc
from pyro_cookbook.programs.state.isolation import isolated

Y = torch.linspace(-1.0, 2.0, 20)


def model(y: Tensor) -> None:
    with pyro.plate("row", len(y)):
        h = pyro.sample("h", dist.Normal(torch.zeros_like(y), 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def guide_with(net: nn.Module):
    def guide(y: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("row", len(y)):
            pyro.sample("h", dist.Normal(net(y[:, None])[:, 0], 0.7))

    return guide


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def model(self, y: Tensor) -> None:
        model(y)

    def guide(self, y: Tensor) -> None:
        guide_with(self.net)(y)


@pytest.fixture
def net() -> nn.Module:
    return nn.Linear(1, 1)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def draws(fit: pc.Fit) -> np.ndarray:
    return pc.to_datatree(fit, num_draws=20).posterior["h"].values


def test_a_fit_leaves_the_network_as_it_was_and_keeps_its_own_weights(net):
    before, parameters = weights(net), list(net.parameters())
    parameters[0].grad = torch.ones(1, 1)
    fit = pc.fit(model, guide_with(net), Y, max_steps=200)
    assert same(weights(net), before)
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert parameters[0].grad.item() == 1
    learnt = fit.param_state["params"]["net$$$weight"]
    assert isinstance(learnt, nn.Parameter)
    # q's mean is y/2 at the optimum; within the noise of Adam's steps
    assert learnt.item() == pytest.approx(0.5, abs=0.2)
    assert abs(before["weight"].item() - 0.5) > 0.2


def test_a_second_fit_starts_where_the_first_did_and_does_not_reach_it(net):
    guide = guide_with(net)
    one = pc.fit(model, guide, Y, max_steps=50)
    found, bound = draws(one), pc.diagnose(one, num_draws=100).elbo.value
    two = pc.fit(model, guide, Y, max_steps=50)
    assert np.array_equal(one.losses, two.losses)
    other = pc.fit(model, guide, 4 - 3 * Y, max_steps=50)
    assert not np.array_equal(draws(other), found)
    assert np.array_equal(draws(one), found)
    assert pc.diagnose(one, num_draws=100).elbo.value == bound


@pytest.mark.parametrize("make", [lambda *data: pc.fit(*data, max_steps=20), pc.as_fit])
def test_later_training_of_the_network_does_not_reach_the_fit(make, net):
    fit = make(model, guide_with(net), Y)
    found = draws(fit)
    with torch.no_grad():
        net.weight.fill_(9.0)
    assert np.array_equal(draws(fit), found)
    assert not np.array_equal(draws(make(model, guide_with(net), Y)), found)


@pytest.mark.parametrize("kind", ["function", "method"])
def test_a_saved_fit_has_its_weights(kind, tmp_path):
    def programs():
        if kind == "function":
            return model, guide_with(nn.Linear(1, 1))
        own = Autoencoder()
        return own.model, own.guide

    fit = pc.fit(*programs(), Y, max_steps=50)
    pc.save(fit, tmp_path / "fit.safetensors")
    new_model, new_guide = programs()
    loaded = pc.load(tmp_path / "fit.safetensors", model=new_model, guide=new_guide)
    assert np.array_equal(draws(loaded), draws(fit))


def test_weights_are_lent_for_a_block_and_blocks_nest(net):
    guide, before = guide_with(net), weights(net)
    with isolated(0) as outer:
        guide(Y)
        with torch.no_grad():
            net.weight.fill_(3.0)
        with isolated(0):
            guide(Y)
            with torch.no_grad():
                net.weight.fill_(5.0)
        assert net.weight.item() == 3
    assert same(weights(net), before)
    with isolated(0, outer):
        assert same(weights(net), before)  # until it is registered
        guide(Y)
        assert net.weight.item() == 3
    assert same(weights(net), before)
    assert outer["params"]["net$$$weight"].item() == 3
    assert list(pyro.get_param_store().keys()) == []


def test_weights_are_put_back_after_an_error(net):
    guide, before = guide_with(net), weights(net)

    def fail() -> None:
        with isolated(0):
            guide(Y)
            with torch.no_grad():
                net.weight.fill_(3.0)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert same(weights(net), before)
    guide(Y)
    assert pyro.get_param_store()._params["net$$$weight"] is net.weight
    pyro.clear_param_store()


def test_starts_of_one_fit_begin_at_the_caller_s_weights(net):
    """Each in a block of its own."""
    guide, losses = guide_with(net), []
    for _ in range(2):
        with isolated(0):
            guide(Y)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            loss = pyro.infer.Trace_ELBO().loss_and_grads(model, guide, Y)
            optimizer.step()
        losses.append(loss)
    assert losses[0] == losses[1]
    assert net.weight.grad is None
