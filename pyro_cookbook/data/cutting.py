"""A folder of pictures cut into squares: rows for sparse coding."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_cookbook.data.errors import InputError
from pyro_cookbook.data.intake.files import stable_bytes
from pyro_cookbook.data.intake.pictures import SUFFIXES, grey_of
from pyro_cookbook.data.intake.understood import Understood
from pyro_cookbook.data.tables import Table, read

_MOST_PIXELS = 100_000_000  # of one picture
_LARGEST = 64  # side of a square
MOST_PATCHES = 20_000


def read_patches(folder: str | Path, side: int, *, most: int = MOST_PATCHES) -> Table:
    """Cut the pictures of a folder into squares, each a row whose mean is taken away.

    Parameters
    ----------
    folder : path
        Of pictures of any size; colours are made grey.
    side : int
        Of a square, in pixels. Squares lie side by side; what is left at the edges is not used.
    most : int
        Squares that are kept, evenly chosen of all.

    Returns
    -------
    Table
        Columns "row, column"; brightness from 0 to 1, less the square's mean.

    Raises
    ------
    FileNotFoundError, InputError
        If there is no such folder, something in it is no picture, or no picture has a square.
    """
    rows, total = _cut(Path(folder), side, most)
    names = [f"{row}, {column}" for row in range(side) for column in range(side)]
    table = read(pd.DataFrame(rows, columns=names), name=Path(folder).name)
    kept = "" if len(rows) == total else f", {len(rows):,} of them kept, evenly chosen"
    said = (
        f"{table.name}: {total:,} squares of {side} × {side} pixels{kept}; brightness from 0"
        " (black) to 1 (white), less the square's mean",
    )
    understood = Understood(said, table.understood.table)
    return replace(table, source=str(folder), understood=understood)


def _cut(place: Path, side: int, most: int) -> tuple[npt.NDArray[np.float64], int]:
    """Give the squares that are kept, shape (n, side²), and how many there were."""
    if not 2 <= side <= _LARGEST:
        raise InputError(f"--patches: got {side}, expected a side of 2 to {_LARGEST} pixels")
    if not place.is_dir():
        if place.exists():
            raise InputError(f"{place}: --patches is for a folder of pictures")
        raise FileNotFoundError(f"{place}: no such folder")
    files = sorted(one for one in place.iterdir() if one.is_file() and one.name[0] not in "._")
    for one in files:
        if one.suffix.lower() not in SUFFIXES:
            raise InputError(f"{one}: expected pictures alone in the folder")
    squares = [_squares(grey_of(one, stable_bytes(one), _MOST_PIXELS)[0], side) for one in files]
    total = sum(map(len, squares))
    if not total:
        raise InputError(f"{place}: no picture of {side} × {side} pixels or more")
    rows = np.concatenate(squares)
    if total > most:
        rows = rows[np.linspace(0, total - 1, most).round().astype(int)]
    return rows - rows.mean(1, keepdims=True), total


def _squares(picture: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    down, across = picture.shape[0] // side, picture.shape[1] // side
    whole = picture[: down * side, : across * side]
    return (
        whole.reshape(down, side, across, side).swapaxes(1, 2).reshape(down * across, side * side)
    )
