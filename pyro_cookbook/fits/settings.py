"""Facts of the engines that are asked for downstream of a fit."""

from pyro_cookbook.engines.bound import MAX_FULL_RANK
from pyro_cookbook.engines.deterministic import DETERMINISTIC, flat_density
from pyro_cookbook.engines.families import is_named, num_latents

__all__ = ["DETERMINISTIC", "MAX_FULL_RANK", "flat_density", "is_named", "num_latents"]
