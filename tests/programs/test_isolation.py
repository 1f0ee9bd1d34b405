"""A fit touches nothing but what it returns: no other fit, no argument, no global state."""

import copy
import os
import random
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import exact_factors
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis

STEPS = 60


def fit_factors(v: Tensor, seed: int = 0, **options: object) -> pc.Fit:
    """Fit fresh programs that are equal for equal data, whatever came before."""
    pyro.set_rng_seed(7)
    programs = FactorAnalysis(v.shape[1], 2), FactorAnalysisAmortized(v.shape[1], 2)
    return pc.fit(*programs, v, seed=seed, max_steps=STEPS, **options)


def parameters(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{i}.{name}": value.detach().clone()
        for i, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


# --- one fit and another -----------------------------------------------------------------------


def test_fits_of_the_same_classes_do_not_touch_each_other(wine):
    alone = fit_factors(wine)
    kept = parameters(alone.model, alone.guide)
    other = fit_factors(wine.flip(1) + 1)
    assert equal(parameters(alone.model, alone.guide), kept)
    assert not equal(parameters(other.model, other.guide), kept)
    again = fit_factors(wine)
    assert equal(parameters(again.model, again.guide), kept)


def test_fits_in_turns_are_as_fits_alone(wine):
    """Also where both start from the very same objects."""
    model, guide = FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2)
    one = pc.fit(model, guide, wine, max_steps=STEPS)
    pc.fit(model, guide, -wine + 2, max_steps=STEPS)
    two = pc.fit(model, guide, wine, max_steps=STEPS)
    assert equal(parameters(one.model, one.guide), parameters(two.model, two.guide))
    assert one.elbo == two.elbo


def test_same_seed_gives_identical_numbers_and_another_seed_others(wine):
    one, two, other = (fit_factors(wine, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.losses, two.losses)
    assert one.elbo == two.elbo
    assert equal(parameters(one.model, one.guide), parameters(two.model, two.guide))
    assert not np.isin(one.losses, other.losses).any()
    assert one.elbo != other.elbo


def test_an_integer_of_numpy_is_a_seed(wine):
    """Pyro's own `set_rng_seed` takes none."""
    one, two = (fit_factors(wine, seed=seed) for seed in (3, np.int64(3)))
    assert one.elbo == two.elbo


@pytest.mark.parametrize("options", [{"batch_size": 50}, {"num_restarts": 2}])
def test_same_seed_gives_identical_numbers_with_options(wine, options):
    one, two = (fit_factors(wine, **options) for _ in range(2))
    assert np.array_equal(one.losses, two.losses)
    assert [r.elbo for r in one.restarts] == [r.elbo for r in two.restarts]


def test_seed_alone_decides_whatever_the_state_of_the_generators(wine):
    model, guide = FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2)
    pyro.set_rng_seed(1)
    one = pc.fit(model, guide, wine, max_steps=STEPS)
    pyro.set_rng_seed(2)
    two = pc.fit(model, guide, wine, max_steps=STEPS)
    assert np.array_equal(one.losses, two.losses)


# --- what is passed in -------------------------------------------------------------------------


def test_programs_and_data_passed_in_stay_as_they_were(wine):
    model, guide = FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2)
    before, data = parameters(model, guide), wine.clone()
    fit = pc.fit(model, guide, wine, max_steps=STEPS)
    assert equal(parameters(model, guide), before)
    assert {value.dtype for value in parameters(model, guide).values()} == {torch.float32}
    assert all(p.grad is None for p in (*model.parameters(), *guide.parameters()))
    assert wine.equal(data)
    assert not equal(parameters(fit.model.float(), fit.guide.float()), before)


def test_an_automatic_guide_keeps_its_model_and_its_start():
    """Pyro's automatic guides forget their model when they are copied."""
    guide = AutoNormal(plain)
    model = guide.model
    fit = pc.fit(plain, guide, torch.randn(20), max_steps=STEPS)
    assert fit.guide is not guide
    assert guide.model is model
    assert guide.prototype_trace is None
    assert fit.guide.locs.h.item() != 0


