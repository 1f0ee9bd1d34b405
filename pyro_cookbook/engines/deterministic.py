"""The deterministic engine: from a family's name to a guide."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_cookbook.engines import families
from pyro_cookbook.engines.bound import maximise
from pyro_cookbook.engines.choosing import Deterministic, Fitted, Memory, Mode
from pyro_cookbook.engines.climbing import FLAT, MAX_DENSE, Centre
from pyro_cookbook.engines.gaussians import Gaussian
from pyro_cookbook.engines.multistart import Start, find_start
from pyro_cookbook.programs.coordinates import Coordinates, from_precision
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity, unconstrained_density
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.progress import shown

# Climbs from dispersed points by default, and fewer where the model is large: a climb costs some
# hundred runs.
_STARTS, _FEWEST, _START_SCALARS = 8, 2, 2e6
# Laplace's approximation forms one whole Hessian, up to this many latent scalars.
_MAX_LAPLACE = 3000


def run_deterministic(
    model: Program,
    family: str,
    options: Deterministic,
    *,
    seed: int,
    memory: Memory,
    progress: bool | None,
) -> Fitted:
    """Fit a family by name with the deterministic engine.

    Parameters
    ----------
    model : Program
        A copy: it becomes the fit's own.
    family : str
        One of `families.FAMILIES`, "flow" excepted.
    options : Deterministic
    seed : int
    memory : Memory
        Gone on from, if it holds a state.
    progress : bool or None

    Raises
    ------
    ValueError
        If the model has no usable density, or the family cannot serve it.
    """
    families.check(family, model)
    density = unconstrained_density(model, jacobian=family != "map")
    state = memory.starts.get(0, {})
    # Points without a density are met on the way and dealt with; NumPy need not tell.
    with np.errstate(all="ignore"), tqdm(desc=family, disable=not shown(progress)) as bar:
        if state:
            start = _unpack_start(state["start"])
        else:
            bar.set_postfix_str("climbing to the mode")
            start = find_start(density, options.num_starts or _affordable(density), seed)
        if family == "map":
            found = _at_mode(density, start)
        elif family == "laplace":
            found = _laplace(density, start)
        else:
            found = _maximise(density, family, start, options, seed, state, memory, bar)
    gaussian, losses, converged, reason = found
    guide = families.from_gaussian(family, model, density, gaussian)
    return Fitted(
        model, guide, family, seed, losses, converged, reason,
        modes=start.modes, lost=start.lost, obstacle=density.obstacle,
    )  # fmt: skip


# The Gaussian, the losses, whether it converged, and why it ended.
_Found = tuple[Gaussian, list[float], bool, str]


def _affordable(density: UnconstrainedDensity) -> int:
    return min(_STARTS, max(_FEWEST, int(_START_SCALARS / max(1, density.scalars))))


def _maximise(
    density: UnconstrainedDensity,
    family: str,
    start: Start,
    options: Deterministic,
    seed: int,
    state: Mapping[str, Any],
    memory: Memory,
    bar: Any,
) -> _Found:
    """Maximise the bound of a Gaussian family, saving the state before every round."""
    packed = _pack_start(start)

    def on_step(bound: float) -> None:
        bar.update(1)
        bar.set_postfix_str(f"ELBO {bound:.6g}")

    end = maximise(
        density,
        family,
        start.centre,
        seed=seed,
        max_steps=options.max_steps,
        on_step=on_step,
        state=_to_numpy(state["round"]) if state else None,
        save=lambda now: memory.save(0, {"start": packed, "round": _to_torch(now)}),
    )
    return end.gaussian, end.losses, end.converged, end.reason


def _at_mode(density: UnconstrainedDensity, start: Start) -> _Found:
    """Finish a MAP fit: the point, or why it is none."""
    centre = start.centre
    if centre.is_mode:
        reason = f"a Newton step would gain {centre.decrement:.1g} nats"
    else:
        reason = _no_mode(density, start.stray or centre)
    gaussian = Gaussian(centre.z, diagonal=np.ones_like(centre.z))
    return gaussian, [-centre.log_density], centre.is_mode, reason


def _laplace(density: UnconstrainedDensity, start: Start) -> _Found:
    """Finish a Laplace fit: the Gaussian of the curvature at the mode."""
    centre = start.centre
    coordinates, eigenvalues = centre.coordinates, centre.eigenvalues
    is_mode = centre.is_mode
    if is_mode and density.dim > MAX_DENSE:
        if density.dim > _MAX_LAPLACE:
            raise ValueError(
                f"guide: 'laplace' needs the whole Hessian, of {density.dim} latent scalars (at"
                f" most {_MAX_LAPLACE}); use 'low_rank' or 'mean_field'"
            )
        coordinates, eigenvalues, _ = from_precision(centre.z, -density.hessian(centre.z), FLAT)
        is_mode = bool(eigenvalues[0] > 0)
    if not is_mode:
        raise ValueError(
            f"guide: 'laplace' needs a mode with a positive definite precision, and there is none:"
            f" {_no_mode(density, start.stray or centre)}; try 'full_rank'"
        )
    reason = (
        f"a Newton step would gain {centre.decrement:.1g} nats; eigenvalues of the scaled precision"
        f" from {eigenvalues[0]:.2g} to {eigenvalues[-1]:.2g}"
    )
    gaussian = Gaussian(centre.z, factor=coordinates.matrix)
    return gaussian, [-centre.log_density], True, reason


def _no_mode(density: UnconstrainedDensity, centre: Centre) -> str:
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


def _to_numpy(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.numpy() if isinstance(v, Tensor) else v for k, v in state.items()}


def _pack_start(start: Start) -> dict[str, Any]:
    centre = vars(start.centre) | vars(start.centre.coordinates)
    del centre["coordinates"]
    return {
        "centre": _to_torch(centre),
        "modes": [vars(mode) for mode in start.modes],
        "lost": start.lost,
    }


def _unpack_start(state: Mapping[str, Any]) -> Start:
    values = _to_numpy(state["centre"])
    coordinates = Coordinates(values.pop("loc"), values.pop("root"))
    modes = tuple(Mode(**mode) for mode in state["modes"])
    return Start(Centre(coordinates, **values), modes, state["lost"])
