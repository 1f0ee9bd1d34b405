"""Gaussian hierarchies of two and three levels, crossed and nested, with LKJ priors or without."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from sklearn.datasets import load_wine
from torch import Tensor

from ..entry import Entry, Moments, arrays, tensors
from ..exact import conditionally_gaussian, log_space, mix, split


def _conditionals(X, y, sigma, root, outputs, white=False):
    """Give what `gaussian_posterior` gives at each of many points, y ~ N(X b, sigma), b = root z.

    The quantities are ``outputs @ b``, or ``outputs @ z`` in the rows that are `white`.
    """
    XX, Xy, yy = X.T @ X, X.T @ y, y @ y
    for i in range(0, len(sigma), 256):
        s, R = sigma[i : i + 256, None], root(slice(i, i + 256))
        precision = R.transpose(0, 2, 1) @ XX @ R / s[..., None] ** 2 + np.eye(X.shape[1])
        c = (Xy @ R) / s**2
        covariance = np.linalg.inv(precision)
        z = (covariance @ c[..., None])[..., 0]
        log_evidence = -len(y) * np.log(s[:, 0]) - 0.5 * np.linalg.slogdet(precision)[1]
        log_evidence += 0.5 * np.sum(c * z, axis=1) - 0.5 * yy / s[:, 0] ** 2
        B = np.where(np.reshape(white, (-1, 1)), outputs, outputs @ R)
        mean, variance = (B @ z[..., None])[..., 0], np.sum((B @ covariance) * B, axis=2)
        yield from zip(log_evidence, mean, np.sqrt(variance), strict=True)


def mixed(X, y, scales, deviations, outputs, white=False):
    """Moments of each scale, sigma the last, and of the outputs, which are Gaussian given them.

    `scales` has a name, a prior and a log-even grid for each scale; ``deviations(*scales)`` lists
    the sds of the coefficients, which are independent.
    """
    points = np.meshgrid(*(grid for *_, grid in scales), indexing="ij")
    names, priors, _ = zip(*scales, strict=True)
    log_prior = sum(q.logpdf(p) + np.log(p) for q, p in zip(priors, points, strict=True))
    flat = [p.ravel() for p in points]
    sds, eye = np.stack(np.broadcast_arrays(*deviations(*flat)), -1), np.eye(X.shape[1])
    conditionals = _conditionals(X, y, flat[-1], lambda part: sds[part, None] * eye, outputs, white)
    weights, rest = conditionally_gaussian(log_prior, conditionals)
    return {name: mix(weights, p) for name, p in zip(names, points, strict=True)}, rest


def _one_way(group, y, tau, sigma, sds, columns=(), by_group=None):
    """Moments of tau and sigma, and of the coefficients and each group's level."""
    J, D = group.max() + 1, len(sds)
    known = np.ones((J, 1)) if by_group is None else np.c_[np.ones(J), by_group]
    X = np.c_[known[group], *columns, np.eye(J)[group]]
    T = np.eye(D + J)
    T[D:, : known.shape[1]] = known
    return mixed(X, y, [("tau", *tau), ("sigma", *sigma)], lambda t, s: [*sds, *[t] * J], T)


def _stack(*scalars):
    """Make one vector's moments of the moments of scalars."""
    return tuple(np.array(m) for m in zip(*scalars, strict=True))


def lakes_data() -> tuple[Tensor, ...]:
    """Simulated: the lengths in cm of 45 perch in each of 10 lakes."""
    rng = np.random.default_rng(1101)
    return tensors(rng.normal(22, 2.5, 10) + rng.normal(scale=4, size=(45, 10)))


def lakes(length):
    mu = pyro.sample("mu", dist.Normal(0.0, 30.0))
    tau = pyro.sample("tau", dist.Exponential(0.2))
    sigma = pyro.sample("sigma", dist.Exponential(0.2))
    with pyro.plate("lake", length.shape[1], dim=-1):
        level = pyro.sample("level", dist.Normal(mu, tau))
        with pyro.plate("fish", length.shape[0], dim=-2):
            pyro.sample("length", dist.Normal(level, sigma), obs=length)


