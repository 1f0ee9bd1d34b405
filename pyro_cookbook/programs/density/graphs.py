"""A function of a batch of vectors as a graph of tensor operations, once it has been called often.

Pyro's handlers and functorch's cost milliseconds of Python a call, whatever the batch; a graph of
the same operations costs microseconds each. What vmap can follow does not branch on values, so the
graph is the same function at other values too.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_cookbook.programs.density.log_density import batchable, first_line

# So many shapes have a graph.
_MAX_GRAPHS = 6

# log density and its gradient at vectors, shape (S, D): shapes (S,) and (S, D).
Both = tuple[Tensor, Tensor]


class Graphs:
    """Values and gradients of a function of one vector, at many vectors.

    Parameters
    ----------
    one : callable
        Takes a vector, shape (D,), and gives a number, shape ().
    calls_before : int
        The graph of a shape is made at this call.

    Attributes
    ----------
    obstacle : str
        Why there is no graph; "" if there is one, or was none wanted yet.
    """

    def __init__(self, one: Callable[[Tensor], Tensor], calls_before: int) -> None:
        self._one, self._calls_before = one, calls_before
        self._calls: Counter[torch.Size] = Counter()
        self._kept: dict[torch.Size, Any] = {}
        self.obstacle = ""

    def __call__(self, z: Tensor) -> Both | None:
        """Give values and gradients at vectors, shape (S, D); None where there is no graph."""
        if self.obstacle:
            return None
        graph = self._kept.get(z.shape)
        if graph is None:
            self._calls[z.shape] += 1
            if self._calls[z.shape] < self._calls_before or len(self._kept) == _MAX_GRAPHS:
                return None
            graph = self._trace(z)
            if graph is None:
                return None
        try:
            with torch.no_grad():
                value, gradient = graph(z)
        except torch.linalg.LinAlgError:  # at some of the vectors: one by one shows which
            return None
        # In older versions of torch a singular matrix gives no error in a graph, but NaN.
        return None if bool(value.isnan().any()) else (value, gradient)

    def _trace(self, z: Tensor) -> Any:
        from torch.fx.experimental.proxy_tensor import make_fx

        def total(batch: Tensor) -> Both:
            values = torch.vmap(self._one)(batch)
            return values.sum(), values

        def both(batch: Tensor) -> Any:
            gradient, (_, values) = torch.func.grad_and_value(total, has_aux=True)(batch)
            return values, gradient

        try:
            with warnings.catch_warnings(), batchable(), pyro.validation_enabled(False):
                warnings.simplefilter("ignore")
                graph: Any = make_fx(both)(z.detach())
        except torch.linalg.LinAlgError:  # at these vectors
            return None
        except Exception as error:  # operators without a trace
            self.obstacle = first_line(error)
            return None
        graph.graph.eliminate_dead_code()
        graph.recompile()
        self._kept[z.shape] = graph
        return graph
