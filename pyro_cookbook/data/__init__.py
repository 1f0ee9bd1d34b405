"""Data: tables of the reader's and ours, and what is made from them."""

from pyro_cookbook.data.bundled import NAMES, load
from pyro_cookbook.data.tables import InputError, Table, read, standardise

__all__ = ["NAMES", "InputError", "Table", "load", "read", "standardise"]