def lakes_exact() -> Moments:
    (y,) = arrays(lakes_data)
    lake, prior = np.arange(450) % 10, stats.expon(scale=5)
    tau, sigma = (prior, log_space(0.02, 60, 91)), (prior, log_space(3, 6, 31))
    scales, rest = _one_way(lake, y.ravel(), tau, sigma, [30.0])
    return {**scales, **split(rest, mu=0, level=10)}


def litters_data() -> tuple[Tensor, ...]:
    """Simulated: two to four pups in each of 40 litters."""
    rng = np.random.default_rng(1102)
    litter = np.repeat(np.arange(40), np.arange(40) % 3 + 2)
    return tensors(litter, 5 + rng.normal(size=40)[litter] + rng.normal(size=len(litter)))


def litters(litter, weight):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    level = pyro.sample("level", dist.Normal(mu, tau).expand([40]).to_event(1))
    pyro.sample("weight", dist.Normal(level[litter], sigma).to_event(1), obs=weight)


def litters_exact() -> Moments:
    prior = stats.halfcauchy()
    tau, sigma = (prior, log_space(2e-4, 8, 121)), (prior, log_space(0.5, 3, 31))
    scales, rest = _one_way(*arrays(litters_data), tau, sigma, [10.0])
    return {**scales, **split(rest, mu=0, level=40)}


def wards_data() -> tuple[Tensor, ...]:
    """Simulated: log days in hospital by age, in 14 wards of 1 to 60 patients."""
    rng = np.random.default_rng(1105)
    ward = np.repeat(np.arange(14), [1, 1, 1, 2, 2, 3, 4, 6, 9, 13, 20, 30, 45, 60])
    age = rng.uniform(-1, 1, len(ward))
    y = 1.5 + rng.normal(scale=0.5, size=14)[ward] + 0.4 * age
    return tensors(ward, age, y + rng.normal(scale=0.7, size=len(ward)))


def wards(ward, age, log_days):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 4.0))
    sigma = pyro.sample("sigma", dist.Gamma(2.0, 2.0))
    with pyro.plate("wards", 14):
        level = pyro.sample("level", dist.Normal(mu, tau))
    with pyro.plate("patients", len(ward)):
        pyro.sample("log_days", dist.Normal(level[ward] + slope * age, sigma), obs=log_days)


def wards_exact() -> Moments:
    ward, age, y = arrays(wards_data)
    tau = stats.gamma(2, scale=0.25), log_space(1e-4, 5, 101)
    sigma = stats.gamma(2, scale=0.5), log_space(0.5, 1.0, 31)
    scales, rest = _one_way(ward, y, tau, sigma, [3.0, 1.0], [age])
    return {**scales, **split(rest, mu=0, slope=0, level=14)}


def firms_data() -> tuple[Tensor, ...]:
    """Simulated: log wages of 12 people in each of 20 firms, by tenure and the firm's log size."""
    rng = np.random.default_rng(1106)
    firm, size, tenure = np.arange(240) % 20, rng.normal(size=20), rng.exponential(1.0, 240)
    level = 2.8 + 0.15 * size + rng.normal(scale=0.2, size=20)
    return tensors(firm, size, tenure, level[firm] + 0.1 * tenure + rng.normal(0, 0.3, 240))


def firms(firm, size, tenure, wage):
    gamma = pyro.sample("gamma", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(0.5))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("firms", len(size)):
        level = pyro.sample("level", dist.Normal(gamma[0] + gamma[1] * size, tau))
    with pyro.plate("people", len(wage)):
        pyro.sample("wage", dist.Normal(level[firm] + slope * tenure, sigma), obs=wage)


def firms_exact() -> Moments:
    firm, size, tenure, y = arrays(firms_data)
    tau = stats.halfnorm(scale=0.5), log_space(3e-4, 2, 101)
    sigma = stats.halfnorm(), log_space(0.2, 0.5, 31)
    scales, rest = _one_way(firm, y, tau, sigma, [5.0, 5.0, 1.0], [tenure], size)
    return {**scales, **split(rest, gamma=2, slope=0, level=20)}


