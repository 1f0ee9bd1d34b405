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
# # 5 · A laboratory in two dimensions: solutions
#
# Exercises of [recipe 5](../05_two_dimensions.ipynb).

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
plt.style.use("../cookbook.mplstyle")
BLUE, ORANGE, GREY = "C0", "C1", "0.47"


def fit_q_to_p(log_density, family, steps, lr, seed=0):
    """Minimise KL(q ‖ p): the loop of the recipe."""
    pyro.set_rng_seed(seed)

    def model():
        z = pyro.sample("z", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        pyro.factor("density", log_density(z))

    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=0)
    optimiser = ClippedAdam({"lr": lr, "lrd": 0.02 ** (1 / steps)})
    svi = SVI(model, lambda: pyro.sample("z", family()), optimiser, elbo)
    for _ in range(steps):
        svi.step()


# %% [markdown]
# ## 1 A tilted normal
#
# Let Σ be the covariance (1, ρ; ρ, 1) and Λ = Σ⁻¹, with $\Lambda_{ii} = 1/(1 - \rho^2)$. For
# independent normals with sds $s_i$,
#
# $$\mathrm{KL}(q \| p) = \tfrac12 \sum_i \Lambda_{ii} s_i^2 - \sum_i \log s_i + \text{const}
# \;\Rightarrow\; s_i^2 = \frac1{\Lambda_{ii}} = 1 - \rho^2,$$
#
# $$\mathrm{KL}(p \| q) = \sum_i \Big(\log s_i + \frac{\Sigma_{ii}}{2 s_i^2}\Big) + \text{const}
# \;\Rightarrow\; s_i^2 = \Sigma_{ii} = 1.$$
#
# The sum $z_1 + z_2$ has variance $2 + 2\rho$ under p, and $2 s^2$ under q; the difference
# $2 - 2\rho$.

# %%
rho = 0.9
p = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]]))


def mean_field():
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    return dist.Normal(torch.zeros(2), scale).to_event(1)


pyro.clear_param_store()
fit_q_to_p(p.log_prob, mean_field, 300, 0.05)
fitted = float(pyro.param("scale").detach().mean())
inward = math.sqrt(1 - rho**2)
print(f"sd under KL(q‖p): paper {inward:.2f}, SVI {fitted:.2f}; under KL(p‖q): 1")
for name, exact in (("sum", math.sqrt(2 + 2 * rho)), ("difference", math.sqrt(2 - 2 * rho))):
    shares = math.sqrt(2) * inward / exact, math.sqrt(2) / exact
    print(f"{name}: KL(q‖p) has {shares[0]:.2f} of p's sd, KL(p‖q) {shares[1]:.2f}")

# %% [markdown]
# The sd of each latent is too small under KL(q‖p), and of the sum even more; yet of the difference
# it is **too large**. KL(p‖q) has the latents right, the sum too narrow and the difference far too
# wide. "Too narrow" is a statement about one quantity, not about a method.

# %% tags=["checks"]
assert abs(fitted - inward) < 0.02
assert inward < 0.5
assert inward * math.sqrt(2) > math.sqrt(2 - 2 * rho)  # too wide for the difference
assert math.sqrt(2) < math.sqrt(2 + 2 * rho)

# %% [markdown]
# ## 2 Nearer modes
#
# The best full-rank normal by quadrature, from a wide start along the diagonal. The modes have sd
# ½. Where both are covered, the mean is 0; where one, d.

# %%
line = torch.linspace(-6, 6, 201)
z = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
cell = float(line[1] - line[0]) ** 2


def best_normal(d, start):
    """KL(q ‖ p) of the optimum nearest to a start (offset, sd along, sd across), and its offset."""
    along, across = (z[..., 0] + z[..., 1]) / 2**0.5, (z[..., 0] - z[..., 1]) / 2**0.5
    two = torch.logaddexp(-2 * (along - d * 2**0.5) ** 2, -2 * (along + d * 2**0.5) ** 2)
    log_p = two - 2 * across**2
    log_p = log_p - torch.logsumexp(log_p.flatten(), 0) - math.log(cell)
    free = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.LBFGS([free], lr=0.1, max_iter=200, line_search_fn="strong_wolfe")

    def gap():
        log_q = dist.Normal(free[0], free[1].exp()).log_prob(along)
        log_q = log_q + dist.Normal(0.0, free[2].exp()).log_prob(across)
        return (log_q.exp() * (log_q - log_p)).sum() * cell

    def closure():
        optimiser.zero_grad()
        value = gap()
        value.backward()
        return value

    optimiser.step(closure)
    return float(gap().detach()), float(free[0].detach())


