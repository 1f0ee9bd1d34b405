"""What every model and every guide promises, checked over all that the packages hold."""

import importlib
import inspect
import pkgutil
from functools import cache
from typing import Any
from unittest import mock

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroModule
from torch import Tensor, nn

import guides
import models
from pyro_cookbook import catalogue, data
from pyro_cookbook.catalogue import Prepared
from pyro_cookbook.catalogue.topics import variational_autoencoder
from pyro_cookbook.programs.observing import is_derived
from pyro_cookbook.programs.program import Program, sample_sites

PAIRS = [(recipe.name, guide) for recipe in catalogue.RECIPES for guide in recipe.guides]
pairs = pytest.mark.parametrize(("recipe", "guide"), PAIRS, ids=[f"{r}-{g}" for r, g in PAIRS])


@cache
def prepared(recipe: str, guide: str) -> Prepared:
    entry = catalogue.recipe(recipe)
    few = mock.patch.object(variational_autoencoder, "_NUM_STEPS", 60)  # shapes, not fits
    with torch.random.fork_rng(), few:
        rows = entry.rows(data.load(entry.data))[:200]
        pair = entry.guides[guide].prepare(rows, entry.size, 0)
    for program in (pair.model, pair.guide):
        if isinstance(program, nn.Module):
            program.to(torch.float64)
    return pair


def untrained(recipe: str, guide: str) -> Prepared:
    """The pair with everything trainable, as a reader would build it for the same data."""
    pair = prepared(recipe, guide)
    for program in (pair.model, pair.guide):
        if isinstance(program, nn.Module):
            program.to(torch.float64).requires_grad_(True)
    return pair


def programs_of(package: Any) -> set[Any]:
    """Public modules and functions that sample, defined in the package."""
    found = set()
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, value in vars(module).items():
            here = getattr(value, "__module__", None) == module.__name__
            program = inspect.isfunction(value) or (
                inspect.isclass(value) and issubclass(value, PyroModule)
            )
            if here and program and not name.startswith("_"):
                found.add(value)
    return found


def call_of(program: Any) -> Any:
    return program.forward if isinstance(program, nn.Module) else program


def observed_argument(program: Any) -> str:
    """The last positional argument before `num_obs`: what is observed; before it, covariates."""
    names = list(inspect.signature(call_of(program)).parameters)
    return names[names.index("num_obs") - 1]


