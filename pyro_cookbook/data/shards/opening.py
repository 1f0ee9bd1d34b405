"""What the footers of a folder's Parquet files say: columns, rows, row groups."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from pyro_cookbook.data.errors import InputError, did_you_mean, listed, one_line

_ENDINGS = (".parquet", ".pq")
_MARK, _SMALLEST = b"PAR1", 12  # a Parquet file begins and ends so; the footer's length is 4 bytes


@dataclass(frozen=True)
class Group:
    """A row group of a shard.

    Attributes
    ----------
    path : Path
        Of the shard.
    index : int
        Which row group of it.
    start, num_rows : int
        Its first row, counted over all shards, and how many it has.
    first : int
        Its first row, counted in its shard.
    """

    path: Path
    index: int
    start: int
    num_rows: int
    first: int


@dataclass(frozen=True)
class Layout:
    """A folder of shards that all have the same columns.

    Attributes
    ----------
    columns : tuple of str
        Those that are read, in order.
    kinds : tuple of str
        Their types in the files.
    groups : tuple of Group
        In the order of the files' names.
    num_shards, num_rows : int
    fingerprint : str
        Digest of all footers: sizes, types, places and statistics of every column.
    """

    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: tuple[Group, ...]
    num_shards: int
    num_rows: int
    fingerprint: str

    def positions(self, rows: npt.NDArray[np.int64], group: Group) -> npt.NDArray[np.int64]:
        """Give those of some sorted rows that lie in a group, counted from its first."""
        low, high = np.searchsorted(rows, [group.start, group.start + group.num_rows])
        return rows[low:high] - group.start


def shards_in(folder: Path) -> list[Path]:
    """List the Parquet files of a folder by name; none if it is no folder of them."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _ENDINGS and path.is_file() and path.name[0] not in "._"
    )


def open_layout(folder: Path, columns: Sequence[str] | None, like: Layout | None = None) -> Layout:
    """Read the footer of every shard and compare their columns.

    Parameters
    ----------
    folder : Path
    columns : sequence of str, optional
        Those to read. Default: all of the first shard, and then every shard has those and no other.
    like : Layout, optional
        What the columns have to agree with, besides each other.

    Raises
    ------
    FileNotFoundError, InputError
        If there are no shards or no rows, or a shard cannot be read, lacks a column, has another
        type of it, or one that holds no numbers: the file and the column.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    paths = shards_in(folder)
    if not paths:
        within = "; those in folders of it are not read" if any(folder.glob("*/*.p*q*")) else ""
        raise InputError(f"{folder}: expected a folder of Parquet files, found none in it{within}")
    wanted = None if columns is None else tuple(columns)
    if twice := [name for name in wanted or () if columns and list(columns).count(name) > 1]:
        raise InputError(f"columns: {twice[0]!r} is named twice")
    kinds = None if like is None else dict(zip(like.columns, like.kinds, strict=True))
    first = paths[0].name if like is None else "the shards that are fitted"
    hasher, groups, start = hashlib.blake2b(digest_size=16), [], 0
    for path in paths:
        footer, told = _footer(path)
        found = _kinds(path, footer)
        wanted = wanted or tuple(found)
        kinds = kinds or {name: found[name] for name in wanted if name in found}
        _compare(path, found, wanted, kinds, first, exact=columns is None)
        hasher.update(told)
        begin = start
        for index in range(footer.num_row_groups):
            num_rows = footer.row_group(index).num_rows
            if num_rows:
                groups.append(Group(path, index, start, num_rows, start - begin))
                start += num_rows
    if not start:
        raise InputError(f"{folder}: its {len(paths)} Parquet files have no rows")
    assert wanted is not None
    assert kinds is not None
    hasher.update(repr(wanted).encode())
    own = tuple(kinds[name] for name in wanted)
    return Layout(wanted, own, tuple(groups), len(paths), start, hasher.hexdigest())


def _footer(path: Path) -> tuple[parquet.FileMetaData, bytes]:
    """Read the metadata of a file, and the bytes that it is told by."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(4)
            if first != _MARK or size < _SMALLEST:
                raise InputError(f"{path}: no Parquet file: {size:,} bytes, that begin {first!r}")
            file.seek(-4, 2)
            if (last := file.read(4)) != _MARK:
                raise InputError(
                    f"{path}: cut off, or not written to its end: it ends in {last!r}, expected"
                    f" {_MARK!r}"
                )
            file.seek(-8, 2)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, 2)
            told = file.read(length)
        return parquet.read_metadata(path), told
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file: {one_line(error)}") from error


def _kinds(path: Path, footer: parquet.FileMetaData) -> dict[str, str]:
    """Give the type of every column, "" where it holds no numbers."""
    schema = footer.schema.to_arrow_schema()
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: column {twice[0]!r} is there twice")
    # Pandas writes its index as a column; it is none of the table's.
    return {one.name: str(one.type) for one in schema if not one.name.startswith("__index_level_")}


def _compare(
    path: Path,
    found: dict[str, str],
    wanted: tuple[str, ...],
    kinds: dict[str, str],
    first: str,
    *,
    exact: bool,
) -> None:
    for name in wanted:
        if name not in found:
            raise InputError(
                f"{path}: no column {name!r}; there are {listed(list(found))}"
                f"{did_you_mean(name, found)}"
            )
        if not _is_number(found[name]):
            words = "categories" if found[name].startswith("dictionary") else found[name]
            raise InputError(
                f"{path}: column {name!r} is {words}, expected numbers; name the columns to use if"
                " it may be left out"
            )
        if found[name] != kinds[name]:
            raise InputError(
                f"{path}: column {name!r} is {found[name]}, expected {kinds[name]} as in {first}"
            )
    more = [name for name in found if name not in wanted]
    if exact and more:
        raise InputError(
            f"{path}: column {more[0]!r} is not in {first}; name the columns to use if it may be"
            " left out"
        )


def _is_number(kind: str) -> bool:
    return kind.startswith(("int", "uint", "float", "double", "halffloat", "bool"))
