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
# # 4b · Calculus of variations: solutions
#
# Solutions to the exercises of `recipes/04b_calculus_of_variations.ipynb`. Entropies and bounds are
# in nats.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ExponentialLR
from scipy import stats
from sklearn import datasets

from guides.maximum_entropy import MaximumEntropyFlow
from models.maximum_entropy import Flat, Multipliers, maximum_entropy
from pyro_cookbook.algorithms.calculus_of_variations import maximum_entropy as maxent
from pyro_cookbook.algorithms.calculus_of_variations.mean_field_update import mean_field, update

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
pyro.settings.set(module_local_params=True)  # else a second guide starts where the first ended
plt.style.use("../cookbook.mplstyle")
BLUE, ORANGE, GREEN, PURPLE, GREY = "C0", "C1", "C2", "C3", "0.47"

# %% [markdown]
# ## 1 Other constraints
#
# The functional derivative of the Lagrangian is $\lambda_0 + \lambda T(h) - 1 - \log p(h)$, so
# $p \propto e^{\lambda T(h)}$.
#
# - $T = |h - m|$ on the real line: $p \propto e^{-|h - m|/b}$, the **Laplace** density. Its
#   $\mathbb E|h - m|$ is $b$, so $\lambda = -1/b$. Entropy:
#   $\mathbb E[|h - m|/b + \log 2b] = 1 + \log 2b$.
# - $T = h$ on $[0, \infty)$: $p \propto e^{\lambda h}$, the **exponential**. Its mean is
#   $-1/\lambda$. Entropy: $1 + \log(\text{mean})$.

# %%
m, b = 2.0, 0.8
line = maxent.make_grid(m - 30, m + 30, num_panels=600)
laplace = maxent.maximise_entropy(line, [lambda h: np.abs(h - m)], [b])
half_line = maxent.make_grid(0, 40, num_panels=600)
exponential = maxent.maximise_entropy(half_line, [lambda h: h], [b])
for name, found, known, entropy in (
    ("Laplace", laplace, stats.laplace(m, b), 1 + math.log(2 * b)),
    ("exponential", exponential, stats.expon(scale=b), 1 + math.log(b)),
):
    density = known.pdf(found.grid.points)
    print(f"{name:12s} λ = {found.multipliers[0]:.6f}, entropy {found.entropy:.6f} nats")
    assert abs(found.multipliers[0] + 1 / b) < 1e-8
    assert abs(found.entropy - entropy) < 1e-8
    assert np.abs(np.exp(found.log_density) - density).max() < 1e-7

# %% [markdown]
# ## 2 Only the mean
#
# On the real line $p \propto e^{\lambda h}$ has no finite integral for any $\lambda$, so there is
# no stationary point. The normal $\mathcal N(\mu, \sigma^2)$ has the right mean for every $\sigma$,
# and an entropy that grows with $\log \sigma$: there is no largest one. A grid makes the support
# finite, and answers with the uniform density on it, if $\mu$ is its middle. `edges` gives it away:
# the density does not fall towards the ends.

# %%
rows = []
for width in (5, 10, 20, 40):
    found = maxent.maximise_entropy(maxent.make_grid(m - width, m + width), [lambda h: h], [m])
    rows.append((2 * width, found.entropy, math.log(2 * width), min(found.edges)))
columns = ["width of the grid", "entropy", "log width", "density at the end / maximum"]
table = pd.DataFrame(rows, columns=columns).set_index("width of the grid")
table.round(4)

# %% tags=["checks"]
assert np.abs(table["entropy"] - table["log width"]).max() < 1e-8
assert table["density at the end / maximum"].min() > 0.999

# %% [markdown]
# The flow has no grid. With $\lambda = (0, 0)$ the ELBO is the entropy of $q$, and SVI raises it
# for as long as one lets it: each step of Adam multiplies the scale by about the same factor.

