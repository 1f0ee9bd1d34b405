"""Groups with a common prior, centred and not: exact where the groups are Gaussian or conjugate."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from .entry import Entry, Moments, arrays, tensors
from .exact import conditionally_gaussian, gaussian_posterior, grid_weights, log_space, mix, split


def schools_data() -> tuple[Tensor, ...]:
    """Effects of coaching, standard errors: Rubin (1981), doi:10.3102/10769986006004377."""
    return tensors(
        [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
        [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
    )


def schools_centred(y, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, error), obs=y)


def schools_noncentred(y, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, error), obs=y)


def _schools_exact(centred: bool) -> Moments:
    """(mu, z) is Gaussian given tau, and so is theta = mu + tau z."""
    y, error = arrays(schools_data)
    tau, one, eye = log_space(1e-11, 3e3, 1501), np.ones((8, 1)), np.eye(8)
    first, scale = np.eye(1, 9), np.r_[5.0, np.ones(8)]

    def given(t: float):
        outputs = np.vstack([first, np.c_[one, t * eye]]) if centred else None
        return gaussian_posterior(np.c_[one, t * eye], y, error, scale, outputs=outputs)

    log_prior = stats.halfcauchy.logpdf(tau, scale=5) + np.log(tau)
    weights, rest = conditionally_gaussian(log_prior, map(given, tau))
    groups = {"theta": 8} if centred else {"z": 8}
    return {"tau": mix(weights, tau), **split(rest, mu=0, **groups)}


def schools_centred_exact() -> Moments:
    return _schools_exact(True)


def schools_noncentred_exact() -> Moments:
    return _schools_exact(False)


def radon_data() -> tuple[Tensor, ...]:
    """Log radon in 30 counties, by the floor of the measurement."""
    rng = np.random.default_rng(201)
    county, floor = np.arange(300) % 30, rng.binomial(1, 0.3, 300) * 1.0
    level = rng.normal(1.4, 0.35, 30)
    return tensors(county, floor, level[county] - 0.7 * floor + rng.normal(scale=0.7, size=300))


def radon(county, floor, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("county", 30):
        level = pyro.sample("level", dist.Normal(mu, tau))
    with pyro.plate("house", len(y)):
        pyro.sample("y", dist.Normal(level[county] + slope * floor, sigma), obs=y)


def few_data() -> tuple[Tensor, ...]:
    """Two rows in each of 20 groups that hardly differ: tau may be nearly 0."""
    rng = np.random.default_rng(202)
    group = np.arange(40) % 20
    y = 1 + rng.normal(scale=0.3, size=20)[group] + rng.normal(size=40)
    return tensors(group, y)


def few_rows(group, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    level = [pyro.sample(f"level_{j}", dist.Normal(mu, tau)) for j in range(20)]
    pyro.sample("y", dist.Normal(torch.stack(level)[group], sigma).to_event(1), obs=y)


def _levels_exact(data, taus: np.ndarray, sigmas: np.ndarray):
    """Moments of tau and sigma, and of (mu, slope, levels), which are Gaussian given them."""
    group, *columns, y = arrays(data)
    x = columns[0] if columns else np.zeros(len(y))
    one, J = np.ones((len(y), 1)), group.max() + 1
    member, eye = np.eye(J)[group], np.eye(J)
    scale, first = np.r_[5.0, 5.0, np.ones(J)], np.eye(2, J + 2)
    tau, sigma = np.meshgrid(taus, sigmas, indexing="ij")

    def given(t: float, s: float):
        outputs = np.vstack([first, np.c_[np.ones(J), np.zeros(J), t * eye]])
        return gaussian_posterior(np.c_[one, x, t * member], y, s, scale, outputs=outputs)

    log_prior = stats.halfnorm.logpdf(tau, scale=1) + stats.halfnorm.logpdf(sigma, scale=2)
    weights, rest = conditionally_gaussian(
        log_prior + np.log(tau * sigma), map(given, tau.ravel(), sigma.ravel())
    )
    return {"tau": mix(weights, tau), "sigma": mix(weights, sigma)}, rest


def radon_exact() -> Moments:
    scales, rest = _levels_exact(radon_data, log_space(2e-4, 2, 121), log_space(0.5, 1.0, 31))
    return {**scales, **split(rest, mu=0, slope=0, level=30)}


def few_exact() -> Moments:
    scales, rest = _levels_exact(few_data, log_space(1e-8, 5, 121), log_space(0.4, 3, 61))
    out = {**scales, **split(rest, mu=0, slope=0, **{f"level_{j}": 0 for j in range(20)})}
    del out["slope"]  # the prior's: there is no such column
    return out


def slopes_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(203)
    group, x = np.arange(180) % 15, rng.uniform(-1, 1, 180)
    u = rng.multivariate_normal([2.0, -1.0], [[0.8, 0.3], [0.3, 0.5]], size=15)[group]
    return tensors(group, x, u[:, 0] + u[:, 1] * x + rng.normal(scale=0.5, size=180))


def varying_slopes(group, x, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(2.0).expand([2]).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([15, 2]).to_event(2))
    u = mu + z @ (tau[:, None] * L).T
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(u[group, 0] + u[group, 1] * x, sigma), obs=y)


def logistic_groups_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(204)
    group, x = np.arange(720) % 120, rng.normal(size=720)
    logits = -0.3 + rng.normal(size=120)[group] + 0.8 * x
    return tensors(group, x, rng.binomial(1, special.expit(logits)) * 1.0)


def logistic_groups(group, x, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.5))
    slope = pyro.sample("slope", dist.Normal(0.0, 2.5))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("group", 120):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        logits = mu + tau * z[group] + slope * x
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def crossed_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(205)
    person, item = np.divmod(np.arange(300), 15)
    y = 3 + rng.normal(size=20)[person] + rng.normal(scale=0.5, size=15)[item]
    return tensors(person, item, y + rng.normal(scale=0.8, size=300))


def crossed(person, item, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(torch.full((3,), 2.0)).to_event(1))
    u = pyro.sample("u", dist.Normal(torch.zeros(20), 1.0).to_event(1))
    v = pyro.sample("v", dist.Normal(torch.zeros(15), 1.0).to_event(1))
    loc = mu + scale[0] * u[person] + scale[1] * v[item]
    pyro.sample("y", dist.Normal(loc, scale[2]).to_event(1), obs=y)


def pumps_data() -> tuple[Tensor, ...]:
    """Hours (thousands) and failures of ten pumps: Gaver and O'Muircheartaigh (1987)."""
    hours = [94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5]
    return tensors(hours, [5.0, 1.0, 5.0, 14.0, 3.0, 19.0, 1.0, 1.0, 4.0, 22.0])


