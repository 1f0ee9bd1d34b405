"""Damaged and strange files are refused in one line, and run nothing."""

import copy
import functools
import pickle
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from lines import constant_guide, constant_model, line, make_points

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from guides.gaussian_mixture import BayesianGaussianMixtureMeanField
from models.factor_analysis import FactorAnalysis
from models.gaussian_mixture import bayesian_gaussian_mixture
from pyro_cookbook.catalogue.topics.gaussian_mixture import default_prior
from pyro_cookbook.fits.keeping.tensor_files import read_tensors, write_tensors


@pytest.fixture(scope="module")
def points():
    return make_points()


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
        pc.save(fit, folder / "fit.safetensors")
        found[name] = read_tensors(folder / "fit.safetensors", "fit"), programs
    return found


KINDS = ("ours", "modules", "family", "low rank", "store")
# Replacing one number, string or tensor by another of the kind is no damage that can be seen; and
# some places may have values of several kinds.
OTHERS = ("dropped", None, True, 7, -1.5, "text", [1.0], {"a": 1}, torch.zeros(3, 7))


def is_same_kind(one, other):
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape
    return type(one) is type(other) or (type(one) is float and type(other) is int)


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_entry_is_refused_in_one_line(kind, saved, tmp_path):
    """Each key dropped, each type changed: the path and what is wrong with it."""
    content, programs = saved[kind]
    path = tmp_path / "fit.safetensors"
    survived = []
    for place in places(content):
        old = functools.reduce(lambda at, key: at[key], place, content)
        for new in OTHERS:
            if is_same_kind(old, new):
                continue
            write_tensors(changed(content, place, new), path)
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
    fair |= {("model", "source"), ("guide", "source")}  # nothing known of it is no damage
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
        ("ours", ("version",), 5),
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
    path = tmp_path / "fit.safetensors"
    write_tensors(changed(content, place, value), path)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as caught:
        pc.load(path, **programs)
    assert "\n" not in str(caught.value)
    write_tensors(content, path)
    assert pc.load(path, **programs).family == content["about"]["family"]


def test_a_program_that_does_not_run_on_the_saved_arguments_is_refused(points, tmp_path):
    fit = pc.fit(line, "full_rank", *points)
    pc.save(fit, tmp_path / "fit.safetensors")

    def other(x, y, z):
        return line(x, y)

    with pytest.raises(ValueError, match=r"model: it does not run .*: TypeError: .* 'z'"):
        pc.load(tmp_path / "fit.safetensors", model=other, check_source=False)


def test_a_program_that_is_no_function_is_called_by_its_class(points, tmp_path):
    """Not by its text, which may hold all its data."""
    guide = lambda y: constant_guide(*points)  # noqa: E731
    fit = pc.as_fit(functools.partial(constant_model, points[0]), guide, points[1])
    pc.save(fit, tmp_path / "fit.safetensors")
    with pytest.raises(ValueError, match=r"its model is functools\.partial, not one of") as caught:
        pc.load(tmp_path / "fit.safetensors")
    assert "tensor(" not in str(caught.value)


def test_loading_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "bomb.safetensors"
    with path.open("wb") as file:
        pickle.dump({"kind": "fit", "x": Bomb()}, file)
    with pytest.raises(ValueError, match="not a readable fit"):
        pc.load(path)
    torch.save({"kind": "fit", "x": Bomb()}, path)  # as earlier releases wrote
    with pytest.raises(ValueError, match="not a readable fit"):
        pc.load(path)
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path, points):
    with pytest.raises(FileNotFoundError, match="no such file"):
        pc.load(tmp_path / "none.safetensors")
    fit = pc.fit(line, "full_rank", *points, max_steps=450)
    pc.save(fit, tmp_path / "fit.safetensors")
    content = (tmp_path / "fit.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        pc.load(tmp_path / "cut.safetensors", model=line)
    with pytest.raises(ValueError, match="guide: does not fit the parameters"):
        pc.load(tmp_path / "fit.safetensors", model=line, guide=FactorAnalysisAmortized(3, 2))


def test_an_argument_that_cannot_be_saved_is_named_and_the_old_file_stays(tmp_path, points):
    path = tmp_path / "fit.safetensors"
    path.write_text("old")
    model = lambda x, y, f: line(x, y)  # noqa: E731
    guide = lambda x, y, f: pyro.sample("slope", dist.Normal(x.new_tensor(1.0), 0.1))  # noqa: E731
    fit = pc.as_fit(model, guide, *points, data_kwargs={"f": object()})
    with pytest.raises(TypeError, match="f: cannot save a object"):
        pc.save(fit, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
