"""How the sites of a program are read: observations as tensors, masked entries as absent.

Pyro takes what is observed as it comes: whole numbers where a Bernoulli wants floats, arrays, plain
numbers, more rows than the distribution has. And a mask multiplies a log density by zero, which
leaves a masked latent without any density, and NaN where a masked observation is NaN. `Reading`
makes one thing of either, in every run of a `Program`: tensors that the distribution can take, and
entries that are neither latent nor observed where they are masked.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, biject_to

Node = Mapping[str, Any]
# Under this key of `infer` a site keeps what was given as its observation, before it was converted.
GIVEN = "_given"


class BadObservation(ValueError):
    """What a model observes is not what its distribution can take: one line that names the site."""

    def __str__(self) -> str:
        """Give that line, without the trace that Pyro adds to every message."""
        return super().__str__().partition("\n")[0]


class Reading(Messenger):
    """Reads observations as tensors of their distribution's dtype, and masked entries as absent.

    A masked entry of an observation is never looked at. A masked entry of a latent that nothing
    else depends on (`idle_entries`) gets a standard normal density on its unconstrained scale: it
    is independent of everything, integrates to one, and leaves posterior and evidence as they are.

    Parameters
    ----------
    idle : mapping of str to Tensor, optional
        Latent site → which of its entries are idle.
    """

    def __init__(self, idle: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.idle = idle or {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or is_derived(msg) or not isinstance(msg["fn"], Distribution):
            return
        if msg["is_observed"]:
            if isinstance(msg["fn"], dist.Unit):  # a bare pyro.factor
                return
            given = msg["value"]
            msg["infer"][GIVEN] = given
            msg["value"] = as_observation(msg["name"], msg["fn"], given)
            msg["fn"] = spread(msg["fn"], msg["value"])
        elif msg["name"] not in self.idle:
            return
        base, kept, num_events = _peeled(msg["fn"], msg["mask"])
        if kept is not None:
            site: Any = MaskedSite(base, kept, self.idle.get(msg["name"]))
            msg["fn"] = site.to_event(num_events) if num_events else site
            msg["mask"] = None


def is_derived(node: Node) -> bool:
    """Whether a site records a computed value; Pyro does not mark those of a reparametrisation."""
    fn = node["fn"]
    masked = isinstance(fn, dist.MaskedDistribution) and fn._mask is False
    return bool(node["is_observed"] and masked and isinstance(fn.base_dist, dist.Delta))


# --- observations ------------------------------------------------------------------------------


def as_observation(name: str, fn: Any, value: Any) -> Tensor:
    """Make an observation a tensor that its distribution can take.

    Parameters
    ----------
    name : str
        Of the site.
    fn : Distribution
    value : Tensor or array_like
        Floating-point tensors are left as they are.

    Raises
    ------
    BadObservation
        If it does not hold numbers.
    """
    leaf = _leaf(fn)
    like = _parameter(leaf)
    tensor = value if isinstance(value, Tensor) else as_tensor(value)
    if tensor is None:
        raise BadObservation(
            f"site {name!r}: its observations are {describe_value(value)}, expected numbers"
        )
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    if isinstance(leaf, torch.distributions.Categorical):  # its values are indices
        whole = tensor if tensor.is_floating_point() else tensor.long()
        return whole.to(like.device)
    return tensor.to(device=like.device, dtype=like.dtype)


def as_tensor(value: Any) -> Tensor | None:
    """Copy an array, a column, a list or a number into a tensor; None if it holds no numbers.

    Masked entries of an array become NaN, as what is missing is everywhere else.
    """
    if np.ma.isMaskedArray(value) and np.ma.is_masked(value) and value.dtype.kind in "biuf":
        value = np.ma.filled(value.astype(np.float64), np.nan)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # a ragged list, a tensor that has a gradient
        return None
    if array.dtype.kind not in "biuf":
        return None
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    # Torch knows neither long doubles nor the byte order of other machines.
    array = array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="))
    return torch.tensor(np.ascontiguousarray(array).reshape(array.shape))


def describe_value(value: Any) -> str:
    """Name the type of a value, its dtype and its shape, in a few words."""
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"Tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} {tuple(value.shape)} of {value.dtype}"
    if hasattr(value, "shape"):
        return f"{kind} {tuple(value.shape)}"
    if isinstance(value, (list, tuple, dict)):
        inside = type(next(iter(value))).__name__ if value else "nothing"
        return f"{kind} of {len(value)} {inside}"
    return f"{kind} {value!r:.20}" if isinstance(value, (bool, int, float, str)) else kind


def spread(fn: Any, value: Tensor) -> Any:
    """Give a distribution a row for each row of its observation, where no plate has done so."""
    batch = value.shape[: value.dim() - fn.event_dim]
    try:
        # NumPy's: torch's imports sympy, half a second.
        rows = np.broadcast_shapes(batch, fn.batch_shape)
        return fn.expand(batch) if rows == batch != fn.batch_shape else fn
    except (NotImplementedError, ValueError):  # no such method; shapes that do not go together
        return fn


def _leaf(fn: Any) -> Any:
    """Undo wrappers: the distribution that one entry has."""
    while True:
        if hasattr(fn, "base_dist"):
            fn = fn.base_dist
        elif isinstance(fn, torch.distributions.MixtureSameFamily):
            fn = fn.component_distribution
        else:
            return fn


def _parameter(fn: Any) -> Tensor:
    """Give a floating-point tensor among a distribution's parameters."""
    for value in vars(fn).values():
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
        if isinstance(value, Distribution):
            return _parameter(value)
    return torch.empty(())


