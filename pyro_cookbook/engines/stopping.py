"""When to stop: has a noisy ELBO stopped rising?

Single estimates of the bound are too noisy to tell. Where the parameters stood on average, now and
some time ago, is compared on the same draws and the same rows instead: what is common to both
cancels, and what is left is the rise.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# What is said of a fit that ran out of steps without a rise in sight.
HIDDEN = "the noise hides a rise"
# A window is cut into this many blocks; the parameters' means over them are nearly independent.
NUM_BLOCKS = 8


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
    noise : float
        The part of the error that more estimates of the ELBO make smaller.
    """

    rise: float
    se: float
    num_steps: int
    noise: float = 0.0

    def has_stopped(self, tol: float) -> bool:
        """Say whether a rise above `tol` is ruled out, at two standard errors, and no fall is seen.

        One that is hidden by errors above `tol` is not ruled out by the luck of a low estimate.
        """
        small = self.se < tol and self.rise + 2 * self.se < tol
        return small and not self.is_falling(tol)

    def would_rise(self, num_steps: int, tol: float) -> bool:
        """Say whether a rise that is seen adds up to more than `tol` in so many steps more."""
        more = 2 * self.rise * num_steps / self.num_steps
        return self.rise > 3 * self.se and more > tol

    def is_rising(self, tol: float) -> bool:
        """Say whether a rise above `tol` is seen through the noise."""
        return self.rise > max(tol, 3 * self.se)

    def is_falling(self, tol: float) -> bool:
        """Say whether a fall by more than `tol` is seen through the noise."""
        return -self.rise > max(tol, 3 * self.se)

    def __str__(self) -> str:
        """Give rise, error and window."""
        return f"ELBO rose by {self.rise:.2g} ± {self.se:.2g} nats over {self.num_steps} steps"


def trend(elbos: npt.ArrayLike, num_steps: int) -> Trend:
    """Fit a line to the ELBO at the blocks' parameters.

    Parameters
    ----------
    elbos : array_like, shape (K, B)
        Estimates of the ELBO at the mean parameters of B ≥ 3 blocks, one after the other. Each of
        the K rows is of the same draws and the same data in all blocks.
    num_steps : int
        Steps from the first block's beginning to the last one's end.

    Returns
    -------
    Trend
        Slope times half a window. Its standard error has two parts: the blocks' scatter about the
        line, as the parameters wander at a given learning rate, and the noise of the K estimates.
    """
    values = np.asarray(elbos, dtype=float)
    num, blocks = values.shape
    time = np.arange(blocks) - (blocks - 1) / 2
    spread = float(time @ time)
    slopes = values @ time / spread
    means = values.mean(0)
    residuals = means - means.mean() - slopes.mean() * time
    scatter = float(residuals @ residuals) / (blocks - 2) / spread
    noise = float(slopes.var(ddof=1)) / num if num > 1 else 0.0
    half = blocks / 2
    rise, se = half * float(slopes.mean()), half * float(np.sqrt(scatter + noise))
    return Trend(rise, se, num_steps, half * float(np.sqrt(noise)))


def looks(length: int, shortest: int) -> list[int]:
    """Choose the steps of a stage after which it is considered whether to end it.

    Each window is the second half of the stage so far, and twice as long as the one before: many
    looks at the same noise would find one by luck at which it does not rise.

    Parameters
    ----------
    length : int
        Steps that the stage may have; the last look is there.
    shortest : int
        The first look is not before.
    """
    found = [length]
    while found[0] // 2 >= shortest:
        found.insert(0, found[0] // 2)
    return found


class Blocks:
    """Means of parameters over each block of a window."""

    def __init__(self) -> None:
        self.sums: list[dict[str, Tensor]] = []
        self.counts: list[int] = []

    def add(self, params: Mapping[str, Tensor], step: int, look: int) -> None:
        """Count the parameters after a step of the stage, the first is 1, before a look."""
        begin = look // 2
        if step <= begin:
            return
        block = (step - begin - 1) * NUM_BLOCKS // (look - begin)
        with torch.no_grad():
            if block >= len(self.sums):
                self.sums.append({name: p.detach().clone() for name, p in params.items()})
                self.counts.append(1)
                return
            for name, value in params.items():
                self.sums[-1][name].add_(value.detach())
        self.counts[-1] += 1

    def means(self) -> list[dict[str, Tensor]]:
        """Give the mean parameters of every block."""
        return [
            {name: total / count for name, total in sums.items()}
            for sums, count in zip(self.sums, self.counts, strict=True)
        ]

    def clear(self) -> None:
        """Forget them: another window begins."""
        self.sums, self.counts = [], []


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
