"""Checkpoints: what tells one fit from another, and what a file that is not ours says."""

import copy
import functools
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn

import guides.gaussian_mixture
import models.gaussian_mixture
from guides.factor_analysis import FactorAnalysisAmortized
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.fits.keeping.checkpoint import Checkpoint, digest, settings_of
from pyro_cookbook.fits.keeping.tensor_files import read_tensors, write_tensors

Point = namedtuple("Point", "x y")
Twin = namedtuple("Twin", "x y")


@dataclass
class Prior:
    scale: float
    loc: torch.Tensor


class Colour(Enum):
    RED = 1
    BLUE = 2


class Grid:
    """A class of one's own that is called."""

    def __init__(self, nodes):
        self.nodes = nodes

    def __call__(self, y=None):
        return self.nodes.sum()


def model(y=None):
    return pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def wider(y=None):
    return pyro.sample("y", dist.Normal(0.0, 2.0), obs=y)


def other_site(y=None):
    return pyro.sample("z", dist.Normal(0.0, 1.0), obs=y)


def scaled(scale):
    def model(y=None):
        return pyro.sample("y", dist.Normal(0.0, scale), obs=y)

    return model


SCALE, ROWS = 1.0, torch.zeros(3)


def of_globals(y=None):
    return inner(y) + [SCALE * one for one in ROWS][0]  # noqa: RUF015


def inner(y=None):
    return y


