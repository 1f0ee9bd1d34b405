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
# # 7 · Your model
#
# The other recipes bring their own models. This one is for you who bring yours: a Pyro program and
# its data. (You bring a table alone: recipe 8.) Of the five thoughts of chapter 19 it carries the
# first,
#
# > **1. Inference can be written as maximising the evidence lower bound with respect to $q$,**
#
# and the judgement behind all five: approximate inference spends accuracy to buy time, so it must
# always say how much accuracy it spent.
#
# A model that looks harmless is fitted in the usual way. Nothing warns, and the answer is wrong.
# The rest of the recipe finds that out, repairs it, and checks the repair.
#
# After it you can
#
# - ask of any Pyro model's fit whether its numbers may be used, and read the answer: which part of
#   it is a theorem and which a rule of thumb;
# - recognise a funnel, and derive the coordinates in which it is none;
# - check a fit against NUTS and by simulation;
# - say what to do when the verdict stays no.
#
# Sections 1 to 10 are one lecture; what comes after the word *Further* is for later. Three boxes
# say **Predict, then run**: write your answer down before you unfold theirs. Cells tagged `checks`
# hold the `assert` lines that keep the numbers in the text, and most reasons, true. With your own
# data, leave them out. The unit of every bound and evidence is the nat.

# %%
import math
import tempfile
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.optim import Adam
from scipy.special import logsumexp

import pyro_cookbook as pc

torch.set_num_threads(1)  # the tensors are small: a second thread would only wait
torch.set_default_dtype(torch.float64)
pyro.settings.set(module_local_params=True)  # else a second guide starts where the first ended
plt.style.use("cookbook.mplstyle")
BLUE, ORANGE, PURPLE, GREY = "C0", "C1", "C3", "0.47"

# %% [markdown]
# ## 1 Your table, an existing recipe
#
# That is recipe 8: `pyro-cookbook fit 02 --data FILE`. Here the model is yours.
#
# ## 2 Your model, written the usual way
#
# Eight American schools tried a coaching course for a college entrance test (Rubin, 1981). From
# school $j$ there is an estimate $y_j$ of the course's effect, in points of the test, and the
# standard error $s_j$ of this estimate. ArviZ ships the same table.

# %%
schools = list("ABCDEFGH")
y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
se = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
num_schools = len(y)

fig, ax = plt.subplots(figsize=(8, 3.6))
ax.errorbar(y, range(num_schools), xerr=1.96 * se, fmt="o", color="black")
ax.axvline(0, color=GREY, lw=1)
ax.set(xlabel="effect of the course (points), with its 95% interval", ylabel="school")
ax.set_yticks(range(num_schools), schools)
ax.invert_yaxis()
ax.set_title("School A gained 28 points, school C lost 3; yet all eight intervals overlap")
plt.show()

# %% tags=["checks"]
pymc_run = az.load_arviz_data("centered_eight")
assert (pymc_run["observed_data"]["obs"].to_numpy() == y.numpy()).all()
assert (pymc_run["constant_data"]["sigma"].to_numpy() == se.numpy()).all()
assert (y - 1.96 * se).max() < (y + 1.96 * se).min()

# %% [markdown]
# How much do the courses *really* differ? The usual model gives every school its own effect, the
# hidden $h_j$, drawn from a common normal with mean $\mu$ and standard deviation $\tau$:
#
# $$\mu \sim \mathcal N(0, 10^2), \qquad \tau \sim \operatorname{Exponential}(\text{mean } 5),
# \qquad h_j \sim \mathcal N(\mu, \tau^2), \qquad y_j \sim \mathcal N(h_j, s_j^2).$$
#
# $\tau$ is the answer to the question. Written down
# line by line, the formula is the program. This way of writing it is called *centred*: $h$ is drawn
# around $\mu$.


# %%
def centred(se, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Exponential(1 / 5))
    with pyro.plate("school", len(se), dim=-1):
        effect = pyro.sample("effect", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(effect, se), obs=y)


# %% [markdown]
# ### The plain Pyro way
#
# `AutoNormal` is the mean-field guide: a normal for each latent, $\tau$ on the log scale. Then SVI.


# %%
def plain_svi(init_scale, num_steps):
    """Mean field by the loop of five lines; the guide and its losses."""
    guide = AutoNormal(centred, init_scale=init_scale)
    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(centred, guide, Adam({"lr": 0.2}), elbo)
    losses = [svi.step(se, y) for _ in range(num_steps)]
    return guide, -np.array(losses)


pyro.set_rng_seed(0)
guide, bounds = plain_svi(0.1, 1000)

# %%
bound = [float(part.mean()) for part in (bounds[:200], bounds[600:800], bounds[800:])]
low, middle, high = guide.quantiles([0.055, 0.5, 0.945])["tau"]
print("bound, mean of 200 steps: first {:.1f}, last two {:.1f} and {:.1f} nats".format(*bound))
print(f"tau: median {middle:.1f} points, 89% interval {low:.1f} to {high:.1f}")

# %% tags=["checks"]
assert bound[2] - bound[0] > 2
assert abs(bound[2] - bound[1]) < 0.2
assert abs(low - 4.1) < 0.4
assert abs(middle - 6.0) < 0.5
assert abs(high - 8.8) < 0.7

# %% [markdown]
# Everything looks fine. The bound rose and has settled: its last two means are within 0.2 nats of
# each other. No warning. And the result is interesting: $\tau$ is around 6 points, and the 89%
# interval begins at 4.1, so the courses differ. One could write a paper.
#
# It is wrong, as the next cells show, and nothing above could have told.

# %% [markdown]
# ## 3 The verdict
#
# `pc.fit` takes any Pyro model and its data. `"mean_field"` is the same family, found by another
# optimiser; it lands in the same place.

# %%
fit = pc.fit(centred, "mean_field", se, y)
diagnosis = pc.diagnose(fit)
print(diagnosis)

# %%
table = diagnosis.table
table.loc[["mu", "tau", "effect[6]"], ["mean", "sd", "chain_mean", "chain_sd"]].round(1)

# %% tags=["checks"]
assert fit.converged
assert diagnosis.verdict == "unreliable"
assert "noncentred=True" in diagnosis.advice[0]
assert "'effect'" in diagnosis.advice[0]
assert diagnosis.khats["joint"] > 0.8
assert abs(table.loc["tau", "mean"] - 6) < 0.5
assert fit.elbo.value > bound[2] - 0.3

