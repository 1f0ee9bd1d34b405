"""A Pyro function together with what it is called with: its sites, found once and kept."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_cookbook.programs.observing import Node, Reading, idle_entries, is_derived

# Where a program keeps the densities that were made of it.
DENSITIES = "_densities"
# Runs that may meet a singular matrix before it is the program's own fault.
_TRIES = 20

Function = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """A sample site of a program, as one run shows it.

    Attributes
    ----------
    plates : tuple of str
        Names of the enclosing plates, in the order of the batch dimensions; "" where a batch
        dimension has no plate.
    shape : torch.Size
        Shape of one value: batch, then event.
    event_dim : int
    observed : bool
    is_delta : bool
        The distribution is a point mass.
    is_discrete : bool
    auxiliary : bool
        A draw of the guide alone, from which other sites are computed.
    deterministic : bool
        Recorded by ``pyro.deterministic``.
    """

    plates: tuple[str, ...]
    shape: torch.Size
    event_dim: int
    observed: bool
    is_delta: bool
    is_discrete: bool
    auxiliary: bool = False
    deterministic: bool = False

    @property
    def is_data(self) -> bool:
        """Whether the site holds data: observed, no derived value, no bare ``pyro.factor``."""
        return self.observed and not self.deterministic and self.shape.numel() > 0

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the site's log density."""
        return self.shape[: len(self.shape) - self.event_dim]


