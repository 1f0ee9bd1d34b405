"""The stochastic engine: from a guide, or a family's name, to a fit of it from every start."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from pyro_cookbook.engines import families
from pyro_cookbook.engines.choosing import Fitted, Memory, Stochastic
from pyro_cookbook.engines.multistart import NoStart, find_start
from pyro_cookbook.engines.streams import ranks
from pyro_cookbook.engines.svi import SVI, NonFiniteELBO
from pyro_cookbook.programs.checks import same_sites
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Function, Program
from pyro_cookbook.programs.state.copying import copy_programs
from pyro_cookbook.programs.state.isolation import isolated
from pyro_cookbook.programs.state.progress import shown

# How often the state is saved: after so many steps, or seconds.
SAVE_EVERY, SAVE_SECONDS = 500, 30.0


def run_starts(
    model: Program,
    guide: Function | str,
    options: Stochastic,
    *,
    seed: int,
    memory: Memory,
    progress: bool | None,
) -> Iterator[Fitted]:
    """Run SVI from every start, one after the other.

    Parameters
    ----------
    model : Program
    guide : callable or str
        A guide, or the name of a family.
    options : Stochastic
    seed : int
        Start r has ``seed + r``.
    memory : Memory
        Gone on from, if it holds states.
    progress : bool or None

    Raises
    ------
    NonFiniteELBO
        If the very first estimate is not finite; later ones are in the `Fitted` of their start.
    ValueError
        If several starts are asked for and nothing can be drawn anew, or the sites do not match.
    """
    for r in range(options.num_starts):
        with isolated(seed + r) as store:
            one, own_guide, family = _instantiate(model, guide, options.num_starts)
            run = SVI(one, one.of(own_guide), options, seed + r)
            failure: NonFiniteELBO | None = None
            try:
                if not isinstance(guide, str) and not options.batch_size:
                    same_sites(one, one.of(own_guide))
                run.prepare()
                if r in memory.starts:
                    run.load_state_dict(memory.starts[r])
                with _bar(progress, run, f"start {r + 1} of {options.num_starts}") as bar:
                    run.run(partial(_report, bar=bar, memory=memory, start=r))
            except NonFiniteELBO as error:
                if not error.step:  # nothing was fitted
                    raise
                failure = error
                run.reason = str(error).split(";", maxsplit=1)[0]
            except KeyboardInterrupt:
                memory.save(r, run.state_dict())
                raise
            if failure is None:
                memory.save(r, run.state_dict())
                own_guide = _finish(one, own_guide, family)
        yield Fitted(
            one.keeping(store), own_guide, family, seed + r, run.losses, run.converged,
            run.reason, failure=failure, obstacle=run.estimates.obstacle,
        )  # fmt: skip


def _instantiate(
    model: Program, guide: Function | str, num_starts: int
) -> tuple[Program, Function, str]:
    """Copy both programs and draw their start."""
    model, own_guide = copy_programs(model, None if isinstance(guide, str) else guide)
    redrawn = isinstance(guide, str)
    for function in (model.function, own_guide):
        if isinstance(function, nn.Module) and num_starts > 1:
            redrawn |= _redraw(function)
    if num_starts > 1 and not redrawn:
        raise ValueError(
            f"num_restarts: got {num_starts}, but neither model nor guide has a"
            " reset_parameters() to draw a new start"
        )
    if own_guide is not None:
        return model, own_guide, type(own_guide).__name__
    family = families.choose(model) if guide == "auto" else str(guide)
    families.check(family, model)
    return model, _flow(model) if family == "flow" else families.build(family, model), family


def _flow(model: Program) -> Function:
    """Build a flow that starts at the Gaussian of the posterior's curvature, where there is one."""
    try:
        density = UnconstrainedDensity(model)
        centre = find_start(density, 2, seed=0).centre
    except (NoStart, ValueError, RuntimeError):
        return families.build("flow", model)
    return families.flow_from(model, centre)


def _finish(model: Program, guide: Function, family: str) -> Function:
    """Turn the mode into a Gaussian, for the Laplace family."""
    if family != "laplace":
        return guide
    auto: Any = guide
    args, kwargs = model.args, model.kwargs
    try:
        posterior = auto.laplace_approximation(*args, **kwargs).get_posterior()
    except (torch.linalg.LinAlgError, ValueError) as error:
        raise ValueError(
            "guide: 'laplace' needs a positive definite Hessian at the mode, and this one is not:"
            " a direction is flat or the fit has not reached a mode; try 'full_rank'"
        ) from error
    # The same Gaussian in the parameters of the full-rank family, which can be saved and loaded.
    gaussian: Any = families.build("full_rank", model.of(auto.model))
    with torch.no_grad():
        gaussian(*args, **kwargs)
        gaussian.loc.copy_(posterior.loc)
    diagonal = posterior.scale_tril.diagonal()
    gaussian.scale = diagonal.detach()
    gaussian.scale_tril = (posterior.scale_tril / diagonal[:, None]).detach()
    return gaussian  # type: ignore[no-any-return]


def _redraw(program: nn.Module) -> bool:
    """Call the outermost `reset_parameters` of each part that trains; say whether there was one."""
    reset = getattr(program, "reset_parameters", None)
    if reset is not None:
        if any(p.requires_grad for p in program.parameters()):
            reset()
            return True
        return False
    return max([_redraw(child) for child in program.children()], default=False)  # all of them


def _bar(progress: bool | None, run: SVI, title: str) -> Any:
    steps = run.options.max_steps
    hidden = ranks.world()[0] > 0 or not shown(progress)  # one bar for all processes
    bar: Any = tqdm(total=steps, initial=len(run.losses), desc=title, disable=hidden)
    bar.last_saved = time.monotonic()
    return bar


def _report(run: SVI, bar: Any, memory: Memory, start: int) -> None:
    step = len(run.losses)
    bar.update(1)
    if step % 100 == 0:
        bar.set_postfix_str(f"ELBO {-np.mean(run.losses[-100:]):.4g}, lr stage {run.stage + 1}")
    late = time.monotonic() - bar.last_saved > SAVE_SECONDS
    if (step % SAVE_EVERY == 0 or late) and not run.reason:
        memory.save(start, run.state_dict())
        bar.last_saved = time.monotonic()
