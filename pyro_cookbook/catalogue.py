"""What there is: every recipe with its data, its model and its guides. The one place that knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor

from guides import factor_analysis as fa_guides
from guides import gaussian_mixture as gm_guides
from models import factor_analysis as fa_models
from models import gaussian_mixture as gm_models
from pyro_cookbook.closed_form import factor_analysis, gaussian_mixture, variational_mixture
from pyro_cookbook.data import Table
from pyro_cookbook.fitting import as_fit, fit
from pyro_cookbook.result import Fit


@dataclass(frozen=True)
class Prepared:
    """A model and a guide, ready to be fitted to data.

    Attributes
    ----------
    model, guide : callable
    data_kwargs : dict
        Keyword data besides the rows.
    options : dict
        For `fit`: the estimator of the bound, the learning rate.
    losses : list of float
        −ELBO of the closed-form algorithm that has set the guide already, if one has.
    reason : str
        What that algorithm says of itself; "" if the guide is still to be fitted by SVI.
    converged : bool
        Whether that algorithm converged.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data_kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    reason: str = ""
    converged: bool = True

    def fit(self, v: Tensor, *, seed: int = 0, progress: bool | None = False) -> Fit:
        """Fit to the rows `v` that it was prepared for."""
        if self.reason:
            return as_fit(
                self.model,
                self.guide,
                v,
                data_kwargs=self.data_kwargs,
                seed=seed,
                losses=self.losses,
                converged=self.converged,
                reason=self.reason,
            )
        settings: dict[str, Any] = {"seed": seed, "progress": progress, **self.options}
        return fit(self.model, self.guide, v, data_kwargs=self.data_kwargs, **settings)


@dataclass(frozen=True)
class GuideEntry:
    """One guide of a recipe.

    Attributes
    ----------
    summary : str
        Half a line: the family and what it leaves out.
    prepare : callable
        ``prepare(v, size, seed)`` gives a `Prepared`; `size` counts factors or components.
    """

    summary: str
    prepare: Callable[[Tensor, int, int], Prepared]


@dataclass(frozen=True)
class Recipe:
    """A topic of the chapter, with what is needed to run it.

    Attributes
    ----------
    name : str
        Also the stem of its notebook.
    title, topic : str
        What it is about, and its section of the chapter.
    learn : str
        What the reader learns, half a line.
    data : str
        Name of the bundled table.
    size, size_name : int, str
        Default number of factors or components, and what to call it.
    guides : mapping of str to GuideEntry
    log_evidence : callable
        Exact log p(v; θ) of a fit, in nats, or None where it is not known.
    dims : mapping of str to tuple of str
        Names of the event dimensions of its variables.
    site : str
        The latent to draw in the report.
    """

    name: str
    title: str
    topic: str
    learn: str
    data: str
    size: int
    size_name: str
    guides: Mapping[str, GuideEntry]
    log_evidence: Callable[[Fit], float | None]
    dims: Mapping[str, tuple[str, ...]]
    site: str

    def coords(self, table: Table) -> dict[str, list[str]]:
        """Labels of the dimensions, for ArviZ."""
        return {"feature": list(table.columns)}


def recipe(name: str) -> Recipe:
    """Look a recipe up by its name, or the start of it.

    Raises
    ------
    ValueError
        If none or several match, listing what there is.
    """
    found = [r for r in RECIPES if r.name == name] or [
        r for r in RECIPES if r.name.startswith(name) or r.name[3:].startswith(name)
    ]
    if len(found) != 1:
        raise ValueError(
            f"recipe: got {name!r}, expected one of {', '.join(r.name for r in RECIPES)}"
        )
    return found[0]


# --- 1. Factor analysis ---------------------------------------------------------------------------


def _many_draws() -> Trace_ELBO:
    # Eight draws in one vectorised run cost little more than one, and quarter the noise.
    return Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)


def _factor_model(v: Tensor, size: int, seed: int) -> Any:
    """Hold the model at its maximum-likelihood parameters: the guides differ, θ does not."""
    theta, _ = factor_analysis.em(v, size, seed=seed)
    model: Any = fa_models.FactorAnalysis(v.shape[1], size).to(v)
    model.W, model.b, model.scale = theta.W, theta.b, theta.scale
    model.requires_grad_(False)
    return model


def _per_row(guide: Callable[[int, int], Any], v: Tensor, size: int, seed: int) -> Prepared:
    model = _factor_model(v, size, seed)
    return Prepared(model, guide(len(v), size), options={"elbo": _many_draws()})


def _linear_encoder(v: Tensor, size: int, seed: int) -> Prepared:
    model = _factor_model(v, size, seed)
    torch.manual_seed(seed)
    guide = fa_guides.FactorAnalysisAmortized(v.shape[1], size)
    return Prepared(model, guide, options={"elbo": _many_draws()})


def _factor_evidence(fit: Fit) -> float:
    model: Any = fit.model
    with torch.no_grad():
        return float(factor_analysis.log_evidence(model, fit.args[0]).sum())


# --- 2. Gaussian mixture --------------------------------------------------------------------------

_NUM_STARTS = 20


