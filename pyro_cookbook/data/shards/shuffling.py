"""A shuffled epoch that can be entered anywhere: its order is a function of seed and epoch.

Row groups come in a random order; as many as fill the buffer are shuffled together, and the rows
come out one after the other. Where a row will be is known from the row groups' sizes alone, so that
an epoch is resumed by reading the buffer that it stands in, and not what came before.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_GROUPS, _ROWS = 0, 1  # two streams of random numbers


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


def pools(sizes: Sequence[int], buffer: int, seed: int, epoch: int) -> list[list[int]]:
    """Put row groups in a random order and cut it into pools.

    Parameters
    ----------
    sizes : sequence of int
        Rows of each group.
    buffer : int
        A pool takes groups until it has so many rows.
    seed, epoch : int

    Returns
    -------
    list of list of int
        Indices of the groups of each pool.
    """
    found: list[list[int]] = []
    left = 0
    for index in _generator(seed, epoch, _GROUPS).permutation(len(sizes)):
        if left <= 0:
            found.append([])
            left = buffer
        found[-1].append(int(index))
        left -= sizes[index]
    return found


def shuffled(
    sizes: Sequence[int],
    read: Callable[[int], Tensor],
    size: int,
    *,
    buffer: int,
    seed: int,
    epoch: int,
    start: int = 0,
) -> Iterator[Tensor]:
    """Yield the mini-batches of an epoch, every row once, the last one ragged.

    Parameters
    ----------
    sizes : sequence of int
        Rows of each group.
    read : callable
        ``read(index)`` gives a group's rows, shape (sizes[index], D).
    size : int
        Rows of a mini-batch.
    buffer, seed, epoch : int
        As for `pools`.
    start : int, default 0
        Rows of the epoch that have been taken: a multiple of `size`.

    Yields
    ------
    Tensor
        Shape (size, D). At most two pools are in memory.
    """
    left: Tensor | None = None
    for number, pool in enumerate(pools(sizes, buffer, seed, epoch)):
        num_rows = sum(sizes[index] for index in pool)
        if start >= num_rows:
            start -= num_rows
            continue
        order = torch.from_numpy(_generator(seed, epoch, _ROWS, number).permutation(num_rows))
        rows = _gathered(pool, read, order)[start:]
        start = 0
        if left is not None:
            rows = torch.cat([left, rows])
        whole = len(rows) // size * size
        yield from rows[:whole].split(size) if whole else ()
        left = rows[whole:].clone() if whole < len(rows) else None
        del rows  # before the next pool is read
    if left is not None:
        yield left


def _gathered(pool: Sequence[int], read: Callable[[int], Tensor], order: Tensor) -> Tensor:
    """Read the groups of a pool, row i of them to place order[i]."""
    rows: Tensor | None = None
    done = 0
    for index in pool:
        block = read(index)
        if rows is None:
            rows = block.new_empty(len(order), block.shape[1])
        rows[order[done : done + len(block)]] = block
        done += len(block)
    assert rows is not None
    return rows
