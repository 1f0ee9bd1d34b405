"""The reader's units: columns standardised for the algorithms, and put back in what is reported."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyro_cookbook.data import InputError

Array = npt.NDArray[np.float64]

# Below this share of its largest entry a column's sd is rounding: the limit of tables as well.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Units:
    """The affine map from the reader's units to standardised ones: z = (x − loc) / scale.

    Attributes
    ----------
    loc : array, shape (D,)
    scale : array, shape (D,)
        Positive; 1 for a constant column, which standardised is 0.
    """

    loc: Array
    scale: Array

    def standardise(self, x: Array) -> Array:
        """Map rows, shape (n, D), to standardised ones."""
        return np.asarray((x - self.loc) / self.scale, dtype=np.float64)

    def restore(self, z: Array) -> Array:
        """Map standardised rows, shape (n, D), to the reader's units."""
        return np.asarray(z * self.scale + self.loc, dtype=np.float64)

    @property
    def log_volume(self) -> float:
        """Σ log scale: log p(x) = log p(z) − this, in nats a row."""
        return float(np.log(self.scale).sum())


def measure_units(
    x: Array,
    names: Sequence[str],
    *,
    common: bool = False,
    allow_constant: bool = True,
    argument: str = "X",
) -> Units:
    """Take the mean and sd of each column.

    Parameters
    ----------
    x : array, shape (n, D)
    names : sequence of str
        What to call the columns in an error.
    common : bool, default False
        One scale for all columns, the root of their mean variance: distances keep their shape.
    allow_constant : bool, default True
        Whether a column may be constant.
    argument : str, default "X"
        What to call the rows in an error.

    Raises
    ------
    InputError
        If a column is too large to have an sd, or is constant where it may not be: where a density
        is fitted its likelihood has no bound.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        loc, scale = x.mean(0), x.std(0)
    for name, spread in zip(names, scale, strict=True):
        if not np.isfinite(spread):
            raise InputError(
                f"{argument}: column {name!r} has entries too large to square; change its units"
            )
    constant = scale <= _ROUNDING * np.abs(x).max(0)
    if constant.any() and not allow_constant:
        raise InputError(
            f"{argument}: column {names[int(constant.argmax())]!r} is constant, and a density on it"
            " has no bound; leave it out, or put VarianceThreshold() before in a Pipeline"
        )
    scale = np.where(constant, 0.0, scale)
    if common:
        overall = np.sqrt(np.square(scale).mean())
        return Units(loc, np.full_like(scale, overall or 1.0))
    return Units(loc, np.where(constant, 1.0, scale))
