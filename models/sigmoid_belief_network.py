"""Sigmoid belief network: hidden causes switch on, and each makes pixels more or less probable."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from models._bernoulli import BernoulliVector


class SigmoidBeliefNetwork(PyroModule):
    """The generative half of a Helmholtz machine with one layer of hidden causes.

    ====== ==========================================  ================
    site   distribution, for each row n                 shape
    ====== ==========================================  ================
    ``h``  h_i ~ Bernoulli(σ(b_i)), i = 1 … K           (row, K)
    ``v``  v_d | h ~ Bernoulli(σ(W_d: h + c_d))         (row, D)
    ====== ==========================================  ================

    Parameters
    ----------
    num_features : int
        D, the number of columns of the data, each 0 or 1.
    num_units : int
        K, the number of causes.

    Attributes
    ----------
    W : Tensor
        What a cause adds to the log odds of the features, shape (D, K), real, in nats. Drawn from
        N(0, 0.1²) by `reset_parameters`.
    b : Tensor
        Log odds of a cause, shape (K,), real. Initially −1: on with probability 0.27.
    c : Tensor
        Log odds of a feature with every cause off, shape (D,), real. Initially 0.

    Notes
    -----
    Causes are independent until v is seen; then they compete to explain it, and a factorised q
    cannot say "either, but not both". A cause may be turned inside out (h for 1 − h, with W, b and
    c changed to match) and causes may be permuted without changing p(v): match them before
    comparing two fits. A feature that is the same in every row sends its c to ±∞.

    References
    ----------
    Neal (1992), doi:10.1016/0004-3702(92)90065-6.
    Hinton, Dayan, Frey and Neal (1995), doi:10.1126/science.7761831.
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, sections 19.5.1 and 20.10.1.
    """

    def __init__(self, num_features: int, num_units: int) -> None:
        super().__init__()
        self.num_features, self.num_units = num_features, num_units
        self.W = PyroParam(torch.zeros(num_features, num_units))
        self.b = PyroParam(torch.full((num_units,), -1.0))
        self.c = PyroParam(torch.zeros(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W anew: causes that are equal never part."""
        self.W = 0.1 * torch.randn_like(self.W)
        self.b = torch.full_like(self.b, -1.0)
        self.c = torch.zeros_like(self.c)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> Tensor:
        """Run the generative story.

        Parameters
        ----------
        v : Tensor, optional
            Rows observed, shape (n, D), of 0 and 1. Without it the rows are drawn from the prior
            predictive: the network dreams.
        num_obs : int, optional
            Rows in the whole data set, when `v` is a mini-batch of it. Default: the rows of `v`,
            or 1 without them.

        Returns
        -------
        Tensor
            The rows, observed or drawn, shape (n, D).
        """
        num_rows = (num_obs or 1) if v is None else len(v)
        W, b, c = self.W, self.b, self.c
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            h = pyro.sample("h", BernoulliVector(b))
            return pyro.sample("v", dist.Bernoulli(logits=h @ W.mT + c).to_event(1), obs=v)
