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
# # 7 · Your model: solutions
#
# The exercises are at the end of `../07_your_model`. First its data and its two forms of the model.

# %%
import math

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import pyro_cookbook as pc

torch.set_num_threads(1)  # the tensors are small: a second thread would only wait
torch.set_default_dtype(torch.float64)
y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
se = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def centred(se, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Exponential(1 / 5))
    with pyro.plate("school", len(se), dim=-1):
        effect = pyro.sample("effect", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(effect, se), obs=y)


# %% [markdown]
# ## 1 Strong data
#
# With $s_j$ twenty times smaller $y$ fixes each $h_j$ to within a point. Centred, the $h_j$ are
# then nearly independent of $\tau$: they are what $y$ says. Non-centred, $\eta = (h - \mu)/\tau$,
# and every change of $\tau$ must be answered by all eight $\eta_j$ at once. So the centred form is
# kept, and the advice is not given.

# %%
precise = se / 20
kept = pc.fit(centred, "mean_field", precise, y, noncentred=True)
forced = pc.fit(centred, "mean_field", precise, y, noncentred=["effect"])
verdict = pc.diagnose(kept)
lead = kept.elbo.value - forced.elbo.value
print(f"kept: {'non-centred' if kept.noncentred else 'centred'}, by {lead:.0f} nats")
print(verdict)

# %% tags=["checks"]
assert kept.noncentred == ()
assert lead > 3
assert verdict.verdict != "unreliable"

# %% [markdown]
# A list of sites forces them to be non-centred. Note that the verdict on the centred form follows
# the data: unreliable with weak data, accepted with strong.
#
# ## 2 More schools
#
# With $J$ schools the heights contribute $-J\ell$ instead of $-8\ell$. Setting the derivatives to
# zero gives $A = J - 1 + C$ and
#
# $$\omega = \frac{1}{\sqrt{2A + C}} = \frac{1}{\sqrt{2(J-1) + 3C}}.$$

# %%
rows = {}
for copies in (1, 2, 5):
    fit = pc.fit(centred, "mean_field", se.repeat(copies), y.repeat(copies))
    tau = pc.to_datatree(fit, num_draws=4000)["posterior"]["tau"][0].to_numpy()
    num_schools = 8 * copies
    formula = 1 / math.sqrt(2 * (num_schools - 1) + 3 * tau.mean() / 5)
    rows[num_schools] = (tau.mean(), np.log(tau).std(), formula)
columns = ["mean of τ", "sd of log τ", "formula"]
table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
table.index.name = "schools"
table.round(2)

# %% tags=["checks"]
assert (table["sd of log τ"] - table["formula"]).abs().max() < 0.02

# %% [markdown]
# The formula holds within 0.02. The guide's certainty grows like $\sqrt J$ whatever the $s_j$ are:
# it takes every $h_j$ for known.
#
# ## 3 A forgotten Jacobian
#
# Without the factor $\tau^8$ the joint density is
# $p(\mu)\, p(\tau)\, \tau^{-8}\, p(\eta)\, p(y \mid \mu, \tau, \eta)$: the prior of $\tau$ is in
# truth proportional to $e^{-\tau/5}\, \tau^{-8}$. Near 0 its integral is infinite, so it is not
# proper, and neither is the posterior: as $\tau \to 0$ the likelihood goes to a positive constant.
# On the scale of $\log \tau$ the density is proportional to $e^{-7\log\tau}$: all mass is at
# $\tau = 0$.


# %%
def forgotten(se, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Exponential(1 / 5))
    with pyro.plate("school", len(se), dim=-1):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.factor("missing", -tau.log())  # N(θ | μ, τ) in place of N(η | 0, 1) = τ N(θ | μ, τ)
        return pyro.sample("y", dist.Normal(mu + tau * eta, se), obs=y)


with np.errstate(invalid="ignore"):  # the bound is infinite
    fit = pc.fit(forgotten, "mean_field", se, y)
print("converged:", fit.converged)

# %% tags=["checks"]
assert not fit.converged

