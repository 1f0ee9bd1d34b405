"""Regressions with a hidden column: errors in variables, and one factor of unknown sign."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .entry import Draws, Entry, arrays, tensors


def error_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(12)
    x = rng.normal(1, 1, 50)
    w = x + rng.normal(scale=0.5, size=50)
    return tensors(w, 0.5 + 1.2 * x + rng.normal(scale=0.8, size=50))


def _error_parameters():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    return mu, tau, a, b, sigma


def measurement_error(w, y):
    mu, tau, a, b, sigma = _error_parameters()
    with pyro.plate("row", len(y)):
        x = pyro.sample("x", dist.Normal(mu, tau))
        pyro.sample("w", dist.Normal(x, 0.5), obs=w)
        pyro.sample("y", dist.Normal(a + b * x, sigma), obs=y)


def measurement_error_summed(w, y):
    """x integrated out: w ~ N(mu, √(τ² + ¼)), and y given w."""
    mu, tau, a, b, sigma = _error_parameters()
    total = tau**2 + 0.25
    slope = b * tau**2 / total
    rest = (sigma**2 + b**2 * tau**2 * 0.25 / total).sqrt()
    with pyro.plate("row", len(y)):
        pyro.sample("w", dist.Normal(mu, total.sqrt()), obs=w)
        pyro.sample("y", dist.Normal(a + b * mu + slope * (w - mu), rest), obs=y)


def measurement_error_map(draws: Draws) -> dict[str, np.ndarray]:
    """Draw x given the rest: a product of three Gaussians."""
    w, y = arrays(error_data)
    mu, tau, a, b, sigma = (draws[k][..., None] for k in ("mu", "tau", "a", "b", "sigma"))
    precision = tau**-2 + 4 + (b / sigma) ** 2
    mean = (mu / tau**2 + 4 * w + b * (y - a) / sigma**2) / precision
    noise = np.random.default_rng(0).normal(size=mean.shape)
    return {**draws, "x": mean + noise / np.sqrt(precision)}


def factor_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(14)
    w, scale = np.array([1.0, 0.8, -0.6, 0.9, 0.5]), np.array([0.5, 0.7, 0.6, 0.8, 0.6])
    return tensors(rng.normal(size=(80, 1)) * w + scale * rng.normal(size=(80, 5)))


def one_factor(y):
    """y = w h + noise with h integrated out: w and −w are the same."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0).expand([5]).to_event(1))
    with pyro.plate("row", len(y)):
        columns = dist.LowRankMultivariateNormal(y.new_zeros(5), w[:, None], scale**2)
        pyro.sample("y", columns, obs=y)


def one_factor_signed(y):
    """The half in which w[0] is positive."""
    first = pyro.sample("first", dist.HalfNormal(1.0))
    others = pyro.sample("others", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0).expand([5]).to_event(1))
    w = torch.cat([first.reshape(1), others])
    with pyro.plate("row", len(y)):
        columns = dist.LowRankMultivariateNormal(y.new_zeros(5), w[:, None], scale**2)
        pyro.sample("y", columns, obs=y)


def one_factor_map(draws: Draws) -> dict[str, np.ndarray]:
    """Turn the sign of every other draw."""
    w = np.concatenate([draws["first"][..., None], draws["others"]], axis=-1)
    sign = np.where(np.arange(len(w)) % 2, -1.0, 1.0)
    return {"w": w * sign.reshape(-1, *[1] * (w.ndim - 1)), "scale": draws["scale"]}


ENTRIES = [
    Entry(
        "measurement_error",
        "hierarchical",
        measurement_error,
        error_data,
        reference_model=measurement_error_summed,
        reference_map=measurement_error_map,
    ),
    Entry(
        "one_factor",
        "multimodal",
        one_factor,
        factor_data,
        reference_model=one_factor_signed,
        reference_map=one_factor_map,
    ),
]
