"""The processes that ``torchrun`` has started: who this one is, and sums over all of them."""

import atexit
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def join(device: torch.device) -> None:
    """Join the other processes of a ``torchrun``; alone, do nothing.

    A group that the caller has made is used as it is. One that is made here (NCCL for tensors on a
    GPU, else gloo) lasts until the process ends: the next fit needs it again.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ:
        return
    if not dist.is_available() or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


def world() -> tuple[int, int]:
    """Give this process's number, from 0, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_device(device: torch.device | str | None) -> torch.device | str | None:
    """Give this process a GPU of its own, where "cuda" is asked for without a number."""
    if device is None or str(device) != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def total(values: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place: all get the same numbers, bit for bit."""
    if world()[1] > 1:
        dist.all_reduce(values)
    return values


class FailedElsewhere(RuntimeError):
    """Another process has failed, and says at what: this one ends with it."""


def agreed[T](check: Callable[[], T]) -> T:
    """Check something in every process: where it fails in one, all of them fail.

    Raises
    ------
    ValueError, OSError
        What `check` raised, in the first process where it did.
    FailedElsewhere
        In all others.
    """
    found: T | None = None
    error: Exception | None = None
    try:
        found = check()
    except (ValueError, OSError) as raised:
        error = raised
    rank, num = world()
    failed = [error is not None]
    if num > 1:
        failed = [False] * num
        dist.all_gather_object(failed, error is not None)
    if any(failed) and failed.index(True) != rank:
        raise FailedElsewhere(f"process {failed.index(True)} has failed")
    if error is not None:
        raise error
    return found  # type: ignore[return-value]  # it has not failed


def of_first(value: Any, device: torch.device | None = None) -> Any:
    """Give every process what the first one has: tensors and plain values."""
    if world()[1] == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, device=device)
    return held[0]
