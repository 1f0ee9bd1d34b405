"""Files and folders: read once and whole, by what is in them rather than by their names."""

import bz2
import gzip
import io
import lzma
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyro_cookbook.data.errors import InputError, listed, one_line
from pyro_cookbook.data.intake.binary import (
    KINDS,
    read_archive,
    read_array,
    read_arrow,
    read_folder,
    read_netcdf,
    read_parquet,
    read_zarr,
)
from pyro_cookbook.data.intake.pictures import SUFFIXES as PICTURES
from pyro_cookbook.data.intake.pictures import read_pictures
from pyro_cookbook.data.intake.places import Choice, Raw
from pyro_cookbook.data.intake.text import TextOptions, read_text

_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip", b"PK\x05\x06": "zip",
}  # fmt: skip
_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
# First bytes of files that are no tables, and what to do about it.
_FOREIGN = {
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture; give a folder of pictures",
    b"\xff\xd8\xff": "a picture; give a folder of pictures",
    b"GIF8": "a picture; give a folder of pictures",
    b"SQLite format 3\0": "an SQLite database; export the table as CSV",
    b"\x80\x04\x95": "a Python pickle, which runs code when it is read; save it as Parquet",
    b"\x7fELF": "a program",
    b"FEA1": "a Feather file of version 1; save it as version 2 or as Parquet",
}
_MOST_BYTES = 1 << 34  # of a file when uncompressed: 16 GiB


def read_file(
    path: Path, options: TextOptions, choose: Choice, words: frozenset[str], name: str | None
) -> Raw:
    """Read a file, a folder, or what is piped in.

    Parameters
    ----------
    path : Path
        "-" is the standard input.
    options : TextOptions
    choose : callable
        Which columns to read, where columns can be read one by one.
    words : frozenset of str
        Columns of words, even where these look like numbers.
    name : str, optional
        What to call the table. Default: the stem of the file.

    Raises
    ------
    FileNotFoundError, InputError
        In one line, beginning with the path.
    """
    source = str(path)
    if source == "-":
        data = sys.stdin.buffer.read()
        return _by_content(data, "stdin", name or "stdin", "", options, choose, words)
    called = name or stem(path)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error
    if is_folder:
        return _folder(path, called, options)
    if path.suffix.lower() in PICTURES:
        raise InputError(f"{path}: a picture is no table; give a folder of pictures, one a row")
    data = stable_bytes(path)
    return _by_content(data, source, called, path.name.lower(), options, choose, words)


def stem(path: Path) -> str:
    """Give the name of a file without its endings: wine of ``data/wine.csv.gz``."""
    bare = path.name
    if bare.lower().endswith(_ENDINGS):
        bare = Path(bare).stem
    return Path(bare).stem or path.name


def stable_bytes(path: Path) -> bytes:
    """Read a file that stays as it is while it is read.

    Raises
    ------
    InputError
        If it cannot be read, is no file, or changes.
    """
    try:
        before = path.stat()
        if not (stat.S_ISREG(before.st_mode) or stat.S_ISFIFO(before.st_mode)):
            raise InputError(f"{path}: neither a file nor a folder")
        data = path.read_bytes()
        after = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if stat.S_ISREG(before.st_mode) and (not same or len(data) != after.st_size):
        raise InputError(f"{path}: it changed while it was read; try again when it is written")
    return data


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


def _by_content(
    data: bytes,
    source: str,
    name: str,
    filename: str,
    options: TextOptions,
    choose: Choice,
    words: frozenset[str],
) -> Raw:
    """Read a file by its first bytes; what its name promises has to be there."""
    data, filename, how = _uncompressed(data, source, filename)
    if not data:
        raise InputError(f"{source}: it is empty, expected a header and rows")
    for magic, what in _FOREIGN.items():
        if data.startswith(magic):
            raise InputError(f"{source}: it is {what}")
    kind = next((kind for magic, kind in KINDS.items() if data.startswith(magic)), None)
    ending = Path(filename).suffix
    if kind is None and ending in {".arrow", ".ipc", ".arrows", ".feather"}:
        kind = "arrow"
    if kind is None and ending == ".npz" and how == "zip":
        kind = "npz"
    promised = {".parquet": "parquet", ".pq": "parquet", ".npy": "npy", ".nc": "netcdf"}
    if kind is None and ending in promised:
        raise InputError(f"{source}: not a readable table: it is no {_NAMES[promised[ending]]}")
    if kind is None and how != "npz":
        raw = read_text(data, source, name, options, choose, words)
        return raw if not how else _with_line(raw, f"compressed: {how}")
    kind = "npz" if how == "npz" else kind
    if options.given:
        raise InputError(
            f"{source}: separator, decimal, encoding and header are for text; it is a"
            f" {_NAMES[str(kind)]}"
        )
    readers = {
        "parquet": read_parquet, "arrow": read_arrow, "npy": read_array, "npz": read_archive,
        "netcdf": read_netcdf,
    }  # fmt: skip
    return readers[str(kind)](data, source, name)