@dataclass(frozen=True, eq=False)
class Program:
    """A Pyro function, what it is called with, and the parameters it keeps outside modules.

    Attributes
    ----------
    function : callable
        A model or a guide.
    args, kwargs : tuple, dict
        Its data.
    store : dict
        Parameters that it keeps with ``pyro.param`` outside a module.
    dtype : torch.dtype or None
        The default dtype while it runs; None for the caller's.
    summed : tuple of str
        Discrete latents that are summed out of its density, and so are no latents of it: see
        `enumeration.summed_out`.
    """

    function: Function
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict, repr=False)
    dtype: torch.dtype | None = None
    summed: tuple[str, ...] = ()

    def __call__(self) -> Any:
        """Run the function on its data, its sites read as `observing.Reading` does."""
        return self._run(self.idle)

    def _run(self, idle: Mapping[str, Tensor] | None = None) -> Any:
        with default_dtype(self.dtype), Reading(idle):
            return self.function(*self.args, **self.kwargs)

    def keeping(self, store: dict[str, Any]) -> "Program":
        """Give the same program with parameters of its own outside modules; what is known stays.

        But for what was made of its parameters, which may have been trained meanwhile.
        """
        other = replace(self, store=store)
        return self._tell(other, forget=("wide", DENSITIES))

    def under(self, dtype: torch.dtype) -> "Program":
        """Give the same program with another default dtype; what is known stays."""
        return self._tell(replace(self, dtype=dtype))

    def _tell(self, other: "Program", forget: tuple[str, ...] = ()) -> "Program":
        gone = {*vars(other), *forget}
        other.__dict__.update({k: v for k, v in vars(self).items() if k not in gone})
        return other

    def on(self, *args: Any, **kwargs: Any) -> "Program":
        """Give the same function on other data."""
        return replace(self, args=args, kwargs=kwargs)

    def of(self, function: Function) -> "Program":
        """Give another function on the same data."""
        return replace(self, function=function)

    @property
    def name(self) -> str:
        """Name of the function, or of its class."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    @cached_property
    def trace(self) -> poutine.Trace:
        """Pyro's trace of one run, improper priors and all; takes no random numbers."""
        rng_state = pyro.util.get_rng_state()
        try:
            trace = _first_trace(self._run)
        finally:
            pyro.util.set_rng_state(rng_state)
        # Constrained parameters know their unconstrained selves by weak references only.
        values: list[Any] = [node.get("value") for node in trace.nodes.values()]
        self.__dict__["_alive"] = [v.unconstrained() for v in values if hasattr(v, "unconstrained")]
        return trace

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Sample sites of that run, as Pyro's trace has them."""
        return sample_sites(self.trace)

    @property
    def learns(self) -> bool:
        """Whether it has parameters to learn, in a module or by ``pyro.param``."""
        params = (node for node in self.trace.nodes.values() if node["type"] == "param")
        return is_trained(self.function) or any(is_free(node["value"]) for node in params)

    @cached_property
    def idle(self) -> dict[str, Tensor]:
        """Masked entries of latents that nothing depends on: see `observing.idle_entries`."""
        try:
            nodes = self.nodes
        except Exception:  # whatever it runs into; it shows when it is run
            return {}
        return idle_entries(self._run, nodes)

    @cached_property
    def wide(self) -> "Program":
        """The program in double precision, where it runs in it; else itself.

        A program that closes over single-precision tensors, say, does not.
        """
        if self.dtype == torch.float64:
            return self
        wide = _doubled(self)
        try:
            slope(wide)
        except torch.linalg.LinAlgError:  # at these very latents; the dtypes go together
            return wide
        except (RuntimeError, TypeError, ValueError):  # a dtype of its own somewhere
            return self
        return wide

    def to_own(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give values of latents the dtype in which the program computes: its first latent's."""
        own = (n["value"].dtype for n in self.nodes.values() if not n["is_observed"])
        dtype = next((one for one in own if one.is_floating_point), torch.get_default_dtype())
        return {n: v.to(dtype) if v.is_floating_point() else v for n, v in values.items()}

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Every sample site, described."""
        return describe(self.nodes)

    @property
    def latents(self) -> dict[str, Site]:
        """The sites that are neither observed nor summed out."""
        return {
            name: site
            for name, site in self.sites.items()
            if not site.observed and name not in self.summed
        }

    @property
    def num_latents(self) -> int:
        """Count the latent scalars."""
        return sum(site.shape.numel() for site in self.latents.values())

    @property
    def observed(self) -> dict[str, Tensor]:
        """Values of the observed sites, computed ones among them."""
        return {n: node["value"] for n, node in self.nodes.items() if node["is_observed"]}


@contextmanager
def quietly() -> Iterator[None]:
    """Switch off gradients and Pyro's validation, whose data-dependent branches vmap refuses."""
    with torch.no_grad(), pyro.validation_enabled(False):
        yield


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Make tensors of this type by default, for a block; None changes nothing."""
    if dtype is None:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Gives unconstrained values for a transform and their shape.
Place = Callable[[Any, torch.Size], Tensor]


def _origin(_: Any, shape: torch.Size) -> Tensor:
    return torch.zeros(shape)


class Improper(Messenger):
    """Puts a prior that cannot be drawn from somewhere on its unconstrained scale."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and is_improper(msg["fn"]):
            fn = msg["fn"]
            shape = torch.Size((*fn.batch_shape, *fn.event_shape))
            transform = biject_to(fn.support)
            unconstrained = self.place(transform, transform.inverse_shape(shape))
            msg["value"] = transform(unconstrained).expand(shape)
            msg["done"] = True


def is_improper(fn: Any) -> bool:
    """Whether a distribution has no normalised density, and cannot be drawn from."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.ImproperUniform)


def _first_trace(run: Callable[[], Any]) -> poutine.Trace:
    """Run once, out of sight of any handler around; again where a matrix is singular by chance."""

    def once() -> poutine.Trace:
        with quietly(), poutine.block(), Improper(_origin):
            return poutine.trace(run).get_trace()

    for _ in range(_TRIES - 1):
        with suppress(torch.linalg.LinAlgError):
            return once()
    return once()


def run_once(program: Program, improper: Place = _origin) -> dict[str, Node]:
    """Run a program once; give its sample sites.

    Parameters
    ----------
    program : Program
    improper : callable, optional
        Where to put latents whose prior cannot be drawn from: a function of the transform from the
        unconstrained scale and of a shape there. Default: the origin.
    """
    with quietly(), Improper(improper):
        return sample_sites(poutine.trace(program).get_trace())


def run_at(program: Program, values: Mapping[str, Tensor]) -> dict[str, Node]:
    """Run a program with sites held at values; give its sample sites and their log densities."""
    trace = poutine.trace(poutine.condition(program, data=dict(values))).get_trace()
    trace.compute_log_prob()
    return sample_sites(trace)


def slope(program: Program) -> Tensor:
    """Compute a program's log density at the latents of its first run, and its gradient there.

    Nothing is done with the gradient: what fails here fails in a fit.

    Returns
    -------
    Tensor, shape ()
        The log density, in nats.
    """
    first = {n: node["value"] for n, node in program.nodes.items() if not node["is_observed"]}
    values = {n: value.detach().clone() for n, value in program.to_own(first).items()}
    free = [value.requires_grad_() for value in values.values() if value.is_floating_point()]
    with torch.enable_grad(), pyro.validation_enabled(False), poutine.block():
        nodes = run_at(program, values)
        total = torch.stack([node["log_prob"].double().sum() for node in nodes.values()]).sum()
        if free and total.requires_grad:
            torch.autograd.grad(total, free, allow_unused=True)
    return total.detach()


def sample_sites(trace: poutine.Trace) -> dict[str, Node]:
    """Sample sites of a trace, without the index draws of plates."""
    nodes: dict[str, Any] = dict(trace.nodes)
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }


def describe(nodes: Mapping[str, Node]) -> dict[str, Site]:
    """Describe the sample sites of a run."""
    return {name: _describe(node) for name, node in nodes.items()}


def _describe(node: Node) -> Site:
    fn, shape = node["fn"], torch.Size(node["value"].shape)
    batch_dim = len(shape) - fn.event_dim
    plates = [""] * batch_dim
    for frame in node["cond_indep_stack"]:
        if frame.vectorized and -frame.dim <= batch_dim:
            plates[frame.dim] = frame.name
    base = fn
    while hasattr(base, "base_dist") and not isinstance(base, dist.Delta):
        base = base.base_dist
    return Site(
        plates=tuple(plates),
        shape=shape,
        event_dim=fn.event_dim,
        observed=bool(node["is_observed"]),
        is_delta=isinstance(base, dist.Delta),
        # Discrete point masses: the support of a Delta is "real" whatever its value's type.
        is_discrete=fn.support.is_discrete or not node["value"].is_floating_point(),
        auxiliary=bool(node["infer"].get("is_auxiliary", False)),
        deterministic=is_derived(node),
    )


def _doubled(program: Program) -> Program:
    """Give the program in double precision: its data, and a copy of its module."""

    def double(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.double() if is_float else value

    function = program.function
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).double()
    return replace(
        program,
        function=function,
        args=tuple(double(value) for value in program.args),
        kwargs={key: double(value) for key, value in program.kwargs.items()},
        dtype=torch.float64,
    )


def is_trained(program: Any) -> bool:
    """Whether a program is a module with parameters to learn."""
    return isinstance(program, nn.Module) and any(
        isinstance(p, nn.Parameter) and p.requires_grad for p in program.parameters()
    )


def is_free(value: Any) -> bool:
    """Whether a parameter's value, perhaps constrained, is to be learnt."""
    return bool((value.unconstrained() if hasattr(value, "unconstrained") else value).requires_grad)
