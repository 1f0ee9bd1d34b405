"""The four log densities and gradients by hand, many vectors at once: counting needs many calls.

On the unconstrained scale, up to a constant; `run.py` compares each with its model's density
before anything is counted. In the order of the models' latents, but for the bridge: there the walk
itself, as in the literature, is in the place of its steps. Arrays have shapes z (S, D), value (S,),
gradient (S, D).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from posteriors import answers_data, bridge_data, credit_data, returns_data
from scipy.special import expit

Array = npt.NDArray[np.float64]
Evaluate = Callable[[Array], tuple[Array, Array]]


def bridge() -> Evaluate:
    """z = (log innovation, log error, x)."""
    seen, y = (one.numpy() for one in bridge_data())

    def evaluate(z: Array) -> tuple[Array, Array]:
        a, b, x = z[:, 0], z[:, 1], z[:, 2:]
        with np.errstate(over="ignore", invalid="ignore"):
            tau, rho = np.exp(-2 * a), np.exp(-2 * b)
            steps = np.diff(x, axis=1, prepend=0.0)
            residuals = x[:, seen] - y
            walk, misfit = (steps**2).sum(1), (residuals**2).sum(1)
            value = (
                -(a**2 + b**2) / 8 - x.shape[1] * a - len(y) * b - (tau * walk + rho * misfit) / 2
            )
            slope = np.empty_like(z)
            slope[:, 0] = -a / 4 - x.shape[1] + tau * walk
            slope[:, 1] = -b / 4 - len(y) + rho * misfit
            slope[:, 2:] = np.diff(tau[:, None] * steps, axis=1, append=0.0)
            slope[:, -1] = -tau * steps[:, -1]
            slope[:, 2 + seen] -= rho[:, None] * residuals
        return value, slope

    return evaluate


def logistic() -> Evaluate:
    """z = (log overall, log local, z); weights are the product of the three."""
    X, y = (one.numpy() for one in credit_data())
    n = X.shape[1]
    by_answer = y @ X

    def evaluate(z: Array) -> tuple[Array, Array]:
        u, v, w = z[:, :1], z[:, 1 : 1 + n], z[:, 1 + n :]
        with np.errstate(over="ignore", invalid="ignore"):
            overall, local = np.exp(u), np.exp(v)
            beta = overall * local * w
            logits = beta @ X.T
            far = np.exp(-np.abs(logits))
            likelihood = beta @ by_answer - (np.maximum(logits, 0) + np.log1p(far)).sum(1)
            right = np.where(logits >= 0, 1.0, far) / (1 + far)
            by_beta = by_answer - right @ X
            value = (
                likelihood + (u - overall).sum(1) / 2 + (v - local).sum(1) / 2 - (w**2).sum(1) / 2
            )
            slope = np.empty_like(z)
            slope[:, :1] = (by_beta * beta).sum(1, keepdims=True) + 0.5 - overall / 2
            slope[:, 1 : 1 + n] = by_beta * beta + 0.5 - local / 2
            slope[:, 1 + n :] = by_beta * overall * local - w
        return value, slope

    return evaluate


def responses() -> Evaluate:
    """z = (mean, ability, difficulty)."""
    student, question, right = (one.numpy() for one in answers_data())
    asked, known = np.zeros((2, 400, 100))
    asked[student, question], known[student, question] = 1.0, right
    of_student, of_question = known.sum(1), known.sum(0)

    def one(z: Array) -> tuple[float, Array]:
        mean, ability, difficulty = z[0], z[1:401], z[401:]
        logits = (mean + ability)[:, None] - difficulty
        far = np.exp(-np.abs(logits))
        lost = (asked * (np.maximum(logits, 0) + np.log1p(far))).sum()
        chance = asked * np.where(logits >= 0, 1.0, far) / (1 + far)
        by_student, by_question = of_student - chance.sum(1), of_question - chance.sum(0)
        value = of_student @ (mean + ability) - of_question @ difficulty - lost
        value -= ((mean - 0.75) ** 2 + ability @ ability + difficulty @ difficulty) / 2
        slope = np.r_[
            by_student.sum() - (mean - 0.75), by_student - ability, -by_question - difficulty
        ]
        return float(value), slope

    def evaluate(z: Array) -> tuple[Array, Array]:
        values, slopes = zip(*map(one, z), strict=True)
        return np.array(values), np.stack(slopes)

    return evaluate


def volatility() -> Evaluate:
    """z = (level, logit persistence, log shock, h)."""
    squares = returns_data()[0].numpy() ** 2
    n = len(squares)

    def evaluate(z: Array) -> tuple[Array, Array]:
        level, q, s, h = z[:, 0], z[:, 1], z[:, 2], z[:, 3:]
        with np.errstate(all="ignore"):
            p = expit(q)
            phi, kept, tau = 2 * p - 1, 4 * p * (1 - p), np.exp(-2 * s)
            shocks = h[:, 1:] - phi[:, None] * h[:, :-1]
            first, rest = h[:, 0] ** 2, (shocks**2).sum(1)
            scaled = squares * np.exp(-h - level[:, None])
            value = -np.log1p(level**2 / 25) + 20 * np.log(p) + 1.5 * np.log1p(-p)
            value += s - np.log1p(np.exp(2 * s) / 4)
            value += -n * s + np.log(kept) / 2 - tau * (kept * first + rest) / 2
            value += -(n * level + h.sum(1) + scaled.sum(1)) / 2
            slope = np.empty_like(z)
            slope[:, 0] = -2 * level / (25 + level**2) + (scaled.sum(1) - n) / 2
            by_phi = -phi / kept + tau * (phi * first + (shocks * h[:, :-1]).sum(1))
            slope[:, 1] = 20 * (1 - p) - 1.5 * p + by_phi * kept / 2
            slope[:, 2] = 1 - 2 / (1 + 4 * tau) - n + tau * (kept * first + rest)
            by_h = (scaled - 1) / 2
            by_h[:, 0] -= tau * kept * h[:, 0]
            by_h[:, 1:] -= tau[:, None] * shocks
            by_h[:, :-1] += (tau * phi)[:, None] * shocks
            slope[:, 3:] = by_h
        return value, slope

    return evaluate


DENSITIES = {
    "brownian_bridge": bridge,
    "sparse_logistic": logistic,
    "item_response": responses,
    "stochastic_volatility": volatility,
}