# %% [markdown]
# **Unreliable.** The diagnosis has two witnesses, both from draws of the guide.
#
# **Short chains.** Hundreds of short Markov chains start at the guide's draws. Each is Hamiltonian
# Monte Carlo, which leaves the *posterior* where it is. If the guide were right, the cloud of
# chains would stay; here it drifts. So a drift larger than chance *proves* that $q$ is not the
# posterior. It is a measure of the error only by rule of thumb: the chains bring the whole law
# nearer ($\mathrm{KL}$ and total variation to the posterior cannot rise), but the mean or sd of a
# single latent can overshoot. Section 4 shows where they do.
#
# **k-hat.** The weight of a draw is $p(v, h)/q(h)$, and k-hat measures how heavy the tail of the
# weights is. Above 0.7 (a rule of thumb, too) an average over *reweighted* draws is ruled by a few
# of them.
#
# ### Which k-hat, and which witness decides
#
# *Joint* weights are those of all latents together. They judge the evidence and the reweighting of
# everything at once, and they get worse with every latent, however good each one is: with hundreds
# of rows a joint k-hat of 2 or 4 can go with means and sds that are right. *Row* weights are one
# for each entry of a plate, and a row's numbers are judged by its own. *Global* weights are those
# of the latents outside every plate, here $\mu$ and $\tau$, with the rows summed out. None is asked
# for the guide's own draws if the chains have forgotten their starts: then **the chains decide**,
# and k-hat only says whether the draws may also be reweighted. That is why recipes 1, 4c and 4d
# have fits with a joint k-hat above 0.7 that are called reliable. Here the chains have *not* mixed;
# what is left is the weights, and they say no.
#
# Where this verdict fails: a mode that no chain has found, and no climb of an optimiser, goes
# unnoticed; and a fit whose error is near the limit can be called either way. Section 9 shows both.
#
# And it says what to do next, the most promising step first: non-centre `effect`. Before we follow
# the advice, let us see whether it is right, and then why.

# %% tags=["checks"]
assert any("have not mixed" in reason for reason in diagnosis.reasons)
assert any(reason.startswith("k-hat") and "above" in reason for reason in diagnosis.reasons)

# %% [markdown]
# ## 4 The truth, by one integral
#
# This model is small enough for an exact answer. Your own will rarely be; NUTS takes this place in
# section 7. *Given* $\tau$, everything is Gaussian: $y_j$ is normal around $\mu$ with standard
# deviation $t_j = (s_j^2 + \tau^2)^{1/2}$, so $\mu$ given $\tau$ and $y$ is normal with mean $m$
# and sd $s_\mu$,
#
# $$\frac1{s_\mu^2} = \frac1{10^2} + \sum_j \frac1{t_j^2}, \qquad
# m = s_\mu^2 \sum_j \frac{y_j}{t_j^2}.$$
#
# With $\kappa_j = \tau^2/t_j^2$, the effect given $\tau$ has mean $\kappa_j y_j + (1-\kappa_j)m$
# and variance $\kappa_j s_j^2 + (1-\kappa_j)^2 s_\mu^2$. One integral is left, over $\log \tau$,
# and a grid does it.

# %%
log_tau = np.linspace(-12, 5, 6001)
tau = np.exp(log_tau)
observed, noise = y.numpy(), se.numpy()

total = np.hypot(noise, tau[:, None])  # t, shape (grid, school)
mu_sd = (1 / 100 + (total**-2).sum(1)) ** -0.5
mu_mean = mu_sd**2 * (observed / total**2).sum(1)
log_likelihood = -0.5 * (np.log(2 * np.pi * total**2) + (observed / total) ** 2).sum(1)
log_likelihood += np.log(mu_sd / 10) + 0.5 * (mu_mean / mu_sd) ** 2
log_prior = math.log(1 / 5) - tau / 5 + log_tau  # of log τ: the last term is dτ/d(log τ) = τ
log_joint = log_likelihood + log_prior + math.log(log_tau[1] - log_tau[0])
log_evidence = float(logsumexp(log_joint))
weight = np.exp(log_joint - log_evidence)  # of each τ, given y

kept = tau[:, None] ** 2 / total**2  # κ
effect = kept * observed + (1 - kept) * mu_mean[:, None]
effect_var = kept * noise**2 + ((1 - kept) * mu_sd[:, None]) ** 2


def moments(mean, variance):
    """Mean and sd of a mixture of the grid's normals."""
    first = weight @ mean
    return first, np.sqrt(weight @ (variance + mean**2) - first**2)


exact = pd.DataFrame(columns=["mean", "sd"], dtype=float)
exact.loc["mu"] = moments(mu_mean, mu_sd**2)
exact.loc["tau"] = moments(tau, np.zeros_like(tau))
for j, (one, sd) in enumerate(np.transpose(moments(effect, effect_var))):
    exact.loc[f"effect[{j}]"] = one, sd
below_two = float(weight[tau < 2].sum())

print(f"log evidence {log_evidence:.2f} nats; posterior probability of tau < 2: {below_two:.2f}")
side = pd.concat({"mean field": table.loc[exact.index, ["mean", "sd"]], "exact": exact}, axis=1)
side.round(1)

# %%
draws = pc.to_datatree(fit, num_draws=4000)["posterior"].isel(chain=0)
never = float((draws["tau"] < 2).mean())
print(f"share of the guide's draws with tau < 2: {never:.4f}")

# %% tags=["checks"]
narrow = table.loc["mu", "sd"] / exact.loc["mu", "sd"]
shift = (table.loc["tau", "mean"] - exact.loc["tau", "mean"]) / exact.loc["tau", "sd"]
assert abs(below_two - 0.43) < 0.005
assert never < 0.001
assert abs(narrow - 0.48) < 0.03
assert 0.85 < shift < 1
assert log_evidence - diagnosis.evidence.value > 2 * diagnosis.evidence.se
assert abs(log_evidence - diagnosis.elbo.value - 2.3) < 0.1

# %% [markdown]
# The advice is right: the fit is as wrong as the verdict says.
#
# - The posterior probability of $\tau$ below 2 points is 0.43. Of 4000 draws of the guide, less
#   than one in a thousand is there. "The courses differ" was the guide's opinion, not the data's.
# - The mean of $\tau$ is too large by nine tenths of a posterior sd. The sd of $\mu$ is half of
#   what it should be.
# - The importance-weighted evidence is below the exact one by more than two of its standard errors:
#   with such a k-hat its ± is not to be trusted.
# - The bound is 2.3 nats below the evidence. But without the integral you would not know the
#   evidence, and a bound alone does not say that it is low.
#
# ### What the chains' drift measures
#
# Now the drift of the chains can be laid beside the true error, for each latent.

# %%
scale = exact["sd"]
drift = pd.DataFrame(
    {
        "mean: drift": (table["chain_mean"] - table["mean"]).loc[exact.index].abs() / scale,
        "mean: error": (exact["mean"] - table["mean"]).abs().loc[exact.index] / scale,
        "sd: drift": (table["chain_sd"] / table["sd"] - 1).loc[exact.index].abs(),
        "sd: error": (exact["sd"] / table["sd"] - 1).abs().loc[exact.index],
    }
).loc[exact.index]
drift.round(2)

# %% tags=["checks"]
over = drift["sd: drift"] > drift["sd: error"] + 0.05
assert over.drop("tau").sum() >= 5  # overshoot in the sd
assert drift.loc["tau", "mean: drift"] < drift.loc["tau", "mean: error"] - 0.2  # not arrived

