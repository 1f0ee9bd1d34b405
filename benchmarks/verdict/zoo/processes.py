"""Gaussian processes: hyperparameters alone, latent functions, two explanations of one curve."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special
from torch import Tensor

from .entry import Entry, Moments, arrays, tensors
from .exact import on_grid


def kernel(x: Tensor, lengthscale: Tensor | float) -> Tensor:
    """Squared exponential of unit variance."""
    return torch.exp(-0.5 * ((x[:, None] - x) / lengthscale) ** 2)


def curve_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(601)
    x = np.sort(rng.uniform(0, 10, 40))
    return tensors(x, np.sin(x) + 0.3 * x - 1.5 + 0.3 * rng.normal(size=40))


def gp_regression(x, y):
    lengthscale = pyro.sample("lengthscale", dist.InverseGamma(5.0, 5.0))
    amplitude = pyro.sample("amplitude", dist.HalfNormal(2.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    C = amplitude**2 * kernel(x, lengthscale) + noise**2 * torch.eye(len(x))
    C = C + 1e-9 * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), C), obs=y)


def counts_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(602)
    x = np.linspace(0, 6, 30)
    return tensors(x, rng.poisson(np.exp(1 + np.sin(x))) * 1.0)


def gp_counts(x, y):
    """Log-Gaussian Cox process on a line of cells, whitened."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    amplitude = pyro.sample("amplitude", dist.HalfNormal(1.0))
    lengthscale = pyro.sample("lengthscale", dist.InverseGamma(5.0, 5.0))
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1))
    L = torch.linalg.cholesky(kernel(x, lengthscale) + 1e-6 * torch.eye(len(x)))
    with pyro.plate("cell", len(x)):
        pyro.sample("y", dist.Poisson((mean + amplitude * (L @ z)).exp()), obs=y)


def smooth_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(603)
    x = np.linspace(0, 5, 40)
    return tensors(x, np.cos(2 * x) + 0.5 * rng.normal(size=40))


def gp_latent(x, y):
    """A centred function: its prior has a condition number above 10⁵."""
    C = kernel(x, 0.7) + 1e-4 * torch.eye(len(x))
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(x)), C))
    pyro.sample("y", dist.Normal(f, 0.5).to_event(1), obs=y)


def gp_latent_exact() -> Moments:
    x, y = arrays(smooth_data)
    C = np.exp(-0.5 * ((x[:, None] - x) / 0.7) ** 2) + 1e-4 * np.eye(len(x))
    gain = np.linalg.solve(C + 0.25 * np.eye(len(x)), C)
    return {"f": (gain.T @ y, np.sqrt(np.diag(C - C @ gain)))}


def labels_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(604)
    x = np.sort(rng.uniform(-3, 3, 40))
    return tensors(x, rng.binomial(1, special.expit(3 * np.sin(x))) * 1.0)


def gp_classification(x, y):
    L = torch.linalg.cholesky(4.0 * kernel(x, 1.0) + 1e-6 * torch.eye(len(x)))
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=L @ z).to_event(1), obs=y)


def seven_data() -> tuple[Tensor, ...]:
    """Seven points: a short lengthscale and little noise, or a long one and much."""
    x = [-4.5, -3.4, -2.0, -0.9, 0.6, 2.2, 4.0]
    return tensors(x, [0.3, 0.9, 0.7, -0.8, 0.4, 0.7, -0.4])


def two_explanations(x, y):
    lengthscale = pyro.sample("lengthscale", dist.LogNormal(1.0, 1.0))
    noise = pyro.sample("noise", dist.LogNormal(-1.5, 1.0))
    C = kernel(x, lengthscale) + (noise**2 + 1e-9) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), C), obs=y)


def two_explanations_log_density(log_l: np.ndarray, log_s: np.ndarray) -> np.ndarray:
    """Log joint density of the logarithms, on a grid."""
    x, y = arrays(seven_data)
    squares = ((x[:, None] - x) / np.exp(log_l)[..., None, None]) ** 2
    C = np.exp(-0.5 * squares) + (np.exp(2 * log_s)[..., None, None] + 1e-9) * np.eye(7)
    L = np.linalg.cholesky(C)
    u = np.linalg.solve(L, np.broadcast_to(y[:, None], (*log_l.shape, 7, 1)))[..., 0]
    log_p = -0.5 * np.sum(u**2, axis=-1)
    log_p -= np.log(np.diagonal(L, axis1=-2, axis2=-1)).sum(axis=-1)
    return log_p - 0.5 * (log_l - 1) ** 2 - 0.5 * (log_s + 1.5) ** 2


def two_explanations_exact() -> Moments:
    log_l, log_s = np.meshgrid(np.linspace(-6, 10, 401), np.linspace(-8, 4, 301), indexing="ij")
    log_p = two_explanations_log_density(log_l, log_s)
    return on_grid(log_p, lengthscale=np.exp(log_l), noise=np.exp(log_s))


ENTRIES = [
    Entry("gp_hyperparameters", "gp", gp_regression, curve_data),
    Entry("gp_counts", "gp", gp_counts, counts_data),
    Entry("gp_latent_centred", "gp", gp_latent, smooth_data, gp_latent_exact),
    Entry("gp_classification", "gp", gp_classification, labels_data),
    Entry(
        "gp_two_explanations",
        "multimodal",
        two_explanations,
        seven_data,
        two_explanations_exact,
    ),
]
