"""Binary sparse coding: few of K atoms are switched on, and their sum is observed with noise."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from models._bernoulli import BernoulliVector


class BinarySparseCoding(PyroModule):
    """Each row is the sum of those atoms whose hidden switches are on, plus Gaussian noise.

    ====== ==========================================  ================
    site   distribution, for each row n                 shape
    ====== ==========================================  ================
    ``h``  h_i ~ Bernoulli(σ(b_i)), i = 1 … K           (row, K)
    ``v``  v | h ~ N(W h, scale² I)                     (row, D)
    ====== ==========================================  ================

    The chapter's precision β is 1 / scale².

    Parameters
    ----------
    num_features : int
        D, the number of columns of the data.
    num_units : int
        K, the number of switches.

    Attributes
    ----------
    W : Tensor
        Atoms as columns, shape (D, K), in the units of the data. Drawn from N(0, 0.1²) by
        `reset_parameters`.
    b : Tensor
        Log odds of a switch to be on, shape (K,), real. Initially −2: on with probability 0.12.
    scale : Tensor
        Noise standard deviation β^−½, shape (), positive, in the units of the data. Initially 1.

    Notes
    -----
    With every switch off the mean of v is 0: leave columns uncentred, or spend one unit, on in
    every row, as the offset. The units may be permuted without changing p(v): match atoms before
    comparing two fits. The likelihood has local optima, such as two atoms merged into one, and
    another of the same size empty: use several starts. The posterior is a Boltzmann machine whose
    couplings −β W_:iᵀW_:j inhibit: overlapping atoms compete, and a factorised q cannot say
    "either, but not both".

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, equations 19.19 and 19.20.
    Henniges, Puertas, Bornschein, Eggert and Lücke (2010), doi:10.1007/978-3-642-15995-4_56.
    """

    def __init__(self, num_features: int, num_units: int) -> None:
        super().__init__()
        self.num_features, self.num_units = num_features, num_units
        self.W = PyroParam(torch.zeros(num_features, num_units))
        self.b = PyroParam(torch.full((num_units,), -2.0))
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W anew: atoms that are equal never part."""
        self.W = 0.1 * torch.randn_like(self.W)
        self.b = torch.full_like(self.b, -2.0)
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
        W, b, scale = self.W, self.b, self.scale
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            h = pyro.sample("h", BernoulliVector(b))
            return pyro.sample("v", dist.Normal(h @ W.mT, scale).to_event(1), obs=v)
