"""Importance weights block by block, on posteriors whose densities are known in closed form."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.posterior.importance import (
    Blocks,
    by_cell,
    by_row,
    find_blocks,
    weigh,
)
from pyro_cookbook.posterior.pareto import smooth
from pyro_cookbook.programs.program import Site

Y = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
RNG = np.random.default_rng(0)


def groups(y):
    """A mean over group means, each seen once: p(y_r | mu) is N(mu, 5), and p(y) is normal too."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    with pyro.plate("group", len(y), dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


PRECISION = len(Y) / 5 + 1 / 25
MU = float(Y.sum()) / 5 / PRECISION
LOG_EVIDENCE = stats.multivariate_normal.logpdf(
    Y.numpy(), np.zeros(len(Y)), 5 * np.eye(len(Y)) + 25
)


def guide_of(*, mu_shift=0.0, mu_scale=1.0, theta_shift=0.0, theta_scale=1.0):
    """The exact posterior of `groups`, moved and stretched by so many sds."""

    def guide(y):
        sd = PRECISION**-0.5
        mu = pyro.sample("mu", dist.Normal(y.new_tensor(MU + mu_shift * sd), mu_scale * sd))
        with pyro.plate("group", len(y), dim=-1):
            pyro.sample(
                "theta",
                dist.Normal((4 * mu + y) / 5 + theta_shift * 0.8**0.5, theta_scale * 0.8**0.5),
            )

    return guide


def rows_alone(y):
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def rows_guide(shift=0.0, scale=1.0):
    def guide(y):
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("h", dist.Normal(y / 2 + shift, scale * 0.5**0.5))

    return guide


def weights_of(model, guide, y=Y, num_draws=2000, **options):
    return weigh(pc.as_fit(model, guide, y), num_draws, **options)


# Weights


def test_weights_of_the_posterior_are_the_evidence_in_every_draw():
    weights = weights_of(groups, guide_of())
    np.testing.assert_allclose(weights.joint, LOG_EVIDENCE, atol=1e-9)
    assert weights.evidence().value == pytest.approx(LOG_EVIDENCE, abs=1e-9)
    assert weights.evidence().se < 1e-9


def test_a_global_weight_has_the_rows_summed_out_exactly_where_their_guide_is_exact():
    """Whatever q(mu) is: log p(mu) + Σ log p(y_r | mu) − log q(mu), at every draw."""
    weights = weights_of(groups, guide_of(mu_shift=0.5, mu_scale=0.7), num_draws=500)
    assert weights.blocks == Blocks("group", ("theta",), ("mu",))
    mu = weights.draws.values["mu"].numpy()
    expected = stats.norm.logpdf(mu, 0, 5) - stats.norm.logpdf(
        mu, MU + 0.5 * PRECISION**-0.5, 0.7 * PRECISION**-0.5
    )
    expected += stats.norm.logpdf(Y.numpy(), mu[:, None], 5**0.5).sum(1)
    np.testing.assert_allclose(weights.shared, expected, atol=1e-9)
    # A row's weight is its density given mu: constant over theta.
    np.testing.assert_allclose(
        weights.rows, stats.norm.logpdf(Y.numpy(), mu[:, None], 5**0.5), atol=1e-9
    )


def test_rows_summed_out_by_fifty_draws_each_have_the_right_mean():
    weights = weights_of(groups, guide_of(theta_shift=0.4, theta_scale=1.2), num_draws=2000)
    # Each of 2,000 global weights is the evidence with noise, from 50 inner draws of each row.
    off = weights.evidence().value - LOG_EVIDENCE
    assert abs(off) < 4 * weights.evidence().se
    assert weights.evidence().se < 0.02
    assert weights.joint.mean() < LOG_EVIDENCE - 0.2  # while the bound is below


def test_without_summing_rows_out_all_latents_are_one_block():
    weights = weights_of(groups, guide_of(), sum_rows_out=False)
    assert weights.blocks == Blocks("", (), ("mu", "theta"))
    assert weights.rows is None
    assert weights.shared is None