# %% [markdown]
# The mean of $\tau$ has moved about half of the way. The sds of most effects have moved *too far*,
# by more than 5 percentage points. Had we read the drift as "wrong by at least so much", we would
# have been wrong ourselves. A case in two lines shows that this is no accident. Let $p$ be a normal
# with unit variances and correlation $\rho = 0.9$ around 0, and let $q$ have unit variances, no
# correlation, and its mean at $(0, 2)$. One step of a Gibbs sampler redraws $h_1$ given $h_2$. It
# leaves $p$ where it is. The mean of $h_1$ was *right*, and moves to $2\rho = 1.8$; the
# $\mathrm{KL}$ of the pair falls all the same.

# %%
rho = 0.9
pair = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1, rho], [rho, 1]]))
before = dist.MultivariateNormal(torch.tensor([0.0, 2.0]), torch.eye(2))
after = dist.MultivariateNormal(torch.tensor([2 * rho, 2.0]), pair.covariance_matrix)  # one step
kl = [float(torch.distributions.kl_divergence(one, pair)) for one in (before, after)]
print(f"mean of h1: {float(before.mean[0])} before, {float(after.mean[0]):.1f} after; exact 0")
print(f"KL to the posterior: {kl[0]:.1f} before, {kl[1]:.1f} nats after")

# %% tags=["checks"]
pyro.set_rng_seed(0)
h1, h2 = before.sample((100_000,)).T
h1 = rho * h2 + math.sqrt(1 - rho**2) * torch.randn(100_000)  # the Gibbs step itself
assert abs(h1.mean() - after.mean[0]) < 0.02
assert (torch.cov(torch.stack([h1, h2])) - after.covariance_matrix).abs().max() < 0.03
assert abs(kl[1] - 2) < 1e-9
assert kl[0] > 12

# %% [markdown]
# ## 5 What a funnel is
#
# Look at the posterior as the guide sees it, in $h$, $\mu$ and $\log \tau$. Each school contributes
# the factor
#
# $$\mathcal N(h_j \mid \mu, \tau^2) = \frac{1}{\sqrt{2\pi}\,\tau}
# \exp\Big(\!-\frac{(h_j-\mu)^2}{2\tau^2}\Big).$$
#
# Its height is proportional to $1/\tau$, its width is $\tau$. Let all eight effects equal $\mu$,
# and let $\tau$ shrink. Each factor gains $-\log \tau$ in log density, eight of them
# $-8 \log \tau$. The density of $\log \tau$ itself is $p(\tau)\, \tau$, which costs $\log \tau$.
# All other terms go to constants. So along this line
#
# $$\log p(\mu, \log \tau, h, y) = -7 \log \tau + \text{const} \to \infty
# \qquad\text{as } \tau \to 0.$$
#
# The log density has no mode: it rises without end into an ever narrower spike. Yet there is little
# mass in the spike: its volume is proportional to $\tau^8$ and shrinks as fast as the height grows.
# Wide at the top, narrow at the bottom: a **funnel**.
#
# > **Predict, then run (1).** `AutoDelta` is MAP: a point in place of $q$. SVI moves it uphill from
# > $\tau = 4$. Where does it end after 200 and after 400 steps of 0.02 in $\log \tau$, and how
# > high?
#
# <details><summary>Answer</summary>
#
# There is nowhere to end. In each step $\log \tau$ falls by about 0.02: to about
# $4\,e^{-4} = 0.07$ after 200 steps, and to a few thousandths after 400. The log density (of $\tau$
# here, not of $\log \tau$: a point has no Jacobian) rises by about $8 \times 4 = 32$ nats in the
# first 200 steps, and goes on. A density is not a probability: there is less and less
# mass around the point.
# </details>

# %%
pyro.set_rng_seed(0)
point = AutoDelta(centred)
svi = SVI(centred, point, Adam({"lr": 0.02}), Trace_ELBO())
climb = []
for _ in range(401):
    height = -svi.step(se, y)
    at = point.median(se, y)
    farthest = (at["effect"] - at["mu"]).abs().max()
    climb.append((float(at["tau"]), height, float(farthest)))
columns = ["τ (points)", "log density (nats)", "largest |h − μ| (points)"]
climb = pd.DataFrame(climb, columns=columns).rename_axis("step")
climb.iloc[::200].round({columns[0]: 3, columns[1]: 1, columns[2]: 3})

# %%
by_name = pc.fit(centred, "map", se, y)
print("pc.fit:", "converged" if by_name.converged else "no mode found")

# %% tags=["checks"]
assert climb.iloc[400, 0] < 0.02
assert climb.iloc[200, 1] > climb.iloc[0, 1] + 25
assert climb.iloc[400, 1] > climb.iloc[200, 1] + 15
assert climb.iloc[400, 2] < 0.05
assert not by_name.converged

# %% [markdown]
# `pc.fit` refuses before it climbs: it sees that the log density is flat or rising along $\tau$ and
# says that there is no mode.

# %%
line_tau = np.geomspace(0.01, 20, 80)


def log_density(model, tau, **values):
    """log p(latents, y) with τ on the log scale, by running the model."""
    held = {"tau": torch.tensor(tau)} | values
    trace = poutine.trace(poutine.condition(model, held)).get_trace(se, y)
    return float(trace.log_prob_sum()) + math.log(tau)


same = {"mu": torch.tensor(6.5), "effect": torch.full((num_schools,), 6.5)}
line_height = np.array([log_density(centred, t, **same) for t in line_tau])

# %% tags=["checks"]
slope = (line_height[1] - line_height[0]) / np.log(line_tau[1] / line_tau[0])
assert abs(slope + 7) < 0.02

# %% tags=["helpers"]
# The exact density of (h_A − μ, log τ): given τ, h_A − μ is normal with these moments.
apart = kept[:, 0] * (observed[0] - mu_mean)
apart_var = kept[:, 0] * noise[0] ** 2 + (kept[:, 0] * mu_sd) ** 2
rng = np.random.default_rng(0)
drawn = rng.choice(len(tau), 20_000, p=weight / weight.sum())  # exact draws of τ


def shade(ax, x, mean, variance):
    """Draw the regions of highest density that hold 20, 50, 80 and 95% of the mass."""

    def density(x, index):
        root = np.sqrt(variance[index])
        return np.exp(-0.5 * ((x - mean[index]) / root) ** 2) / root * weight[index]

    at_draws = density(rng.normal(mean[drawn], np.sqrt(variance[drawn])), drawn)
    levels = np.quantile(at_draws, [0.05, 0.2, 0.5, 0.8])
    rows = np.flatnonzero((tau > 0.05) & (tau < 40))[::5]
    z = density(x, rows[:, None])
    colors = ["0.92", "0.8", "0.65", "0.45"]
    ax.contourf(x, tau[rows], z, levels=[*levels, z.max()], colors=colors)
    ax.set(yscale="log", ylim=(0.05, 40), xlim=(x[0], x[-1]), ylabel=r"$\tau$ (points)")
    ax.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    ax.fill_between([], [], color="0.65", label="posterior: 20, 50, 80, 95%")


