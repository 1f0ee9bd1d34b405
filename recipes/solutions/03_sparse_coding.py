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
# # 3 · MAP inference and sparse coding: solutions
#
# Solutions to the exercises of `recipes/03_sparse_coding.ipynb`. All objectives are in nats.

# %%
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from scipy.optimize import minimize

from guides.sparse_coding import SparseCodingMAP
from pyro_cookbook.algorithms.sparse_coding import dictionary_learning, fista
from pyro_cookbook.data import patches

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
pyro.settings.set(module_local_params=True)  # else a second guide starts where the first ended

squares = patches.random_patches(patches.photograph("china.jpg", shrink=2), 10, 8000, seed=0)
squares = patches.most_varied(squares)
v = patches.fit_whitening(squares).whiten(squares)
theta = dictionary_learning.learn_online(
    v, 128, rate=2.0, scale=0.65, num_steps=60, code_tol=1e-2
).theta
x = v[:100]
W, b, beta = theta.W, theta.b, theta.scale**-2

# %% [markdown]
# ## 1 No kink, no zeros
#
# With $h_k \sim \mathcal N(0, 1/\lambda)$ the penalty is $\tfrac\lambda2 \sum_k h_k^2$, and
#
# $$J(h) = \tfrac\beta2 \lVert v - b - W h\rVert^2 + \tfrac\lambda2 \lVert h\rVert^2.$$
#
# Its gradient $-\beta W^\top (v - b - W h) + \lambda h$ is zero at
# $h = (\beta W^\top W + \lambda I)^{-1} \beta W^\top (v - b)$:
# ridge regression, and the posterior mean of factor analysis (recipe 1). The slope of the penalty
# at 0 is 0, so any pull, however small, moves a code away from 0.


# %%
def gaussian_codes(v):
    """Model of the exercise; W and b as learned."""
    with pyro.plate("row", len(v), dim=-1):
        zero = torch.zeros(128)
        h = pyro.sample("h", dist.Normal(zero, theta.rate**-0.5).to_event(1))
        pyro.sample("v", dist.Normal(h @ W.mT + b, theta.scale).to_event(1), obs=v)


ridge = torch.linalg.solve(beta * W.mT @ W + theta.rate * torch.eye(128), beta * W.mT @ (x - b).mT)
guide = SparseCodingMAP(len(x), 128)
guide.h_loc = ridge.mT
loss = Trace_ELBO().loss_and_grads(gaussian_codes, guide, x)
slope = float(guide.h_loc_unconstrained.grad.abs().max())
print("largest slope of the delta's bound at the ridge solution: below 1e-8")
print(f"codes that are exactly 0: {int((ridge == 0).sum())} of {ridge.numel()}")

# %% tags=["checks"]
assert slope < 1e-8
assert (ridge == 0).sum() == 0

# %% [markdown]
# ## 2 The first atom
#
# At $h = 0$ the conditions are $|\beta W_k^\top (v - b)| \le \lambda$ for all $k$. They fail first
# for the atom $k$ of the largest pull, at $\lambda_{\max} = |\beta W_k^\top (v - b)|$. Just below,
# only this atom is in use, and its condition is
# $\beta W_k^\top (v - b - W_k h_k) = \lambda \operatorname{sign}(h_k)$. With
# $\lVert W_k \rVert = 1$
#
# $$\lvert h_k\rvert = (\lambda_{\max} - \lambda)/\beta.$$
#
# The slope in $\lambda$ is $-1/\beta$, whatever the atom and the square.

# %%
pulls = (beta * (x - b) @ W).abs()
(top, second), order = pulls.topk(2, dim=1).values.mT, pulls.topk(2, dim=1).indices
alone = torch.nonzero(second < 0.97 * top).flatten()  # at 0.99 λ_max no other atom has entered
for n in alone:
    below, k = 0.99 * float(top[n]), int(order[n, 0])
    h = fista.fista(replace(theta, rate=below), x[n : n + 1], tol=1e-13).h[0]
    assert torch.nonzero(h).flatten().tolist() == [k]
    assert np.isclose(abs(float(h[k])), 0.01 * float(top[n]) / beta, rtol=1e-3)
print(f"{len(alone)} squares: one atom in use, that of the largest pull, of size (λ_max − λ)/β")

# %% tags=["checks"]
assert torch.allclose(top, fista.largest_rate(theta, x))
assert len(alone) > 30

