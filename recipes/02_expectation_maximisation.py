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
# # 2 · Expectation maximisation
#
# Chapter 19 of *Deep Learning* (Goodfellow, Bengio and Courville, 2016), section 19.2. Of the
# chapter's five thoughts this recipe carries the second:
#
# > **EM alternates an E step (q := the posterior under the current θ) and an M step (θ := the
# > argmax of the bound).**
#
# The model is a mixture of Gaussians. Its posterior and its evidence are exact, so every claim can
# be checked.
#
# After it you can
#
# - derive both steps of EM from one bound, and say why the evidence never falls;
# - run the E step as a Pyro guide and the M step by SVI;
# - say what hard labels cost, and what a classifier in place of the E step costs;
# - recognise a bad optimum and a singular one;
# - compare the components of two fits, and choose how many components to use.
#
# The data are Fisher's iris flowers, which ship with scikit-learn: 150 flowers of three species,
# four measurements in cm. Nothing is downloaded. All bounds are in nats.

# %%
import inspect
import math
import tempfile
import warnings
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from matplotlib.patches import Ellipse
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.optim import Adam
from scipy.optimize import linear_sum_assignment
from sklearn import cluster, datasets, mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

import pyro_cookbook as pc
from guides.gaussian_mixture import (
    BayesianGaussianMixtureMeanField,
    GaussianMixtureAmortized,
    GaussianMixtureExact,
    GaussianMixtureMAP,
)
from models.gaussian_mixture import GaussianMixture, MixturePrior, bayesian_gaussian_mixture
from pyro_cookbook.closed_form import gaussian_mixture as closed
from pyro_cookbook.closed_form.variational_mixture import fit_variational_mixture

torch.set_num_threads(1)  # the matrices are small: a second thread would only wait
torch.set_default_dtype(torch.float64)
plt.rcParams.update({"figure.figsize": (8, 4.5), "font.size": 11, "axes.titlelocation": "left"})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"

# %% [markdown]
# ## 1 The data and the question
#
# Each column is standardised to mean 0 and standard deviation 1. The species are set aside: no
# model in this recipe sees them.

# %%
iris = datasets.load_iris(as_frame=True)
table = iris.data.set_axis([name.removesuffix(" (cm)") for name in iris.data], axis=1)
species = pd.Series(iris.target_names[iris.target], name="species")
centre, spread = table.mean(), table.std(ddof=0)
v = torch.tensor(((table - centre) / spread).to_numpy())  # (150, 4)
num_rows, num_features = v.shape
assert (num_rows, num_features) == (150, 4)

petal = table["petal length"]
assert (petal < 2).sum() == 50
assert petal[petal >= 2].min() == 3.0
table.describe().loc[["mean", "std", "min", "max"]].T.round(2)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 4))
for ax, (x, y) in zip(axes, (("sepal length", "sepal width"), ("petal length", "petal width"))):
    ax.plot(table[x], table[y], "o", color="black", ms=5, alpha=0.35, mec="none")
    ax.set(xlabel=f"{x} (cm)", ylabel=f"{y} (cm)")
fig.suptitle("One group of flowers stands apart; the others overlap", x=0.01, ha="left")
fig.tight_layout()

# %% [markdown]
# 50 flowers have petals shorter than 2 cm; the petals of the other 100 are at least 3 cm long. The
# question: **how many groups are there, and which flower belongs to which?** The group of a flower
# is hidden. The answer to the second half is a posterior, p(h | v).

# %% [markdown]
# ## 2 The model
#
# Each flower n comes from one of K Gaussians. Which one, hₙ, is hidden:
#
# $$h_n \sim \operatorname{Categorical}(\pi), \qquad v_n \mid h_n = k \sim
# \mathcal N(\mu_k, \Sigma_k).$$
#
# The parameters to learn are θ = (π, μ, Σ). In the code they are `weights`, `loc` and
# `scale_tril`, the Cholesky factor of Σ.

# %%
source = inspect.getsource(GaussianMixture.forward)
print(source[: source.index('"""')] + "..." + source[source.rindex('"""') + 3 :])

