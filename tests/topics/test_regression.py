"""The regression model and its guides beside exact answers."""

import numpy as np
import pyro
import pytest
import torch
from oracles import regression as oracle
from pyro import poutine
from scipy import stats
from scipy.special import expit, logit

from guides.regression import RegressionFullRank, RegressionMAP, RegressionMeanField
from models._distributions import OrderedLogistic
from models._families import sites
from models.regression import regression

RNG = np.random.default_rng(3)
N = 12
X = RNG.standard_normal((N, 2))
Z = np.column_stack([np.ones(N), RNG.standard_normal(N)])
LEVEL = np.column_stack([np.arange(N) % 3, 3 + np.arange(N) % 2])  # K = 5: three and two levels
KIND = np.array([0, 0, 0, 1, 1])
OFFSET = RNG.standard_normal(N)
TRIALS = RNG.integers(1, 9, N).astype(float)


def tensors(*values):
    return tuple(torch.as_tensor(value) for value in values)


def log_joint(values, y, **options):
    """Log density of the model at values of its sites."""
    held = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}
    data = tensors(X, Z, LEVEL, OFFSET, TRIALS, y)
    trace = poutine.trace(poutine.condition(regression, held)).get_trace(*data, **options)
    return float(trace.log_prob_sum())


@pytest.mark.parametrize("centring", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.8)])
def test_given_the_scales_a_normal_outcome_is_conjugate_in_every_form(centring):
    """log p − log q is the log evidence at every draw of the exact posterior."""
    noise, scale = 0.7, np.array([0.6, 1.7])
    y = RNG.standard_normal(N)
    inside = scale ** np.array(centring)
    effects = np.zeros((N, 5))
    for n in range(N):  # the sum over kinds, written out
        for e in range(2):
            effects[n, LEVEL[n, e]] += Z[n, e] * (scale / inside)[e]
    columns = np.column_stack([np.ones(N), X, effects])
    prior = np.array([1.5, 0.8, 0.8, *inside[KIND]])
    mean, covariance, evidence = oracle.gaussian_posterior(columns, y - OFFSET, noise, prior)
    q = stats.multivariate_normal(mean, covariance)
    of_scales = stats.expon.logpdf([noise, *scale]).sum()
    for draw in q.rvs(4, random_state=0):
        values = {
            "intercept": draw[0], "coefficient": draw[1:3], "deviation": draw[3:],
            "group_scale": scale, "scale": noise,
        }  # fmt: skip
        found = log_joint(
            values, y, intercept_scale=1.5, coefficient_scale=0.8,
            kind=torch.as_tensor(KIND), centring=torch.tensor(centring, dtype=torch.float64),
        )  # fmt: skip
        assert found - q.logpdf(draw) == pytest.approx(evidence + of_scales, abs=1e-9)


