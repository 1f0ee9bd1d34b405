"""What Pyro's estimator asks of values while it enumerates, answered while a graph is made.

`TraceEnum_ELBO` takes its loss out of a tensor, and asks of each batch of probabilities by which it
weighs costs whether all are above 0: where one is exactly 0, its cost is left out. A graph is made
as if all were, and the answers are among its results: an estimate by it counts if they are yes.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_cookbook.engines.traced.sums import Sum

# Of Pyro's files, the one that takes the loss out, and the one that weighs costs.
_TAKES, _WEIGHS = "pyro.infer.traceenum_elbo", "pyro.infer.util"


class OtherwiseError(Exception):
    """Some probability is 0, which a graph has taken to be more."""


@contextmanager
def answered(elbo: ELBO, terms: list[Tensor]) -> Iterator[list[Tensor]]:
    """Answer what an estimator that enumerates asks, for a block; of others nothing is asked.

    Parameters
    ----------
    elbo : ELBO
    terms : list of Tensor
        As of `taken_out`, whose block is around: what its loss is a sum of is added.

    Yields
    ------
    list of Tensor
        What was taken to be true, each of shape ().
    """
    assumed: list[Tensor] = []
    if not isinstance(elbo, TraceEnum_ELBO):
        yield assumed
        return
    with _Answers(terms, assumed):
        yield assumed


class _Answers(TorchFunctionMode):
    def __init__(self, terms: list[Tensor], assumed: list[Tensor]) -> None:
        super().__init__()
        self._terms, self._assumed = terms, assumed

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        asking = _caller()  # not a model, which may ask anything
        if func is torch.Tensor.item and asking == _TAKES:
            self._terms.append(args[0].detach())
            return Sum(f"t[{len(self._terms) - 1}]")
        if func is torch.Tensor.__bool__ and asking == _WEIGHS:
            self._assumed.append(args[0].detach())
            return True
        return func(*args, **(kwargs or {}))


def _caller() -> str | None:
    """Name the module that calls a function of torch; other modes may have passed it on."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__torch_function__" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_globals.get("__name__")
