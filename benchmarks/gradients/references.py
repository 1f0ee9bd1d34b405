"""The right second moments of the four posteriors, each by the surest way that there is.

    python benchmarks/gradients/references.py [POSTERIOR …]

Writes references.csv: of every unconstrained latent E z², var z², and how many independent draws
would know E z² as well (`ess`). None uses what is compared in `run.py`, but for NUTS itself, long
and in other coordinates or compared with what is exact:

- the bridge is Gaussian given its two scales: exactly, on a grid over their logs;
- stochastic volatility by importance sampling: the three scalars from a Student t, the path given
  them from the Gaussian nearest to it, in pairs mirrored at its mean (as Durbin and Koopman 1997,
  doi:10.1093/biomet/84.3.669), so that draws are independent and weights exact;
- item responses are nearly Gaussian: NUTS in coordinates that the Hessian at the mode makes round;
- the sparse regression by four long chains of NUTS.
"""

import sys
import time
from pathlib import Path

import arviz as az
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import cho_solve_banded, cholesky_banded, solve_triangular
from scipy.linalg.lapack import dtbtrs
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

from densities import logistic, responses, volatility  # noqa: E402
from posteriors import bridge_data, returns_data  # noqa: E402
from walk import walk  # noqa: E402

Array = npt.NDArray[np.float64]
REFERENCES = HERE / "references.csv"


class Moments(dict[str, Array]):
    """Columns of the table: square, variance, ess; shape (D,) each."""

    @classmethod
    def of(cls, square: Array, fourth: Array, ess: Array) -> "Moments":
        return cls(square=square, variance=fourth - square**2, ess=ess)


# --- the bridge -----------------------------------------------------------------------------------


def bridge(points: int = 161) -> Moments:
    """Sum over a grid of the log scales; the walk given them is Gaussian.

    With Σ = K_oo = U Λ Uᵀ of the seen places: y ~ N(0, s² K_oo + r² 1), x | y by regression.
    """
    seen, y = (one.numpy() for one in bridge_data())
    K = np.minimum.outer(np.arange(1, 31), np.arange(1, 31)).astype(float)
    values, U = np.linalg.eigh(K[np.ix_(seen, seen)])
    turned, B = U.T @ y, K[:, seen] @ U
    grid = np.linspace(-12.0, 4.0, points)  # the mass beyond is below 1e-8
    a, b = (one.ravel() for one in np.meshgrid(grid, grid, indexing="ij"))
    s, r = np.exp(2 * a), np.exp(2 * b)
    v = s[:, None] * values + r[:, None]
    log_weights = -(a**2 + b**2) / 8 - (turned**2 / v + np.log(v)).sum(1) / 2
    weights = np.exp(log_weights - logsumexp(log_weights))
    mean = (turned / v) @ B.T * s[:, None]
    var = np.maximum(s[:, None] * np.diag(K) - s[:, None] ** 2 * ((1 / v) @ (B**2).T), 0.0)
    square = np.r_[weights @ a**2, weights @ b**2, weights @ (mean**2 + var)]
    fourth = np.r_[
        weights @ a**4, weights @ b**4, weights @ (mean**4 + 6 * mean**2 * var + 3 * var**2)
    ]
    return Moments.of(square, fourth, np.full(len(square), np.inf))


# --- stochastic volatility ------------------------------------------------------------------------


class Paths:
    """Gaussians near the paths given (level, logit persistence, log shock)."""

    def __init__(self) -> None:
        self.squares = returns_data()[0].numpy() ** 2
        self.h, self.variance = np.zeros((2, len(self.squares)))

    def fit(self, theta: Array) -> Array:
        """Find the Gaussian with the highest bound; give the banded root of its precision.

        Its mean is where the expected slope is 0, its precision the expected curvature: Newton's
        steps with E exp(-h) = exp(-mean + variance / 2), and the variances again, three times.
        """
        phi, tau = 2 * expit(theta[1]) - 1, np.exp(-2 * theta[2])
        diagonal = np.full(len(self.h), tau * (1 + phi**2))
        diagonal[[0, -1]] = tau
        band = np.zeros((2, len(self.h)))
        band[1, :-1] = -tau * phi
        for _ in range(3):
            change = np.inf
            while change > 1e-6:
                pull = self.squares * np.exp(-self.h - theta[0] + self.variance / 2) / 2
                slope = pull - 0.5 - diagonal * self.h
                slope[1:] += tau * phi * self.h[:-1]
                slope[:-1] += tau * phi * self.h[1:]
                band[0] = diagonal + pull
                root = cholesky_banded(band, lower=True, check_finite=False)
                step = cho_solve_banded((root, True), slope, check_finite=False)
                self.h, change = self.h + step, np.abs(step).max()
            # var h_t = 1 / L_tt² + (L_{t+1,t} / L_tt)² var h_{t+1}: a recursion, thus a solve.
            back = np.ones_like(band)
            back[0, 1:] = -((root[1, :-1] / root[0, :-1]) ** 2)
            self.variance = dtbtrs(back, root[0][:, None] ** -2.0, uplo="U")[0][:, 0]
        return root


