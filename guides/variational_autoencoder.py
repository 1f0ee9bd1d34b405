"""Guides for `models.variational_autoencoder`: independent normals, by row or by an encoder."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from guides._encoders import mlp
from guides._rows import require_all_rows


class VariationalAutoencoderMeanField(PyroModule):
    """q(h_n) = ∏_k N(m_nk, s_nk²): normals fitted to each row on its own.

    The encoder's family without the encoder: what its bound gains over the encoder's is the
    amortisation gap, what it still lacks to the evidence is the family's.

    Parameters
    ----------
    num_rows, num_latents : int
        n and K.

    Attributes
    ----------
    h_loc, h_scale : Tensor
        m and s, shape (n, K), real and positive. Initially 0 and 1, the prior.
    """

    def __init__(self, num_rows: int, num_latents: int) -> None:
        super().__init__()
        self.num_rows, self.num_latents = num_rows, num_latents
        self.h_loc = PyroParam(torch.zeros(num_rows, num_latents))
        self.h_scale = PyroParam(torch.ones(num_rows, num_latents), constraint=constraints.positive)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", dist.Normal(self.h_loc, self.h_scale).to_event(1))}


class VariationalAutoencoderAmortized(PyroModule):
    """q(h | v) = ∏_k N(m_k(v), s_k(v)²): one network gives every row its normals.

    It serves mini-batches and rows never seen. With a linear decoder and Gaussian noise the
    posterior mean is linear in v, and the encoder without hidden layers is exact wherever the
    columns of W are at right angles.

    Parameters
    ----------
    num_features, num_latents : int
        D and K.
    hidden : sequence of int, default (128,)
        Widths of the hidden layers; without any, m and log s are linear in v.
    unit : float, default 1.0
        The network reads v / unit: for columns far from 1, such as grey levels up to 16.

    Attributes
    ----------
    encoder : torch.nn.Sequential
        From (..., D) to (..., 2 K): m, then log s. Torch's own random start.
    """

    def __init__(
        self,
        num_features: int,
        num_latents: int,
        hidden: Sequence[int] = (128,),
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_features, self.num_latents = num_features, num_latents
        self.hidden, self.unit = tuple(hidden), unit
        self.encoder = mlp(num_features, hidden, 2 * num_latents)

    def reset_parameters(self) -> None:
        """Draw the encoder's weights anew."""
        for layer in self.encoder:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()

    def encode(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Give m(v) and s(v), each of shape (..., K)."""
        loc, log_scale = self.encoder(v / self.unit).chunk(2, -1)
        return loc, log_scale.exp()

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            return {"h": pyro.sample("h", dist.Normal(*self.encode(v)).to_event(1))}
