"""Where to begin: climbs from dispersed points, and the modes in which they end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pyro_cookbook.engines.base_draws import base_draws
from pyro_cookbook.engines.choosing import Mode
from pyro_cookbook.engines.climbing import FLAT, MAX_DENSE, Centre, Guard, ascend, climb, look
from pyro_cookbook.programs.coordinates import Coordinates, from_precision
from pyro_cookbook.programs.density.axes import rises
from pyro_cookbook.programs.density.log_density import log_density
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity

Array = npt.NDArray[np.float64]

# Two climbs whose ends are nearer than this, in whitened sds, found one mode; up to so many per
# root dimension they did if the density between them does not dip by this much, in nats.
_SAME, _SAME_EACH, _DIP = 0.2, 0.2, 1e-3
_BETWEEN = np.linspace(0.0, 1.0, 11)
_PRIOR_DRAWS, _BOX_DRAWS = 16, 8
# So many times as many where none of them has a density, as the model's size allows: a likelihood
# whose support is latent has one in a corner only.
_MORE, _MORE_SCALARS = 64, 2e6
_TOGETHER = 100
# Points on the way from where a climb stands to a mode: close to its start, where a mode would be.
_WAY = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 40)])
# A climb has settled if a Newton step would gain less than this, in nats; from there the log
# density must fall by so much over so many sds.
_SETTLED, _FALL, _FAR_SDS, _FAR = 1e-3, 1.0, 1e3, 1e9
# After so many climbs that ended in no mode the rest are counted and not climbed.
_MAX_LOST = 2
# A soft centre's curvature may widen its scales by at most so much.
_WIDEST = 10.0
_SOFT_DRAWS, _SOFT_ITERATIONS = 32, 300


@dataclass(frozen=True)
class Start:
    """Where a fit starts.

    Attributes
    ----------
    centre : Centre
        The mode with the most mass; where there is none, the centre of a rough mean-field fit.
    modes : tuple of Mode
        Every distinct mode that a climb ended in, the one with the most mass first.
    lost : int
        Climbs that ended in no mode.
    stray : Centre or None
        Where the highest of those ended.
    """

    centre: Centre
    modes: tuple[Mode, ...]
    lost: int
    stray: Centre | None = None


class NoStart(ValueError):
    """No point of finite density was found."""


class Improper(ValueError):
    """The log density does not fall, however far one goes in some direction."""


def find_start(density: UnconstrainedDensity, num_starts: int, seed: int) -> Start:
    """Climb from several dispersed points.

    Parameters
    ----------
    density : UnconstrainedDensity
    num_starts : int
    seed : int

    Raises
    ------
    NoStart
        If the density is not finite at the origin, at prior draws and in the box [−2, 2] around 0.
    """
    points, values = _with_density(density, seed)
    order = [int(values.argmax())]
    first = points[order[0]]
    rng = np.random.default_rng(seed)
    order += [int(i) for i in rng.permutation(len(points)) if i != order[0]]
    found = _Climbs(density)
    found.climb_from([points[i] for i in order[:num_starts]])
    ends = found.ends
    if not ends or not _holds(density, max(ends, key=lambda end: end.log_mass)):
        return Start(_soft_centre(density, first), (), found.lost, found.stray)
    return found.ranked()


def find_modes(
    density: UnconstrainedDensity, points: Array, known: Sequence[Array] = ()
) -> tuple[Mode, ...]:
    """Climb from points to modes, beside those that are known.

    Parameters
    ----------
    density : UnconstrainedDensity
    points : array, shape (K, D)
    known : sequence of array, shape (D,)
        Where modes are already known to be.

    Returns
    -------
    tuple of Mode
        Known ones and new ones, the one with the most mass first.
    """
    found = _Climbs(density)
    for z in known:
        found.add(look(density, np.asarray(z)))
    points = points[np.isfinite(density.value(points))] if len(points) else points
    found.climb_from(list(points))
    return found.ranked().modes if found.ends else ()


def dispersed(density: UnconstrainedDensity, num_points: int, seed: int) -> Array:
    """Points of finite density to climb from, shape (at most `num_points`, D); none if none has."""
    try:
        points, _ = _with_density(density, seed)
    except NoStart:
        return np.zeros((0, density.dim))
    order = np.random.default_rng(seed).permutation(len(points))
    return points[order[:num_points]]


class _Climbs:
    """Climbs and the distinct modes in which they have ended."""

    def __init__(self, density: UnconstrainedDensity) -> None:
        self.density = density
        self.ends: list[Centre] = []
        self.counts: list[int] = []
        self.lost = 0
        self.stray: Centre | None = None

    def add(self, end: Centre) -> int:
        """Keep a mode; give its number."""
        self.ends.append(end)
        self.counts.append(0)
        return len(self.ends) - 1

    def climb_from(self, points: list[Array]) -> None:
        """Climb from every point that is not on the hill of a mode that is known."""
        density, ends = self.density, self.ends
        rest, together = list(points), False
        while rest:
            if ends and not together:  # in coordinates that are round at a mode, one call for all
                rest = list(ascend(density, np.stack(rest), ends[0].coordinates, _TOGETHER))
                together = True
            point = rest.pop(0)
            known = [k for k, other in enumerate(ends) if _leads_to(density, point, other)]
            if not known and self.lost < _MAX_LOST:
                known = self._climb(point)
            if known:
                self.counts[known[0]] += 1
            else:
                self.lost += 1

    def _climb(self, point: Array) -> list[int]:
        end = climb(self.density, point)
        _refuse_flat(self.density, end)
        known = [k for k, other in enumerate(self.ends) if _same(self.density, end, other)]
        if not known and end.is_mode:
            return [self.add(end)]
        if not known and (self.stray is None or end.log_density > self.stray.log_density):
            self.stray = end
        return known

    def ranked(self) -> Start:
        """Order the modes by Laplace's approximation of their mass."""
        return _ranked(self.density, self.ends, self.counts, self.lost)


