"""The stochastic engine's starts: SVI from each, the best one kept."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from pyro_cookbook.engines import families
from pyro_cookbook.engines.multistart import NoStart, find_start
from pyro_cookbook.engines.svi import SVI, NonFiniteELBO, Options
from pyro_cookbook.fits.checkpoint import Checkpoint
from pyro_cookbook.programs.checks import first_run, same_sites
from pyro_cookbook.programs.copying import copy_programs
from pyro_cookbook.programs.drawing import Program, describe
from pyro_cookbook.programs.isolation import isolated
from pyro_cookbook.programs.unconstrained import FlatDensity


@dataclass
class Ended:
    """How one start ended."""

    model: Program
    guide: Program
    family: str
    seed: int
    run: SVI
    store: dict[str, Any]
    failure: NonFiniteELBO | None = None


def run_starts(
    model: Program,
    guide: Program | str,
    args: Any,
    kwargs: Any,
    *,
    seed: int,
    options: Options,
    num_restarts: int,
    saved: Checkpoint,
    progress: bool | None,
) -> Iterator[Ended]:
    """Run SVI from every start, one after the other.

    Raises
    ------
    NonFiniteELBO
        If the very first estimate is not finite.
    ValueError
        If several starts are asked for and nothing can be drawn anew, or the sites do not match.
    """
    for r in range(num_restarts):
        with isolated(seed + r) as store:
            one_model, one_guide, family = _instantiate(model, guide, args, kwargs, num_restarts)
            run = SVI(one_model, one_guide, args, kwargs, options)
            failure: NonFiniteELBO | None = None
            try:
                if not isinstance(guide, str) and not options.batch_size:
                    _compare_sites(one_model, one_guide, args, kwargs)
                run.prepare()
                if r in saved.starts:
                    run.load_state_dict(saved.starts[r])
                with _progress(progress, run, f"start {r + 1} of {num_restarts}") as bar:
                    run.run(partial(_report, bar=bar, saved=saved, start=r))
            except NonFiniteELBO as error:
                if not error.step:  # nothing was fitted
                    raise
                failure = error
                run.reason = str(error).split(";", maxsplit=1)[0]
            except KeyboardInterrupt:
                saved.save(r, run.state_dict())
                raise
            if failure is None:
                saved.save(r, run.state_dict())
        yield Ended(one_model, one_guide, family, seed + r, run, store, failure)


def _compare_sites(model: Program, guide: Program, args: Any, kwargs: Any) -> None:
    """Refuse a guide of another model, without using up random numbers."""
    rng_state = torch.get_rng_state()
    same_sites(describe(model, *args, **kwargs), describe(guide, *args, **kwargs))
    torch.set_rng_state(rng_state)


def _instantiate(
    model: Program, guide: Program | str, args: Any, kwargs: Any, num_restarts: int
) -> tuple[Program, Program, str]:
    """Copy both programs and draw their start."""
    model, guide = copy_programs(model, guide, args, kwargs)
    redrawn = isinstance(guide, str)
    for program in (model, guide):
        if isinstance(program, nn.Module) and num_restarts > 1:
            redrawn |= _redraw(program)
    if num_restarts > 1 and not redrawn:
        raise ValueError(
            f"num_restarts: got {num_restarts}, but neither model nor guide has a"
            " reset_parameters() to draw a new start"
        )
    if not isinstance(guide, str):
        return model, guide, type(guide).__name__
    sites = first_run(model, args, kwargs)
    family = families.choose(sites) if guide == "auto" else guide
    families.check(family, sites)
    if family == "flow":
        return model, _flow(model, args, kwargs), family
    return model, families.build(family, model, args, kwargs), family


def _flow(model: Program, args: Any, kwargs: Any) -> Program:
    """Build a flow that starts at the Gaussian of the posterior's curvature, where there is one."""
    try:
        density = FlatDensity(model, args, kwargs)
        centre = find_start(density, 2, seed=0).centre
    except (NoStart, ValueError, RuntimeError):
        return families.build("flow", model, args, kwargs)
    return families.flow_from(model, args, kwargs, density, centre)


def _redraw(program: nn.Module) -> bool:
    """Call the outermost `reset_parameters` of each part that trains; say whether there was one."""
    reset = getattr(program, "reset_parameters", None)
    if reset is not None:
        if any(p.requires_grad for p in program.parameters()):
            reset()
            return True
        return False
    return max([_redraw(child) for child in program.children()], default=False)  # all of them


def _progress(progress: bool | None, run: SVI, title: str) -> Any:
    shown = sys.stderr.isatty() if progress is None else progress
    total_steps = run.options.max_steps
    return tqdm(total=total_steps, initial=len(run.losses), desc=title, disable=not shown)


def _report(run: SVI, bar: Any, saved: Checkpoint, start: int) -> None:
    step = len(run.losses)
    bar.update(1)
    if step % 100 == 0:
        bar.set_postfix_str(f"ELBO {-np.mean(run.losses[-100:]):.4g}, lr stage {run.stage + 1}")
    if step % Checkpoint.EVERY == 0 and not run.reason:
        saved.save(start, run.state_dict())


def is_trained(program: Any) -> bool:
    """Whether a program is a module with parameters to learn."""
    return isinstance(program, nn.Module) and any(
        isinstance(p, torch.nn.Parameter) and p.requires_grad for p in program.parameters()
    )
