"""Guides for `models.regression`: point, independent factors, full Gaussian.

None is amortized: coefficients and effects of groups belong to the table, not to a row, so
mini-batches need no encoder. All work on the unconstrained scale of each site: the logarithm of
what is positive, the stick-breaking coordinates of shares.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import biject_to, constraints

from models._families import sites


class _RegressionGuide(PyroModule):
    """What the three have in common: which sites there are, by the numbers of the constructor."""

    def __init__(
        self,
        num_features: int,
        num_kinds: int = 0,
        num_effects: int = 0,
        family: str = "normal",
        num_categories: int = 0,
        has_intercept: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.num_kinds, self.num_effects = num_features, num_kinds, num_effects
        self.family, self.num_categories = family, num_categories
        self.has_intercept = has_intercept
        self.sites = sites(
            family, num_features, num_kinds, num_effects, num_categories, has_intercept
        )
        self._register()

    def _register(self) -> None:
        """Make the parameters, at their initial values."""
        raise NotImplementedError

    def _draw(self) -> dict[str, Tensor]:
        """Sample every site."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        level: Tensor,
        offset: Tensor,
        trials: Tensor,
        y: Tensor | None = None,
        num_obs: int | None = None,
        *,
        family: str = "normal",
        intercept_scale: float | None = 2.5,
        coefficient_scale: float = 2.5,
        kind: Tensor | None = None,
        centring: Tensor | None = None,
        num_categories: int = 0,
    ) -> dict[str, Tensor]:
        return self._draw()


class RegressionMAP(_RegressionGuide):
    """q = ∏ δ(site − m): the posterior mode in the space of the sites themselves, not of logs.

    Its bound leaves out the entropy of a point, −∞: it is the height of a density and no lower
    bound on the evidence. With groups use the non-centred form (``centring`` 0): centred, the
    density rises without bound as a group's scale goes to 0.

    Parameters
    ----------
    num_features : int
        D.
    num_kinds, num_effects : int, default 0
        E and K.
    family : str, default "normal"
    num_categories : int, default 0
        C, for "ordinal".
    has_intercept : bool, default True

    Attributes
    ----------
    <site>_loc : Tensor
        m, in the site's shape and support. Initially 0, 1 if positive, 1 / C for shares.
    """

    def _register(self) -> None:
        for name, (shape, support) in self.sites.items():
            start = biject_to(support)(torch.zeros(_free(shape, support)))
            setattr(self, f"{name}_loc", PyroParam(start, constraint=support))

    def _draw(self) -> dict[str, Tensor]:
        return {
            name: pyro.sample(name, dist.Delta(getattr(self, f"{name}_loc"), event_dim=len(shape)))
            for name, (shape, _) in self.sites.items()
        }


class RegressionMeanField(_RegressionGuide):
    """q = ∏ N(site's unconstrained entries; m, s): independent normals.

    s is about the sd *given all other sites*: too small wherever columns correlate, and for an
    intercept that effects of groups can stand in for.

    Parameters
    ----------
    num_features, num_kinds, num_effects, family, num_categories, has_intercept
        As for `RegressionMAP`.

    Attributes
    ----------
    <site>_loc, <site>_scale : Tensor
        m and s, real and positive, in the site's unconstrained shape. Initially 0 and 0.1: narrow,
        so that the first gradients are not drowned in the noise of wide draws.
    """

    def _register(self) -> None:
        for name, (shape, support) in self.sites.items():
            free = _free(shape, support)
            setattr(self, f"{name}_loc", PyroParam(torch.zeros(free)))
            scale = PyroParam(torch.full(free, 0.1), constraint=constraints.positive)
            setattr(self, f"{name}_scale", scale)

    def _draw(self) -> dict[str, Tensor]:
        drawn = {}
        for name, (shape, support) in self.sites.items():
            loc, scale = getattr(self, f"{name}_loc"), getattr(self, f"{name}_scale")
            q = dist.Normal(loc, scale).to_event(len(shape))
            if support not in {constraints.real, constraints.real_vector}:
                q = dist.TransformedDistribution(q, [biject_to(support)])
            drawn[name] = pyro.sample(name, q)
        return drawn


class RegressionFullRank(_RegressionGuide):
    """q(all sites, unconstrained) = N(m, L Lᵀ): a full Gaussian.

    Drawn at an auxiliary site, ``latent``; the model's sites are read off it, with the Jacobians of
    their transforms in the density.

    Parameters
    ----------
    num_features, num_kinds, num_effects, family, num_categories, has_intercept
        As for `RegressionMAP`.

    Attributes
    ----------
    loc : Tensor
        m, the sites one after the other, shape (M,), real. Initially 0.
    scale_tril : Tensor
        L, lower Cholesky factor, shape (M, M). Initially 0.1 I, as for mean field.
    """

    def _register(self) -> None:
        dim = sum(_free(*site).numel() for site in self.sites.values())
        self.loc = PyroParam(torch.zeros(dim))
        self.scale_tril = PyroParam(0.1 * torch.eye(dim), constraint=constraints.lower_cholesky)

    def _draw(self) -> dict[str, Tensor]:
        q = dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
        latent = pyro.sample("latent", q, infer={"is_auxiliary": True})
        drawn, start = {"latent": latent}, 0
        for name, (shape, support) in self.sites.items():
            size = _free(shape, support).numel()
            free = latent[..., start : start + size] if shape else latent[..., start]
            start += size
            transform = biject_to(support)
            value = transform(free)
            log_density = -transform.log_abs_det_jacobian(free, value)
            q = dist.Delta(value, log_density=log_density, event_dim=len(shape))
            drawn[name] = pyro.sample(name, q)
        return drawn


def _free(shape: tuple[int, ...], support: constraints.Constraint) -> torch.Size:
    """Shape of a site on its unconstrained scale."""
    return torch.Size(biject_to(support).inverse_shape(shape))