def _with_density(density: UnconstrainedDensity, seed: int) -> tuple[Array, Array]:
    """Give candidates of finite density, and their density; many more are tried if none has one.

    Raises
    ------
    NoStart
        If none of those has one.
    """
    for more in (1, int(np.clip(_MORE_SCALARS / density.scalars, 1, _MORE))):
        points = _candidates(density, seed, more)
        values = density.value(points)
        finite = np.isfinite(values)
        if finite.any():
            return points[finite], values[finite]
    raise NoStart(_blame(density, points))


def _candidates(density: UnconstrainedDensity, seed: int, more: int = 1) -> Array:
    """Origin, prior draws and their median, and a box around the origin."""
    prior = density.prior_draws(more * _PRIOR_DRAWS)
    box = np.random.default_rng(seed).uniform(-2, 2, (more * _BOX_DRAWS, density.dim))
    middle = [np.median(prior, axis=0)] if len(prior) else []
    return np.vstack([np.zeros(density.dim), *middle, prior, box])


def _holds(density: UnconstrainedDensity, end: Centre) -> bool:
    """Whether most draws of a mode's Gaussian have a density: on a ridge its scales run away."""
    eps = base_draws(2 * _SOFT_DRAWS, density.dim, seed=0)
    return bool(np.isfinite(density.value(end.coordinates.place(eps))).mean() > 0.5)


def _refuse_flat(density: UnconstrainedDensity, end: Centre) -> None:
    """Refuse a density that is as high a thousand sds away: it has no finite integral.

    Looked at where the gradient vanishes, both ways along every direction of the whitening and
    along the way from the origin: on a plateau the others may lead off it.

    Raises
    ------
    Improper
        Naming the direction.
    """
    if end.decrement > _SETTLED:
        return
    at = end.coordinates
    steps = np.zeros((0, density.dim)) if at.is_diagonal else at.matrix.T
    come = float(np.linalg.norm(at.solve(end.z)))
    if come > 0:
        steps = np.vstack([steps, end.z / come])
    for sign in (1.0, -1.0):
        flat = _flat_direction(density, end, sign * steps)
        if flat is None and at.is_diagonal:
            flat = _flat_axis(density, end, sign)
        if flat is not None:
            raise Improper(_told_flat(density, density.labels()[flat]))


def _flat_direction(density: UnconstrainedDensity, end: Centre, steps: Array) -> int | None:
    """Find the entry of z with the largest part in a flat direction of those given, if any is."""
    if not len(steps):
        return None
    near = density.value(end.z + _FAR_SDS * steps)
    far = np.minimum(near, density.value(end.z + _length(np.abs(steps).max(1))[:, None] * steps))
    if not (far > end.log_density - _FALL).any():
        return None
    i = int(np.nanargmax(far))
    return int(np.abs(steps[i] / end.scale).argmax())


def _flat_axis(density: UnconstrainedDensity, end: Centre, sign: float) -> int | None:
    """Find an axis that is flat, if any is: there may be thousands."""
    scale = end.coordinates.scale
    far = rises(density, end.z, sign * _FAR_SDS * scale)
    if (far > -_FALL).any():
        far = np.minimum(far, rises(density, end.z, sign * _length(scale) * scale))
    return int(np.nanargmax(far)) if (far > -_FALL).any() else None


def _length(size: Array) -> Array:
    """How many steps are far: a spike's sds are tiny, far is also far on the scale of z itself."""
    return np.maximum(_FAR_SDS, _FAR / np.maximum(size, 1e-300))


def _told_flat(density: UnconstrainedDensity, label: str) -> str:
    if not density.jacobian:  # heights of the latents as written: an edge may be highest
        return (
            f"model: its density has no mode: it does not fall along a direction of"
            f" {label!r}, towards the edge of the support; fit a family with a spread"
        )
    return (
        f"model: its posterior is improper: the log density does not fall along a direction"
        f" of {label!r}, a thousand sds from its highest point; give that site a proper"
        " prior, or drop what is collinear or separates the data"
    )