@pytest.mark.parametrize(("size", "together"), [(599, 5000), (600, 4000)])  # and mu
def test_many_latents_together_have_fewer_draws(size, together):
    fit = pc.as_fit(groups, guide_of(), torch.zeros(size, dtype=Y.dtype))
    assert len(weigh(fit, 5000, sum_rows_out=False).joint) == together
    assert len(weigh(fit, 3000, sum_rows_out=False).joint) == 3000
    alone = pc.as_fit(rows_alone, rows_guide(), torch.zeros(size + 1, dtype=Y.dtype))
    assert len(weigh(alone, 5000).joint) == 5000  # rows have weights of their own


def test_rows_on_their_own_have_weights_of_their_own_and_their_evidence_adds_up():
    weights = weights_of(rows_alone, rows_guide(0.3, 1.2), num_draws=4000)
    assert weights.blocks == Blocks("row", ("h",), ())
    assert weights.shared is None
    h = weights.draws.values["h"].numpy()
    y = Y.numpy()
    expected = stats.norm.logpdf(h) + stats.norm.logpdf(y, h)
    expected -= stats.norm.logpdf(h, y / 2 + 0.3, 1.2 * 0.5**0.5)
    np.testing.assert_allclose(weights.rows, expected, atol=1e-9)
    np.testing.assert_allclose(weights.joint, expected.sum(1), atol=1e-9)
    found, exact = weights.evidence(), stats.norm.logpdf(y, 0, 2**0.5).sum()
    assert abs(found.value - exact) < 4 * found.se
    assert found.se < 0.05


def test_the_standard_error_of_an_evidence_is_that_of_its_replications():
    found = [weights_of(rows_alone, rows_guide(0.3, 0.8), seed=s).evidence() for s in range(60)]
    spread = np.std([one.value for one in found])
    # A standard deviation from 60 replications has a relative standard error of 9%.
    assert np.mean([one.se for one in found]) == pytest.approx(spread, rel=0.36)


def test_the_draws_are_as_many_as_asked_for_and_seeded():
    one, two = (weights_of(rows_alone, rows_guide(0.3), num_draws=300) for _ in range(2))
    other = weights_of(rows_alone, rows_guide(0.3), num_draws=300, seed=1)
    assert one.joint.shape == (300,)
    np.testing.assert_array_equal(one.joint, two.joint)
    assert not np.array_equal(one.joint, other.joint)


# States


P = torch.tensor([0.3, 0.7], dtype=torch.float64)
M = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def mixture(y):
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Categorical(P))
        pyro.sample("y", dist.Normal(M[h], 1.0), obs=y)


def shifted_mixture(y):
    a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Categorical(P))
        pyro.sample("y", dist.Normal(M[h] + a, 1.0), obs=y)


def even(y):
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("h", dist.Categorical(torch.full((2,), 0.5, dtype=torch.float64)))


def even_and_shift(y):
    pyro.sample("a", dist.Normal(y.new_tensor(0.2), 0.6))
    even(y)


def log_joint(y, a=0.0):
    """log p(y_r, h_r = k | a), shape (..., R, K)."""
    return np.log(P.numpy()) + stats.norm.logpdf(
        y[:, None], M.numpy() + np.asarray(a)[..., None, None], 1
    )


def test_states_of_rows_have_their_joint_density_and_give_the_exact_evidence():
    weights = weights_of(mixture, even)
    assert weights.states.log_p.shape == (1, len(Y), 2)
    np.testing.assert_allclose(weights.states.log_p[0], log_joint(Y.numpy()), atol=1e-9)
    exact = np.logaddexp.reduce(log_joint(Y.numpy()), axis=-1).sum()
    assert weights.evidence().value == pytest.approx(exact, abs=1e-9)
    assert weights.evidence().se == 0


