"""Hold a model's parameters θ at given values: what is left to infer is the posterior of h."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from pyro.nn import PyroModule
from torch import Tensor


def hold[M: PyroModule](model: M, theta: Any) -> M:
    """Set a model's parameters to given values, and freeze them.

    A fit of the model then moves the guide alone. `requires_grad_(True)` on the result frees the
    parameters again, for learning that is to start at `theta`.

    Parameters
    ----------
    model : PyroModule
        A model whose parameters are θ and nothing else, such as
        `models.factor_analysis.FactorAnalysis`. It is changed in place.
    theta : mapping or dataclass
        A value for every parameter, by name, in the parameter's own units and shape; such as what
        the algorithms return. The model gets copies. What else it names, such as the `rate` of
        sparse coding, has to be what the model was made with.

    Returns
    -------
    PyroModule
        The model. Its parameters have the dtype and device of `theta`.

    Raises
    ------
    TypeError
        If `theta` is neither a mapping nor a dataclass.
    ValueError
        If a parameter has no value, or one of another shape or outside its support, or if `theta`
        names something that is not the model's.

    Examples
    --------
    >>> import pyro_cookbook as pc
    >>> from models.explaining_away import ExplainingAway
    >>> model = pc.hold(ExplainingAway(num_causes=2), {"w": [1.5, 2.0]})
    >>> model.w.tolist(), model.w.requires_grad
    ([1.5, 2.0], False)
    """
    values, parameters = _by_name(theta), dict(model.named_pyro_params())
    _check_names(model, values, parameters)
    plain = dict(model.named_parameters())  # those without a constraint of Pyro's
    for name, now in parameters.items():
        value = _like(now, name, values[name])
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if name in plain:
            plain[name].data = value
        else:
            setattr(module, leaf, value)
        held = getattr(module, leaf).detach()
        if not torch.allclose(held, value, rtol=1e-4, atol=1e-6):
            raise ValueError(f"theta.{name}: got a value outside the parameter's support")
    model.requires_grad_(False)
    return model


def _by_name(theta: Any) -> dict[str, Any]:
    if isinstance(theta, Mapping):
        return dict(theta)
    if is_dataclass(theta) and not isinstance(theta, type):
        return {field.name: getattr(theta, field.name) for field in fields(theta)}
    raise TypeError(f"theta: got a {type(theta).__name__}, expected a mapping or a dataclass")


def _check_names(
    model: PyroModule, values: Mapping[str, Any], parameters: Mapping[str, Any]
) -> None:
    expected = ", ".join(parameters)
    for name in parameters:
        if name not in values:
            raise ValueError(f"theta: got no {name!r}, expected {expected}")
    for name, value in values.items():
        if name in parameters:
            continue
        made_with = getattr(model, name, None)
        if made_with is None:
            raise ValueError(f"theta: got {name!r}, expected {expected} alone")
        if not np.array_equal(made_with, value):
            raise ValueError(
                f"theta.{name}: got {value}, expected {made_with}, which the model was made with"
            )


def _like(now: Tensor, name: str, value: Any) -> Tensor:
    """Copy a value, which has to have the shape that the parameter has now."""
    copy = torch.as_tensor(value).detach().clone()
    if copy.shape != now.shape:
        raise ValueError(
            f"theta.{name}: got shape {tuple(copy.shape)}, expected {tuple(now.shape)}"
        )
    return copy if copy.is_floating_point() else copy.to(now.dtype)
