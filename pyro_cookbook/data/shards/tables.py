"""The rows held out of shards, as a table: standardised as the rows that are fitted."""

import numpy as np
import pandas as pd
import torch

from pyro_cookbook.data.errors import InputError, listed
from pyro_cookbook.data.intake.schema import Column, Schema
from pyro_cookbook.data.intake.understood import Understood
from pyro_cookbook.data.shards.moments import Moments
from pyro_cookbook.data.shards.shards import Shards
from pyro_cookbook.data.tables import Table


def held_out_table(shards: Shards, moments: Moments) -> Table:
    """Give the rows held out as a table, with mean and sd of the rows to fit.

    Raises
    ------
    InputError
        Naming the columns that are constant in the rows to fit.
    """
    largest = torch.maximum(moments.smallest.abs(), moments.largest.abs())
    flat = (moments.scale <= 1e-12 * largest).tolist()
    bad = [repr(name) for name, one in zip(shards.columns, flat, strict=True) if one]
    if bad:
        told = f"column {bad[0]} is" if len(bad) == 1 else f"columns {listed(bad)} are"
        raise InputError(f"{shards.folder}: {told} constant; name the others (--columns)")
    raw = shards.held_out_rows().double()
    schema = Schema(
        columns=tuple(Column(name=name, kind="number") for name in shards.columns),
        loc=tuple(moments.loc.tolist()),
        scale=tuple(moments.scale.tolist()),
    )
    return Table(
        name=shards.folder.name,
        v=(raw - moments.loc) / moments.scale,
        raw=raw,
        columns=shards.columns,
        loc=moments.loc,
        scale=moments.scale,
        labels=(),
        source=str(shards.folder),
        frame=pd.DataFrame(raw.numpy(), columns=list(shards.columns)),
        rows=np.arange(len(raw)),
        schema=schema,
        understood=Understood(
            (shards.told, "bound, verdict and numbers are of the rows held out"),
            _described(shards, moments),
        ),
    )


def _described(shards: Shards, moments: Moments) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "column": list(shards.columns),
            "kind": "number",
            "smallest": moments.smallest.numpy(),
            "largest": moments.largest.numpy(),
            "mean": moments.loc.numpy(),
            "sd": moments.scale.numpy(),
            "levels": np.nan,
            "missing": 0,
        }
    )
