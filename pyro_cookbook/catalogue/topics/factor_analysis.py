"""Topic 1: factor analysis, held at its maximum-likelihood parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from guides import factor_analysis as guides
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.algorithms import factor_analysis
from pyro_cookbook.catalogue.answers import factor_analysis as answers
from pyro_cookbook.catalogue.checks import noise_left_by_factors
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import sum_of_rows, vectorised_bound
from pyro_cookbook.catalogue.notes import normal_columns
from pyro_cookbook.programs.state.holding import hold


def _factor_model(v: Tensor, size: int, seed: int) -> Any:
    """Hold the model at its maximum-likelihood parameters: the guides differ, θ does not."""
    theta, _ = factor_analysis.em(v, size, seed=seed)
    return hold(FactorAnalysis(v.shape[1], size), theta)


def _per_row(guide: Callable[[int, int], Any], v: Tensor, size: int, seed: int) -> Prepared:
    model = _factor_model(v, size, seed)
    return Prepared(model, guide(len(v), size), (v,), options={"elbo": vectorised_bound()})


def _linear_encoder(v: Tensor, size: int, seed: int) -> Prepared:
    model = _factor_model(v, size, seed)
    torch.manual_seed(seed)
    guide = guides.FactorAnalysisAmortized(v.shape[1], size)
    return Prepared(model, guide, (v,), options={"elbo": vectorised_bound()})


RECIPE = Recipe(
    name="01_inference_as_optimisation",
    title="Inference as optimisation: factor analysis",
    model="factor analysis",
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
    default="amortized",
    because="the exact posterior is in its family, for rows never seen as well",
    log_evidence=sum_of_rows(factor_analysis.log_evidence),
    dims={
        "h": ("factor",),
        "v": ("feature",),
        "W": ("feature", "factor"),
        "b": ("feature",),
        "scale": ("feature",),
        "h_loc": ("factor",),
    },
    estimates=answers.estimates,
    apply=answers.apply,
    check=noise_left_by_factors,
    notes=normal_columns,
)
