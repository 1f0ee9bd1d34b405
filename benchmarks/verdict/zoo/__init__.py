"""Models whose posteriors are known, for measuring how often a verdict on a fit is right.

About half are what people fit every day, on which a Gaussian in unconstrained space is decent;
the others have funnels, heavy tails, several modes or edges. ``ZOO[name]`` is an `Entry`. The
models are written as readers write theirs, so a number such as ``0.0`` takes torch's default
dtype: set it to float64, as the data are.
"""

from . import (
    conjugates,
    dynamics,
    glms,
    hierarchical,
    latent_columns,
    mixtures,
    oddities,
    processes,
    regressions,
    time_series,
)
from .entry import Entry

_ROOMS = (
    regressions,
    glms,
    hierarchical,
    latent_columns,
    time_series,
    dynamics,
    mixtures,
    processes,
    conjugates,
    oddities,
)

ZOO: dict[str, Entry] = {entry.name: entry for room in _ROOMS for entry in room.ENTRIES}

__all__ = ["ZOO", "Entry"]
