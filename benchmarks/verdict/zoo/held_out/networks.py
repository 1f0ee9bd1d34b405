"""Small neural networks, random and polynomial features, shrinkage, and columns far apart."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from sklearn.datasets import load_diabetes
from torch import Tensor

from ..entry import Entry, Moments, arrays, tensors
from ..exact import conditionally_gaussian, gaussian_posterior, log_space, mix, regression, split


def _tanh_features(seed: int, X: np.ndarray, num: int, spread: float) -> np.ndarray:
    """Units whose weights and biases were drawn once and stay fixed."""
    rng = np.random.default_rng(seed)
    W, b = rng.normal(scale=spread, size=(X.shape[1], num)), rng.normal(scale=spread, size=num)
    return np.tanh(X @ W + b)


def curve_data() -> tuple[Tensor, ...]:
    """Simulated: 80 points of a wavy curve, seen by 30 random tanh units."""
    rng = np.random.default_rng(3301)
    x = np.sort(rng.uniform(-3, 3, 80))
    y = np.sin(2 * x) + 0.4 * x + rng.normal(scale=0.25, size=80)
    return tensors(_tanh_features(3302, x[:, None], 30, 2.0), y)


def last_layer(phi, y):
    bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([phi.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(bias + phi @ w, sigma), obs=y)


def last_layer_exact() -> Moments:
    phi, y = arrays(curve_data)
    X, sigma = np.c_[np.ones(len(y)), phi], log_space(0.12, 0.6, 121)
    noise, rest = regression(X, y, sigma, stats.halfnorm.logpdf, 1.0)
    return {"sigma": noise, **split(rest, bias=0, w=30)}


def moons_data() -> tuple[Tensor, ...]:
    """Simulated: two interlocking half-moons, seen by 15 random tanh units."""
    rng = np.random.default_rng(3303)
    angle, y = rng.uniform(0, np.pi, 200), np.arange(200) % 2
    X = np.c_[np.cos(angle) + y, np.sin(angle) * (1 - 2 * y) + 0.5 * y]
    X += rng.normal(scale=0.3, size=X.shape)
    return tensors(_tanh_features(3304, X - X.mean(0), 15, 1.5), y * 1.0)


def moons(phi, y):
    bias = pyro.sample("bias", dist.Normal(0.0, 2.0))
    with pyro.plate("unit", phi.shape[1]):
        w = pyro.sample("w", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=bias + phi @ w), obs=y)


def steps_data() -> tuple[Tensor, ...]:
    """Simulated: a slow rise and a sharp one."""
    rng = np.random.default_rng(3305)
    x = np.sort(rng.uniform(-3, 3, 70))
    y = 1.5 * np.tanh(0.7 * (x + 1)) + np.tanh(5 * (x - 1))
    return tensors(x, y + rng.normal(scale=0.2, size=70))


def two_units(x, y):
    """A network 1-2-1 whose units rise, the second more sharply than the first."""
    slope = pyro.sample("slope", dist.LogNormal(-0.3, 0.5))
    sharper = pyro.sample("sharper", dist.LogNormal(1.4, 0.5))
    centre = pyro.sample("centre", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    height = pyro.sample("height", dist.HalfNormal(2.0).expand([2]).to_event(1))
    bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(0.5))
    steep = torch.stack([slope, slope + sharper])
    hidden = torch.tanh(steep * (x[:, None] - centre))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(bias + hidden @ height, sigma), obs=y)


def few_data() -> tuple[Tensor, ...]:
    """Simulated: three of 20 columns count."""
    rng = np.random.default_rng(3306)
    X = rng.normal(size=(70, 20))
    return tensors(X, X[:, :3] @ [1.5, -1.0, 0.6] + rng.normal(scale=0.8, size=70))


def regularised_horseshoe(X, y):
    """Piironen and Vehtari (2017), doi:10.1214/17-EJS1337SI; λ = tan(π u / 2) is half-Cauchy."""
    tau = pyro.sample("tau", dist.HalfNormal(0.1))
    u = pyro.sample("u", dist.Uniform(0.0, 1.0).expand([20]).to_event(1))
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
    slab = pyro.sample("slab", dist.LogNormal(0.5, 0.4))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    local = tau * torch.tan(torch.pi / 2 * u)
    beta = pyro.deterministic("beta", z * slab * local / torch.sqrt(slab**2 + local**2))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def progress_data() -> tuple[Tensor, ...]:
    """Diabetes: ten standardised columns and the standardised progress."""
    X, y = load_diabetes(return_X_y=True)
    return tensors(X * np.sqrt(len(X)), (y - y.mean()) / y.std())


def two_scales(X, y):
    """Small or not: George and McCulloch (1993), doi:10.1080/01621459.1993.10476353."""
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("column", 10):
        wide = pyro.sample("wide", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        beta = pyro.sample("beta", dist.Normal(0.0, 0.03 + 0.47 * wide))
    pyro.sample("y", dist.Normal(X @ beta, sigma).to_event(1), obs=y)


def two_scales_exact() -> Moments:
    """A Gaussian for each of the 2¹⁰ choices and each sigma; the share is beta given the choice."""
    X, y = arrays(progress_data)
    wide = np.array(list(np.ndindex(*[2] * 10)))
    count, scale = wide.sum(1), np.where(wide, 0.5, 0.03)
    prior = special.betaln(2 + count, 12 - count) - np.log(scale).sum(1)
    sigma, evidences, means, sds = log_space(0.58, 0.9, 61), [], [], []
    for s in sigma:
        precision = X.T @ X / s**2 + np.eye(10) / scale[:, None, :] ** 2
        covariance = np.linalg.inv(precision)
        means.append(covariance @ (X.T @ y) / s**2)
        sds.append(np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)))
        fit = 0.5 * means[-1] @ (X.T @ y) / s**2 - 0.5 * np.linalg.slogdet(precision)[1]
        rest = stats.halfnorm.logpdf(s) + np.log(s) - len(y) * np.log(s) - 0.5 * y @ y / s**2
        evidences.append(prior + fit + rest)
    weights, wide_share = special.softmax(evidences), stats.beta(2 + count, 12 - count)
    return {
        "share": mix(weights.sum(0), wide_share.mean(), wide_share.std()),
        "sigma": mix(weights.sum(1), sigma),
        "beta": mix(weights, np.array(means), np.array(sds)),
    }


def polynomial_data() -> tuple[Tensor, ...]:
    """Simulated: a bent curve on 0 to 4."""
    rng = np.random.default_rng(3309)
    x = np.sort(rng.uniform(0, 4, 45))
    return tensors(x, 3 + 2 * np.sin(1.8 * x) + x + rng.normal(scale=0.5, size=45))


def polynomial(x, y):
    b = pyro.sample("b", dist.Normal(0.0, 10.0).expand([6]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    loc = sum(b[k] * x**k for k in range(6))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(loc, sigma), obs=y)


def polynomial_exact() -> Moments:
    x, y = arrays(polynomial_data)
    prior = stats.halfnorm(scale=2).logpdf
    noise, b = regression(x[:, None] ** np.arange(6), y, log_space(0.2, 1.6, 121), prior, 10.0)
    return {"sigma": noise, "b": b}


def spectrum_data() -> tuple[Tensor, ...]:
    """Simulated: 60 neighbouring wavelengths of 50 samples, and what is to be read from them."""
    rng = np.random.default_rng(3307)
    X = np.cumsum(rng.normal(size=(50, 60)), axis=1)
    X = (X - X.mean(0)) / X.std(0)
    return tensors(X, X @ rng.normal(scale=0.2, size=60) + rng.normal(scale=0.7, size=50))


def ridge(X, y):
    scale = pyro.sample("scale", dist.HalfNormal(0.5))
    sigma = pyro.sample("sigma", dist.LogNormal(-0.5, 0.5))
    with pyro.plate("column", X.shape[1]):
        beta = pyro.sample("beta", dist.Normal(0.0, scale))
    with pyro.plate("sample", len(y)):
        pyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def ridge_exact() -> Moments:
    X, y = arrays(spectrum_data)
    scale, sigma = np.meshgrid(log_space(1e-4, 3, 61), log_space(0.1, 3, 41), indexing="ij")
    log_prior = stats.halfnorm.logpdf(scale, scale=0.5) + np.log(scale)
    log_prior += stats.norm.logpdf(np.log(sigma), -0.5, 0.5)
    pairs = zip(scale.ravel(), sigma.ravel(), strict=True)
    weights, beta = conditionally_gaussian(
        log_prior, (gaussian_posterior(X, y, s, t) for t, s in pairs)
    )
    return {"scale": mix(weights, scale), "sigma": mix(weights, sigma), "beta": beta}


def haulage_data() -> tuple[Tensor, ...]:
    """Simulated: 60 journeys by load (g) and distance (km), and the diesel that they took (ml)."""
    rng = np.random.default_rng(3308)
    load, distance = rng.uniform(1e6, 2.5e7, 60), rng.gamma(2, 150, 60)
    fuel = 2e3 + distance * (180 + 6e-6 * load) + rng.normal(scale=4e3, size=60)
    return tensors(load, distance, fuel)


def haulage(load, distance, fuel):
    start = pyro.sample("start", dist.Normal(0.0, 1e4))
    per_km = pyro.sample("per_km", dist.Normal(200.0, 100.0))
    per_gram = pyro.sample("per_gram", dist.Normal(0.0, 1e-3))
    per_gram_km = pyro.sample("per_gram_km", dist.Normal(0.0, 1e-5))
    sigma = pyro.sample("sigma", dist.HalfNormal(1e4))
    loc = start + per_km * distance + per_gram * load + per_gram_km * load * distance
    with pyro.plate("journey", len(fuel)):
        pyro.sample("fuel", dist.Normal(loc, sigma), obs=fuel)


def haulage_exact() -> Moments:
    load, distance, y = arrays(haulage_data)
    X = np.c_[np.ones(len(y)), distance, load, load * distance]
    scale, loc = np.array([1e4, 100, 1e-3, 1e-5]), np.array([0.0, 200, 0, 0])
    prior = stats.halfnorm(scale=1e4).logpdf
    noise, rest = regression(X, y, log_space(2e3, 9e3, 121), prior, scale, loc)
    return {"sigma": noise, **split(rest, start=0, per_km=0, per_gram=0, per_gram_km=0)}


ENTRIES = [
    Entry("last_layer_30_units", "network", last_layer, curve_data, last_layer_exact),
    Entry("last_layer_logit", "network", moons, moons_data),
    Entry("network_two_units", "network", two_units, steps_data),
    Entry("regularised_horseshoe", "funnel", regularised_horseshoe, few_data),
    Entry("two_scales_diabetes", "mixture", two_scales, progress_data, two_scales_exact),
    Entry("polynomial_raw_powers", "linear", polynomial, polynomial_data, polynomial_exact),
    Entry("ridge_60_columns", "linear", ridge, spectrum_data, ridge_exact),
    Entry("haulage_grams", "linear", haulage, haulage_data, haulage_exact),
]
