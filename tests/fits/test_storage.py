"""Saving, loading and predicting."""

import copy
import functools
import pickle
import re
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

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from guides.gaussian_mixture import BayesianGaussianMixtureMeanField
from models.factor_analysis import FactorAnalysis
from models.gaussian_mixture import MixturePrior, bayesian_gaussian_mixture
from pyro_cookbook import catalogue, data
from pyro_cookbook.catalogue.topics.gaussian_mixture import default_prior
from pyro_cookbook.fits.result import Estimate, Mode


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(x.new_tensor(0.0), 2.0))
    with pyro.plate("row", len(x), dim=-1):
        return pyro.sample("y", dist.Normal(slope * x, 0.3), obs=y)


@pytest.fixture(scope="module")
def points():
    x = torch.linspace(-1, 1, 25, dtype=torch.float64)
    return x, 1.5 * x + 0.3 * torch.randn(25, generator=torch.Generator().manual_seed(0)).double()


def draws(fit):
    tree = pc.to_datatree(fit, num_draws=20)
    return {name: value.to_numpy() for name, value in tree.posterior.data_vars.items()}


@pytest.mark.parametrize(
    ("recipe", "guide"), [(r.name, g) for r in catalogue.RECIPES for g in r.guides]
)
def test_every_fit_of_the_catalogue_comes_back(recipe, guide, tmp_path):
    entry = catalogue.recipe(recipe)
    rows = entry.rows(data.load(entry.data))
    prepared = entry.guides[guide].prepare(rows, entry.size, 0)
    prepared.options["max_steps"] = 450
    fit = prepared.fit()
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt")
    before, after = draws(fit), draws(again)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (again.elbo, again.reason, again.restarts) == (fit.elbo, fit.reason, fit.restarts)
    np.testing.assert_array_equal(again.losses, fit.losses)


@pytest.mark.parametrize("family", ["map", "laplace", "mean_field", "full_rank"])
def test_a_fit_of_ones_own_model_needs_the_model(family, points, tmp_path):
    fit = pc.fit(line, family, *points, max_steps=500)
    pc.save(fit, tmp_path / "fit.pt")
    with pytest.raises(ValueError, match=r"its model is .*line.*pass it: load\(path, model=…\)"):
        pc.load(tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=line)
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
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=model)
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
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=schools)
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
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=line, guide=guide)
    assert np.array_equal(draws(fit)["slope"], draws(again)["slope"])
    assert draws(again)["slope"].mean() > 0.5  # the start has mean 0


def test_a_fresh_process_loads_it(tmp_path, wine):
    fit = pc.fit(FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2), wine, max_steps=450)
    path = tmp_path / "fit.pt"
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


def constant_model(x, y, extra=None):
    return line(x, y)


def constant_guide(x, y, extra=None):
    return pyro.sample("slope", dist.Normal(x.new_tensor(1.0), 0.1))


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
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=constant_model, guide=constant_guide)
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
    ids=repr,
)
def test_what_could_not_be_read_back_is_refused_before_it_is_written(value, told, points, tmp_path):
    fit = pc.as_fit(constant_model, constant_guide, *points, data_kwargs={"extra": value})
    with pytest.raises(TypeError, match=f"extra: cannot save {told}; expected") as caught:
        pc.save(fit, tmp_path / "fit.pt")
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
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=constant_model, guide=constant_guide)
    for name in ("seed", "converged", "seconds", "reason", "modes", "lost_starts", "elbo"):
        assert getattr(again, name) == getattr(fit, name), name
    assert type(again.seed) is int
    assert type(again.modes[0].location[0]) is float
    assert again.losses.tolist() == [1.0]
    with pytest.raises(TypeError, match="fit: cannot save it: seconds: got a str, expected float"):
        pc.save(replace(fit, seconds="a"), tmp_path / "other.pt")


# --- damage ------------------------------------------------------------------------------------


