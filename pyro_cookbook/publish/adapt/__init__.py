"""Take a recipe home: a small project that stands on its own."""

from pyro_cookbook.publish.adapt.asked import adapt_as_asked
from pyro_cookbook.publish.adapt.project import adapt

__all__ = ["adapt", "adapt_as_asked"]
