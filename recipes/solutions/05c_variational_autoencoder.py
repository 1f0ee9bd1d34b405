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
# # 5c · Amortised inference: solutions
#
# Solutions to the exercises of `recipes/05c_variational_autoencoder.ipynb`. All bounds are in nats
# a row.

# %%
import math

import numpy as np
import pandas as pd
import torch
from scipy.integrate import quad
from scipy.stats import norm
from sklearn import datasets

from guides.variational_autoencoder import VariationalAutoencoderAmortized
from models.variational_autoencoder import VariationalAutoencoder
from pyro_cookbook.algorithms import factor_analysis as fa
from pyro_cookbook.algorithms.variational_autoencoder import bounds as vae_bounds
from pyro_cookbook.algorithms.variational_autoencoder import linear as linear_vae
from pyro_cookbook.algorithms.variational_autoencoder import refinement

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## 1 The rate of a normal
#
# The formula against an integral, for a normal far from the prior.

# %%
m, s = 0.7, 0.3
by_formula = (m**2 + s**2 - 1 - math.log(s**2)) / 2
by_integral = quad(
    lambda h: norm.pdf(h, m, s) * (norm.logpdf(h, m, s) - norm.logpdf(h)), m - 10 * s, m + 10 * s
)[0]
print(f"{by_formula:.6f} {by_integral:.6f}")
assert abs(by_formula - by_integral) < 1e-8

# %% [markdown]
# ## 2 Water-filling
#
# The reconstruction error of the best linear model along axis $k$ is $\min(\lambda_k, \sigma^2)$
# for the *drawn* code: $\mathbb E\,(v - W h - b)^2$ with $h \sim q$ is $\lambda - 2 W
# \operatorname{Cov}(h, v) + W^2 \mathbb E[h^2]$, where $W^2 = \lambda - \sigma^2$, $W
# \operatorname{Cov}(h, v) = \lambda - \sigma^2$ and $\mathbb E[h^2] = 1$: the sum is $\sigma^2$. An
# axis is described down to a distortion $\sigma^2$ at a price of $\frac12 \log(\lambda_k /
# \sigma^2)$ nats, or not at all: the reverse water-filling of Shannon's rate-distortion theory.

# %%
rows = torch.tensor(datasets.load_wine().data)
wine = (rows - rows.mean(0)) / rows.std(0, correction=0)
values = linear_vae.eigenvalues(wine)
generator = torch.Generator().manual_seed(0)
table = []
for scale in (0.6, 1.0, 1.5, 2.0):
    best = linear_vae.optimum(wine, 12, scale)
    mean, covariance = fa.posterior(best, wine)
    eps = torch.randn(2000, *mean.shape, generator=generator)
    h = mean + eps * covariance.diagonal().sqrt()
    error = (wine - h @ best.W.mT - best.b).square().sum(-1).mean()
    predicted = values.clamp(max=scale**2)
    predicted[12:] = values[12:]
    table.append((float(error), float(predicted.sum())))
    assert abs(table[-1][0] - table[-1][1]) < 0.02
pd.DataFrame(
    table, columns=["error of drawn codes", "Σ min(λ, σ²)"], index=[0.6, 1.0, 1.5, 2.0]
).round(1)

# %% [markdown]
# ## 3 A weight on the rate
#
# With weight $\beta$ the objective is $\mathbb E_q[\log p(v \mid h)] - \beta \operatorname{KL}$.
# Divide by $\beta$: for a Gaussian likelihood $\frac{1}{2 \beta \sigma^2} \lVert v - f(h) \rVert^2$
# is that of noise $\sqrt\beta\, \sigma$. So the networks collapse at
# $\beta^* = \lambda_1 / \sigma^2$.


# %%
flowers = torch.tensor(datasets.load_iris().data)
flowers = flowers - flowers.mean(0)
half = 0.5 * linear_vae.collapse_scale(flowers)


def rate_with(beta, steps=400):
    torch.manual_seed(0)
    net = VariationalAutoencoder(4, 1, (16,), isotropic=True)
    net.scale = torch.tensor([half])
    enc = VariationalAutoencoderAmortized(4, 1, (16,))
    optimiser = torch.optim.Adam([*net.decoder.parameters(), *enc.parameters()], lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    for _ in range(steps):
        m, s = enc.encode(flowers)
        kl = (m**2 + s**2 - 1 - 2 * s.log()).sum(1) / 2
        eps = torch.randn(4, 150, 1)
        elbo = refinement.elbo(net, flowers, m, s, torch.cat([eps, -eps]))
        optimiser.zero_grad()
        (-(elbo + kl - beta * kl).mean()).backward()
        optimiser.step()
        schedule.step()
    return float(kl.detach().mean())


rates = {beta: rate_with(beta) for beta in (1.0, 3.0, 5.0)}
print({beta: f"{rate:.2f}" for beta, rate in rates.items()})
assert abs(rates[1.0] - math.log(2)) < 0.1  # λ₁ / σ² = 4
assert 0.05 < rates[3.0] < 0.3
assert rates[5.0] < 0.01

# %% [markdown]
# At $\beta = 3$ the rate is about $\frac12 \log \frac43 = 0.14$ nats, and beyond 4 it is 0.
#
# ## 4 How many draws
#
# If the log weights of a row were normal with variance $\tau^2$, then $\operatorname{KL}(q \| p) =
# \tau^2 / 2$, and the mean weight needs of the order of $e^{\tau^2}$ draws: its relative variance
# is $e^{\tau^2} - 1$.

# %%
rng = np.random.default_rng(0)
lacks = {}
for tau in (0.5, 1.0, 2.0, 3.0):
    weights = torch.tensor(tau * rng.standard_normal((2000, 400)) - tau**2 / 2)
    lacks[tau] = [
        -float(vae_bounds.importance_weighted_bound(weights, k).mean()) for k in (1, 10, 100, 1000)
    ]
    assert abs(lacks[tau][0] - tau**2 / 2) < 0.02
assert lacks[1.0][2] < 0.02
assert lacks[3.0][3] > 0.2
pd.DataFrame(lacks, index=[1, 10, 100, 1000]).round(2).rename_axis("draws").rename_axis("τ", axis=1)

# %% [markdown]
# A gap of half a nat ($\tau = 1$) is gone after a hundred draws; one of 4.5 nats ($\tau = 3$) still
# lacks more than 0.2 after a thousand. So the rows that are still short in section 4 are those with
# the worst $q$.
