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
import pyro
import torch
from pyro import poutine
from pyro.distributions import MultivariateNormal
from pyro.infer import Trace_ELBO
from torch.distributions import kl_divergence

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis
from pyro_cookbook import data
from pyro_cookbook.algorithms import factor_analysis as fa

torch.set_num_threads(1)  # the matrices are small: a second thread would only wait
pyro.settings.set(module_local_params=True)  # else a second guide starts where the first ended
v = data.load("wine").v
num_rows, num_features, num_factors = 178, 13, 3
theta, _ = fa.em(v, num_factors, tol=1e-12)
log_evidence = float(fa.log_evidence(theta, v).sum())
mu, V = fa.posterior(theta, v)
precision = torch.linalg.inv(V)
elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)


def kl_of(guide, theta, v):
    """KL(q ‖ posterior under θ), summed over rows, for a Gaussian guide."""
    with torch.no_grad():
        q = poutine.trace(guide).get_trace(v).nodes["h"]["fn"]
    tril = q.scale_tril if hasattr(q, "scale_tril") else q.stddev.diag_embed()
    exact = MultivariateNormal(*fa.posterior(theta, v))
    return float(kl_divergence(MultivariateNormal(q.mean, scale_tril=tril), exact).detach().sum())


def mean_field_gap(precision):
    """KL of the best mean field, for all wines."""
    return 0.5 * num_rows * float(precision.diagonal().log().sum() - precision.logdet())


# %% [markdown]
# ## 1 The worst $q$
#
# For each wine
#
# $$\mathrm{KL}\big(\mathcal N(0, I) \,\|\, \mathcal N(\mu, V)\big) = \tfrac12 \big[
# \operatorname{tr} V^{-1} + \mu^\top V^{-1} \mu - K - \log \lvert V^{-1} \rvert \big].$$
#
# The bound in closed form is $\mathbb E_q[\log p(v \mid h)]$, since $\log p(h) - \log q(h) = 0$.
# With $r = v - b$ it is
# $\log \mathcal N(r; 0, \Psi) - \tfrac12 \operatorname{tr}(W^\top \Psi^{-1} W)$.

# %%
from_means = 0.5 * float(torch.einsum("nk,kl,nl->", mu, precision, mu))
from_spread = 0.5 * num_rows * float(precision.trace() - num_factors - precision.logdet())
noise = MultivariateNormal(theta.b, theta.scale.square().diag())
prior_bound = float(noise.log_prob(v).sum()) - 0.5 * num_rows * float(
    precision.trace() - num_factors
)
print(f"bound {prior_bound:.1f}, KL {from_means + from_spread:.1f}, sum {log_evidence:.1f} nats")
print(f"KL from the means {from_means:.1f}, from the variances {from_spread:.1f} nats")

prior = FactorAnalysisMeanField(num_rows, num_factors).double()

# %% tags=["checks"]
assert abs(kl_of(prior, theta, v) - from_means - from_spread) < 1e-6
assert abs(prior_bound + from_means + from_spread - log_evidence) < 1e-6
assert abs(from_means - 3850.3) < 0.1
assert abs(from_spread - 3164.5) < 0.1

# %% [markdown]
# The means account for more: 3850.3 nats against 3164.5 for the variances. The prior is both in the
# wrong place and too wide.
#
# ## 2 Probabilistic PCA

# %%
ppca, _ = fa.em(v, num_factors, isotropic=True, tol=1e-12)
price = log_evidence - float(fa.log_evidence(ppca, v).sum())
ppca_precision = torch.linalg.inv(fa.posterior(ppca, v)[1])

R = torch.linalg.eigh(ppca_precision).eigenvectors.flip(1)
W = ppca.W @ R  # its columns are orthogonal now, the longest first
principal_axes = torch.linalg.svd(v, full_matrices=False).Vh[:num_factors].mT
cosines = (W / W.norm(dim=0) * principal_axes).sum(0).abs()
gap_before, gap_after = mean_field_gap(ppca_precision), mean_field_gap(R.mT @ ppca_precision @ R)
print(f"one noise for all features costs {price:.1f} nats")
print("cosines between columns of W R and principal axes:", cosines.numpy().round(4))
print(f"mean field's gap: {gap_before:.1f} nats in EM's coordinates, {abs(gap_after):.1f} in these")