def pupils_data() -> tuple[Tensor, ...]:
    """Simulated: ten pupils in each of three classes in each of ten schools; school of a class."""
    rng = np.random.default_rng(1103)
    school, room = np.arange(30) // 3, np.arange(300) // 10
    level = 0.3 + rng.normal(scale=0.7, size=10)[school] + rng.normal(scale=0.4, size=30)
    return tensors(school, room, level[room] + rng.normal(scale=0.8, size=300))


def pupils_centred(school, room, score):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    between = pyro.sample("between", dist.HalfNormal(1.0))
    within = pyro.sample("within", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    a = pyro.sample("a", dist.Normal(mu, between).expand([10]).to_event(1))
    b = pyro.sample("b", dist.Normal(a[school], within).to_event(1))
    with pyro.plate("pupils", len(score)):
        pyro.sample("score", dist.Normal(b[room], sigma), obs=score)


def pupils_noncentred(school, room, score):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    between = pyro.sample("between", dist.HalfNormal(1.0))
    within = pyro.sample("within", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    a = pyro.sample("a", dist.Normal(torch.zeros(10), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(torch.zeros(30), 1.0).to_event(1))
    level = mu + between * a[school] + within * b
    with pyro.plate("pupils", len(score)):
        pyro.sample("score", dist.Normal(level[room], sigma), obs=score)


def _pupils_exact(centred: bool) -> Moments:
    school, room, y = arrays(pupils_data)
    member, prior, T = np.eye(10)[school], stats.halfnorm(), np.eye(41)
    if centred:
        T[1:, 0], T[11:, 1:11] = 1, member
    scales = [
        ("between", prior, log_space(1e-5, 6, 55)),
        ("within", prior, log_space(3e-7, 2, 71)),
        ("sigma", prior, log_space(0.6, 1.15, 17)),
    ]
    X, white = np.c_[np.ones(300), member[room], np.eye(30)[room]], [False, *[not centred] * 40]
    out, rest = mixed(X, y, scales, lambda t, r, s: [2.0, *[t] * 10, *[r] * 30], T, white)
    return {**out, **split(rest, mu=0, a=10, b=30)}


def judges_data() -> tuple[Tensor, ...]:
    """Simulated: each of 12 judges tastes 10 of 25 wines."""
    rng = np.random.default_rng(1104)
    judge = np.repeat(np.arange(12), 10)
    bottle = np.concatenate([rng.choice(25, 10, replace=False) for _ in range(12)])
    y = 4 + rng.normal(size=12)[judge] + rng.normal(scale=1.5, size=25)[bottle]
    return tensors(judge, bottle, y + rng.normal(size=120))


def judges(judge, bottle, points):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("judges", 12):
        u = pyro.sample("u", dist.Normal(0.0, scale[0]))
    with pyro.plate("bottles", 25):
        v = pyro.sample("v", dist.Normal(mu, scale[1]))
    with pyro.plate("tasting", len(points)):
        pyro.sample("points", dist.Normal(u[judge] + v[bottle], sigma), obs=points)


def judges_exact() -> Moments:
    judge, bottle, y = arrays(judges_data)
    X, prior = np.c_[np.ones(120), np.eye(12)[judge], np.eye(25)[bottle]], stats.halfnorm(scale=2)
    T = np.eye(38)
    T[13:, 0] = 1
    grids = log_space(2e-3, 8, 37), log_space(0.3, 8, 27), log_space(0.5, 2.0, 17)
    scales = [(i, prior, grid) for i, grid in enumerate(grids)]
    out, rest = mixed(X, y, scales, lambda j, b, s: [10.0, *[j] * 12, *[b] * 25], T)
    return {"scale": _stack(out[0], out[1]), "sigma": out[2], **split(rest, mu=0, u=12, v=25)}


def growth_data() -> tuple[Tensor, ...]:
    """Simulated: growth of seedlings by light, of 4 to 26 in each of 12 plots."""
    rng = np.random.default_rng(1107)
    plot = np.repeat(np.arange(12), 2 * np.arange(2, 14))
    light = rng.uniform(-1, 1, len(plot))
    u = rng.multivariate_normal([3.0, 1.0], [[0.8, -0.4], [-0.4, 0.7]], size=12)[plot]
    return tensors(plot, light, u[:, 0] + u[:, 1] * light + rng.normal(0, 0.6, len(plot)))


def growth(plot, light, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0).expand([2]).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(2, 2.0))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    with pyro.plate("plots", 12):
        u = pyro.sample("u", dist.MultivariateNormal(mu, scale_tril=tau.diag() @ L))
    with pyro.plate("seedlings", len(y)):
        pyro.sample("y", dist.Normal(u[plot, 0] + u[plot, 1] * light, sigma), obs=y)


def growth_exact() -> Moments:
    """All but the scales and rho = tanh(v), whose density is 3/4 (1 − rho²), is Gaussian."""
    plot, light, y = arrays(growth_data)
    Z = np.c_[np.ones(len(y)), light]
    X = np.c_[Z, (np.eye(12)[plot][:, :, None] * Z[:, None]).reshape(len(y), 24)]
    T = np.vstack([np.eye(2, 26), np.c_[np.tile(np.eye(2), (12, 1)), np.eye(24)]])
    grids = log_space(0.1, 6, 21), log_space(6e-3, 6, 33), np.linspace(-5.5, 4.5, 31)
    t, s, v, sigma = np.meshgrid(*grids, log_space(0.4, 1.0, 16), indexing="ij")
    blocks = np.array([[t, 0 * t], [s * np.tanh(v), s / np.cosh(v)]])
    blocks = np.moveaxis(blocks, (0, 1), (4, 5)).reshape(-1, 2, 2)

    def root(part):
        R = np.tile(5 * np.eye(26), (len(blocks[part]), 1, 1))
        for j in range(2, 26, 2):
            R[:, j : j + 2, j : j + 2] = blocks[part]
        return R

    log_prior = 2 * np.log(t * s) - 2 * (t + s) + np.log(sigma) - sigma - 4 * np.log(np.cosh(v))
    weights, rest = conditionally_gaussian(log_prior, _conditionals(X, y, sigma.ravel(), root, T))
    rho, other = mix(weights, np.tanh(v)), mix(weights, 1 / np.cosh(v))
    return {
        **split(rest, mu=2),
        "tau": _stack(mix(weights, t), mix(weights, s)),
        "L": tuple(m.reshape(2, 2) for m in _stack((1.0, 0.0), (0.0, 0.0), rho, other)),
        "sigma": mix(weights, sigma),
        "u": tuple(m[2:].reshape(12, 2) for m in rest),
    }


def wine_data() -> tuple[Tensor, ...]:
    """Alcohol and malic acid, and ash, its alkalinity and magnesium, of 178 wines, standardised."""
    X = load_wine().data
    X = ((X - X.mean(0)) / X.std(0))[:, :5]
    return tensors(X[:, :2], X[:, 2:])


def three_responses(X, Y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    B = pyro.sample("B", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    scale = pyro.sample("scale", dist.HalfCauchy(2.0).expand([3]).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(3, 1.5))
    with pyro.plate("wine", len(Y)):
        loc = alpha + X @ B
        pyro.sample("Y", dist.MultivariateNormal(loc, scale_tril=scale[:, None] * L), obs=Y)


ENTRIES = [
    Entry("lakes_many_rows", "hierarchical", lakes, lakes_data, lakes_exact),
    Entry("litters_few_rows", "hierarchical", litters, litters_data, litters_exact),
    Entry("wards_unequal_sizes", "hierarchical", wards, wards_data, wards_exact),
    Entry("firms_group_predictor", "hierarchical", firms, firms_data, firms_exact),
    Entry(
        "pupils_centred", "hierarchical", pupils_centred, pupils_data, partial(_pupils_exact, True)
    ),
    Entry(
        "pupils_noncentred",
        "hierarchical",
        pupils_noncentred,
        pupils_data,
        partial(_pupils_exact, False),
    ),
    Entry("judges_crossed_centred", "hierarchical", judges, judges_data, judges_exact),
    Entry("growth_slopes_lkj_centred", "hierarchical", growth, growth_data, growth_exact),
    Entry("wine_three_responses", "linear", three_responses, wine_data),
]
