"""Topic 4a: binary sparse coding, learned by exact EM and held."""

from typing import Any

import torch
from torch import Tensor

from guides import binary_sparse_coding as guides
from models.binary_sparse_coding import BinarySparseCoding
from pyro_cookbook.algorithms.binary_sparse_coding import mean_field as fixed_point
from pyro_cookbook.algorithms.binary_sparse_coding.elbo import ClosedFormELBO
from pyro_cookbook.algorithms.binary_sparse_coding.em import em
from pyro_cookbook.catalogue.answers import binary_sparse_coding as answers
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import sum_of_rows
from pyro_cookbook.programs.state.holding import hold

_NUM_STARTS = 10


def _learned(v: Tensor, size: int, seed: int) -> Any:
    """Hold the model at the best of several EM optima: the guides differ, θ does not."""
    theta = em(v, size, inference="exact", num_restarts=_NUM_STARTS, seed=seed).theta
    return hold(BinarySparseCoding(v.shape[1], size), theta)


def _point(v: Tensor, size: int, seed: int) -> Prepared:
    model = _learned(v, size, seed)
    guide: Any = guides.BinarySparseCodingMAP(len(v), size).to(v)
    guide.e_step(model, v)
    return Prepared(model, guide, (v,), reason="iterated conditional modes")


def _fixed_point(v: Tensor, size: int, seed: int) -> Prepared:
    model = _learned(v, size, seed)
    found = fixed_point.coordinate_ascent(model, v)
    guide: Any = guides.BinarySparseCodingMeanField(len(v), size).to(v)
    guide.h_logits = found.logits
    return Prepared(
        model,
        guide,
        (v,),
        losses=[-float(value) for value in found.elbo],
        reason=f"coordinate ascent, {len(found.elbo)} sweeps",
        converged=found.converged,
    )


def _encoder(v: Tensor, size: int, seed: int) -> Prepared:
    model = _learned(v, size, seed)
    torch.manual_seed(seed)
    guide = guides.BinarySparseCodingAmortized(v.shape[1], size)
    elbo: Any = ClosedFormELBO  # untyped, as Pyro's own
    # Training can switch a unit off for good: two starts.
    options = {"elbo": elbo(), "lr": 0.01, "tol": 5.0, "num_restarts": 2}
    return Prepared(model, guide, (v,), options=options)


RECIPE = Recipe(
    name="04a_binary_sparse_coding",
    title="Discrete latents: binary sparse coding",
    model="binary sparse coding",
    topic="19.4.1",
    learn="fixed points, inhibition, and the noise of gradients",
    data="bars",
    size=8,
    size_name="units",
    guides={
        "map": GuideEntry("every switch on or off, by iterated conditional modes", _point),
        "mean_field": GuideEntry("independent switches, by the fixed point", _fixed_point),
        "amortized": GuideEntry("a network in place of the fixed point", _encoder),
    },
    default="mean_field",
    because="of the three its bound is the nearest to the evidence",
    log_evidence=sum_of_rows(fixed_point.log_evidence),
    dims={"h": ("unit",), "v": ("feature",), "W": ("feature", "unit"), "b": ("unit",)},
    estimates=answers.estimates,
    apply=answers.apply,
    standardised=False,
    max_size=lambda v: 12,  # every state is enumerated
)
