"""Data: tables of the reader's and ours, and what is made from them."""

from pyro_cookbook.data.bundled import NAMES, load
from pyro_cookbook.data.collinearity import collinear_columns, collinear_sets
from pyro_cookbook.data.tables import InputError, Table, read, read_frame, standardise

__all__ = [
    "NAMES",
    "InputError",
    "Table",
    "collinear_columns",
    "collinear_sets",
    "load",
    "read",
    "read_frame",
    "standardise",
]