def test_as_fit_leaves_the_programs_as_they_were(wine):
    model = FactorAnalysis(13, 2).double()
    guide = exact_factors(model, wine)
    before = parameters(model, guide)
    fit = pc.as_fit(model, guide, wine)
    assert equal(parameters(fit.model, fit.guide), before)
    assert equal(parameters(model, guide), before)


class Counting(PyroModule):
    """A model that keeps something of every run, as a batch norm does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, y: Tensor) -> None:
        self.runs += 1
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def test_what_a_module_keeps_of_its_runs_stays_as_it_was():
    """Of the first run, of `calibrate`'s, and of those that judge and convert."""
    model, y = Counting(), torch.randn(20)
    fit = pc.fit(model, "laplace", y)
    pc.diagnose(fit)
    pc.calibrate(model, "map", y, num_simulations=2, num_draws=10)
    pc.from_pyro_svi(model, AutoNormal(model), y, num_draws=10)
    assert model.runs == 0
    assert fit.model.runs > 0
    outer = PyroModule()
    outer.part = model  # Pyro refuses a part that has run by itself


# --- global state ------------------------------------------------------------------------------


def diverging(v: Tensor) -> None:
    pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.Normal(0.0, 1.0).expand([len(v)]).to_event(1), obs=v * torch.nan)


def crashing(v: Tensor) -> None:
    torch.set_default_dtype(torch.float64)
    pyro.param("left_behind", torch.zeros(3))
    pyro.sample("h", dist.Normal(0.0, 1.0))
    raise RuntimeError("a bug of the reader's")


def meddling(v: Tensor) -> None:
    pyro.enable_validation(False)
    torch.set_grad_enabled(torch.is_grad_enabled())
    np.seterr(all="ignore")
    random.random()
    np.random.random()  # noqa: NPY002
    torch.set_default_dtype(torch.float64)
    h = pyro.sample("h", dist.Normal(torch.tensor(0.0), 1.0))
    pyro.sample("v", dist.Normal(h, 1.0).expand([len(v)]).to_event(1), obs=v)


def plain(v: Tensor) -> None:
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.Normal(h, 1.0).expand([len(v)]).to_event(1), obs=v)


def global_state() -> list[object]:
    rng = pyro.util.get_rng_state()
    name, keys, *rest = rng["numpy"]
    return [
        hash(rng["torch"].numpy().tobytes()),
        hash(rng["random"]),
        hash((name, keys.tobytes(), *rest)),
        torch.get_default_dtype(),
        pyro.settings.get(),
        sorted(pyro.get_param_store().keys()),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        np.geterr(),
        "param_state" in vars(pyro.nn.module._Context),
    ]


@pytest.mark.parametrize(
    ("model", "guide", "error"),
    [
        (meddling, "mean_field", None),
        (meddling, "laplace", None),
        (diverging, "mean_field", ValueError),
        (diverging, "map", (ValueError, ArithmeticError)),
        (crashing, "mean_field", ValueError),
        (meddling, "no_such_family", ValueError),
    ],
)
def test_fit_leaves_global_state_as_it_was(model, guide, error):
    v = torch.randn(20)
    before = global_state()
    if error is None:
        pc.fit(model, guide, v, max_steps=STEPS)
    else:
        with pytest.raises(error):
            pc.fit(model, guide, v, max_steps=STEPS)
    assert global_state() == before


def test_a_crashing_model_is_told_in_one_line_with_its_own_error_behind_it():
    message = r"model: it does not run on these data \(RuntimeError: a bug of the reader's\); got v"
    with pytest.raises(ValueError, match=message) as caught:
        pc.fit(crashing, "mean_field", torch.randn(20))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_fit_of_modules_and_as_fit_leave_global_state_as_it_was(wine):
    model, guide = FactorAnalysis(13, 2).double(), FactorAnalysisMeanField(178, 2).double()
    before = global_state()
    pc.fit(model, guide, wine, max_steps=STEPS)
    pc.as_fit(model, guide, wine)
    assert global_state() == before


