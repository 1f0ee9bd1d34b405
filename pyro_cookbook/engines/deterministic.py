"""Which engine fits what, and the deterministic one's way from a family's name to a guide."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_cookbook.engines import families
from pyro_cookbook.engines.bound import GAUSSIAN, MAX_FULL_RANK, maximise
from pyro_cookbook.engines.climbing import MAX_DENSE, Centre, whitening
from pyro_cookbook.engines.gaussians import Gaussian
from pyro_cookbook.engines.multistart import Start, find_start
from pyro_cookbook.engines.stochastic import is_trained
from pyro_cookbook.fits.checkpoint import Checkpoint
from pyro_cookbook.fits.result import Mode
from pyro_cookbook.programs.drawing import Program, Site, improper_at_origin, quietly
from pyro_cookbook.programs.unconstrained import FlatDensity, default_dtype

DETERMINISTIC, STOCHASTIC = "deterministic", "stochastic"
# Climbs from dispersed points by default, and fewer where the model is large: a climb costs some
# hundred runs.
_STARTS, _FEWEST, _START_SCALARS = 8, 2, 2e6
# Laplace's approximation forms one whole Hessian, up to this many latent scalars.
_MAX_LAPLACE = 3000


def choose_engine(
    requested: str | None,
    model: Program,
    guide: Program | str,
    args: Any,
    kwargs: Any,
    *,
    elbo: ELBO | None,
    batch_size: int | None,
) -> tuple[str, str]:
    """Choose an engine and say why.

    Raises
    ------
    ValueError
        If the deterministic engine is asked for where it cannot serve, or the name is unknown.
    """
    if requested not in {None, DETERMINISTIC, STOCHASTIC}:
        raise ValueError(f"engine: got {requested!r}, expected {DETERMINISTIC!r} or {STOCHASTIC!r}")
    if requested == STOCHASTIC:
        return STOCHASTIC, "it was asked for"
    obstacle = _obstacle(model, guide, args, kwargs, elbo, batch_size)
    if obstacle and requested == DETERMINISTIC:
        raise ValueError(f"engine: got {DETERMINISTIC!r}, but {obstacle}")
    if obstacle:
        return STOCHASTIC, obstacle
    return DETERMINISTIC, "continuous latents, all data and a Gaussian family by name"


def _obstacle(
    model: Program,
    guide: Program | str,
    args: Any,
    kwargs: Any,
    elbo: ELBO | None,
    batch_size: int | None,
) -> str:
    """Why the deterministic engine cannot serve; "" if it can."""
    if not isinstance(guide, str):
        return "the guide is a program of its own"
    if guide == "flow":
        return "a flow is fitted by SVI, from the posterior's curvature"
    if batch_size is not None:
        return "mini-batches make the bound random"
    if elbo is not None:
        return "an estimator of the bound was given"
    if is_trained(model):
        return "the model has parameters to learn"
    with quietly(), improper_at_origin():
        nodes: Any = poutine.trace(model).get_trace(*args, **kwargs).nodes
    for name, node in nodes.items():
        if node["type"] == "param" and _is_free(node["value"]):
            if not isinstance(model, nn.Module):
                raise ValueError(
                    f"model: it calls pyro.param({name!r}), which a family by name cannot learn;"
                    " make the model a PyroModule with that PyroParam, or give a guide of your own"
                )
            return f"the model has a parameter to learn, {name!r}"
        if node["type"] == "sample" and poutine.util.site_is_subsample(node):
            size, taken = node["fn"].size, len(node["value"])
            if taken < size:
                return f"plate {name!r} takes a subsample of {taken} of {size}"
    return ""


def _is_free(value: Any) -> bool:
    """Whether a parameter's value, perhaps constrained, is to be learnt."""
    return bool((value.unconstrained() if hasattr(value, "unconstrained") else value).requires_grad)


@dataclass
class Found:
    """What the deterministic engine returns."""

    guide: Program
    losses: list[float] = field(default_factory=list)
    converged: bool = True
    reason: str = ""
    modes: tuple[Mode, ...] = ()
    lost: int = 0


def run_deterministic(
    model: Program,
    family: str,
    sites: Mapping[str, Site],
    args: Any,
    kwargs: Any,
    *,
    seed: int,
    num_restarts: int | None,
    max_steps: int,
    saved: Checkpoint,
    progress: bool | None,
) -> Found:
    """Fit a family by name with the deterministic engine.

    Raises
    ------
    ValueError
        If the model has no usable density, or the family cannot serve it.
    """
    families.check(family, sites)
    dim = families.num_latents(sites)
    if family in {"full_rank", "whitened_mean_field"} and dim > MAX_FULL_RANK:
        raise ValueError(
            f"guide: {family!r} of {dim} latent scalars has {dim * (dim + 1) // 2} entries in its"
            f" covariance, more than draws can settle (at most {MAX_FULL_RANK} scalars); use"
            " 'low_rank' or 'mean_field'"
        )
    density = flat_density(model, args, kwargs, jacobian=family != "map")
    shown = sys.stderr.isatty() if progress is None else progress
    state = saved.starts.get(0, {})
    # Points without a density are met on the way and dealt with; NumPy need not tell.
    with np.errstate(all="ignore"), tqdm(desc=family, disable=not shown) as bar:
        if state:
            start = _unpack_start(state["start"])
        else:
            bar.set_postfix_str("climbing to the mode")
            affordable = max(_FEWEST, int(_START_SCALARS / max(1, density.scalars)))
            start = find_start(density, num_restarts or min(_STARTS, affordable), seed)
        packed = _pack_start(start)
        found = Found(model, modes=start.modes, lost=start.lost)
        if family == "map":
            return _at_mode(found, family, model, args, kwargs, density, start)
        if family == "laplace":
            return _laplace(found, model, args, kwargs, density, start)
        assert family in GAUSSIAN

        def on_step(bound: float) -> None:
            bar.update(1)
            bar.set_postfix_str(f"ELBO {bound:.6g}")

        outcome = maximise(
            density,
            family,
            start.centre,
            seed=seed,
            max_steps=max_steps,
            on_step=on_step,
            state=_to_numpy(state.get("round")),
            save=lambda now: saved.save(0, {"start": packed, "round": _to_torch(now)}),
        )
    found.guide = families.from_gaussian(family, model, args, kwargs, density, outcome.gaussian)
    found.losses, found.converged, found.reason = outcome.losses, outcome.converged, outcome.reason
    return found