# %% [markdown]
# The fit is not called converged. `pc.fit` cannot know that a factor is missing; it sees that there
# is no maximum to converge to.
#
# ## 4 Heavy tails
#
# First the advice. Student's t is a location-scale family, too, so non-centring works by the same
# three steps, with $\eta \sim t(4)$.


# %%
def heavy(se, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Exponential(1 / 5))
    with pyro.plate("school", len(se), dim=-1):
        effect = pyro.sample("effect", dist.StudentT(4.0, mu, tau))
        return pyro.sample("y", dist.Normal(effect, se), obs=y)


tried = {
    "centred": pc.fit(heavy, "mean_field", se, y),
    "non-centred": pc.fit(heavy, "mean_field", se, y, noncentred=True),
    "non-centred, full rank": pc.fit(heavy, "full_rank", se, y, noncentred=True),
}
khat = {name: pc.diagnose(fit).khats["joint"] for name, fit in tried.items()}
for name, fit in tried.items():
    print(f"{name}: bound {fit.elbo.value:.1f} nats, k-hat {khat[name]:.1f}")

# %% tags=["checks"]
assert tried["non-centred"].elbo.value > tried["centred"].elbo.value + 1
assert 0.5 < khat["non-centred"] < 0.9
assert 0.5 < khat["non-centred, full rank"] < 0.9

# %% [markdown]
# The bound rises by more than one nat, but k-hat is 0.5 to 0.9, at the limit: on which side of 0.7
# it falls is a matter of the draws, and with it the verdict. A normal guide has lighter tails than
# the t that is now the prior of $\eta$, and a covariance does not change that. So change the
# coordinates once more. If $w \sim \operatorname{Gamma}(2, 2)$ and $z \sim \mathcal N(0, 1)$, then
# $z/\sqrt w$ has the t distribution with 4 degrees of freedom. In $z$ and $\log w$ all tails are
# light.


# %%
def mixture(se, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Exponential(1 / 5))
    with pyro.plate("school", len(se), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Gamma(2.0, 2.0))
        effect = pyro.deterministic("effect", mu + tau * z / w.sqrt(), event_dim=0)
        return pyro.sample("y", dist.Normal(effect, se), obs=y)


light = pc.fit(mixture, "full_rank", se, y)
khat_light = pc.diagnose(light).khats["joint"]
print(f"mixture, full rank: bound {light.elbo.value:.1f} nats, k-hat {khat_light:.1f}")

# %% tags=["checks"]
assert 0.5 < khat_light < 0.9

# %% [markdown]
# That does not settle it: k-hat is at the limit still. What follows on the list is to sample,
# started and scaled by this fit.

# %%
nuts = pc.sample(light, num_draws=300, num_warmup=100)
names = ["mu", "tau", "effect"]
rhat, ess = az.rhat(nuts, var_names=names), az.ess(nuts, var_names=names)

normal = pc.fit(centred, "full_rank", se, y, noncentred=True)
trees = {
    "normal": pc.to_datatree(pc.refine(normal))["posterior"],
    "Student's t": nuts["posterior"],
}
rows = {}
for name, posterior in trees.items():
    mu, effect = posterior["mu"], posterior["effect"].isel(school=0)
    rows[name] = (float(mu.mean()), float(effect.mean()), float(effect.std()))
table = pd.DataFrame.from_dict(rows, orient="index", columns=["mean of μ", "mean of h_A", "its sd"])
moved = (table.loc["Student's t"] - table.loc["normal"]).abs()
error = float(az.mcse(nuts, var_names=["effect"])["effect"][0])
print(f"Monte-Carlo error of the mean of h_A by NUTS: {error:.1f} points")
table.map(lambda value: f"{value:.1f} ± {error:.1f}")

# %% tags=["checks"]
assert max(float(rhat[name].max()) for name in names) < 1.03
assert min(float(ess[name].min()) for name in names) > 300
assert moved.max() < 1

# %% [markdown]
# R-hat is below 1.03 and every ESS above 300: this answer can be used. It is the answer of the
# normal model: the mean of school A's effect, its sd and the mean of $\mu$ move by less than one
# point. Eight schools with such standard errors cannot tell a normal from a t.
