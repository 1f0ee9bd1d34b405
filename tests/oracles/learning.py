"""Exact answers about learning with approximate inference: brute force over bits, SciPy."""

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def brute_total_correlation(table: Array) -> float:
    """Σ p log (p / ∏ marginals) over an array with one axis of length 2 for each bit."""
    marginals = [
        table.sum(axis=tuple(j for j in range(table.ndim) if j != i)) for i in range(table.ndim)
    ]
    total = 0.0
    for state in itertools.product((0, 1), repeat=table.ndim):
        if table[state] > 0:
            alone = np.prod([marginals[i][bit] for i, bit in enumerate(state)])
            total += table[state] * np.log(table[state] / alone)
    return total


def posterior_precision(W: Array, scale: Array) -> Array:
    """I + WᵀΨ⁻¹W, feature by feature."""
    precision = np.eye(W.shape[1])
    for row, s in zip(W, scale, strict=True):
        precision += np.outer(row, row) / s**2
    return precision