def flat_density(model: Program, args: Any, kwargs: Any, *, jacobian: bool = True) -> FlatDensity:
    """Flatten a model, in double precision where the model allows it.

    A model that closes over single-precision tensors computes in single precision.
    """

    def double(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.double() if is_float else value

    try:
        with default_dtype(torch.float64):
            wide_args = tuple(double(value) for value in args)
            wide_kwargs = {key: double(value) for key, value in kwargs.items()}
            wide = _double_module(model)
            density = FlatDensity(wide, wide_args, wide_kwargs, jacobian=jacobian)
            density.value_and_grad(np.zeros((1, density.dim)))
            return density
    except (RuntimeError, TypeError):  # a dtype of its own somewhere; NotFlat passes
        return FlatDensity(model, args, kwargs, jacobian=jacobian)


def _double_module(model: Program) -> Program:
    if not isinstance(model, nn.Module):
        return model
    import copy

    return copy.deepcopy(model).double()


def _at_mode(
    found: Found,
    family: str,
    model: Program,
    args: Any,
    kwargs: Any,
    density: FlatDensity,
    start: Start,
) -> Found:
    """Finish a MAP fit: the point, or why it is none."""
    centre = start.centre
    gaussian = Gaussian(centre.z, diagonal=np.ones_like(centre.z))
    found.guide = families.from_gaussian(family, model, args, kwargs, density, gaussian)
    found.converged = centre.is_mode
    if centre.is_mode:
        found.reason = f"a Newton step would gain {centre.decrement:.1g} nats"
    else:
        found.reason = _no_mode(density, start.stray or centre)
    found.losses = [-centre.log_density]
    return found


def _laplace(
    found: Found, model: Program, args: Any, kwargs: Any, density: FlatDensity, start: Start
) -> Found:
    centre = start.centre
    if centre.is_mode and density.dim > MAX_DENSE:
        if density.dim > _MAX_LAPLACE:
            raise ValueError(
                f"guide: 'laplace' needs the whole Hessian, of {density.dim} latent scalars (at"
                f" most {_MAX_LAPLACE}); use 'low_rank' or 'mean_field'"
            )
        whiten, eigenvalues, weakest = whitening(-density.hessian(centre.z))
        centre = Centre(centre.z, whiten, centre.log_density, centre.decrement,
                        bool(eigenvalues[0] > 0), eigenvalues, weakest)  # fmt: skip
    if not centre.is_mode:
        raise ValueError(
            f"guide: 'laplace' needs a mode with a positive definite precision, and there is none:"
            f" {_no_mode(density, start.stray or centre)}; try 'full_rank'"
        )
    gaussian = Gaussian(centre.z, factor=centre.whiten)
    found.guide = families.from_gaussian("laplace", model, args, kwargs, density, gaussian)
    low, high = centre.eigenvalues[0], centre.eigenvalues[-1]
    found.reason = (
        f"a Newton step would gain {centre.decrement:.1g} nats; eigenvalues of the scaled precision"
        f" from {low:.2g} to {high:.2g}"
    )
    found.losses = [-centre.log_density]
    return found


def _no_mode(density: FlatDensity, centre: Centre) -> str:
    """Say why a centre is no mode."""
    far = density.labels()[int(np.abs(centre.z).argmax())]
    if centre.eigenvalues[0] <= 1e-9:
        what = "flat" if centre.eigenvalues[0] > -1e-9 else "curved upwards"
        return (
            f"the log density is {what} along a direction of {density.labels()[centre.weakest]!r}"
            f" (smallest eigenvalue of the scaled precision {centre.eigenvalues[0]:.2g})"
        )
    return (
        f"the log density rises without end, or a boundary is near: {far!r} is at"
        f" {centre.z[int(np.abs(centre.z).argmax())]:.3g} on its unconstrained scale"
    )


def _to_torch(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}


def _to_numpy(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if state is None:
        return None
    return {k: v.numpy() if isinstance(v, Tensor) else v for k, v in state.items()}


def _pack_start(start: Start) -> dict[str, Any]:
    return {
        "centre": _to_torch(vars(start.centre)),
        "modes": [list(vars(mode).values()) for mode in start.modes],
        "lost": start.lost,
    }


def _unpack_start(state: Mapping[str, Any]) -> Start:
    centre = Centre(**(_to_numpy(state["centre"]) or {}))
    return Start(centre, tuple(Mode(*mode) for mode in state["modes"]), state["lost"])
