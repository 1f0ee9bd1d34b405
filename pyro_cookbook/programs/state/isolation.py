"""The caller's global state: used under one lock, and put back.

Pyro keeps its handlers, its param store, its settings and the random streams once for the whole
process, and OpenMP its threads. Whatever runs a program does so inside `isolated`.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.nn.module import _Context
from pyro.params.param_store import _MODULE_NAMESPACE_DIVIDER
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_cookbook.programs.options import as_seed
from pyro_cookbook.programs.state.interruption import heeding_interrupts

# Re-entrant: a fit diagnoses, a diagnosis draws, and each isolates itself.
_lock = threading.RLock()

# What sets how OpenMP's idle threads wait, in libgomp, libomp and Intel's. The package's
# `__init__` sets the first if torch has not loaded its runtime yet.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
IDLE_THREADS_SPIN = not any(name in os.environ for name in WAIT_VARIABLES)


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock was not copied and never gives it back."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def exclusive() -> Iterator[None]:
    """Keep every other thread out of `isolated` for a block: to fork, or to copy programs."""
    with _lock:
        yield


@contextmanager
def calm_threads() -> Iterator[None]:
    """Compute in one torch thread where idle ones would spin; also a decorator.

    Threads of OpenMP wait for work by spinning. Beside other busy processes they use up the time
    that the thread they wait for needs, and the block gets ten to thirty times slower; see
    ``benchmarks/contention.md``. The runtime reads how to wait once, when it is loaded: where torch
    was imported before this package, and ``OMP_WAIT_POLICY`` is not set, one thread is the only
    setting that cannot collapse. The number of threads is as it was after the block.
    """
    if not IDLE_THREADS_SPIN:
        yield
        return
    with exclusive(), _threads_put_back():
        torch.set_num_threads(1)
        yield


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Give every operation of torch one thread for a block, and say how many it had.

    Where operations are short, threads of Python that each run their own wait less than those of
    OpenMP, which meet after every operation. The number is as it was after the block.
    """
    with exclusive(), _threads_put_back():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield threads


@contextmanager
def _threads_put_back() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def isolated(seed: int | None, param_state: Any = None) -> Iterator[Any]:
    """Run a block with its own seed and param store, alone, and leave no trace of it.

    Inside, parameters live in the `PyroModule` that owns them (Pyro's ``module_local_params``),
    whichever way the module was built. A network that a function registers by ``pyro.module`` has
    weights of the block's own, from `param_state` where it has them. Other threads wait.

    Parameters
    ----------
    seed : int or None
        Seeds torch, NumPy and `random` for the block. None continues the caller's streams, which
        are put back all the same.
    param_state : dict, optional
        A param store to start from, as yielded by an earlier block.

    Yields
    ------
    dict
        The block's param store, filled when the block ends: empty unless a program calls
        ``pyro.param`` or ``pyro.module`` outside a `PyroModule`.
    """
    own: Any = {"params": {}, "constraints": {}}
    if param_state:
        own = {key: dict(value) for key, value in param_state.items()}
    with (
        exclusive(),
        heeding_interrupts(),
        _threads_put_back(),
        calm_threads(),
        _streams_put_back(),
        # NumPy's threads and torch's wait for each other: small products take ten times longer
        threadpool_limits(1, user_api="blas"),
        pyro.settings.context(**pyro.settings.get()),
        np.errstate(),
        torch.enable_grad(),
        _every_module_has_a_store(),
        pyro.get_param_store().scope(own) as state,
        _networks_lent(),
    ):
        pyro.settings.set(module_local_params=True)
        if seed is not None:
            pyro.set_rng_seed(as_seed(seed))
        yield state


@contextmanager
def _streams_put_back() -> Iterator[None]:
    rng_state = pyro.util.get_rng_state()
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        pyro.util.set_rng_state(rng_state)
        torch.set_default_dtype(dtype)


class _OwnStore:
    """The param store of a module built without ``module_local_params``: its own, empty at first.

    Pyro gives one to modules built under the setting only, and reads it of all.
    """

    def __get__(self, context: Any, owner: type) -> dict[str, dict[str, Any]]:
        return {"params": {}, "constraints": {}}


@contextmanager
def _every_module_has_a_store() -> Iterator[None]:
    if "param_state" in vars(_Context):  # an outer block's
        yield
        return
    contexts: Any = _Context  # declares it as an attribute of its objects alone
    contexts.param_state = _OwnStore()
    try:
        yield
    finally:
        del contexts.param_state


def keep(module: nn.Module) -> None:
    """Mark a module as our own: its weights need not be put back, nor come from a param store."""
    for parameter in module.parameters():
        vars(parameter)["is_kept"] = True


@contextmanager
def _networks_lent() -> Iterator[None]:
    """Lend the block the networks that functions register by ``pyro.module``, and put them back.

    A function cannot be copied, nor can what it refers to: its network is the caller's. Without
    this a fit would train it in place, and a later fit would change what an earlier one has learnt.
    """
    store: Any = pyro.get_param_store()
    outer = vars(store).get("setdefault")
    lent: dict[str, tuple[nn.Parameter, Tensor, Tensor | None]] = {}

    def setdefault(name: str, value: Any, *constraint: Any, **named: Any) -> Tensor:
        is_weight = _MODULE_NAMESPACE_DIVIDER in name and isinstance(value, nn.Parameter)
        if is_weight and name not in lent and "is_kept" not in vars(value):
            lent[name] = value, value.data, value.grad
            value.data = store._params.get(name, value).detach().clone()
            value.grad = None
            store._params[name], store._param_to_name[value] = value, name
            store._constraints[name] = constraints.real
        found: Tensor = type(store).setdefault(store, name, value, *constraint, **named)
        return found

    store.setdefault = setdefault
    try:
        yield
    finally:
        del store.setdefault
        if outer is not None:
            store.setdefault = outer
        for name, (value, data, grad) in lent.items():
            if store._params.get(name) is value:  # else the program has removed it
                store._params[name] = nn.Parameter(value.data, value.requires_grad)
            value.data, value.grad = data, grad
