"""Row groups as tensors: read one at a time, every entry checked."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from pyro_cookbook.data.errors import InputError, one_line
from pyro_cookbook.data.shards.opening import Group, Layout


def read_group(group: Group, columns: Sequence[str], dtype: torch.dtype) -> Tensor:
    """Read a row group.

    Parameters
    ----------
    group : Group
    columns : sequence of str
    dtype : torch.dtype

    Returns
    -------
    Tensor
        Shape (num_rows, D).

    Raises
    ------
    InputError
        If the file cannot be read or has changed, or an entry is missing or not finite: the file,
        the row and the column.
    MemoryError
        If the row group has no room.
    """
    try:
        with parquet.ParquetFile(group.path) as file:
            table = file.read_row_group(group.index, columns=list(columns), use_threads=False)
    except pa.ArrowMemoryError:  # the file is as it should be
        raise
    except (OSError, pa.ArrowException, IndexError) as error:
        raise InputError(
            f"{group.path}: row group {group.index} is not readable: {one_line(error)}; expected"
            " the file as it was written"
        ) from error
    if table.num_rows != group.num_rows:
        raise InputError(f"{group.path}: it has changed since it was opened")
    rows = torch.empty(group.num_rows, len(columns), dtype=dtype)
    for place, name in enumerate(columns):
        column = table.column(name)
        if column.null_count:
            _refuse(group, np.asarray(column.is_null()), name, "missing")
        rows[:, place] = torch.from_numpy(np.array(column.to_numpy()))
    finite = torch.isfinite(rows)
    if not bool(finite.all()):
        place = int((~finite).any(0).nonzero()[0])
        _refuse(group, ~finite[:, place].numpy(), columns[place], f"not finite as {dtype}")
    return rows


def _refuse(group: Group, bad: npt.NDArray[np.bool_], column: str, what: str) -> None:
    row = int(np.flatnonzero(bad)[0])
    raise InputError(
        f"{group.path}: column {column!r} is {what} in row {group.first + row} (from 0; row {row}"
        f" of row group {group.index}); expected numbers without gaps"
    )


def read_rows(layout: Layout, rows: npt.NDArray[np.int64], dtype: torch.dtype) -> Tensor:
    """Read some rows, from the row groups that have any of them.

    Parameters
    ----------
    layout : Layout
    rows : array of int
        Sorted, counted over all shards.
    dtype : torch.dtype

    Returns
    -------
    Tensor
        Shape (len(rows), D), in that order.
    """
    found = torch.empty(len(rows), len(layout.columns), dtype=dtype)
    done = 0
    for group in layout.groups:
        inside = layout.positions(rows, group)
        if len(inside):
            block = read_group(group, layout.columns, dtype)
            found[done : done + len(inside)] = block[torch.from_numpy(inside)]
            done += len(inside)
    return found
