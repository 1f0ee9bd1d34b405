"""Generalised linear models with offsets and groups, overdispersed counts, meta-analyses."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import optimize, special, stats
from sklearn.datasets import load_wine
from torch import Tensor

from ..entry import Entry, Moments, arrays, tensors
from ..exact import conditionally_gaussian, gaussian_posterior, grid_weights, log_space, mix, split


def rotated_grid(log_density, start, num: int, reach: float = 8.0):
    """Give the weights and coordinates, of shape (D, num, …), of a grid about the mode.

    `log_density` takes coordinates of shape (D, n). The grid is even along the principal axes of
    the Gaussian at the mode, to `reach` of its sds on either side.
    """
    D, h, signs = len(start), 0.01, np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    mode = optimize.minimize(lambda x: -log_density(x[:, None])[0], start).x
    steps = [h * signs @ np.eye(D)[[i, j]] for i in range(D) for j in range(D)]
    corners = log_density(mode[:, None] + np.concatenate(steps).T).reshape(D, D, 4)
    values, axes = np.linalg.eigh(corners @ [-1, 1, 1, -1] / (4 * h**2))
    z = np.stack(np.meshgrid(*[np.linspace(-reach, reach, num)] * D, indexing="ij"))
    points = mode[:, None] + axes / np.sqrt(values) @ z.reshape(D, -1)
    parts = np.array_split(points, max(1, points.shape[1] // 4096), axis=1)
    log_p = np.concatenate([log_density(part) for part in parts])
    return grid_weights(log_p.reshape(z.shape[1:])), points.reshape(z.shape)


def sites(weights: np.ndarray, **values: np.ndarray) -> Moments:
    """Give the moments of scalars and of vectors, the grid's axes last in each."""
    vectors = {name: np.moveaxis(v, 0, -1) for name, v in values.items() if v.ndim > weights.ndim}
    return {name: mix(weights, v) for name, v in {**values, **vectors}.items()}


def trials_data() -> tuple[Tensor, ...]:
    """Simulated: log odds ratios of 20 trials and their standard errors."""
    rng = np.random.default_rng(1201)
    error = np.exp(rng.uniform(np.log(0.08), np.log(0.4), 20))
    return tensors(-0.35 + rng.normal(scale=0.3, size=20) + error * rng.normal(size=20), error)


