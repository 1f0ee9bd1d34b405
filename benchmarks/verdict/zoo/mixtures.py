"""Discrete latents summed out, and posteriors with several modes."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import constraints

from .entry import Entry, Moments, arrays, tensors
from .exact import gaussian_posterior, mix, on_grid


def two_clusters_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(501)
    return tensors(np.where(rng.random(150) < 0.4, -1.5, 1.5) + 0.8 * rng.normal(size=150))


def ordered_mixture(y):
    low = pyro.sample("low", dist.Normal(0.0, 5.0))
    gap = pyro.sample("gap", dist.LogNormal(0.5, 1.0))
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    a = weight.log() + dist.Normal(low, sigma).log_prob(y)
    b = torch.log1p(-weight) + dist.Normal(low + gap, sigma).log_prob(y)
    pyro.factor("y", torch.logaddexp(a, b).sum(-1))


def swapped_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(502)
    return tensors(np.array(0.5), np.where(rng.random(60) < 0.5, -2.0, 2.0) + rng.normal(size=60))


def uneven_data() -> tuple[Tensor, ...]:
    """Few rows, so that the labels may be either way round, though not equally often."""
    rng = np.random.default_rng(503)
    return tensors(np.array(0.35), np.where(rng.random(14) < 0.4, -2.0, 2.0) + rng.normal(size=14))


def unordered_mixture(weight, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(probs=torch.stack([weight, 1 - weight])), dist.Normal(mu, 1.0)
    )
    with pyro.plate("row", len(y)):
        pyro.sample("y", mixture, obs=y)


def _unordered_exact(data) -> Moments:
    weight, y = arrays(data)
    axis = np.linspace(-16, 16, 801)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    log_p = stats.norm.logpdf(a, 0, 5) + stats.norm.logpdf(b, 0, 5)
    for y_n in y:
        first, second = np.exp(-0.5 * (y_n - axis) ** 2), np.exp(-0.5 * (y_n - axis) ** 2)
        log_p += np.log(weight * first[:, None] + (1 - weight) * second + 1e-300)
    m = on_grid(log_p, a=a, b=b)
    return {"mu": (np.array([m["a"][0], m["b"][0]]), np.array([m["a"][1], m["b"][1]]))}


def swapped_exact() -> Moments:
    return _unordered_exact(swapped_data)


def uneven_exact() -> Moments:
    return _unordered_exact(uneven_data)


def markov_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(504)
    state, y = 0, []
    for _ in range(80):
        state = state if rng.random() < 0.85 else 1 - state
        y.append(2.0 * state + 0.7 * rng.normal())
    return tensors(np.array(y))


def hidden_markov(y):
    """The states are summed out by the forward algorithm."""
    stay = pyro.sample("stay", dist.Beta(8.0, 2.0).expand([2]).to_event(1))
    low = pyro.sample("low", dist.Normal(0.0, 2.0))
    gap = pyro.sample("gap", dist.LogNormal(0.5, 0.5))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    loc = torch.stack([low, low + gap])
    emission = dist.Normal(loc, sigma).log_prob(y[:, None])
    leave = 1 - stay
    transition = torch.stack(
        [torch.stack([stay[0], leave[0]]), torch.stack([leave[1], stay[1]])]
    ).log()
    alpha = emission[0] - np.log(2.0)
    for t in range(1, len(y)):
        alpha = torch.logsumexp(alpha[:, None] + transition, dim=0) + emission[t]
    pyro.factor("y", torch.logsumexp(alpha, dim=0))


def outlier_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(505)
    x = np.linspace(-2, 2, 40)
    y = 1 + 1.5 * x + 0.4 * rng.normal(size=40)
    y[[3, 11, 19, 30, 36]] += [4.0, -5.0, 3.5, 6.0, -4.0]
    return tensors(x, y)


def outliers(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    fraction = pyro.sample("fraction", dist.Beta(1.0, 9.0))
    spread = pyro.sample("spread", dist.LogNormal(1.5, 0.5))
    good = torch.log1p(-fraction) + dist.Normal(a + b * x, sigma).log_prob(y)
    bad = fraction.log() + dist.Normal(a + b * x, sigma + spread).log_prob(y)
    pyro.factor("y", torch.logaddexp(good, bad).sum(-1))


def modulus_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(506)
    return tensors(1.5 + rng.normal(size=20))


def modulus(y):
    theta = pyro.sample("theta", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(theta.abs(), 1.0), obs=y)


def modulus_exact() -> Moments:
    (y,) = arrays(modulus_data)
    theta = np.linspace(-6, 6, 240_001)
    log_p = stats.norm.logpdf(theta, 0, 3) - 0.5 * len(y) * (np.abs(theta) - y.mean()) ** 2
    return on_grid(log_p, theta=theta)


def product_data() -> tuple[Tensor, ...]:
    return tensors([0.9, 1.2, 1.1])


def product(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    for n, value in enumerate(y):
        pyro.sample(f"y_{n}", dist.Normal(a * b, 0.3), obs=value)


def product_exact() -> Moments:
    (y,) = arrays(product_data)
    axis = np.linspace(-7, 7, 1401)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    squares = np.sum((y - (a * b)[..., None]) ** 2, axis=-1)
    return on_grid(-0.5 * (a**2 + b**2) - 0.5 * squares / 0.3**2, a=a, b=b)


def frequency_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(507)
    t = np.sort(rng.uniform(0, 20, 10))
    return tensors(t, np.sin(1.7 * t) + rng.normal(size=10))


def frequency(t, y):
    omega = pyro.sample("omega", dist.Uniform(0.2, 4.0))
    with pyro.plate("row", len(t)):
        pyro.sample("y", dist.Normal(torch.sin(omega * t), 1.0), obs=y)


def frequency_exact() -> Moments:
    """By Gauss–Legendre on the bounded interval."""
    t, y = arrays(frequency_data)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    omega = 2.1 + 1.9 * nodes
    log_p = -0.5 * np.sum((y - np.sin(omega[:, None] * t)) ** 2, axis=1)
    return {"omega": mix(special.softmax(log_p + np.log(weights)), omega)}


def islands_data() -> tuple[Tensor, ...]:
    return tensors([0.35, 0.65], np.array([[-4.0] * 4, [4.0] * 4]))


def islands(weights, centres):
    pyro.sample("x", dist.MixtureOfDiagNormals(centres, torch.ones(2, 4), weights.log()))


def islands_exact() -> Moments:
    return {"x": mix(*arrays(islands_data), 1.0)}


def spike_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(508)
    X = rng.normal(size=(40, 8))
    return tensors(X, X @ [1.0, -0.6, 0.35, 0.3, 0.0, 0.0, 0.0, 0.0] + rng.normal(size=40))


def spike_and_slab(X, y):
    with pyro.plate("column", X.shape[1]):
        beta = pyro.sample("beta", dist.ImproperUniform(constraints.real, (), ()))
    spike = np.log(0.7) + dist.Normal(0.0, 0.05).log_prob(beta)
    slab = np.log(0.3) + dist.Normal(0.0, 1.5).log_prob(beta)
    pyro.factor("prior", torch.logaddexp(spike, slab).sum(-1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


def spike_and_slab_exact() -> Moments:
    """One Gaussian for each of the 2⁸ choices of spike or slab."""
    X, y = arrays(spike_data)
    slab = np.array(list(np.ndindex(*[2] * 8)))
    parts = [gaussian_posterior(X, y, 1.0, np.where(s, 1.5, 0.05)) for s in slab]
    evidences, means, sds = map(np.array, zip(*parts, strict=True))
    weights = special.softmax(evidences + np.where(slab, np.log(0.3), np.log(0.7)).sum(axis=1))
    return {"beta": mix(weights, means, sds)}


ENTRIES = [
    Entry("mixture_ordered", "mixture", ordered_mixture, two_clusters_data),
    Entry("mixture_label_switching", "multimodal", unordered_mixture, swapped_data, swapped_exact),
    Entry("mixture_uneven_labels", "multimodal", unordered_mixture, uneven_data, uneven_exact),
    Entry("hidden_markov", "mixture", hidden_markov, markov_data),
    Entry("outlier_mixture", "mixture", outliers, outlier_data),
    Entry("modulus_of_mean", "multimodal", modulus, modulus_data, modulus_exact),
    Entry("product_of_two", "multimodal", product, product_data, product_exact),
    Entry("unknown_frequency", "multimodal", frequency, frequency_data, frequency_exact),
    Entry("two_islands", "multimodal", islands, islands_data, islands_exact),
    Entry("spike_and_slab", "mixture", spike_and_slab, spike_data, spike_and_slab_exact),
]
