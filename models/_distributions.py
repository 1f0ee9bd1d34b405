"""Distributions that the models and their guides share and that torch lacks or gets wrong."""

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, one_hot


class Wishart(dist.Wishart):
    """Wishart distribution over positive-definite matrices, sampled by Bartlett's decomposition.

    torch's own ``rsample`` tests for *regular* draws where it means singular ones, so it warns and
    redraws every time. With ``df`` of at least the dimension a singular draw has probability zero,
    and the first draw is the right one.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draw ``L A Aᵀ Lᵀ``: χ on the diagonal of A, standard normals below it."""
        return self._bartlett_sampling(torch.Size(sample_shape))

    def expand(self, batch_shape: torch.Size, _instance: "Wishart | None" = None) -> "Wishart":
        """Broadcast to `batch_shape`, keeping this class."""
        new = self._get_checked_instance(Wishart, _instance)
        return super().expand(batch_shape, new)


class OrderedLogistic(dist.TorchDistribution):
    """Categories 0 to C − 1 in an order: P(y ≤ j) = σ(κ_{j+1} − η).

    Pyro's own class of this name computes the probabilities of all categories, and loses those of
    the last ones to rounding. This one computes the log probability of the category that is there,
    by σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b − a)).

    Parameters
    ----------
    predictor : Tensor
        η, shape (n,), or (particles, n).
    cutpoint : Tensor
        κ, increasing, shape (C − 1,), or (particles, 1, C − 1).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    # So far out that no category lies beyond, and finite: ∞ − ∞ has no derivative.
    _FAR = 1e6

    def __init__(
        self, predictor: torch.Tensor, cutpoint: torch.Tensor, validate_args: bool | None = None
    ) -> None:
        self.predictor, self.cutpoint = predictor, cutpoint
        # Of the sum, since torch.broadcast_shapes imports sympy, half a second.
        batch = (predictor + cutpoint[..., 0]).shape
        super().__init__(batch, torch.Size(), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 to C − 1."""
        return constraints.integer_interval(0, self.cutpoint.shape[-1])

    def expand(
        self, batch_shape: Sequence[int], _instance: "OrderedLogistic | None" = None
    ) -> "OrderedLogistic":
        """Broadcast to `batch_shape`, keeping this class."""
        shape = torch.Size(batch_shape)
        return OrderedLogistic(self.predictor.expand(shape), self.cutpoint, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Count the cutpoints below a logistic draw about η."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            noise = torch.rand(shape, dtype=self.predictor.dtype, device=self.predictor.device)
            latent = self.predictor + torch.logit(noise, eps=1e-12)
            return (latent[..., None] > self.cutpoint).sum(-1).to(self.predictor.dtype)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log probability of categories, shape of the batch."""
        last = self.cutpoint.shape[-1]
        at = value.long()
        above = self._cut(at) + self._FAR * (at == last) - self.predictor
        below = self._cut(at - 1) - self._FAR * (at == 0) - self.predictor
        gap = (-(below - above).expm1()).log()
        return logsigmoid(above) + logsigmoid(-below) + gap

    def _cut(self, index: torch.Tensor) -> torch.Tensor:
        """κ at an index for each row, 0 where there is none: one product for all draws of κ."""
        last = self.cutpoint.shape[-1]
        there = (index >= 0) & (index < last)
        which = one_hot(index.clamp(0, last - 1), last) * there[..., None]
        which = which.to(self.cutpoint.dtype)
        if index.dim() > 1:
            return (which * self.cutpoint).sum(-1)
        found = self.cutpoint @ which.mT
        return found.squeeze(-2) if self.cutpoint.dim() > 1 else found