def ellipse(x, log_tau):
    """The ellipse with the mean and covariance of draws that holds 95% of their normal."""
    both = np.stack([x, log_tau])
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = math.sqrt(-2 * math.log(0.05)) * np.stack([np.cos(angle), np.sin(angle)])
    x, log_tau = both.mean(1)[:, None] + np.linalg.cholesky(np.cov(both)) @ circle
    return x, np.exp(log_tau)


# %%
deviation = (draws["effect"].isel(school=0) - draws["mu"]).to_numpy()
x = 25 * np.linspace(-1, 1, 401) ** 3  # dense in the neck
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), gridspec_kw={"width_ratios": [2, 3]})
axes[0].plot(line_height, line_tau, color=PURPLE, lw=2)
axes[0].set(yscale="log", xlabel="log density (nats)", ylabel=r"$\tau$ (points)")
axes[0].set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
axes[0].set_title("With all effects equal to $\\mu$, the\ndensity rises without end")
shade(axes[1], x, apart, apart_var)
axes[1].plot(*ellipse(deviation, np.log(draws["tau"].to_numpy())), color=ORANGE, lw=2)
axes[1].plot([], [], color=ORANGE, lw=2, label="mean field, 95%")
axes[1].set(xlabel=r"effect of school A minus $\mu$ (points)")
axes[1].set_title("The guide sits in the funnel's mouth;\nthe neck is out of its reach")
axes[1].legend(loc="lower right")
plt.show()

# %% [markdown]
# ### Why the guide is so sure of $\tau$
#
# Mean field needs *one* width for $h - \mu$ at all $\tau$. Let $q$ have independent factors, with
# $\log \tau \sim \mathcal N(\ell, \omega^2)$. The bound needs the mean of the log of each school's
# factor, and by independence $\mathbb E\,[(h_j - \mu)^2/\tau^2]$ is a product. With
# $Q = \sum_j \mathbb E\,(h_j - \mu)^2$, the terms of the bound that contain $\ell$ or $\omega$ are
#
# $$-8\,\ell \;-\; \tfrac12 Q\, e^{-2\ell + 2\omega^2} \;+\; \ell
# \;-\; \tfrac15\, e^{\ell + \omega^2/2} \;+\; \log \omega,$$
#
# since $\mathbb E\, e^{-2\log\tau} = e^{-2\ell + 2\omega^2}$; the last three are the Jacobian, the
# prior and the entropy. Write $A = Q\, e^{-2\ell+2\omega^2}$ and $C = \mathbb E\,\tau/5$, and set
# both derivatives to zero:
#
# $$(\ell)\quad -8 + A + 1 - C = 0, \qquad
# (\omega)\quad -2\omega A - \omega C + \frac1\omega = 0
# \;\Longrightarrow\; \omega^2 = \frac{1}{2A + C} = \frac{1}{14 + 3C}.$$
#
# The data have dropped out. Whatever they say, the guide's sd of $\log \tau$ is at most
# $1/\sqrt{14} = 0.27$, as if $\tau$ had been measured with eight exact effects. A wide $\omega$
# would put draws of small $\tau$ beside values of $h$ that were made for a large one, and the term
# $e^{2\omega^2}$ charges exponentially for that.
#
# > **Predict, then run (2).** The posterior's sd of $\log \tau$ is 1.22. Start the guide there,
# > with all its sds at 1.2. Which sd of $\log \tau$ will it end with?
#
# <details><summary>Answer</summary>
#
# With 0.25 or so, as before. Nothing in the derivation mentions a start or a number of steps, and
# the data, whatever they are, do not enter: with all $y_j = 8$ and standard errors twice as large
# the formula holds as well. It is not the optimiser that fails. Waiting does not help.
# </details>

# %%
pyro.set_rng_seed(0)
wide, _ = plain_svi(1.2, 500)
other = pc.fit(centred, "mean_field", 2 * se, torch.full((num_schools,), 8.0))
logs = {
    "by pc.fit": np.log(draws["tau"].to_numpy()),
    "by SVI, started wide": np.log([float(wide()["tau"].detach()) for _ in range(2000)]),
    "other data": np.log(pc.to_datatree(other, num_draws=4000)["posterior"]["tau"][0].to_numpy()),
}
rows = {
    name: (value.std(), 1 / math.sqrt(14 + 3 * np.exp(value).mean() / 5))
    for name, value in logs.items()
}
true_sd = float(moments(log_tau, np.zeros_like(log_tau))[1])
print(f"sd of log tau in the posterior: {true_sd:.2f}")
sds = pd.DataFrame.from_dict(rows, orient="index", columns=["sd of log τ in the guide", "formula"])
sds.round(2)

# %% tags=["checks"]
assert (sds.iloc[:, 0] - sds["formula"]).abs().max() < 0.03
assert (sds.iloc[:, 0] < 1 / math.sqrt(14) + 0.01).all()
assert abs(true_sd - 1.22) < 0.01

# %% [markdown]
# The exact sd is more than four times as large.
#
# ## 6 The repair: other coordinates
#
# Every normal is a standard normal, stretched and shifted: $h = \mu + \tau\eta$. Use $\eta$ as the
# latent instead of $h$, for one school first.
#
# 1. Hold $\mu$ and $\tau$ fixed. Then $dh = \tau\, d\eta$: an interval of length $d\eta$ in $\eta$
#    has length $\tau\, d\eta$ in $h$.
# 2. Both intervals have the same probability:
#    $p(\eta \mid \mu, \tau)\, d\eta = p(h \mid \mu, \tau)\, dh$.
# 3. So $p(\eta \mid \mu, \tau) = \tau\, \mathcal N(\mu + \tau\eta \mid \mu, \tau^2)
#    = \tau \cdot \dfrac{1}{\sqrt{2\pi}\,\tau}\, e^{-\tau^2\eta^2/2\tau^2}
#    = \mathcal N(\eta \mid 0, 1).$
#
# The factor $\tau$ in step 3 is the Jacobian $dh/d\eta$. It cancels the height $1/\tau$, and
# neither $\mu$ nor $\tau$ is left in the prior of $\eta$. With eight schools the Jacobian matrix is
# $\tau$ times the identity, its determinant is $\tau^8$, and it cancels all eight heights. The
# $-8 \log \tau$ is gone.
#
# It is the **same model**: the same joint distribution of $\mu$, $\tau$, $h$ and $y$, the same
# evidence. Only the family of $q$ is another: "$\eta$ independent of $\tau$" is not "$h$
# independent of $\tau$". Recipe 1 saw the same with a rotation.
#
# When does it help? If $y$ says little about $h$, the posterior of $\eta$ stays near its prior,
# which knows nothing of $\tau$. If $y$ fixes $h$ ($s$ much smaller than $\tau$), then $h$ is known,
# $\eta = (h - \mu)/\tau$ depends on $\tau$, and the centred form is the better one. So
# `noncentred=True` tries both and keeps the higher bound. (With all $s_j$ divided by 20 it keeps
# the centred form: exercise 1.)