def places(content, path=()):
    """Every place in nested dicts and lists, as the keys that lead to it."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def changed(content, path, change):
    """A copy in which the value at a place is dropped or replaced."""
    content = copy.deepcopy(content)
    at = content
    for key in path[:-1]:
        at = at[key]
    if change == "dropped":
        del at[path[-1]]
    else:
        at[path[-1]] = change
    return content


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Contents of three files: our own programs, a family by name, parameters outside modules."""

    def guide(x, y=None):
        loc = pyro.param("loc", x.new_tensor(1.0))
        scale = pyro.param("scale", x.new_tensor(0.1), constraint=dist.constraints.positive)
        pyro.sample("slope", dist.Normal(loc, scale))

    def schools(y):
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("school", len(y), dim=-1):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta, 0.5), obs=y)

    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    v = torch.eye(5, dtype=torch.float64)
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double()
    prior = default_prior(rows, 2)
    fits = {
        "ours": (
            pc.as_fit(
                bayesian_gaussian_mixture,
                BayesianGaussianMixtureMeanField(9, 3, 2).double(), rows,
                data_kwargs={"prior": prior},
            ),
            {},
        ),
        "modules": (
            pc.as_fit(FactorAnalysis(5, 2).double(), FactorAnalysisMeanField(5, 2).double(), v),
            {},
        ),
        "family": (
            pc.fit(schools, "mean_field", x, noncentred=["theta"]),
            {"model": schools},
        ),
        "low rank": (pc.fit(schools, "low_rank", x), {"model": schools}),
        "store": (
            pc.fit(line, guide, x, 2 * x, max_steps=50),
            {"model": line, "guide": guide},
        ),
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("saved")
    found = {}
    for name, (fit, programs) in fits.items():
        pc.save(fit, folder / "fit.pt")
        found[name] = torch.load(folder / "fit.pt"), programs
    return found


KINDS = ("ours", "modules", "family", "low rank", "store")
# Replacing one number, string or tensor by another of the kind is no damage that can be seen; and
# some places may have values of several kinds.
OTHERS = ("dropped", None, True, 7, -1.5, "text", [1.0], {"a": 1}, torch.zeros(3, 7), b"bytes")


def is_same_kind(one, other):
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape
    return type(one) is type(other) or (type(one) is float and type(other) is int)


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_entry_is_refused_in_one_line(kind, saved, tmp_path):
    """Each key dropped, each type changed: the path and what is wrong with it."""
    content, programs = saved[kind]
    path = tmp_path / "fit.pt"
    survived = []
    for place in places(content):
        old = functools.reduce(lambda at, key: at[key], place, content)
        for new in OTHERS:
            if is_same_kind(old, new):
                continue
            torch.save(changed(content, place, new), path)
            try:
                pc.load(path, **programs)
            except ValueError as error:
                assert str(error).startswith(f"{path}: "), (place, new)  # noqa: PT017
                assert "\n" not in str(error), (place, new)  # noqa: PT017
            else:
                survived.append((place, new))
    # An argument's or parameter's value is the reader's business, as long as the programs run with
    # it; who hands a program over is not asked what the file calls it; a list may be shorter.
    fair = {("args",), ("kwargs",), ("param_state", "params")}
    fair |= {(role, "init") for role in programs}
    odd = [
        (place, new)
        for place, new in survived
        if not {place[:1], place[:2]} & fair
        and not (isinstance(place[-1], int) and new == "dropped")
    ]
    assert odd == []


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("modules", ("guide", "init", "num_factors"), 10**9),
        ("modules", ("guide", "init", "num_rows"), 10**15),
        ("modules", ("guide", "init", "num_factors"), 2**70),
        ("modules", ("guide", "init", "num_factors"), -1),
        ("modules", ("guide", "init", "num_factors"), 3),
        ("modules", ("model", "init", "num_features"), 10**9),
        ("ours", ("guide", "init", "num_components"), 10**9),
        ("ours", ("about", "seed"), 2**32),
        ("ours", ("about", "seed"), -1),
        ("ours", ("version",), 1),
        ("ours", ("version",), 3),
        ("ours", ("about", "family"), "full_rank"),
        ("ours", ("guide", "name"), "models.gaussian_mixture:GaussianMixture"),
        ("ours", ("guide", "name"), "guides.gaussian_mixture:torch"),
        ("ours", ("guide", "name"), "guides.gaussian_mixture:Tensor"),
        ("ours", ("guide", "name"), "guides.none:None"),
        ("ours", ("guide", "name"), "guides..:x"),
        ("ours", ("guide", "name"), "os:system"),
        ("ours", ("model", "name"), "models.gaussian_mixture:MixturePrior"),
        ("family", ("about", "family"), "low_rank"),
        ("family", ("about", "family"), "unheard of"),
        ("family", ("about", "noncentred"), ["mu"]),
        ("family", ("about", "noncentred"), []),
        ("low rank", ("guide_state", "cov_factor"), torch.zeros(5, 3, dtype=torch.float64)),
        ("store", ("param_state", "constraints", "scale"), "unheard of"),
    ],
)
def test_what_disagrees_with_the_saved_parameters_is_refused(kind, place, value, saved, tmp_path):
    """Among them sizes that no memory holds: nothing of the size is made."""
    content, programs = saved[kind]
    path = tmp_path / "fit.pt"
    torch.save(changed(content, place, value), path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as caught:
        pc.load(path, **programs)
    assert "\n" not in str(caught.value)
    torch.save(content, path)
    assert pc.load(path, **programs).family == content["about"]["family"]


def test_a_program_that_does_not_run_on_the_saved_arguments_is_refused(points, tmp_path):
    fit = pc.fit(line, "full_rank", *points)
    pc.save(fit, tmp_path / "fit.pt")

    def other(x, y, z):
        return line(x, y)

    with pytest.raises(ValueError, match=r"model: it does not run .*: TypeError: .* 'z'"):
        pc.load(tmp_path / "fit.pt", model=other)


def test_a_program_that_is_no_function_is_called_by_its_class(points, tmp_path):
    """Not by its text, which may hold all its data."""
    guide = lambda y: constant_guide(*points)  # noqa: E731
    fit = pc.as_fit(functools.partial(constant_model, points[0]), guide, points[1])
    pc.save(fit, tmp_path / "fit.pt")
    with pytest.raises(ValueError, match=r"its model is functools\.partial, not one of") as caught:
        pc.load(tmp_path / "fit.pt")
    assert "tensor" not in str(caught.value)


def test_loading_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "bomb.pt"
    with path.open("wb") as file:
        pickle.dump({"kind": "fit", "x": Bomb()}, file)
    with pytest.raises(ValueError, match="not a readable fit"):
        pc.load(path)
    torch.save({"kind": "fit", "x": Bomb()}, path)
    with pytest.raises(ValueError, match="not a readable fit"):
        pc.load(path)
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path, points):
    with pytest.raises(FileNotFoundError, match="no such file"):
        pc.load(tmp_path / "none.pt")
    fit = pc.fit(line, "full_rank", *points, max_steps=450)
    pc.save(fit, tmp_path / "fit.pt")
    content = (tmp_path / "fit.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        pc.load(tmp_path / "cut.pt", model=line)
    with pytest.raises(ValueError, match="guide: does not fit the parameters"):
        pc.load(tmp_path / "fit.pt", model=line, guide=FactorAnalysisAmortized(3, 2))


def test_an_argument_that_cannot_be_saved_is_named_and_the_old_file_stays(tmp_path, points):
    path = tmp_path / "fit.pt"
    path.write_text("old")
    model = lambda x, y, f: line(x, y)  # noqa: E731
    guide = lambda x, y, f: pyro.sample("slope", dist.Normal(x.new_tensor(1.0), 0.1))  # noqa: E731
    fit = pc.as_fit(model, guide, *points, data_kwargs={"f": object()})
    with pytest.raises(TypeError, match="f: cannot save a object"):
        pc.save(fit, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- predict -----------------------------------------------------------------------------------


def test_predictions_at_new_inputs_have_the_right_mean_and_spread(points):
    fit = pc.fit(line, "full_rank", *points)
    new = torch.tensor([0.0, 2.0], dtype=torch.float64)
    tree = pc.predict(fit, new, num_draws=4000)
    y = tree.predictions.y
    assert y.dims == ("sample", "row")
    x, seen = points
    precision = 1 / 4 + float(x @ x) / 0.09
    slope, sd = float(x @ seen) / 0.09 / precision, precision**-0.5
    assert y.mean("sample").to_numpy() == pytest.approx([0, 2 * slope], abs=0.05)
    spread = [0.3, np.hypot(0.3, 2 * sd)]
    assert y.std("sample").to_numpy() == pytest.approx(spread, rel=0.1)
    np.testing.assert_array_equal(tree.predictions_constant_data.x, new)


def test_observations_that_are_given_are_not_echoed(points):
    fit = pc.fit(line, "full_rank", *points, max_steps=800)
    x, y = points
    drawn = pc.predict(fit, x, y, num_draws=200).predictions.y
    assert (drawn.std("sample") > 0.2).all()
    alone = pc.predict(fit, num_draws=200).predictions.y  # the training data
    assert alone.sizes["row"] == len(x)
    assert (alone.std("sample") > 0.2).all()


def test_an_amortized_guide_infers_rows_it_has_not_seen(wine):
    programs = FactorAnalysis(13, 3), FactorAnalysisAmortized(13, 3)
    fit = pc.fit(*programs, wine[:150], max_steps=3000)
    tree = pc.predict(fit, wine[150:], num_draws=300)
    assert tree.posterior.h.shape == (300, 28, 3)
    error = tree.predictions.v.mean("sample").to_numpy() - wine[150:].numpy()
    assert np.square(error).mean() < 0.75 * np.square(wine[150:].numpy()).mean()


def test_a_guide_with_a_factor_for_each_row_refuses_new_rows(wine):
    model = FactorAnalysis(13, 2).requires_grad_(False)
    fit = pc.fit(model, FactorAnalysisMeanField(178, 2), wine, max_steps=450)
    with pytest.raises(ValueError, match="amortized"):
        pc.predict(fit, wine[:5])
    family = pc.fit(model, "mean_field", wine, max_steps=450)
    with pytest.raises(ValueError, match=r"site 'h' was fitted with shape \(178, 2\)"):
        pc.predict(family, wine[:5])
