"""Guides for `models.binary_sparse_coding`: point, independent bits, encoder."""

from collections.abc import Sequence
from typing import Protocol

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from guides._bits import IndependentBits, PointOfBits
from guides._encoders import mlp
from guides._rows import require_all_rows
from models._bernoulli import BernoulliVector


class SparseCodingParameters(Protocol):
    """What an E step reads: anything with these three attributes, such as the model itself."""

    W: Tensor  # (D, K)
    b: Tensor  # (K,)
    scale: Tensor  # (), positive


class BinarySparseCodingMAP(PointOfBits):
    """q(h_n) = δ(h_n − h*_n): one state per row, a mode of p(h | v) over the corners {0, 1}^K.

    A point of a discrete space has entropy 0: its bound log p(v, h*) is a lower bound on the
    evidence, and log p(v) minus it is −log p(h* | v), the surprise at the state itself.

    `e_step` finds the state by iterated conditional modes: switch after switch takes the value of
    higher posterior probability given the others, until none changes. No single switch can then
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
    def e_step(self, theta: SparseCodingParameters, v: Tensor, max_sweeps: int = 100) -> None:
        """Climb from the present state to a mode under `theta`; log p(v, h) never falls.

        Parameters
        ----------
        theta : SparseCodingParameters
        v : Tensor
            The guide's rows, shape (n, D).
        max_sweeps : int, default 100
            Passes over the switches, at most.
        """
        require_all_rows(v, None, self.num_rows)
        beta = theta.scale**-2
        gram = beta * theta.W.mT @ theta.W
        inhibition = gram - gram.diagonal().diag()
        drive = theta.b + beta * v @ theta.W - gram.diagonal() / 2
        self.climb(drive, lambda h, i: drive[:, i] - h @ inhibition[:, i], max_sweeps)


class BinarySparseCodingMeanField(IndependentBits):
    """q(h_n) = ∏_i Bernoulli(ĥ_ni), ĥ = σ(logits): independent switches.

    At an optimum the logits satisfy b_i + β vᵀW_:i − ½ β W_:iᵀW_:i − β Σ_{j≠i} W_:jᵀW_:i ĥ_j.
    Where the posterior says "either, but not both", q settles on one of the two: the bound has
    several local optima, and which one is reached depends on the start.

    Parameters
    ----------
    num_rows, num_units : int
        n and K.

    Attributes
    ----------
    h_logits : Tensor
        log ĥ / (1 − ĥ), shape (n, K), real. Initially 0: every switch on with probability ½.
    """


class BinarySparseCodingAmortized(PyroModule):
    """q(h | v) = ∏_i Bernoulli(σ(f(v)_i)): one pass of a network in place of the fixed point.

    Its family is the mean field's, so it has mean field's gap and an amortisation gap on top. It
    serves mini-batches and rows never seen. Train it with a learning rate of 0.01 or below and
    from several starts: in the first steps a unit may be switched off in every row, and a saturated
    unit has no gradient to come back by.

    Parameters
    ----------
    num_features, num_units : int
        D and K.
    hidden : sequence of int, default (64,)
        Widths of the hidden layers; without any, q is a logistic regression on v.

    Attributes
    ----------
    encoder : torch.nn.Sequential
        f, from (n, D) to (n, K). Initially torch's default, by the global seed.
    """

    def __init__(self, num_features: int, num_units: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.num_features, self.num_units = num_features, num_units
        self.hidden = tuple(hidden)
        self.encoder = mlp(num_features, hidden, num_units)

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            return {"h": pyro.sample("h", BernoulliVector(self.encoder(v)))}
