"""Heavy tails, funnels, bananas, rings, odd scales and conflicts of prior and data."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import constraints

from .entry import Entry, Moments, arrays, tensors
from .exact import grid_weights, log_space, mix, on_grid


def tails_data() -> tuple[Tensor, ...]:
    return tensors([1.0, 2.0, 0.5])


def student_t(scale):
    pyro.sample("x", dist.StudentT(3.0, torch.zeros(3), scale).to_event(1))


def student_t_exact() -> Moments:
    (scale,) = arrays(tails_data)
    return {"x": (np.zeros(3), np.sqrt(3.0) * scale)}


def cauchy_data() -> tuple[Tensor, ...]:
    return tensors([-4.0, 4.0])


def cauchy(y):
    theta = pyro.sample("theta", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Cauchy(theta, 1.0), obs=y)


def cauchy_exact() -> Moments:
    theta = np.linspace(-120, 120, 48_001)
    log_p = stats.norm.logpdf(theta, 0, 10) + stats.cauchy.logpdf(theta, [[-4.0], [4.0]]).sum(0)
    return on_grid(log_p, theta=theta)


def conflict_data() -> tuple[Tensor, ...]:
    return tensors([7.0])


def conflict(y):
    """A Cauchy prior at 0 and one measurement at 7."""
    theta = pyro.sample("theta", dist.Cauchy(0.0, 0.2))
    pyro.sample("y", dist.Normal(theta, 2.0), obs=y[0])


def conflict_exact() -> Moments:
    theta = np.linspace(-25, 35, 60_001)
    log_p = stats.cauchy.logpdf(theta, 0, 0.2) + stats.norm.logpdf(7.0, theta, 2)
    return on_grid(log_p, theta=theta)


def nine_data() -> tuple[Tensor, ...]:
    return tensors(np.zeros(9))


def funnel(loc):
    """Neal (2003), doi:10.1214/aos/1056562461, section 8."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(loc, torch.exp(v / 2)).to_event(1))


def funnel_exact() -> Moments:
    return {"v": (np.array(0.0), np.array(3.0)), "x": (np.zeros(9), np.full(9, np.exp(2.25)))}


def mild_funnel(loc):
    v = pyro.sample("v", dist.Normal(0.0, 0.7))
    with pyro.plate("group", len(loc)):
        pyro.sample("x", dist.Normal(loc, torch.exp(v / 2)))


def mild_funnel_exact() -> Moments:
    sd = np.exp(0.7**2 / 4)
    return {"v": (np.array(0.0), np.array(0.7)), "x": (np.zeros(9), np.full(9, sd))}


def shrinkage_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(801)
    return tensors(np.r_[5.0, -4.0, 3.0, 2.5, np.zeros(16)] + rng.normal(size=20))


def shrinkage(y):
    """The horseshoe by its shrinkage factors kappa = 1/(1 + λ²): Carvalho et al. (2010)."""
    with pyro.plate("mean", len(y)):
        kappa = pyro.sample("kappa", dist.Beta(0.5, 0.5))
        beta = pyro.sample("beta", dist.Normal(0.0, ((1 - kappa) / kappa).sqrt()))
        pyro.sample("y", dist.Normal(beta, 1.0), obs=y)


def shrinkage_exact() -> Moments:
    """p(κ | y) ∝ (1 − κ)^(−1/2) exp(−κ y²/2), which is smooth in r if κ = 1 − r²."""
    (y,) = arrays(shrinkage_data)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    kappa = 1 - ((1 + nodes) / 2) ** 2
    w = weights * np.exp(-0.5 * kappa * y[:, None] ** 2)
    out = []
    for p, y_n in zip(w, y, strict=True):
        means = np.c_[kappa, (1 - kappa) * y_n]
        out.append(mix(p / p.sum(), means, np.c_[0 * kappa, np.sqrt(1 - kappa)]))
    mean, sd = (np.array(m) for m in zip(*out, strict=True))
    return {"kappa": (mean[:, 0], sd[:, 0]), "beta": (mean[:, 1], sd[:, 1])}


def banana_data() -> tuple[Tensor, ...]:
    return tensors(np.array(0.5))


def banana(scale):
    x = pyro.sample("x", dist.Normal(0.0, 1.5))
    pyro.sample("y", dist.Normal(x**2 - 2.0, scale))


def banana_exact() -> Moments:
    """Var(x²) = 2 sd⁴."""
    return {
        "x": (np.array(0.0), np.array(1.5)),
        "y": (np.array(0.25), np.sqrt(2 * 1.5**4 + 0.25)),
    }


def ring_data() -> tuple[Tensor, ...]:
    return tensors(np.array(3.0), np.array(0.4))


def ring(radius, width):
    x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    r = (x**2).sum(-1).sqrt()
    pyro.factor("ring", -0.5 * ((r - radius) / width) ** 2)


