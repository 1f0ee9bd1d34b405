"""Tables in binary files: Parquet, Arrow, NumPy's arrays and archives, NetCDF, Zarr."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import ipc, parquet

from pyro_cookbook.data.errors import InputError, listed, one_line
from pyro_cookbook.data.intake.memory import arrow_frame, of_xarray, read_memory
from pyro_cookbook.data.intake.places import Raw, Rows, check_names

# First bytes of a file → what it is.
KINDS = {
    b"PAR1": "parquet", b"ARROW1": "arrow", b"\x93NUMPY": "npy", b"\x89HDF\r\n\x1a\n": "netcdf",
    b"CDF\x01": "netcdf", b"CDF\x02": "netcdf",
}  # fmt: skip


def read_parquet(data: bytes, source: str, name: str) -> Raw:
    """Read a Parquet file.

    Raises
    ------
    InputError
        If it is damaged, or a column is none of a table.
    """
    return _of_table(_parquet(data, source), source, name, "Parquet")


def read_arrow(data: bytes, source: str, name: str) -> Raw:
    """Read an Arrow file or stream, or Feather of version 2.

    Raises
    ------
    InputError
        As `read_parquet`.
    """
    return _of_table(_arrow(data, source), source, name, "Arrow")


def read_folder(files: Sequence[tuple[Path, bytes]], source: str, name: str) -> Raw:
    """Read the files of a folder one below the other, in the order of their names.

    Raises
    ------
    InputError
        If they have not the same columns, naming the file and the column.
    """
    is_parquet = files[0][0].suffix.lower() in {".parquet", ".pq"}
    read = _parquet if is_parquet else _arrow
    tables = [(path.name, read(data, f"{source}/{path.name}")) for path, data in files]
    first_name, first = tables[0]
    for other_name, other in tables[1:]:
        _check_schema(first, other, f"{source}/{other_name}", first_name)
    whole = pa.concat_tables([table.select(first.column_names) for _, table in tables])
    what = "Parquet" if is_parquet else "Arrow"
    parts = tuple((one, table.num_rows) for one, table in tables)
    said = f"{what}, {len(files)} files one below the other: {listed([n for n, _ in parts], 3)}"
    return _of_table(whole.replace_schema_metadata(None), source, name, said, parts)


def _check_schema(first: "pa.Table", other: "pa.Table", source: str, first_name: str) -> None:
    for column in first.column_names:
        if column not in other.column_names:
            raise InputError(f"{source}: no column {column!r}, which {first_name} has")
        kinds = first.schema.field(column).type, other.schema.field(column).type
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{source}: column {column!r} holds {kinds[1]}, in {first_name} {kinds[0]}"
            )
    extra = [column for column in other.column_names if column not in first.column_names]
    if extra:
        raise InputError(f"{source}: column {extra[0]!r}, which {first_name} has not")


def _parquet(data: bytes, source: str) -> "pa.Table":
    try:
        with parquet.ParquetFile(pa.BufferReader(data)) as file:
            check_names(file.schema_arrow.names, source)
            return file.read()
    except (pa.ArrowInvalid, OSError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{source}: not a readable table: {one_line(error)}") from error


def _arrow(data: bytes, source: str) -> "pa.Table":
    buffer = pa.BufferReader(data)
    open_it = ipc.open_file if data.startswith(b"ARROW1") else ipc.open_stream
    try:
        return open_it(buffer).read_all()
    except (pa.ArrowInvalid, OSError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{source}: not a readable table: {one_line(error)}") from error


def _of_table(
    table: "pa.Table", source: str, name: str, what: str, parts: tuple[tuple[str, int], ...] = ()
) -> Raw:
    frame = arrow_frame(table, source)
    said = [what]
    if not isinstance(frame.index, pd.RangeIndex):
        said.append("the index of the frame that was saved is no column: left out")
    frame = frame.set_axis(pd.Index([str(c) for c in frame.columns], dtype=object), axis=1)
    frame = frame.reset_index(drop=True)
    return Raw(frame, name, source, Rows(frame, parts), tuple(said))


def read_array(data: bytes, source: str, name: str) -> Raw:
    """Read an array that NumPy has saved; never objects, which would run code.

    Raises
    ------
    InputError
        If it is damaged, of objects, or has not rows and columns.
    """
    return _named(_array(data, source), source, name, "NumPy array")


def _array(data: bytes, source: str) -> Any:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
        needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.hasobject:
            raise InputError(
                f"{source}: an array of Python objects, which would run code when it is read;"
                " save numbers"
            )
        if needed != len(data) - stream.tell():  # a few bytes cannot ask for gigabytes
            raise InputError(
                f"{source}: damaged: its header speaks of {needed:,} bytes, there are"
                f" {len(data) - stream.tell():,}"
            )
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: not a readable array: {one_line(error)}") from error


def read_archive(data: bytes, source: str, name: str) -> Raw:
    """Read an archive of arrays: one of rows and columns, or several that are its columns.

    Raises
    ------
    InputError
        As `read_array`, and if several arrays are not of shape (n,) with one n.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {
                one.filename.removesuffix(".npy"): _array(archive.read(one), source)
                for one in archive.infolist()
            }
    except (zipfile.BadZipFile, RuntimeError, OSError) as error:
        raise InputError(f"{source}: not a readable archive: {one_line(error)}") from error
    if not arrays:
        raise InputError(f"{source}: the archive has no arrays")
    if len(arrays) == 1:
        return _named(next(iter(arrays.values())), source, name, "NumPy archive of one array")
    shapes = {key: array.shape for key, array in arrays.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 1:
        shown = listed([f"{key} {shape}" for key, shape in shapes.items()])
        raise InputError(f"{source}: expected one array, or columns of one length; got {shown}")
    return _named(arrays, source, name, f"NumPy archive of {len(arrays)} columns")


def _named(value: Any, source: str, name: str, what: str) -> Raw:
    raw = read_memory(value, source)
    return Raw(raw.frame, name, source, raw.places, (what, *raw.lines[1:]))


def read_netcdf(data: bytes, source: str, name: str) -> Raw:
    """Read a NetCDF file: variables of one dimension, or a single one of two.

    Raises
    ------
    InputError
        If it is damaged, or its variables are no columns.
    """
    import xarray as xr

    engine = "scipy" if data.startswith(b"CDF") else "h5netcdf"
    try:
        with xr.open_dataset(io.BytesIO(data), engine=engine) as dataset:
            frame = of_xarray(dataset.load(), source)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # h5py's, xarray's
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: not a readable NetCDF file: {one_line(error)}") from error
    return Raw(frame, name, source, Rows(frame), ("NetCDF",))


def read_zarr(path: Path, name: str) -> Raw:
    """Read a Zarr store, as `read_netcdf`.

    Raises
    ------
    InputError
        If zarr is not installed, or the store is damaged or has no columns.
    """
    import xarray as xr

    try:
        with xr.open_zarr(path, consolidated=False) as dataset:
            # A store has no order of its own: folders are listed as the disk has them.
            frame = of_xarray(dataset[sorted(dataset.data_vars)].load(), str(path))
    except ImportError as error:
        raise InputError(
            f"{path}: a Zarr store needs the package zarr: {one_line(error)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # zarr's, xarray's
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable Zarr store: {one_line(error)}") from error
    return Raw(frame, name, str(path), Rows(frame), ("Zarr, variables by name",))