def pumps(hours, failures):
    alpha = pyro.sample("alpha", dist.Exponential(1.0))
    beta = pyro.sample("beta", dist.Gamma(0.1, 1.0))
    with pyro.plate("pump", len(hours)):
        rate = pyro.sample("rate", dist.Gamma(alpha, beta))
        pyro.sample("failures", dist.Poisson(rate * hours), obs=failures)


def pumps_exact() -> Moments:
    """Rates are gamma given (alpha, beta), which have a two-dimensional grid."""
    t, y = arrays(pumps_data)
    alpha, beta = np.meshgrid(log_space(0.05, 10, 401), log_space(1e-4, 30, 401), indexing="ij")
    a, b = alpha[..., None] + y, beta[..., None] + t
    log_p = stats.expon.logpdf(alpha) + stats.gamma.logpdf(beta, 0.1) + np.log(alpha * beta)
    log_p += len(y) * (alpha * np.log(beta) - special.gammaln(alpha))
    weights = grid_weights(log_p + np.sum(special.gammaln(a) - a * np.log(b), axis=-1))
    rate = mix(weights, a / b, np.sqrt(a) / b)
    return {"alpha": mix(weights, alpha), "beta": mix(weights, beta), "rate": rate}


def batting_data() -> tuple[Tensor, ...]:
    """Hits in 45 times at bat: Efron and Morris (1975), doi:10.1080/01621459.1975.10479864."""
    hits = [18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7]
    return tensors(np.array(hits) * 1.0)


def batting(hits):
    phi = pyro.sample("phi", dist.Beta(2.0, 2.0))
    kappa = pyro.sample("kappa", dist.LogNormal(4.0, 1.0))
    with pyro.plate("player", len(hits)):
        theta = pyro.sample("theta", dist.Beta(phi * kappa, (1 - phi) * kappa))
        pyro.sample("hits", dist.Binomial(45, theta), obs=hits)


def batting_exact() -> Moments:
    (y,) = arrays(batting_data)
    logit, log_kappa = np.meshgrid(
        np.linspace(-3, 1.5, 301), np.linspace(0, 11, 301), indexing="ij"
    )
    phi, kappa = special.expit(logit), np.exp(log_kappa)
    prior_a, prior_b = (phi * kappa)[..., None], ((1 - phi) * kappa)[..., None]
    a, b = prior_a + y, prior_b + 45 - y
    log_p = stats.beta.logpdf(phi, 2, 2) + np.log(phi * (1 - phi))
    log_p += stats.norm.logpdf(log_kappa, 4, 1)
    log_p += np.sum(special.betaln(a, b) - special.betaln(prior_a, prior_b), axis=-1)
    weights, mean = grid_weights(log_p), a / (a + b)
    theta = mix(weights, mean, np.sqrt(mean * (1 - mean) / (a + b + 1)))
    return {"phi": mix(weights, phi), "kappa": mix(weights, kappa), "theta": theta}


ENTRIES = [
    Entry("schools_centred", "funnel", schools_centred, schools_data, schools_centred_exact),
    Entry(
        "schools_noncentred",
        "hierarchical",
        schools_noncentred,
        schools_data,
        schools_noncentred_exact,
    ),
    Entry("radon_centred", "hierarchical", radon, radon_data, radon_exact),
    Entry("few_rows_centred", "funnel", few_rows, few_data, few_exact),
    Entry("varying_slopes", "hierarchical", varying_slopes, slopes_data),
    Entry("logistic_120_groups", "hierarchical", logistic_groups, logistic_groups_data),
    Entry("crossed_effects", "hierarchical", crossed, crossed_data),
    Entry("pumps", "hierarchical", pumps, pumps_data, pumps_exact),
    Entry("batting", "hierarchical", batting, batting_data, batting_exact),
]