# --- masks -------------------------------------------------------------------------------------


def _peeled(fn: Any, mask: Any) -> tuple[Any, Tensor | None, int]:
    """Take masks and `to_event` off a distribution.

    Returns
    -------
    base : Distribution
    kept : Tensor or None
        Which entries of its batch are not masked; None if there is no mask.
    num_events : int
        How many of its batch dimensions were made event dimensions.
    """
    kept = _as_mask(mask)
    num_events = 0
    while True:
        if isinstance(fn, dist.MaskedDistribution):
            inner = _as_mask(fn._mask)
            if inner is not None:
                kept = inner if kept is None else kept & inner
            fn = fn.base_dist
        elif isinstance(fn, torch.distributions.Independent):
            num_dims = fn.reinterpreted_batch_ndims
            if kept is not None:
                kept = kept.reshape(kept.shape + (1,) * num_dims)
            num_events += num_dims
            fn = fn.base_dist
        else:
            return fn, kept, num_events


def _as_mask(mask: Any) -> Tensor | None:
    if mask is None or mask is True:
        return None
    return mask.bool() if isinstance(mask, Tensor) else torch.zeros((), dtype=torch.bool)


class MaskedSite(dist.TorchDistribution):
    """A distribution that looks at some entries of its batch only.

    Parameters
    ----------
    base_dist : Distribution
    kept : Tensor
        Entries that count; the others have log density 0, whatever their value, NaN included.
    idle : Tensor, optional
        Entries that have a standard normal density on the unconstrained scale instead.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch declares it

    def __init__(self, base_dist: Any, kept: Tensor, idle: Tensor | None = None) -> None:
        batch = torch.Size(np.broadcast_shapes(kept.shape, base_dist.batch_shape))
        self.base_dist = base_dist if base_dist.batch_shape == batch else base_dist.expand(batch)
        self.kept = kept.expand(batch)
        self.idle = None if idle is None else idle.expand(batch)
        super().__init__(batch, base_dist.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MaskedSite":
        """Give the same with more rows."""
        batch = torch.Size(batch_shape)
        idle = None if self.idle is None else self.idle.expand(batch)
        return MaskedSite(self.base_dist.expand(batch), self.kept.expand(batch), idle)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have a gradient in the parameters."""
        return bool(self.base_dist.has_rsample)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether the values can be listed."""
        return bool(self.base_dist.has_enumerate_support)

    @property
    def support(self) -> Any:
        """Support of an entry that counts."""
        return self.base_dist.support

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """List the values."""
        values: Tensor = self.base_dist.enumerate_support(expand=expand)
        return values

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw without a gradient."""
        with torch.no_grad():
            return self._with_idle(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw with a gradient."""
        return self._with_idle(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the entries that count and of the idle ones."""
        log_prob = self.base_dist.log_prob(self.filled(value))
        log_prob = torch.where(self.kept, log_prob, 0.0)
        if self.idle is None:
            return log_prob
        transform = biject_to(self.base_dist.support)
        inside = torch.where(self._by_entry(self.idle), value, self._inside(value))
        unconstrained = transform.inv(inside)
        normal = dist.Normal(torch.zeros_like(unconstrained), 1.0).log_prob(unconstrained)
        normal = sum_rightmost(normal, transform.domain.event_dim)
        volume = transform.log_abs_det_jacobian(unconstrained, inside)
        return torch.where(self.idle, normal - volume, log_prob)

    def filled(self, value: Tensor) -> Tensor:
        """Put a value inside the support wherever an entry does not count."""
        return torch.where(self._by_entry(self.kept), value, self._inside(value))

    def _with_idle(self, value: Tensor) -> Tensor:
        if self.idle is None:
            return value
        transform = biject_to(self.base_dist.support)
        drawn = transform(torch.randn_like(transform.inv(value)))
        return torch.where(self._by_entry(self.idle), drawn, value)

    def _by_entry(self, mask: Tensor) -> Tensor:
        return mask.reshape(mask.shape + (1,) * self.event_dim)

    def _inside(self, like: Tensor) -> Tensor:
        """Give some value inside the support, of the shape and dtype of another."""
        support: Any = self.base_dist.support
        zeros = torch.zeros_like(like)
        if support.is_discrete:
            while hasattr(support, "base_constraint"):
                support = support.base_constraint
            return zeros + getattr(support, "lower_bound", 0)
        try:
            transform = biject_to(support)
        except NotImplementedError:  # no bijection to the reals: any value will have to do
            return zeros
        shape = like.shape
        if transform.domain.event_dim and transform.domain.event_dim <= like.dim():
            shape = transform.inverse_shape(shape)
        inside: Tensor = transform(like.new_zeros(shape))
        return inside


def idle_entries(run: Callable[[], Any], nodes: Mapping[str, Node]) -> dict[str, Tensor]:
    """Entries of latents that a mask leaves without a density, and that nothing else depends on.

    Where something does depend on a masked latent it has a flat prior, and is left alone.

    Parameters
    ----------
    run : callable
        A program on its data.
    nodes : mapping
        Its sites, as one run of it shows them.

    Returns
    -------
    dict of str to Tensor
        Site → which entries of its distribution's batch, event dimensions made by `to_event`
        included, are idle; sites without any are left out. Continuous latents only: what is
        discrete is summed or enumerated, and a mask leaves nothing improper there.
    """
    latent = {n: node for n, node in nodes.items() if not node["is_observed"]}
    masked: dict[str, tuple[Tensor, int]] = {}
    for name, node in latent.items():
        base, kept, _ = _peeled(node["fn"], node["mask"])
        if kept is None or not node["value"].is_floating_point() or bool(kept.all()):
            continue
        if np.broadcast_shapes(kept.shape, base.batch_shape) == base.batch_shape:
            masked[name] = ((~kept).expand(base.batch_shape), base.event_dim)
    if not masked:
        return {}
    idle = {name: entries for name, (entries, _) in masked.items()}
    for shift in (0.0, 0.7):  # what happens to be flat at one point is not at another
        slopes = _slopes(run, latent, list(masked), shift)
        for name, (_, event_dim) in masked.items():
            if name not in slopes:
                return {}
            idle[name] = idle[name] & (sum_rightmost(slopes[name].abs(), event_dim) == 0)
    return {name: entries for name, entries in idle.items() if bool(entries.any())}


def _slopes(
    run: Callable[[], Any], latent: Mapping[str, Node], wanted: list[str], shift: float
) -> dict[str, Tensor]:
    """Gradient of the log density in some latents, all moved on their unconstrained scale."""
    values: dict[str, Tensor] = {}
    try:
        for name, node in latent.items():
            value = node["value"].detach()
            if value.is_floating_point():
                transform = biject_to(node["fn"].support)
                value = transform(transform.inv(value) + shift)
            values[name] = value
        for name in wanted:
            values[name] = values[name].detach().requires_grad_()
        with torch.enable_grad(), pyro.validation_enabled(False), poutine.block():
            trace = poutine.trace(poutine.condition(run, data=values)).get_trace()
            total: Any = trace.log_prob_sum()
            found = torch.autograd.grad(total, [values[n] for n in wanted], allow_unused=True)
    except (NotImplementedError, RuntimeError, ValueError):  # no bijection, no gradient, no density
        return {}
    return {
        name: torch.zeros_like(values[name]) if slope is None else slope
        for name, slope in zip(wanted, found, strict=True)
    }
