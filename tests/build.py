"""Models and guides with given parameters, for tests that need no fit."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisFullRank
from guides.gaussian_mixture import BayesianGaussianMixtureMeanField
from guides.sigmoid_belief_network import SigmoidBeliefNetworkAmortized
from models.sigmoid_belief_network import SigmoidBeliefNetwork
from pyro_cookbook.algorithms import factor_analysis
from pyro_cookbook.algorithms.gaussian_mixture.variational_bayes import MixturePosterior
from pyro_cookbook.algorithms.wake_sleep.enumeration import BeliefParameters
from pyro_cookbook.algorithms.wake_sleep.learning import Recognition
from pyro_cookbook.engines.climbing import Centre
from pyro_cookbook.programs.coordinates import Coordinates


def build[M: nn.Module](module: M, dtype: torch.dtype = torch.float64, **values: Any) -> M:
    """Set parameters to copies of the values: the module shares no memory with them."""
    module.to(dtype)
    for name, value in values.items():
        setattr(module, name, torch.as_tensor(value).to(dtype).clone())
    return module


def exact_factors(
    theta: Any, v: Tensor, dtype: torch.dtype = torch.float64
) -> FactorAnalysisFullRank:
    """Make the guide that holds the posterior of these rows."""
    mean, covariance = factor_analysis.posterior(theta, v)
    guide = FactorAnalysisFullRank(*mean.shape)
    return build(guide, dtype, h_loc=mean, h_scale_tril=torch.linalg.cholesky(covariance))


def exact_encoder(
    theta: Any, v: Tensor, dtype: torch.dtype = torch.float64
) -> FactorAnalysisAmortized:
    """Make the encoder that gives the posterior of any rows: read off where it sends 0 and e_d."""
    num_features, num_factors = theta.W.shape
    basis = torch.eye(num_features).to(theta.W)
    offset, covariance = factor_analysis.posterior(theta, torch.zeros_like(basis[:1]))
    guide = FactorAnalysisAmortized(num_features, num_factors)
    weight = (factor_analysis.posterior(theta, basis)[0] - offset).mT
    guide.encoder[0].to(dtype).load_state_dict({"weight": weight, "bias": offset[0]})
    return build(guide, dtype, h_scale_tril=torch.linalg.cholesky(covariance))


def mixture_guide(q: MixturePosterior, v: Tensor) -> BayesianGaussianMixtureMeanField:
    """Make the guide of q(π) ∏ q(μ, Λ) and the best q(h) for it."""
    num_components, num_features = q.loc.shape
    return build(
        BayesianGaussianMixtureMeanField(len(v), num_features, num_components),
        h_logits=q.expected_log_joint(v),
        weights_concentration=q.concentration,
        loc_loc=q.loc,
        loc_precision=q.mean_precision,
        precision_df=q.df,
        precision_tril=q.precision_tril,
    )


def belief_theta() -> BeliefParameters:
    """Overlapping causes of both signs; every number its own."""
    rng = torch.Generator().manual_seed(3)
    W = 1.5 * torch.randn(5, 3, generator=rng, dtype=torch.float64)
    b = torch.linspace(-1, 0.5, 3, dtype=torch.float64)
    return BeliefParameters(W, b, torch.linspace(-1, 1, 5, dtype=torch.float64))


def belief_phi() -> Recognition:
    """Any recognition network for `belief_theta`: not its posterior."""
    rng = torch.Generator().manual_seed(5)
    R = torch.randn(3, 5, generator=rng, dtype=torch.float64)
    return Recognition(R, torch.tensor([-0.5, 0.2, 0.4], dtype=torch.float64))


def belief_model(theta, dtype: torch.dtype = torch.float64) -> SigmoidBeliefNetwork:
    """Make the sigmoid belief network of these parameters."""
    return build(SigmoidBeliefNetwork(*theta.W.shape), dtype, **theta._asdict())


def belief_network(phi, dtype: torch.dtype = torch.float64) -> SigmoidBeliefNetworkAmortized:
    """Make the guide of a linear recognition network."""
    guide = SigmoidBeliefNetworkAmortized(phi.R.shape[1], phi.R.shape[0]).to(dtype)
    guide.encoder[0].load_state_dict({"weight": phi.R, "bias": phi.r})
    return guide


def some_centre(dim: int, seed: int, *, dense: bool) -> Centre:
    """Coordinates that have nothing to do with any posterior."""
    rng = np.random.default_rng(seed)
    whiten = 0.3 * rng.standard_normal((dim, dim)) + np.eye(dim) if dense else 1 + rng.random(dim)
    return Centre(Coordinates(rng.standard_normal(dim), whiten), -10.0, 0.0, True, np.ones(dim), 0)
