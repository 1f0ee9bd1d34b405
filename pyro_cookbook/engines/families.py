"""Families of guides by name, for any model with continuous latents."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import LowerCholeskyAffine
from pyro.infer import autoguide
from pyro.infer.autoguide.initialization import init_to_feasible, init_to_median, init_to_value
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_cookbook.engines.climbing import Centre
from pyro_cookbook.engines.gaussians import Gaussian
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.observing import Reading
from pyro_cookbook.programs.program import Program, default_dtype, is_improper, quietly

# Up to this many latent scalars "auto" takes a full covariance.
MAX_AUTO_FULL_RANK = 250
# Whole covariances above this many latents have too many entries for any number of draws here.
MAX_FULL_RANK = 500


class AutoWhitenedFlow(autoguide.AutoIAFNormal):
    """Two inverse autoregressive flows, then a fixed affine map: z = loc + L flow(ε).

    The map is the posterior's curvature, so that the flow begins at a Gaussian near the posterior
    and has only what is not Gaussian to learn.

    References
    ----------
    Kingma et al. (2016), *Improving variational inference with inverse autoregressive flow*.
    """

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        untyped: Any = super()
        untyped._setup_prototype(*args, **kwargs)
        self.register_buffer("loc", torch.zeros(self.latent_dim))
        self.register_buffer("scale_tril", torch.eye(self.latent_dim))

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        """Distribution of the unconstrained latents."""
        untyped: Any = super()
        flow = untyped.get_posterior(*args, **kwargs)
        affine = LowerCholeskyAffine(self.loc, self.scale_tril, cache_size=1)
        return TransformedDistribution(flow.base_dist, [*flow.transforms, affine])


class _Renaming(Messenger):
    """Calls sites by other names."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        msg["name"] = self.names.get(msg["name"], msg["name"])


