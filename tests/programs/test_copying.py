"""Copies of programs and param stores: whatever is trained later, the fit is as it was."""

import functools
import itertools
import threading

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, config_enumerate
from pyro.infer.autoguide import AutoGuideList, AutoIAFNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_cookbook as pc
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.copying import (
    copy_as_trained,
    copy_programs,
    copy_store,
    modules_of,
)

Y = torch.linspace(-1.0, 2.0, 20)


@pytest.fixture(autouse=True)
def store_cleared(seeded_and_global_state_left_alone):
    """Loops of Pyro's own leave their parameters in it."""
    yield
    pyro.clear_param_store()


# Pyro's own default, whatever the suite has set.
stock = functools.partial(pyro.settings.context, module_local_params=False)
local = functools.partial(pyro.settings.context, module_local_params=True)


class Model(PyroModule):
    """y ~ N(h, noise), h ~ N(0, 1), with the noise to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = PyroParam(torch.tensor(1.0), constraint=constraints.positive)
        self.inner = PyroModule()
        self.inner.shift = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor | None = None) -> None:
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 20):
            pyro.sample("y", dist.Normal(h + self.inner.shift, self.noise), obs=y)


class Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))
        self.scale = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"h": pyro.sample("h", dist.Normal(self.loc, self.scale))}


class Autoencoder(nn.Module):
    """Model and guide as two methods of one module, as in Pyro's tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(1, 1), nn.Linear(1, 1)

    def model(self, y: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("row", len(y)):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(y), 1.0))
            pyro.sample("y", dist.Normal(self.decoder(h[:, None])[:, 0], 1.0), obs=y)

    def guide(self, y: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("row", len(y)):
            pyro.sample("h", dist.Normal(self.encoder(y[:, None])[:, 0], 0.5))


def plain(y: Tensor) -> None:
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def plain_guide(y: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    pyro.sample("h", dist.Normal(pyro.param("loc", torch.tensor(0.3)), scale))


def train(model, guide, steps: int = 20) -> None:
    """A loop of Pyro's own; its optimisers do not take parameters that modules keep."""
    if not pyro.settings.get("module_local_params"):
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(steps):
            svi.step(Y)
        return
    guide(Y)  # an automatic guide makes its parameters when it is first called
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        Trace_ELBO().loss_and_grads(model, guide, Y)
        optimizer.step()


def draws(fit: pc.Fit) -> np.ndarray:
    return pc.to_datatree(fit, num_draws=50).posterior["h"].values


def state(*programs) -> dict[str, Tensor]:
    return {
        f"{i}.{j}.{name}": value.clone()
        for i, program in enumerate(programs)
        for j, module in enumerate(modules_of(program))
        for name, value in module.state_dict().items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


# --- later training ----------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [stock, local])
@pytest.mark.parametrize(
    "build", [lambda: (Model(), Guide()), lambda: (plain, AutoNormal(plain))], ids=["own", "auto"]
)
def test_later_training_of_modules_does_not_reach_the_fit(build, setting):
    with setting():
        model, guide = build()
        train(model, guide)
        fit = pc.as_fit(model, guide, Y)
        before, found = state(fit.model, fit.guide), draws(fit)
        train(model, guide)
        assert not same(state(fit.guide), state(guide))
        assert same(state(fit.model, fit.guide), before)
        assert np.array_equal(draws(fit), found)


def test_later_training_of_the_store_does_not_reach_the_fit():
    with stock():
        train(plain, plain_guide)
    fit = pc.as_fit(plain, plain_guide, Y)
    loc, found = fit.param_state["params"]["loc"].clone(), draws(fit)
    with stock():
        train(plain, plain_guide)
    assert pyro.param("loc").item() != loc.item()
    assert fit.param_state["params"]["loc"].equal(loc)
    assert np.array_equal(draws(fit), found)


def test_a_store_that_is_given_is_copied_too():
    plain_guide(Y)
    given = pyro.get_param_store().get_state()
    pyro.clear_param_store()
    fit = pc.as_fit(plain, plain_guide, Y, param_state=given)
    with torch.no_grad():
        given["params"]["loc"].fill_(77.0)
    assert fit.param_state["params"]["loc"].item() == pytest.approx(0.3)


def test_methods_of_one_module_are_copied_with_it():
    """`fit` neither trains the caller's weights nor tears the two methods apart."""
    vae = Autoencoder()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    fit = pc.fit(vae.model, vae.guide, Y, max_steps=50)
    assert same(dict(vae.state_dict()), before)
    assert fit.model.__self__ is fit.guide.__self__
    assert fit.model.__self__ is not vae
    assert not same(dict(fit.model.__self__.state_dict()), before)
    again = pc.fit(vae.model, vae.guide, Y, max_steps=50)
    assert np.array_equal(again.losses, fit.losses)


# --- what is copied ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: functools.partial(module, y=Y),
        lambda module: poutine.condition(module, data={"h": torch.tensor(0.0)}),
        lambda module: module.forward,
        lambda module: poutine.scale(functools.partial(module), scale=2.0),
    ],
    ids=["partial", "handler", "method", "nested"],
)
def test_modules_are_found_and_copied_inside_what_wraps_them(wrap):
    module = Model()
    assert modules_of(wrap(module)) == [module]
    own, _ = copy_programs(Program(wrap(module), (Y.double(),)))
    (inside,) = modules_of(own.function)
    assert inside is not module
    assert {p.dtype for p in inside.parameters()} == {torch.float64}
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_functions_and_names_have_no_modules_and_stay():
    assert modules_of(plain) == modules_of("auto") == modules_of(None) == []
    program = Program(plain)
    assert copy_programs(program, "auto") == (program, "auto")


def test_without_float_data_the_dtype_stays():
    own, _ = copy_programs(Program(Model().double(), (torch.arange(3), "x"), {"k": None}))
    assert {p.dtype for p in own.function.parameters()} == {torch.float64}


def test_a_guide_that_holds_the_model_holds_its_copy():
    model = Model()
    guide = AutoNormal(model)
    own_model, own_guide = copy_programs(Program(model), guide)
    assert modules_of(own_guide.model) == [own_model.function]
    assert modules_of(guide.model) == [model]
    assert own_model.function is not model


@pytest.mark.parametrize("wrap", [lambda guide: guide, config_enumerate], ids=["bare", "wrapped"])
def test_automatic_guides_keep_their_model_wherever_they_are(wrap):
    guide = AutoGuideList(plain)
    guide.append(AutoNormal(plain))
    _, own = copy_programs(Program(plain), wrap(guide))
    (inside,) = modules_of(own)
    assert inside is not guide
    for one in (guide, inside):
        assert one.model is plain
        assert one[0].model.args[1] is plain  # inside Pyro's handler that draws starts
        assert one[0].master() is one


def test_a_flow_that_has_run_can_be_copied():
    """It remembers its last point, a tensor with a history that torch refuses to copy."""
    guide = AutoIAFNormal(poutine.block(plain_of_three, expose=["h"]), hidden_dim=[4])
    train(plain_of_three, guide, steps=2)
    fit = pc.as_fit(plain_of_three, guide, Y)
    assert same(state(fit.guide), state(guide))


def plain_of_three(y: Tensor) -> None:
    h = pyro.sample("h", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(h.sum(), 1.0), obs=y)


def test_a_program_that_cannot_be_copied_is_refused_in_one_line_and_stays_whole():
    model = Model()
    guide = AutoNormal(model)
    guide.lock, held = threading.Lock(), guide.model
    with pytest.raises(ValueError, match=r"expected programs that can be copied.*lock") as caught:
        copy_programs(Program(model), guide)
    assert "\n" not in str(caught.value)
    assert guide.model is held


# --- the store ---------------------------------------------------------------------------------


def test_a_copied_store_shares_nothing_but_constraints():
    shared = nn.Parameter(torch.ones(2))
    held = {
        "a": shared,
        "b": shared,
        "c": torch.zeros(3, requires_grad=True) * 2,  # inside a graph
        "d": torch.zeros(1),
    }
    given = {"params": held, "constraints": {"a": constraints.positive, "d": constraints.real}}
    shared.grad = torch.ones(2)
    own = copy_store(given)
    assert list(own["params"]) == list(held)
    for name, value in own["params"].items():
        assert value.equal(held[name])
        assert value.data_ptr() != held[name].data_ptr()
        assert value.requires_grad == held[name].requires_grad
        assert value.is_leaf
        assert value.grad is None
    assert own["params"]["a"] is own["params"]["b"]
    assert isinstance(own["params"]["a"], nn.Parameter)
    assert own["constraints"] == given["constraints"]
    assert own["constraints"] is not given["constraints"]
    assert copy_store({}) == {}


def test_values_loaded_into_the_store_reach_a_module_built_later(tmp_path):
    """Under Pyro's default `param_store.load` is how a guide is restored."""
    with stock():
        guide = AutoNormal(plain)
        train(plain, guide)
        trained = pyro.param("AutoNormal.locs.h").item()
        pyro.get_param_store().save(tmp_path / "params")
        pyro.clear_param_store()
        pyro.get_param_store().load(tmp_path / "params")
        fit = pc.as_fit(plain, AutoNormal(plain), Y)
        mean = float(pc.from_pyro_svi(plain, AutoNormal(plain), Y).posterior["h"].mean())
        sd = pyro.param("AutoNormal.scales.h").item()
        assert pyro.get_param_store()["AutoNormal.locs.h"].item() == trained
    assert trained != 0
    assert fit.guide.locs.h.item() == trained
    assert mean == pytest.approx(trained, abs=5 * sd / 1000**0.5)


def test_with_local_parameters_the_store_is_not_asked():
    pyro.get_param_store().setdefault("scale", torch.tensor(9.0), constraints.positive)
    with local():
        own, guide = copy_as_trained(Program(Model(), (Y,)), Guide())
    assert guide.scale.item() == pytest.approx(0.5)
    assert list(own.store["params"]) == ["scale"]


# --- modules of either kind --------------------------------------------------------------------

KINDS = list(itertools.product([stock, local], [stock, local]))


def built(setting) -> tuple[Model, Guide]:
    with setting():
        return Model(), Guide()


@pytest.mark.parametrize(("at_birth", "in_use"), KINDS)
def test_every_function_takes_modules_of_either_kind(at_birth, in_use, tmp_path):
    """Built with the setting or without, used with it or without: the same numbers."""
    with local():
        expected = everything(*built(local), chains_of(local), tmp_path)
    run = chains_of(at_birth)
    with in_use():
        found = everything(*built(at_birth), run, tmp_path)
        assert list(pyro.get_param_store().keys()) == []
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def chains_of(setting) -> MCMC:
    with setting():
        run = MCMC(NUTS(Model()), num_samples=6, warmup_steps=2, disable_progbar=True)
        pyro.set_rng_seed(0)
        run.run(Y)
    pyro.clear_param_store()
    return run


def everything(model: Model, guide: Guide, run: MCMC, folder) -> dict[str, np.ndarray]:
    """One number or several of each public function."""
    fit = pc.fit(model, guide, Y, max_steps=30)
    family = pc.fit(model.requires_grad_(False), "mean_field", Y)
    pc.save(fit, folder / "fit.safetensors")
    loaded = pc.load(folder / "fit.safetensors", model=model, guide=guide)
    few = {"num_draws": 10}
    chains = {"num_warmup": 5, "num_chains": 2, "processes": 1}
    calibration = pc.calibrate(model, "map", Y, num_simulations=2, **few)
    return {
        "fit": fit.losses,
        "family": np.array(family.elbo.value),
        "loaded": draws(loaded),
        "as_fit": draws(pc.as_fit(model, guide, Y)),
        "diagnose": np.array(pc.diagnose(fit, num_draws=200).elbo.value),
        "to_datatree": draws(fit),
        "predict": pc.predict(fit, **few).predictions["y"].values,
        "sample": pc.sample(family, **few, **chains).posterior["h"].values,
        "calibrate": calibration.probabilities["h"].values,
        "linear_response": np.array(pc.linear_response(family).elbo.value),
        "from_pyro_svi": pc.from_pyro_svi(model, guide, Y, **few).posterior["h"].values,
        "from_pyro_mcmc": pc.from_pyro_mcmc(run).posterior["h"].values,
    }


def test_two_fits_called_by_hand_do_not_overwrite_each_other():
    """Pyro's default reads both guides' parameters from one store, by name."""
    with stock():
        one, two = (pc.fit(Model(), Guide(), sign * Y, max_steps=30) for sign in (1, -1))
        before = state(one.guide, two.guide)
        for fit in (one, two, one):
            fit.guide(Y)
            fit.model(Y)
        assert same(state(one.guide, two.guide), before)
        assert not same(state(one.guide), state(two.guide))
        assert list(pyro.get_param_store().keys()) == []
        assert not pyro.settings.get("module_local_params")


def test_the_setting_is_put_back_when_a_guide_called_by_hand_fails():
    with stock():
        fit = pc.fit(Model(), Guide(), Y, max_steps=5)
        with pytest.raises(TypeError):
            fit.guide(Y, Y, Y)
        assert not pyro.settings.get("module_local_params")
        fit.guide(Y)
