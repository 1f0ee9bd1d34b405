"""Mini-batches of rows, and whether a program scales them up to the whole data."""

from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_cookbook.programs.program import Function, Program, sample_sites


class Batches:
    """A model's mini-batches, every epoch in a new random order, the last one ragged.

    Parameters
    ----------
    model : Program
        On all rows.
    size : int
        Rows of a mini-batch.
    """

    def __init__(self, model: Program, size: int) -> None:
        self.model, self.size = model, size
        self.num_rows = count_rows(model)
        self.names = by_row(model, self.num_rows)
        self.order, self.position = torch.empty(0, dtype=torch.long), 0

    def take(self) -> Program:
        """Give the model on the next mini-batch, with ``num_obs`` all rows."""
        if self.position >= len(self.order):
            self.order, self.position = torch.randperm(self.num_rows), 0
        rows = self.order[self.position : self.position + self.size]
        self.position += self.size
        return take_rows(self.model, rows, self.num_rows)

    def some(self, times: int) -> Program:
        """Give the model on so many times as many rows, drawn without regard to the epoch."""
        rows = torch.randperm(self.num_rows)[: times * self.size]
        return take_rows(self.model, rows, self.num_rows)

    def rewind(self) -> None:
        """Begin a new epoch at the next mini-batch."""
        self.position = len(self.order)

    @property
    def place(self) -> list[Any]:
        """The epoch's order, and rows of it that have been taken: to go on from there."""
        return [self.order, self.position]

    @place.setter
    def place(self, place: list[Any]) -> None:
        self.order, self.position = place


def count_rows(program: Program) -> int:
    """Rows of the data: the length of the first tensor among the arguments.

    Raises
    ------
    ValueError
        If there is none.
    """
    for value in _tensors(program):
        return len(value)
    raise ValueError("batch_size: the data hold no tensor to take rows from")


def by_row(program: Program, num_rows: int) -> frozenset[int | str]:
    """Find the places and names of the arguments that have one entry per row."""
    given: list[tuple[int | str, Any]] = [*enumerate(program.args), *program.kwargs.items()]
    return frozenset(name for name, value in given if _is_by_row(value, num_rows))


def take_rows(program: Program, rows: Tensor, num_rows: int) -> Program:
    """Take the rows of every tensor that has one entry per row; pass everything else on."""

    def take(value: Any) -> Any:  # by `index_select`: the same as value[rows], whole rows at once
        if not _is_by_row(value, num_rows):
            return value
        return value.index_select(0, rows.to(value.device))

    kwargs = {key: take(value) for key, value in program.kwargs.items()}
    return program.on(*(take(value) for value in program.args), **{**kwargs, "num_obs": num_rows})


def check_scale(model: Program, guide: Function, num_rows: int) -> None:
    """Refuse a model or guide that does not scale a mini-batch up to the whole data.

    Parameters
    ----------
    model : Program
        On a mini-batch.
    guide : callable
    num_rows : int
        Of the whole data.

    Raises
    ------
    ValueError
        Naming the site, the scale it has and the scale it needs.
    """
    size = count_rows(model)
    with torch.no_grad():
        guide_trace = poutine.trace(model.of(guide)).get_trace()
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace()
    observed = [node for node in sample_sites(model_trace).values() if node["is_observed"]]
    row_plates = {frame.name for node in observed for frame in node["cond_indep_stack"]}
    for trace, program in ((model_trace, "model"), (guide_trace, "guide")):
        for name, node in sample_sites(trace).items():
            by_row = any(frame.name in row_plates for frame in node["cond_indep_stack"])
            if (by_row or node["is_observed"]) and abs(
                float(node["scale"]) - num_rows / size
            ) > 1e-6 * num_rows / size:
                raise ValueError(
                    f"batch_size: site {name!r} of the {program} has scale"
                    f" {float(node['scale']):g} on {size} of {num_rows} rows, expected"
                    f" {num_rows / size:g}; open its plate as"
                    " pyro.plate(name, num_obs, subsample_size=len(batch))"
                )


def _is_by_row(value: Any, num_rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == num_rows


def _tensors(program: Program) -> Iterator[Tensor]:
    for value in (*program.args, *program.kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            yield value