def test_states_are_summed_out_of_a_global_weight_at_every_draw():
    weights = weights_of(shifted_mixture, even_and_shift, num_draws=200)
    a = weights.draws.values["a"].numpy()
    np.testing.assert_allclose(weights.states.log_p, log_joint(Y.numpy(), a), atol=1e-9)
    expected = np.logaddexp.reduce(log_joint(Y.numpy(), a), axis=-1).sum(1)
    expected += stats.norm.logpdf(a) - stats.norm.logpdf(a, 0.2, 0.6)
    np.testing.assert_allclose(weights.shared, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "shared", "enumerated"),
    [(64, True, True), (65, True, False), (4096, False, True), (4097, False, False)],
)
def test_many_states_are_not_enumerated_least_of_all_under_every_global_draw(
    size, shared, enumerated
):
    logits = torch.zeros(size, dtype=torch.float64)

    def model(y):
        if shared:
            pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("row", 1, dim=-1):
            h = pyro.sample("h", dist.Categorical(logits=logits))
            pyro.sample("y", dist.Normal(h / size, 1.0), obs=y)

    def guide(y):
        if shared:
            pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("row", 1, dim=-1):
            pyro.sample("h", dist.Categorical(logits=logits))

    weights = weights_of(model, guide, Y[:1], num_draws=5)
    assert (weights.states is not None) == enumerated


# Rows and blocks


def site(*plates, shape, **options):
    rest = {"event_dim": 0, "observed": False, "is_delta": False, "is_discrete": False}
    return Site(plates=plates, shape=torch.Size(shape), **rest | options)


@pytest.mark.parametrize("first", [True, False])
def test_densities_are_summed_over_everything_but_draws_and_rows(first):
    value = torch.as_tensor(RNG.standard_normal((5, 3, 2)))  # 5 draws of (3, 2)
    plates = ("row", "other") if first else ("other", "row")
    sites = {
        "a": site(*plates, shape=(3, 2)),
        "b": site("row", shape=(3 if first else 2,)),
        "outside": site("other", shape=(7,)),
    }
    one = torch.as_tensor(RNG.standard_normal((5, 3 if first else 2)))
    found = by_row("row", sites, {"a": value, "b": one, "outside": torch.ones(5, 7)})
    np.testing.assert_allclose(found, value.numpy().sum(2 if first else 1) + one.numpy())


def split(model, guide):
    return find_blocks({"y": site("row", shape=(4,), observed=True)} | model, guide)


def test_latents_inside_the_plate_of_the_data_are_local():
    local, outside = site("row", shape=(4,)), site(shape=(2,))
    both = {"mu": outside, "h": local}
    assert split(both, both) == Blocks("row", ("h",), ("mu",))
    assert split({"h": local}, {"h": local}) == Blocks("row", ("h",), ())


def test_without_local_latents_there_is_one_block():
    assert split({"mu": site(shape=(2,))}, {"mu": site(shape=(2,))}) == Blocks("", (), ("mu",))


def test_a_guide_that_draws_rows_jointly_has_one_block():
    local = site("row", shape=(4,))
    joint = site(shape=(4,), auxiliary=True)
    assert split({"h": local}, {"_latent": joint}) == Blocks("", (), ("h",))
    # All latents from one density, from which each site is a point: rows have no weights.
    assert split(
        {"mu": site(shape=()), "h": local},
        {"_latent": site(shape=(5,), auxiliary=True), "mu": site(shape=()), "h": local},
    ) == Blocks("", (), ("mu", "h"))


def test_a_plate_that_not_all_data_share_makes_no_rows():
    blocks = find_blocks(
        {
            "y": site("row", shape=(4,), observed=True),
            "z": site(shape=(), observed=True),
            "h": site("row", shape=(4,)),
        },
        {"h": site("row", shape=(4,))},
    )
    assert blocks == Blocks("", (), ("h",))


def test_factors_and_computed_values_do_not_make_or_break_rows():
    blocks = find_blocks(
        {
            "y": site("row", shape=(4,), observed=True),
            "factor": site(shape=(0,), observed=True),
            "twice": site(shape=(), observed=True, deterministic=True),
            "h": site("row", shape=(4,)),
        },
        {"h": site("row", shape=(4,))},
    )
    assert blocks == Blocks("row", ("h",), ())


# Smoothing