def covariates(pair: Prepared, num_rows: int) -> tuple[Tensor, ...]:
    return tuple(value[:num_rows] for value in pair.data[:-1])


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Convert tensors, and named tuples of them; a number has no dtype."""
    if isinstance(value, tuple):
        return type(value)(*(field.to(dtype) for field in value))
    return value.to(dtype) if isinstance(value, Tensor) else value


def kind(program: Any) -> Any:
    return type(program) if isinstance(program, nn.Module) else program


@pytest.mark.parametrize("package", [models, guides], ids=["models", "guides"])
def test_the_catalogue_reaches_every_program_of_the_package(package):
    reached = {
        kind(program)
        for pair in PAIRS
        for program in (prepared(*pair).model, prepared(*pair).guide)
    }
    assert programs_of(package)
    assert programs_of(package) <= reached


@pytest.mark.parametrize("program", sorted(programs_of(models), key=lambda p: p.__name__))
def test_a_model_names_its_source_and_its_sites(program):
    doc = inspect.getdoc(program)
    assert "References" in doc
    assert "Notes" in doc  # when it misleads
    assert "shape" in doc


@pairs
def test_guide_and_model_are_called_alike(recipe, guide):
    pair = prepared(recipe, guide)
    of_model, of_guide = (
        list(inspect.signature(call_of(p)).parameters) for p in (pair.model, pair.guide)
    )
    assert of_model == of_guide
    name = observed_argument(pair.model)
    assert len(pair.data) == of_model.index("num_obs")
    assert inspect.signature(call_of(pair.model)).parameters[name].default is None
    sites = Program(pair.model, pair.data, pair.data_kwargs).sites
    assert [site for site, about in sites.items() if about.is_data] == [name]


@pairs
def test_sites_shapes_and_plates_match(recipe, guide):
    pair = prepared(recipe, guide)
    of_model = Program(pair.model, pair.data, pair.data_kwargs).sites
    of_guide = Program(pair.guide, pair.data, pair.data_kwargs).sites
    latents = {name: site for name, site in of_model.items() if not site.observed}
    assert latents.keys() == {name for name, site in of_guide.items() if not site.auxiliary}
    for name, site in latents.items():
        assert of_guide[name].shape == site.shape
        assert of_guide[name].plates == site.plates
    assert all(plate.isidentifier() for site in of_model.values() for plate in site.plates)


@pairs
def test_the_guide_returns_what_it_samples(recipe, guide):
    pair = prepared(recipe, guide)
    trace = poutine.trace(pair.guide).get_trace(*pair.data, **pair.data_kwargs)
    returned = trace.nodes["_RETURN"]["value"]
    assert returned.keys() == sample_sites(trace).keys()
    assert all(returned[name] is node["value"] for name, node in sample_sites(trace).items())


@pairs
def test_without_data_the_model_draws_from_the_prior_predictive(recipe, guide):
    pair = prepared(recipe, guide)
    with torch.no_grad():
        given = covariates(pair, 5)
        drawn = pair.model(*given, num_obs=5, **pair.data_kwargs)
        again = pair.model(*given, num_obs=5, **pair.data_kwargs)
    assert drawn.shape == (5, *pair.data[-1].shape[1:])
    assert drawn.isfinite().all()
    assert not drawn.equal(again)  # nothing inside seeds


@pairs
def test_only_sites_in_the_row_plate_grow_with_the_rows(recipe, guide):
    pair = prepared(recipe, guide)
    model = Program(pair.model)
    few = model.on(*covariates(pair, 5), num_obs=5, **pair.data_kwargs).sites
    many = model.on(*covariates(pair, 7), num_obs=7, **pair.data_kwargs).sites
    for name, site in few.items():
        assert (site.shape != many[name].shape) == ("row" in site.plates), name


@pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_data_and_the_density_is_finite(recipe, guide, dtype):
    pair = untrained(recipe, guide)
    rows = [value.to(dtype) for value in pair.data]
    kwargs = {name: in_dtype(value, dtype) for name, value in pair.data_kwargs.items()}
    try:
        for program in (pair.model, pair.guide):
            if isinstance(program, nn.Module):
                program.to(dtype)
        guide_trace = poutine.trace(pair.guide).get_trace(*rows, **kwargs)
        replayed = poutine.replay(pair.model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*rows, **kwargs)
        for trace in (guide_trace, model_trace):
            trace.compute_log_prob()
            for name, node in sample_sites(trace).items():
                assert node["log_prob"].isfinite().all(), name
                assert is_derived(node) or node["log_prob"].dtype == dtype, name
                assert not node["value"].is_floating_point() or node["value"].dtype == dtype, name
    finally:
        untrained(recipe, guide)  # back to float64


@pairs
def test_every_parameter_of_the_guide_gets_a_gradient(recipe, guide):
    pair = untrained(recipe, guide)
    if not isinstance(pair.guide, nn.Module) or not list(pair.guide.parameters()):
        assert hasattr(pair.guide, "e_step")  # set by an E step, not trained
        return
    elbo: Any = pair.options.get("elbo", Trace_ELBO())
    run = config_enumerate(pair.guide) if isinstance(elbo, TraceEnum_ELBO) else pair.guide
    pair.guide.zero_grad()
    elbo.loss_and_grads(pair.model, run, *pair.data, **pair.data_kwargs)
    for name, parameter in pair.guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pairs
def test_a_mini_batch_is_scaled_up_or_refused(recipe, guide):
    pair = prepared(recipe, guide)
    num_rows = len(pair.data[-1])
    batch = [value[:5] for value in pair.data]
    options = {"num_obs": num_rows, **pair.data_kwargs}
    model_trace = poutine.trace(pair.model).get_trace(*batch, **options)
    observed = model_trace.nodes[observed_argument(pair.model)]
    assert observed["scale"] == pytest.approx(num_rows / len(batch[0]))
    if hasattr(pair.guide, "num_rows"):  # one factor a row
        with pytest.raises(ValueError, match="use an amortized guide"):
            pair.guide(*batch, **options)
        return
    trace = poutine.trace(pair.guide).get_trace(*batch, **options)
    for name, node in sample_sites(trace).items():  # only what belongs to a row is scaled
        in_plate = any(frame.name == "row" for frame in node["cond_indep_stack"])
        assert node["scale"] == pytest.approx(num_rows / 5 if in_plate else 1.0), name


@pairs
def test_parameters_live_in_their_modules(recipe, guide):
    pair = untrained(recipe, guide)
    with poutine.trace(param_only=True) as capture:
        pair.model(*pair.data, **pair.data_kwargs)
        pair.guide(*pair.data, **pair.data_kwargs)
    own = {
        id(parameter)
        for program in (pair.model, pair.guide)
        if isinstance(program, nn.Module)
        for parameter in program.parameters()
    }
    values = [site["value"] for site in capture.trace.nodes.values()]
    seen = {id(v.unconstrained() if hasattr(v, "unconstrained") else v) for v in values}
    assert seen == own
    assert not list(pyro.get_param_store().keys())