# %%
repaired = pc.fit(centred, "mean_field", se, y, noncentred=True)
repaired_diagnosis = pc.diagnose(repaired, log_evidence=log_evidence)
print("non-centred:", repaired.noncentred)
print(f"bound {repaired_diagnosis.elbo.value:.1f}, gap {repaired_diagnosis.gap.value:.1f} nats")
print("verdict:", repaired_diagnosis.verdict.split()[0])

# %% tags=["checks"]
precise = pc.fit(centred, "mean_field", se / 20, y, noncentred=True)
assert precise.noncentred == ()
assert repaired.noncentred == ("effect",)
assert abs(repaired_diagnosis.gap.value - 0.3) < 0.06
assert repaired.elbo.value > fit.elbo.value + 1.9

# %% [markdown]
# The same family, in other coordinates, is accepted, and the bound has risen by 2 nats. The verdict
# comes from random draws. Is it the same for other draws?

# %%
judged = [pc.diagnose(repaired, log_evidence=log_evidence, seed=seed) for seed in range(1, 8)]
khats = [one.khats["joint"] for one in judged]
accepted = sum(one.verdict != "unreliable" for one in judged)
off = max(abs(one.evidence.value - log_evidence) for one in judged)
print(
    f"k-hat from {min(khats):.2f} to {max(khats):.2f}; accepted {accepted} times of {len(judged)}"
)
print(f"weighted evidence: off by at most {off:.2f} nats")

# %% tags=["checks"]
assert 0.35 < min(khats) < 0.55
assert 0.65 < max(khats) < 0.9
assert accepted == 7
assert off < 0.1
for one in [repaired_diagnosis, *judged]:
    assert any("short chains" in told and "have not mixed" not in told for told in one.reasons)

# %% [markdown]
# **k-hat is itself an estimate, and a noisy one.** It is anywhere from 0.45 to 0.78 by the seven
# sets of draws, on both sides of 0.7: one k-hat near the limit settles nothing, and the honest
# statement is the band. The verdict does not waver: all seven accept the fit, because here the
# chains have mixed, and they decide. (Whether the verdict adds "after reweighting" does change with
# the draws: the mean of $\tau$ is off by a fifth of an sd, near the chains' limit.) The weighted
# evidence is within 0.1 nats of the exact one by all seven.
#
# ### By hand
#
# You can also write it yourself. `pyro.deterministic` records $h$, so that it stays in the results;
# `event_dim=0` says that it is one number per school. It is the same posterior and the same family,
# so its bound must agree within the Monte-Carlo error.


# %%
def noncentred(se, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Exponential(1 / 5))
    with pyro.plate("school", len(se), dim=-1):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        effect = pyro.deterministic("effect", mu + tau * eta, event_dim=0)
        return pyro.sample("y", dist.Normal(effect, se), obs=y)


by_hand = pc.fit(noncentred, "mean_field", se, y)
by_hand_diagnosis = pc.diagnose(by_hand, log_evidence=log_evidence, seed=8)  # different draws
print(f"bound with noncentred=True: {repaired_diagnosis.elbo}")
print(f"bound by hand:              {by_hand_diagnosis.elbo}")

# %% tags=["checks"]
both = [repaired_diagnosis.elbo, by_hand_diagnosis.elbo]
assert abs(both[0].value - both[1].value) < 4 * math.hypot(both[0].se, both[1].se)
# Where all effects equal μ, that is at η = 0, the log density falls now.
at_zero = {"mu": torch.tensor(6.5), "eta": torch.zeros(num_schools)}
fall = log_density(noncentred, 0.01, **at_zero) - log_density(noncentred, 0.1, **at_zero)
assert fall < -2

# %%
hand_draws = pc.to_datatree(by_hand, num_draws=4000)["posterior"].isel(chain=0)
drawn_log_tau = np.log(hand_draws["tau"].to_numpy())
deviation = (hand_draws["effect"].isel(school=0) - hand_draws["mu"]).to_numpy()
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True)
shade(axes[0], np.linspace(-3.5, 3.5, 281), apart / tau, apart_var / tau**2)
axes[0].plot(*ellipse(hand_draws["eta"].isel(school=0).to_numpy(), drawn_log_tau), color=BLUE, lw=2)
axes[0].plot([], [], color=BLUE, lw=2, label="mean field, 95%")
axes[0].set(xlabel=r"$\eta$ of school A (no unit)")
axes[0].set_title(r"In $\eta$ the funnel is gone …")
axes[0].legend(loc="lower right")
shade(axes[1], x, apart, apart_var)
axes[1].plot(
    deviation[:500], np.exp(drawn_log_tau[:500]), ".", color=BLUE, ms=3, label="500 draws of $q$"
)
axes[1].set(xlabel=r"effect of school A minus $\mu$ (points)", ylabel="")
axes[1].set_title("… and in $h$ the draws fill it")
axes[1].legend(loc="lower right")
plt.show()

# %% tags=["checks"]
assert abs(float((hand_draws["tau"] < 2).mean()) - below_two) < 0.15

# %% [markdown]
# ## 7 Against NUTS
#
# With a model of your own there is no integral to look up. Then the referee is a sampler. One call
# runs NUTS from a fit: the chains start at draws of the guide and move in coordinates that its
# covariance makes round. R-hat compares the chains with each other, ESS counts how many independent
# draws they are worth; both are ArviZ's. (R-hat asks for starts that are more spread out than the
# posterior. Draws of a guide that is too narrow are not: a mode that the guide does not know, these
# chains need not find. Here the integral of section 4 confirms them.)

# %%
nuts = pc.sample(by_hand, num_draws=300, num_warmup=100)
names = ["mu", "tau", "effect"]
rhat, ess = az.rhat(nuts, var_names=names), az.ess(nuts, var_names=names)
worst_rhat = max(float(rhat[name].max()) for name in names)
least_ess = min(float(ess[name].min()) for name in names)
print(f"worst R-hat {worst_rhat:.2f}, every ESS above 300")

# %% tags=["checks"]
assert worst_rhat < 1.02
assert least_ess > 300
assert int(nuts["sample_stats"]["diverging"].sum()) < 10
sampled = nuts["posterior"].mean(["chain", "draw"])
for name, index in (("mu", ()), ("tau", ()), ("effect", (0,)), ("effect", (4,))):
    label = f"{name}[{index[0]}]" if index else name
    mcse = exact.loc[label, "sd"] / least_ess**0.5
    assert abs(float(sampled[name].to_numpy()[index]) - exact.loc[label, "mean"]) < 4 * mcse
diverging = pymc_run["sample_stats"]["diverging"]
assert (int(diverging.sum()), diverging.size) == (19, 2000)
assert int(az.load_arviz_data("non_centered_eight")["sample_stats"]["diverging"].sum()) == 0