# %%
v = torch.tensor(datasets.load_wine(as_frame=True).data[["malic_acid"]].to_numpy())
zero = Multipliers(torch.zeros(1), torch.zeros(1))
elbo = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
pyro.set_rng_seed(0)
guide = MaximumEntropyFlow(1)
svi = SVI(maximum_entropy, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
bound = [-svi.step(v, multipliers=zero) / len(v) for _ in range(400)]
means = np.array(bound).reshape(4, 100)[:, -20:].mean(1)
print("ELBO a row, near steps 100, 200, 300, 400:", means.round(2))

# %% tags=["checks"]
assert np.diff(means).min() > 0.5
assert np.diff(means).max() < 3

# %% [markdown]
# The bound rises by 0.5 to 3 nats in every hundred steps, and does not slow down. A bound that
# rises steadily for ever says that the joint has no finite integral.

# %% [markdown]
# ## 3 A flow for another constraint
#
# The program keeps the flat base and the factor; only the statistic changes. $\lambda = -1$/b is
# known from exercise 1.


# %%
def absolute_deviation(v=None, num_obs=None, *, multipliers):
    """The Lagrangian of E|h − m| = b, for each row."""
    num_rows = (num_obs or 1) if v is None else len(v)
    flat = Flat(torch.zeros_like(multipliers), torch.ones_like(multipliers)).to_event(1)
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        h = pyro.sample("h", flat)
        v = pyro.sample("v", flat, obs=v)
        excess = multipliers * ((h - m).abs() - (v - m).abs())
        pyro.factor("lagrangian", excess.sum(-1))
    return v


rows_with_it = torch.tensor([[m - b], [m + b]])  # their E|v − m| is b
many = Trace_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1)
fine = maxent.make_grid(m - 12, m + 12, num_panels=800)
true = stats.laplace(m, b).logpdf(fine.points)


def train(num_bins):
    pyro.set_rng_seed(0)
    guide = MaximumEntropyFlow(1, num_bins=num_bins)
    schedule = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.2}, "gamma": 0.99}
    optimiser = ExponentialLR(schedule)
    svi = SVI(absolute_deviation, guide, optimiser, many)
    for _ in range(500):
        svi.step(rows_with_it, multipliers=torch.tensor([-1 / b]))
        optimiser.step()
    with torch.no_grad():
        return guide.density().log_prob(torch.tensor(fine.points)[:, None]).numpy()


flows = {num_bins: train(num_bins) for num_bins in (5, 6)}
kl = {k: maxent.kl_divergence(fine, q, true) for k, q in flows.items()}
worst = {k: fine.points[np.abs(np.exp(q) - np.exp(true)).argmax()] for k, q in flows.items()}
print("KL(flow ‖ Laplace):", {k: round(value, 4) for k, value in kl.items()})
print("largest error at h =", {k: round(float(value), 2) for k, value in worst.items()})

# %%
fig, ax = plt.subplots()
ax.plot(fine.points, np.exp(true), color="black", lw=4, alpha=0.25, label="Laplace, exact")
for (k, q), colour in zip(flows.items(), (ORANGE, BLUE), strict=True):
    ax.plot(fine.points, np.exp(q), color=colour, label=f"flow with {k} bins")
ax.set(xlim=(-2, 6), ylim=(0, 0.7), xlabel="h", ylabel="density")
ax.set_title("The flow comes close to the Laplace density; its error is at the corner")
ax.legend()
plt.show()

# %% tags=["checks"]
assert max(kl.values()) < 0.005
assert all(abs(place - m) < 0.6 for place in worst.values())

# %% [markdown]
# The KL is below 0.005 nats with five bins and with six, and the largest error lies within 0.6 of
# the corner at m. Within a bin the density of the flow is smooth; only at a knot may its slope
# jump.
# With six bins a knot starts in the middle, where the corner is; with five bins none does.

# %% [markdown]
# ## 4 Two wells
#
# The ridge of $e^{-(h_1^2 + h_2^2 - 4)^2 - 2 (h_1 - h_2)^2}$ is the circle of radius 2, and the
# second term leaves two opposite parts of it: one mode near $(\sqrt2, \sqrt2)$, one near
# $(-\sqrt2, -\sqrt2)$.


# %%
def wells(h1, h2):
    return -((h1**2 + h2**2 - 4) ** 2) - 2 * (h1 - h2) ** 2


axis = maxent.make_grid(-4, 4, num_panels=60)
starts = {
    "N(1, 0.5²)": stats.norm.logpdf(axis.points, 1, 0.5),
    "N(−1, 0.5²)": stats.norm.logpdf(axis.points, -1, 0.5),
    "N(0.01, 1)": stats.norm.logpdf(axis.points, 0.01, 1),
}
rows = []
for name, start in starts.items():
    found = mean_field(wells, (axis, axis), start=start, max_sweeps=3000)
    assert found.converged
    assert np.diff(found.elbo).min() > -1e-9
    rows.append((name, *found.moments(0), found.elbo[-1], found.log_evidence))

# The same updates, made exactly symmetric after each: rounding errors would break the symmetry.
values = wells(axis.points[:, None], axis.points[None])
log_q2 = stats.norm.logpdf(axis.points)
for _ in range(100):
    log_q1 = update(values, log_q2, axis, axis)
    log_q1 = (log_q1 + log_q1[::-1]) / 2
    log_q2 = update(values.T, log_q1, axis, axis)
    log_q2 = (log_q2 + log_q2[::-1]) / 2