COUNTS = RNG.integers(0, 9, N).astype(float)
SCORE = 0.4 + X @ [0.5, -0.3] + OFFSET
FAMILIES = {
    "normal": ({"scale": 0.6}, RNG.standard_normal(N),
               lambda y: stats.norm(SCORE, 0.6).logpdf(y) .sum() - 0.6),
    "student_t": ({"scale": 0.6, "degrees_of_freedom": 4.0}, RNG.standard_normal(N),
                  lambda y: stats.t(4, SCORE, 0.6).logpdf(y).sum() - 0.6
                  + stats.gamma(2, scale=10).logpdf(4.0)),
    "bernoulli": ({}, (COUNTS > 3).astype(float),
                  lambda y: stats.bernoulli(expit(SCORE)).logpmf(y).sum()),
    "binomial": ({}, np.minimum(COUNTS, TRIALS),
                 lambda y: stats.binom(TRIALS, expit(SCORE)).logpmf(y).sum()),
    "poisson": ({}, COUNTS, lambda y: stats.poisson(np.exp(SCORE)).logpmf(y).sum()),
    "negative_binomial": ({"dispersion": 0.3}, COUNTS,
                          lambda y: stats.nbinom(1 / 0.3, 1 / (1 + 0.3 * np.exp(SCORE)))
                          .logpmf(y).sum() - 0.3),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_density_of_every_family_is_scipys(family):
    spread, y, exact = FAMILIES[family]
    values = {"intercept": 0.4, "coefficient": np.array([0.5, -0.3]), **spread}
    prior = stats.norm(0, 2.5).logpdf([0.4, 0.5, -0.3]).sum()
    assert log_joint(values, y, family=family) == pytest.approx(exact(y) + prior, abs=1e-9)


def test_an_ordinal_outcome_has_the_shares_between_cutpoints():
    share = np.array([0.2, 0.5, 0.25, 0.05])
    y = np.arange(N) % 4.0
    score = X @ [0.5, -0.3] + OFFSET
    below = expit(logit(np.cumsum(share)[:-1]) - score[:, None])
    probability = np.diff(np.column_stack([np.zeros(N), below, np.ones(N)]))
    exact = np.log(probability[np.arange(N), y.astype(int)]).sum()
    exact += stats.norm(0, 2.5).logpdf([0.5, -0.3]).sum() + np.log(6)  # Γ(4): a flat Dirichlet
    values = {"coefficient": np.array([0.5, -0.3]), "share": share}
    found = log_joint(values, y, family="ordinal", intercept_scale=None, num_categories=4)
    assert found == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("score", [-40.0, 0.0, 40.0])
def test_categories_far_from_the_score_keep_their_digits(score):
    """The share of the last of three is e^-42 at −40, where differences of shares are 0."""
    cut = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    q = OrderedLogistic(torch.full((3,), score, dtype=torch.float64), cut)
    found = q.log_prob(torch.arange(3.0)).numpy()
    log_sf, log_cdf = stats.logistic.logsf, stats.logistic.logcdf
    middle = log_cdf(2 - score) + log_sf(-1 - score) + np.log1p(-np.exp(-3.0))
    np.testing.assert_allclose(found, [log_cdf(-1 - score), middle, log_sf(2 - score)], rtol=1e-12)


def test_ordinal_draws_have_the_shares_of_the_density():
    cut = torch.tensor([-0.5, 1.0], dtype=torch.float64)
    q = OrderedLogistic(torch.full((40_000,), 0.3, dtype=torch.float64), cut)
    shares = torch.bincount(q.sample().long()) / 40_000
    exact = [float(q.log_prob(torch.full((40_000,), k))[0].exp()) for k in range(3)]
    assert sum(exact) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(shares, exact, atol=4 * 0.5 / 200)  # 4 standard errors at most


NUMBERS = {"num_features": 2, "num_kinds": 2, "num_effects": 5, "num_categories": 4}


@pytest.mark.parametrize("guide", [RegressionMAP, RegressionMeanField, RegressionFullRank])
@pytest.mark.parametrize("family", ["student_t", "negative_binomial", "ordinal"])
def test_guides_draw_every_site_in_its_support_with_a_density(guide, family):
    """Also with groups and shares, which the bundled table does not have."""
    options = {
        "family": family, "kind": torch.as_tensor(KIND), "num_categories": 4,
        "intercept_scale": None if family == "ordinal" else 2.5,
    }  # fmt: skip
    intercept = family != "ordinal"
    q = guide(**NUMBERS, family=family, has_intercept=intercept).double()
    data = tensors(X, Z, LEVEL, OFFSET, TRIALS, COUNTS % 4)
    of_guide = poutine.trace(q).get_trace(*data, **options)
    of_model = poutine.trace(poutine.replay(regression, of_guide)).get_trace(*data, **options)
    wanted = sites(family, 2, 2, 5, 4, intercept)
    for name, (shape, support) in wanted.items():
        value = of_guide.nodes[name]["value"]
        assert value.shape == shape
        assert support.check(value).all()
        assert of_model.nodes[name]["value"] is value
    assert of_guide.log_prob_sum().isfinite()
    assert of_model.log_prob_sum().isfinite()
    several = guide(**NUMBERS, family=family, has_intercept=intercept).double()
    loss = pyro.infer.Trace_ELBO(5, vectorize_particles=True, max_plate_nesting=1)
    assert np.isfinite(loss.loss(regression, several, *data, **options))


def test_mean_field_and_full_rank_agree_where_the_covariance_is_diagonal():
    """Both are normals on the unconstrained scale: densities of a draw are equal."""
    mean_field = RegressionMeanField(**NUMBERS, family="negative_binomial").double()
    full_rank = RegressionFullRank(**NUMBERS, family="negative_binomial").double()
    data = tensors(X, Z, LEVEL, OFFSET, TRIALS, COUNTS)
    with torch.no_grad():
        trace = poutine.trace(full_rank).get_trace(*data)
    names = list(mean_field.sites)
    held = {name: trace.nodes[name]["value"] for name in names}
    with torch.no_grad():
        other = poutine.trace(poutine.condition(mean_field, held)).get_trace(*data)
        trace.compute_log_prob()
        other.compute_log_prob()
    exact = sum(float(trace.nodes[name]["log_prob_sum"]) for name in [*names, "latent"])
    found = sum(float(other.nodes[name]["log_prob_sum"]) for name in names)
    assert found == pytest.approx(exact, abs=1e-9)


def test_a_category_without_a_row_is_still_drawn_beside_many_particles():
    cut = torch.randn(6, 1, 3, dtype=torch.float64).sort(-1).values
    score = torch.randn(6, N, dtype=torch.float64)
    y = torch.arange(N) % 4
    at_once = OrderedLogistic(score, cut).log_prob(y)
    one_by_one = [OrderedLogistic(s, c[0]).log_prob(y) for s, c in zip(score, cut, strict=True)]
    torch.testing.assert_close(at_once, torch.stack(one_by_one))
    drawn = OrderedLogistic(score, cut).sample()
    assert drawn.shape == (6, N)
    assert OrderedLogistic(score, cut).log_prob(drawn).isfinite().all()
