"""What a recipe asks of all rows before a fit, in one pass: ranges, means, standard deviations."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Columns of a table that was read once.

    Attributes
    ----------
    num_rows : int
    loc, scale : Tensor
        Mean and sd of each column, shape (D,), float64.
    smallest, largest : Tensor
        Shape (D,), float64.
    whole : bool
        Whether every entry is a whole number.
    """

    num_rows: int
    loc: Tensor
    scale: Tensor
    smallest: Tensor
    largest: Tensor
    whole: bool


def moments_of(blocks: Iterable[Tensor]) -> Moments:
    """Measure the columns of blocks of rows, each of shape (n, D).

    Means and sums of squares of two blocks are merged by equation (1.5) of Chan, Golub and LeVeque
    (1983), doi:10.1080/00031305.1983.10483115, which loses no digits to a mean far from 0.
    """
    count, whole = 0, True
    loc = squares = smallest = largest = torch.empty(0)
    for block in blocks:
        rows = block.double()
        num, mean = len(rows), rows.mean(0)
        inside = (rows - mean).square().sum(0)
        low, high = rows.aminmax(dim=0)
        whole = whole and bool((rows == rows.round()).all())
        if not count:
            count, loc, squares, smallest, largest = num, mean, inside, low, high
            continue
        apart, total = mean - loc, count + num
        loc = loc + apart * (num / total)
        squares = squares + inside + apart.square() * (count * num / total)
        smallest, largest, count = smallest.minimum(low), largest.maximum(high), total
    return Moments(count, loc, (squares / count).sqrt(), smallest, largest, whole)
