"""Topic 2: Gaussian mixtures, at the best of many EM optima and fully Bayesian."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from guides import gaussian_mixture as guides
from models import gaussian_mixture as models
from pyro_cookbook.algorithms.gaussian_mixture import em, variational_bayes
from pyro_cookbook.catalogue.answers import gaussian_mixture as answers
from pyro_cookbook.catalogue.checks import clusters_of_measurements
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import sum_of_rows
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.state.holding import hold

_NUM_STARTS = 20


def _mixture(v: Tensor, size: int, seed: int) -> tuple[Any, em.EMResult]:
    """Hold the model at the best of twenty EM optima."""
    result = em.em(v, size, num_restarts=_NUM_STARTS, seed=seed)
    return hold(models.GaussianMixture(v.shape[1], size), result.theta), result


def _from_em(guide: Callable[[int, int], Any], v: Tensor, size: int, seed: int) -> Prepared:
    model, result = _mixture(v, size, seed)
    prepared = guide(v.shape[1], size).to(v)
    prepared.e_step(model)
    climbed = isinstance(prepared, guides.GaussianMixtureExact)  # the bound EM itself climbs
    return Prepared(
        model,
        prepared,
        (v,),
        losses=[-value for value in result.elbo] if climbed else [],
        reason=f"EM, best of {_NUM_STARTS} starts, {len(result.elbo)} iterations",
        converged=result.converged,
    )


def _classifier(v: Tensor, size: int, seed: int) -> Prepared:
    model, _ = _mixture(v, size, seed)
    torch.manual_seed(seed)
    guide = guides.GaussianMixtureAmortized(v.shape[1], size)
    return Prepared(
        model, guide, (v,), options={"elbo": TraceEnum_ELBO(max_plate_nesting=1), "lr": 0.01}
    )


def default_prior(v: Tensor, size: int) -> models.MixturePrior:
    """Weak prior in the scale of the data; 1/K rows' worth of weight lets components stay empty.

    ν₀ = D + 2 is the smallest whole number for which the covariance has a prior mean: that of v.
    """
    one = v.new_ones(())
    covariance = torch.cov(v.mT).reshape(v.shape[1], v.shape[1])
    return models.MixturePrior(
        concentration=v.new_full((size,), 1 / size),
        loc=v.mean(0),
        mean_precision=one,
        df=(v.shape[1] + 2) * one,
        precision_tril=torch.linalg.cholesky(torch.linalg.inv(covariance)),
    )


def _variational(v: Tensor, size: int, seed: int) -> Prepared:
    prior = default_prior(v, size)
    result = variational_bayes.fit_variational_mixture(
        v, prior, num_restarts=_NUM_STARTS, seed=seed
    )
    guide: Any = guides.BayesianGaussianMixtureMeanField(len(v), v.shape[1], size).to(v)
    q = result.posterior
    guide.h_logits = q.expected_log_joint(v)
    guide.weights_concentration = q.concentration
    guide.loc_loc, guide.loc_precision = q.loc, q.mean_precision
    guide.precision_df, guide.precision_tril = q.df, q.precision_tril
    return Prepared(
        models.bayesian_gaussian_mixture,
        guide,
        (v,),
        data_kwargs={"prior": prior},
        losses=[-value for value in result.elbo],
        reason=f"coordinate ascent, best of {_NUM_STARTS} starts, {len(result.elbo)} sweeps",
        converged=result.converged,
    )


def _mixture_evidence(fit: Fit) -> float | None:
    if fit.model is models.bayesian_gaussian_mixture:
        return None  # a sum over K^n labellings
    return sum_of_rows(em.log_evidence)(fit)


RECIPE = Recipe(
    name="02_expectation_maximisation",
    title="Expectation maximisation: Gaussian mixture",
    model="Gaussian mixture",
    topic="19.2",
    learn="the two moves of EM, local optima, choosing K",
    data="iris",
    size=3,
    size_name="components",
    max_size=lambda v: len(v) - 1,
    guides={
        "exact": GuideEntry(
            "responsibilities: the E step",
            partial(_from_em, guides.GaussianMixtureExact),
        ),
        "map": GuideEntry(
            "every row to its likeliest component",
            partial(_from_em, guides.GaussianMixtureMAP),
        ),
        "amortized": GuideEntry("a classifier that learns the E step", _classifier),
        "mean_field": GuideEntry("variational Bayes over labels and parameters", _variational),
    },
    default="exact",
    because="the E step is the exact posterior of the labels",
    log_evidence=_mixture_evidence,
    dims={"v": ("feature",), "loc": ("feature",)},
    estimates=answers.estimates,
    apply=answers.apply,
    check=clusters_of_measurements,
)