# %% [markdown]
# ## 3 One bound, two moves
#
# For every value of h the product rule gives log p(v; θ) = log p(v, h; θ) − log p(h | v; θ). Add
# and subtract log q(h), and average over h ~ q. The left side does not contain h, so
#
# $$\log p(v;\theta) = \underbrace{\mathbb E_q[\log p(v,h;\theta)] + H(q)}
# _{\mathcal L(q,\,\theta)}
# + \underbrace{\mathbb E_q\!\left[\log\frac{q(h)}{p(h\mid v;\theta)}\right]}_{\mathrm{KL}\,\ge\,0}.$$
#
# (Recipe 1 does this step by step.) L has two arguments. EM climbs it in one of them at a time.
#
# **E step: hold θ, move q.** The left side does not contain q. So L is largest where the KL is
# smallest, and it is 0 at q := p(h | v; θ). There **L = log p(v; θ)**: the bound touches. By
# Bayes' rule
#
# $$q(h_n = k) = r_{nk} = \frac{\pi_k\, \mathcal N(v_n;\mu_k,\Sigma_k)}
# {\sum_j \pi_j\, \mathcal N(v_n;\mu_j,\Sigma_j)},$$
#
# the *responsibility* of component k for flower n.
#
# **M step: hold q, move θ.** H(q) does not contain θ. What is left to maximise is
#
# $$Q(\theta) = \sum_n \sum_k r_{nk} \left[\log \pi_k - \tfrac12 \log\lvert 2\pi\Sigma_k\rvert
# - \tfrac12 (v_n-\mu_k)^\top \Sigma_k^{-1} (v_n-\mu_k)\right].$$
#
# Write $N_k = \sum_n r_{nk}$, and set the derivatives to zero.
#
# - π, with a multiplier λ for Σπ = 1: $N_k/\pi_k = \lambda$. The π sum to 1, so λ = N and
#   $\pi_k = N_k / N$.
# - μ: $\sum_n r_{nk} \Sigma_k^{-1}(v_n - \mu_k) = 0$, so $\mu_k = \sum_n r_{nk} v_n / N_k$.
# - Σ, with respect to Σ⁻¹: $\tfrac12 N_k \Sigma_k - \tfrac12 \sum_n r_{nk} (v_n-\mu_k)
#   (v_n-\mu_k)^\top = 0$, so
#   $\Sigma_k = \sum_n r_{nk} (v_n-\mu_k)(v_n-\mu_k)^\top / N_k$.
#
# The logarithm of the mixture itself has a sum inside, and no such solution. The bound has the sum
# outside the logarithm.
#
# **Why the evidence never falls.** One iteration goes from θ to θ′. The E step touches, the M step
# climbs, and the bound is a bound:
#
# $$\log p(v;\theta) = \mathcal L(q,\theta) \le \mathcal L(q,\theta') \le \log p(v;\theta').$$
#
# Here are both steps by hand.

# %%
theta_0 = closed.random_start(v, 3, seed=2)  # three flowers far apart as means, one covariance


def e_step(theta):
    """The responsibilities, shape (N, K)."""
    return torch.softmax(closed.log_joint(theta, v), dim=1)


def m_step(r):
    """The maximiser of Q."""
    count = r.sum(0)
    loc = r.mT @ v / count[:, None]
    centred = v - loc[:, None]  # (K, N, D)
    covariance = (r.mT[:, :, None] * centred).mT @ centred / count[:, None, None]
    return closed.MixtureParameters(count / len(v), loc, torch.linalg.cholesky(covariance))


def bound(r, theta):
    """L(q, θ) = Σ r (log p(v, h; θ) − log r)."""
    return float((r * closed.log_joint(theta, v) - torch.special.xlogy(r, r)).sum())


def log_evidence(theta):
    return float(closed.log_evidence(theta, v).sum())


ours = m_step(e_step(theta_0))
theirs = closed.m_step(closed.e_step(theta_0, v)[0], reg_covar=0)  # the library's two steps
for name in ("weights", "loc", "scale_tril"):
    assert torch.allclose(getattr(ours, name), getattr(theirs, name))

# %%
theta, after_e, after_m, evidence = theta_0, [], [], []
for _ in range(9):
    r = e_step(theta)
    after_e.append(bound(r, theta))
    evidence.append(log_evidence(theta))
    theta = m_step(r)
    after_m.append(bound(r, theta))

after_e, after_m, evidence = map(np.array, (after_e, after_m, evidence))
gap = evidence[1:] - after_m[:-1]  # KL(old posterior ‖ new posterior), opened by the M step
assert np.allclose(after_e, evidence, rtol=0, atol=1e-9)  # the E step touches
assert (after_m > after_e).all()  # the M step climbs
assert (gap > 0).all()  # and opens a gap
assert 10 < gap.max() < 11

# %%
fig, ax = plt.subplots()
first = 1  # the first iteration, from −582 nats, would flatten the rest
steps = np.arange(first, 9)
curve = np.repeat(evidence[first:], 2)
ax.plot(np.r_[2 * steps - 1, 2 * steps].reshape(2, -1).T.ravel(), curve, color="black")
ax.fill_between([0], 0, 0, color=GREY, alpha=0.3, lw=0, label="gap: KL(q ‖ posterior)")
for t in steps:
    x = [2 * t - 1, 2 * t]
    ax.plot(x, [after_m[t - 1], after_e[t]], color=ORANGE, lw=3)
    ax.fill_between(x, [after_m[t - 1], after_e[t]], evidence[t], color=GREY, alpha=0.3, lw=0)
    if t < steps[-1]:
        x = [2 * t, 2 * t + 1]
        ax.plot(x, [after_e[t], after_m[t]], color=BLUE, lw=3)
        ax.plot(x, evidence[t : t + 2], color="black")
        ax.fill_between(
            x, [after_e[t], after_m[t]], evidence[t : t + 2], color=GREY, alpha=0.3, lw=0
        )
ax.plot([], [], color="black", label="log p(v; θ)")
ax.plot([], [], color=ORANGE, lw=3, label="bound in an E step (θ held)")
ax.plot([], [], color=BLUE, lw=3, label="bound in an M step (q held)")
ax.set(xlabel="iteration", ylabel="nats", xticks=2 * steps, xticklabels=steps)
ax.set_title("Each E step lifts the bound to the evidence; each M step lifts both")
ax.legend(loc="upper left", frameon=False)
plt.show()
