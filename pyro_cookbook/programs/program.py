"""A Pyro function together with what it is called with: its sites, found once and kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

Function = Callable[..., Any]
Node = Mapping[str, Any]


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
    """

    function: Function
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self) -> Any:
        """Run the function on its data."""
        return self.function(*self.args, **self.kwargs)

    def keeping(self, store: dict[str, Any]) -> "Program":
        """Give the same program with parameters of its own outside modules; what is known stays."""
        other = replace(self, store=store)
        other.__dict__.update({k: v for k, v in vars(self).items() if k not in vars(other)})
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
            with quietly(), ImproperAtOrigin():
                trace = poutine.trace(self).get_trace()
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

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Every sample site, described."""
        return describe(self.nodes)

    @property
    def latents(self) -> dict[str, Site]:
        """The sites that are not observed."""
        return {name: site for name, site in self.sites.items() if not site.observed}

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


class ImproperAtOrigin(Messenger):
    """Puts a prior that cannot be drawn from where its unconstrained 0 is."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["value"] is None and isinstance(getattr(fn, "base_dist", fn), dist.ImproperUniform):
            shape = (*fn.batch_shape, *fn.event_shape)
            unconstrained = biject_to(fn.support).inverse_shape(torch.Size(shape))
            msg["value"] = biject_to(fn.support)(torch.zeros(unconstrained)).expand(shape)
            msg["done"] = True


def run_once(program: Program) -> dict[str, Node]:
    """Run a program once, improper priors and all; give its sample sites."""
    with quietly(), ImproperAtOrigin():
        return sample_sites(poutine.trace(program).get_trace())


def run_at(program: Program, values: Mapping[str, Tensor]) -> dict[str, Node]:
    """Run a program with sites held at values; give its sample sites and their log densities."""
    trace = poutine.trace(poutine.condition(program, data=dict(values))).get_trace()
    trace.compute_log_prob()
    return sample_sites(trace)


def sample_sites(trace: poutine.Trace) -> dict[str, Node]:
    """Sample sites of a trace, without the index draws of plates."""
    nodes: dict[str, Any] = dict(trace.nodes)
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }


def is_derived(node: Node) -> bool:
    """Whether a site records a computed value; Pyro does not mark those of a reparametrisation."""
    fn = node["fn"]
    masked = isinstance(fn, dist.MaskedDistribution) and fn._mask is False
    return bool(node["is_observed"] and masked and isinstance(fn.base_dist, dist.Delta))


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
