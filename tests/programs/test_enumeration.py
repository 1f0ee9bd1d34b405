"""Discrete latents summed out of a density, against sums over all their values."""

from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyro_cookbook as pc
from pyro_cookbook.programs.density.log_density import log_density, total
from pyro_cookbook.programs.program import Program

Y = torch.tensor([-1.2, 0.3, 2.9, 3.4], dtype=torch.float64)
PARALLEL = {"enumerate": "parallel"}


def global_draws(num_draws: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    w = torch.rand(num_draws, generator=generator, dtype=torch.float64)
    return {"w": w, "loc": torch.randn(num_draws, 2, generator=generator, dtype=torch.float64)}


def globals_() -> tuple[Tensor, Tensor]:
    w = pyro.sample("w", dist.Beta(Y.new_tensor(2.0), 2.0))
    return w, pyro.sample("loc", dist.Normal(Y.new_zeros(2), 2.0).to_event(1))


def mixture(y, x=None):
    w, loc = globals_()
    with pyro.plate("row", len(y), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(w), infer=PARALLEL).long()
        pyro.sample("y", dist.Normal(loc[z], 0.7), obs=y)
        if x is not None:
            pyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


def by_hand(values, y=Y, x=None):
    """log p(y, x | w, loc) of each row, shape (S, rows)."""
    w, loc = values["w"][:, None], values["loc"]
    terms = []
    for k, share in ((0, 1 - w), (1, w)):
        term = share.log() + dist.Normal(loc[:, k, None], 0.7).log_prob(y)
        terms.append(term if x is None else term + dist.Normal(2.0 * k, 1.0).log_prob(x))
    return torch.logsumexp(torch.stack(terms), 0)


def over_all_values(model, values, supports):
    """Σ over the joint values of discrete sites of the density with these held: shape (S,)."""
    terms = []
    for states in product(*(support for _, support in supports)):
        held = {
            name: state.expand(len(values["w"]), *state.shape)
            for (name, _), state in zip(supports, states, strict=True)
        }
        terms.append(total(log_density(Program(model), {**values, **held})))
    return torch.logsumexp(torch.stack(terms), 0)


def binary(num_rows: int) -> list[Tensor]:
    return [torch.tensor(s, dtype=torch.float64) for s in product((0.0, 1.0), repeat=num_rows)]


def test_rows_of_a_mixture_have_their_marginal_density():
    values = global_draws()
    found = log_density(Program(mixture, (Y,)), values)
    assert set(found) == {"w", "loc", "y"}
    torch.testing.assert_close(found["y"], by_hand(values))
    torch.testing.assert_close(found["w"], dist.Beta(2.0, 2.0).log_prob(values["w"]))


def test_a_second_observation_of_a_row_is_given_the_first():
    values, x = global_draws(), torch.tensor([0.1, -0.5, 1.5, 2.5], dtype=torch.float64)
    found = log_density(Program(mixture, (Y, x)), values)
    torch.testing.assert_close(found["y"], by_hand(values))
    torch.testing.assert_close(found["y"] + found["x"], by_hand(values, x=x))


def test_latents_that_depend_on_the_sum_come_before_the_data():
    def model():
        w, loc = globals_()
        with pyro.plate("row", 4, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(w), infer=PARALLEL).long()
            pyro.sample("y", dist.Normal(loc[z], 0.7), obs=Y)
            pyro.sample("h", dist.Normal(2.0 * z, 1.0))

    h = torch.randn(7, 4, dtype=torch.float64)
    found = log_density(Program(model), global_draws() | {"h": h})
    k = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None]
    share = torch.stack([1 - global_draws()["w"], global_draws()["w"]]).log()[..., None]
    torch.testing.assert_close(
        found["h"], torch.logsumexp(share + dist.Normal(2 * k, 1.0).log_prob(h), 0)
    )
    torch.testing.assert_close(found["h"] + found["y"], by_hand(global_draws(), x=h))