# %% [markdown]
# ## 3 Codes that cannot be negative
#
# With $h_k \sim \operatorname{Exponential}(\lambda)$ the penalty is $\lambda h$ for $h \ge 0$ and
# $\infty$ below. The problem of one number, $(h - z)^2/2t + \lambda h$ over $h \ge 0$, has its
# minimum at $\max(z - t\lambda, 0)$: one side of the soft threshold. The conditions: with
# $g = \beta W^\top (v - b - W h)$, $g_k = \lambda$ where $h_k > 0$, and $g_k \le \lambda$ where
# $h_k = 0$. The set of codes allowed is smaller, so $J$ cannot be lower.

# %%
t = theta.scale**2 / float(torch.linalg.eigvalsh(W.mT @ W)[-1])
h = torch.zeros(len(x), 128)
for _ in range(3000):
    z = h + t * beta * (x - b - h @ W.mT) @ W
    h = (z - t * theta.rate).clamp_min(0)
g = beta * (x - b - h @ W.mT) @ W / theta.rate
off = torch.where(h > 0, (g - 1).abs(), (g - 1).clamp_min(0)).max()
signed = fista.fista(theta, x, tol=1e-9)
J = float(fista.objective(theta, x, h).sum())
print(f"J without signs {J:.1f}, with signs {signed.trace[-1]:.1f}")
print("worst violation of the conditions: below 0.001 λ")

# %% tags=["checks"]
assert off < 1e-3
assert (h >= 0).all()
assert signed.trace[-1] * 1.05 < J

# %% [markdown]
# With both $W_k$ and $-W_k$ in the dictionary, the two problems are the same: $h = h^+ - h^-$. So
# 256 atoms without signs do what 128 do with them.

# %%
both, h2 = torch.cat([W, -W], dim=1), torch.zeros(len(x), 256)
t2 = theta.scale**2 / float(torch.linalg.eigvalsh(both.mT @ both)[-1])
for _ in range(3000):
    h2 = (h2 + t2 * (beta * (x - b - h2 @ both.mT) @ both - theta.rate)).clamp_min(0)
J_both = float(fista.objective(replace(theta, W=both), x, h2).sum())
print(f"J of 256 atoms without signs: {J_both:.2f}")

# %% tags=["checks"]
assert abs(J_both / signed.trace[-1] - 1) < 1e-5

# %% [markdown]
# ## 4 The mode depends on the units
#
# A density changes with its coordinates: $p(u) = p(h(u))\, |dh/du|$. With $h = \tfrac12 \sinh 2u$
# the Jacobian is $\cosh 2u$, so the mode of $u$ minimises $J(h(u)) - \sum_k \log \cosh 2u_k$. Both
# describe one posterior.


# %%
def minus_log_density(parts):
    """u = p − q with p, q ≥ 0: smooth, and |h| = sinh(2p)/2 + sinh(2q)/2 where p or q is 0."""
    parts = torch.tensor(parts, requires_grad=True)
    p, q = parts.chunk(2)
    h = torch.sinh(2 * (p - q)) / 2
    error = (x[0] - b - W @ h).square().sum() * beta / 2
    size = (torch.sinh(2 * p) + torch.sinh(2 * q)).sum() / 2
    value = error + theta.rate * size - torch.cosh(2 * (p - q)).log().sum()
    value.backward()
    return float(value.detach()), parts.grad.numpy()


mode = fista.fista(theta, x[:1], tol=1e-10).h[0]
u = torch.asinh(2 * mode) / 2
start = torch.cat([u.clamp_min(0), (-u).clamp_min(0)]).numpy()
found = minimize(
    minus_log_density, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 256,
    options={"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-14},
)  # fmt: skip
in_u = np.sinh(2 * (found.x[:128] - found.x[128:])) / 2
gain = minus_log_density(start)[0] - found.fun
moved = np.abs(in_u - mode.numpy()).max()
zeros = int((mode == 0).sum()), int((in_u == 0).sum())
print(f"the mode of u is {gain:.2f} nats above the point that the mode of h gives;")
print(f"its code differs by up to {moved:.2f}; the largest code is {float(mode.abs().max()):.2f}")
print(f"zeros: {zeros[0]} in the mode of h, {zeros[1]} in that of u, of 128")

# %% tags=["checks"]
assert gain > 0.1
assert moved > 0.05
assert min(zeros) > 60

# %% [markdown]
# The mode of $u$ is another code. At $u = 0$ the slope of the log Jacobian is 0, so the kink of
# $\lambda$|$h$| is still there, and a code whose pull is below $\lambda$ may stay at 0; but the
# codes in use are pushed outward, where the Jacobian is larger, and the others' pulls change with
# them. So "the most probable code" is a statement about a code *in given units*. A mean, an
# interval or a probability does not depend on units: for those one needs a $q$ with a spread.
