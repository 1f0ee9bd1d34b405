"""The first run: data that can be converted are, and what is wrong is said before any fit."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_cookbook as pc
from pyro_cookbook.programs.checks import check_names, first_run, same_sites, tree_name
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.observing import as_tensor
from pyro_cookbook.programs.program import Program

N = 40
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, generator=GENERATOR)
Y = 1.5 * X + 0.3 * torch.randn(N, generator=GENERATOR)
HEADS = torch.rand(N, generator=GENERATOR) < 0.3


def coin(y=None):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("row", N):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def line(x, y=None):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(b * x, 0.3), obs=y)


# --- forms of data -----------------------------------------------------------------------------

FORMS = {
    "int64": HEADS.long(),
    "bool": HEADS,
    "numpy bool": HEADS.numpy(),
    "numpy int": HEADS.long().numpy(),
    "list": HEADS.long().tolist(),
    "series": pd.Series(HEADS.numpy()),
    "float64": HEADS.double(),
}


@pytest.mark.parametrize("form", FORMS)
def test_observations_of_every_kind_have_one_density(form):
    """Of a Beta posterior: its log density at ½ differs from the prior's by n log ½."""
    program = first_run(Program(coin, (FORMS[form],)))
    height = UnconstrainedDensity(program).value(np.zeros((1, 1)))[0]  # p = ½
    assert height == pytest.approx(-N * np.log(2) - np.log(4), rel=1e-5)


@pytest.mark.parametrize(
    "convert",
    [torch.Tensor.numpy, torch.Tensor.tolist, lambda v: pd.Series(v.numpy()), torch.Tensor.double],
    ids=["numpy", "list", "series", "float64"],
)
def test_covariates_of_every_kind_give_the_posterior(convert):
    fit = pc.fit(line, "full_rank", convert(X), convert(Y))
    precision = 1 + float(X @ X) / 0.09
    posterior = fit.guide.get_posterior()
    assert float(posterior.mean.detach()) == pytest.approx(
        float(X @ Y) / 0.09 / precision, rel=1e-4
    )
    assert float(posterior.variance.detach()) == pytest.approx(1 / precision, rel=1e-3)
    assert all(isinstance(value, torch.Tensor) for value in fit.args)


