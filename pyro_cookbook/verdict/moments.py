"""What importance weights do to the locations and scales of the draws they weigh."""

import numpy as np
from torch import Tensor

from pyro_cookbook.posterior.importance import Array, Weights, smooth


def columns(value: Tensor) -> Array:
    """Draws as a matrix: one column for each scalar, shape (S, scalars)."""
    return value.detach().cpu().double().numpy().reshape(len(value), -1)


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
        for q in (0.1587, 0.5, 0.8413)
    )
    raw_low, raw_mid, raw_high = np.quantile(ordered, (0.1587, 0.5, 0.8413), axis=0)
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


def measure_rows(weights: Weights) -> tuple[Array, dict[str, Array]]:
    """k-hat of every row, and what its weights do to the locations and scales of its latents."""
    assert weights.rows is not None
    smoothed, khat = smooth(weights.rows)
    errors = {}
    for name in weights.blocks.local_sites:
        site = weights.sites[name]
        if not site.is_discrete:
            # Rows last, so that a row's weight serves all scalars of the row.
            value = weights.draws.values[name]
            value = value.movedim(1 + site.plates.index(weights.blocks.row), -1)
            repeats = value[0, ..., 0].numel()
            errors[name] = location_scale_errors(columns(value), np.tile(smoothed, repeats))
    return khat, errors
