"""Autoregressions, local levels, stochastic volatility and change points."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from .entry import Entry, Moments, arrays, tensors
from .exact import conditionally_gaussian, gaussian_posterior, log_space, mix, regression, split


def _autoregression(seed: int, c: float, coefficients: list[float], T: int) -> tuple[Tensor, ...]:
    rng = np.random.default_rng(seed)
    y = [0.0] * len(coefficients)
    for _ in range(T):
        y.append(c + np.dot(coefficients, y[: -len(coefficients) - 1 : -1]) + rng.normal())
    return tensors(np.array(y))


def ar1_data() -> tuple[Tensor, ...]:
    return _autoregression(301, 0.3, [0.7], 80)


def ar1(y):
    c = pyro.sample("c", dist.Normal(0.0, 5.0))
    phi = pyro.sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("time", len(y) - 1):
        pyro.sample("y", dist.Normal(c + phi * y[:-1], sigma), obs=y[1:])


def unit_root_data() -> tuple[Tensor, ...]:
    return _autoregression(302, 0.0, [1.0], 50)


def _ar1_exact(data) -> Moments:
    """c is Gaussian given (phi, sigma); phi = tanh(u) has density proportional to 1 − phi² in u."""
    (y,) = arrays(data)
    phi, sigma = np.meshgrid(
        np.tanh(np.linspace(-9, 16, 601)), log_space(0.3, 3, 61), indexing="ij"
    )
    slack = 1 / np.cosh(np.linspace(-9, 16, 601))[:, None] ** 2  # 1 − phi² without cancellation
    log_prior = np.log(slack / 2) + stats.halfnorm.logpdf(sigma, scale=2) + np.log(sigma)
    one = np.ones((len(y) - 1, 1))
    weights, c = conditionally_gaussian(
        log_prior,
        (
            gaussian_posterior(one, y[1:] - p * y[:-1], s, 5.0)
            for p, s in zip(phi.ravel(), sigma.ravel(), strict=True)
        ),
    )
    return {"phi": mix(weights, phi), "sigma": mix(weights, sigma), **split(c, c=0)}


def ar1_exact() -> Moments:
    return _ar1_exact(ar1_data)


def unit_root_exact() -> Moments:
    return _ar1_exact(unit_root_data)


def ar2_data() -> tuple[Tensor, ...]:
    return _autoregression(303, 1.0, [1.2, -0.4], 100)


def ar2(y):
    c = pyro.sample("c", dist.Normal(0.0, 5.0))
    phi1 = pyro.sample("phi1", dist.Normal(0.0, 1.0))
    phi2 = pyro.sample("phi2", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    for t in range(2, len(y)):
        loc = c + phi1 * y[t - 1] + phi2 * y[t - 2]
        pyro.sample(f"y_{t}", dist.Normal(loc, sigma), obs=y[t])


def ar2_exact() -> Moments:
    (y,) = arrays(ar2_data)
    X, scale = np.c_[np.ones(len(y) - 2), y[1:-1], y[:-2]], np.r_[5.0, 1.0, 1.0]
    sigma = log_space(0.4, 3, 301)
    noise, rest = regression(X, y[2:], sigma, stats.halfcauchy.logpdf, scale)
    return {"sigma": noise, **split(rest, c=0, phi1=0, phi2=0)}


def _levels(seed: int, T: int, step: float) -> tuple[Tensor, ...]:
    rng = np.random.default_rng(seed)
    return tensors(2 + np.cumsum(rng.normal(scale=step, size=T)) + rng.normal(size=T))


def level_data() -> tuple[Tensor, ...]:
    return _levels(304, 60, 0.3)


def local_level(y):
    start = pyro.sample("start", dist.Normal(0.0, 5.0))
    step = pyro.sample("step", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    z = pyro.sample("z", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
    level = start + step * torch.cumsum(z, dim=-1)
    pyro.sample("y", dist.Normal(level, sigma).to_event(1), obs=y)


def centred_level_data() -> tuple[Tensor, ...]:
    return _levels(305, 25, 0.3)


def centred_level(y):
    step = pyro.sample("step", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    level = pyro.sample("start", dist.Normal(0.0, 5.0))
    for t in range(len(y)):
        level = pyro.sample(f"level_{t}", dist.Normal(level, step))
        pyro.sample(f"y_{t}", dist.Normal(level, sigma), obs=y[t])


def _levels_exact(data, steps: np.ndarray, sigmas: np.ndarray, centred: bool):
    """(start, z) is Gaussian given (step, sigma), and so are the levels."""
    (y,) = arrays(data)
    T = len(y)
    one, sums, scale = np.ones((T, 1)), np.tril(np.ones((T, T))), np.r_[5.0, np.ones(T)]
    step, sigma = np.meshgrid(steps, sigmas, indexing="ij")

    def given(q: float, s: float):
        X = np.c_[one, q * sums]
        outputs = np.vstack([np.eye(1, T + 1), X]) if centred else None
        return gaussian_posterior(X, y, s, scale, outputs=outputs)

    log_prior = stats.halfnorm.logpdf(step, scale=1) + stats.halfnorm.logpdf(sigma, scale=2)
    weights, rest = conditionally_gaussian(
        log_prior + np.log(step * sigma), map(given, step.ravel(), sigma.ravel())
    )
    return {"step": mix(weights, step), "sigma": mix(weights, sigma)}, rest


def local_level_exact() -> Moments:
    steps, sigmas = log_space(1e-9, 6, 121), log_space(1e-3, 5, 81)
    scales, rest = _levels_exact(level_data, steps, sigmas, False)
    return {**scales, **split(rest, start=0, z=60)}


def centred_level_exact() -> Moments:
    steps, sigmas = log_space(1e-9, 6, 161), log_space(1e-8, 8, 161)
    scales, rest = _levels_exact(centred_level_data, steps, sigmas, True)
    return {**scales, **split(rest, start=0, **{f"level_{t}": 0 for t in range(25)})}


def volatility_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(306)
    h = 0.0
    y = []
    for _ in range(60):
        h = 0.9 * h + rng.normal(scale=0.4)
        y.append(rng.normal(scale=np.exp(h / 2)))
    return tensors(np.array(y))


def stochastic_volatility(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    phi = pyro.sample("phi", dist.Beta(10.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(0.5))
    z = pyro.sample("z", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
    h = [z[..., 0] / (1 - phi**2).sqrt()]
    for t in range(1, len(y)):
        h.append(phi * h[-1] + z[..., t])
    scale = ((mu + sigma * torch.stack(h)) / 2).exp()
    pyro.sample("y", dist.Normal(0.0, scale).to_event(1), obs=y)


def coal_data() -> tuple[Tensor, ...]:
    """Disasters a year in British coal mines, 1851 to 1961: Jarrett (1979), doi:10.2307/2335266."""
    counts = (
        "4541043406334026335453144155342522342132211113001011003103220111010100021000"
        "11023311211112420014000100000100100"
    )
    return tensors(np.array([float(c) for c in counts]))


def two_changes_data() -> tuple[Tensor, ...]:
    """Up after the second row and down after the tenth: the model has to choose."""
    return tensors([1.0, 0, 2, 5, 2, 2, 2, 5, 3, 6, 1, 1, 1])


def change_point(y):
    early = pyro.sample("early", dist.Exponential(1.0))
    late = pyro.sample("late", dist.Exponential(1.0))
    before = dist.Poisson(early).log_prob(y).cumsum(-1)
    after = dist.Poisson(late).log_prob(y)
    after = after.sum(-1, keepdim=True) - after.cumsum(-1)
    pyro.factor("y", torch.logsumexp(before + after, dim=-1))


def _change_exact(data) -> Moments:
    """A mixture of gamma posteriors, one for each last year of the early rate."""
    (y,) = arrays(data)
    n, sums = np.arange(1, len(y) + 1), np.cumsum(y)
    a, b = np.stack([1 + sums, 1 + sums[-1] - sums]), np.stack([1 + n, 1 + len(y) - n])
    weights = special.softmax(np.sum(special.gammaln(a) - a * np.log(b), axis=0))
    early, late = (mix(weights, m, s) for m, s in zip(a / b, np.sqrt(a) / b, strict=True))
    return {"early": early, "late": late}


def coal_exact() -> Moments:
    return _change_exact(coal_data)


def two_changes_exact() -> Moments:
    return _change_exact(two_changes_data)


ENTRIES = [
    Entry("ar1", "time series", ar1, ar1_data, ar1_exact),
    Entry("ar1_unit_root", "boundary", ar1, unit_root_data, unit_root_exact),
    Entry("ar2", "time series", ar2, ar2_data, ar2_exact),
    Entry("local_level", "time series", local_level, level_data, local_level_exact),
    Entry("local_level_centred", "funnel", centred_level, centred_level_data, centred_level_exact),
    Entry("stochastic_volatility", "time series", stochastic_volatility, volatility_data),
    Entry("coal_change_point", "time series", change_point, coal_data, coal_exact),
    Entry(
        "change_point_two_changes", "multimodal", change_point, two_changes_data, two_changes_exact
    ),
]
