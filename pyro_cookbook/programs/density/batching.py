"""Distributions as vmap can follow them."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


@contextmanager
def batchable() -> Iterator[None]:
    """Let vmap follow distributions that write into tensors of their own, for a block.

    The formulas are Pyro's and torch's, without the assignments and branches that vmap refuses.
    Draws are of the same laws, not the same numbers, and have no gradient where a Dirichlet's are.
    """
    kept = [(owner, name, owner.__dict__[name]) for owner, name, _ in _BATCHABLE]
    try:
        for owner, name, function in _BATCHABLE:
            setattr(owner, name, function)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def _init_ordered_logistic(
    self: Any, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None
) -> None:
    below = torch.sigmoid(cutpoints - predictor.unsqueeze(-1))
    self.predictor = predictor.expand(below.shape[:-1])
    self.cutpoints = cutpoints.expand(below.shape)
    first, last = torch.zeros_like(below[..., :1]), torch.ones_like(below[..., :1])
    probs = torch.cat([first, below, last], -1).diff(dim=-1)
    super(dist.OrderedLogistic, self).__init__(probs, validate_args=validate_args)


def _multinomial_log_prob(self: Any, value: Tensor) -> Tensor:
    logits, value = torch.broadcast_tensors(self.logits, value)
    absent = (value == 0) & (logits == -torch.inf)
    terms = torch.where(absent, 0.0, logits).mul(value) - torch.lgamma(value + 1)
    return torch.lgamma(value.sum(-1) + 1) + terms.sum(-1)


def _standard_normal(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device)


def _uniform(like: Tensor, shape: torch.Size) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device)


def _cauchy(self: Any, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
    uniform = _uniform(self.loc, self._extended_shape(sample_shape))
    drawn: Tensor = self.loc + self.scale * torch.tan(torch.pi * (uniform - 0.5))
    return drawn


def _exponential(self: Any, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
    uniform = _uniform(self.rate, self._extended_shape(sample_shape))
    drawn: Tensor = -torch.log1p(-uniform) / self.rate
    return drawn


class _Dirichlet:
    """Draws without the gradient, for which vmap has no rule."""

    @staticmethod
    def apply(concentration: Tensor) -> Tensor:
        return torch._sample_dirichlet(concentration)


# A class or module, the name of what it has, and what takes its place.
_BATCHABLE: tuple[tuple[Any, str, Any], ...] = (
    (dist.OrderedLogistic, "__init__", _init_ordered_logistic),
    (torch.distributions.Multinomial, "log_prob", _multinomial_log_prob),
    (torch.distributions.Cauchy, "rsample", _cauchy),
    (torch.distributions.Exponential, "rsample", _exponential),
    (sys.modules["torch.distributions.dirichlet"], "_Dirichlet", _Dirichlet),
    *(
        (sys.modules[f"torch.distributions.{name}"], "_standard_normal", _standard_normal)
        for name in ("normal", "multivariate_normal", "lowrank_multivariate_normal", "studentT")
    ),
)
