"""A mini-batch computed in parts: one after the other, or at once by several processes.

The bound of a batch of B rows out of N is the mean of its parts' bounds, each scaled up to all N
rows, with weights B_p / B:

    L = N/B Σ_{n in batch} l_n = Σ_p (B_p / B) · (N / B_p) Σ_{n in part p} l_n

and so is its gradient. A part's random numbers are a function of the step's and the part's number,
whichever process computes it: two processes give the sum that one gives, up to rounding.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_cookbook.engines.batches import Batches
from pyro_cookbook.engines.streams import ranks
from pyro_cookbook.engines.streams.source import RowSource, Streamed
from pyro_cookbook.engines.traced.estimates import Estimate
from pyro_cookbook.programs.program import Program

_SEEDS = 2**62


class Parts:
    """How mini-batches are split.

    Parameters
    ----------
    num : int or None
        Parts; None for one for each process.
    size : int
        Rows of a mini-batch.
    names : collection of int and str
        Arguments of the model that have an entry for each row: see `batches.by_row`.

    Raises
    ------
    ValueError
        If there are fewer parts than processes, or fewer rows than parts.
    """

    def __init__(self, num: int | None, size: int, names: Collection[int | str]) -> None:
        self.rank, self.world = ranks.world()
        self.num, self.names = num or self.world, names
        if self.num < self.world:
            raise ValueError(
                f"parts: got {self.num}, expected at least one for each of {self.world} processes"
            )
        if size < self.num:
            raise ValueError(
                f"batch_size: got {size}, expected at least {self.num} rows, one for each part"
            )

    def own(self, batch: Program) -> Iterator[tuple[int, float, Program]]:
        """Yield this process's parts: number, share of the rows, and the program on them."""
        size = len(self._rows(batch))
        cuts = [size * part // self.num for part in range(self.num + 1)]
        for part in range(self.rank, self.num, self.world):
            begin, end = cuts[part], cuts[part + 1]
            if begin < end:
                yield part, (end - begin) / size, _cut(batch, self.names, begin, end)

    def run(
        self, estimate: Callable[[Program], Estimate], batch: Program, params: Collection[Tensor]
    ) -> Estimate:
        """Estimate the loss of a mini-batch, and its gradient at `params`.

        Parameters
        ----------
        estimate : callable
            Gives the loss of a program and its gradient, one for each of the parameters.
        batch : Program
            On all rows of the batch.
        params : collection of Tensor
            Those with a gradient; none where only the loss is asked for.
        """
        base = int(torch.randint(_SEEDS, ()))
        stream = torch.get_rng_state()
        loss = 0.0
        sums: list[Tensor] = [torch.zeros_like(p) for p in params]
        try:
            for part, share, program in self.own(batch):
                torch.manual_seed((base + part) % _SEEDS)
                value, gradients = estimate(program)
                loss += share * value
                for added, gradient in zip(sums, gradients if sums else [], strict=True):
                    if gradient is not None:
                        added.add_(gradient, alpha=share)
        finally:
            torch.set_rng_state(stream)
        told = torch.tensor([loss], dtype=torch.float64, device=self._rows(batch).device)
        return float(ranks.total(told)), [*_totals(sums)]

    def _rows(self, batch: Program) -> Tensor:
        """Give an argument that has an entry for each row."""
        given: list[tuple[int | str, Any]] = [*enumerate(batch.args), *batch.kwargs.items()]
        found: Tensor = next(value for name, value in given if name in self.names)
        return found


def _cut(batch: Program, names: Collection[int | str], begin: int, end: int) -> Program:
    args = [v[begin:end] if i in names else v for i, v in enumerate(batch.args)]
    kwargs = {k: v[begin:end] if k in names else v for k, v in batch.kwargs.items()}
    return batch.on(*args, **kwargs)


def _totals(tensors: list[Tensor]) -> list[Tensor]:
    """Add up every tensor over all processes, in one message."""
    if not tensors or ranks.world()[1] == 1:
        return tensors
    flat = ranks.total(torch.cat([one.reshape(-1) for one in tensors]))
    pieces = flat.split([one.numel() for one in tensors])
    return [piece.view_as(one).to(one.dtype) for piece, one in zip(pieces, tensors, strict=True)]


def parts_for(batches: Batches | Streamed | None, source: RowSource | None) -> Parts | None:
    """Say how mini-batches are split; None where one process computes rows in memory."""
    if batches is None or (source is None and ranks.world()[1] == 1):
        return None
    return Parts(None if source is None else source.parts, batches.size, batches.names)
