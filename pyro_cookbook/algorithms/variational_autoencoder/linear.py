"""The linear auto-encoder with Gaussian noise: probabilistic PCA, and when it collapses."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_cookbook.algorithms.factor_analysis import FactorAnalysisParameters, posterior


class LinearEncoder(NamedTuple):
    """m(v) = A v + c, and one s for all rows.

    Attributes
    ----------
    A : Tensor
        Shape (K, D).
    c : Tensor
        Shape (K,).
    scale : Tensor
        s, shape (K,), positive.
    """

    A: Tensor
    c: Tensor
    scale: Tensor


def eigenvalues(v: Tensor) -> Tensor:
    """Variances of v along its principal axes, shape (D,), largest first."""
    covariance = torch.cov(v.mT, correction=0)
    values: Tensor = torch.linalg.eigvalsh(covariance)
    return values.flip(0)


def collapse_scale(v: Tensor) -> float:
    """Smallest noise scale at which every latent of the best linear auto-encoder is ignored.

    It is the square root of the largest eigenvalue of the covariance of v, in the units of v. For
    any decoder it is where the collapsed solution turns from a saddle into a local maximum.

    References
    ----------
    Lucas, Tucker, Grosse and Norouzi (2019), *Don't blame the ELBO!*, arXiv:1911.02469.
    The general claim: arXiv:2510.01621.
    """
    return math.sqrt(float(eigenvalues(v)[0]))


def optimum(v: Tensor, num_latents: int, scale: float | None = None) -> FactorAnalysisParameters:
    """Maximise the evidence of probabilistic PCA, with the noise scale given or free.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_latents : int
        K, below D.
    scale : float, optional
        Noise standard deviation, held. Default: the maximum-likelihood one, the root of the mean
        of the D − K smallest eigenvalues.

    Returns
    -------
    FactorAnalysisParameters
        W = U (Λ − scale² I)₊^½, the columns of U principal axes: at right angles, so that the
        posterior is a product; b the mean; scale of shape (1,).

    References
    ----------
    Tipping and Bishop (1999), doi:10.1111/1467-9868.00196, equations 7 and 8.
    """
    b = v.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(v.mT, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)
    variance = values[num_latents:].mean() if scale is None else values.new_tensor(scale**2)
    length = (values[:num_latents] - variance).clamp_min(0).sqrt()
    W = vectors[:, :num_latents] * length
    return FactorAnalysisParameters(W, b, variance.sqrt()[None])


def encoder(theta: FactorAnalysisParameters) -> LinearEncoder:
    """Give the best encoder with independent normals for a linear decoder.

    m is the exact posterior mean; s_k² = 1 / (I + WᵀΨ⁻¹W)_kk, exact where the columns of W are at
    right angles.
    """
    basis = torch.eye(len(theta.W)).to(theta.W)
    offset, covariance = posterior(theta, torch.zeros_like(basis[:1]))
    A = (posterior(theta, basis)[0] - offset).mT
    return LinearEncoder(A, offset[0], torch.linalg.inv(covariance).diagonal().rsqrt())


def rate(values: Tensor, num_latents: int, scale: float) -> float:
    """Give ½ Σ log⁺(λ/scale²): the rows' mean KL(q ‖ prior) at the optimum for a held noise scale.

    Parameters
    ----------
    values : Tensor
        The eigenvalues λ, largest first.
    num_latents : int
        K: that many of them count.
    scale : float
        Noise standard deviation.

    Returns
    -------
    float
        In nats a row; 0 from `collapse_scale` on. It is a straight line in log scale until the
        next eigenvalue drops out: the reverse water-filling of rate-distortion theory.

    Notes
    -----
    For one axis W has length² λ − scale², the posterior variance is scale²/λ, and the means have
    variance 1 − scale²/λ over the rows: in ½(m² + s² − 1 − log s²) all but the logarithm cancels.
    """
    return float((values[:num_latents] / scale**2).log().clamp_min(0).sum() / 2)
