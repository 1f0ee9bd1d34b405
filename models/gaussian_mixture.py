"""Gaussian mixtures: with parameters to learn, and fully Bayesian."""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from models._distributions import Wishart


class GaussianMixture(PyroModule):
    """Each row comes from one of K Gaussians; which one is hidden.

    ====== ==========================================  ================
    site   distribution, for each row n                 shape
    ====== ==========================================  ================
    ``h``  h ~ Categorical(weights)                     (row,)
    ``v``  v | h = k ~ N(loc_k, L_k L_kᵀ)               (row, D)
    ====== ==========================================  ================

    Parameters
    ----------
    num_features : int
        D, the number of columns of the data.
    num_components : int
        K, the number of Gaussians.

    Attributes
    ----------
    weights : Tensor
        π, shape (K,), on the simplex. Initially 1/K each.
    loc : Tensor
        μ, shape (K, D), in the units of the data. Drawn from N(0, 1) by `reset_parameters`.
    scale_tril : Tensor
        L, the lower Cholesky factors of the covariances, shape (K, D, D). Initially I.

    Notes
    -----
    The components may be permuted without changing p(v): match them before comparing two fits. The
    likelihood is unbounded (one component may shrink onto one row) and has many local maxima.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, section 3.9.6.
    """

    def __init__(self, num_features: int, num_components: int) -> None:
        super().__init__()
        self.num_features, self.num_components = num_features, num_components
        K, D = num_components, num_features
        self.weights = PyroParam(torch.full((K,), 1 / K), constraint=constraints.simplex)
        self.loc = PyroParam(torch.zeros(K, D))
        self.scale_tril = PyroParam(
            torch.eye(D).repeat(K, 1, 1), constraint=constraints.lower_cholesky
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the means anew, for data of zero mean and unit scale: equal means never part."""
        self.weights = torch.full_like(self.weights, 1 / self.num_components)
        self.loc = torch.randn_like(self.loc)
        self.scale_tril = torch.eye(self.num_features).to(self.loc).expand_as(self.scale_tril)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> Tensor:
        """Run the generative story.

        Parameters
        ----------
        v : Tensor, optional
            Rows observed, shape (n, D). Without it the rows are drawn from the prior predictive.
        num_obs : int, optional
            Rows in the whole data set, when `v` is a mini-batch of it. Default: the rows of `v`,
            or 1 without them.

        Returns
        -------
        Tensor
            The rows, observed or drawn, shape (n, D).
        """
        num_rows = (num_obs or 1) if v is None else len(v)
        weights, loc, scale_tril = self.weights, self.loc, self.scale_tril
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            h = pyro.sample("h", dist.Categorical(weights))
            return pyro.sample(
                "v", dist.MultivariateNormal(loc[h], scale_tril=scale_tril[h]), obs=v
            )


class MixturePrior(NamedTuple):
    """Conjugate prior of a Gaussian mixture: Dirichlet and normal-Wishart.

    Attributes
    ----------
    concentration : Tensor
        α₀ of the Dirichlet, shape (K,), positive. Its length sets the number of components.
    loc : Tensor
        m₀, the prior mean of every component, shape (D,).
    mean_precision : Tensor
        β₀, in rows' worth of evidence for m₀, shape (), positive.
    df : Tensor
        ν₀, degrees of freedom of the Wishart, shape (), above D - 1.
    precision_tril : Tensor
        Lower Cholesky factor of the Wishart's scale matrix, shape (D, D). The prior mean of each
        precision matrix is ν₀ times that scale matrix.
    """

    concentration: Tensor
    loc: Tensor
    mean_precision: Tensor
    df: Tensor
    precision_tril: Tensor


def bayesian_gaussian_mixture(
    v: Tensor | None = None, num_obs: int | None = None, *, prior: MixturePrior
) -> Tensor:
    """Draw a mixture from its conjugate prior, then rows from the mixture.

    =============  =============================================  ==================
    site           distribution                                    shape
    =============  =============================================  ==================
    ``weights``    π ~ Dirichlet(α₀)                               (K,)
    ``precision``  Λ_k ~ Wishart(ν₀, scale L₀ L₀ᵀ)                 (component, D, D)
    ``loc``        μ_k | Λ_k ~ N(m₀, (β₀ Λ_k)⁻¹)                   (component, D)
    ``h``          h_n ~ Categorical(π)                            (row,)
    ``v``          v_n | h_n = k ~ N(μ_k, Λ_k⁻¹)                   (row, D)
    =============  =============================================  ==================

    Parameters
    ----------
    v : Tensor, optional
        Rows observed, shape (n, D). Without it the rows are drawn from the prior predictive.
    num_obs : int, optional
        Rows in the whole data set, when `v` is a mini-batch of it. Default: the rows of `v`, or 1
        without them.
    prior : MixturePrior
        The prior's parameters; their shapes set K and D.

    Returns
    -------
    Tensor
        The rows, observed or drawn, shape (n, D).

    Notes
    -----
    The posterior has K! copies of every mode. A mean-field guide sits in one of them: read its
    components as this fit's labels.

    References
    ----------
    Attias (2000), *A variational Bayesian framework for graphical models*, NIPS 12.
    Bishop (2006), *Pattern Recognition and Machine Learning*, section 10.2.
    """
    num_rows = (num_obs or 1) if v is None else len(v)
    num_components = len(prior.concentration)
    weights = pyro.sample("weights", dist.Dirichlet(prior.concentration))
    with pyro.plate("component", num_components, dim=-1):
        precision = pyro.sample("precision", Wishart(prior.df, scale_tril=prior.precision_tril))
        loc = pyro.sample(
            "loc",
            dist.MultivariateNormal(prior.loc, precision_matrix=prior.mean_precision * precision),
        )
    scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision))
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        h = pyro.sample("h", dist.Categorical(weights))
        # Vindex reads loc[h] draw by draw where many mixtures are drawn at once.
        loc = Vindex(loc.unsqueeze(-3))[..., h, :]
        scale_tril = Vindex(scale_tril.unsqueeze(-4))[..., h, :, :]
        return pyro.sample("v", dist.MultivariateNormal(loc, scale_tril=scale_tril), obs=v)
