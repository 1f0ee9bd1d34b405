"""The caller's global state: RNG, param store, Pyro settings, default dtype. Used and put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from threadpoolctl import threadpool_limits
from torch import nn


@contextmanager
def isolated(seed: int | None, param_state: Any = None) -> Iterator[Any]:
    """Run a block with its own seed and param store, and leave no trace of it.

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
        ``pyro.param`` outside a module.
    """
    rng_state = pyro.util.get_rng_state()
    dtype = torch.get_default_dtype()
    own: Any = {"params": {}, "constraints": {}}
    if param_state:
        own = {key: dict(value) for key, value in param_state.items()}
    try:
        with (
            # NumPy's threads and torch's wait for each other: small products take ten times longer
            threadpool_limits(1, user_api="blas"),
            pyro.settings.context(module_local_params=True),
            pyro.get_param_store().scope(own) as state,
        ):
            if seed is not None:
                pyro.set_rng_seed(seed)
            yield state
    finally:
        pyro.util.set_rng_state(rng_state)
        torch.set_default_dtype(dtype)


def adopt(program: Any) -> None:
    """Give modules built before ``module_local_params`` was set a param store of their own."""
    for module in program.modules() if isinstance(program, nn.Module) else ():
        if isinstance(module, PyroModule):
            context = module._pyro_context
            if not hasattr(context, "param_state"):
                context.param_state = {"params": {}, "constraints": {}}