# %% [markdown]
# R-hat is below 1.02 and every number rests on an ESS above 300; the means agree with the integral
# within four Monte-Carlo errors. (NUTS does not like necks either. ArviZ's copy of the data comes
# with two runs of NUTS, with slightly other priors. In the centred form 19 of 2000 trajectories
# *diverged*, in the non-centred none.)
#
# `pc.compare` diagnoses each fit and measures it against the sampler: the largest error of a mean,
# in posterior sds, and of an sd, as a share.
#
# > **Predict, then run (3).** Full rank knows every correlation, in the centred coordinates. Mean
# > field knows none, in the non-centred ones. Which has the higher bound, and by how much?
#
# <details><summary>Answer</summary>
#
# Mean field, by a nat. Full rank can lean the ellipse, but a funnel is no leaning ellipse: at one
# $\tau$ it is too wide and at another too narrow. Full rank gains a nat on mean field in the same
# coordinates; the change of coordinates gains two.
# </details>

# %%
fits = {
    "centred, mean field": fit,
    "centred, full rank": pc.fit(centred, "full_rank", se, y),
    "non-centred, mean field": by_hand,
    "non-centred, full rank": pc.fit(noncentred, "full_rank", se, y),
}
comparison = pc.compare({**fits, "NUTS": nuts})
errors = comparison.table.loc[list(fits)].drop(columns=["seconds", "family", "where"])
errors["verdict"] = errors["verdict"].replace("^reliable.*", "accepted", regex=True)
errors.round({"elbo": 1, "below_best": 1, "khat": 1, "mean_error": 1, "sd_error": 1})

# %% tags=["checks"]
at = errors.loc
assert list(errors["verdict"]) == ["unreliable"] * 2 + ["accepted"] * 2
for name in ("non-centred, mean field", "non-centred, full rank"):
    assert at[name, "mean_error"] < 0.3
    assert at[name, "sd_error"] < 0.35
assert at["centred, mean field", "mean_error"] > 0.8
assert at["centred, mean field", "sd_error"] > 0.4
assert at["centred, full rank", "sd_error"] > 0.4
assert abs(at["centred, full rank", "elbo"] - at["centred, mean field", "elbo"] - 1) < 0.2
assert abs(at["non-centred, mean field", "elbo"] - at["centred, full rank", "elbo"] - 1) < 0.2

# %% tags=["helpers"]
LABELS = {"mu": r"$\mu$", "tau": r"$\tau$"}
LABELS |= {f"effect[{j}]": f"$h$ of {school}" for j, school in enumerate(schools)}
COLOURS = {"centred, mean field": ORANGE, "non-centred, mean field": BLUE, "NUTS": "black"}


def forest(ax, trees):
    """Medians with 50 and 89% intervals, one line for each latent and method."""
    for shift, (name, colour) in zip((-0.22, 0, 0.22), COLOURS.items(), strict=True):
        posterior = trees[name]["posterior"].to_dataset()
        stacked = [posterior[site].to_numpy().reshape(-1, 1) for site in ("mu", "tau")]
        stacked += [posterior["effect"].to_numpy().reshape(-1, num_schools)]
        low, left, mid, right, high = np.quantile(
            np.hstack(stacked), [0.055, 0.25, 0.5, 0.75, 0.945], axis=0
        )
        place = np.arange(len(mid)) + shift
        ax.hlines(place, low, high, color=colour, lw=1.2)
        ax.hlines(place, left, right, color=colour, lw=3.5)
        ax.plot(mid, place, "o", color=colour, mfc="white", ms=4.5, label=name)
    ax.set_yticks(range(len(LABELS)), LABELS.values())
    ax.invert_yaxis()


# %%
fig, ax = plt.subplots(figsize=(8, 6))
forest(ax, comparison.trees)
ax.axvline(0, color=GREY, lw=1)
ax.set(xlabel="points of the test; median, 50 and 89% intervals")
ax.set_title("Non-centred mean field follows NUTS; centred is too sure of $\\mu$ and $\\tau$")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
plt.show()

# %% [markdown]
# - The **richer family does not repair it**: full rank in the centred coordinates stays unreliable,
#   with an sd that is off by more than 40%.
# - The **right coordinates do**: both non-centred fits are accepted, with means within 0.3 sd and
#   sds within 35% of NUTS. A gap of 0.3 nats is left, of which full rank wins back a part. The rest
#   it cannot: in the posterior $\log \tau$ is skewed (its third standardised moment is below $-1$),
#   and no normal is.

# %% tags=["checks"]
centre = float(weight @ log_tau)
skewness = float(weight @ (log_tau - centre) ** 3) / true_sd**3
full_gap = log_evidence - pc.diagnose(fits["non-centred, full rank"]).elbo.value
assert skewness < -1
assert 0.15 < full_gap < by_hand_diagnosis.gap.value + 0.02

# %% [markdown]
# ## 8 The whole way in one call
#
# Fit, judge, reweight, non-centre: `pc.infer` takes these steps by itself, and where no fit may be
# used it lets many short chains go on from the best one until they agree (`pc.refine`), and last
# runs NUTS. It stops at the first step whose numbers may be used. Start it from the centred model,
# as a reader would who has not read this recipe. Which steps will it need?

# %%
answer = pc.infer(centred, se, y)
for step, row in answer.tried.iterrows():
    print(f"{step}: {row['family']}, {row['verdict'].split()[0]}")

# %% [markdown]
# The rejected fit of section 3 is not lost either. Chains from its draws, in the better
# coordinates, end where NUTS ended: the guide was a bad answer and a good start.

# %%
refined = pc.refine(fit)
print("refined:", pc.diagnose(refined).verdict)
answers = {"infer": answer.tree(), "refined": pc.to_datatree(refined)}
tau_moments = {}
for name, tree in {**answers, "NUTS": nuts}.items():
    tau_draws = tree["posterior"]["tau"]
    tau_moments[name] = float(tau_draws.mean()), float(tau_draws.std())
by_nuts = tau_moments["NUTS"]
apart_means = max(abs(tau_moments[name][0] / by_nuts[0] - 1) for name in answers)
apart_sds = max(abs(tau_moments[name][1] / by_nuts[1] - 1) for name in answers)
print("mean and sd of tau agree with NUTS within a quarter")

# %% tags=["checks"]
assert list(answer.tried.index[:2]) == ["as it is", "non-centred"]
assert answer.tried["verdict"].iloc[0] == "unreliable"
assert answer.may_be_used
assert refined.noncentred == ("effect",)
assert pc.diagnose(refined).verdict == "reliable after refining"
assert max(apart_means, apart_sds) < 0.25
rejected = pc.to_datatree(fit, num_draws=4000)["posterior"]["tau"]
assert abs(float(rejected.std()) / tau_moments["NUTS"][1] - 1) > 0.3  # the start fails it

# %% [markdown]
# ## 9 How the verdict fails
#
# What is a theorem: chains that leave $p(h \mid v)$ as it is never take the law of the draws
# farther from it. If $q$ is right, nothing moves. What are limits that were set: 0.22 sd and 22%,
# on models with known answers, so that no fit of them is called reliable and wrong. Of 95 models
# that were written afterwards `pc.infer` answered 91, two of them wrongly
# (`benchmarks/verdict/held_out/answers.md`). And both witnesses stand where $q$ stands. Mass that
# neither the draws nor a climb has met does not exist for them. (A climb is an optimiser that
# `diagnose` starts at scattered points and at draws of large weight.)
#
# **A case that it misses.** 85% of the mass in a standard normal, 15% in a needle of width 0.01,
# seven sds away. The true mean is $0.15 \cdot 7 = 1.05$.


