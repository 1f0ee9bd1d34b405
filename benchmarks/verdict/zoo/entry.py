"""What one model of the zoo is, and the small tools that its data need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Moments = dict[str, tuple[np.ndarray, np.ndarray]]
Draws = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One model, its data, and where its true posterior moments come from.

    Parameters
    ----------
    name : str
        Unique in the zoo.
    kind : str
        The class it is counted under: ``linear``, ``glm``, ``hierarchical``, ``time series``,
        ``ode``, ``mixture``, ``gp``, ``conjugate``, ``gaussian``, or what is odd about it:
        ``heavy tail``, ``funnel``, ``multimodal``, ``curved``, ``boundary``.
    model : callable
        A Pyro model, called as ``model(*data())`` while torch's default dtype is float64.
    data : callable
        Gives the arguments: float64 values, int64 indices.
    exact : callable, optional
        Gives {site: (mean, sd)} in the model's constrained space, right to 1e-4 sd or better.
    reference_model : callable, optional
        A model of the same posterior, called with the same data, that NUTS samples well.
    reference_map : callable, optional
        Turns {site: (draw, ...)} of the reference model into draws of the model's own sites.

    Notes
    -----
    With neither `exact` nor `reference_model`, NUTS on `model` itself is the reference.
    """

    name: str
    kind: str
    model: Callable[..., Any]
    data: Callable[[], tuple[Tensor, ...]]
    exact: Callable[[], Moments] | None = None
    reference_model: Callable[..., Any] | None = None
    reference_map: Callable[[Draws], dict[str, np.ndarray]] | None = None


def tensors(*arrays: Any) -> tuple[Tensor, ...]:
    """Give float64 for numbers, int64 for whole numbers."""
    out = []
    for array in map(np.asarray, arrays):
        whole = np.issubdtype(array.dtype, np.integer)
        out.append(torch.tensor(array, dtype=torch.int64 if whole else torch.float64))
    return tuple(out)


def arrays(data: Callable[[], tuple[Tensor, ...]]) -> list[np.ndarray]:
    """Give the data as NumPy arrays, for the formulas."""
    return [value.numpy() for value in data()]