def test_a_latent_that_all_rows_share_leaves_them_one_density():
    def model():
        w, loc = globals_()
        z = pyro.sample("z", dist.Bernoulli(w)).long()  # not marked
        with pyro.plate("row", 4, dim=-1):
            pyro.sample("y", dist.Normal(loc[z], 0.7), obs=Y)

    values = global_draws()
    found = log_density(Program(model), values)
    assert found["y"].shape == (7, 1)
    expected = over_all_values(model, values, [("z", [Y.new_tensor(0.0), Y.new_tensor(1.0)])])
    torch.testing.assert_close(total(found), expected)


def chain_model(marked: bool = True):
    def model():
        w, loc = globals_()
        state = 0
        for t in pyro.markov(range(4)):
            stay = torch.as_tensor(state, dtype=Y.dtype) * (1 - 2 * w) + w
            state = pyro.sample(f"z_{t}", dist.Bernoulli(stay), infer=PARALLEL if marked else {})
            pyro.sample(f"y_{t}", dist.Normal(loc[state.long()], 0.7), obs=Y[t])

    return model


@pytest.mark.parametrize("marked", [True, False])
def test_a_hidden_chain_is_summed_over_all_its_paths(marked):
    values = global_draws()
    model = chain_model(marked)
    found = log_density(Program(model), values)
    states = [Y.new_tensor(0.0), Y.new_tensor(1.0)]
    expected = over_all_values(model, values, [(f"z_{t}", states) for t in range(4)])
    torch.testing.assert_close(total(found), expected)
    # One step ahead: the first observation knows nothing of the later ones.
    first = torch.logsumexp(
        torch.stack([
            (1 - values["w"]).log() + dist.Normal(values["loc"][:, 0], 0.7).log_prob(Y[0]),
            values["w"].log() + dist.Normal(values["loc"][:, 1], 0.7).log_prob(Y[0]),
        ]), 0,
    )  # fmt: skip
    torch.testing.assert_close(found["y_0"], first)


def test_plates_in_plates():
    def model():
        w, loc = globals_()
        with pyro.plate("group", 2, dim=-2):
            g = pyro.sample("g", dist.Bernoulli(w))
            with pyro.plate("row", 2, dim=-1):
                z = pyro.sample("z", dist.Bernoulli(0.2 + 0.6 * g))
                pyro.sample("y", dist.Normal(loc[z.long()], 0.7), obs=Y.reshape(2, 2))

    values = global_draws()
    found = log_density(Program(model), values)
    assert found["y"].shape == (7, 2, 1)  # rows of a group share what is summed out
    supports = [
        ("g", [s.reshape(2, 1) for s in binary(2)]),
        ("z", [s.reshape(2, 2) for s in binary(4)]),
    ]
    torch.testing.assert_close(total(found), over_all_values(model, values, supports))


def test_masks_stand_inside_the_sum_and_scales_outside():
    def model():
        w, loc = globals_()
        with pyro.plate("row", 4, dim=-1), poutine.scale(scale=3.0):
            z = pyro.sample("z", dist.Bernoulli(w), infer=PARALLEL).long()
            with poutine.mask(mask=Y < 3):
                pyro.sample("y", dist.Normal(loc[z], 0.7), obs=Y)

    values = global_draws()
    found = log_density(Program(model), values)["y"]
    seen = Y < 3
    torch.testing.assert_close(found[:, seen], 3 * by_hand(values)[:, seen])
    torch.testing.assert_close(found[:, ~seen], torch.zeros_like(found[:, ~seen]))


def test_a_draw_without_mass_has_none():
    def model():
        h = pyro.sample("h", dist.Normal(Y.new_zeros(()), 1.0))
        with pyro.plate("row", 4, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(Y.new_tensor(0.5)))
            for name in ("y", "x"):
                pyro.sample(name, dist.Uniform(h - 1 - z, h + 1 + z), obs=Y / 4)

    found = log_density(Program(model), {"h": Y.new_tensor([0.0, 50.0])})
    assert torch.isfinite(total(found)[0])
    assert total(found)[1] == -torch.inf