distances = np.arange(0.3, 1.51, 0.1)
over, beside = [], []
for d in distances:
    over.append(best_normal(d, [0.0, 0.0, -0.7])[0])
    beside.append(best_normal(d, [float(d) * 1.4, -0.7, -0.7]))
covers = np.array(over) <= np.array([gap for gap, _ in beside]) + 1e-6
print(f"best to cover both up to d = {distances[covers].max():.1f}; the modes' sd is 0.5")

fig, ax = plt.subplots(figsize=(8, 3.8))
ax.plot(distances, over, "o-", color=ORANGE, label="q lies over both modes")
ax.plot(distances, [gap for gap, _ in beside], "s-", color=BLUE, label="q started at one mode")
ax.axhline(math.log(2), color=GREY, lw=1, ls="--")
ax.annotate("log 2", (0.3, math.log(2)), (0.3, math.log(2) + 0.03), color=GREY)
ax.set(xlabel="d; the modes are at ±(d, d), with sd ½", ylabel="KL(q‖p) (nats)")
ax.set_title("A full-rank normal covers two modes only while they touch")
ax.legend(loc="lower right")
plt.show()

# %% tags=["checks"]
assert 0.5 <= distances[covers].max() <= 1.0
assert abs(beside[-1][0] - math.log(2)) < 0.01
assert over[-1] > math.log(2) + 0.1
assert covers[:3].all()
assert not covers[-3:].any()

# %% [markdown]
# While the modes overlap, one wide normal is best. Further apart, lying over the gap costs more
# than the log 2 = 0.69 nats of forgetting half of p, and the optimum jumps to one side.
#
# ## 3 Other coordinates
#
# With $u_1 = z_1$, $u_2 = z_2 e^{-z_1}$ the Jacobian is $|dz_2/du_2| = e^{u_1}$, which adds $+u_1$
# to the log density and cancels the $-z_1$: $\log \tilde p(u) = -\frac12 u_1^2 - \frac12 u_2^2$. p
# is round, mean field can be exact, and the gap is 0.


# %%
def funnel(z):
    z1, z2 = z.unbind(-1)
    return -(z1**2) / 2 - z1 - (z2 * torch.exp(-z1)) ** 2 / 2


def unrolled(u):
    u1, u2 = u.unbind(-1)
    return funnel(torch.stack([u1, u2 * torch.exp(u1)], -1)) + u1


pyro.clear_param_store()
fit_q_to_p(unrolled, mean_field, 300, 0.05)
with torch.no_grad():
    u = mean_field().sample((4000,))
    gap = math.log(2 * math.pi) - float((unrolled(u) - mean_field().log_prob(u)).mean())
print(f"gap: {abs(gap):.3f} nats, in the funnel's own coordinates {math.log(3) / 2:.2f}")

# %% tags=["checks"]
assert abs(gap) < 0.005
assert torch.allclose(unrolled(u), -u.square().sum(-1) / 2)

# %% [markdown]
# ## 4 A wider start

# %%
CENTRE = torch.tensor([2.2, 2.2])


def two_modes(z):
    upper, lower = (-((z - m) / 0.5).square().sum(-1) / 2 for m in (CENTRE, -CENTRE))
    return torch.logaddexp(math.log(0.6) + upper, math.log(0.4) + lower)


def upper_share(width, seed):
    """Fit a flow with a base of this sd; return its mass at the upper mode."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    spline = T.spline_autoregressive(2, hidden_dims=[16, 16], count_bins=8, bound=8.0)

    def flow():
        pyro.module("spline", spline)
        scale = pyro.param("scale", torch.full((2,), width), constraint=constraints.positive)
        base = dist.Normal(torch.zeros(2), scale).to_event(1)
        return dist.TransformedDistribution(base, [spline])

    fit_q_to_p(two_modes, flow, 300, 0.03, seed)
    with torch.no_grad():
        return float((flow().sample((4000,)).sum(-1) > 0).double().mean())


shares = {width: [upper_share(width, seed) for seed in range(3)] for width in (1.5, 4.0)}
for width, found in shares.items():
    print(
        f"base of sd {width}: both modes found in {sum(0.05 < s < 0.95 for s in found)} of 3 fits"
    )

# %% tags=["checks"]
assert sum(0.05 < share < 0.95 for share in shares[1.5]) < 3
assert all(0.1 < share < 0.9 for share in shares[4.0])

# %% [markdown]
# A start that is wider than p is told of everything, and learns to leave the empty places. It finds
# both modes each time, though not their weights: these move only while draws still cross from one
# to the other. A start narrower than p may never learn. So begin wide.