def _mixture(v: Tensor, size: int, seed: int) -> tuple[Any, gaussian_mixture.EMResult]:
    """Hold the model at the best of twenty EM optima."""
    result = gaussian_mixture.em(v, size, num_restarts=_NUM_STARTS, seed=seed)
    model: Any = gm_models.GaussianMixture(v.shape[1], size).to(v)
    model.weights, model.loc = result.theta.weights, result.theta.loc
    model.scale_tril = result.theta.scale_tril
    model.requires_grad_(False)
    return model, result


def _from_em(guide: Callable[[int, int], Any], v: Tensor, size: int, seed: int) -> Prepared:
    model, result = _mixture(v, size, seed)
    prepared = guide(v.shape[1], size).to(v)
    prepared.e_step(model)
    climbed = isinstance(prepared, gm_guides.GaussianMixtureExact)  # the bound EM itself climbs
    return Prepared(
        model,
        prepared,
        losses=[-value for value in result.elbo] if climbed else [],
        reason=f"EM, best of {_NUM_STARTS} starts, {len(result.elbo)} iterations",
        converged=result.converged,
    )


def _classifier(v: Tensor, size: int, seed: int) -> Prepared:
    model, _ = _mixture(v, size, seed)
    torch.manual_seed(seed)
    guide = gm_guides.GaussianMixtureAmortized(v.shape[1], size)
    return Prepared(model, guide, options={"elbo": TraceEnum_ELBO(max_plate_nesting=1), "lr": 0.01})


def default_prior(v: Tensor, size: int) -> gm_models.MixturePrior:
    """Weak prior in the scale of the data; 1/K rows' worth of weight lets components stay empty.

    ν₀ = D + 2 is the smallest whole number for which the covariance has a prior mean: that of v.
    """
    one = v.new_ones(())
    covariance = torch.cov(v.mT).reshape(v.shape[1], v.shape[1])
    return gm_models.MixturePrior(
        concentration=v.new_full((size,), 1 / size),
        loc=v.mean(0),
        mean_precision=one,
        df=(v.shape[1] + 2) * one,
        precision_tril=torch.linalg.cholesky(torch.linalg.inv(covariance)),
    )


def _variational(v: Tensor, size: int, seed: int) -> Prepared:
    prior = default_prior(v, size)
    result = variational_mixture.fit_variational_mixture(
        v, prior, num_restarts=_NUM_STARTS, seed=seed
    )
    guide: Any = gm_guides.BayesianGaussianMixtureMeanField(len(v), v.shape[1], size).to(v)
    q = result.posterior
    guide.h_logits = q.expected_log_joint(v)
    guide.weights_concentration = q.concentration
    guide.loc_loc, guide.loc_precision = q.loc, q.mean_precision
    guide.precision_df, guide.precision_tril = q.df, q.precision_tril
    return Prepared(
        gm_models.bayesian_gaussian_mixture,
        guide,
        data_kwargs={"prior": prior},
        losses=[-value for value in result.elbo],
        reason=f"coordinate ascent, best of {_NUM_STARTS} starts, {len(result.elbo)} sweeps",
        converged=result.converged,
    )


def _mixture_evidence(fit: Fit) -> float | None:
    if fit.model is gm_models.bayesian_gaussian_mixture:
        return None  # a sum over K^n labellings
    model: Any = fit.model
    with torch.no_grad():
        return float(gaussian_mixture.log_evidence(model, fit.args[0]).sum())


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="01_inference_as_optimisation",
        title="Inference as optimisation: factor analysis",
        topic="19.1",
        learn="the bound, its gap, and which guides close it",
        data="wine",
        size=3,
        size_name="factors",
        guides={
            "map": GuideEntry(
                "a point for each row", partial(_per_row, fa_guides.FactorAnalysisMAP)
            ),
            "mean_field": GuideEntry(
                "independent normals for each row",
                partial(_per_row, fa_guides.FactorAnalysisMeanField),
            ),
            "full_rank": GuideEntry(
                "a full Gaussian for each row; exact here",
                partial(_per_row, fa_guides.FactorAnalysisFullRank),
            ),
            "amortized": GuideEntry("a linear encoder; exact here", _linear_encoder),
        },
        log_evidence=_factor_evidence,
        dims={
            "h": ("factor",),
            "v": ("feature",),
            "W": ("feature", "factor"),
            "b": ("feature",),
            "scale": ("feature",),
            "h_loc": ("factor",),
        },
        site="h",
    ),
    Recipe(
        name="02_expectation_maximisation",
        title="Expectation maximisation: Gaussian mixture",
        topic="19.2",
        learn="the two moves of EM, local optima, choosing K",
        data="iris",
        size=3,
        size_name="components",
        guides={
            "exact": GuideEntry(
                "responsibilities: the E step",
                partial(_from_em, gm_guides.GaussianMixtureExact),
            ),
            "map": GuideEntry(
                "every row to its likeliest component",
                partial(_from_em, gm_guides.GaussianMixtureMAP),
            ),
            "amortized": GuideEntry("a classifier that learns the E step", _classifier),
            "mean_field": GuideEntry("variational Bayes over labels and parameters", _variational),
        },
        log_evidence=_mixture_evidence,
        dims={"v": ("feature",), "loc": ("feature",)},
        site="h",
    ),
)
