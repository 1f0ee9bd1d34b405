"""Numbers that Pyro's estimators take out of tensors, as sums to be computed from later tensors.

`Trace_ELBO` adds up its loss in Python, of the log densities' numbers. A graph of tensors cannot
follow it there. While a graph is made the numbers are therefore names, and the loss a formula of
them: Python computes it from the graph's log densities as it would have.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Number
from typing import Any

from pyro.infer import ELBO
from torch import Tensor


class Sum:
    """A formula in Python of numbers that are not there yet."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __neg__(self) -> "Sum":
        return Sum(f"(-{self.text})")

    def __add__(self, other: Any) -> "Sum":
        return Sum(f"({self.text} + {_text(other)})")

    def __radd__(self, other: Any) -> "Sum":
        return Sum(f"({_text(other)} + {self.text})")

    def __sub__(self, other: Any) -> "Sum":
        return Sum(f"({self.text} - {_text(other)})")

    def __rsub__(self, other: Any) -> "Sum":
        return Sum(f"({_text(other)} - {self.text})")

    def __truediv__(self, other: Any) -> "Sum":
        return Sum(f"({self.text} / {_text(other)})")


def _text(value: Any) -> str:
    if isinstance(value, Sum):
        return value.text
    if isinstance(value, Number):
        return repr(value)
    raise TypeError(f"the loss is made of a {type(value).__name__}")


@contextmanager
def taken_out(elbo: ELBO) -> Iterator[list[Tensor]]:
    """Let an estimator make its loss a `Sum`, for a block.

    Yields
    ------
    list of Tensor
        What numbers were taken out of: term 0, 1, … of the sum.
    """
    terms: list[Tensor] = []

    def item(value: Any) -> Any:
        if isinstance(value, Number):
            return value
        terms.append(value.detach())
        return Sum(f"t[{len(terms) - 1}]")

    names = {"torch_item": item, "warn_if_nan": lambda *_, **__: None}
    modules = {sys.modules[base.__module__] for base in type(elbo).__mro__}
    kept = [(m, name, vars(m)[name]) for m in modules for name in names if name in vars(m)]
    try:
        for module, name, _ in kept:
            setattr(module, name, names[name])
        yield terms
    finally:
        for module, name, theirs in kept:
            setattr(module, name, theirs)


def formula(loss: Any) -> Callable[[Sequence[float]], float]:
    """Give the function of the terms that a loss is."""
    computed: Callable[[Sequence[float]], float] = eval(f"lambda t: float({_text(loss)})")
    return computed