class _NamedBySite(autoguide.AutoGuide):
    """Keeps the parameters of some sites under other names.

    Pyro keeps them as attributes of a module, under the name of the site. But a site may well be
    called ``half``, ``type`` or ``train``, like a method of every module.

    Attributes
    ----------
    sites : dict of str to str
        Name of the parameters → name of the site, where the two are not the same.
    """

    sites: Mapping[str, str] = {}

    def stored(self, site: str) -> str:
        """Name under which the parameters of a site are kept."""
        return next((name for name, other in self.sites.items() if other == site), site)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw every latent."""
        if self.prototype_trace is None:  # a run of the model, whose sites have their stored names
            untyped: Any = self
            untyped._setup_prototype(*args, **kwargs)
        with _Renaming(self.sites):
            return self._by_site(super().forward(*args, **kwargs))

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Median of every latent."""
        untyped: Any = super()
        return self._by_site(untyped.median(*args, **kwargs))

    def quantiles(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Quantiles of every latent."""
        untyped: Any = super()
        return self._by_site(untyped.quantiles(*args, **kwargs))

    def _by_site(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.sites.get(name, name): value for name, value in values.items()}


class AutoPoint(_NamedBySite, autoguide.AutoDelta):
    """Pyro's `AutoDelta`, for sites of any name."""


class AutoFactors(_NamedBySite, autoguide.AutoNormal):
    """Pyro's `AutoNormal`, for sites of any name."""


def _stored_names(model: Program) -> dict[str, str]:
    """Sites whose parameters no module can keep under their name → another name."""
    latent = list(model.latents)
    guide: Any = AutoPoint
    taken = {*dir(guide(model.function)), *dir(PyroModule()), "plates", ""}
    names: dict[str, str] = {}
    for name in latent:
        inside = any(other.startswith((f"{name}.", f"{name}_unconstrained")) for other in latent)
        if inside or taken & set(name.split(".")):
            stored = "site_" + name.replace(".", "_")
            while stored in {*latent, *names.values()}:
                stored += "_"
            names[name] = stored
    return names


FAMILIES: dict[str, Callable[..., PyroModule]] = {
    "map": AutoPoint,
    "laplace": autoguide.AutoLaplaceApproximation,
    "mean_field": AutoFactors,
    "whitened_mean_field": autoguide.AutoMultivariateNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "full_rank": autoguide.AutoMultivariateNormal,
    "flow": partial(AutoWhitenedFlow, num_transforms=2),
}
# What has a guide of another family's shape once it is fitted.
STORED_AS = {
    "laplace": "full_rank",
    "whitened_mean_field": "full_rank",
    "mean_field+linear_response": "full_rank",
}


def is_named(family: str) -> bool:
    """Whether a fit's family is one that `fit` builds by name."""
    return family in FAMILIES or family in STORED_AS


def choose(model: Program) -> str:
    """Name the family behind "auto": full rank while its covariance is small, else low rank."""
    return "full_rank" if model.num_latents <= MAX_AUTO_FULL_RANK else "low_rank"


def check(name: str, model: Program) -> None:
    """Refuse a family that cannot serve a model.

    Raises
    ------
    ValueError
        For an unknown name, a model without latents, too many latents for a whole covariance, or a
        discrete latent, naming the site.
    """
    if name not in FAMILIES:
        raise ValueError(f"guide: got {name!r}, expected a guide or one of {', '.join(FAMILIES)}")
    if not model.latents:
        raise ValueError(f"model: it has no latent site for guide {name!r} to approximate")
    for key, site in model.latents.items():
        if site.is_discrete:
            raise ValueError(
                f"guide: site {key!r} is discrete, and family {name!r} needs continuous latents;"
                " sum it out of the model or give a guide of your own"
            )
    dim = model.num_latents
    if name == "flow" and dim < 2:  # an autoregressive flow needs a predecessor
        raise ValueError("guide: 'flow' needs two latent scalars or more, got 1; use 'full_rank'")
    if name in {"full_rank", "whitened_mean_field"} and dim > MAX_FULL_RANK:
        raise ValueError(
            f"guide: {name!r} of {dim} latent scalars has {dim * (dim + 1) // 2} entries in its"
            f" covariance, more than draws can settle (at most {MAX_FULL_RANK} scalars); use"
            " 'low_rank' or 'mean_field'"
        )


def build(
    name: str,
    model: Program,
    values: Mapping[str, Tensor] | None = None,
    rank: int | None = None,
) -> PyroModule:
    """Make the guide of a family.

    Parameters
    ----------
    name : str
        One of `FAMILIES`. Each is the textbook family in the model's unconstrained coordinates,
        except "whitened_mean_field", which is independent in coordinates that the curvature of the
        log density makes round.
    model : Program
        A model on its data.
    values : mapping of str to Tensor, optional
        Where the latents start. Default: Pyro's own start, with improper priors at 0.
    rank : int, optional
        Of "low_rank". Default: Pyro's, the root of the number of latent scalars.
    """
    options: dict[str, Any] = {}
    if name not in {"map", "flow", "laplace"}:
        options["init_scale"] = 0.1
    if name == "low_rank":
        options["rank"] = rank
    if values is None:
        values = _improper_starts(model)
    stored = _stored_names(model) if name in {"map", "mean_field"} else {}
    values = {stored.get(site, site): value for site, value in values.items()}
    fallback = init_to_median if name == "map" else init_to_feasible
    if name != "flow":
        options["init_loc_fn"] = init_to_value(values=values, fallback=fallback)
    function = Reading(model.idle)(model.function)
    if model.summed:
        function = poutine.block(function, hide=list(model.summed))
    guide: Any = FAMILIES[name](_Renaming(stored)(function) if stored else function, **options)
    if stored:
        guide.sites = {other: site for site, other in stored.items()}
    return guide  # type: ignore[no-any-return]


def _improper_starts(model: Program) -> dict[str, Tensor]:
    """Where to start at priors that Pyro's initialisers cannot draw from."""
    return {n: node["value"] for n, node in model.nodes.items() if is_improper(node["fn"])}


def from_gaussian(
    name: str, model: Program, density: UnconstrainedDensity, gaussian: Gaussian
) -> PyroModule:
    """Make the guide of a family that draws from a given Gaussian of the unconstrained latents.

    The guide has the dtype and the device of the model's latents.
    """
    first = next(node["value"] for key, node in model.nodes.items() if key in density.shapes)
    constrained = density.constrain(gaussian.loc[None])
    values = {key: value[0].to(first) for key, value in constrained.items()}
    name = STORED_AS.get(name, name)
    rank = gaussian.factor.shape[1] if name == "low_rank" and gaussian.factor is not None else None
    guide: Any = build(name, model, values, rank)
    _set_up(guide, model)
    guide.to(device=first.device, dtype=first.dtype)

    def tensor(value: Any) -> Tensor:
        return torch.tensor(value).to(first)  # a copy: a broadcast array may not be written to

    with torch.no_grad():
        if name == "mean_field":
            scales = density.unpack(torch.tensor(gaussian.scale))
            for key, loc in density.unpack(torch.tensor(gaussian.loc)).items():
                _set(guide.locs, guide.stored(key), loc.to(first))
                _set(guide.scales, guide.stored(key), scales[key].to(first))
        elif name == "low_rank":
            assert gaussian.diagonal is not None
            assert gaussian.factor is not None
            guide.loc.copy_(tensor(gaussian.loc))
            guide.scale = tensor(gaussian.diagonal)
            guide.cov_factor.copy_(tensor(gaussian.factor / gaussian.diagonal[:, None]))
        elif name == "full_rank":
            triangle = cholesky(gaussian)
            diagonal = np.diagonal(triangle)
            guide.loc.copy_(tensor(gaussian.loc))
            guide.scale = tensor(diagonal)
            guide.scale_tril = tensor(triangle / diagonal[:, None])
    return guide  # type: ignore[no-any-return]


def _set_up(guide: Any, model: Program) -> None:
    """Call an automatic guide for the first time: it runs its model and makes its parameters.

    In double precision where a matrix has an inverse in that alone: the values were found in it.
    """
    with quietly():
        try:
            guide(*model.args, **model.kwargs)
        except torch.linalg.LinAlgError:
            wide = model.wide
            with default_dtype(wide.dtype):
                guide(*wide.args, **wide.kwargs)


def flow_from(model: Program, centre: Centre) -> PyroModule:
    """Make a flow that starts at the Gaussian of a centre."""
    guide: Any = build("flow", model)
    with quietly():
        guide(*model.args, **model.kwargs)
        gaussian = Gaussian(centre.z, factor=centre.coordinates.matrix)
        guide.loc.copy_(torch.as_tensor(centre.z))
        guide.scale_tril.copy_(torch.as_tensor(cholesky(gaussian)))
        for parameter in guide.parameters():
            parameter.mul_(0.1)  # the flow itself starts near the identity
    return guide  # type: ignore[no-any-return]


def cholesky(gaussian: Gaussian) -> np.ndarray:
    """Lower triangle of a Gaussian's covariance, without forming the covariance: shape (D, D)."""
    if gaussian.factor is None:
        return np.diag(gaussian.scale)
    triangle = np.linalg.qr(gaussian.factor.T, mode="r").T
    signs = np.sign(np.diagonal(triangle))
    return np.asarray(triangle * np.where(signs == 0, 1.0, signs))


def _set(module: Any, name: str, value: Tensor) -> None:
    """Set the parameter of a site, whose name may have dots."""
    *prefixes, last = name.split(".")
    for prefix in prefixes:
        module = getattr(module, prefix)
    setattr(module, last, value)
