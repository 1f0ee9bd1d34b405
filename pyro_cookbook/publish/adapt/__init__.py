"""Take a recipe home: a small project that stands on its own."""

from pyro_cookbook.publish.adapt.project import adapt, asked_table

__all__ = ["adapt", "asked_table"]
