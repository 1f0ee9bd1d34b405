"""Families of outcomes: links, means, new outcomes, and where a fit begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, logsumexp

Array = npt.NDArray[np.float64]
Draws = Mapping[str, Array]


@dataclass(frozen=True)
class Family:
    """What a family of outcomes means to a table.

    Attributes
    ----------
    name : str
    link : str
        "identity", "logit" or "log": from the expected outcome to the linear predictor.
    summary : str
        Half a line: the outcomes that it is for.
    sample : callable
        ``sample(rng, score, trials, spread)``: new outcomes, in the shape of `score`.
    """

    name: str
    link: str
    summary: str
    sample: Callable[[np.random.Generator, Array, Array, Draws], Array]

    @property
    def has_units(self) -> bool:
        """Whether the outcome is a measurement, which the model has in sds about its mean."""
        return self.link == "identity"

    @property
    def is_ordinal(self) -> bool:
        """Whether the outcomes are categories in an order."""
        return self.name == "ordinal"

    def mean(self, score: Array, trials: Array) -> Array:
        """Give the expected outcome at a linear predictor; of binomial, a count of successes."""
        if self.link == "identity":
            return score
        if self.link == "log":
            return np.asarray(np.exp(score))
        return np.asarray(expit(score) * (trials if self.name == "binomial" else 1.0))

    def centre(self, y: Array, trials: Array, offset: Array) -> float:
        """Linear predictor that fits the mean of all outcomes, without an intercept's help."""
        if self.link == "identity" or self.is_ordinal:
            return 0.0
        if self.link == "log":
            return float(np.log(y.sum()) - logsumexp(offset))
        share = y.sum() / (trials.sum() if self.name == "binomial" else len(y))
        return float(logit(share) - offset.mean())

    def working(self, y: Array, trials: Array, score: Array) -> tuple[Array, Array]:
        """Outcomes on the linear predictor's scale, and their precisions, near `score`.

        One step of Newton's method, as in iteratively reweighted least squares: good enough to see
        how much the rows of a group say.
        """
        if self.has_units:
            return y - score, np.full(len(y), 1 / max(float(y.var()), 1e-12))
        if self.is_ordinal:  # a logistic variable cut into pieces has about this precision
            ranks = (np.argsort(np.argsort(y, kind="stable")) + 0.5) / len(y)
            return logit(ranks), np.full(len(y), 0.25)
        mean = self.mean(score, trials)
        if self.link == "log":
            return (y - mean) / mean, mean
        weight = mean * (1 - mean / (trials if self.name == "binomial" else 1.0))
        return (y - mean) / weight, weight


def _normal(rng: np.random.Generator, score: Array, trials: Array, spread: Draws) -> Array:
    return np.asarray(score + spread["scale"] * rng.standard_normal(score.shape))


def _student_t(rng: np.random.Generator, score: Array, trials: Array, spread: Draws) -> Array:
    df = np.broadcast_to(spread["degrees_of_freedom"], score.shape)
    return np.asarray(score + spread["scale"] * rng.standard_t(df))


def _bernoulli(rng: np.random.Generator, score: Array, trials: Array, spread: Draws) -> Array:
    return np.asarray(rng.random(score.shape) < expit(score), float)


def _binomial(rng: np.random.Generator, score: Array, trials: Array, spread: Draws) -> Array:
    return np.asarray(rng.binomial(trials.astype(np.int64), expit(score)), float)


# NumPy's generator of counts refuses means above 9.2e18.
_MOST = 1e18


def _poisson(rng: np.random.Generator, score: Array, trials: Array, spread: Draws) -> Array:
    return rng.poisson(np.minimum(np.exp(score), _MOST)).astype(float)


def _negative_binomial(
    rng: np.random.Generator, score: Array, trials: Array, spread: Draws
) -> Array:
    shape = np.broadcast_to(1 / spread["dispersion"], score.shape)
    rate = rng.gamma(shape) / shape * np.exp(score)
    return rng.poisson(np.minimum(rate, _MOST)).astype(float)


def _ordinal(rng: np.random.Generator, score: Array, trials: Array, spread: Draws) -> Array:
    latent = score + logit(rng.uniform(1e-300, 1.0, score.shape))
    above = latent[..., None] > spread["cutpoint"]
    return np.asarray(above.sum(-1), float)


def category_shares(score: Array, cutpoint: Array) -> Array:
    """Probability of every category, shape (..., C), at linear predictors of shape (...)."""
    below = expit(cutpoint - score[..., None])
    edges = [np.zeros_like(score)[..., None], below, np.ones_like(score)[..., None]]
    return np.diff(np.concatenate(edges, -1), axis=-1)


FAMILIES: dict[str, Family] = {
    one.name: one
    for one in (
        Family("normal", "identity", "measurements with normal noise", _normal),
        Family("student_t", "identity", "measurements with outliers", _student_t),
        Family("bernoulli", "logit", "yes or no", _bernoulli),
        Family("binomial", "logit", "p(successes, trials)", _binomial),
        Family("poisson", "log", "counts; exposure as offset(log(exposure))", _poisson),
        Family("negative_binomial", "log", "counts that vary more", _negative_binomial),
        Family("ordinal", "logit", "three or more categories in an order", _ordinal),
    )
}