def test_smoothed_weights_are_normalised_column_by_column():
    weights, khat = smooth(RNG.standard_normal((1000, 3)) * [0.1, 1.0, 3.0])
    assert weights.shape == (1000, 3)
    assert khat.shape == (3,)
    np.testing.assert_allclose(weights.sum(0), 1)
    alone, k = smooth(RNG.standard_normal(1000))
    assert alone.shape == (1000,)
    assert k.shape == ()


@pytest.mark.parametrize(("sd", "equal"), [(0.9e-3, True), (1.1e-3, False)])
def test_weights_that_hardly_differ_are_equal(sd, equal):
    log_weights = RNG.standard_normal(2000)
    log_weights *= sd / log_weights.std()
    weights, khat = smooth(log_weights - 300)
    assert (khat == 0) == equal
    assert (np.ptp(weights) == 0) == equal


def test_smoothing_leaves_all_but_the_tail_as_it_is():
    log_weights = RNG.standard_normal(4000)
    weights, khat = smooth(log_weights)
    order = np.argsort(log_weights)[:3500]
    ratio = weights[order] / np.exp(log_weights[order])
    np.testing.assert_allclose(ratio, ratio[0])
    assert khat < 0.7


def test_draws_without_mass_have_weight_zero_while_they_are_few():
    log_weights = RNG.standard_normal((1000, 2))
    log_weights[:3, 0] = log_weights[:501, 1] = -np.inf
    weights, khat = smooth(log_weights)
    alone, khat_alone = smooth(log_weights[3:, 0])
    np.testing.assert_array_equal(weights[:3, 0], 0.0)
    np.testing.assert_allclose(weights[3:, 0], alone)
    assert khat[0] == khat_alone < 0.7
    assert khat[1] == np.inf


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_weights_that_are_not_finite_cannot_be_smoothed(bad):
    log_weights = RNG.standard_normal((1000, 2))
    log_weights[3, 1] = bad
    weights, khat = smooth(log_weights)
    assert khat[0] < 0.7
    assert khat[1] == np.inf
    np.testing.assert_allclose(weights[:, 1], 1 / 1000)


@pytest.mark.parametrize("index", [0.3, 0.6, 0.9])
def test_khat_is_the_tail_index_of_pareto_weights(index):
    found = [smooth(-index * np.log(RNG.random(4000)))[1] for _ in range(40)]
    # One estimate from 190 weights of a tail has a standard deviation of some 0.1.
    assert np.mean(found) == pytest.approx(index, abs=0.06)


def crossed(*plates, shape):
    """Data in two plates, a latent in both and one in the first alone."""
    return {
        "y": site(*plates, shape=shape, observed=True),
        "z": site(*plates, shape=shape),
        "u": site(plates[0], "", shape=(shape[0], 1)),
    }


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_which_plate_has_the_rows_does_not_depend_on_its_name(names):
    outer, inner = names
    sites = crossed(outer, inner, shape=(3, 8))
    square = crossed(outer, inner, shape=(3, 3))
    z, u = ("z", sites["z"]), ("u", sites["u"])
    # By the inner plate u would be left outside.
    assert find_blocks(sites, dict([z, u])) == Blocks(outer, ("z", "u"), ())
    del sites["u"], square["u"]
    assert find_blocks(sites, dict([z])).row == inner  # nothing is left outside: more rows
    assert find_blocks(square, {"z": square["z"]}).row == outer


@pytest.mark.parametrize("first", [True, False])
def test_cells_of_two_plates_are_in_the_order_of_the_plates(first):
    value = torch.as_tensor(RNG.standard_normal((5, 3, 2, 4)))
    sites = {"a": site("row", "side", "", shape=(3, 2, 4)), "b": site("row", shape=(3,))}
    plates = ("row", "side") if first else ("side", "row")
    found = by_cell(plates, sites, {"a": value, "b": torch.ones(5, 3)})
    expected = value.numpy().sum(3)
    np.testing.assert_allclose(
        found, (expected if first else expected.swapaxes(1, 2)).reshape(5, 6)
    )
