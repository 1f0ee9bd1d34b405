"""Models whose posteriors are known, for measuring how often a verdict on a fit is right.

About half are what people fit every day, on which a Gaussian in unconstrained space is decent;
the others have funnels, heavy tails, several modes or edges. ``ZOO[name]`` is an `Entry`; by these
the limits of the verdict were set. ``HELD_OUT`` has the models that came later. They are written
as readers write theirs, so a number such as ``0.0`` takes torch's default dtype: set it to
float64, as the data are.
"""

from . import (
    conjugates,
    dynamics,
    glms,
    held_out,
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
HELD_OUT: dict[str, Entry] = {entry.name: entry for entry in held_out.ENTRIES}
MODELS = ZOO | HELD_OUT

__all__ = ["HELD_OUT", "MODELS", "ZOO", "Entry"]
