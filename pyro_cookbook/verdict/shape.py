"""Which shape a posterior has that a guide does not follow: a stretched Gaussian, or another?

The score, ∇ log p, of a Gaussian is linear in the latents, however stretched and tilted it is. What
part of it is not linear, and at which latent, tells a funnel from a strong correlation.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Fewer draws for each latent do not tell a curve from noise.
_DRAWS_EACH = 4
# Up to this share of the score may be curved where a Gaussian is said to follow.
MAX_CURVED = 0.2


class Curved(NamedTuple):
    """The latent whose score is least linear.

    Attributes
    ----------
    site : str
    share : float
        Share of the variance of its score that no linear function of all latents has: its Fisher
        divergence from the nearest Gaussian, as a share of that from a constant.
    """

    site: str
    share: float

    @property
    def is_gaussian(self) -> bool:
        """Whether some Gaussian in these coordinates follows."""
        return self.share <= MAX_CURVED

    def __str__(self) -> str:
        """Say what was measured."""
        if self.is_gaussian:
            return (
                f"the score is linear in the latents (all but {self.share:.0%} of it), so that the"
                " posterior is a stretched Gaussian"
            )
        return (
            f"the score at {self.site!r} is not linear in the latents ({self.share:.0%} of it is"
            " not): no Gaussian in these coordinates follows"
        )


def are_enough(draws: Array) -> bool:
    """Whether draws, shape (S, D), tell a curved score from noise."""
    return bool(len(draws) >= _DRAWS_EACH * (draws.shape[1] + 1))


def most_curved(draws: Array, scores: Array, labels: list[str]) -> Curved | None:
    """Find where the score is least linear.

    Parameters
    ----------
    draws, scores : array, shape (S, D)
        Points near the posterior, and the gradient of the log density there.
    labels : list of str
        Names of the D entries: a site, with an index where it has several.

    Returns
    -------
    Curved or None
        None where there are too few draws, or scores that are not finite.
    """
    fine = np.isfinite(scores).all(1)
    draws, scores = draws[fine], scores[fine]
    shares = curved_shares(draws, scores)
    if not shares.size:
        return None
    worst = int(shares.argmax())
    return Curved(labels[worst].partition("[")[0], float(shares[worst]))


def curved_shares(draws: Array, scores: Array) -> Array:
    """Compute the share of each score's variance that is not linear; shape (D,), or (0,).

    Both are unbiased for the numbers of coefficients that are fitted.
    """
    num, dim = draws.shape
    spread = draws.std(0) if num else np.zeros(dim)
    if not are_enough(draws) or (spread == 0).any():
        return np.zeros(0)
    design = np.column_stack([np.ones(num), (draws - draws.mean(0)) / spread])
    residuals = scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    total = scores.var(0, ddof=1)
    curved = (residuals**2).sum(0) / (num - dim - 1)
    return np.where(total > 0, curved / np.where(total > 0, total, 1.0), 0.0)
