"""Learned codes by other routes: loops over rows in NumPy, and the tether's own conditions."""

from typing import Any

import numpy as np
from torch import Tensor

from oracles.programs import Array, array


def soft(value: Array, threshold: Any) -> Array:
    return np.where(np.abs(value) > threshold, value - np.sign(value) * threshold, 0)


def ista(theta: Any, v: Tensor, num_iterations: int) -> Array:
    """Iterate h := sh(h + t β Wᵀ(v − b − W h); t λ), row by row, with t = 1 / (β‖W‖²)."""
    W, b, beta = array(theta.W), array(theta.b), theta.scale**-2
    t = 1 / (beta * np.linalg.norm(W, 2) ** 2)
    rows = []
    for row in array(v):
        h = np.zeros(W.shape[1])
        for _ in range(num_iterations):
            h = soft(h + t * beta * W.T @ (row - b - W @ h), t * theta.rate)
        rows.append(h)
    return np.array(rows)


def fista(theta: Any, v: Tensor, num_iterations: int) -> Array:
    """Beck and Teboulle's FISTA with constant step, row by row; momentum from iteration 2 on.

    As printed there it pauses once more: t_1 = 1 makes iterations 1 and 2 steps of ISTA.
    """
    W, b, beta = array(theta.W), array(theta.b), theta.scale**-2
    t = 1 / (beta * np.linalg.norm(W, 2) ** 2)
    rows = []
    for row in array(v):
        x, y, age = np.zeros(W.shape[1]), np.zeros(W.shape[1]), (1 + np.sqrt(5)) / 2
        for _ in range(num_iterations):
            new = soft(y + t * beta * W.T @ (row - b - W @ y), t * theta.rate)
            following = (1 + np.sqrt(1 + 4 * age**2)) / 2
            x, y, age = new, new + (age - 1) / following * (new - x), following
        rows.append(x)
    return np.array(rows)


def layers(v: Tensor, b: Any, encode: Any, inhibit: Any, threshold: Any) -> Array:
    """LISTA's layers, row by row."""
    rows = []
    for row in array(v) - array(b):
        h = soft(array(encode[0]) @ row, array(threshold[0]))
        for E, S, cut in zip(encode[1:], inhibit, threshold[1:], strict=True):
            h = soft(array(E) @ row + array(S) @ h, array(cut))
        rows.append(h)
    return np.array(rows)


def steps(theta: Any, v: Tensor, step: Array, shrink: Array, momentum: Array) -> Array:
    """FISTA's iteration with given numbers, row by row; momentum[0] belongs to layer 2."""
    W, b, beta = array(theta.W), array(theta.b), theta.scale**-2
    t = 1 / (beta * np.linalg.norm(W, 2) ** 2)
    rows = []
    for row in array(v):
        old = h = np.zeros(W.shape[1])
        for s, c, m in zip(step, shrink, [0.0, *momentum], strict=True):
            y = h + m * (h - old)
            old, h = h, soft(y + s * t * beta * W.T @ (row - b - W @ y), s * c * t * theta.rate)
        rows.append(h)
    return np.array(rows)


def tether_violation(theta: Any, v: Tensor, f: Any, weight: float, h: Any) -> Array:
    """Largest violation of the conditions of min J(h) + α/2 ‖h − f‖², in units of λ, by cases."""
    W, worst = array(theta.W), []
    for row, code, wanted in zip(array(v) - array(theta.b), array(h), array(f), strict=True):
        pull = W.T @ (row - W @ code) / theta.scale**2 - weight * (code - wanted)
        worst.append(
            max(
                abs(g - theta.rate * np.sign(c)) if c else max(abs(g) - theta.rate, 0)
                for g, c in zip(pull, code, strict=True)
            )
            / theta.rate
        )
    return np.array(worst)
