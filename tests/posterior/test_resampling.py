"""Resampled draws are the posterior's, block by block, or are refused."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.posterior.resampling import _choose, resample

Y = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
N = 4000


def resampled(model, guide, y=Y, num_draws=N, seed=0):
    found = resample(pc.as_fit(model, guide, y), num_draws, seed)
    return {name: value.double().numpy() for name, value in found.items()}


def standard_normal(y):
    pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(y.new_zeros(()), 1.0).expand([len(y)]).to_event(1), obs=y)


def normal_guide(scale):
    def guide(y):
        pyro.sample("h", dist.Normal(y.new_zeros(()), scale))

    return guide


def test_joint_weights_that_can_be_used_give_the_posterior():
    h = resampled(standard_normal, normal_guide(0.75))["h"]  # k-hat 0.44
    assert h.shape == (N,)
    # From 20,000 draws; weights leave some 10,000 of them, of which 4,000 are taken.
    assert abs(h.mean()) < 4 / 2800**0.5
    assert h.std() == pytest.approx(1.0, abs=4 / (2 * 2800) ** 0.5)


@pytest.mark.parametrize(("scale", "refused"), [(0.68, False), (0.35, True)])
def test_joint_weights_past_the_limit_are_refused_where_there_are_no_rows(scale, refused):
    """k-hat is one minus the ratio of variances: 0.54, and 0.88."""
    if not refused:
        assert resampled(standard_normal, normal_guide(scale))["h"].std() > 0.9
        return
    with pytest.raises(ValueError, match=r"k-hat of the joint weights is \d\.\d\d, above 0.7"):
        resampled(standard_normal, normal_guide(scale))


# Rows on their own: forty of them, so that the joint weights are of no use

MANY = torch.linspace(-3, 3, 40, dtype=torch.float64)


def rows_alone(y):
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def rows_guide(shift, scale):
    def guide(y):
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("h", dist.Normal(y / 2 + shift, scale * 0.5**0.5))

    return guide


def test_rows_on_their_own_are_resampled_by_their_own_weights():
    h = resampled(rows_alone, rows_guide(0.4, 1.2), MANY)["h"]
    assert h.shape == (N, 40)
    # 4,000 of 4,000 draws by weights that leave some 2,500: 1,500 effective. Worst of 40 rows.
    sd = 0.5**0.5
    np.testing.assert_allclose(h.mean(0), MANY.numpy() / 2, atol=5 * sd / 1500**0.5)
    np.testing.assert_allclose(h.std(0), sd, atol=5 * sd / 3000**0.5)
    # Rows pick their draws on their own: what they have in common is chance.
    correlation = np.corrcoef(h.T)[np.triu_indices(40, 1)]
    assert np.abs(correlation).max() < 5 / 1500**0.5


def test_one_row_past_the_limit_refuses_them_all_by_name():
    def guide(y):
        scale = torch.where(torch.arange(40) == 7, 0.3, 0.8).to(y)  # k-hat 0.91, and 0.36
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("h", dist.Normal(y / 2, scale * 0.5**0.5))

    with pytest.raises(ValueError, match=r"k-hat of the worst 'row' is \d\.\d\d, above 0.7"):
        resampled(rows_alone, guide, MANY)


@pytest.mark.parametrize(("row", "side"), [(-2, -1), (-1, -2)])
def test_rows_in_any_dimension_of_a_latent_are_found_there(row, side):
    y = MANY[:, None] if row == -2 else MANY[None]

    def model(y):
        with pyro.plate("row", 40, dim=row):
            with pyro.plate("side", 2, dim=side):
                h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(h.sum(side, keepdim=True) + 0 * z, 1.0), obs=y)

    def guide(y):
        with pyro.plate("row", 40, dim=row):
            with pyro.plate("side", 2, dim=side):
                pyro.sample("h", dist.Normal(y / 3 + 0.2, 0.8))
            pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))

    h = np.moveaxis(resampled(model, guide, y)["h"], row, 1)
    assert h.shape == (N, 40, 2)
    # Given y, each side has mean y/3; the two together, 2y/3.
    exact = np.tile(MANY.numpy()[:, None] / 3, 2)
    np.testing.assert_allclose(h.mean(0), exact, atol=5 * 0.82 / 1000**0.5)
    # A row's sides are picked together: their correlation is −½.
    for one in (0, 20, 39):
        assert np.corrcoef(h[:, one].T)[0, 1] == pytest.approx(-0.5, abs=0.12)


# Rows under global latents


def groups(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    with pyro.plate("group", len(y), dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


PRECISION = len(MANY) / 5 + 1 / 25
MU, MU_SD = float(MANY.sum()) / 5 / PRECISION, PRECISION**-0.5


def groups_guide(*, mu_shift=0.0, mu_scale=1.0, theta_shift=0.0, theta_scale=1.0):
    """The exact posterior of `groups`, moved and stretched by so many sds."""

    def guide(y):
        mu = pyro.sample("mu", dist.Normal(y.new_tensor(MU + mu_shift * MU_SD), mu_scale * MU_SD))
        with pyro.plate("group", len(y), dim=-1):
            loc = (4 * mu + y) / 5 + theta_shift * 0.8**0.5
            pyro.sample("theta", dist.Normal(loc, theta_scale * 0.8**0.5))

    return guide


def test_rows_are_redrawn_under_resampled_global_latents():
    guide = groups_guide(mu_shift=0.5, mu_scale=1.2, theta_shift=0.4, theta_scale=0.85)
    found = resampled(groups, guide, MANY)
    mu, theta = found["mu"], found["theta"]
    # The global weights have noise from fifty inner draws of each of forty rows.
    assert mu.mean() == pytest.approx(MU, abs=0.2 * MU_SD)
    assert mu.std() == pytest.approx(MU_SD, rel=0.15)
    # Given mu, theta is N((4 mu + y)/5, 0.8): its own mean and sd, and no link to mu beyond.
    residual = (theta - (4 * mu[:, None] + MANY.numpy()) / 5) / 0.8**0.5
    np.testing.assert_allclose(residual.mean(0), 0, atol=0.12)
    np.testing.assert_allclose(residual.std(0), 1, atol=0.12)
    # Over all rows the noise is six times smaller.
    assert abs(residual.mean()) < 0.03
    assert residual.std() == pytest.approx(1, abs=0.03)
    assert np.corrcoef(mu, residual.mean(1))[0, 1] == pytest.approx(0, abs=0.1)


def test_global_latents_past_the_limit_are_refused_by_name():
    guide = groups_guide(mu_scale=0.15, theta_scale=0.5)
    with pytest.raises(ValueError, match=r"k-hat of the global weights is \d\.\d\d, above 0.7"):
        resampled(groups, guide, MANY)


# Discrete rows: their states are known, and drawn exactly

P = torch.tensor([0.3, 0.7], dtype=torch.float64)
M = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def shifted_mixture(y):
    a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Categorical(P))
        pyro.sample("y", dist.Normal(M[h] + a, 1.0), obs=y)


def mixture(y):
    with pyro.plate("row", len(y), dim=-1):
        h = pyro.sample("h", dist.Categorical(P))
        pyro.sample("y", dist.Normal(M[h], 1.0), obs=y)


def log_joint(a):
    """log p(y_r, h_r = k | a), shape (..., 40, 2)."""
    a = np.asarray(a)[..., None, None]
    return np.log(P.numpy()) + stats.norm.logpdf(MANY.numpy()[:, None], M.numpy() + a)


def wrong(y):
    """Labels from the other side: joint weights of forty of them are of no use."""
    logits = P.log() - (y[:, None] - M) ** 2 / 2
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("h", dist.Categorical(logits=-logits))


def test_discrete_rows_are_drawn_from_their_exact_probabilities():
    h = resampled(mixture, wrong, MANY)["h"]
    log_p = log_joint(0.0)
    exact = np.exp(log_p[:, 1] - np.logaddexp.reduce(log_p, axis=1))
    np.testing.assert_allclose(h.mean(0), exact, atol=5 * 0.5 / N**0.5)
    assert np.ptp(exact) > 0.9


def test_discrete_rows_are_drawn_given_the_resampled_global_latents():
    def guide(y):
        pyro.sample("a", dist.Normal(y.mean() - 0.4, 0.3))
        wrong(y)

    found = resampled(shifted_mixture, guide, MANY)
    grid = np.linspace(-3, 3, 2001)
    weight = stats.norm.logpdf(grid) + np.logaddexp.reduce(log_joint(grid), axis=-1).sum(1)
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    mean = weight @ grid
    sd = (weight @ (grid - mean) ** 2) ** 0.5
    assert found["a"].mean() == pytest.approx(mean, abs=5 * sd / 1000**0.5)
    assert found["a"].std() == pytest.approx(sd, rel=0.12)
    log_p = log_joint(found["a"])
    given = np.exp(log_p[..., 1] - np.logaddexp.reduce(log_p, axis=-1))
    np.testing.assert_allclose(found["h"].mean(0), given.mean(0), atol=5 * 0.5 / N**0.5)
    # Not only on average: draws follow the a that they are given.
    assert ((found["h"] - given) * (found["a"] - mean)[:, None]).mean() == pytest.approx(
        0, abs=0.005
    )


@pytest.mark.parametrize("log_p", [[0.0, 0.0, 2.0], [0.0, 3.0, 3.0]])
def test_states_are_drawn_by_their_probabilities(log_p):
    """Three of them: the difference of two Gumbel variables is the same with its sign turned."""
    rows = np.tile(log_p, (5000, 2, 1))
    drawn = _choose(rows, np.random.default_rng(0))
    exact = np.exp(log_p) / np.exp(log_p).sum()
    for column in drawn.T:
        found = np.bincount(column, minlength=3) / 5000
        np.testing.assert_allclose(found, exact, atol=4.5 * 0.5 / 5000**0.5)


def test_same_seed_same_draws():
    guide = groups_guide(theta_scale=0.85)
    one, two = (resampled(groups, guide, MANY, num_draws=200, seed=3) for _ in range(2))
    other = resampled(groups, guide, MANY, num_draws=200, seed=4)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["mu"], other["mu"])


def test_there_can_be_more_draws_than_were_weighed():
    assert resampled(rows_alone, rows_guide(0.4, 1.2), MANY, num_draws=5000)["h"].shape[0] == 5000
