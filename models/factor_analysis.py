"""Factor analysis and probabilistic PCA: a linear Gaussian model whose posterior is exact."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints


class FactorAnalysis(PyroModule):
    """Few hidden factors explain the correlations of many observed features.

    ====== ==========================================  ================
    site   distribution, for each row n                 shape
    ====== ==========================================  ================
    ``h``  h ~ N(0, I_K)                                (row, K)
    ``v``  v | h ~ N(W h + b, diag(scale²))             (row, D)
    ====== ==========================================  ================

    Parameters
    ----------
    num_features : int
        D, the number of columns of the data.
    num_factors : int
        K, the number of hidden factors.
    isotropic : bool, default False
        Share one noise scale among the features: probabilistic PCA.

    Attributes
    ----------
    W : Tensor
        Loadings, shape (D, K), real. Drawn from N(0, 0.1²) by `reset_parameters`.
    b : Tensor
        Means, shape (D,), in the units of the data. Initially 0.
    scale : Tensor
        Noise standard deviations ψ^½, shape (D,), or (1,) if isotropic; positive. Initially 1.

    Notes
    -----
    W is identified up to a rotation W R of the factors: compare W Wᵀ, the evidence or predictions
    between fits, never single loadings.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, equations 13.1 to 13.4.
    Tipping and Bishop (1999), doi:10.1111/1467-9868.00196.
    """

    def __init__(self, num_features: int, num_factors: int, isotropic: bool = False) -> None:
        super().__init__()
        self.num_features, self.num_factors, self.isotropic = num_features, num_factors, isotropic
        num_scales = 1 if isotropic else num_features
        self.W = PyroParam(torch.zeros(num_features, num_factors))
        self.b = PyroParam(torch.zeros(num_features))
        self.scale = PyroParam(torch.ones(num_scales), constraint=constraints.positive)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W anew: at W = 0 the factors are interchangeable and the gradient vanishes."""
        self.W = 0.1 * torch.randn_like(self.W)
        self.b = torch.zeros_like(self.b)
        self.scale = torch.ones_like(self.scale)

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
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            unit = self.W.new_ones(self.num_factors)
            h = pyro.sample("h", dist.Normal(0 * unit, unit).to_event(1))
            loc = h @ self.W.mT + self.b
            return pyro.sample("v", dist.Normal(loc, self.scale).to_event(1), obs=v)