def _same(density: UnconstrainedDensity, end: Centre, other: Centre) -> bool:
    """Whether two climbs ended in one mode: close by, or not far with no valley between."""
    z = density.nearest_copy(end.z, other.z)
    distance = other.coordinates.distance(z)
    if distance < _SAME:
        return True
    if not distance < _SAME_EACH * np.sqrt(density.dim):
        return False
    return not has_valley(density, z, other.z)


def has_valley(density: UnconstrainedDensity, a: Array, b: Array) -> bool:
    """Whether the log density dips on the straight way between two points, below both."""
    way = density.value(a + _BETWEEN[:, None] * (b - a))
    return not bool(way[1:-1].min() >= min(way[0], way[-1]) - _DIP)


def _leads_to(density: UnconstrainedDensity, z: Array, other: Centre) -> bool:
    """Whether the log density rises all the way from a point to a mode: then it is on its hill.

    Climbs end in modes, and from one mode the way to another first goes down.
    """
    z = density.nearest_copy(z, other.z)
    if other.coordinates.distance(z) < _SAME:
        return True
    way = density.value(z + _WAY[:, None] * (other.z - z))
    return bool(np.isfinite(way).all() and (np.diff(way) >= 0).all())


def _ranked(
    density: UnconstrainedDensity, ends: list[Centre], counts: list[int], lost: int
) -> Start:
    """Order modes by Laplace's approximation of their mass."""
    order = sorted(range(len(ends)), key=lambda k: -ends[k].log_mass)
    best = ends[order[0]]
    masses = np.array([ends[k].log_mass for k in order])
    shares = np.exp(masses - np.logaddexp.reduce(masses))
    modes = []
    for k, share in zip(order, shares, strict=True):
        apart = np.abs(ends[k].z - best.z) / np.minimum(best.scale, ends[k].scale)
        far = int(apart.argmax())
        modes.append(
            Mode(ends[k].log_density, float(share), counts[k], float(apart[far]),
                 density.site_of(far), tuple(float(x) for x in ends[k].z))
        )  # fmt: skip
    return Start(best, tuple(modes), lost)


def _soft_centre(density: UnconstrainedDensity, point: Array) -> Centre:
    """Fit a rough mean field where the density has no mode: its entropy keeps it off the spike.

    The whitening is that of the Hessian averaged over its draws.
    """
    dim = density.dim
    eps = base_draws(_SOFT_DRAWS, dim, seed=0)
    guard = Guard()
    here = look(density, point)
    unit = np.clip(here.scale, 1e-8, 1.0)

    def descend(x: Array) -> tuple[float, Array]:
        scale = unit * np.exp(np.minimum(x[dim:], 50.0))
        log_p, gradient = density.value_and_grad(point + unit * x[:dim] + scale * eps)
        slope = np.concatenate([unit * gradient.mean(0), scale * (gradient * eps).mean(0) + 1])
        return guard(x, -float(log_p.mean() + x[dim:].sum()), -slope)

    from scipy.optimize import minimize

    begin = np.zeros(2 * dim)
    while not np.isfinite(descend(begin)[0]) or not guard.x.size:
        begin[dim:] -= 1.0  # narrower, until every draw has a density
        if begin[dim] < -30:
            return here
    options = {"maxiter": _SOFT_ITERATIONS, "maxcor": 20, "gtol": 1e-3, "maxls": 40}
    minimize(descend, begin, jac=True, method="L-BFGS-B", options=options)
    z = point + unit * guard.x[:dim]
    scale = unit * np.exp(guard.x[dim:])
    if dim > MAX_DENSE:
        found = look(density, z)
        return replace(found, coordinates=Coordinates(z, scale), is_mode=False)
    hessian = density.mean_hessian((z + scale * eps)[:16])
    if not np.isfinite(hessian).all():
        hessian = -np.diag(scale**-2.0)
    coordinates, eigenvalues, weakest = from_precision(z, -hessian, FLAT)
    if (coordinates.scale > _WIDEST * scale).any():  # all but flat in places
        coordinates = Coordinates(z, np.diag(scale))
    value = float(density.value(z[None])[0])
    return Centre(coordinates, value, np.inf, False, eigenvalues, weakest)


def _blame(density: UnconstrainedDensity, points: Array) -> str:
    """Name the sites whose log density is not finite at the points tried."""
    values = density.constrain(points[:1])
    log_prob = log_density(density.program, values)
    bad = [name for name, value in log_prob.items() if not bool(np.isfinite(value.sum().item()))]
    where = ", ".join(repr(name) for name in bad) or "the transformation of the latents"
    return (
        f"model: its log density is not finite at any of {len(points)} starting points; at the"
        f" first it is not at site {where}"
    )
