"""The log density of a model as a pure function of one unconstrained vector, many at a time."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from pyro_cookbook.programs.density.enumeration import summing_out
from pyro_cookbook.programs.density.graphs import Graphs, graph_of_one
from pyro_cookbook.programs.density.log_density import chunk_size, over_draws
from pyro_cookbook.programs.program import DENSITIES, Program, quietly, run_once, sample_sites

Array = npt.NDArray[np.float64]
# A graph costs about as much as so many calls.
CALLS_BEFORE = 15


class NoDensity(ValueError):
    """The model has no log density that is a function of its continuous latents alone."""


class _At(Messenger):
    """Puts every latent where the unconstrained vector says, and adds up the log density."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_prob: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
            self.log_prob.append(scale_and_mask(log_prob, msg["scale"], msg["mask"]).sum())


def _bijection(name: str, fn: Any) -> Any:
    try:
        return biject_to(fn.support)
    except NotImplementedError:
        raise NoDensity(
            f"model: the support of site {name!r} has no bijection to the reals"
        ) from None


def _normal(transform: Any, shape: torch.Size, scale: float) -> Tensor:
    """Draw normal values, of a scale if their transform is the identity, else of sd 1."""
    drawn = torch.randn(shape)
    return scale * drawn if bool((transform(drawn) == drawn).all()) else drawn


