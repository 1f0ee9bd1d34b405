"""Folders of shards for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ("a", "b", "c")


def write_shards(
    folder: Path,
    sizes: Sequence[int] = (40, 25, 38),
    *,
    row_group_size: int = 10,
    columns: Sequence[str] = COLUMNS,
    seed: int = 0,
) -> np.ndarray:
    """Write a folder of shards and give its rows; the first column numbers them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(seed).normal(size=(sum(sizes), len(columns)))
    rows[:, 0] = np.arange(len(rows))
    start = 0
    for i, size in enumerate(sizes):
        frame = pd.DataFrame(rows[start : start + size], columns=list(columns))
        frame.to_parquet(folder / f"part-{i}.parquet", row_group_size=row_group_size)
        start += size
    return rows
