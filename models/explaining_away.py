"""Explaining away: independent causes that become dependent once their sum is observed."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor


class ExplainingAway(PyroModule):
    """Several hidden causes add up to one observed number.

    ====== ==========================================  ================
    site   distribution, for each row n                 shape
    ====== ==========================================  ================
    ``h``  h ~ N(0, I_K)                                (row, K)
    ``v``  v | h ~ N(wᵀh, 1)                            (row, 1)
    ====== ==========================================  ================

    Before v is seen the causes are independent. Given v they are not: what one of them explains,
    the others need not, and their posterior correlation is −wᵢwⱼ / √((1 + wᵢ²)(1 + wⱼ²)) for K = 2.

    Parameters
    ----------
    num_causes : int, default 2
        K, the number of causes; the chapter has two.

    Attributes
    ----------
    w : Tensor
        Strengths of the causes, shape (K,), real; in units of the noise, whose standard deviation
        is 1. Drawn from N(0, 1) by `reset_parameters`.

    Notes
    -----
    p(v) = N(0, 1 + ‖w‖²) depends on w through its length alone: data identify neither the direction
    of w nor its signs. The noise has scale 1 and v mean 0, so data must be centred and may not
    have a variance below 1.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, section 19.4.3.
    """

    def __init__(self, num_causes: int = 2) -> None:
        super().__init__()
        self.num_causes = num_causes
        self.w = PyroParam(torch.zeros(num_causes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw w anew: at w = 0 the gradient vanishes."""
        self.w = torch.randn_like(self.w)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> Tensor:
        """Run the generative story.

        Parameters
        ----------
        v : Tensor, optional
            Rows observed, shape (n, 1). Without it the rows are drawn from the prior predictive.
        num_obs : int, optional
            Rows in the whole data set, when `v` is a mini-batch of it. Default: the rows of `v`,
            or 1 without them.

        Returns
        -------
        Tensor
            The rows, observed or drawn, shape (n, 1).
        """
        num_rows = (num_obs or 1) if v is None else len(v)
        w = self.w
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(w), torch.ones_like(w)).to_event(1))
            loc = (h * w).sum(-1, keepdim=True)
            return pyro.sample("v", dist.Normal(loc, torch.ones_like(loc)).to_event(1), obs=v)
