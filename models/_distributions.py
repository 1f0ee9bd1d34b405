"""Distributions that the models and their guides share and that torch lacks or gets wrong."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch


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
