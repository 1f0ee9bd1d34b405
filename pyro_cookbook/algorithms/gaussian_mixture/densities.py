"""A Gaussian mixture in closed form: its parameters, densities and a start."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of a chunk: the log joint of so many at a time is in memory.
CHUNK_ROWS = 8192


@dataclass(frozen=True)
class MixtureParameters:
    """θ of `models.gaussian_mixture.GaussianMixture`, under the same names.

    Attributes
    ----------
    weights : Tensor
        π, shape (K,), on the simplex.
    loc : Tensor
        μ, shape (K, D).
    scale_tril : Tensor
        Lower Cholesky factors of the covariances, shape (K, D, D).
    """

    weights: Tensor
    loc: Tensor
    scale_tril: Tensor


def log_joint(theta: MixtureParameters, v: Tensor) -> Tensor:
    """log π_k + log N(v_n; μ_k, Σ_k), in nats.

    Parameters
    ----------
    theta : MixtureParameters
        Or any object with its attributes, such as the model.
    v : Tensor
        Rows, shape (n, D).

    Returns
    -------
    Tensor
        Shape (n, K). One component is whitened at a time: no n × K × D array.
    """
    num_features = v.shape[1]
    eye = torch.eye(num_features).to(v)
    columns = []
    for weight, loc, tril in zip(theta.weights, theta.loc, theta.scale_tril, strict=True):
        whitening = torch.linalg.solve_triangular(tril, eye, upper=False).mT
        quadratic = ((v - loc) @ whitening).square().sum(1)
        columns.append(weight.log() - tril.diagonal().log().sum() - 0.5 * quadratic)
    return torch.stack(columns, dim=1) - 0.5 * num_features * math.log(2 * math.pi)


def log_evidence(theta: MixtureParameters, v: Tensor) -> Tensor:
    """log p(v_n; θ) of every row, in nats, shape (n,)."""
    return torch.cat([torch.logsumexp(log_joint(theta, part), 1) for part in v.split(CHUNK_ROWS)])


def responsibilities(theta: MixtureParameters, v: Tensor) -> Tensor:
    """Posterior p(h_n = k | v_n; θ): shape (n, K), rows sum to 1."""
    return torch.cat([torch.softmax(log_joint(theta, part), 1) for part in v.split(CHUNK_ROWS)])


def random_start(v: Tensor, num_components: int, *, seed: int = 0) -> MixtureParameters:
    """Pick rows far from each other as means (k-means++), with the overall covariance.

    References
    ----------
    Arthur and Vassilvitskii (2007), *k-means++*, SODA.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = v.std(0).clamp_min(1e-12)
    chosen = [int(torch.randint(len(v), (1,), generator=generator))]
    nearest = ((v - v[chosen[0]]) / scale).square().sum(1)
    for _ in range(num_components - 1):
        weight = (nearest if nearest.sum() > 0 else torch.ones_like(nearest)).cpu().double()
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        nearest = nearest.minimum(((v - v[chosen[-1]]) / scale).square().sum(1))
    centred = v - v.mean(0)
    covariance = centred.mT @ centred / len(v) + 1e-6 * scale.square().diag()
    scale_tril = torch.linalg.cholesky(covariance).repeat(num_components, 1, 1)
    weights = v.new_full((num_components,), 1 / num_components)
    return MixtureParameters(weights, v[chosen].clone(), scale_tril)
