"""Saving and loading: what comes back is what was kept."""

import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from enum import IntEnum

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from lines import constant_guide, constant_model, line, make_points

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized
from models.factor_analysis import FactorAnalysis
from models.gaussian_mixture import MixturePrior
from pyro_cookbook import catalogue, data
from pyro_cookbook.catalogue.topics import variational_autoencoder
from pyro_cookbook.fits.result import Estimate, Mode


@pytest.fixture(scope="module")
def points():
    return make_points()


def draws(fit):
    tree = pc.to_datatree(fit, num_draws=20)
    return {name: value.to_numpy() for name, value in tree.posterior.data_vars.items()}


@pytest.mark.parametrize(
    ("recipe", "guide"), [(r.name, g) for r in catalogue.RECIPES for g in r.guides]
)
def test_every_fit_of_the_catalogue_comes_back(recipe, guide, tmp_path, monkeypatch):
    monkeypatch.setattr(variational_autoencoder, "_NUM_STEPS", 60)
    entry = catalogue.recipe(recipe)
    rows = entry.rows(data.load(entry.data))[:200]
    prepared = entry.guides[guide].prepare(rows, entry.size, 0)
    prepared.options["max_steps"] = 60  # any fit will do: what is compared is what comes back
    fit = prepared.fit()
    pc.save(fit, tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors")
    before, after = draws(fit), draws(again)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (again.elbo, again.reason, again.restarts) == (fit.elbo, fit.reason, fit.restarts)
    np.testing.assert_array_equal(again.losses, fit.losses)


@pytest.mark.parametrize("family", ["map", "laplace", "mean_field", "full_rank"])
def test_a_fit_of_ones_own_model_needs_the_model(family, points, tmp_path):
    fit = pc.fit(line, family, *points, max_steps=500)
    pc.save(fit, tmp_path / "fit.safetensors")
    with pytest.raises(ValueError, match=r"its model is .*line.*pass it: load\(path, model=…\)"):
        pc.load(tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=line)
    assert np.array_equal(draws(fit)["slope"], draws(again)["slope"])


@pytest.mark.parametrize("family", ["low_rank", "whitened_mean_field", "flow", "response"])
def test_families_that_are_kept_in_another_shape_come_back(family, tmp_path):
    """Also a factor of another rank than Pyro's own, a flow's fixed map, the mended covariance."""

    def model(y):
        h = pyro.sample("h", dist.Normal(y.new_zeros(9), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(h.sum(-1), 0.5), obs=y)

    y = torch.tensor(2.0, dtype=torch.float64)
    if family == "response":
        fit = pc.linear_response(pc.fit(model, "mean_field", y))
    else:
        fit = pc.fit(model, family, y, max_steps=400)
    pc.save(fit, tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=model)
    before, after = draws(fit)["h"], draws(again)["h"]
    np.testing.assert_array_equal(before, after)
    assert len(np.unique(before)) == before.size
    assert again.family == fit.family


def test_what_a_fit_says_of_itself_comes_back(tmp_path):
    def schools(y):
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("school", len(y), dim=-1):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta**2, 0.5), obs=y)  # either sign

    y = torch.tensor([4.0, 4.5], dtype=torch.float64)
    fit = pc.fit(schools, "mean_field", y, noncentred=["theta"])
    assert len(fit.modes) > 1
    pc.save(fit, tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=schools)
    for name in ("modes", "engine", "why", "lost_starts", "noncentred", "reason", "converged"):
        assert getattr(again, name) == getattr(fit, name), name
    assert again.noncentred == ("theta",)
    assert (again.engine, again.why[:10]) == ("deterministic", "continuous")


