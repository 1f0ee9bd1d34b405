"""A program shows its sites by one run, keeps them, and takes no random numbers for it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import nn
from pyro.distributions import constraints

from pyro_cookbook.programs import drawing
from pyro_cookbook.programs.density.log_density import chunk_size, over_draws
from pyro_cookbook.programs.density.unconstrained import unconstrained_density
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.program import Program

Y = torch.linspace(-1, 1, 6).reshape(2, 3)


class Counting:
    """Two plates, a derived value, a factor, a point under a mask; and how often it ran."""

    def __init__(self):
        self.runs = 0

    def __call__(self, y=None):
        self.runs += 1
        with pyro.plate("column", 3, dim=-1), pyro.plate("row", 2, dim=-2):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)
        with pyro.plate("pair", 2, dim=-1):
            pyro.sample("pairs", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.deterministic("total", h.sum())
        pyro.factor("nudge", -h.square().sum())
        pyro.sample("point", dist.Delta(torch.tensor(2.0)).mask(False))


def test_the_sites_are_found_by_one_run_and_kept():
    model = Counting()
    program = Program(model, (Y,))
    before = torch.get_rng_state()
    assert set(program.sites) == {"h", "y", "pairs", "total", "nudge", "point"}
    assert (set(program.latents), program.num_latents) == ({"h", "pairs", "point"}, 6 + 8 + 1)
    assert model.runs == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_known_goes_with_other_parameters_and_not_with_other_data_or_functions():
    model = Counting()
    program = Program(model, (Y,))
    assert program.sites["y"].observed
    kept = program.keeping({"params": {}, "constraints": {}})
    assert kept.sites is program.sites
    assert model.runs == 1
    assert not program.on().sites["y"].observed
    assert model.runs == 2
    assert program.of(lambda y: None).sites == {}


def test_plates_name_the_dimensions_that_they_are():
    sites = Program(Counting(), (Y,)).sites
    assert sites["h"].plates == sites["y"].plates == ("row", "column")
    assert (sites["pairs"].plates, sites["pairs"].batch_shape) == (("pair",), (2,))


def test_data_are_what_is_observed_and_neither_computed_nor_a_factor():
    sites = Program(Counting(), (Y,)).sites
    assert {name for name, site in sites.items() if site.observed} == {"y", "total", "nudge"}
    assert [name for name, site in sites.items() if site.is_data] == ["y"]
    assert {name for name, site in sites.items() if site.deterministic} == {"total"}


def test_improper_priors_are_put_at_the_origin():
    def model():
        pyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))

    assert float(Program(model).nodes["scale"]["value"]) == pytest.approx(1.0)


def test_parameters_stay_known_when_their_store_is_gone():
    def model():
        pyro.param("noise", torch.ones(()), constraints.positive)
        pyro.sample("h", dist.Normal(0.0, 1.0))

    program = Program(model)
    with pyro.get_param_store().scope():
        value = program.trace.nodes["noise"]["value"]
    assert value.unconstrained().requires_grad


# --- one draw at a time ------------------------------------------------------------------------


def test_vmap_takes_no_more_draws_at_a_time_than_a_chunk():
    sizes = []

    class Spy(torch.autograd.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def vmap(info, in_dims, x):
            sizes.append(info.batch_size)
            return x.clone(), in_dims[0]

    found, obstacle = over_draws(lambda one: {"x": Spy.apply(one["x"])}, {"x": torch.arange(10.0)},
                                 chunk=4)  # fmt: skip
    assert (sizes, obstacle) == ([4, 4, 2], "")
    assert found["x"].equal(torch.arange(10.0))
    assert (chunk_size(10**9, 50), chunk_size(1, 50)) == (1, 50)


def test_what_vmap_cannot_follow_is_done_one_by_one_and_said():
    def branch(one):
        return {"x": one["x"] * (2.0 if one["x"].item() > 0 else 3.0)}

    values = {"x": torch.tensor([1.0, -1.0])}
    found, obstacle = over_draws(branch, values, chunk=2)
    assert found["x"].tolist() == [2.0, -3.0]
    assert "item()" in obstacle
    calls = []
    over_draws(lambda one: calls.append(one["x"].dim()) or one, values, chunk=2, obstacle=obstacle)
    assert calls == [0, 0]  # vmap is not tried again
    assert over_draws(branch, values, chunk=2, or_loop=False)[0] == {}


def test_a_program_that_couples_draws_is_drawn_as_if_it_had_been_drawn_one_by_one(monkeypatch):
    def common_mean():
        with pyro.plate("row", 4, dim=-1):
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x.mean(), 0.1))

    program = Program(common_mean)
    pyro.set_rng_seed(3)
    tried = draw(program, 6)
    monkeypatch.setattr(drawing, "_draw_at_once", lambda *args: None)
    pyro.set_rng_seed(3)
    assert tried.values["y"].equal(draw(program, 6).values["y"])


def multinomial(p):
    value = torch.tensor([[3.0, 0.0, 7.0], [1.0, 2.0, 0.0]])
    return {"x": dist.Multinomial(10, logits=p, validate_args=False).log_prob(value)}


def ordered(p):
    value = torch.tensor([0.0, 2.0])
    return {"x": dist.OrderedLogistic(p[:2], torch.tensor([-0.5, 1.0])).log_prob(value)}


@pytest.mark.parametrize("density", [multinomial, ordered])
def test_densities_that_write_into_tensors_are_followed_and_the_same(density):
    values = torch.linspace(-1, 2, 12).reshape(4, 3)
    with pyro.validation_enabled(False):
        found, obstacle = over_draws(lambda one: density(one["p"]), {"p": values}, chunk=4)
        alone = torch.stack([density(one)["x"] for one in values])
    assert obstacle == ""
    torch.testing.assert_close(found["x"], alone)


class Steep(nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.b = torch.nn.Parameter(torch.ones(()))

    def forward(self):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.factor("slope", self.b * h)


def test_a_density_made_before_training_is_not_that_of_the_trained_program():
    program, z = Program(Steep()), np.array([[2.0]])
    before = unconstrained_density(program).value(z)
    with torch.no_grad():
        program.function.b.fill_(5.0)
    after = unconstrained_density(program.keeping({})).value(z)
    np.testing.assert_allclose(after - before, 8.0, rtol=1e-12)
