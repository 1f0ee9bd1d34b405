"""Topic 4b: the density of maximum entropy, at the multipliers that the data ask for."""

import math
from typing import Any

import torch
from torch import Tensor

from guides import maximum_entropy as guides
from models.maximum_entropy import Multipliers, maximum_entropy
from pyro_cookbook.algorithms.calculus_of_variations.maximum_entropy import gaussian_multipliers
from pyro_cookbook.catalogue.answers import maximum_entropy as answers
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import vectorised_bound
from pyro_cookbook.fits.result import Fit


def _prepare(guide: Any, v: Tensor) -> Prepared:
    found = gaussian_multipliers(v.mean(0).numpy(), v.std(0, correction=0).numpy())
    multipliers = Multipliers(*(torch.as_tensor(value).to(v) for value in found))
    elbo = vectorised_bound()
    return Prepared(
        maximum_entropy, guide, (v,), {"multipliers": multipliers}, {"elbo": elbo, "lr": 0.01}
    )


def _normal(v: Tensor, size: int, seed: int) -> Prepared:
    return _prepare(guides.MaximumEntropyNormal(v.shape[1]), v)


def _flow(v: Tensor, size: int, seed: int) -> Prepared:
    return _prepare(guides.MaximumEntropyFlow(v.shape[1], size), v)


def _largest_entropy(fit: Fit) -> float:
    """n times the largest entropy: what the bound rises to at the right multipliers."""
    variance = fit.args[0].var(0, correction=0)
    return float(len(fit.args[0]) * (2 * math.pi * math.e * variance).log().sum() / 2)


RECIPE = Recipe(
    name="04b_calculus_of_variations",
    title="Calculus of variations: maximum entropy",
    model="maximum entropy",
    topic="19.4.2",
    learn="why a fixed mean and variance give the Gaussian",
    data="iris",
    size=6,
    size_name="bins",
    max_size=lambda v: 50,
    guides={
        "normal": GuideEntry("a normal: the optimum is in the family", _normal),
        "flow": GuideEntry("a spline flow, which has to find the normal", _flow),
    },
    default="normal",
    because="the optimum is a normal",
    log_evidence=_largest_entropy,
    dims=dict.fromkeys(
        ("h", "v", "h_loc", "h_scale", "multipliers_linear", "multipliers_quadratic"), ("feature",)
    ),
    estimates=answers.estimates,
    apply=answers.apply,
)
