"""Mini-batches of rows that are read as they are needed."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_cookbook.engines.batches import Batches
from pyro_cookbook.programs.program import Program

# Rows that are kept in memory to see whether the bound still rises; at least so many batches.
_POOL, _POOL_BATCHES = 4096, 16


class FirstRows(Messenger):
    """Lets plates that are told their rows not draw which of all rows these are.

    Pyro permutes all ``num_obs`` numbers in each plate at every step, and takes as many as there
    are rows: time and memory that grow with the data, for numbers that nobody looks at.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        drawn = msg["fn"]
        if drawn.subsample_size is not None and drawn.subsample_size < drawn.size:
            msg["value"] = torch.arange(drawn.subsample_size, device=drawn.device)
            msg["done"] = True


@runtime_checkable
class RowSource(Protocol):
    """Rows that come batch by batch: what `fit` takes in the place of data.

    Attributes
    ----------
    num_rows : int
        All rows that there are to fit.
    parts : int or None
        Parts in which a mini-batch is computed.
    fingerprint : str
        Tells these rows from others.
    told : str
        The same in words.
    """

    num_rows: int
    parts: int | None

    @property
    def fingerprint(self) -> str:
        """Tell these rows from others."""

    @property
    def told(self) -> str:
        """Say what there is."""

    def held_out(self) -> tuple[Tensor, ...]:
        """Give rows to judge by, as model and guide are called with them."""

    def sample(self, num: int, seed: int) -> tuple[Tensor, ...]:
        """Give some of the rows to fit."""

    def batches(
        self, size: int, *, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the mini-batches of an epoch, the same for the same seed and epoch."""


class Streamed:
    """A model's mini-batches of a `RowSource`: what `Batches` is for rows in memory.

    Parameters
    ----------
    model : Program
        On the rows held out, on the device where to compute.
    size : int
        Rows of a mini-batch.
    source : RowSource
    seed : int
        Of the order of the rows.
    """

    def __init__(self, model: Program, size: int, source: RowSource, seed: int) -> None:
        self.model, self.size, self.source, self.seed = model, size, source, seed
        self.num_rows = source.num_rows
        self.epoch, self.taken = 0, 0
        self.opened: Iterator[tuple[Tensor, ...]] | None = None
        self.pool: tuple[Tensor, ...] = ()
        self.names = frozenset(range(len(model.args)))

    def take(self) -> Program:
        """Give the model on the next mini-batch, with ``num_obs`` all rows."""
        if self.taken >= self.num_rows:
            self.place = [self.epoch + 1, 0]
        if self.opened is None:
            self.opened = self.source.batches(
                self.size, seed=self.seed, epoch=self.epoch, start=self.taken
            )
        rows = next(self.opened)
        self.taken += len(rows[0])
        return self._on(rows)

    def some(self, times: int) -> Program:
        """Give the model on so many times as many rows, of those that are kept in memory."""
        if not self.pool:
            num = max(_POOL, _POOL_BATCHES * self.size)
            self.pool = self.source.sample(num, self.seed)
        rows = torch.randperm(len(self.pool[0]))[: times * self.size]
        return self._on(tuple(one[rows] for one in self.pool))

    def rewind(self) -> None:
        """Begin the epoch anew."""
        self.place = [self.epoch, 0]

    @property
    def place(self) -> list[Any]:
        """Epoch, and rows of it that have been taken: all that it takes to go on from there."""
        return [self.epoch, self.taken]

    @place.setter
    def place(self, place: list[Any]) -> None:
        if place != self.place:
            self.epoch, self.taken = place
            self.opened = None

    def _on(self, rows: tuple[Tensor, ...]) -> Program:
        moved = (row.to(like) for row, like in zip(rows, self.model.args, strict=True))
        return self.model.on(*moved, **{**self.model.kwargs, "num_obs": self.num_rows})


def batches_for(
    model: Program, size: int | None, source: RowSource | None, seed: int
) -> Batches | Streamed | None:
    """Give a model's mini-batches, of rows in memory or of a source; None where there are none."""
    if size is None:
        return None
    return Batches(model, size) if source is None else Streamed(model, size, source, seed)