class Line(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.scale = scale
        with torch.no_grad():
            self.layer.weight.fill_(0.5)
            self.layer.bias.zero_()

    def forward(self, x):
        return self.layer(x) * self.scale


class Bent(Line):
    def forward(self, x):
        return self.layer(x).exp() * self.scale


def moved(value):
    """Add one to the last entry."""
    value = value.clone()
    value[-1] += 1
    return value


def of_line(change):
    line = Line()
    with torch.no_grad():
        change(line)
    return line


def transposed(rows):
    return rows.reshape(3, 2).T  # entries in another order in memory


X = torch.arange(6.0)
DIFFERENT: dict[str, tuple[Any, ...]] = {
    "numbers": (0, 0.0, False, None, "", b"", 0j, "0", -0.0, float("nan"), 1, 1.0, True),
    "tensors": (
        X, moved(X), X.double(), X.reshape(2, 3), X.reshape(3, 2), transposed(X), X.long(),
        X.bfloat16(), X.bool(), X.cfloat(), X[:5], X[0], X[:0], X.numpy(),
    ),
    "arrays": (
        np.arange(6.0), np.arange(6), np.arange(6.0)[::-1], np.float64(1), np.float32(1), 1.0,
        np.array(["a"]), np.array(["b"]), np.array([None, "a"]), np.array([None, "b"]),
    ),
    "containers": (
        [X], (X,), {"x": X}, {"y": X}, {"x": X, "y": X}, {"x": X, "y": moved(X)}, [X, X], [],
        (), {}, set(), {1, "a"}, {1, "b"}, Point(1, 2), Point(2, 1), Twin(1, 2), (1, 2), [[1], 2],
        [1, [2]], torch.Size([1, 3]),
    ),
    "tables": (
        pd.Series([1.0, 2.0]), pd.Series([1.0, 3.0]), pd.DataFrame({"a": [1.0, 2.0]}),
        pd.DataFrame({"b": [1.0, 2.0]}),
    ),
    "functions": (
        model, wider, other_site, scaled(1.0), scaled(2.0), scaled(X), scaled(moved(X)),
        functools.partial(model, X), functools.partial(model, moved(X)),
        functools.partial(wider, X),
        lambda y: y, lambda y: -y, lambda y=1: y, lambda y=2: y, lambda *, y=2: y, Line().forward,
        Line(2.0).forward, pyro.condition(model, data={"y": X}),
        pyro.condition(model, data={"y": moved(X)}), torch.exp, torch.log, X.sum,
    ),
    "modules": (
        Line(), Line(2.0), Bent(), of_line(lambda line: line.layer.weight.fill_(0.6)),
        of_line(lambda line: setattr(line.layer, "bias", None)), of_line(lambda line: line.eval()),
        Line().double(), Line, Bent, nn.Linear(2, 1), nn.Softplus(), nn.Softplus(2.0), nn.ReLU(),
    ),
    "automatic guides": (
        AutoNormal(model), AutoNormal(wider), AutoDelta(model), AutoNormal(model, init_scale=0.2),
    ),
    "distributions": (
        dist.Normal(0.0, 1.0), dist.Normal(0.0, 2.0), dist.Laplace(0.0, 1.0),
        dist.Normal(0.0, 1.0).expand([2]), dist.Normal(torch.zeros(2), 1.0).to_event(1),
        dist.Normal(torch.ones(2), 1.0).to_event(1),
    ),
    "objects": (
        Prior(1.0, X), Prior(2.0, X), Prior(1.0, moved(X)), Colour.RED, Colour.BLUE, Grid(X),
        Grid(moved(X)), object(), slice(1), slice(2), range(2), torch.float32, torch.float64,
    ),
    "bounds": (
        Trace_ELBO(), Trace_ELBO(num_particles=2), TraceEnum_ELBO(),
        Trace_ELBO(vectorize_particles=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_values_have_different_digests_and_copies_the_same(kind):
    values = DIFFERENT[kind]
    digests = [digest(value) for value in values]
    repeated = [(values[i], values[digests.index(d)]) for i, d in enumerate(digests)
                if digests.index(d) < i]  # fmt: skip
    assert repeated == []
    assert [digest(value) for value in values] == digests  # asking changes nothing
    for value, told in zip(values, digests, strict=True):
        if kind not in {"functions", "automatic guides"}:  # those are copied by reference, or not
            assert digest(copy.deepcopy(value)) == told


def test_what_does_not_matter_does_not_count():
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1})
    assert digest({3, "a", 1.5}) == digest({1.5, 3, "a"})
    assert digest(X[::2]) == digest(X[::2].clone())  # a view, and its own entries
    assert digest(X.clone().requires_grad_()) == digest(nn.Parameter(X)) == digest(X)
    assert digest(X.conj()) == digest(X)
    assert digest(torch.eye(2).to_sparse()) == digest(torch.eye(2))
    assert digest(scaled(X)) == digest(scaled(X.clone()))


def test_a_use_does_not_change_a_digest():
    normal, bound, guide = dist.MultivariateNormal(X, torch.eye(6)), Trace_ELBO(), Line()
    before = [digest(value) for value in (normal, bound, guide)]
    assert normal.precision_matrix is not None  # an attribute from now on
    bound.loss(model, lambda y=None: None, torch.tensor(1.0))  # learns the number of plates
    guide(torch.ones(2))
    assert [digest(value) for value in (normal, bound, guide)] == before


def test_values_that_contain_themselves_have_digests():
    one: list[Any] = [1]
    one.append(one)
    two: list[Any] = [2]
    two.append(two)
    assert digest(one) != digest(two)

    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert digest(factorial) == digest(factorial)


@pytest.mark.parametrize(
    ("name", "value"), [("SCALE", 2.0), ("ROWS", torch.ones(3)), ("inner", model)]
)
def test_globals_that_a_function_names_count(name, value, monkeypatch):
    before = digest(of_globals)
    monkeypatch.setitem(globals(), "X", moved(X))  # another one does not
    assert digest(of_globals) == before
    monkeypatch.setitem(globals(), name, value)
    assert digest(of_globals) != before


ELSEWHERE = """
import torch
import guides.gaussian_mixture as guides, models.gaussian_mixture as models
from pyro_cookbook.fits.keeping.checkpoint import digest

def f(x, kinds=frozenset({"a", "b", "c"})):
    return x in {"d", "e", "f"} or [x for _ in kinds]

torch.manual_seed(0)
print(digest([
    f, {"b": 1, "a": {"x", "y", "z"}}, torch.arange(3.0), models.bayesian_gaussian_mixture,
    models.GaussianMixture(3, 2), guides.GaussianMixtureAmortized(3, 2),
]))
"""


def test_digests_are_the_same_in_every_process():
    printed = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE], env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1
    assert len(printed.pop().strip()) == 32
    assert models.gaussian_mixture.GaussianMixture is not guides.gaussian_mixture  # both exist


# --- settings ----------------------------------------------------------------------------------


@pytest.fixture
def settings():
    torch.manual_seed(0)
    programs = FactorAnalysis(3, 2), FactorAnalysisAmortized(3, 2)
    options = {"seed": 0, "tol": None, "elbo": Trace_ELBO(), "noncentred": ["h"]}

    def make(model=programs[0], guide=programs[1], args=(X,), kwargs=None, **other):
        return settings_of(model, guide, args, kwargs or {}, **{**options, **other})

    return make


def test_plain_options_are_kept_and_everything_else_is_digested(settings):
    made = settings(kwargs={"y": X})
    assert list(made) == [
        "model", "guide", "argument 0", "argument 'y'", "seed", "tol", "elbo", "noncentred",
    ]  # fmt: skip
    assert (made["seed"], made["tol"]) == (0, None)
    assert settings(guide="full_rank")["guide"] == "full_rank"
    digested = [value for name, value in made.items() if name not in {"seed", "tol"}]
    assert all(value.startswith("blake2b ") for value in digested)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": (moved(X),)}, "with another argument 0"),
        ({"args": (X, X)}, "without argument 1"),
        ({"args": ()}, "with argument 0"),
        ({"kwargs": {"y": X}}, "without argument 'y'"),
        ({"model": FactorAnalysis(3, 2).double()}, "with another model"),
        ({"model": FactorAnalysis(4, 2)}, "with another model"),
        ({"guide": FactorAnalysisAmortized(3, 2)}, "with another guide"),  # another start
        ({"guide": "full_rank"}, "with guide='blake2b .*', got 'full_rank'"),
        ({"seed": 1}, "with seed=0, got 1"),
        ({"tol": 0.1}, "with tol=None, got 0.1"),
        ({"elbo": Trace_ELBO(num_particles=2)}, "with another elbo"),
        ({"noncentred": ["g"]}, "with another noncentred"),
        ({"noncentred": False}, "with noncentred='blake2b .*', got False"),
        ({"lr": 0.1}, "without lr"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(change, message, settings, tmp_path):
    path = tmp_path / "fit.ckpt"
    Checkpoint(path, settings()).save(0, {"params": X})
    assert Checkpoint(path, settings()).starts[0]["params"].equal(X)
    with pytest.raises(ValueError, match=f"checkpoint: {path} was written {message}") as caught:
        Checkpoint(path, settings(**change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": None}, {"settings": [1]}, {"starts": None}, {"starts": [1]},
        {"starts": {"0": {}}}, {"starts": {0: 1}}, {"kind": "fit"},
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_said_to_be_one(change, settings, tmp_path):
    path = tmp_path / "fit.ckpt"
    checkpoint = Checkpoint(path, settings())
    checkpoint.save(0, {"params": X})
    content = read_tensors(path, "checkpoint") | change
    write_tensors(content, path)
    with pytest.raises(ValueError, match=str(path)) as caught:
        Checkpoint(path, settings())
    assert "\n" not in str(caught.value)


def test_without_a_path_nothing_is_written(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Checkpoint(None, settings()).save(0, {})
    assert list(tmp_path.iterdir()) == []
