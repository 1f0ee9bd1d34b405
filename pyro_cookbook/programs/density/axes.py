"""How the log density changes as one unconstrained scalar is moved, for every scalar of many."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from pyro_cookbook.programs.density.log_density import log_density
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Sites of fewer scalars are moved one by one, and so many points are evaluated together.
_FEW, _TOGETHER = 64, 128
# Terms that differ by less than this, relative or absolute, are the same.
_SAME = 1e-6


def rises(density: UnconstrainedDensity, z: Array, moves: Array) -> Array:
    """Compute log p(z + δᵢ eᵢ) − log p(z) for every i.

    D densities of D terms are too many where there are thousands. If each term depends on one of a
    site's scalars at most, as entries of a plate do, all of them are moved at once, and a term's
    change is its own scalar's doing. Which one that is, and that it is one, is seen by moving those
    alone whose index has a given binary digit: 2 log₂ D densities.

    Parameters
    ----------
    density : UnconstrainedDensity
    z, moves : array, shape (D,)
        The point, and δ.

    Returns
    -------
    array, shape (D,)
        In nats; NaN where the density is not a number.
    """
    found = np.empty(len(z))
    for where in _classes(density):
        rise = _at_once(density, z, moves, where) if len(where) >= _FEW else None
        found[where] = _one_by_one(density, z, moves, where) if rise is None else rise
    return found


def _classes(density: UnconstrainedDensity) -> Iterator[Indices]:
    """Give indices to move together: one of each vector, where a site is of many vectors."""
    start = 0
    for name, shape in density.shapes.items():
        where = np.arange(start, start + shape.numel())
        vectors = density.program.sites[name].batch_shape.numel()
        yield from where.reshape(vectors, -1).T if vectors >= _FEW else [where]
        start += len(where)


def _one_by_one(density: UnconstrainedDensity, z: Array, moves: Array, where: Indices) -> Array:
    """Move scalars of a site, each alone."""
    values = []
    for part in np.split(where, range(_TOGETHER, len(where), _TOGETHER)):
        points = np.tile(z, (len(part), 1))
        points[np.arange(len(part)), part] += moves[part]
        values.append(density.value(points))
    with np.errstate(invalid="ignore"):
        rise: Array = np.concatenate(values) - density.value(z[None])[0]
    return rise


def _at_once(density: UnconstrainedDensity, z: Array, moves: Array, where: Indices) -> Array | None:
    """Move all scalars of a site; None if some term depends on more than one of them."""
    index = np.arange(len(where))
    digits = (index >> np.arange(int(index[-1]).bit_length())[:, None]) & 1 == 1
    moved = np.vstack([np.zeros_like(index), np.ones_like(index), digits, ~digits])
    points = np.tile(z, (len(moved), 1))
    points[:, where] += moved * moves[where]
    base, whole, *parts = _terms(density, points)
    stays, goes = (np.array([_alike(part, to) for part in parts]) for to in (base, whole))
    (in_stays, out_stays), (in_goes, out_goes) = (np.split(a, 2) for a in (stays, goes))
    moving = ~_alike(base, whole)
    one = np.where(moving, (in_goes & out_stays) | (in_stays & out_goes), in_stays & out_stays)
    owner = (in_goes << np.arange(len(digits))[:, None]).sum(0)[moving]
    if not one.all() or (owner >= len(where)).any():
        return None
    with np.errstate(invalid="ignore"):
        return np.bincount(owner, (whole - base)[moving], len(where))


def _alike(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    return np.isclose(a, b, rtol=_SAME, atol=_SAME, equal_nan=True)


def _terms(density: UnconstrainedDensity, points: Array) -> Array:
    """Every term of the log density, one a column: of sites, entry by entry, and of Jacobians."""
    values = density.constrain(points)
    terms = list(log_density(density.program, values).values())
    if density.jacobian:
        unconstrained = density.unpack(torch.as_tensor(points, dtype=density.dtype))
        terms += [
            density.transforms[name].log_abs_det_jacobian(u, values[name].cpu())
            for name, u in unconstrained.items()
        ]
    flat = [term.detach().cpu().double().reshape(len(points), -1) for term in terms]
    return torch.cat(flat, dim=1).numpy()
