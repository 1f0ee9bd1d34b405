"""Topic 1: factor analysis, held at its maximum-likelihood parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from guides import factor_analysis as guides
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.algorithms import factor_analysis
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.fits.result import Fit


def many_draws() -> Trace_ELBO:
    """Estimate the bound with little noise."""
    # Eight draws in one vectorised run cost little more than one, and quarter the noise.
    return Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)


def _factor_model(v: Tensor, size: int, seed: int) -> Any:
    """Hold the model at its maximum-likelihood parameters: the guides differ, θ does not."""
    theta, _ = factor_analysis.em(v, size, seed=seed)
    model: Any = FactorAnalysis(v.shape[1], size).to(v)
    model.W, model.b, model.scale = theta.W, theta.b, theta.scale
    model.requires_grad_(False)
    return model


def _per_row(guide: Callable[[int, int], Any], v: Tensor, size: int, seed: int) -> Prepared:
    model = _factor_model(v, size, seed)
    return Prepared(model, guide(len(v), size), (v,), options={"elbo": many_draws()})


def _linear_encoder(v: Tensor, size: int, seed: int) -> Prepared:
    model = _factor_model(v, size, seed)
    torch.manual_seed(seed)
    guide = guides.FactorAnalysisAmortized(v.shape[1], size)
    return Prepared(model, guide, (v,), options={"elbo": many_draws()})


def evidence(fit: Fit) -> float:
    """Exact log p(v; θ), in nats."""
    model: Any = fit.model
    with torch.no_grad():
        return float(factor_analysis.log_evidence(model, fit.args[0]).sum())


RECIPE = Recipe(
    name="01_inference_as_optimisation",
    title="Inference as optimisation: factor analysis",
    topic="19.1",
    learn="the bound, its gap, and which guides close it",
    data="wine",
    size=3,
    size_name="factors",
    guides={
        "map": GuideEntry("a point for each row", partial(_per_row, guides.FactorAnalysisMAP)),
        "mean_field": GuideEntry(
            "independent normals for each row",
            partial(_per_row, guides.FactorAnalysisMeanField),
        ),
        "full_rank": GuideEntry(
            "a full Gaussian for each row; exact here",
            partial(_per_row, guides.FactorAnalysisFullRank),
        ),
        "amortized": GuideEntry("a linear encoder; exact here", _linear_encoder),
    },
    log_evidence=evidence,
    dims={
        "h": ("factor",),
        "v": ("feature",),
        "W": ("feature", "factor"),
        "b": ("feature",),
        "scale": ("feature",),
        "h_loc": ("factor",),
    },
    site="h",
)
