"""Guides for `models.sigmoid_belief_network`: point, independent bits, recognition network."""

from collections.abc import Sequence
from typing import Protocol

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.nn.functional import softplus

from guides._bits import IndependentBits, PointOfBits
from guides._encoders import mlp
from guides._rows import require_all_rows
from models._bernoulli import BernoulliVector


class BeliefParameters(Protocol):
    """What an E step reads: anything with these three attributes, such as the model itself."""

    W: Tensor  # (D, K)
    b: Tensor  # (K,)
    c: Tensor  # (D,)


class SigmoidBeliefNetworkMAP(PointOfBits):
    """q(h_n) = δ(h_n − h*_n): one state per row, a mode of p(h | v) over the corners {0, 1}^K.

    A point of a discrete space has entropy 0: its bound log p(v, h*) is a lower bound on the
    evidence, and log p(v) minus it is −log p(h* | v), the surprise at the state itself.

    `e_step` finds the state by iterated conditional modes: cause after cause takes the value of
    higher posterior probability given the others, until none changes. No single cause can then
    improve the state; two at once may.

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

    @torch.no_grad()
    def e_step(self, theta: BeliefParameters, v: Tensor, max_sweeps: int = 100) -> None:
        """Climb from the present state to a mode under `theta`; log p(v, h) never falls.

        Parameters
        ----------
        theta : BeliefParameters
        v : Tensor
            The guide's rows, shape (n, D).
        max_sweeps : int, default 100
            Passes over the causes, at most.
        """
        require_all_rows(v, None, self.num_rows)
        W, drive = theta.W, theta.b + v @ theta.W

        def log_odds(h: Tensor, i: int) -> Tensor:
            """Give what h_i gains in v, less what it costs in the normalisers."""
            others = h @ W.mT + theta.c - h[:, i, None] * W[:, i]
            return drive[:, i] - (softplus(others + W[:, i]) - softplus(others)).sum(1)

        self.climb(drive, log_odds, max_sweeps)


class SigmoidBeliefNetworkMeanField(IndependentBits):
    """q(h_n) = ∏_i Bernoulli(ĥ_ni), ĥ = σ(logits): independent causes, set row by row.

    At an optimum a logit is the mean, over the other causes under q, of that cause's posterior log
    odds given them. The mean of a log of a sigmoid has no closed form: enumerate
    (``TraceEnum_ELBO``), or draw.

    Parameters
    ----------
    num_rows, num_units : int
        n and K.

    Attributes
    ----------
    h_logits : Tensor
        log ĥ / (1 − ĥ), shape (n, K), real. Initially 0: every cause on with probability ½.
    """


class SigmoidBeliefNetworkAmortized(PyroModule):
    """q(h | v) = ∏_i Bernoulli(σ(f(v)_i)): the recognition half of a Helmholtz machine.

    Without hidden layers f is linear, as in the original. That is exact where no two causes touch
    the same feature, since v enters the posterior's log odds linearly; elsewhere it has mean
    field's gap and an amortisation gap on top.

    Parameters
    ----------
    num_features, num_units : int
        D and K.
    hidden : sequence of int, default ()
        Widths of the hidden layers.

    Attributes
    ----------
    encoder : torch.nn.Sequential
        f, from (n, D) to (n, K). Initially torch's default, by the global seed.

    References
    ----------
    Hinton, Dayan, Frey and Neal (1995), doi:10.1126/science.7761831.
    """

    def __init__(self, num_features: int, num_units: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.num_features, self.num_units = num_features, num_units
        self.hidden = tuple(hidden)
        self.encoder = mlp(num_features, hidden, num_units)

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            return {"h": pyro.sample("h", BernoulliVector(self.encoder(v)))}
