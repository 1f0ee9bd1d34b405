"""Topic 4d: factor analysis learned under exact inference and under mean field."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from guides import factor_analysis as guides
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.algorithms import factor_analysis, variational_em
from pyro_cookbook.catalogue.answers import factor_analysis as answers
from pyro_cookbook.catalogue.checks import noise_left_by_factors
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import sum_of_rows
from pyro_cookbook.catalogue.notes import normal_columns
from pyro_cookbook.programs.state.holding import hold


def _learned(inference: str, v: Tensor, size: int, seed: int) -> Prepared:
    """Learn θ with W triangular: a W that may rotate makes mean field free of charge."""
    free = torch.ones(v.shape[1], size, dtype=torch.bool).tril()
    result = variational_em.em(v, size, inference=inference, mask=free, seed=seed, tol=1e-8)
    model = hold(FactorAnalysis(v.shape[1], size), result.theta)
    mean, covariance = factor_analysis.posterior(result.theta, v)
    guide: Any
    if inference == "exact":
        guide = guides.FactorAnalysisFullRank(*mean.shape).to(v)
        guide.h_scale_tril = torch.linalg.cholesky(covariance)
    else:
        guide = guides.FactorAnalysisMeanField(*mean.shape).to(v)
        guide.h_scale = torch.linalg.inv(covariance).diagonal().rsqrt().expand_as(mean).clone()
    guide.h_loc = mean
    return Prepared(
        model,
        guide,
        (v,),
        losses=[-value for value in result.elbo],
        reason=f"EM with {inference.replace('_', ' ')} inference, {len(result.elbo)} iterations",
        converged=result.converged,
    )


RECIPE = Recipe(
    name="04d_learning_meets_inference",
    title="Learning meets inference: factor analysis",
    model="factor analysis",
    topic="19.4.4",
    learn="what mean field does to θ, and when it is free",
    data="wine",
    size=3,
    size_name="factors",
    guides={
        "exact": GuideEntry("θ learned with the exact posterior", partial(_learned, "exact")),
        "mean_field": GuideEntry(
            "θ learned with independent normals: bent to suit them",
            partial(_learned, "mean_field"),
        ),
    },
    default="exact",
    because="its posterior is exact, and so is the likelihood that θ maximises",
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
