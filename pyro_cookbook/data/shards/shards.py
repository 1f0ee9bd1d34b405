"""`Shards`: a folder of Parquet files as rows for mini-batches."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_cookbook.data.errors import InputError
from pyro_cookbook.data.shards.moments import Moments, moments_of
from pyro_cookbook.data.shards.opening import open_layout
from pyro_cookbook.data.shards.reading import read_group, read_rows
from pyro_cookbook.data.shards.shuffling import shuffled

# The most rows that are held out: draws of all of them have to be in memory for a verdict.
MOST_HELD_OUT = 1000


class Shards:
    """A table too large for memory: a folder of Parquet files, read row group by row group.

    It stands where `pyro_cookbook.fit` takes data. A fit on it takes mini-batches of every row but
    those held out, which it is judged on.

    Parameters
    ----------
    folder : path
        Its files ``*.parquet``, in the order of their names, all with the same columns.
    columns : sequence of str, optional
        Those to read, in this order, all numbers. Default: all, the same in every file.
    outcome : str, optional
        The column that the others explain: model and guide are then called with x, shape (b, D−1),
        and y, shape (b,), else with v, shape (b, D).
    held_out : float or path, default 0.05
        Rows that are kept from the fit: a share, drawn at random, of at most 1000 rows; or a folder
        of other shards with these columns, of which at most 1000 rows are drawn.
    buffer : int, default 65_536
        Rows that are shuffled together, at least one row group. Memory holds two such buffers and a
        row group, whatever the folder's size.
    parts : int, optional
        Parts in which a mini-batch is computed, each with random numbers of its own. The numbers of
        a fit depend on the parts, not on how many processes compute them. Default: one for each
        process.
    seed : int, default 0
        Of which rows are held out.
    dtype : torch.dtype, default torch.float32

    Attributes
    ----------
    num_rows : int
        Rows to fit, counted in the files' footers: without those held out.
    columns : tuple of str
    num_shards : int
    fingerprint : str
        Digest of the footers and of what was asked for.

    Raises
    ------
    FileNotFoundError, InputError
        In one line with the file and the column: if a shard cannot be read, lacks a column or has
        it as another type, or a number here is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> from pathlib import Path
    >>> from pyro_cookbook import data
    >>> Path("walks").mkdir()
    >>> for i in range(2):
    ...     pd.DataFrame({"a": range(5), "b": range(5)}).to_parquet(f"walks/{i}.parquet")
    >>> shards = data.Shards("walks", held_out=0.2)
    >>> len(shards), shards.columns, shards.num_shards
    (8, ('a', 'b'), 2)
    >>> [len(rows) for rows in shards.batches(3, seed=0, epoch=0)]
    [3, 3, 2]
    """

    def __init__(
        self,
        folder: str | Path,
        columns: Sequence[str] | None = None,
        *,
        outcome: str | None = None,
        held_out: float | str | Path = 0.05,
        buffer: int = 65_536,
        parts: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check_counts(buffer=buffer, parts=parts)
        self.folder = Path(folder)
        self.layout = open_layout(self.folder, columns)
        self.columns, self.num_shards = self.layout.columns, self.layout.num_shards
        if outcome is not None and outcome not in self.columns:
            raise InputError(f"outcome: got {outcome!r}, expected one of {', '.join(self.columns)}")
        self.outcome, self.buffer, self.parts, self.dtype = outcome, buffer, parts, dtype
        self.loc: Tensor | None = None
        self.scale: Tensor | None = None
        self._moments: Moments | None = None
        self._held, self._without = self._hold_out(held_out, seed)
        left = [
            group.num_rows - len(self.layout.positions(self._without, group))
            for group in self.layout.groups
        ]
        self._groups = [one for one, num in zip(self.layout.groups, left, strict=True) if num]
        self._sizes = [num for num in left if num]
        self.num_rows = sum(self._sizes)

    def __len__(self) -> int:
        """Count the rows to fit."""
        return self.num_rows

    def __repr__(self) -> str:
        """Say what there is."""
        return f"Shards({self.told})"

    @property
    def told(self) -> str:
        """Rows, shards and rows held out, in words."""
        return (
            f"{_counted(self.num_rows, 'row')} and {_counted(len(self.columns), 'column')} in"
            f" {_counted(self.num_shards, 'shard')} of {self.folder.name};"
            f" {_counted(len(self._held), 'more row')} held out"
        )

    @property
    def fingerprint(self) -> str:
        """What tells these rows from others, and these numbers."""
        asked = (self.outcome, self.buffer, self._without.tolist(), str(self.dtype))
        unit = [] if self.loc is None or self.scale is None else [self.loc, self.scale]
        return f"{self.layout.fingerprint} {asked} {[one.tolist() for one in unit]}"

    def _hold_out(
        self, held_out: float | str | Path, seed: int
    ) -> tuple[Tensor, npt.NDArray[np.int64]]:
        """Read the rows held out; give them, and which of the folder's rows they are."""
        rng = np.random.default_rng(seed)
        none = np.empty(0, dtype=np.int64)
        if isinstance(held_out, str | Path):
            other = open_layout(Path(held_out), self.columns, like=self.layout)
            return read_rows(other, _drawn(rng, other.num_rows, MOST_HELD_OUT), self.dtype), none
        if not 0 < held_out < 1:
            raise InputError(
                f"held_out: got {held_out!r}, expected a share between 0 and 1, or a folder"
            )
        if self.layout.num_rows < 2:
            raise InputError(f"{self.folder}: it has one row; expected some to fit and to hold out")
        share = round(held_out * self.layout.num_rows)
        num = min(max(share, 1), MOST_HELD_OUT, self.layout.num_rows - 1)
        rows = _drawn(rng, self.layout.num_rows, num)
        return read_rows(self.layout, rows, self.dtype), rows

    def scaled(self, loc: Tensor, scale: Tensor) -> "Shards":
        """Give the same rows as (v − loc) / scale.

        Parameters
        ----------
        loc, scale : Tensor
            Of each column, shape (D,).
        """
        other = copy.copy(self)
        other.loc, other.scale = loc.to(self.dtype), scale.to(self.dtype)
        return other

    def moments(self) -> Moments:
        """Read every row to fit once, in the files' units, for its columns' ranges and moments."""
        if self._moments is None:
            self._moments = moments_of(map(self._read, range(len(self._groups))))
        return self._moments

    def arguments(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Give what model and guide are called with, for rows in the files' units."""
        if self.loc is not None and self.scale is not None:
            rows = (rows - self.loc) / self.scale
        if self.outcome is None:
            return (rows,)
        place = self.columns.index(self.outcome)
        return torch.cat([rows[:, :place], rows[:, place + 1 :]], 1), rows[:, place]

    def held_out(self) -> tuple[Tensor, ...]:
        """Give the rows held out, as model and guide are called with them."""
        return self.arguments(self._held)

    def held_out_rows(self) -> Tensor:
        """Give the rows held out in the files' units, shape (m, D)."""
        return self._held

    def batches(
        self, size: int, *, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the mini-batches of an epoch: every row once, the last one ragged.

        Parameters
        ----------
        size : int
            Rows of a mini-batch.
        seed, epoch : int
            Which order: the same for the same two.
        start : int, default 0
            Rows of the epoch that have been taken, a multiple of `size`: the position from which it
            goes on.

        Yields
        ------
        tuple of Tensor
            What model and guide are called with.
        """
        for rows in shuffled(
            self._sizes, self._read, size, buffer=self.buffer, seed=seed, epoch=epoch, start=start
        ):
            yield self.arguments(rows)

    def sample(self, num: int, seed: int) -> tuple[Tensor, ...]:
        """Draw rows to fit without replacement, in the order of the files.

        Parameters
        ----------
        num : int
            At most so many.
        seed : int
        """
        drawn = _drawn(np.random.default_rng(seed), self.num_rows, num)
        # From places among the rows to fit to places among all: those held out lie between.
        places = drawn + np.searchsorted(
            self._without - np.arange(len(self._without)), drawn, side="right"
        )
        return self.arguments(read_rows(self.layout, places, self.dtype))

    def _read(self, index: int) -> Tensor:
        group = self._groups[index]
        rows = read_group(group, self.columns, self.dtype)
        without = self.layout.positions(self._without, group)
        if not len(without):
            return rows
        kept = torch.ones(len(rows), dtype=torch.bool)
        kept[torch.from_numpy(without)] = False
        return rows[kept]


def _drawn(rng: np.random.Generator, num_rows: int, num: int) -> npt.NDArray[np.int64]:
    """Draw some of so many rows, sorted."""
    if num >= num_rows:
        return np.arange(num_rows)
    found: set[int] = set()
    while len(found) < num:  # by rejection: there may be billions to draw from
        found.update(rng.integers(num_rows, size=num - len(found)).tolist())
    return np.array(sorted(found), dtype=np.int64)


def _counted(num: int, what: str) -> str:
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name}: got {value!r}, expected a whole number of at least 1")
