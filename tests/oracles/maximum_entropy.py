"""Exact answers about maximum entropy and mean field on a grid: SciPy's densities, conjugacy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import digamma, iv

Array = NDArray[np.float64]


class Known(NamedTuple):
    """A density of maximum entropy from the textbooks."""

    name: str
    density: Any
    support: tuple[float, float]
    statistics: list[Callable[[Array], Array]]
    targets: list[float]
    multipliers: list[float]


def known_maxima() -> list[Known]:
    """Constraints with their optimum: its multipliers are read off the formula of its density."""
    mean, sd, rate, shape, a, b, k = 2.3, 1.1, 0.7, 3.2, 2.5, 4.0, 1.7
    von_mises = float(iv(1, k) / iv(0, k))
    return [
        Known("uniform", stats.uniform(-1, 4), (-1, 3), [], [], []),
        Known(
            "normal", stats.norm(mean, sd), (mean - 12, mean + 12),
            [lambda x: x, np.square], [mean, mean**2 + sd**2], [mean / sd**2, -0.5 / sd**2],
        ),
        Known(
            "normal, as in the chapter", stats.norm(mean, sd), (mean - 12, mean + 12),
            [lambda x: x, lambda x: (x - mean) ** 2], [mean, sd**2], [0.0, -0.5 / sd**2],
        ),
        Known(
            "Laplace", stats.laplace(scale=1 / rate), (-50, 50), [np.abs], [1 / rate], [-rate]
        ),
        Known(
            "exponential", stats.expon(scale=1 / rate), (0, 50),
            [lambda x: x], [1 / rate], [-rate]),
        Known(
            "gamma", stats.gamma(shape, scale=1 / rate), (0, 60), [lambda x: x, np.log],
            [shape / rate, digamma(shape) - np.log(rate)], [-rate, shape - 1],
        ),
        Known(
            "beta", stats.beta(a, b), (0, 1), [np.log, _log_rest],
            [digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)], [a - 1, b - 1],
        ),
        Known("von Mises", stats.vonmises(k), (-np.pi, np.pi), [np.cos], [von_mises], [k]),
    ]  # fmt: skip


def _log_rest(x: Array) -> Array:
    return np.log1p(-x)


def normal_negative_log_likelihood(v: Array, loc: Array, scale: Array) -> float:
    """−Σ_n log N(v_n; loc, scale²), summed over the columns."""
    return float(-stats.norm(loc, scale).logpdf(v).sum())


def explaining_away_log_joint(w: Array, v: float) -> Callable[[Array, Array], Array]:
    """log p(v, h) of h ~ N(0, I), v | h ~ N(wᵀh, 1), the chapter's section 19.4.3."""

    def log_joint(h1: Array, h2: Array) -> Array:
        return np.asarray(
            stats.norm.logpdf(h1)
            + stats.norm.logpdf(h2)
            + stats.norm.logpdf(v, loc=w[0] * h1 + w[1] * h2)
        )

    return log_joint


def explaining_away_posterior(w: Array, v: float) -> tuple[Array, Array, float]:
    """Posterior mean and covariance by conditioning the joint Gaussian, and log p(v)."""
    variance = 1 + w @ w
    gain = w / variance
    log_evidence = float(stats.norm(0, np.sqrt(variance)).logpdf(v))
    return gain * v, np.eye(2) - np.outer(gain, w), log_evidence