p1, p2 = axis.weights * np.exp(log_q1), axis.weights * np.exp(log_q2)
saddle = float(p1 @ values @ p2 - p1 @ log_q1 - p2 @ log_q2)
spread = float((p1 @ axis.points**2) ** 0.5)
rows.append(("N(0, 1), symmetric throughout", p1 @ axis.points, spread, saddle, found.log_evidence))
columns = ["start of q₂", "mean of q₁", "sd of q₁", "bound", "log evidence"]
table = pd.DataFrame(rows, columns=columns).set_index("start of q₂")
table.round(4)

# %%
loc, bound, evidence = table["mean of q₁"], table["bound"], table["log evidence"].iloc[0]
again = update(values, log_q2, axis, axis)
other = float((p2 @ axis.points**2) ** 0.5)
print(f"sds at the symmetric end: {spread:.2f} of q₁, {other:.2f} of q₂")

# %% tags=["checks"]
assert abs(loc["N(1, 0.5²)"] + loc["N(−1, 0.5²)"]) < 1e-4
assert loc["N(1, 0.5²)"] > 1.2
assert abs(loc["N(0.01, 1)"] - loc["N(1, 0.5²)"]) < 1e-3
assert abs(loc.iloc[-1]) < 1e-9
assert np.abs(np.exp(again) - np.exp(log_q1)).max() < 1e-6  # it is a fixed point
assert abs(bound["N(1, 0.5²)"] - bound["N(−1, 0.5²)"]) < 1e-6
assert bound["N(1, 0.5²)"] > bound.iloc[-1] + 0.2
assert spread > other + 0.3
assert evidence - bound["N(1, 0.5²)"] > math.log(2)

# %% [markdown]
# Three ends. Two of them are mirror images, each in one well, with the same bound. The third is
# symmetric, E[h₁] = 0, and is reached only if the symmetry is kept exactly: a start shifted by 0.01
# leaves it, and so does one that is off by rounding errors. There q₁ is wide
# and q₂ narrow. It is a saddle of the bound, more than 0.2 nats lower. The two good ends are
# more than log 2 below the evidence: log 2 = 0.69 for the other well, which they leave out, and the
# rest for the shape of their own. **The bound rewards a $q$ that sits in one mode, and says nothing
# of the other.**

# %% [markdown]
# ## 5 The third moment
#
# The stationary point would be $p \propto e^{\lambda_1 h + \lambda_2 h^2 + \lambda_3 h^3}$. With
# $\lambda_3 \ne 0$ the exponent goes to $+\infty$ at one end of the line: the integral is infinite.
# So only $\lambda_3 = 0$ is left, which is the normal, and its skewness is 0. There is no maximum;
# but the entropy of the normal can be approached: move a mass $\varepsilon$ to a distance
# $\varepsilon^{-1/3}$, which changes $\mathbb E[h^3]$ at will and the first two moments, the
# entropy and all else by next to nothing. A grid returns just that.

# %%
acid = v[:, 0].numpy()
mean, sd = acid.mean(), acid.std()
moments = [acid.mean(), (acid**2).mean(), (acid**3).mean()]
normal_entropy = 0.5 * math.log(2 * math.pi * math.e * sd**2)
rows = []
for width in (5, 10, 20, 40):
    grid = maxent.make_grid(mean - width * sd, mean + width * sd, num_panels=800)
    found = maxent.maximise_entropy(grid, [lambda h: h, np.square, lambda h: h**3], moments)
    p = grid.weights * np.exp(found.log_density)
    beyond = float(p[grid.points > mean + 0.8 * width * sd].sum())
    rows.append((width, found.entropy, found.edges[1], beyond))
columns = ["half width (sds)", "entropy", "p at the upper end / maximum", "mass in the last tenth"]
table = pd.DataFrame(rows, columns=columns).set_index("half width (sds)")
print(f"entropy of the normal: {normal_entropy:.4f} nats")
table.round(6)

# %% tags=["checks"]
assert table["entropy"].is_monotonic_increasing
assert (table["entropy"] < normal_entropy).all()
assert normal_entropy - table["entropy"].iloc[-1] < 0.02
assert table["mass in the last tenth"].iloc[1:].between(1e-6, 0.01).all()

# %% [markdown]
# The wider the grid, the closer the entropy to that of the normal, by way of a small bump at the
# upper end that does nothing but supply the third moment. Such a density is an artefact of the
# grid. For malic acid, which is positive, $\mathbb E[\log h]$ is the better third constraint: with
# the mean it gives the gamma density of the recipe's section 6; $\mathbb E[\log h]$ and
# $\mathbb E[(\log h)^2]$ give the log-normal.