def ring_exact() -> Moments:
    """By symmetry the variance of a coordinate is E[r²]/2."""
    r = np.linspace(0, 8, 8001)
    weights = grid_weights(np.log(r + 1e-300) - 0.5 * ((r - 3) / 0.4) ** 2)
    return {"x": (np.zeros(2), np.full(2, np.sqrt(np.sum(weights * r**2) / 2)))}


def equal_data() -> tuple[Tensor, ...]:
    """Fifty columns, every pair with correlation 0.9, and sds from 1 to 10."""
    sd = np.linspace(1, 10, 50)
    return tensors(np.arange(50.0), np.outer(sd, sd) * (0.9 + 0.1 * np.eye(50)))


def lagged_data() -> tuple[Tensor, ...]:
    lag = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    return tensors(np.zeros(100), 0.95**lag)


def gaussian(loc, covariance):
    pyro.sample("x", dist.MultivariateNormal(loc, covariance))


def equal_exact() -> Moments:
    loc, covariance = arrays(equal_data)
    return {"x": (loc, np.sqrt(np.diag(covariance)))}


def lagged_exact() -> Moments:
    return {"x": (np.zeros(100), np.ones(100))}


def magnitudes_data() -> tuple[Tensor, ...]:
    scale = np.logspace(-3, 5, 20)
    return tensors(2 * scale, scale)


def magnitudes(loc, scale):
    for d in range(len(loc)):
        pyro.sample(f"x_{d}", dist.Normal(loc[d], scale[d]))


def magnitudes_exact() -> Moments:
    return {f"x_{d}": (m, s) for d, (m, s) in enumerate(zip(*arrays(magnitudes_data), strict=True))}


def waiting_data() -> tuple[Tensor, ...]:
    return tensors(np.logspace(-1, 1, 10))


def waiting(rate):
    with pyro.plate("time", len(rate)):
        pyro.sample("t", dist.Exponential(rate))


def waiting_exact() -> Moments:
    (rate,) = arrays(waiting_data)
    return {"t": (1 / rate, 1 / rate)}


def effect_data() -> tuple[Tensor, ...]:
    return tensors([-0.9, -1.4, 0.2, -0.7, -1.1, -0.3])


def positive_effect(y):
    """The effect must be positive and the data say that it is not."""
    effect = pyro.sample("effect", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


def positive_effect_exact() -> Moments:
    """A Gaussian cut off at 0."""
    (y,) = arrays(effect_data)
    precision = len(y) + 0.25
    loc, scale = y.sum() / precision, precision**-0.5
    cut = stats.truncnorm(-loc / scale, np.inf, loc, scale)
    return {"effect": (np.array(cut.mean()), np.array(cut.std()))}


def weak_scale_data() -> tuple[Tensor, ...]:
    return tensors([0.3, -0.5])


def weak_scale(y):
    """Two measurements of a mean, with their common scale unknown."""
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def weak_scale_exact() -> Moments:
    (y,) = arrays(weak_scale_data)
    mu, sigma = np.meshgrid(np.linspace(-20, 20, 8001), log_space(1e-4, 3e5, 401), indexing="ij")
    log_p = -0.5 * (mu / 3) ** 2 - 0.5 * (np.log(sigma) / 1.5) ** 2
    log_p -= len(y) * np.log(sigma) + 0.5 * sum((y_n - mu) ** 2 for y_n in y) / sigma**2
    return on_grid(log_p, mu=mu, sigma=sigma)


ENTRIES = [
    Entry("student_t_no_data", "heavy tail", student_t, tails_data, student_t_exact),
    Entry("cauchy_two_rows", "multimodal", cauchy, cauchy_data, cauchy_exact),
    Entry("cauchy_prior_conflict", "multimodal", conflict, conflict_data, conflict_exact),
    Entry("neal_funnel", "funnel", funnel, nine_data, funnel_exact),
    Entry("mild_funnel", "funnel", mild_funnel, nine_data, mild_funnel_exact),
    Entry("horseshoe_means", "funnel", shrinkage, shrinkage_data, shrinkage_exact),
    Entry("banana", "curved", banana, banana_data, banana_exact),
    Entry("ring", "curved", ring, ring_data, ring_exact),
    Entry("gaussian_50", "gaussian", gaussian, equal_data, equal_exact),
    Entry("gaussian_100", "gaussian", gaussian, lagged_data, lagged_exact),
    Entry("magnitudes", "gaussian", magnitudes, magnitudes_data, magnitudes_exact),
    Entry("exponential_waits", "boundary", waiting, waiting_data, waiting_exact),
    Entry("positive_effect", "boundary", positive_effect, effect_data, positive_effect_exact),
    Entry("weak_scale", "heavy tail", weak_scale, weak_scale_data, weak_scale_exact),
]
