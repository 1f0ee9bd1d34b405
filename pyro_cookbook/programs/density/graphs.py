"""A function of a batch of vectors as a graph of tensor operations, once it has been called often.

Pyro's handlers and functorch's cost milliseconds of Python a call, whatever the batch; a graph of
the same operations costs microseconds each. What vmap can follow does not branch on values, so the
graph is the same function at other values too.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_cookbook.programs.density.batching import batchable
from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.density.recording import record
from pyro_cookbook.programs.density.simplifying import as_function, simplify

# So many shapes have a graph.
_MAX_GRAPHS = 6

# log density and its gradient at vectors, shape (S, D): shapes (S,) and (S, D).
Both = tuple[Tensor, Tensor]


def _value_and_gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> Both:
    """Values of a function and the gradient of their sum.

    Not by ``torch.func``, which imports PyTorch's compiler.
    """
    with torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


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
        def both(batch: Tensor) -> Both:
            return _value_and_gradient(torch.vmap(self._one), batch)

        try:
            with warnings.catch_warnings(), batchable(), pyro.validation_enabled(False):
                warnings.simplefilter("ignore")
                graph = as_function(simplify(record(both, z.detach())))
        except torch.linalg.LinAlgError:  # at these vectors
            return None
        except Exception as error:  # operators without a trace
            self.obstacle = first_line(error)
            return None
        self._kept[z.shape] = graph
        return graph


def graph_of_one(
    one: Callable[[Tensor], Tensor], dim: int, dtype: torch.dtype, *, obstacle: str
) -> Callable[[Tensor], Both]:
    """Value and gradient at one vector as a graph, without Python.

    Not by `Graphs`: a graph of a batch of one takes up to 1.8 times as long. Falls back to the
    function itself where the graph is another: one whose course depends on values has none.

    Parameters
    ----------
    one : callable
        Takes a vector, shape (D,), and gives a number, shape ().
    dim : int
        D.
    dtype : torch.dtype
        In which it is computed, whatever the vector's.
    obstacle : str
        Why no graph is to be tried; "" if one is.
    """

    def eager(z: Tensor) -> Both:
        with pyro.validation_enabled(False):
            return _value_and_gradient(one, z.to(dtype))

    if obstacle:
        return eager
    rng = np.random.default_rng(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pyro.validation_enabled(False):
                graph = as_function(simplify(record(eager, torch.zeros(dim, dtype=dtype))))

        def run(z: Tensor) -> Both:
            with torch.no_grad():
                value, gradient = graph(z.to(dtype))
            return value, gradient

        for scale in (0.0, 0.3, 1.0):
            z = torch.as_tensor(scale * rng.standard_normal(dim)).to(dtype)
            for a, b in zip(run(z), eager(z), strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)
    except Exception:  # operators without a trace, branches on values
        return eager
    return run
