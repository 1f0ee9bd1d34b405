"""`save` and `load`: a fit as one file of tensors and plain values; loading runs no code of it."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_cookbook.engines import families
from pyro_cookbook.fits import checkpoint
from pyro_cookbook.fits.result import Estimate, Fit, Mode, Programs, Restart
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.noncentring import noncentre
from pyro_cookbook.programs.program import Function, Program, quietly

# Programs of these packages are found again by name; any other must be handed to `load`.
OWN_PACKAGES = ("models", "guides")
_VERSION = 1


def save(fit: Fit, path: str | Path) -> None:
    """Write a fit to a file.

    Parameters
    ----------
    fit : Fit
    path : path
        Replaced whole, or left as it was if something fails.

    Raises
    ------
    TypeError
        If an argument of the model is neither a tensor, an array nor a plain value, naming it.
    """
    names = [f"argument {i}" for i in range(len(fit.args))]
    content = {
        "kind": "fit",
        "version": _VERSION,
        "model": _reference(fit.model),
        "guide": "" if families.is_named(fit.family) else _reference(fit.guide),
        "model_state": _state(fit.model),
        "guide_state": _state(fit.guide),
        "param_state": _encode_store(fit.param_state),
        "args": [_encode(value, name) for value, name in zip(fit.args, names, strict=True)],
        "kwargs": {key: _encode(value, key) for key, value in fit.kwargs.items()},
        "family": fit.family,
        "seed": fit.seed,
        "losses": torch.as_tensor(fit.losses),
        "elbo": [fit.elbo.value, fit.elbo.se],
        "converged": fit.converged,
        "reason": fit.reason,
        "seconds": fit.seconds,
        "restarts": [[r.seed, r.elbo.value, r.elbo.se, r.converged, r.steps] for r in fit.restarts],
        "engine": [fit.engine, fit.why],
        "modes": [list(vars(mode).values()) for mode in fit.modes],
        "lost_starts": fit.lost_starts,
        "noncentred": list(fit.noncentred),
    }
    checkpoint.write(content, Path(path))


def load(path: str | Path, *, model: Function | None = None, guide: Function | None = None) -> Fit:
    """Read a fit back.

    Parameters
    ----------
    path : path
    model, guide : callable, optional
        The programs, built as before the fit; their parameters are filled in on copies. Needed
        unless they are the cookbook's own, or (the guide) a family by name.

    Returns
    -------
    Fit

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged or of another kind, or a program is needed or does not fit
        the saved parameters.
    """
    path = Path(path)
    content = checkpoint.read(path, "fit")
    if content["version"] != _VERSION:
        raise ValueError(f"{path}: format {content['version']}, this release reads {_VERSION}")
    args = tuple(_decode(value) for value in content["args"])
    kwargs = {key: _decode(value) for key, value in content["kwargs"].items()}
    store = _decode_store(content["param_state"])
    with isolated(content["seed"], store):
        model = _rebuild(model, content["model"], content["model_state"], "model", path)
        sites = tuple(content.get("noncentred", ()))
        if sites:
            model = noncentre(Program(model, args, kwargs), sites)[0].function
        if content["guide"] == "" and guide is None:
            name = families.STORED_AS.get(content["family"], content["family"])
            factor = content["guide_state"].get("cov_factor")
            rank = None if factor is None else factor.shape[1]
            guide = families.build(name, Program(model, args, kwargs), rank=rank)
            with quietly():
                guide(*args, **kwargs)  # an auto-guide makes its parameters when first called
            _fill(guide, content["guide_state"], "guide", path)
        else:
            guide = _rebuild(guide, content["guide"], content["guide_state"], "guide", path)
    program = Program(model, args, kwargs, store)
    return Fit(
        programs=Programs(program, program.of(guide)),
        family=content["family"],
        seed=content["seed"],
        losses=content["losses"].numpy(),
        elbo=Estimate(*content["elbo"]),
        converged=content["converged"],
        reason=content["reason"],
        seconds=content["seconds"],
        restarts=tuple(
            Restart(seed, Estimate(value, se), converged, steps)
            for seed, value, se, converged, steps in content["restarts"]
        ),
        engine=content.get("engine", ("", ""))[0],
        why=content.get("engine", ("", ""))[1],
        modes=tuple(Mode(*mode) for mode in content.get("modes", ())),
        lost_starts=content.get("lost_starts", 0),
        noncentred=sites,
    )


def _reference(program: Any) -> dict[str, Any]:
    """Name a program, with the plain arguments its class is built from."""
    target = type(program) if isinstance(program, nn.Module) else program
    name = f"{target.__module__}:{getattr(target, '__qualname__', repr(target))}"
    if not isinstance(program, nn.Module):
        return {"name": name, "init": None}
    init = {}
    for key in inspect.signature(target).parameters:
        value = getattr(program, key, None)
        if not isinstance(value, (bool, int, float, str, tuple, list)):
            return {"name": name, "init": None}
        init[key] = list(value) if isinstance(value, tuple) else value
    return {"name": name, "init": init}


def _find(name: str) -> Any:
    """Import a program of our own packages by name; None for any other."""
    module, _, qualname = name.partition(":")
    if module.split(".")[0] not in OWN_PACKAGES or "." in qualname or qualname.startswith("_"):
        return None
    return getattr(importlib.import_module(module), qualname, None)


def _rebuild(
    program: Function | None, reference: Any, state: dict[str, Tensor], role: str, path: Path
) -> Function:
    if program is None:
        found = _find(reference["name"]) if reference else None
        is_class = inspect.isclass(found)
        if found is None or (is_class and reference["init"] is None):
            name = reference["name"] if reference else "?"
            raise ValueError(
                f"{path}: its {role} is {name.replace(':', '.')}, not one of the cookbook's own;"
                f" pass it: load(path, {role}=…)"
            )
        program = found(**reference["init"]) if is_class else found
    elif isinstance(program, nn.Module):
        import copy  # the caller's module stays as it is

        program = copy.deepcopy(program)
    if isinstance(program, nn.Module):
        _fill(program, state, role, path)
    elif state:
        raise ValueError(f"{role}: the fit in {path} is of a module, got a function")
    assert program is not None
    return program


def _fill(program: nn.Module, state: dict[str, Tensor], role: str, path: Path) -> None:
    floats = [value for value in state.values() if value.is_floating_point()]
    if floats:
        program.to(floats[0].dtype)
    try:
        program.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ValueError(f"{role}: does not fit the parameters in {path}: {first}") from error


def _state(program: Any) -> dict[str, Tensor]:
    return dict(program.state_dict()) if isinstance(program, nn.Module) else {}


def _encode_store(store: Mapping[str, Any]) -> dict[str, Any]:
    # Constraints are objects; what is kept is the constrained value and the constraint's name.
    if not store.get("params"):
        return {}
    return {
        "params": dict(store["params"]),
        "constraints": {
            name: type(constraint).__name__ + ":" + repr(constraint)
            for name, constraint in store["constraints"].items()
        },
    }


def _decode_store(store: Mapping[str, Any]) -> dict[str, Any]:
    if not store:
        return {}
    return {
        "params": dict(store["params"]),
        "constraints": {
            name: _constraint(text, name) for name, text in store["constraints"].items()
        },
    }


def _constraint(text: str, name: str) -> Any:
    from pyro.distributions import constraints

    known = {
        type(value).__name__ + ":" + repr(value): value
        for key in constraints.__all__
        if not inspect.isclass(value := getattr(constraints, key)) and not callable(value)
    }
    if text not in known:
        raise ValueError(f"param {name!r}: its constraint ({text}) cannot be restored")
    return known[text]


def _encode(value: Any, name: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        return value
    if isinstance(value, np.ndarray):
        return {"array": torch.as_tensor(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        reference = f"{type(value).__module__}:{type(value).__qualname__}"
        if _find(reference) is not None:
            fields = {key: _encode(item, name) for key, item in value._asdict().items()}
            return {"fields": fields, "name": reference}
    elif isinstance(value, (list, tuple)):
        return {"list": [_encode(item, name) for item in value], "name": type(value).__name__}
    elif isinstance(value, dict):
        return {"dict": {key: _encode(item, name) for key, item in value.items()}}
    raise TypeError(
        f"{name}: cannot save a {type(value).__name__}; expected tensors, arrays, numbers, strings,"
        " and lists, tuples or dicts of them"
    )


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return value["array"].numpy()
    if "fields" in value:
        found = _find(value["name"])
        if found is None:
            raise ValueError(f"argument of type {value['name']}: not one of the cookbook's own")
        return found(**{key: _decode(item) for key, item in value["fields"].items()})
    if "list" in value:
        items = [_decode(item) for item in value["list"]]
        return tuple(items) if value["name"] == "tuple" else items
    return {key: _decode(item) for key, item in value["dict"].items()}