# %%
def needle():
    x = pyro.sample("x", dist.Normal(0.0, 5.0))
    hill = dist.Normal(0.0, 1.0).log_prob(x) + math.log(0.85)
    thorn = dist.Normal(7.0, 0.01).log_prob(x) + math.log(0.15)
    pyro.factor("shape", torch.logaddexp(hill, thorn) - dist.Normal(0.0, 5.0).log_prob(x))


missed = pc.fit(needle, "full_rank")
missed_mean = float(pc.to_datatree(missed, num_draws=4000)["posterior"]["x"].mean())
print("verdict:", pc.diagnose(missed).verdict)
print(f"mean {abs(missed_mean):.1f}, true mean 1.05")

# %% [markdown]
# No method that starts from what it has seen can find it, for nothing in the density near the hill
# points at the needle. If you suspect such mass, start climbs there yourself.
#
# **Hills that climbs do find** are another matter. A fit that stands on one of them is refused,
# and chains are of no help: they do not pass between hills, so they cannot say how much of the
# mass each has. `pc.refine` then *anneals*. It draws points on all hills, and turns the density
# they were drawn from into the posterior's in small steps; after each, points are weighted, drawn
# again by weight, and moved. Sixteen populations do so on their own. If they do not agree, all is
# refused.
#
# Here the root of 6 has two signs, and the prior prefers one.


# %%
def two_roots(y):
    x = pyro.sample("x", dist.Normal(0.7, 2.0))
    pyro.sample("y", dist.Normal(x**2, 1.0), obs=y)


hills = pc.infer(two_roots, torch.tensor(6.0))
share = float((hills.tree()["posterior"]["x"] > 0).mean())
at = np.linspace(-8, 8, 4001)
mass = np.exp(-((at - 0.7) ** 2) / 8 - (at**2 - 6) ** 2 / 2)
exact_share = mass[at > 0].sum() / mass.sum()
print(hills.tried[["family", "verdict"]].to_string())
print(f"mass above 0: {share:.2f}, exact {exact_share:.2f}")

# %% tags=["checks"]
assert list(hills.tried["verdict"]) == ["unreliable", "reliable after refining"]
assert abs(share - exact_share) < 0.03
assert min(exact_share, 1 - exact_share) > 0.2  # one hill alone is far off

# %% [markdown]
# **A case that it refuses without need.** Two latents of correlation 0.65 in mean field: each sd
# is $1 - \sqrt{1 - 0.65^2} = 24\%$ too small, just within what counts as accurate here (25%). The
# limit is 22%, because what is measured has an error: the price of never calling a wrong fit right.


# %%
def pair():
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.65], [0.65, 1.0]]))
    pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), scale_tril=root))


refused = [pc.diagnose(pc.fit(pair, "mean_field"), seed=seed) for seed in range(3)]
print("called reliable as it is:", sum(one.verdict == "reliable" for one in refused), "times of 3")

# %% tags=["checks"]
assert pc.diagnose(missed).verdict == "reliable"
assert abs(missed_mean) < 0.1
assert len(missed.modes) == 1
assert sum(one.verdict == "reliable" for one in refused) == 0
near = torch.tensor([6.9, 7.0])
heights = [float(poutine.trace(poutine.condition(needle, {"x": x})).get_trace().log_prob_sum())
           for x in near]  # fmt: skip
assert heights[1] - heights[0] > 20  # a climb that started in the needle would find it

# %% [markdown]
# ## 10 When the verdict stays no
#
# In this order; stop as soon as it turns.
#
# 1. **Not converged?** The first reason says so. Raise `max_steps`, or lower the noise.
# 2. **Does the model run on what you think?** Look at `fit.args` and at a prior predictive draw.
#    Standardise columns. A prior that allows effects of a million is not "uninformative".
# 3. **Coordinates.** Take the advice's first line. Non-centre the sites it names; with much data
#    per group, leave them centred.
# 4. **Family.** `"full_rank"` up to some hundreds of latents, then `"low_rank"`. It helps with
#    correlations, not with funnels.
# 5. **Several modes?** The reasons name them. Order the components or fix a sign, if one of them is
#    as good as the other; else let `pc.refine(fit)` weigh them.
# 6. **Chains**: `pc.refine(fit)`, or `pc.infer` for all of these steps.
# 7. **Sample**: `pc.sample(fit)`. It takes the guide's draws as a start, whatever the verdict on
#    them. If R-hat is below 1.01 and the ESS is large enough, use this answer, and forget the fit.
# 8. **NUTS fails too?** Then it is not the approximation. The data do not settle a parameter:
#    change the model or the prior, or collect data, and say so.
#
# What is no way out: another seed until the verdict is friendly, or the numbers with a footnote.
# Where seeds disagree, as k-hat did in section 6, report the band.
#
# # Further
#
# ## 11 By simulation
#
# One data set says how $q$ does on these data. Is it a method to rely on? *Simulation-based
# calibration* asks: draw $\mu^*$, $\tau^*$, $h^*$ from the prior and data from the model at them,
# fit, and record the posterior probability $q(\tau \le \tau^*)$. The exact posterior makes these
# probabilities uniform. (Given the data, $\tau$ and $\tau^*$ have the same distribution; so the
# probability of $\tau \le \tau^*$ is like the rank of one among its equals.) No reference is
# needed. The centred model is the negative control: it has to fail.

# %%
calibrations = {
    "centred": pc.calibrate(centred, "mean_field", se, y, num_simulations=12, num_restarts=1),
    "non-centred": pc.calibrate(
        noncentred, "mean_field", se, y, num_simulations=12, num_restarts=1
    ),
}
for name, one in calibrations.items():
    print(f"{name}: {'refuted' if not one.calibrated else 'not refuted'} by 12 simulations")

# %% tags=["checks"]
assert not calibrations["centred"].calibrated
assert calibrations["centred"].table["uniform_p"].idxmin() == "tau"
assert calibrations["centred"].table.loc["tau", "mean"] < 0.3
assert calibrations["non-centred"].calibrated

# %% tags=["helpers"]
count = calibrations["centred"].probabilities.sizes["simulation"]
steps = np.arange(1, count + 1) / count
chance = np.sort(np.random.default_rng(0).random((20_000, count)), axis=1)
widest = np.quantile(np.maximum(steps - chance, chance - steps + 1 / count).max(1), 0.95)


def pit(ax, probability):
    """How far the share of simulations runs from a uniform's, and what chance allows."""
    ordered = np.sort(np.asarray(probability).ravel())
    at = np.concatenate([[0], np.repeat(ordered, 2), [1]])
    share = np.concatenate([[0, 0], np.repeat(steps, 2)])
    ax.fill_between([0, 1], -widest, widest, color="0.88", lw=0)
    ax.axhline(0, color=GREY, lw=1)
    outside = np.abs(share - at).max() > widest
    ax.plot(at, share - at, color=ORANGE if outside else BLUE, lw=2)


