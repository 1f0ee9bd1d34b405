"""Copies of programs: the ones given to `fit` stay as they are."""

import copy
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from pyro_cookbook.programs.isolation import adopt
from pyro_cookbook.programs.program import Program


def copy_programs(model: Program, guide: Any = None) -> tuple[Program, Any]:
    """Copy both programs, together: a guide may hold its model; in the data's dtype and place."""
    function, guide = _copied(model.function, guide)
    floats = [
        value
        for value in (*model.args, *model.kwargs.values())
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    for program in (function, guide):
        adopt(program)
        if isinstance(program, nn.Module) and floats:
            program.to(device=floats[0].device, dtype=floats[0].dtype)
    return (model if function is model.function else model.of(function)), guide


def _copied(model: Any, guide: Any) -> tuple[Any, Any]:
    """Copy both; an automatic guide forgets its model when it is copied, and so does the copy."""

    def parts(program: Any) -> list[AutoGuide]:
        modules = program.modules() if isinstance(program, nn.Module) else ()
        return [part for part in modules if isinstance(part, AutoGuide)]

    held = [(part._model, part.master) for part in parts(guide)]
    own_model, own_guide, models = copy.deepcopy((model, guide, [one for one, _ in held]))
    for part, (its_model, master) in zip(parts(guide), held, strict=True):
        part._model, part.master = its_model, master
    for part, its_model in zip(parts(own_guide), models, strict=True):
        part._model = its_model
    return own_model, own_guide
