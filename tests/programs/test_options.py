"""Options out of range are refused in one line that names them, before anything runs."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.programs.options import as_seed, check_positive, check_share, check_whole

Y = torch.tensor([1.0, 2.0, 3.0])


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.fixture(scope="module")
def fit():
    return pc.fit(model, "mean_field", Y)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("seed", lambda fit: pc.fit(model, "map", Y, seed=-1)),
        ("seed", lambda fit: pc.fit(model, "map", Y, seed=1.5)),
        ("seed", lambda fit: pc.diagnose(fit, seed=2**32)),
        ("seed", lambda fit: pc.to_datatree(fit, seed="one")),
        ("seed", lambda fit: pc.predict(fit, seed=-1)),
        ("seed", lambda fit: pc.sample(fit, seed=-1)),
        ("seed", lambda fit: pc.refine(fit, seed=-1)),
        ("seed", lambda fit: pc.infer(model, Y, seed=True)),
        ("max_steps", lambda fit: pc.fit(model, "map", Y, max_steps=0)),
        ("max_steps", lambda fit: pc.fit(model, "map", Y, max_steps=1.5)),
        ("num_restarts", lambda fit: pc.fit(model, "map", Y, num_restarts=0)),
        ("lr", lambda fit: pc.fit(model, "map", Y, lr=-1.0)),
        ("tol", lambda fit: pc.fit(model, "map", Y, tol=math.nan)),
        ("batch_size", lambda fit: pc.fit(model, "map", Y, batch_size=0)),
        ("num_draws", lambda fit: pc.diagnose(fit, num_draws=99)),
        ("num_draws", lambda fit: pc.to_datatree(fit, num_draws=0)),
        ("num_draws", lambda fit: pc.to_datatree(fit, num_draws=1.5)),
        ("num_draws", lambda fit: pc.predict(fit, num_draws=-1)),
        ("num_draws", lambda fit: pc.sample(fit, num_draws=0)),
        ("num_draws", lambda fit: pc.compare({"a": fit}, num_draws=0)),
        ("num_draws", lambda fit: pc.calibrate(model, "map", Y, num_draws=1)),
        ("num_simulations", lambda fit: pc.calibrate(model, "map", Y, num_simulations=0)),
        ("num_warmup", lambda fit: pc.sample(fit, num_warmup=0)),
        ("num_chains", lambda fit: pc.sample(fit, num_chains=0)),
        ("processes", lambda fit: pc.sample(fit, processes=0)),
        ("target_accept", lambda fit: pc.sample(fit, target_accept=1.0)),  # NUTS would not end
        ("max_gib", lambda fit: pc.to_datatree(fit, max_gib=0)),
        ("budget", lambda fit: pc.refine(fit, budget=0)),
        ("budget", lambda fit: pc.infer(model, Y, budget=math.nan)),
        ("fit", lambda fit: pc.diagnose(model)),
        ("fit", lambda fit: pc.to_datatree(pc.to_datatree(fit, num_draws=5))),
        ("fit", lambda fit: pc.predict(None)),
        ("fit", lambda fit: pc.sample("full_rank")),
        ("fit", lambda fit: pc.refine(model)),
        ("fit", lambda fit: pc.linear_response(model)),
        ("fit", lambda fit: pc.save(model, "mine.safetensors")),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name, call, fit):
    with pytest.raises(ValueError, match=rf"^{name}: got [^\n]*, expected [^\n]*$"):
        call(fit)


def test_whole_numbers_of_any_library_serve():
    for value in (1, np.int64(1), torch.tensor(1), None):
        check_whole(1, steps=value)
    for value in (0, 1.0, True, "1", torch.tensor(1.0)):
        with pytest.raises(ValueError, match="steps: got"):
            check_whole(1, steps=value)


def test_the_edges_of_positive_numbers_and_shares():
    check_positive(rate=1e-300, tol=math.inf, lr=None)
    check_share(level=0.999)
    for value in (0, -1, math.nan, "much"):
        with pytest.raises(ValueError, match="rate: got"):
            check_positive(rate=value)
    for value in (0, 1, None):
        with pytest.raises(ValueError, match="level: got"):
            check_share(level=value)


def test_seeds_are_those_of_numpy():
    assert [as_seed(np.uint32(2**32 - 1)), as_seed(0)] == [2**32 - 1, 0]
    assert type(as_seed(np.int64(3))) is int
