"""Topic 4c, second model: Bayesian logistic regression."""

from functools import partial
from typing import Any

from torch import Tensor

from guides import logistic_regression as guides
from models.logistic_regression import logistic_regression
from pyro_cookbook.algorithms.logistic_regression import newton
from pyro_cookbook.catalogue.answers import logistic_regression as answers
from pyro_cookbook.catalogue.checks import covariates_and_classes
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe, options_of
from pyro_cookbook.catalogue.estimators import vectorised_bound

PRIOR = options_of(logistic_regression)


def _table(v: Tensor) -> tuple[Tensor, Tensor]:
    """Standardised covariates, and the last column as the outcome."""
    x, y = v[:, :-1], v[:, -1]
    return (x - x.mean(0)) / x.std(0, correction=0), y


def _point(v: Tensor, size: int, seed: int, **prior: Any) -> Prepared:
    x, y = _table(v)
    found = newton(x, y, **prior)
    guide: Any = guides.LogisticRegressionMAP(x.shape[1]).to(x)
    guide.intercept_loc, guide.coefficient_loc = found.mode[0], found.mode[1:]
    return Prepared(
        logistic_regression, guide, (x, y), prior,
        losses=[-float(value) for value in found.log_joint],
        reason=f"Newton, {len(found.log_joint) - 1} steps", converged=found.converged,
    )  # fmt: skip


def _laplace(v: Tensor, size: int, seed: int, **prior: Any) -> Prepared:
    x, y = _table(v)
    found = newton(x, y, **prior)
    guide: Any = guides.LogisticRegressionLaplace(x.shape[1]).to(x)
    guide.set_gaussian(found.mode, found.covariance)
    return Prepared(
        logistic_regression, guide, (x, y), prior,
        reason="curvature at Newton's mode", converged=found.converged,
    )  # fmt: skip


def _by_svi(guide: Any, v: Tensor, size: int, seed: int, **prior: Any) -> Prepared:
    x, y = _table(v)
    elbo = vectorised_bound(16)
    return Prepared(
        logistic_regression, guide(x.shape[1]), (x, y), prior, {"elbo": elbo, "tol": 0.3}
    )


RECIPE = Recipe(
    name="04c_logistic_regression",
    title="Continuous latents: Bayesian logistic regression",
    model="logistic regression",
    topic="19.4.3",
    learn="right means, short intervals, calibrated predictions",
    data="breast_cancer",
    size=0,
    size_name="",
    guides={
        "map": GuideEntry("the mode, by Newton steps", _point),
        "laplace": GuideEntry("a Gaussian of the curvature at the mode", _laplace),
        "mean_field": GuideEntry(
            "independent normals, by SVI", partial(_by_svi, guides.LogisticRegressionMeanField)
        ),
        "full_rank": GuideEntry(
            "a full Gaussian, by SVI", partial(_by_svi, guides.LogisticRegressionFullRank)
        ),
    },
    default="full_rank",
    because="it keeps the correlations, which the mode's curvature understates",
    log_evidence=lambda fit: None,  # an integral over the coefficients
    dims={"coefficient": ("covariate",), "x": ("covariate",)},
    estimates=answers.estimates,
    apply=answers.apply,
    standardised=False,
    has_outcome=True,
    options=PRIOR,
    check=covariates_and_classes,
    notebook="04c_continuous_latents",
)
