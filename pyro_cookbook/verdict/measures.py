"""The numbers that judges look at, as functions of arrays of draws and weights."""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from torch import Tensor

from pyro_cookbook.posterior.importance import MAX_KHAT
from pyro_cookbook.posterior.pareto import pieces

Array = npt.NDArray[np.float64]

# KL is estimated with this many standard errors on top.
KL_ERRORS = 2.0
# The central 68% of a normal, whose half width is its sd, and the median.
_QUANTILES = (0.1587, 0.5, 0.8413)
# States of a smaller probability may go undrawn by a guide that is right.
RARE = 0.01


def khat_limit(num_draws: int) -> float:
    """Largest k-hat of weights that can be used: less than 0.7 for few draws.

    References
    ----------
    Vehtari et al. (2024), *Pareto smoothed importance sampling*, JMLR 25.
    """
    return min(1 - 1 / float(np.log10(num_draws)), MAX_KHAT)


def khat_error(khat: float, num_draws: int) -> float:
    """Give the standard error of a k-hat that was fitted to the tail of so many weights.

    It is that of the maximum likelihood estimate of a generalised Pareto tail's index,
    (1 + k) / √M, from the M = min(S / 5, 3 √S) largest weights.

    References
    ----------
    Smith (1987), *Estimating tails of probability distributions*, doi:10.1214/aos/1176350499.
    """
    tail = max(1.0, min(num_draws / 5, 3 * num_draws**0.5))
    return float((1 + max(khat, -0.5)) / tail**0.5)


def told_khat(khat: float, num_draws: int) -> str:
    """Write a k-hat with its standard error; alone where none was fitted."""
    if not (np.isfinite(khat) and khat and num_draws):
        return f"{khat:.2f}"
    return f"{khat:.2f} ± {khat_error(khat, num_draws):.2f}"


def kl_bound(log_weights: Array) -> Array:
    """KL(q ‖ p) = log E[w] − E[log w] of each column, with two standard errors on top, in nats."""
    with np.errstate(invalid="ignore"):  # draws without a density give NaN, which is not small
        top = log_weights.max(0)
        ratio = np.exp(log_weights - top)
        mean = ratio.mean(0)
        spread = (ratio / mean - log_weights).std(0)  # the delta method, both terms at once
        error = spread / len(log_weights) ** 0.5
        kl: Array = top + np.log(mean) - log_weights.mean(0) + KL_ERRORS * error
    return kl


def columns(value: Tensor) -> Array:
    """Draws as a matrix: one column for each scalar, shape (S, scalars)."""
    return value.detach().cpu().double().numpy().reshape(len(value), -1)


def site_errors(value: Tensor, weight: Array) -> Array:
    """`location_scale_errors` of every scalar of a site, draws of shape (S, ...): (2, scalars)."""
    flat = value.reshape(len(value), -1)
    found = np.empty((2, flat.shape[1]))
    for at in pieces(flat.shape[1], len(flat)):
        found[:, at] = location_scale_errors(columns(flat[:, at]), weight[:, None])
    return found


def location_scale_errors(value: Array, weight: Array) -> Array:
    """Change of each location (in scales) and of each scale (relative) under the weights.

    Location and scale are the mean and the sd, and also the median and half the central 68%
    interval: the larger change counts. `value` and `weight` have shape (S, scalars) and (S, 1 or
    same); the result has shape (2, scalars).
    """
    order = np.argsort(value, axis=0)
    ordered = np.take_along_axis(value, order, 0)
    weight = np.broadcast_to(weight, value.shape)
    mass = np.cumsum(np.take_along_axis(weight, order, 0), axis=0)
    low, mid, high = (
        np.take_along_axis(ordered, (mass < q).sum(0, keepdims=True).clip(max=len(value) - 1), 0)[0]
        for q in _QUANTILES
    )
    raw_low, raw_mid, raw_high = np.quantile(ordered, _QUANTILES, axis=0)
    scale = np.maximum(high - low, np.finfo(float).tiny) / 2
    shift = np.abs(raw_mid - mid) / scale
    stretch = np.abs((raw_high - raw_low) / 2 / scale - 1)
    # Means and sds too: a heavy tail can leave the quantiles right and the sd wrong.
    with np.errstate(all="ignore"):
        mean = (weight * value).sum(0) / weight.sum(0)
        sd = np.sqrt((weight * (value - mean) ** 2).sum(0) / weight.sum(0))
        sd = np.maximum(sd, np.finfo(float).tiny)
        shift = np.fmax(shift, np.abs(value.mean(0) - mean) / sd)
        stretch = np.fmax(stretch, np.abs(value.std(0) / sd - 1))
    return np.where(raw_high == raw_low, 0.0, np.stack([shift, stretch]))


def frequencies(drawn: Array, values: Array) -> Array:
    """How often each row, of shape (S, R, E), has each of K vectors, shape (K, E): (R, K)."""
    # Whole numbers that tell the vectors apart, in mixed radix.
    low = values.min(0)
    radix = np.cumprod([1, *(np.ptp(values, axis=0)[:-1] + 1)])
    known, found = (values - low) @ radix, (drawn - low) @ radix
    order = np.argsort(known)
    index = order[np.searchsorted(known[order], found)]
    num_rows, num_values = drawn.shape[1], len(values)
    cells = (index + num_values * np.arange(num_rows)).ravel()
    counts = np.bincount(cells, minlength=num_rows * num_values)
    return counts.reshape(num_rows, num_values) / len(drawn)


def state_distance(guide: Array, values: Array, exact: Array) -> Array:
    """How far a guide's rows of discrete values are from the exact ones: shape (R,).

    The total variation of a scalar's probabilities; of a vector, the largest error of an entry's
    mean, as a share of its range.

    Parameters
    ----------
    guide, exact : array, shape (R, K)
        Probability of each value.
    values : array, shape (K, E)
    """
    if values.shape[1] == 1:
        distance: Array = 0.5 * np.abs(guide - exact).sum(-1)
    else:
        span = np.maximum(np.ptp(values, axis=0), 1)
        distance = (np.abs((guide - exact) @ values) / span).max(-1)
    return distance


def chance(exact: Array, values: Array, num_draws: int) -> Array:
    """How far off frequencies of an exact guide's draws may be: `state_distance`, shape (R,).

    So many standard errors that no frequency of any row is further off, 99 times of a hundred.
    """
    z = ndtri(1 - 0.01 / 2 / exact.size)
    if values.shape[1] == 1:
        off: Array = 0.5 * np.sqrt(exact * (1 - exact) / num_draws).sum(-1)
    else:
        span = np.maximum(np.ptp(values, axis=0), 1)
        variance = np.maximum(exact @ values**2 - (exact @ values) ** 2, 0.0)
        off = (np.sqrt(variance / num_draws) / span).max(-1)
    return np.asarray(z * off)


def effective_share(guide: Array, exact: Array) -> Array:
    """Share of a guide's draws left by reweighting them to exact probabilities: shape (R,).

    1 / Σ exact² / guide over the states that are not rare, shape (R, K) both.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(exact > RARE, exact**2 / guide, 0.0)
    share: Array = 1 / np.maximum(ratio.sum(-1), 1.0)
    return share
