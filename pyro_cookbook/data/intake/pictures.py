"""A folder of pictures as a table: each picture one row of grey levels."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_cookbook.data.errors import InputError, listed, one_line
from pyro_cookbook.data.intake.places import Raw, Rows

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
)
_MOST_PIXELS = 1 << 16  # of one picture: a table of as many columns


def read_pictures(files: Sequence[tuple[Path, bytes]], source: str, name: str) -> Raw:
    """Read pictures of one size as rows, in the order of their names.

    Parameters
    ----------
    files : sequence of (Path, bytes)
        Each picture's name and what is in it.
    source, name : str
        The folder, and what the table is called.

    Returns
    -------
    Raw
        Columns "row, column" of the pixels, brightness from 0 (black) to 1 (white). Colours are
        made grey (ITU-R BT.601). Pixels that are the same in all pictures are `idle`. For patches
        see `read_patches`.

    Raises
    ------
    InputError
        If a picture is damaged, too large, or not as large as the first.
    """
    rows: list[npt.NDArray[np.float64]] = []
    coloured = 0
    for path, data in files:
        grey, is_coloured = grey_of(path, data)
        coloured += is_coloured
        if rows and grey.shape != rows[0].shape:
            raise InputError(
                f"{path}: {grey.shape[1]} × {grey.shape[0]} pixels, expected"
                f" {rows[0].shape[1]} × {rows[0].shape[0]} like {files[0][0].name}"
            )
        rows.append(grey)
    stack = np.stack(rows)
    height, width = stack.shape[1:]
    names = [f"{row}, {column}" for row in range(height) for column in range(width)]
    flat = stack.reshape(len(stack), -1)
    varies = flat.max(0) > flat.min(0)
    idle = [one for one, keep in zip(names, varies, strict=True) if not keep]
    said = [
        f"{len(files)} pictures of {width} × {height} pixels, one a row: {_shown(files)};"
        " brightness from 0 (black) to 1 (white)"
    ]
    if coloured:
        said.append(f"pictures whose colours were made grey: {coloured}")
    frame = pd.DataFrame(flat, columns=names)
    return Raw(frame, name, source, Rows(frame), tuple(said), idle=frozenset(idle))


def _shown(files: Sequence[tuple[Path, bytes]]) -> str:
    return listed([path.name for path, _ in files], 3)


def grey_of(
    path: Path, data: bytes, most: int = _MOST_PIXELS
) -> tuple[npt.NDArray[np.float64], bool]:
    """Read one picture as brightness from 0 to 1, shape (height, width); say if it had colours.

    Raises
    ------
    InputError
        If it is damaged, or has more than `most` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow warns of large pictures; they are refused below, before anything is unpacked.
        with warnings.catch_warnings(action="ignore"):
            opened = Image.open(io.BytesIO(data))
        with opened as picture:
            if picture.width * picture.height > most:
                raise InputError(
                    f"{path}: {picture.width} × {picture.height} pixels, expected"
                    f" {most:,} at most; make it smaller, or cut patches (--patches)"
                )
            if picture.mode == "F":
                raise InputError(f"{path}: a picture of floats has no black and white; save 8 bits")
            if picture.mode.startswith("I"):  # 16 bits
                return np.asarray(picture, dtype=float) / 65535, False
            coloured = picture.mode not in {"1", "L", "LA"}
            return np.asarray(picture.convert("L"), dtype=float) / 255, coloured
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable picture: {one_line(error)}") from error
