"""Vectors of independent bits, with all their states as support."""

import pyro.distributions as dist
import torch
from torch import Tensor

# 2^20 states are a million rows; more is a mistake rather than a wish.
MAX_UNITS = 20


def all_states(num_units: int) -> Tensor:
    """Every vector of K bits, as rows of 0 and 1: shape (2^K, K), counting up from 0.

    Raises
    ------
    ValueError
        If there are more than 2^20 of them.
    """
    if not 1 <= num_units <= MAX_UNITS:
        raise ValueError(
            f"num_units: got {num_units}, expected 1 to {MAX_UNITS} to enumerate 2^num_units states"
        )
    powers = torch.arange(num_units - 1, -1, -1)
    return (torch.arange(2**num_units)[:, None] >> powers) & 1


class BernoulliVector(dist.Independent):
    """K independent bits as one event, which ``TraceEnum_ELBO`` can sum over.

    ``Bernoulli(...).to_event(1)`` is the same distribution, but refuses to list its support. This
    one lists all 2^K states, so it is for few units.

    Parameters
    ----------
    logits : Tensor
        log p / (1 − p) of every bit, shape (..., K), real.
    """

    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(dist.Bernoulli(logits=logits, validate_args=validate_args), 1)

    @property
    def logits(self) -> Tensor:
        """Log odds of every bit, shape (..., K)."""
        return self.base_dist.logits

    def expand(
        self, batch_shape: torch.Size, _instance: "BernoulliVector | None" = None
    ) -> "BernoulliVector":
        """Broadcast to `batch_shape`, keeping this class."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return BernoulliVector(logits, validate_args=self.base_dist._validate_args)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All states, shape (2^K, 1, ..., 1, K), or (2^K, ..., K) if `expand`."""
        states = all_states(self.event_shape[0]).to(self.logits)
        states = states.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return states.expand(-1, *self.batch_shape, -1) if expand else states
