# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · Inference as optimisation: solutions
#
# The exercises are at the end of `../01_inference_as_optimisation`. First its wines, its model and
# the exact posterior.

# %%
import torch
from pyro import poutine
from pyro.distributions import MultivariateNormal
from pyro.infer import Trace_ELBO
from torch.distributions import kl_divergence

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis
from pyro_cookbook import data
from pyro_cookbook.closed_form import factor_analysis as closed

torch.set_num_threads(1)  # the matrices are small: a second thread would only wait
v = data.load("wine").v
num_rows, num_features, num_factors = 178, 13, 3
theta, _ = closed.em(v, num_factors, tol=1e-12)
log_evidence = float(closed.log_evidence(theta, v).sum())
mean, V = closed.posterior(theta, v)
precision = torch.linalg.inv(V)
elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)


def model_of(theta):
    """The model, with these parameters."""
    model = FactorAnalysis(num_features, num_factors, isotropic=len(theta.scale) == 1).double()
    model.W, model.b, model.scale = theta.W, theta.b, theta.scale
    return model


def kl_of(guide, theta, v):
    """KL(q ‖ posterior under θ), summed over rows, for a Gaussian guide."""
    with torch.no_grad():
        q = poutine.trace(guide).get_trace(v).nodes["h"]["fn"]
    tril = q.scale_tril if hasattr(q, "scale_tril") else q.stddev.diag_embed()
    exact = MultivariateNormal(*closed.posterior(theta, v))
    return float(kl_divergence(MultivariateNormal(q.mean, scale_tril=tril), exact).detach().sum())


def mean_field_gap(precision):
    """KL of the best mean field, for all wines."""
    return 0.5 * num_rows * float(precision.diagonal().log().sum() - precision.logdet())


# %% [markdown]
# ## 1 The worst q
#
# KL(N(0, I) ‖ N(m, V)) = ½ [tr V⁻¹ + mᵀV⁻¹m − K − log |V⁻¹|] for each wine. The bound in closed form
# is E_q[log p(v | h)], since log p(h) − log q(h) = 0. With r = v − b it is
# log N(r; 0, Ψ) − ½ tr(WᵀΨ⁻¹W).

# %%
from_means = 0.5 * float(torch.einsum("nk,kl,nl->", mean, precision, mean))
from_spread = 0.5 * num_rows * float(precision.trace() - num_factors - precision.logdet())
noise = MultivariateNormal(theta.b, theta.scale.square().diag())
prior_bound = float(noise.log_prob(v).sum()) - 0.5 * num_rows * float(
    precision.trace() - num_factors
)
print(f"bound {prior_bound:.1f}, KL {from_means + from_spread:.1f}, sum {log_evidence:.1f} nats")
print(f"KL from the means {from_means:.1f}, from the variances {from_spread:.1f} nats")

prior = FactorAnalysisMeanField(num_rows, num_factors).double()
assert abs(kl_of(prior, theta, v) - from_means - from_spread) < 1e-6
assert abs(prior_bound + from_means + from_spread - log_evidence) < 1e-6