def test_validation_switched_off_stays_off():
    v = torch.randn(20)
    with pyro.validation_enabled(False):
        before = global_state()
        pc.fit(meddling, "mean_field", v, max_steps=STEPS)
        assert global_state() == before


def test_gradients_switched_off_by_the_caller_are_on_inside_and_off_again():
    v = torch.randn(20)
    expected = pc.fit(plain, AutoNormal(plain), v, max_steps=STEPS).losses
    with torch.no_grad():
        before = global_state()
        assert np.array_equal(pc.fit(plain, AutoNormal(plain), v, max_steps=STEPS).losses, expected)
        assert global_state() == before


def test_caller_s_parameters_are_neither_used_nor_changed():
    store = pyro.get_param_store()
    mine = pyro.param("loc", torch.tensor(123.0))
    try:
        fit = pc.fit(plain_model, plain_guide, torch.randn(20) + 5, max_steps=STEPS)
        assert store["loc"] is mine
        assert sorted(store.keys()) == ["loc"]
        assert mine.item() == 123
        assert abs(fit.param_state["params"]["loc"].item()) < 10
    finally:
        pyro.clear_param_store()


# --- importing -------------------------------------------------------------------------------

OWN = """
import pyro, pyro.distributions as dist, torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
STOCK = {stock!r}
assert str(pyro.settings.get()) == STOCK
def model(y):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(h, 1.0).expand([len(y)]).to_event(1), obs=y)
guide = AutoNormal(model)
svi = SVI(model, guide, pyro.optim.Adam({{"lr": 0.1}}), Trace_ELBO())
svi.step(torch.zeros(3))
import {packages}
svi.step(torch.zeros(3))
assert str(pyro.settings.get()) == STOCK
assert sorted(pyro.get_param_store().get_state()["params"]) == [
    "AutoNormal.locs.h", "AutoNormal.scales.h"
]
"""


@pytest.mark.parametrize("first", [True, False])
def test_importing_leaves_pyro_as_it_was(first):
    """The caller's own SVI writes to the param store, whichever was imported first."""
    stock = run_python("import pyro, pyro.infer; print(pyro.settings.get())").strip()
    packages = "pyro_cookbook, models.factor_analysis, guides.factor_analysis"
    code = OWN.format(stock=stock, packages=packages)
    run_python(f"import {packages}\n{code}" if first else code)


def run_python(code: str, **environment: str) -> str:
    """Run the code in a process of its own; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- programs that are plain functions ---------------------------------------------------------


def plain_model(v: Tensor) -> None:
    noise = pyro.param("noise", torch.tensor(1.0), constraint=constraints.positive)
    h = pyro.sample("h", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(v)):
        pyro.sample("v", dist.Normal(h, noise), obs=v)


def plain_guide(v: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("h", dist.Normal(loc, scale))


def test_plain_functions_keep_their_parameters_in_the_fit():
    v = torch.randn(200) + 5
    fits = [pc.fit(plain_model, plain_guide, sign * v, lr=0.3, max_steps=500) for sign in (1, -1)]
    assert not list(pyro.get_param_store().keys())
    for fit, sign in zip(fits, (1, -1), strict=True):
        assert sorted(fit.param_state["params"]) == ["loc", "noise", "scale"]
        se = float(v.std()) / len(v) ** 0.5
        assert fit.param_state["params"]["loc"].item() == pytest.approx(
            sign * float(v.mean()), abs=2 * se
        )
        assert set(fit.param_state["constraints"]) == {"loc", "noise", "scale"}


def test_as_fit_takes_a_copy_of_the_caller_s_parameters():
    v = torch.randn(20)
    plain_model(v)
    plain_guide(v)
    fit = pc.as_fit(plain_model, plain_guide, v)
    bound = fit.elbo
    pyro.clear_param_store()
    assert sorted(fit.param_state["params"]) == ["loc", "noise", "scale"]
    again = pc.as_fit(plain_model, plain_guide, v, param_state=copy.deepcopy(fit.param_state))
    assert again.elbo == bound