@pytest.mark.parametrize(
    ("latent", "says"),
    [
        (lambda: pyro.sample("z", dist.Poisson(3.0)), "site 'z': .* a Poisson cannot be summed"),
        (lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), "site 'z': .* a Normal cannot be summed"),
        (
            lambda: 1.0 if pyro.sample("z", dist.Bernoulli(0.5)) else -1.0,
            r"site 'z': it has no value, and could not be summed out \(.*",
        ),
    ],
)
def test_what_cannot_be_summed_out_is_named(latent, says):
    def model():
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h + latent(), 1.0), obs=torch.tensor(0.3))

    with pytest.raises(ValueError, match=says) as caught:
        log_density(Program(model), {"h": torch.zeros(5)})
    assert "\n" not in str(caught.value)


def test_the_elbo_of_a_guide_without_the_discrete_site_is_that_of_the_sum():
    """Beta counts: with the rows' z summed out the posterior of w is not theirs, but its ELBO is
    an integral on [0, 1]."""
    loc = torch.tensor([-1.0, 3.0], dtype=torch.float64)

    def model(y):
        w = pyro.sample("w", dist.Beta(y.new_tensor(2.0), 2.0))
        with pyro.plate("row", len(y), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(w), infer=PARALLEL).long()
            pyro.sample("y", dist.Normal(loc[z], 0.7), obs=y)

    def guide(y):
        pyro.sample("w", dist.Beta(y.new_tensor(3.0), 4.0))

    w = torch.linspace(0, 1, 4003, dtype=torch.float64)[1:-1]
    q = dist.Beta(3.0, 4.0).log_prob(w)
    height = by_hand({"w": w, "loc": loc.expand(len(w), 2)}).sum(1)
    height += dist.Beta(2.0, 2.0).log_prob(w)
    exact = float(torch.trapezoid(q.exp() * (height - q), w))
    for seed in range(3):
        elbo = pc.as_fit(model, guide, Y, seed=seed).elbo
        assert abs(elbo.value - exact) < 4 * elbo.se < 0.2


def test_sites_of_one_sum_that_are_scaled_differently_are_refused():
    """The scale stands outside of the sum: there is one, or there is none."""

    def model():
        w = pyro.sample("w", dist.Beta(Y.new_tensor(2.0), 2.0))
        with pyro.plate("row", 4, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(w))
            with poutine.scale(scale=3.0):
                pyro.sample("y", dist.Normal(2 * z, 0.7), obs=Y)

    with pytest.raises(ValueError, match=r"could not be summed out .*'z', 'y' are scaled diff"):
        log_density(Program(model), {"w": Y.new_tensor([0.3])})


def test_a_masked_latent_that_depends_on_the_sum_does_not_count():
    seen = Y < 3

    def model():
        w = pyro.sample("w", dist.Beta(Y.new_tensor(2.0), 2.0))
        with pyro.plate("row", 4, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(w))
            with poutine.mask(mask=seen):
                h = pyro.sample("h", dist.Normal(2 * z, 0.5))
            pyro.sample("y", dist.Normal(h, 1.0), obs=Y)

    w, h = Y.new_tensor([0.3]), Y.new_tensor([[0.1, 1.8, -0.7, 2.2]])
    found = log_density(Program(model), {"w": w, "h": h})
    parts = [
        share.log() + dist.Normal(2.0 * k, 0.5).log_prob(h) for k, share in ((0, 1 - w), (1, w))
    ]
    expected = torch.where(seen, torch.logaddexp(*parts), 0.0)
    torch.testing.assert_close(found["h"], expected)
    torch.testing.assert_close(found["y"], dist.Normal(h, 1.0).log_prob(Y))
