"""Pareto smoothing of importance weights, many columns at a time."""

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]

# Weights that vary less than this (sd, in nats) are equal: KL(q ‖ p) is half its square, 5e-7.
EQUAL_WEIGHTS = 1e-3
# Numbers of one piece of columns, 2 MiB: they stay in the cache.
_PIECE = 2**18
# Zhang and Stephens' prior of the profile's argument, and Vehtari et al.'s of k: so many weights'
# worth of k = 0.5.
_PRIOR_PROFILE, _PRIOR_K = 3, 10
# A tail of fewer weights is not fitted.
_FEWEST = 5


def smooth(log_weights: Array) -> tuple[Array, Array]:
    """Pareto-smooth log weights along the first axis.

    Parameters
    ----------
    log_weights : array, shape (S,) or (S, R)

    Returns
    -------
    weights : array
        Normalised, the shape of the input.
    khat : array, shape () or (R,)
        Tail index of each column. 0 where the weights are equal, inf where they are not finite.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), *Pareto smoothed importance sampling*, JMLR 25.

    Examples
    --------
    >>> import numpy as np
    >>> from pyro_cookbook.posterior.pareto import smooth
    >>> weights, khat = smooth(np.zeros((100, 2)))
    >>> weights.sum(0).round(9).tolist(), khat.tolist()
    ([1.0, 1.0], [0.0, 0.0])
    """
    columns = log_weights.reshape(len(log_weights), -1)
    weights, khat = np.empty(columns.shape), np.empty(columns.shape[1])
    for at in pieces(columns.shape[1], len(columns)):
        part = np.ascontiguousarray(columns[:, at].T)  # a column of weights is a row from here on
        smoothed, khat[at] = _smooth(part)
        weights[:, at] = smoothed.T
    return weights.reshape(log_weights.shape), khat.reshape(log_weights.shape[1:])


def pieces(count: int, numbers: int) -> list[slice]:
    """Cut so many columns, of so many numbers each, into pieces that fit the cache."""
    size = max(1, _PIECE // max(1, numbers))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _smooth(log_weights: Array) -> tuple[Array, Array]:
    """Smooth weights of shape (R, S): normalised, and k-hat of shape (R,)."""
    # Log weights of −∞ are draws where the model has no mass; they may not be the majority.
    dense = log_weights != -np.inf
    count = dense.sum(1)
    finite = (np.isfinite(log_weights) | ~dense).all(1) & (count > 0.5 * log_weights.shape[1])
    steady = finite & (count == log_weights.shape[1])
    equal = steady & (np.where(steady[:, None], log_weights, 0.0).std(1) < EQUAL_WEIGHTS)
    weights, khat = np.ones_like(log_weights), np.where(equal, 0.0, np.inf)
    for kept in np.unique(count[finite & ~equal]):
        index = np.flatnonzero(finite & ~equal & (count == kept))
        weights[index], khat[index] = _smooth_tails(log_weights[index], int(kept))
    return weights / weights.sum(1, keepdims=True), khat


def _smooth_tails(log_weights: Array, kept: int) -> tuple[Array, Array]:
    """Put the quantiles of a generalised Pareto law in the place of the largest weights.

    Parameters
    ----------
    log_weights : array, shape (R, S)
    kept : int
        How many of each row's are not −∞.
    """
    log_weights = log_weights - log_weights.max(1, keepdims=True)
    weights, khat = np.exp(log_weights), np.zeros(len(log_weights))
    size = int(3 * kept**0.5) if kept > 225 else kept // 5
    if size < _FEWEST:
        return weights, khat
    order = np.argsort(log_weights, axis=1)[:, -size - 1 :]
    ordered = np.take_along_axis(weights, order, 1)
    cutoff, tail = ordered[:, :1], ordered[:, 1:]
    least = np.take_along_axis(log_weights, order[:, 1:2], 1)[:, 0]
    excess = tail - cutoff
    # A tail of a few distinct weights only is far from such a law, and stays as it is: as does
    # one whose first quartile is its least.
    spread = excess[:, int(size / 4 + 0.5) - 1]
    fitted = np.flatnonzero((-least >= np.finfo(float).tiny) & (spread > excess[:, 0]))
    for at in pieces(len(fitted), size * profile_size(size)):
        some = fitted[at]
        khat[some], scale = fit_tails(excess[some])
        some, scale = some[np.isfinite(khat[some])], scale[np.isfinite(khat[some])]
        new = cutoff[some] + quantiles(khat[some], scale, size)
        weights[some[:, None], order[some, 1:]] = np.minimum(new, 1.0)
    return weights, khat


def profile_size(size: int) -> int:
    """How many values of the profile's argument a tail of so many weights is fitted by."""
    return 30 + int(size**0.5)


def fit_tails(excess: Array) -> tuple[Array, Array]:
    """Fit a generalised Pareto law, 1 − (1 + k x / σ)^(−1 / k), to rows of excesses.

    With b = −k / σ the likelihood is maximal in k at k(b) = mean log(1 − b x): the mean of b over a
    grid, weighted by the profile likelihood, exp n (log(−b / k(b)) − k(b) − 1), gives k.

    Parameters
    ----------
    excess : array, shape (R, n)
        Ascending in each row, above a threshold.

    Returns
    -------
    k, scale : array, shape (R,)
        k is drawn towards 0.5; inf where it cannot be computed.

    References
    ----------
    Zhang and Stephens (2009), *A new and efficient estimation method for the generalized Pareto
    distribution*, doi:10.1198/tech.2009.08017; the prior of k: Vehtari et al. (2024), appendix.
    """
    size = excess.shape[1]
    count = profile_size(size)
    quartile = excess[:, int(size / 4 + 0.5) - 1, None]
    steps = 1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))
    b = steps / (_PRIOR_PROFILE * quartile) + 1 / excess[:, -1:]
    with np.errstate(all="ignore"):  # an argument of no density has no weight
        k = _mean_log1p(-b, excess)
        height = size * (np.log(-b / k) - k - 1)
        share = np.exp(height - height.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        share = np.where(share >= 10 * np.finfo(float).eps, share, 0.0)
        whole = share.sum(1)
        mean = (b * share).sum(1) / np.where(whole > 0, whole, 1.0)
        found = _mean_log1p(-mean[:, None], excess)[:, 0]
        scale = -found / mean
        found = (size * found + _PRIOR_K * 0.5) / (size + _PRIOR_K)
    return np.where(np.isnan(found), np.inf, found), scale


def _mean_log1p(factor: Array, x: Array) -> Array:
    """Mean of log(1 + factor · x) over x: shapes (R, m) and (R, n) give (R, m)."""
    product = factor[:, :, None] * x[:, None, :]
    found: Array = torch.from_numpy(product).log1p_().mean(2).numpy()
    return found


def quantiles(k: Array, scale: Array, count: int) -> Array:
    """Quantiles of generalised Pareto laws at (i − ½) / count: shape (R, count)."""
    log_rest = np.log1p(-(np.arange(count) + 0.5) / count)
    k, scale = k[:, None], scale[:, None]
    with np.errstate(all="ignore"):
        curved = np.expm1(-k * log_rest) / k
    found: Array = scale * np.where(k == 0, -log_rest, curved)
    return np.where(scale > 0, found, np.nan)
