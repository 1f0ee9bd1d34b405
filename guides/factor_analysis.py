"""Guides for `models.factor_analysis`: point, independent normals, full Gaussian, encoder."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from guides._encoders import mlp
from guides._rows import require_all_rows


class FactorAnalysisMAP(PyroModule):
    """q(h_n) = δ(h_n − m_n): one point per row, the posterior mode in the space of h itself.

    Its bound is log p(v, m): the entropy of a point, −∞, is left out, so the number is the height
    of a density and depends on the units of h. It is no lower bound on the evidence.

    Parameters
    ----------
    num_rows, num_factors : int
        n and K.

    Attributes
    ----------
    h_loc : Tensor
        m, shape (n, K), real. Initially 0, the prior mean.
    """

    def __init__(self, num_rows: int, num_factors: int) -> None:
        super().__init__()
        self.num_rows, self.num_factors = num_rows, num_factors
        self.h_loc = PyroParam(torch.zeros(num_rows, num_factors))

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", dist.Delta(self.h_loc, event_dim=1))}


class FactorAnalysisMeanField(PyroModule):
    """q(h_n) = ∏_k N(m_nk, s_nk²): independent normals.

    At the optimum the means are exact and s_nk² = 1 / (Vₙ⁻¹)_kk, V the posterior covariance: never
    above the posterior variance V_kk, and below it wherever factors are correlated given v.

    Parameters
    ----------
    num_rows, num_factors : int
        n and K.

    Attributes
    ----------
    h_loc, h_scale : Tensor
        m and s, shape (n, K), real and positive. Initially 0 and 1, the prior.
    """

    def __init__(self, num_rows: int, num_factors: int) -> None:
        super().__init__()
        self.num_rows, self.num_factors = num_rows, num_factors
        self.h_loc = PyroParam(torch.zeros(num_rows, num_factors))
        self.h_scale = PyroParam(torch.ones(num_rows, num_factors), constraint=constraints.positive)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", dist.Normal(self.h_loc, self.h_scale).to_event(1))}


class FactorAnalysisFullRank(PyroModule):
    """q(h_n) = N(m_n, L Lᵀ): a full Gaussian; the exact posterior is in this family.

    The exact covariance (I + WᵀΨ⁻¹W)⁻¹ does not depend on the row, so one L serves all rows.

    Parameters
    ----------
    num_rows, num_factors : int
        n and K.

    Attributes
    ----------
    h_loc : Tensor
        m, shape (n, K), real. Initially 0, the prior mean.
    h_scale_tril : Tensor
        L, lower Cholesky factor, shape (K, K). Initially I, the prior.
    """

    def __init__(self, num_rows: int, num_factors: int) -> None:
        super().__init__()
        self.num_rows, self.num_factors = num_rows, num_factors
        self.h_loc = PyroParam(torch.zeros(num_rows, num_factors))
        self.h_scale_tril = PyroParam(torch.eye(num_factors), constraint=constraints.lower_cholesky)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            q = dist.MultivariateNormal(self.h_loc, scale_tril=self.h_scale_tril)
            return {"h": pyro.sample("h", q)}


class FactorAnalysisAmortized(PyroModule):
    """q(h | v) = N(A v + c, L Lᵀ): a linear encoder, which for this model is exact.

    The posterior mean (I + WᵀΨ⁻¹W)⁻¹WᵀΨ⁻¹(v − b) is linear in v and the covariance is the same for
    every row, so amortisation costs nothing here; and the encoder serves rows never seen.

    Parameters
    ----------
    num_features, num_factors : int
        D and K.

    Attributes
    ----------
    encoder : torch.nn.Sequential
        One linear layer, A and c, from (n, D) to (n, K). Initially torch's default, by the global
        seed.
    h_scale_tril : Tensor
        L, lower Cholesky factor, shape (K, K). Initially I, the prior.
    """

    def __init__(self, num_features: int, num_factors: int) -> None:
        super().__init__()
        self.num_features, self.num_factors = num_features, num_factors
        self.encoder = mlp(num_features, (), num_factors)
        self.h_scale_tril = PyroParam(torch.eye(num_factors), constraint=constraints.lower_cholesky)

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            q = dist.MultivariateNormal(self.encoder(v), scale_tril=self.h_scale_tril)
            return {"h": pyro.sample("h", q)}
