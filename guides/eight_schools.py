"""Guides for `models.eight_schools`: point, independent normals, full Gaussian.

Each takes the name of the schools' site: "theta" for the centred model, "eta" for the other. None
is amortized: an encoder from (y_j, σ_j) to q(θ_j) would be learnt from eight rows, and has more
weights than they have numbers.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from guides._rows import require_all_rows


class EightSchoolsMAP(PyroModule):
    """q = δ(μ − m) δ(τ − t) ∏_j δ(site_j − c_j): one point, the mode in τ itself, not in log τ.

    Non-centred there is a mode, often at small τ. Centred there is none: the density rises without
    bound as t → 0, and no number of steps is enough. Either way it bounds nothing.

    Parameters
    ----------
    num_rows : int
        J, the number of schools.
    site : {"theta", "eta"}, default "theta"
        The schools' latent.

    Attributes
    ----------
    mu_loc, tau_loc : Tensor
        m and t, shape (), real and positive. Initially 0 and 1.
    site_loc : Tensor
        c, shape (J,), real. Initially 0.
    """

    def __init__(self, num_rows: int, site: str = "theta") -> None:
        super().__init__()
        self.num_rows, self.site = num_rows, site
        self.mu_loc = PyroParam(torch.zeros(()))
        self.tau_loc = PyroParam(torch.ones(()), constraint=constraints.positive)
        self.site_loc = PyroParam(torch.zeros(num_rows))

    def forward(
        self,
        sigma: Tensor,
        y: Tensor | None = None,
        num_obs: int | None = None,
        *,
        mu_scale: float = 5.0,
        tau_scale: float = 5.0,
    ) -> dict[str, Tensor]:
        require_all_rows(sigma, num_obs, self.num_rows)
        mu = pyro.sample("mu", dist.Delta(self.mu_loc))
        tau = pyro.sample("tau", dist.Delta(self.tau_loc))
        with pyro.plate("row", self.num_rows, dim=-1):
            school = pyro.sample(self.site, dist.Delta(self.site_loc))
        return {"mu": mu, "tau": tau, self.site: school}


class EightSchoolsMeanField(PyroModule):
    """q = N(μ; m, s²) LogNormal(τ; t, u²) ∏_j N(site_j; c_j, d_j²): independent factors.

    Centred it cannot follow the funnel, which needs the width of θ_j to change with τ. Non-centred
    it can: θ_j = μ + τ η_j depends on τ in the draws although η_j does not.

    Parameters
    ----------
    num_rows : int
        J, the number of schools.
    site : {"theta", "eta"}, default "theta"
        The schools' latent.

    Attributes
    ----------
    mu_loc, mu_scale : Tensor
        m and s, shape (), real and positive. Initially 0 and 1.
    log_tau_loc, log_tau_scale : Tensor
        t and u, shape (), real and positive. Initially 0 and 1.
    site_loc, site_scale : Tensor
        c and d, shape (J,), real and positive. Initially 0 and 1.
    """

    def __init__(self, num_rows: int, site: str = "theta") -> None:
        super().__init__()
        self.num_rows, self.site = num_rows, site
        positive = constraints.positive
        self.mu_loc = PyroParam(torch.zeros(()))
        self.mu_scale = PyroParam(torch.ones(()), constraint=positive)
        self.log_tau_loc = PyroParam(torch.zeros(()))
        self.log_tau_scale = PyroParam(torch.ones(()), constraint=positive)
        self.site_loc = PyroParam(torch.zeros(num_rows))
        self.site_scale = PyroParam(torch.ones(num_rows), constraint=positive)

    def forward(
        self,
        sigma: Tensor,
        y: Tensor | None = None,
        num_obs: int | None = None,
        *,
        mu_scale: float = 5.0,
        tau_scale: float = 5.0,
    ) -> dict[str, Tensor]:
        require_all_rows(sigma, num_obs, self.num_rows)
        mu = pyro.sample("mu", dist.Normal(self.mu_loc, self.mu_scale))
        tau = pyro.sample("tau", dist.LogNormal(self.log_tau_loc, self.log_tau_scale))
        with pyro.plate("row", self.num_rows, dim=-1):
            school = pyro.sample(self.site, dist.Normal(self.site_loc, self.site_scale))
        return {"mu": mu, "tau": tau, self.site: school}


class EightSchoolsFullRank(PyroModule):
    """q(μ, log τ, site) = N(m, L Lᵀ): a full Gaussian over all J + 2 numbers.

    The Gaussian is drawn at an auxiliary site, ``latent``; the model's sites are read off it, with
    the Jacobian 1/τ of τ = exp(log τ) in the density. It follows a tilted ellipse, not a funnel.

    Parameters
    ----------
    num_rows : int
        J, the number of schools.
    site : {"theta", "eta"}, default "theta"
        The schools' latent.

    Attributes
    ----------
    loc : Tensor
        m, in the order μ, log τ, schools, shape (J + 2,), real. Initially 0.
    scale_tril : Tensor
        L, lower Cholesky factor, shape (J + 2, J + 2). Initially I.
    """

    def __init__(self, num_rows: int, site: str = "theta") -> None:
        super().__init__()
        self.num_rows, self.site = num_rows, site
        self.loc = PyroParam(torch.zeros(num_rows + 2))
        self.scale_tril = PyroParam(torch.eye(num_rows + 2), constraint=constraints.lower_cholesky)

    def forward(
        self,
        sigma: Tensor,
        y: Tensor | None = None,
        num_obs: int | None = None,
        *,
        mu_scale: float = 5.0,
        tau_scale: float = 5.0,
    ) -> dict[str, Tensor]:
        require_all_rows(sigma, num_obs, self.num_rows)
        q = dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
        latent = pyro.sample("latent", q, infer={"is_auxiliary": True})
        log_tau = latent[..., 1]
        mu = pyro.sample("mu", dist.Delta(latent[..., 0]))
        tau = pyro.sample("tau", dist.Delta(log_tau.exp(), log_density=-log_tau))
        # Of many draws at once, (particles, 1, J): the schools take the place of the 1.
        each = latent[..., 2:] if latent.dim() == 1 else latent[..., 2:].squeeze(-2)
        with pyro.plate("row", self.num_rows, dim=-1):
            school = pyro.sample(self.site, dist.Delta(each))
        return {"latent": latent, "mu": mu, "tau": tau, self.site: school}