_NAMES = {
    "parquet": "Parquet file", "arrow": "Arrow file", "npy": "NumPy array",
    "npz": "NumPy archive", "netcdf": "NetCDF file",
}  # fmt: skip


def _with_line(raw: Raw, line: str) -> Raw:
    return replace(raw, lines=(line, *raw.lines))


def _uncompressed(data: bytes, source: str, filename: str) -> tuple[bytes, str, str]:
    """Undo a compression.

    Returns
    -------
    data : bytes
    filename : str
        Without the ending of the compression; the name inside, for a zip archive.
    how : str
        "gzip", …; "npz" if it is an archive of arrays; "" if there is none.
    """
    how = next((how for magic, how in _COMPRESSED.items() if data.startswith(magic)), "")
    if not how:
        if filename.endswith(_ENDINGS):
            raise InputError(f"{source}: not compressed as its name says, or damaged")
        return data, filename, ""
    try:
        if how == "zip":
            return _unzipped(data, source)
        with _OPEN[how](io.BytesIO(data)) as opened:
            plain: bytes = opened.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise InputError(f"{source}: damaged {how} file: {one_line(error)}") from error
    if filename.endswith(_ENDINGS):
        filename = filename.rpartition(".")[0]
    return plain, filename, how


_OPEN: dict[str, Callable[[io.BytesIO], Any]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": lambda stream: pa.CompressedInputStream(stream, "zstd"),
}


def _unzipped(data: bytes, source: str) -> tuple[bytes, str, str]:
    """Take the one file out of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        names = [one for one in names if not one.startswith("__MACOSX/")]
        if "[Content_Types].xml" in names:
            what = (
                "Excel workbook" if any(n.startswith("xl/") for n in names) else "Office document"
            )
            raise InputError(f"{source}: it is an {what}; save the sheet as CSV")
        if "mimetype" in names and "content.xml" in names:
            raise InputError(f"{source}: it is an OpenDocument file; save the sheet as CSV")
        if names and all(one.endswith(".npy") for one in names):
            return data, "", "npz"
        if len(names) != 1:
            inside = f": {listed(names, 5)}" if names else ""
            raise InputError(
                f"{source}: the zip archive has {len(names)} files{inside}; expected 1"
            )
        if archive.getinfo(names[0]).file_size > _MOST_BYTES:
            raise InputError(f"{source}: {names[0]} is larger than 16 GiB")
        try:
            return archive.read(names[0]), names[0].lower(), "zip"
        except RuntimeError as error:  # it asks for a password
            raise InputError(f"{source}: {one_line(error)}") from error


def _folder(path: Path, name: str, options: TextOptions) -> Raw:
    """Read a folder: of pictures, of Parquet or Arrow files, or a Zarr store."""
    if options.given:
        raise InputError(f"{path}: separator, decimal, encoding and header are for files of text")
    try:
        inside = sorted(one for one in path.iterdir() if not one.name.startswith("."))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error
    if (path / ".zgroup").exists() or (path / "zarr.json").exists():
        return read_zarr(path, name)
    files = [one for one in inside if one.is_file() and not one.name.startswith("_")]
    endings = {one.suffix.lower() for one in files}
    if not files:
        raise InputError(f"{path}: the folder has no files")
    if endings <= PICTURES:
        return read_pictures([(one, stable_bytes(one)) for one in files], str(path), name)
    if endings <= {".parquet", ".pq"} or endings <= {".arrow", ".feather", ".ipc"}:
        return read_folder([(one, stable_bytes(one)) for one in files], str(path), name)
    found = listed(sorted(ending or "no ending" for ending in endings), 5)
    raise InputError(
        f"{path}: a folder of {found}; expected pictures, Parquet files or Arrow files, all alike"
    )
