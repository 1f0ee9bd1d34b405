"""Base draws ε ~ N(0, I) for sample averages: randomised quasi-Monte Carlo with exact moments."""

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri

Array = npt.NDArray[np.float64]


def base_draws(num_draws: int, dim: int, seed: int) -> Array:
    """Scrambled Sobol points as standard normals, in pairs ±ε, with the moments of N(0, I).

    Parameters
    ----------
    num_draws : int
        S, even.
    dim : int
    seed : int
        Of the scrambling.

    Returns
    -------
    array, shape (S, dim)
        The sample mean is 0 and every sample variance 1; with S ≥ 4 `dim` the sample covariance is
        the identity too, so that a Gaussian posterior is found exactly from any such draws.
    """
    half = num_draws // 2
    if dim <= torch.quasirandom.SobolEngine.MAXDIM:
        engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
        uniform = engine.draw(half, dtype=torch.float64).numpy()
        normal: Array = ndtri(np.clip(uniform, 1e-10, 1 - 1e-10))
    else:
        normal = np.random.default_rng(seed).standard_normal((half, dim))
    eps = np.concatenate([normal, -normal])
    if num_draws >= 4 * dim:
        root = np.linalg.cholesky(eps.T @ eps / num_draws)
        return np.linalg.solve(root, eps.T).T
    return eps / np.sqrt((eps**2).mean(0))
