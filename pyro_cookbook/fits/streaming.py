"""Fits to rows that are read as they are needed: what they ask of the call and of the model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_cookbook.engines.streams.parts import Parts
from pyro_cookbook.engines.streams.ranks import (
    FailedElsewhere,
    agreed,
    join,
    of_first,
    own_device,
    world,
)
from pyro_cookbook.engines.streams.source import RowSource
from pyro_cookbook.programs.program import Function, Program

__all__ = [
    "FailedElsewhere", "RowSource", "agreed", "check_parts", "check_streamed", "of_first",
    "source_of", "together", "world",
]  # fmt: skip


def check_parts(source: RowSource, batch_size: int) -> None:
    """Refuse mini-batches that cannot be shared by the processes that there are.

    Raises
    ------
    ValueError
        If there are fewer parts than processes, or fewer rows than parts.
    """
    Parts(source.parts, batch_size, ())


def source_of(
    data: tuple[Any, ...], kwargs: Mapping[str, Any], guide: Function | str, batch_size: int | None
) -> RowSource | None:
    """Find rows that are not in memory among the data; None if there are none.

    Raises
    ------
    ValueError
        If they are not the only rows, or there are no mini-batches or no amortised guide for them.
    """
    given = [*data, *kwargs.values()]
    found = [one for one in given if isinstance(one, RowSource)]
    if not found:
        return None
    if len(data) != 1 or len(found) != 1 or any(isinstance(one, Tensor) for one in given):
        raise ValueError(
            f"data: got {len(given)} arguments with rows from files among them, expected these"
            " alone, and plain values by keyword"
        )
    if batch_size is None:
        raise ValueError("batch_size: expected one, as the rows are read from files")
    if isinstance(guide, str):
        raise ValueError(
            f"guide: got {guide!r}, a family by name; rows from files need an amortised guide, a"
            " function of the rows; fit latents that all rows share to rows in memory"
        )
    return found[0]


def together(
    batch_size: int | None, device: torch.device | str | None, data: tuple[Any, ...]
) -> torch.device | str | None:
    """Join the other processes, where there are mini-batches to share; give the device to use."""
    if batch_size is None:
        return device
    device = own_device(device)
    places = [one.device for one in data if isinstance(one, Tensor)]
    join(torch.device(device) if device else (places or [torch.device("cpu")])[0])
    return device


def check_streamed(model: Program) -> None:
    """Refuse latents that are not a row's own: rows held out say nothing of their posterior.

    Raises
    ------
    ValueError
        Naming the first one.
    """
    rows = {
        plate for site in model.sites.values() if site.is_data for plate in site.plates if plate
    }
    for name, site in model.latents.items():
        if not rows & set(site.plates):
            raise ValueError(
                f"model: latent {name!r} is in no plate of rows; a fit to rows from files is judged"
                " on rows held out, which cannot judge it: make it a parameter to learn, or fit"
                " rows in memory"
            )
