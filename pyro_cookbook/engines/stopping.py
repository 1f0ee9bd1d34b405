"""When to stop: has a noisy ELBO stopped rising?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A window is cut into this many batches; their means are nearly independent.
NUM_BATCHES = 20


@dataclass(frozen=True)
class Trend:
    """Rise of the ELBO over a window of steps.

    Attributes
    ----------
    rise : float
        How much the fitted line rises from one half of the window to the other, in nats.
    se : float
        Its standard error.
    num_steps : int
        Length of the window.
    """

    rise: float
    se: float
    num_steps: int

    def has_stopped(self, tol: float) -> bool:
        """Say whether a rise above `tol` is ruled out (at two standard errors).

        A rise hidden in the noise is not ruled out: the window must grow until it is.
        """
        return self.rise + 2 * self.se < tol

    def __str__(self) -> str:
        """Give rise, error and window."""
        return f"ELBO rose by {self.rise:.2g} ± {self.se:.2g} nats over {self.num_steps} steps"


def trend(losses: npt.ArrayLike) -> Trend:
    """Fit a line to batch means of the losses.

    Parameters
    ----------
    losses : array_like
        −ELBO at successive steps, shape (n,), n ≥ 40. The oldest n mod 20 are left out.

    Returns
    -------
    Trend
        Slope times half a window, with the standard error from the residuals of the batch means.
        Means of batches forgive the short memory of the optimiser and of mini-batch epochs.

    Raises
    ------
    ValueError
        If there are fewer than 40 losses.
    """
    values = np.asarray(losses, dtype=float)
    if len(values) < 2 * NUM_BATCHES:
        raise ValueError(f"losses: got {len(values)} values, expected at least {2 * NUM_BATCHES}")
    size = len(values) // NUM_BATCHES
    means = -values[-size * NUM_BATCHES :].reshape(NUM_BATCHES, size).mean(1)
    time = np.arange(NUM_BATCHES) - (NUM_BATCHES - 1) / 2
    spread = float(time @ time)
    slope = float(time @ means) / spread
    residuals = means - means.mean() - slope * time
    se = np.sqrt(float(residuals @ residuals) / (NUM_BATCHES - 2) / spread)
    half = NUM_BATCHES / 2
    return Trend(rise=half * slope, se=float(half * se), num_steps=size * NUM_BATCHES)


@dataclass(frozen=True)
class Fall:
    """How far the ELBO has ended below its best.

    Attributes
    ----------
    nats, se : float
        Best mean of a block of steps minus the mean of the last block, and its standard error.
    step : int
        Where the best block ends.
    """

    nats: float
    se: float
    step: int

    def is_real(self, tol: float) -> bool:
        """Say whether it is more than `tol` and the noise: the best of many blocks is lucky."""
        return self.nats - 4 * self.se > tol


def fall(losses: npt.ArrayLike, size: int = 100) -> Fall:
    """Compare the last steps with the best ones.

    Parameters
    ----------
    losses : array_like
        −ELBO at successive steps, shape (n,).
    size : int, default 100
        Steps in a block; less where there are fewer than two blocks.

    Returns
    -------
    Fall
    """
    values = np.asarray(losses, dtype=float)
    size = max(1, min(size, len(values) // 2))
    blocks = values[len(values) % size :].reshape(-1, size)
    means, variances = blocks.mean(1), blocks.var(1) / size
    best = int(means.argmin())
    se = float(np.sqrt(variances[best] + variances[-1]))
    return Fall(float(means[-1] - means[best]), se, len(values) % size + (best + 1) * size)