# %% tags=["checks"]
assert abs(price - 110.6) < 0.1
assert (cosines > 0.9999).all()
assert abs(gap_before - 30.1) < 0.5
assert abs(gap_after) < 1e-6

# %% [markdown]
# One noise for all features costs 110.6 nats, for 12 parameters less. The columns of $W R$ are
# the principal axes, up to sign and length, and in these coordinates mean field is exact:
# $V^{-1} = I + W^\top W / \psi^2$ is diagonal if the columns of $W$ are orthogonal.
#
# ## 3 New wines

# %%
shuffled = v[torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))]
old, new = shuffled[:128], shuffled[128:]
model = pc.hold(FactorAnalysis(num_features, num_factors), theta)
torch.manual_seed(1)  # for the initial weights of the encoder
encoder = FactorAnalysisAmortized(num_features, num_factors)
fit = pc.fit(model, encoder, old, batch_size=32, elbo=elbo)
kl_old, kl_new = (kl_of(fit.guide, theta, rows) for rows in (old, new))
print(f"KL a wine: {kl_old / len(old):.3f} nats on the old, {kl_new / len(new):.3f} on the new")

try:
    FactorAnalysisMeanField(len(old), num_factors).double()(new)
except ValueError as error:
    message = str(error)
print("mean field:", message)

# %% tags=["checks"]
assert len(new) == 50
assert max(kl_old / len(old), kl_new / len(new)) < 0.01
assert "use an amortized guide" in message

# %% [markdown]
# The encoder has learnt a rule, the same for every wine: below 0.01 nats a wine on old and new
# alike. The mean-field guide has learnt a table with 128 entries. It has none for a new wine, and
# says so instead of answering with another wine's posterior.
#
# ## 4 Learning $\theta$ under mean field

# %%
free = pc.hold(FactorAnalysis(num_features, num_factors), theta).requires_grad_(True)
both = pc.fit(free, FactorAnalysisMeanField(num_rows, num_factors), v, elbo=elbo)
learnt = both.model.requires_grad_(False)
learnt_evidence = float(fa.log_evidence(learnt, v).sum())
gap_before, gap_after = mean_field_gap(precision), kl_of(both.guide, learnt, v)
print(f"gap:          {gap_before:7.1f} nats with θ fixed, {gap_after:7.1f} with θ learnt")
print(f"log evidence: {log_evidence:7.1f} nats with θ fixed, {learnt_evidence:7.1f} with θ learnt")


def largest_correlation(W, scale):
    """Largest correlation in size among the columns of Ψ^−½ W."""
    gram = W.mT @ (W / scale.square()[:, None])
    sd = gram.diagonal().sqrt()
    return float((gram / sd / sd[:, None] - torch.eye(num_factors)).abs().max())


overlap = [largest_correlation(t.W, t.scale) for t in (theta, learnt)]
print(f"largest correlation of two columns of Ψ^−½ W: {overlap[0]:.2f}, then {overlap[1]:.2f}")

# %% tags=["checks"]
assert both.converged
assert abs(gap_before - 40.69) < 0.02
assert gap_after < 1
assert 0 <= log_evidence - learnt_evidence < 1
assert overlap[0] > 0.3
assert overlap[1] < 0.05

# %% [markdown]
# The gap falls from 40.7 nats to below 1, and the evidence loses less than 1. $\theta$ has turned
# to the coordinates in which mean field is exact: the columns of $\Psi^{-1/2} W$ are orthogonal, up
# to a correlation below 0.05, from above 0.3. Learning climbs
# $\mathcal L = \log p(v; \theta) - \mathrm{KL}(q \,\|\, p)$, so it prefers, among models that
# explain the data equally well, one whose posterior suits $q$. Here that is free. In most models it
# has a price: section 19.4.4 of the chapter.