class UnconstrainedDensity:
    """log p(v, h) + log |dh/dz| of a model at unconstrained vectors z.

    The latents lie in z in the order in which the model samples them, each through the standard
    bijection of its support. This is the layout of Pyro's automatic guides.

    Parameters
    ----------
    program : Program
        A model on its data.
    jacobian : bool, default True
        Count log |dh/dz|. Without it the maximum is the mode of the latents as the model has them.

    Attributes
    ----------
    shapes : dict of str to torch.Size
        Latent site → shape of its unconstrained value.
    dim : int
        D, the length of z.
    scalars : int
        Scalars of values and log densities in one run of the model, all sites together.
    obstacle : str
        Why many vectors cannot be computed in one run of the model; "" if they can.
    evaluations : int
        Log densities computed so far.

    Raises
    ------
    NoDensity
        If a support depends on another latent, or the log density at given latents is random.
    """

    def __init__(self, program: Program, *, jacobian: bool = True) -> None:
        # The same default dtype wherever it is evaluated later.
        self.program = program if program.dtype else program.under(torch.get_default_dtype())
        self.jacobian = jacobian
        nodes = program.nodes
        latent = {name: nodes[name] for name in program.latents}
        if not latent:
            raise NoDensity("model: it has no latent site")
        self.transforms = {name: _bijection(name, node["fn"]) for name, node in latent.items()}
        # Not by inverse_shape, which imports sympy: half a second.
        self.shapes = {
            name: self.transforms[name].inv(node["value"]).shape for name, node in latent.items()
        }
        first = next(iter(latent.values()))["value"]
        self.dtype, self.device = first.dtype, first.device
        self.dim = sum(shape.numel() for shape in self.shapes.values())
        self.scalars = sum(
            n["value"].numel() + torch.Size(n["fn"].batch_shape).numel() for n in nodes.values()
        )
        self._chunk = chunk_size(self.scalars, 2**31)
        self.obstacle = ""
        self.evaluations = 0
        self._graphs = Graphs(self._one, CALLS_BEFORE)
        self._summed = None
        if program.summed:
            at_first = {name: node["value"] for name, node in latent.items()}
            self._summed = summing_out(self.program, program.summed, at_first, by_site=False)
        self._refuse_moving_supports()
        self._refuse_randomness()

    @cached_property
    def period(self) -> Array:
        """Period of every entry of z, shape (D,): 2π of an angle, infinite of all else."""
        parts = []
        for name, shape in self.shapes.items():
            fn = self.program.nodes[name]["fn"]
            while hasattr(fn, "base_dist"):
                fn = fn.base_dist
            turns = isinstance(fn, torch.distributions.VonMises)
            parts.append(np.full(shape.numel(), 2 * np.pi if turns else np.inf))
        return np.concatenate(parts)

    def nearest_copy(self, z: Array, to: Array) -> Array:
        """Turn the angles of a vector so that they are within half a turn of another's."""
        turns = np.round((z - to) / self.period)
        return np.where(turns, z - turns * np.where(turns, self.period, 0.0), z)

    def unpack(self, z: Tensor) -> dict[str, Tensor]:
        """Cut vectors, shape (..., D), into unconstrained values of the sites."""
        parts = torch.split(z, [shape.numel() for shape in self.shapes.values()], dim=-1)
        batch = z.shape[:-1]
        return {
            name: part.reshape(batch + shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def constrain(self, z: Array) -> dict[str, Tensor]:
        """Values of the latents at vectors, shape (S, D)."""
        with torch.no_grad():
            return {n: self.transforms[n](u) for n, u in self.unpack(self._tensor(z)).items()}

    def unconstrain(self, values: Mapping[str, Tensor]) -> Array:
        """Vectors, shape (S, D), of values of the latents, shape (S, ...) each, of any dtype."""
        with torch.no_grad():
            parts = [
                self.transforms[n].inv(values[n].to(self.dtype)).reshape(len(values[n]), -1)
                for n in self.shapes
            ]
            return torch.cat(parts, dim=1).double().cpu().numpy()

    def labels(self) -> list[str]:
        """Name every entry of z by its site, with an index where the site has several."""
        names = []
        for name, shape in self.shapes.items():
            indices = [",".join(map(str, index)) for index in product(*map(range, shape))]
            names += [f"{name}[{index}]" if index else name for index in indices]
        return names

    def site_of(self, index: int) -> str:
        """Name of the site that an entry of z belongs to."""
        return self.labels()[index].partition("[")[0]

    def traced(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Log density and gradient at one vector, of any dtype, by a graph where there is one."""
        return graph_of_one(self._one, self.dim, self.dtype, obstacle=self.obstacle)

    def value(self, z: Array) -> Array:
        """Log density at vectors, shape (S, D): shape (S,), in nats."""
        with torch.no_grad(), pyro.validation_enabled(False):
            found = [self._batch(part) for part in self._tensor(z).split(self._chunk)]
        return torch.cat(found).double().cpu().numpy()

    def value_and_grad(self, z: Array) -> tuple[Array, Array]:
        """Log density, shape (S,), and its gradient, shape (S, D)."""
        values, gradients = [], []
        with torch.enable_grad(), pyro.validation_enabled(False):
            for part in self._tensor(z).split(self._chunk):
                value, gradient = self._both(part)
                values.append(value)
                gradients.append(gradient)
        return (
            torch.cat(values).double().cpu().numpy(),
            torch.cat(gradients).double().cpu().numpy(),
        )

    def _both(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and gradient at vectors that fill one chunk."""
        found = None if self.obstacle else self._graphs(part)
        if found is not None:
            self.evaluations += len(part)
            return found
        one = part.clone().requires_grad_()
        value = self._batch(one)
        (gradient,) = torch.autograd.grad(value.sum(), one)
        return value.detach(), gradient

    def hvp(self, z: Array, v: Array) -> Array:
        """Hessians at vectors z times vectors v, both of shape (S, D): shape (S, D)."""
        products = []
        with torch.enable_grad(), pyro.validation_enabled(False):
            chunk = max(1, self._chunk // 2)
            parts = zip(self._tensor(z).split(chunk), self._tensor(v).split(chunk), strict=True)
            for part, vector in parts:
                one = part.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(self._batch(one).sum(), one, create_graph=True)
                if not gradient.requires_grad:  # the log density is linear
                    products.append(torch.zeros_like(vector))
                    continue
                product = torch.autograd.grad((gradient * vector).sum(), one, allow_unused=True)[0]
                products.append(torch.zeros_like(vector) if product is None else product)
        return torch.cat(products).double().cpu().numpy()

    def hessian(self, z: Array) -> Array:
        """Hessian at one vector, shape (D,), by D products at once: shape (D, D)."""
        hessian = self.hvp(np.tile(z, (self.dim, 1)), np.eye(self.dim))
        if not np.isfinite(hessian).all():  # torch.logaddexp has no second derivative in its tails
            steps = 1e-5 * np.diag(np.maximum(1.0, np.abs(z)))
            rise = self.value_and_grad(z + steps)[1] - self.value_and_grad(z - steps)[1]
            hessian = rise / (2 * steps.diagonal()[:, None])
        return (hessian + hessian.T) / 2

    def mean_hessian(self, z: Array) -> Array:
        """Mean Hessian over vectors, shape (S, D): shape (D, D)."""
        total = np.zeros((self.dim, self.dim))
        for one in z:
            total += self.hessian(one)
        return total / len(z)

    def prior_draws(self, num_draws: int) -> Array:
        """Draw the latents from the prior: shape (at most `num_draws`, D).

        An improper prior cannot be drawn from. Its latents are normal around 0 on the unconstrained
        scale: with sd 1, and in every other draw, where that scale is the latent's own, with the
        size of the data for sd.
        """
        size = self._data_size()
        rows = []
        for s in range(num_draws):
            nodes = run_once(self.program, partial(_normal, scale=size if s % 2 else 1.0))
            try:
                values = {name: nodes[name]["value"][None] for name in self.shapes}
                rows.append(self.unconstrain(values)[0])
            except (KeyError, ValueError, RuntimeError):
                continue
        drawn = np.array(rows).reshape(-1, self.dim)
        return drawn[np.isfinite(drawn).all(1)]

    def _data_size(self) -> float:
        """Root mean square of everything observed, at least 1."""
        sites, values = self.program.sites, self.program.observed
        data = [v.double().flatten() for n, v in values.items() if sites[n].is_data]
        squares = torch.cat(data).square() if data else torch.zeros(1)
        return max(1.0, float(squares[torch.isfinite(squares)].mean().nan_to_num() ** 0.5))

    def _tensor(self, z: Array) -> Tensor:
        return torch.as_tensor(np.asarray(z), dtype=self.dtype, device=self.device)

    def _one(self, z: Tensor) -> Tensor:
        """Log density at one vector."""
        jacobian = []
        values = {}
        for name, unconstrained in self.unpack(z).items():
            transform = self.transforms[name]
            values[name] = transform(unconstrained)
            if self.jacobian:
                volume = transform.log_abs_det_jacobian(unconstrained, values[name])
                jacobian.append(volume.sum())
        if self._summed is not None:
            terms = [value.sum() for value in self._summed(values).values()]
        else:
            with _At(values) as at:
                self.program()
            terms = at.log_prob
        return torch.stack([*jacobian, *terms]).sum()

    def _batch(self, z: Tensor) -> Tensor:
        """Log density at vectors; −∞ where a matrix that the model factorises is singular."""
        self.evaluations += len(z)
        found, self.obstacle = over_draws(
            lambda one: {"value": self._one(one["z"])},
            {"z": z},
            chunk=len(z),
            singular=lambda one: {"value": (0 * one["z"]).sum() - torch.inf},
            obstacle=self.obstacle,
        )
        return found["value"]

    def _refuse_moving_supports(self) -> None:
        """Refuse a support that is another at another point: guides have one transform a site."""
        zeros = {name: torch.zeros(1, *shape) for name, shape in self.shapes.items()}
        for sign in (-1.0, 1.0):
            moved = {n: t(zeros[n][0].to(self.dtype) + sign) for n, t in self.transforms.items()}
            try:
                with quietly():
                    trace = poutine.trace(poutine.condition(self.program, data=moved))
                    nodes = sample_sites(trace.get_trace())
            except torch.linalg.LinAlgError:  # there is no density just there
                continue
            gone = [name for name in self.transforms if name not in nodes]
            new = [n for n, node in nodes.items() if not node["is_observed"]]
            for name in [*gone, *(n for n in new if n not in self.program.summed)]:
                raise NoDensity(
                    f"model: site {name!r} is not sampled in every run; a latent has to exist"
                    " whatever the values of the others"
                )
            for name, transform in self.transforms.items():
                now = biject_to(nodes[name]["fn"].support)
                probe = torch.full(self.shapes[name], 0.5, dtype=self.dtype)
                if not torch.allclose(transform(probe), now(probe), equal_nan=True):
                    raise NoDensity(
                        f"model: the support of site {name!r} depends on another latent; sample it"
                        " on a fixed support and scale it, e.g."
                        f" high * pyro.sample({name + '_unit'!r}, dist.Uniform(0, 1))"
                    )

    def _refuse_randomness(self) -> None:
        """Refuse a log density that is another when the random state is another."""
        for at in (0.0, 0.5):  # a random factor of a latent does nothing at 0
            z = torch.full((self.dim,), at, dtype=self.dtype, device=self.device)
            found = []
            for seed in (0, 1):
                with quietly(), torch.random.fork_rng(devices=[]):
                    pyro.set_rng_seed(seed)
                    found.append(self._one(z))
            if not torch.equal(found[0], found[1]) and bool(torch.isfinite(found[0])):
                raise NoDensity(
                    f"model: its log density at the same latents was {float(found[0]):.6g} and then"
                    f" {float(found[1]):.6g}; a random number is drawn outside pyro.sample, or a"
                    " plate takes its own subsample"
                )


def unconstrained_density(program: Program, *, jacobian: bool = True) -> UnconstrainedDensity:
    """Density of a model in double precision where the model allows it; made once and kept.

    A model that closes over single-precision tensors computes in single precision.

    Raises
    ------
    NoDensity
        As `UnconstrainedDensity`.
    """
    kept: dict[bool, UnconstrainedDensity] = program.__dict__.setdefault(DENSITIES, {})
    if jacobian not in kept:
        kept[jacobian] = UnconstrainedDensity(program.wide, jacobian=jacobian)
    return kept[jacobian]
