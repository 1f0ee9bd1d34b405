"""Large arrays in temporary files: written a slice at a time, and mapped where they are read.

What is mapped is read when it is looked at, and the system takes its pages back when it needs them;
to NumPy, xarray and ArviZ it is an array like any other.
"""

import math
import mmap
import tempfile
from collections.abc import Iterator
from typing import IO, Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Arrays of more bytes than this, 64 MiB, lie in a file: a few such fit beside any model's data.
ON_DISK = 2**26
# Numbers of so many columns as are looked at together: 16 MiB of doubles.
_COLUMNS = 2**21
# Mappings whose pages are given back as soon as they have been looked at.
_SHARED: WeakSet[mmap.mmap] = WeakSet()


class Filled:
    """An array that is filled a slice at a time, in memory or, where it is large, in a file.

    The file has no name: it is gone when nothing looks at the array any more. It lies where
    `tempfile` puts files: the environment's TMPDIR says where.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    shared : bool, default False
        Writing to an array in a file writes to the file, so that `let_go` may give its pages back.

    Attributes
    ----------
    array : array
        What has been written; zeros, or anything, elsewhere. Writing to an array in a file changes
        this copy of it only, unless it is shared.

    Examples
    --------
    >>> import numpy as np
    >>> from pyro_cookbook.posterior.on_disk import Filled
    >>> draws = Filled((4, 2), np.dtype(float))
    >>> draws.write(slice(2, 4), np.ones((2, 2)))
    >>> draws.array[2:].sum()
    np.float64(4.0)
    """

    array: Array

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], *, shared: bool = False
    ) -> None:
        self._file: IO[bytes] | None = None
        size = math.prod(shape) * dtype.itemsize
        if size <= ON_DISK:
            self.array = np.empty(shape, dtype)
            return
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - by `__del__`
        self._file.truncate(size)
        # Copy on write: whoever changes an entry has it changed, and the file stays as it is.
        mapped = np.memmap(self._file, dtype, mode="r+" if shared else "c", shape=shape)
        self.array = np.asarray(mapped)
        if shared and isinstance(mapped.base, mmap.mmap):
            _SHARED.add(mapped.base)

    def __del__(self) -> None:
        """Let go of the file: the mapping holds it as long as it is looked at."""
        if self._file is not None:
            self._file.close()

    def write(self, at: slice, values: Array) -> None:
        """Write a slice of the first axis.

        Raises
        ------
        OSError
            If the disk is full.
        """
        if self._file is None:
            self.array[at] = values
            return
        # Not through the mapping: there a full disk ends the process, without a word.
        try:
            self._file.seek(at.start * self.array.strides[0])
            self._file.write(np.ascontiguousarray(values, self.array.dtype).data.cast("B"))
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"no space for {self.array.nbytes / 2**30:.2g} GiB of draws in"
                f" {tempfile.gettempdir()} ({error.strerror}); set TMPDIR, or ask for fewer draws"
            ) from error


def by_columns(array: Array, copies: int = 1) -> Iterator[tuple[slice, Array]]:
    """Go through an array of shape (S, R) some columns at a time, in memory whatever it lies in.

    Parameters
    ----------
    array : array, shape (S, R)
    copies : int, default 1
        What goes with a column is so many times as much.

    Examples
    --------
    >>> import numpy as np
    >>> from pyro_cookbook.posterior.on_disk import by_columns
    >>> [(at, part.shape) for at, part in by_columns(np.ones((3, 5)))]
    [(slice(0, 5, None), (3, 5))]
    """
    count = array.shape[1]
    step = max(1, _COLUMNS // max(1, len(array) * copies))
    for start in range(0, count, step):
        at = slice(start, min(start + step, count))
        yield at, np.ascontiguousarray(array[:, at])
        let_go()


def let_go() -> None:
    """Give the pages of shared mappings back to the system: they are read again when needed."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for pages in _SHARED:
            pages.madvise(mmap.MADV_DONTNEED)