def test_parameters_outside_modules_come_back(points, tmp_path):
    def guide(x, y=None):
        loc = pyro.param("loc", x.new_tensor(0.0))
        scale = pyro.param("scale", x.new_tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("slope", dist.Normal(loc, scale))

    fit = pc.fit(line, guide, *points, max_steps=600)
    pc.save(fit, tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=line, guide=guide)
    assert np.array_equal(draws(fit)["slope"], draws(again)["slope"])
    assert draws(again)["slope"].mean() > 0.5  # the start has mean 0


def test_a_fresh_process_loads_it(tmp_path, wine):
    fit = pc.fit(FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2), wine, max_steps=450)
    path = tmp_path / "fit.safetensors"
    pc.save(fit, path)
    code = (
        "import sys, pyro_cookbook as pc\n"
        "fit = pc.load(sys.argv[1])\n"
        "print(float(pc.to_datatree(fit, num_draws=20).posterior.h.sum()))\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(float(draws(fit)["h"].sum()), rel=1e-9)


# --- what a file may hold ----------------------------------------------------------------------

Own = namedtuple("Own", "low high")


class Colour(IntEnum):
    RED = 1


def described(value):
    """Types and values, all the way down."""
    if isinstance(value, dict):
        return dict, [(described(k), described(v)) for k, v in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return type(value).__name__, described(value._asdict())
    if isinstance(value, (list, tuple)):
        return type(value), [described(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.dtype, value.layout, value.shape, value.to_dense().tolist()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tolist()
    return type(value), repr(value)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 2.5, 1 + 2j, "text", float("inf"), 2**70,
        np.float64(2.5), np.float32(2.5), np.int64(3), np.uint8(3), np.bool_(True),
        np.complex64(1j),
        np.arange(3), np.array(2.5), np.zeros((2, 0)), np.arange(6.0).reshape(2, 3).T,
        [np.float64(1), [np.int64(2), (np.bool_(False),)]], {"a": np.float64(1)},
        {1: "a", (2, 3): "b", None: "c", 2.5: np.int64(4)}, {}, [], (), [()], {"list": [1]},
        {"array": 1}, {"dict": {"fields": 2}}, Own(1, np.float64(2)), Own([1], Own(2, 3)),
        MixturePrior(*torch.eye(5)), torch.arange(4.0)[::2], torch.tensor(1, dtype=torch.int8),
        torch.zeros(1).expand(5), torch.eye(2).to_sparse(),
    ],
    ids=repr,
)  # fmt: skip
def test_arguments_of_every_kind_come_back(value, points, tmp_path):
    fit = pc.as_fit(constant_model, constant_guide, *points, data_kwargs={"extra": value})
    pc.save(fit, tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=constant_model, guide=constant_guide)
    assert described(again.kwargs) == described({"extra": value})
    assert described(again.args) == described(points)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "a object"),
        ({1, 2}, "a set"),
        ([1, {"a": range(2)}], "a range"),
        (Colour.RED, "a Colour"),
        (b"bytes", "a bytes"),
        (np.array(["a"]), "a NumPy array of <U1"),
        (np.array([None]), "a NumPy array of object"),
        (np.datetime64("2020-01-01"), r"a NumPy scalar of datetime64\[D\]"),
        (np.longdouble(1), "a NumPy scalar of float128"),
        ({object(): 1}, "a object"),
        (torch.float32, "a dtype"),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_it_is_written(value, told, points, tmp_path):
    fit = pc.as_fit(constant_model, constant_guide, *points, data_kwargs={"extra": value})
    with pytest.raises(TypeError, match=f"extra: cannot save {told}; expected") as caught:
        pc.save(fit, tmp_path / "fit.safetensors")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_in_what_a_fit_says_of_itself_come_back(points, tmp_path):
    mode = Mode(np.float64(-3.0), np.float64(1.0), np.int64(2), 0.0, "slope", (np.float64(1.5),))
    fit = replace(
        pc.as_fit(constant_model, constant_guide, *points),
        seed=np.int64(3), converged=np.bool_(True), seconds=np.float64(2.0), modes=(mode,),
        reason=np.str_("because"), losses=[np.float64(1.0)], lost_starts=np.int64(1),
        elbo=Estimate(np.float64(-1.0), np.float32(0.5)),
    )  # fmt: skip
    pc.save(fit, tmp_path / "fit.safetensors")
    again = pc.load(tmp_path / "fit.safetensors", model=constant_model, guide=constant_guide)
    for name in ("seed", "converged", "seconds", "reason", "modes", "lost_starts", "elbo"):
        assert getattr(again, name) == getattr(fit, name), name
    assert type(again.seed) is int
    assert type(again.modes[0].location[0]) is float
    assert again.losses.tolist() == [1.0]
    with pytest.raises(TypeError, match="fit: cannot save it: seconds: got a str, expected float"):
        pc.save(replace(fit, seconds="a"), tmp_path / "other.safetensors")
