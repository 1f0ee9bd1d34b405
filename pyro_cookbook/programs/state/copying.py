"""Copies of programs and of their parameters: a fit owns what it returns.

Programs are copied before they are trained or kept, a param store before it is kept.
"""

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

import pyro
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.program import Program, run_once
from pyro_cookbook.programs.state.isolation import exclusive, isolated, keep


def modules_of(program: Any) -> list[nn.Module]:
    """Return the outermost modules behind a program: itself, a method's object, what it wraps.

    ``functools.partial`` and Pyro's handlers (``poutine.condition(model, …)``) wrap.
    """
    if isinstance(program, nn.Module):
        return [program]
    inside: tuple[Any, ...] = ()
    if isinstance(program, MethodType):
        inside = (program.__self__,)
    elif isinstance(program, functools.partial):
        inside = (program.func, *program.args, *program.keywords.values())
    return list(dict.fromkeys(module for part in inside for module in modules_of(part)))


def copy_programs(model: Program, guide: Any = None) -> tuple[Program, Any]:
    """Copy both programs, together: a guide may hold its model.

    Parameters
    ----------
    model : Program
        The copies take the dtype and the place of its first float tensor. Without any they keep
        their own.
    guide : callable, or anything else (the name of a family), which is copied too

    Returns
    -------
    model, guide
        With parameters that live in their modules wherever the copies are called, whatever Pyro's
        ``module_local_params`` says then. Functions are as they were, they cannot be copied: the
        weights that they register by ``pyro.module`` are kept in the store that `isolated` yields.

    Raises
    ------
    ValueError
        If a module holds something that cannot be copied.
    """
    with exclusive():  # an automatic guide has no model while it is copied
        function, guide = _copied(model.function, guide)
    floats = [
        value
        for value in (*model.args, *model.kwargs.values())
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    for program in (function, guide):
        keep_parameters_local(program)
        for module in modules_of(program) if floats else ():
            module.to(device=floats[0].device, dtype=floats[0].dtype)
    # A function is its own copy: what is known of the program stays.
    return (model if function is model.function else model.of(function)), guide


def _copied(model: Any, guide: Any) -> tuple[Any, Any]:
    """Copy both; an automatic guide forgets its model when it is copied, and so does the copy."""
    parts = _automatic(model, guide)
    held = [(part._model, part.master) for part in parts]
    try:
        with _Detached():
            own_model, own_guide, models = copy.deepcopy((model, guide, [one for one, _ in held]))
    except Exception as error:  # a lock, an open file, whatever a module may hold
        raise ValueError(
            "model, guide: expected programs that can be copied; copy.deepcopy says"
            f" {first_line(error)!r}"
        ) from error
    finally:
        for part, (its_model, master) in zip(parts, held, strict=True):
            part._model, part.master = its_model, master
    for part, its_model in zip(_automatic(own_model, own_guide), models, strict=True):
        part._model = its_model
    for module in (*modules_of(own_model), *modules_of(own_guide)):
        keep(module)
    return own_model, own_guide


class _Detached(TorchFunctionMode):
    """Copies tensors that are the outcome of a graph, which torch refuses, out of it.

    Normalising flows remember the last point and its image that way.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            value, memo = args
            memo[id(value)] = value.detach().clone()
            return memo[id(value)]
        return func(*args, **(kwargs or {}))


def _automatic(*programs: Any) -> list[AutoGuide]:
    """Every automatic guide among the parts of programs, each once, in a fixed order."""
    parts = {
        id(part): part
        for program in programs
        for module in modules_of(program)
        for part in module.modules()
        if isinstance(part, AutoGuide)
    }
    return list(parts.values())


class _LocalContext(_Context):
    """A module's context that keeps its parameters in it, whatever the setting at the time.

    Under Pyro's default a module reads its parameters from the global store, by name: two guides of
    one class, each of its own fit, would overwrite each other as soon as both are called.
    """

    def __init__(self, param_state: Mapping[str, dict[str, Any]]) -> None:
        super().__init__()
        self.param_state: Any = param_state
        self._before = False

    def __enter__(self) -> None:
        if not self.active:
            self._before = pyro.settings.get("module_local_params")
            pyro.settings.set(module_local_params=True)
        super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if not self.active:
            pyro.settings.set(module_local_params=self._before)


def keep_parameters_local(program: Any) -> None:
    """Let a program of our own keep its parameters in its modules, outside `isolated` as well."""
    contexts: dict[int, _LocalContext] = {}
    for module in modules_of(program):
        for part in module.modules():
            if isinstance(part, PyroModule) and not isinstance(part._pyro_context, _LocalContext):
                old = part._pyro_context  # one for all parts of a module
                if id(old) not in contexts:
                    store = getattr(old, "param_state", {"params": {}, "constraints": {}})
                    contexts[id(old)] = _LocalContext(store)
                    contexts[id(old)].used = old.used
                part._pyro_context = contexts[id(old)]


def copy_store(state: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Copy the state of a param store: no later training reaches the copy.

    Parameters
    ----------
    state : mapping
        As ``pyro.get_param_store().get_state()`` gives it; {} for none.

    Returns
    -------
    dict
        With the tensors cloned, out of any graph, with or without gradients as they were; the
        constraints are the same objects.
    """
    copies: dict[int, Tensor] = {}  # a tensor under two names stays one

    def copied(value: Tensor) -> Tensor:
        if id(value) not in copies:
            own = value.detach().clone()
            copies[id(value)] = (
                nn.Parameter(own, value.requires_grad)
                if isinstance(value, nn.Parameter)
                else own.requires_grad_(value.requires_grad)
            )
        return copies[id(value)]

    return {
        key: {
            name: copied(value) if isinstance(value, Tensor) else value
            for name, value in held.items()
        }
        for key, held in state.items()
    }


def copy_global_store() -> dict[str, dict[str, Any]]:
    """Copy what Pyro's global param store holds now: {} where it is empty."""
    state: Any = pyro.get_param_store().get_state()
    return copy_store(state) if state["params"] else {}


def copy_as_trained(model: Program, guide: Any = None) -> tuple[Program, Any]:
    """Copy programs that a loop of the caller's has trained, with what the global store holds.

    Parameters
    ----------
    model : Program
    guide : callable or None

    Returns
    -------
    model : Program
        As `copy_programs` gives it, in its own dtype; its store is a copy of Pyro's global one.
    guide : callable or None

    Notes
    -----
    Under Pyro's default the store is what counts: a module built after ``param_store.load(…)``
    takes its values when it is first called. The copies are called once, to take them too.
    """
    store = copy_global_store()
    with exclusive():
        is_global = store and not pyro.settings.get("module_local_params")
        function, guide = _copied(model.function, guide)
        own = replace(model, function=function, store=store)
        if is_global:
            with isolated(0, store):
                pyro.settings.set(module_local_params=False)
                for program in (guide, function) if guide is not None else (function,):
                    run_once(own.of(program))
    for program in (function, guide):
        keep_parameters_local(program)
    return own, guide