# %%
fig, axes = plt.subplots(2, 2, figsize=(8, 5.4), sharex=True, sharey=True)
for line, (name, one) in zip(axes.T, calibrations.items(), strict=True):
    for ax, site in zip(line, ("mu", "tau"), strict=True):
        pit(ax, one.probabilities[site])
        ax.set_title(f"{LABELS[site]}, {name}")
fig.suptitle(
    "Centred, the true $\\tau$ is too often below the guide's (grey: what chance allows, 95%)",
    x=0.01,
    ha="left",
)
fig.supxlabel("posterior probability of a value below the true one")
fig.supylabel("share of simulations so far, minus a uniform's")
plt.show()

# %% [markdown]
# The curve of a calibrated method stays in the grey band. Centred, 12 simulations are enough to
# refute it: on average the true $\tau$ has less than 30% of the guide's mass below it. Non-centred,
# the simulations do not refute it, which is less than to say that it is calibrated: 12 can only see
# large faults. For a method you rely on, spend 200.
#
# ## 12 Using the numbers
#
# **Draws.** `to_datatree` lays them out for ArviZ. With `reweight=True` they are resampled by their
# importance weights. It is what the verdict "reliable after reweighting" asks for, and it brings
# the mean of $\tau$ from 2.7 to within a quarter of a point of the exact 3.3. With a bad k-hat it
# is refused.

# %%
reweighted = pc.to_datatree(by_hand, num_draws=4000, seed=1, reweight=True)
means = {
    "as drawn": float(hand_draws["tau"].mean()),
    "reweighted": float(reweighted["posterior"]["tau"].mean()),
    "exact": exact.loc["tau", "mean"],
}
print("posterior mean of tau:", ", ".join(f"{name} {mean:.1f}" for name, mean in means.items()))
try:
    pc.to_datatree(fit, reweight=True)
except ValueError as error:
    refusal = str(error)
print("centred:", refusal)

# %% tags=["checks"]
assert abs(means["reweighted"] - means["exact"]) < 0.25 < abs(means["as drawn"] - means["exact"])
assert abs(means["as drawn"] - 2.7) < 0.15
assert abs(means["exact"] - 3.3) < 0.05
assert "k-hat" in refusal

# %% [markdown]
# **Predictions.** Call `predict` with what the model is called with, and leave out what is to be
# predicted: here $y$ of a ninth school whose standard error will be 12. Its own effect has no data,
# so it is drawn from $\mathcal N(\mu, \tau^2)$ under the posterior of $\mu$ and $\tau$.

# %%
ninth = pc.predict(by_hand, torch.tensor([12.0]), num_draws=4000)
y_ninth = ninth["predictions"]["y"].to_numpy()
low, high = np.quantile(y_ninth, [0.055, 0.945])
print(f"ninth school: y in {low:.0f} to {high:.0f} points with probability 89%")

# %% tags=["checks"]
between = float((weight * (mu_mean**2 + mu_sd**2 + tau**2)).sum() - (weight @ mu_mean) ** 2)
assert abs(y_ninth.mean() - weight @ mu_mean) < 1
assert abs(y_ninth.std() / math.sqrt(12**2 + between) - 1) < 0.1

# %% [markdown]
# **Keeping a fit.** The file holds tensors and plain values, no code; so a model of your own has to
# be handed over again when loading.

# %%
folder = Path(tempfile.mkdtemp())
pc.save(repaired, folder / "schools.safetensors")
again = pc.load(folder / "schools.safetensors", model=centred)
print(again)

# %% [markdown]
# **Mistakes in the model's input** are found before anything is fitted:

# %%
try:
    pc.fit(centred, "mean_field", se, y[:, None])
except ValueError as error:
    message = str(error)
print(message)

# %% tags=["checks"]
assert "site 'y'" in message
assert again.noncentred == ("effect",)
assert again.elbo == repaired.elbo

# %% [markdown]
# ## Scoreboard and ledger
#
# The gap is $\log p(y) - \mathcal L$. The ledger splits it in the columns of recipe 1, in nats a
# row (here a school: the total divided by eight). There is no encoder, and no parameter is learnt:
# $\mu$ and $\tau$ are latents.

# %%
by_svi = pc.as_fit(centred, guide, se, y)
found = pc.compare({"centred, 1000 steps of SVI": by_svi}).table
found = pd.concat([comparison.table.loc[list(fits)], found])
board, ledger = {}, {}
for name, one in found.iterrows():
    gap = log_evidence - one["elbo"]
    family = log_evidence - found.loc["centred, mean field", "elbo"] if "SVI" in name else gap
    board[name] = [gap, one["khat"], one["verdict"].split()[0]]
    ledger[name] = [family / 8, "–", (gap - family) / 8, "–"]
columns = ["family gap", "amortisation gap", "optimiser gap", "price in θ"]
ledger = pd.DataFrame.from_dict(ledger, orient="index", columns=columns)
board = pd.DataFrame.from_dict(board, orient="index", columns=["gap (nats)", "k-hat", "verdict"])
board.round(1)

# %%
ledger.map(lambda value: value if isinstance(value, str) else f"{value:.2f}")

# %% tags=["checks"]
assert (ledger["optimiser gap"].astype(float).abs() < 0.02).all()
assert abs(ledger.loc["centred, mean field", "family gap"] - 2.3 / 8) < 0.02
assert abs(ledger.loc["non-centred, mean field", "family gap"] - 0.3 / 8) < 0.01

# %% [markdown]
# Everything that the centred fit pays, it pays for the family: 0.29 nats a school; a better
# optimiser had nothing to win. In other coordinates the same family costs 0.04.
#
# **What this recipe leaves open.** The verdict judges $q$ given the model. Whether a *restricted*
# $q$ bends the model that is learnt with it is recipe 4d's question. Two-dimensional pictures of
# where each divergence and each family goes wrong, this funnel among them, are recipe 5's. What
# accuracy costs in seconds, for nine methods on three problems, is recipe 6's.
#
# ## Exercises
#
# Solutions: `solutions/07_your_model`.
#
# 1. **Strong data.** Divide all $s_j$ by 20 and fit both forms. Which one does `noncentred=True`
#    keep, by how many nats, and why?
# 2. **More schools.** Derive $\omega$ for $J$ schools. Then fit the centred model to the eight
#    schools repeated 2 and 5 times, and compare the guide's sd of $\log \tau$ with your formula.
# 3. **A forgotten Jacobian.** Someone non-centres by hand and writes $p(h \mid \mu, \tau)$ with
#    $h = \mu + \tau\eta$ in place of $p(\eta)$: the factor $\tau^8$ is missing. Which prior of
#    $\tau$ have they used in truth? Is it proper? Write it with `pyro.factor` and see what the fit
#    does.
# 4. **Open: heavy tails.** Let $h$ have Student's t with 4 degrees of freedom in place of the
#    normal. Does the advice suffice this time? If not, go down the list of section 10 until a
#    verdict accepts. A hint: t is a normal whose precision is itself drawn, from Gamma(2, 2).