def trials(log_odds, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(0.5))
    with pyro.plate("trial", len(log_odds)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("log_odds", dist.Normal(theta, error), obs=log_odds)


def trials_exact() -> Moments:
    y, error = arrays(trials_data)
    X, tau = np.c_[np.ones(20), np.eye(20)], log_space(1e-5, 3, 301)
    T = np.vstack([np.eye(1, 21), X])
    given = (gaussian_posterior(X, y, error, np.r_[1.0, [t] * 20], outputs=T) for t in tau)
    weights, rest = conditionally_gaussian(np.log(tau) - 2 * tau**2, given)
    return {"tau": mix(weights, tau), **split(rest, mu=0, theta=20)}


def blocker_data() -> tuple[Tensor, ...]:
    """Deaths and patients, beta-blocker and control: doi:10.1016/S0033-0620(85)80003-7."""
    r1 = "3 7 5 102 28 4 98 60 25 138 64 45 9 57 25 33 28 8 6 32 27 22"
    n1 = "38 114 69 1533 355 59 945 632 278 1916 873 263 291 858 154 207 251 151 174 209 391 680"
    r0 = "3 14 11 127 27 6 152 48 37 188 52 47 16 45 31 38 12 6 3 40 43 39"
    n0 = "39 116 93 1520 365 52 939 471 282 1921 583 266 293 883 147 213 122 154 134 218 364 674"
    return tensors(*np.array([row.split() for row in (r1, n1, r0, n0)], float))


def blocker(r1, n1, r0, n0):
    d = pyro.sample("d", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(0.5))
    with pyro.plate("trial", len(r1)):
        base = pyro.sample("base", dist.Normal(-2.0, 1.5))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("r0", dist.Binomial(n0, logits=base), obs=r0)
        pyro.sample("r1", dist.Binomial(n1, logits=base + d + tau * z), obs=r1)


def hospitals_data() -> tuple[Tensor, ...]:
    """Simulated: deaths expected and seen in 30 hospitals."""
    rng = np.random.default_rng(1202)
    expected = np.round(rng.uniform(2, 30, 30), 1)
    return tensors(expected, rng.poisson(expected * rng.gamma(8.0, 1.1 / 8.0, 30)) * 1.0)


def hospitals(expected, deaths):
    mean = pyro.sample("mean", dist.LogNormal(0.0, 0.5))
    shape = pyro.sample("shape", dist.Gamma(2.0, 0.2))
    with pyro.plate("hospital", len(deaths)):
        ratio = pyro.sample("ratio", dist.Gamma(shape, shape / mean))
        pyro.sample("deaths", dist.Poisson(expected * ratio), obs=deaths)


def hospitals_exact() -> Moments:
    """The ratios are gamma given mean and shape."""
    t, y = arrays(hospitals_data)
    mean, shape = np.meshgrid(log_space(0.4, 4, 201), log_space(0.2, 150, 201), indexing="ij")
    a, b = shape[..., None] + y, (shape / mean)[..., None] + t
    log_p = stats.norm.logpdf(np.log(mean), 0, 0.5) + 2 * np.log(shape) - 0.2 * shape
    log_p += 30 * (shape * np.log(shape / mean) - special.gammaln(shape))
    weights = grid_weights(log_p + np.sum(special.gammaln(a) - a * np.log(b), axis=-1))
    ratio = mix(weights, a / b, np.sqrt(a) / b)
    return {"mean": mix(weights, mean), "shape": mix(weights, shape), "ratio": ratio}


def rats_data() -> tuple[Tensor, ...]:
    """Rats and tumours in 71 groups: Gelman et al. (2013), *Bayesian Data Analysis*, table 5.1."""
    n = [20] * 7 + [19] * 4 + [18, 18, 17, 20, 20, 20, 20, 19, 19, 18, 18, 25, 24, 23]
    n += [20] * 6 + [10, 49, 19, 46, 27, 17, 49, 47, 20, 20, 13, 48, 50] + [20] * 7
    n += [48, 19, 19, 19, 22, 46, 49, 20, 20, 23, 19, 22, 20, 20, 20, 52, 46, 47, 24, 14]
    y = [0] * 14 + [1] * 8 + [2] * 9 + [1, 5, 2, 5, 3, 2, 7, 7, 3, 3, 2, 9, 10] + [4] * 7
    y += [10, 4, 4, 4, 5, 11, 12, 5, 5, 6, 5, 6, 6, 6, 6, 16, 15, 15, 9, 4]
    return tensors(np.array(n, float), np.array(y, float))


def rats(n, tumours):
    a = pyro.sample("a", dist.Gamma(2.0, 0.5))
    b = pyro.sample("b", dist.Gamma(2.0, 0.1))
    with pyro.plate("group", len(n)):
        pyro.sample("tumours", dist.BetaBinomial(a, b, n), obs=tumours)


def rats_exact() -> Moments:
    n, y = arrays(rats_data)

    def log_density(x):
        a, b = np.exp(x)
        log_p = 2 * (x[0] + x[1]) - 0.5 * a - 0.1 * b - 71 * special.betaln(a, b)
        return log_p + np.sum(special.betaln(a + y[:, None], b + (n - y)[:, None]), axis=0)

    weights, points = rotated_grid(log_density, [0.9, 2.6], 81, 10.0)
    return sites(weights, a=np.exp(points[0]), b=np.exp(points[1]))


def claims_data() -> tuple[Tensor, ...]:
    """Simulated: policy years and claims of eight classes of car and driver in 16 districts."""
    rng = np.random.default_rng(1203)
    district, kind = np.divmod(np.arange(128), 8)
    X = np.c_[kind // 4, kind % 4 - 1.5]
    years = np.round(np.exp(rng.normal(5, 0.8, 128)))
    rate = np.exp(-2 + rng.normal(scale=0.35, size=16)[district] + X @ [0.3, -0.15])
    return tensors(district, X, years, rng.poisson(years * rate) * 1.0)


def claims(district, X, years, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("districts", 16):
        level = pyro.sample("level", dist.Normal(mu, tau))
    with pyro.plate("cell", len(y)):
        pyro.sample("y", dist.Poisson(years * torch.exp(level[district] + X @ beta)), obs=y)


def catches_data() -> tuple[Tensor, ...]:
    """Simulated: fish caught in 120 trips, by hours, use of a boat and temperature."""
    rng = np.random.default_rng(1204)
    hours, X = rng.gamma(2.0, 1.5, 120), np.c_[rng.binomial(1, 0.4, 120), rng.normal(size=120)]
    mean = hours * np.exp(0.2 + X @ [0.7, -0.3])
    return tensors(X, hours, rng.poisson(mean * rng.gamma(1.2, 1 / 1.2, 120)) * 1.0)


def catches(X, hours, y):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    size = pyro.sample("size", dist.Exponential(0.5))
    mean = torch.exp(a + X @ b + hours.log())
    with pyro.plate("trip", len(y)):
        pyro.sample("y", dist.GammaPoisson(size, size / mean), obs=y)


def catches_exact() -> Moments:
    X, hours, y = arrays(catches_data)
    X, y, offset = np.c_[np.ones(120), X], y[:, None], np.log(hours)[:, None]

    def log_density(x):
        log_r, eta = x[3], offset + X @ x[:3]
        r, gap = np.exp(log_r), np.logaddexp(log_r, eta)
        each = special.gammaln(r + y) - special.gammaln(r) + r * (log_r - gap) + y * (eta - gap)
        return log_r - 0.5 * r - x[0] ** 2 / 8 - 0.5 * np.sum(x[1:3] ** 2, 0) + each.sum(0)

    weights, points = rotated_grid(log_density, np.zeros(4), 19)
    return sites(weights, a=points[0], b=points[1:3], size=np.exp(points[3]))


def reading_data() -> tuple[Tensor, ...]:
    """Simulated: 20 readers' errors in 18 words, by the word's length."""
    rng = np.random.default_rng(1205)
    reader, word = np.divmod(np.arange(360), 18)
    length = rng.normal(size=18)
    logits = -0.8 + 0.6 * length + rng.normal(scale=0.6, size=18)
    logits = logits[word] + rng.normal(size=20)[reader]
    return tensors(reader, word, length, rng.binomial(1, special.expit(logits)) * 1.0)


def reading(reader, word, length, wrong):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1.5))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    by_reader = pyro.sample("by_reader", dist.Exponential(1.0))
    by_word = pyro.sample("by_word", dist.Exponential(1.0))
    u = pyro.sample("u", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
    v = pyro.sample("v", dist.Normal(0.0, 1.0).expand([18]).to_event(1))
    logits = alpha + by_reader * u[reader] + (beta * length + by_word * v)[word]
    pyro.sample("wrong", dist.Bernoulli(logits=logits).to_event(1), obs=wrong)


def seeds_data() -> tuple[Tensor, ...]:
    """Seeds germinated and sown on 21 plates: Crowder (1978), doi:10.2307/2346223."""
    r = [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
    n = [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7]
    bean, cucumber = np.repeat([0.0, 1.0], [11, 10]), np.repeat([0.0, 1.0, 0.0, 1.0], [5, 6, 5, 5])
    X = np.c_[np.ones(21), bean, cucumber, bean * cucumber]
    return tensors(X, np.array(n, float), np.array(r, float))


def seeds(X, n, r):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 2.0).expand([4]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("plate", len(r)):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("r", dist.Binomial(n, logits=X @ alpha + sigma * b), obs=r)


def acid_data() -> tuple[Tensor, ...]:
    """Cultivar and malic acid of 178 wines."""
    X, cultivar = load_wine(return_X_y=True)
    return tensors(cultivar, X[:, 1])


def acid(cultivar, y):
    with pyro.plate("cultivars", 3):
        level = pyro.sample("level", dist.Normal(0.0, 2.0))
    shape = pyro.sample("shape", dist.Exponential(0.1))
    with pyro.plate("wine", len(y)):
        pyro.sample("y", dist.Gamma(shape, shape * torch.exp(-level[cultivar])), obs=y)


def acid_exact() -> Moments:
    """The levels are independent given the shape."""
    cultivar, y = arrays(acid_data)
    level, shape = np.linspace(-0.5, 2.5, 1001), log_space(3, 16, 101)
    n, total, logs = (np.bincount(cultivar, w)[:, None] for w in (0 * y + 1, y, np.log(y)))

    def given(k):
        log_p = -k * (n * level + total * np.exp(-level)) - level**2 / 8
        top = log_p.max(1, keepdims=True)
        sums = np.exp(log_p - top).sum(1)
        each = [mix(grid_weights(p), level) for p in log_p]
        rest = (n * (k * np.log(k) - special.gammaln(k)) + k * logs + top)[:, 0] + np.log(sums)
        return rest.sum(), *np.array(each).T

    weights, levels = conditionally_gaussian(np.log(shape) - 0.1 * shape, map(given, shape))
    return {"level": levels, "shape": mix(weights, shape)}


def cover_data() -> tuple[Tensor, ...]:
    """Simulated: the share of ground that moss covers on 90 plots, by shade and slope."""
    rng = np.random.default_rng(1206)
    X = np.c_[rng.uniform(-1, 1, 90), rng.normal(size=90)]
    m = special.expit(-0.4 + X @ [1.2, -0.3])
    return tensors(X, rng.beta(9 * m, 9 * (1 - m)))


def cover(X, share):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    phi = pyro.sample("phi", dist.Gamma(2.0, 0.1))
    m = torch.sigmoid(a + X @ b)
    with pyro.plate("plot", len(share)):
        pyro.sample("share", dist.Beta(m * phi, (1 - m) * phi), obs=share)


def cover_exact() -> Moments:
    X, y = arrays(cover_data)
    X, logit = np.c_[np.ones(90), X], special.logit(y)

    def log_density(x):
        phi = np.exp(x[3])
        first = phi * special.expit(X @ x[:3])
        each = -special.betaln(first, phi - first) + np.log1p(-y)[:, None] * phi
        return 2 * x[3] - 0.1 * phi - np.sum(x[:3] ** 2, 0) / 8 + each.sum(0) + logit @ first

    weights, points = rotated_grid(log_density, [0, 0, 0, 2], 19)
    return sites(weights, a=points[0], b=points[1:3], phi=np.exp(points[3]))


def doses_data() -> tuple[Tensor, ...]:
    """Simulated: 160 insects, dead or alive, by log dose, weight and sex."""
    rng = np.random.default_rng(1207)
    X = np.c_[rng.uniform(-1.5, 1.5, 160), rng.normal(size=160), rng.binomial(1, 0.5, 160)]
    return tensors(X, rng.binomial(1, special.ndtr(0.3 + X @ [1.1, -0.4, 0.3])) * 1.0)


def doses(X, dead):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1.5))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    p = dist.Normal(0.0, 1.0).cdf(alpha + X @ beta)
    with pyro.plate("insect", len(dead)):
        pyro.sample("dead", dist.Bernoulli(p), obs=dead)


def doses_exact() -> Moments:
    X, y = arrays(doses_data)
    X, sd = (2 * y - 1)[:, None] * np.c_[np.ones(160), X], np.array([[1.5], [1.0], [1.0], [1.0]])

    def log_density(x):
        return special.log_ndtr(X @ x).sum(0) - 0.5 * np.sum((x / sd) ** 2, 0)

    weights, points = rotated_grid(log_density, np.zeros(4), 19)
    return sites(weights, alpha=points[0], beta=points[1:])


ENTRIES = [
    Entry("twenty_trials", "hierarchical", trials, trials_data, trials_exact),
    Entry("blocker_trials", "hierarchical", blocker, blocker_data),
    Entry("hospital_ratios", "hierarchical", hospitals, hospitals_data, hospitals_exact),
    Entry("rat_tumours_beta_binomial", "glm", rats, rats_data, rats_exact),
    Entry("claims_by_district", "hierarchical", claims, claims_data),
    Entry("catches_per_hour", "glm", catches, catches_data, catches_exact),
    Entry("reading_crossed_logit", "hierarchical", reading, reading_data),
    Entry("seeds_overdispersed", "hierarchical", seeds, seeds_data),
    Entry("malic_acid_gamma", "glm", acid, acid_data, acid_exact),
    Entry("moss_beta_regression", "glm", cover, cover_data, cover_exact),
    Entry("insects_probit", "glm", doses, doses_data, doses_exact),
]
