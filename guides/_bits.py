"""Guides of K bits a row, whatever the model: a point, and independent bits."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from guides._rows import require_all_rows
from models._bernoulli import BernoulliVector

# The posterior log odds of bit i, shape (n,), given the others in h, shape (n, K).
LogOdds = Callable[[Tensor, int], Tensor]


class PointOfBits(PyroModule):
    """q(h_n) = δ(h_n − h*_n): one state per row, found by iterated conditional modes.

    Bit after bit takes the value of higher posterior probability given the others, until none
    changes. No single bit can then improve the state; two at once may. A point of a discrete space
    has entropy 0: its bound log p(v, h*) is a lower bound on the evidence, and log p(v) minus it is
    −log p(h* | v), the surprise at the state itself.

    Parameters
    ----------
    num_rows, num_units : int
        n and K.

    Attributes
    ----------
    h_mode : Tensor
        h*, shape (n, K), of 0 and 1: a buffer, not trained. Initially 0.

    References
    ----------
    Besag (1986), doi:10.1111/j.2517-6161.1986.tb01412.x.
    """

    h_mode: Tensor

    def __init__(self, num_rows: int, num_units: int) -> None:
        super().__init__()
        self.num_rows, self.num_units = num_rows, num_units
        self.register_buffer("h_mode", torch.zeros(num_rows, num_units))

    def climb(self, like: Tensor, log_odds: LogOdds, max_sweeps: int) -> None:
        """Go on from the present state, in the dtype of `like`, for so many sweeps at most."""
        h = self.h_mode.to(like)
        for _ in range(max_sweeps):
            before = h.clone()
            for i in range(self.num_units):
                h[:, i] = (log_odds(h, i) > 0).to(h)
            if h.equal(before):
                break
        self.h_mode = h

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            # A counting measure: the point has probability 1, and log 1 = 0.
            log_density = self.h_mode.new_zeros(self.num_rows)
            q = dist.Delta(self.h_mode, log_density=log_density, event_dim=1)
            return {"h": pyro.sample("h", q)}


class IndependentBits(PyroModule):
    """q(h_n) = ∏_i Bernoulli(ĥ_ni), ĥ = σ(logits), row by row.

    Parameters
    ----------
    num_rows, num_units : int
        n and K.

    Attributes
    ----------
    h_logits : Tensor
        log ĥ / (1 − ĥ), shape (n, K), real. Initially 0: every bit is on with probability ½.
    """

    def __init__(self, num_rows: int, num_units: int) -> None:
        super().__init__()
        self.num_rows, self.num_units = num_rows, num_units
        self.h_logits = PyroParam(torch.zeros(num_rows, num_units))

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", BernoulliVector(self.h_logits))}
