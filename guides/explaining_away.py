"""Guides for `models.explaining_away`: point, independent normals, full Gaussian, encoder."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from guides._encoders import mlp
from guides._rows import require_all_rows


class ExplainingAwayMAP(PyroModule):
    """q(h_n) = δ(h_n − m_n): one point per row, the posterior mode in the space of h itself.

    At the optimum m_n = w v_n / (1 + ‖w‖²), which is the posterior mean too. Its bound leaves out
    the entropy of a point, −∞: it is the height of a density and no lower bound on the evidence.

    Parameters
    ----------
    num_rows, num_causes : int
        n and K.

    Attributes
    ----------
    h_loc : Tensor
        m, shape (n, K), real. Initially 0, the prior mean.
    """

    def __init__(self, num_rows: int, num_causes: int = 2) -> None:
        super().__init__()
        self.num_rows, self.num_causes = num_rows, num_causes
        self.h_loc = PyroParam(torch.zeros(num_rows, num_causes))

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", dist.Delta(self.h_loc, event_dim=1))}


class ExplainingAwayMeanField(PyroModule):
    """q(h_n) = ∏ᵢ N(m_nᵢ, s_nᵢ²): independent normals, the chapter's factorised q.

    At the optimum mᵢ = wᵢ (v − Σ_{j≠i} wⱼ mⱼ) / (1 + wᵢ²), which gives the exact means, and
    sᵢ² = 1 / (1 + wᵢ²): the variance of cause i *given all others*, below its posterior variance.

    Parameters
    ----------
    num_rows, num_causes : int
        n and K.

    Attributes
    ----------
    h_loc, h_scale : Tensor
        m and s, shape (n, K), real and positive. Initially 0 and 1, the prior.
    """

    def __init__(self, num_rows: int, num_causes: int = 2) -> None:
        super().__init__()
        self.num_rows, self.num_causes = num_rows, num_causes
        self.h_loc = PyroParam(torch.zeros(num_rows, num_causes))
        self.h_scale = PyroParam(torch.ones(num_rows, num_causes), constraint=constraints.positive)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", dist.Normal(self.h_loc, self.h_scale).to_event(1))}


class ExplainingAwayFullRank(PyroModule):
    """q(h_n) = N(m_n, L Lᵀ): a full Gaussian; the exact posterior is in this family.

    The exact covariance (I + w wᵀ)⁻¹ does not depend on the row, so one L serves all rows.

    Parameters
    ----------
    num_rows, num_causes : int
        n and K.

    Attributes
    ----------
    h_loc : Tensor
        m, shape (n, K), real. Initially 0, the prior mean.
    h_scale_tril : Tensor
        L, lower Cholesky factor, shape (K, K). Initially I, the prior.
    """

    def __init__(self, num_rows: int, num_causes: int = 2) -> None:
        super().__init__()
        self.num_rows, self.num_causes = num_rows, num_causes
        self.h_loc = PyroParam(torch.zeros(num_rows, num_causes))
        self.h_scale_tril = PyroParam(torch.eye(num_causes), constraint=constraints.lower_cholesky)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            q = dist.MultivariateNormal(self.h_loc, scale_tril=self.h_scale_tril)
            return {"h": pyro.sample("h", q)}


class ExplainingAwayAmortized(PyroModule):
    """q(h | v) = N(a v + c, L Lᵀ): a linear encoder, which for this model is exact.

    The posterior mean w v / (1 + ‖w‖²) is linear in v, and the covariance is the same for every
    row: amortisation costs nothing, and the encoder serves rows never seen.

    Parameters
    ----------
    num_causes : int, default 2
        K.

    Attributes
    ----------
    encoder : torch.nn.Sequential
        One linear layer, a and c, from (n, 1) to (n, K). Initially torch's default, by the global
        seed.
    h_scale_tril : Tensor
        L, lower Cholesky factor, shape (K, K). Initially I, the prior.
    """

    def __init__(self, num_causes: int = 2) -> None:
        super().__init__()
        self.num_causes = num_causes
        self.encoder = mlp(1, (), num_causes)
        self.h_scale_tril = PyroParam(torch.eye(num_causes), constraint=constraints.lower_cholesky)

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            q = dist.MultivariateNormal(self.encoder(v), scale_tril=self.h_scale_tril)
            return {"h": pyro.sample("h", q)}
