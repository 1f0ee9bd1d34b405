"""Data in a form with which a model runs: as given, as tensors, or as tensors of floats."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.observing import (
    GIVEN,
    BadObservation,
    Node,
    as_tensor,
    describe_value,
    is_derived,
)
from pyro_cookbook.programs.program import Program, slope

# Arguments whose dtype may have to be another for a model to run: all subsets of so many are tried.
_MAX_MIXED = 6


def that_runs(model: Program) -> Program:
    """Give the model on the first form of its data with which its log density can be computed."""
    try:
        height = _computed(model)
    except Exception as error:  # whatever the reader's model raises
        return _converted(model, error)
    better = _with_tensors(model)
    if better is None:
        return model
    try:
        same = torch.isclose(_computed(better), height, rtol=1e-4, equal_nan=True)
    except Exception:  # a model that wants its data as they are
        return model
    return better if bool(same) else model


def _computed(model: Program) -> Tensor:
    """Log density of a model at the latents of its first run."""
    for name, node in model.nodes.items():
        if node["is_observed"] and not is_derived(node):
            check_shape(name, node)
    return slope(model)


def _converted(model: Program, error: Exception) -> Program:
    """Try the data as tensors, then with the fewest of them made floats.

    Raises
    ------
    ValueError
        If none runs, with what the first attempt that should have run says.
    """
    tensors = _map_data(model, _to_tensor) or model
    for other in (tensors, *_as_floats(tensors)):
        try:
            with warnings.catch_warnings(action="ignore"):  # of an attempt, not of the model
                _computed(other)
            return other
        except Exception as its_own:  # as above
            error = its_own if other is tensors else error
    if isinstance(error, BadObservation):
        raise BadObservation(str(error)) from None
    told = f"model: it does not run on these data ({first_line(error)}); got {described(model)}"
    if any(hasattr(value, "columns") for value in (*model.args, *model.kwargs.values())):
        told += "; a table arrives as one tensor: pass its columns, as df['x'], or dict(df)"
    raise ValueError(told) from error


def _with_tensors(model: Program) -> Program | None:
    """Give the model with arrays made tensors, and observations as its sites have them."""
    read = {
        id(node["infer"][GIVEN]): node["value"]
        for node in model.nodes.values()
        if GIVEN in node["infer"]
    }
    return _map_data(model, lambda value: read.get(id(value), _to_tensor(value)))


def _map_data(model: Program, convert: Callable[[Any], Any]) -> Program | None:
    """Give the model with every argument converted; None if that changes nothing."""
    args = tuple(convert(value) for value in model.args)
    kwargs = {key: convert(value) for key, value in model.kwargs.items()}
    before, after = (*model.args, *model.kwargs.values()), (*args, *kwargs.values())
    if all(a is b for a, b in zip(before, after, strict=True)):
        return None
    return replace(model, args=args, kwargs=kwargs)


def _to_tensor(value: Any) -> Any:
    """Make a tensor of an array, a column or a list of numbers; leave everything else."""
    if isinstance(value, Mapping):
        converted = {key: _to_tensor(item) for key, item in value.items()}
        changed = any(converted[key] is not value[key] for key in value)
        return converted if changed and type(value) is dict else value
    is_list = type(value) in {list, tuple} and len(value) > 0
    if isinstance(value, Tensor) or not (is_list or hasattr(value, "__array__")):
        return value
    tensor = as_tensor(value)
    return value if tensor is None else tensor


def _as_floats(model: Program) -> Iterator[Program]:
    """Give the model with tensors made floats of the default dtype, the fewest first."""
    dtype = torch.get_default_dtype()
    given = (*model.args, *model.kwargs.values())
    others = [value for value in given if isinstance(value, Tensor) and value.dtype != dtype]
    others.sort(key=Tensor.is_floating_point)  # whole numbers are likelier
    sizes = range(1, len(others) + 1) if len(others) <= _MAX_MIXED else (1, len(others))
    for chosen in chain.from_iterable(combinations(map(id, others), size) for size in sizes):
        other = _map_data(model, partial(_to_dtype, chosen=chosen, dtype=dtype))
        if other is not None:
            yield other


def _to_dtype(value: Any, chosen: tuple[int, ...], dtype: torch.dtype) -> Any:
    return value.to(dtype) if id(value) in chosen else value


def signature_of(function: Any) -> inspect.Signature:
    """Give the signature that a function is called by."""
    return inspect.signature(function.forward if isinstance(function, nn.Module) else function)


def described(program: Program) -> str:
    """Name every argument with its type and shape."""
    try:
        bound = signature_of(program.function).bind_partial(*program.args, **program.kwargs)
        given = dict(bound.arguments)
    except (TypeError, ValueError):
        given = {f"argument {i}": value for i, value in enumerate(program.args)} | program.kwargs
    shown = [f"{name}: {describe_value(value)}" for name, value in given.items()]
    return ", ".join(shown) or "no data"


def check_shape(name: str, node: Node) -> None:
    """Refuse observations whose shape does not go with their distribution's.

    Raises
    ------
    BadObservation
        If the shapes do not go together, or an observation would be counted more than once.
    """
    fn, value = node["fn"], node["value"]
    if not value.numel():  # a bare pyro.factor
        return
    batch = value.shape[: value.dim() - fn.event_dim]
    try:
        # NumPy's: torch's imports sympy, half a second.
        rows = torch.Size(np.broadcast_shapes(batch, fn.batch_shape))
    except ValueError:
        raise BadObservation(
            f"site {name!r}: observations of shape {tuple(value.shape)} do not fit a distribution"
            f" of batch shape {tuple(fn.batch_shape)}"
        ) from None
    # One column of a table, shape (n, 1), against a plate of n rows: n × n pairs.
    is_column = len(batch) > 1 and batch[-1] == 1 < batch[-2]
    if is_column and fn.batch_shape[-2:] == (batch[-2], batch[-2]):
        raise BadObservation(
            f"site {name!r}: observations of shape {tuple(value.shape)} against a distribution of"
            f" batch shape {tuple(fn.batch_shape)} would each be counted {batch[-2]} times; give a"
            f" column of shape ({batch[-2]},)"
        )
    if rows.numel() > max(batch.numel(), torch.Size(fn.batch_shape).numel()):
        raise BadObservation(
            f"site {name!r}: observations of shape {tuple(value.shape)} against a distribution of"
            f" batch shape {tuple(fn.batch_shape)} would be counted {rows.numel()} times; give"
            " both the same shape"
        )