def test_a_number_that_a_handler_conditions_on_is_an_observation():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0))

    fit = pc.fit(poutine.condition(model, data={"y": 9.5}), "full_rank")
    assert float(fit.guide.get_posterior().mean.detach()) == pytest.approx(4.75, rel=1e-4)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * N, "site 'y'"),
        (np.array([None] * N), "site 'y'"),
        (np.where(np.arange(N) == 3, np.nan, HEADS.numpy()), r"observation \[3\] is missing"),
        (HEADS[:30].float(), "site 'y'|does not run on these data"),
    ],
    ids=["words", "objects", "missing", "short"],
)
def test_what_is_no_observation_is_refused_in_one_line(y, message):
    with pytest.raises(ValueError, match=message) as caught:
        pc.fit(coin, "full_rank", y)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# --- is there something to infer? --------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pc.fit(line, AutoNormal, X, Y), "guide: got the class AutoNormal"),
        (lambda: pc.fit(line, X, Y), "guide: got .*expected a guide or the name of a family"),
        (lambda: pc.fit(line, "full_rank", X), "y"),
        (lambda: pc.fit(line, "mean_field", X, Y, batch_size=10), "num_obs"),
        (lambda: pc.fit(lambda y: None, lambda y: None, Y), "no latent site"),
        (lambda: pc.fit(line, "map", X, Y, noncentred=True), "noncentred: got True"),
    ],
    ids=["a class", "no guide", "no y", "no num_obs", "no latent", "heights of densities"],
)
def test_what_cannot_be_inferred_is_said_before_the_fit(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_rows_without_a_plate_are_drawn_row_by_row():
    def model(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    tree = pc.to_datatree(pc.fit(model, "full_rank", Y), num_draws=50)
    drawn = tree.posterior_predictive["y"].to_numpy()
    assert drawn.shape == (1, 50, N)
    assert len(np.unique(drawn[0, 0])) == N


# --- names -------------------------------------------------------------------------------------


def named(name, plate="row"):
    def model(y):
        mu = pyro.sample(name, dist.Normal(0.0, 10.0))
        with pyro.plate(plate, len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return model


@pytest.mark.parametrize("name", ["chain", "draw", "sample"])
def test_a_site_called_like_a_dimension_of_the_draws_is_refused(name):
    with pytest.raises(ValueError, match=f"site '{name}'"):
        pc.fit(named(name), "full_rank", Y)


@pytest.mark.parametrize("name", ["chain", "draw", "sample"])
@pytest.mark.parametrize("sample_dims", [("chain", "draw"), ("sample",)])
def test_a_plate_called_like_a_dimension_of_the_draws_makes_way(name, sample_dims):
    fit = pc.fit(named("mu", plate=name), "full_rank", Y)
    tree = pc.to_datatree(fit, num_draws=20, sample_dims=sample_dims)
    predicted = pc.predict(fit, num_draws=20, sample_dims=sample_dims)
    for group in (tree.posterior_predictive, tree.log_likelihood, predicted.predictions):
        assert group["y"].dims == (*sample_dims, f"{name}_plate")
    assert pc.diagnose(fit).verdict == "reliable"


def test_a_plate_that_makes_way_must_have_a_place():
    def model(y):
        pyro.sample("draw_plate", dist.Normal(0.0, 1.0))
        with pyro.plate("draw", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(ValueError, match="'draw_plate' and 'draw' have the same name"):
        pc.fit(model, "full_rank", Y)


def test_a_name_with_a_slash_is_kept_with_a_dot():
    assert tree_name("encoder/weight") == "encoder.weight"
    tree = pc.to_datatree(pc.fit(named("a/b"), "full_rank", Y), num_draws=20)
    assert "a.b" in tree.posterior


def test_names_that_would_become_one_are_refused():
    def model(y):
        pyro.sample("a/b", dist.Normal(0.0, 1.0))
        mu = pyro.sample("a.b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"a\.b"):
        check_names(Program(model, (torch.tensor(1.0),)))


ATTRIBUTES = ["half", "type", "train", "to", "double", "forward", "parameters", "training"]


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("family", ["map", "mean_field"])
def test_latents_may_be_called_as_a_modules_attributes_are(family, name):
    assert hasattr(nn.Module(), name)
    fit = pc.fit(named(name), family, Y)
    mean = float(Y.sum()) / (N + 0.01)
    draws = pc.to_datatree(fit, num_draws=400).posterior[name]
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * N**-0.5 / 400**0.5 + 1e-3)


# --- supports ----------------------------------------------------------------------------------


def uniform(h):
    return dist.Uniform(-h, h)


def pareto(h):
    return dist.Pareto(1 / h, 1.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("family", "y"), [(uniform, Y), (pareto, 0.1 + 0.1 * Y.abs())])
def test_a_support_that_moves_is_not_judged_at_one_draw(family, y, seed):
    """Some observation is outside at every draw of these."""

    def model(y):
        h = pyro.sample("h", dist.LogNormal(0.0, 0.1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", family(h), obs=y)

    pyro.set_rng_seed(seed)
    assert "y" in first_run(Program(model, (y,))).sites


def test_a_support_that_stays_is():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.LogNormal(mu, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"site 'y': observation \[\d+\] \(-.*\) is outside"):
        first_run(Program(model, (Y,)))


def test_arrays_stay_arrays_where_tensors_would_give_another_density():
    """The sd of an array divides by n, that of a tensor by n − 1."""

    def model(y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(h, float(y.std())), obs=y)

    y = np.array([0.0, 1.0, 4.0], dtype=np.float32)
    assert first_run(Program(model, (y,))).args[0] is y


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_whole_numbers_without_sign_are_tensors_that_one_can_compute_with(dtype):
    tensor = as_tensor(np.arange(3, dtype=dtype))
    assert tensor.dtype == (torch.uint8 if dtype is np.uint8 else torch.int64)
    assert tensor.tolist() == [0, 1, 2]


def test_a_guide_needs_num_obs_for_mini_batches_too():
    def model(y, num_obs=None):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        with pyro.plate("row", num_obs or len(y), subsample_size=len(y)):
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    def guide(y):
        pyro.sample("h", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="batch_size: the guide takes no num_obs"):
        first_run(Program(model, (torch.zeros(6),)), guide=guide, batch_size=3)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_two_rows_need_a_plate_and_one_does_not(rows):
    def guide():
        pyro.sample("h", dist.Normal(torch.zeros(rows), 1.0))

    def model():
        pyro.sample("h", dist.Normal(torch.zeros(rows), 1.0).to_event(1))

    if rows == 1:
        same_sites(Program(model), Program(guide))
    else:
        with pytest.raises(ValueError, match=f"guide: site 'h' has {rows} rows in no plate"):
            same_sites(Program(model), Program(guide))


def by_columns(table):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(table["x"])):
        pyro.sample("y", dist.Normal(slope * table["x"], 1.0), obs=table["y"])


TABLE = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.1, 0.9, 2.2]})


def test_a_warning_of_an_attempt_is_not_told():
    """Torch warns of a word for an index, before it refuses it."""

    def model(table):
        if isinstance(table, torch.Tensor):
            warnings.warn("what an index is", stacklevel=2)
        by_columns(table)

    with pytest.raises(ValueError, match=r"^model: it does not run on these data \(TypeError"):
        pc.fit(model, "full_rank", TABLE)


def test_a_table_whose_columns_a_model_takes_by_name_is_to_be_given_by_columns():
    with pytest.raises(ValueError, match=r"^model: it does not run .* pass its columns") as caught:
        pc.fit(by_columns, "full_rank", TABLE)
    assert "table: DataFrame (3, 2)" in str(caught.value)
    fit = pc.fit(by_columns, "full_rank", dict(TABLE))
    mean = pc.to_datatree(fit)["posterior"]["slope"].mean()
    assert abs(float(mean) - 5.3 / 6) < 5 * 6**-0.5 / 1000**0.5
