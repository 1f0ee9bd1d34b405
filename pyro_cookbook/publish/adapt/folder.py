"""A folder of files that is written whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from pyro_cookbook.data import InputError


def write_folder(files: Mapping[str, bytes], dest: Path) -> list[Path]:
    """Write files into a new or empty folder.

    They are written into a neighbour, which is then renamed. A folder that is there already keeps
    its place (a shell may be in it): they are written into a hidden folder in it, and moved up.

    Parameters
    ----------
    files : mapping of str to bytes
        Name → content.
    dest : Path

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        In one line, if `dest` is a file or a folder with anything in it, or cannot be written to.
        Nothing is left behind.
    """
    made: list[Path] = []
    try:
        check_dest(dest)
        missing = [path for path in (dest, *dest.parents) if not path.exists()]
        for path in reversed(missing[1:]):
            path.mkdir()
            made.append(path)
        if missing:
            _write_new(files, dest)
        else:
            _write_into(files, dest)
    except BaseException as error:
        for path in reversed(made):
            path.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"DEST: {dest}: not written: {error.strerror or error}") from error
        raise
    return [dest / name for name in files]


def check_dest(dest: Path) -> None:
    """Refuse a place that is neither new nor an empty folder.

    Raises
    ------
    InputError
    """
    if dest.is_dir():
        found = sorted(path.name for path in dest.iterdir())
        if found:
            raise InputError(
                f"DEST: {dest} has {len(found)} {'entry' if len(found) == 1 else 'entries'} in it,"
                f" such as {found[0]!r}, expected a new or an empty folder"
            )
    elif os.path.lexists(dest):
        raise InputError(f"DEST: {dest} is no folder, expected a new or an empty folder")


def _write_new(files: Mapping[str, bytes], dest: Path) -> None:
    part = dest.with_name(f".{dest.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        _fill(files, part)
        part.rename(dest)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_into(files: Mapping[str, bytes], dest: Path) -> None:
    part = dest / f".{os.getpid()}-{secrets.token_hex(4)}.part"
    moved: list[Path] = []
    try:
        _fill(files, part)
        for name in files:
            moved.append(dest / name)
            (part / name).rename(dest / name)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, content in files.items():
        with (folder / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may tell only now
