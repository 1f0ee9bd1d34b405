"""Guides for `models.logistic_regression`: point, Laplace, independent normals, full Gaussian.

None is amortized: the intercept and the coefficients belong to the table, not to a row, so there is
nothing to infer row by row; and since no factor belongs to a row, mini-batches need no encoder.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints


class LogisticRegressionMAP(PyroModule):
    """q = δ(a − m_a) δ(β − m): the posterior mode, in the space of a and β themselves.

    With the normal priors it is ridge regression. Its bound leaves out the entropy of a point, −∞:
    it is the height of a density and no lower bound on the evidence.

    Parameters
    ----------
    num_features : int
        D.

    Attributes
    ----------
    intercept_loc : Tensor
        m_a, shape (). Initially 0, the prior mean.
    coefficient_loc : Tensor
        m, shape (D,). Initially 0, the prior mean.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.intercept_loc = PyroParam(torch.zeros(()))
        self.coefficient_loc = PyroParam(torch.zeros(num_features))

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        num_obs: int | None = None,
        *,
        intercept_scale: float = 5.0,
        coefficient_scale: float = 2.5,
    ) -> dict[str, Tensor]:
        return {
            "intercept": pyro.sample("intercept", dist.Delta(self.intercept_loc)),
            "coefficient": pyro.sample(
                "coefficient", dist.Delta(self.coefficient_loc, event_dim=1)
            ),
        }


class LogisticRegressionMeanField(PyroModule):
    """q = N(a; m_a, s_a²) ∏_d N(β_d; m_d, s_d²): independent normals.

    s_d is about the sd of β_d *given the other coefficients*: too small wherever columns correlate.
    `pyro_cookbook.linear_response` gives the covariances back.

    Parameters
    ----------
    num_features : int
        D.

    Attributes
    ----------
    intercept_loc, intercept_scale : Tensor
        m_a and s_a, shape (), real and positive. Initially 0 and 0.1.
    coefficient_loc, coefficient_scale : Tensor
        m and s, shape (D,), real and positive. Initially 0 and 0.1: narrow, so that the first
        gradients are not drowned in the noise of wide draws.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.intercept_loc = PyroParam(torch.zeros(()))
        self.intercept_scale = PyroParam(torch.tensor(0.1), constraint=constraints.positive)
        self.coefficient_loc = PyroParam(torch.zeros(num_features))
        self.coefficient_scale = PyroParam(
            torch.full((num_features,), 0.1), constraint=constraints.positive
        )

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        num_obs: int | None = None,
        *,
        intercept_scale: float = 5.0,
        coefficient_scale: float = 2.5,
    ) -> dict[str, Tensor]:
        intercept = dist.Normal(self.intercept_loc, self.intercept_scale)
        coefficient = dist.Normal(self.coefficient_loc, self.coefficient_scale).to_event(1)
        return {
            "intercept": pyro.sample("intercept", intercept),
            "coefficient": pyro.sample("coefficient", coefficient),
        }


class LogisticRegressionFullRank(PyroModule):
    """q(a, β) = N(m, L Lᵀ) over intercept and coefficients together.

    Drawn in two steps, which is the same Gaussian: a from its marginal, then β given a,
    N(m_β + L_βa ε, L_ββ L_ββᵀ) with ε = (a − m_a) / L_aa.

    Parameters
    ----------
    num_features : int
        D.

    Attributes
    ----------
    loc : Tensor
        m, intercept first, shape (D + 1,), real. Initially 0, the prior mean.
    scale_tril : Tensor
        L, lower Cholesky factor, shape (D + 1, D + 1). Initially 0.1 I, as for mean field.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.loc = PyroParam(torch.zeros(num_features + 1))
        self.scale_tril = PyroParam(
            0.1 * torch.eye(num_features + 1), constraint=constraints.lower_cholesky
        )

    def set_gaussian(self, loc: Tensor, covariance: Tensor) -> None:
        """Make this the Gaussian of a mean (D + 1,) and covariance (D + 1, D + 1)."""
        self.loc = loc.detach().clone()
        self.scale_tril = torch.linalg.cholesky(covariance.detach())

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        num_obs: int | None = None,
        *,
        intercept_scale: float = 5.0,
        coefficient_scale: float = 2.5,
    ) -> dict[str, Tensor]:
        loc, tril = self.loc, self.scale_tril
        intercept = pyro.sample("intercept", dist.Normal(loc[0], tril[0, 0]))
        eps = (intercept - loc[0]) / tril[0, 0]
        given = dist.MultivariateNormal(
            loc[1:] + eps[..., None] * tril[1:, 0], scale_tril=tril[1:, 1:]
        )
        return {"intercept": intercept, "coefficient": pyro.sample("coefficient", given)}


class LogisticRegressionLaplace(LogisticRegressionFullRank):
    """q = N(mode, (−∇² log p)⁻¹): the Gaussian of the posterior's curvature at its mode.

    The same Gaussians as `LogisticRegressionFullRank`, reached without the bound: set by Newton's
    method, ``guide.set_gaussian(*pyro_cookbook.algorithms.logistic_regression.laplace(x, y))``.
    It knows the posterior at one point only, and is off where that is skewed.
    """
