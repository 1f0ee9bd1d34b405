"""Data: tables of the reader's and ours, and what is made from them."""

from pyro_cookbook.data.tables import NAMES, Table, load, read, standardise

__all__ = ["NAMES", "Table", "load", "read", "standardise"]
