"""Data: tables of the reader's and ours, and what is made from them."""

from pyro_cookbook.data.bundled import NAMES, load
from pyro_cookbook.data.collinearity import collinear_columns, collinear_sets
from pyro_cookbook.data.cutting import read_patches
from pyro_cookbook.data.errors import InputError, did_you_mean, listed
from pyro_cookbook.data.intake.recognise import Recognised, recognise
from pyro_cookbook.data.intake.schema import Schema
from pyro_cookbook.data.intake.understood import Understood
from pyro_cookbook.data.shards.shards import Shards
from pyro_cookbook.data.tables import Table, read, standardise

__all__ = [
    "NAMES",
    "InputError",
    "Recognised",
    "Schema",
    "Shards",
    "Table",
    "Understood",
    "collinear_columns",
    "collinear_sets",
    "did_you_mean",
    "listed",
    "load",
    "read",
    "read_patches",
    "recognise",
    "standardise",
]