def stochastic_volatility(draws: int = 3000, pairs: int = 16) -> Moments:
    """Draw scalars and paths independently; weigh each by density over proposal."""
    rng, evaluate, path = np.random.default_rng(907), volatility(), Paths()
    loc, root, freedom = np.array([0.0, 4.0, -1.6]), np.diag([0.15, 0.4, 0.15]), 8.0

    def one(theta: Array, log_q: float) -> tuple[Array, Array]:
        """Draw mirrored pairs of paths; give log weights, shape (2 · pairs,), and paths."""
        factor = path.fit(theta)
        normal = rng.standard_normal((len(path.h), pairs))
        away = dtbtrs(factor, normal, uplo="L", trans="T")[0].T
        h = np.concatenate([path.h + away, path.h - away])
        z = np.c_[np.broadcast_to(theta, (len(h), 3)), h]
        from_path = np.log(factor[0]).sum() - (normal**2).sum(0) / 2
        return evaluate(z)[0] - np.tile(from_path, 2) - log_q, z

    for count in (300, 600, draws):  # the first two place the proposal of the scalars
        normal = rng.standard_normal((count, 3))
        u = normal / np.sqrt(rng.chisquare(freedom, count) / freedom)[:, None]
        thetas = loc + u @ root.T
        log_q = -(freedom + 3) / 2 * np.log1p((u**2).sum(1) / freedom)
        heights, inner = np.empty(count), []
        for i, theta in enumerate(thetas):
            log_weights, z = one(theta, log_q[i])
            heights[i] = logsumexp(log_weights)
            if count == draws:
                within = np.exp(log_weights - heights[i])
                inner.append(np.stack([within @ z**2, within @ z**4]))
        weights = np.exp(heights - logsumexp(heights))
        if count != draws:
            loc = weights @ thetas
            centred = thetas - loc
            root = 1.2 * np.linalg.cholesky(centred.T @ (weights[:, None] * centred))
    found = np.array(inner)
    square, fourth = np.einsum("i,ikd->kd", weights, found)
    error = ((weights[:, None] * (found[:, 0] - square)) ** 2).sum(0)
    return Moments.of(square, fourth, (fourth - square**2) / error)


# --- chains ---------------------------------------------------------------------------------------


def of_chains(z: Array) -> Moments:
    """Moments of chains, shape (chains, draws, D)."""
    squares = z**2
    ess = np.array([float(az.ess(squares[:, :, i])) for i in range(z.shape[2])])
    return Moments.of(squares.mean((0, 1)), (squares**2).mean((0, 1)), ess)


def item_response(draws: int = 3000) -> Moments:
    """Four chains in coordinates that the Hessian at the mode makes round."""
    evaluate = responses()
    at = minimize(
        lambda z: tuple(-one[0] for one in evaluate(z[None])), np.zeros(501), jac=True,
        method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-6},
    ).x  # fmt: skip
    steps = 1e-4 * np.eye(501)
    precision = (evaluate(at - steps)[1] - evaluate(at + steps)[1]) / 2e-4
    upper = np.linalg.cholesky((precision + precision.T) / 2).T  # z = mode + upper⁻¹ u
    root = solve_triangular(upper, np.eye(501))

    def rounded(u: Array) -> tuple[Array, Array]:
        value, slope = evaluate(at + u @ root.T)
        return value, slope @ root

    walks = [walk(rounded, 501, tune=500, draws=draws, seed=910 + c).z[500:] for c in range(4)]
    return of_chains(at + np.stack(walks) @ root.T)


def sparse_logistic(draws: int = 4000) -> Moments:
    """Four chains."""
    walks = [walk(logistic(), 51, tune=1000, draws=draws, seed=920 + c).z for c in range(4)]
    return of_chains(np.stack(walks)[:, 1000:])


WAYS = {
    "brownian_bridge": bridge,
    "sparse_logistic": sparse_logistic,
    "item_response": item_response,
    "stochastic_volatility": stochastic_volatility,
}


def main() -> None:
    for name in sys.argv[1:] or WAYS:
        started = time.process_time()
        table = pd.DataFrame({"posterior": name, **WAYS[name]()})
        old = pd.read_csv(REFERENCES) if REFERENCES.exists() else table[:0]
        pd.concat([old[old["posterior"] != name], table]).to_csv(
            REFERENCES, index=False, float_format="%.8g"
        )
        least = table["ess"].min()
        print(f"{name}: {time.process_time() - started:.0f} s, least ESS {least:.0f}", flush=True)


if __name__ == "__main__":
    main()
