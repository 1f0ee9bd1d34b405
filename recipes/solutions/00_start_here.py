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
# # Start here: solutions
#
# Solutions to the exercises of `recipes/00_start_here.ipynb`. All bounds are in nats.

# %%
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from scipy import special, stats

import pyro_cookbook as pc

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
dose = torch.tensor([-0.86, -0.30, -0.05, 0.73])
deaths = torch.tensor([0.0, 1.0, 3.0, 5.0])


def model(x, v=None, scale=10.0, animals=5):
    alpha = pyro.sample("alpha", dist.Normal(torch.tensor(0.0), 2.0))
    beta = pyro.sample("beta", dist.Normal(torch.tensor(10.0), scale))
    with pyro.plate("group", len(x)):
        return pyro.sample("v", dist.Binomial(animals, logits=alpha + beta * x), obs=v)


def exact(v, scale=10.0, animals=5):
    """Log evidence, and sd and skewness of beta, on a grid."""
    alphas, betas = np.linspace(-6, 10, 401), np.linspace(-20, 60, 801)
    A, B = np.meshgrid(alphas, betas, indexing="ij")
    log_joint = stats.norm.logpdf(A, 0, 2) + stats.norm.logpdf(B, 10, scale)
    for x, deaths in zip(dose.numpy(), v.numpy(), strict=True):
        log_joint += stats.binom.logpmf(deaths, animals, special.expit(A + B * x))
    log_evidence = special.logsumexp(log_joint) + np.log(np.diff(alphas)[0] * np.diff(betas)[0])
    of_beta = np.exp(log_joint - special.logsumexp(log_joint)).sum(0)
    mean = (of_beta * betas).sum()
    sd = np.sqrt((of_beta * (betas - mean) ** 2).sum())
    return log_evidence, sd, (of_beta * (betas - mean) ** 3).sum() / sd**3


def compare(v, families=("full_rank",), **options):
    """Gap and sd of beta of each family against the exact answer, and the verdict."""
    log_evidence, sd, skewness = exact(v, **options)
    rows = {}
    for family in families:
        fit = pc.fit(model, family, dose, v, **options)
        drawn = pc.to_datatree(fit, num_draws=20_000)["posterior"]["beta"]
        error = float(drawn.std()) / sd - 1
        rows[family] = [log_evidence - fit.elbo.value, error, skewness, pc.diagnose(fit).verdict]
    columns = ["gap (nats)", "sd of β, off by", "skewness of β", "verdict"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


# %% [markdown]
# ## 1 A tighter prior
#
# The data bound $\beta$ from below better than from above: a steep curve and a very steep curve
# give the same deaths. The skew is the data's. A tight normal prior outweighs it, and the
# posterior is nearly normal: the gap closes, and the standard deviation is right.

# %%
priors = pd.concat({f"prior sd {scale}": compare(deaths, scale=scale) for scale in (10.0, 2.5)})
priors.style.format(
    {"gap (nats)": "{:.2f}", "sd of β, off by": "{:+.0%}", "skewness of β": "{:.1f}"}
)

# %% tags=["checks"]
wide, tight = priors.iloc[0], priors.iloc[1]
assert wide["skewness of β"] > 0.6
assert 0 < tight["skewness of β"] < 0.3
assert tight["gap (nats)"] < 0.2 * wide["gap (nats)"]
assert abs(tight["sd of β, off by"]) < 0.05 < abs(wide["sd of β, off by"])

# %% [markdown]
# ## 2 Ten times as many animals
#
# The posterior is narrow now, and over a narrow range every smooth log density is a parabola: it
# comes close to a normal (Bernstein and von Mises). Full rank gains. Mean field does not: the
# correlation does not go away with more data. MAP's place improves in every unit but stays a
# point.

# %%
families = ("mean_field", "full_rank")
more = pd.concat({
    "5 animals": compare(deaths, families),
    "50 animals": compare(10 * deaths, families, animals=50),
})  # fmt: skip
more.style.format({"gap (nats)": "{:.2f}", "sd of β, off by": "{:+.0%}", "skewness of β": "{:.1f}"})

# %% tags=["checks"]
few, many = more.loc["5 animals"], more.loc["50 animals"]
assert many.loc["full_rank", "gap (nats)"] < 0.5 * few.loc["full_rank", "gap (nats)"]
assert many.loc["mean_field", "gap (nats)"] > 0.8 * few.loc["mean_field", "gap (nats)"]

# %% [markdown]
# ## 3 A guide with the dependence put in
#
# $q(\beta)\,q(\alpha \mid \beta)$ with a linear mean and a constant scale is every normal in two
# dimensions: five numbers, as many as full rank has. Its best bound is full rank's.


# %%
def structured(x, v=None):
    loc = pyro.param("loc", torch.tensor([0.0, 10.0]))
    scale = pyro.param("scale", torch.tensor([1.0, 1.0]), constraint=dist.constraints.positive)
    slope = pyro.param("slope", torch.tensor(0.0))
    beta = pyro.sample("beta", dist.Normal(loc[1], scale[1]))
    pyro.sample("alpha", dist.Normal(loc[0] + slope * (beta - loc[1]), scale[0]))


pyro.set_rng_seed(0)
pyro.clear_param_store()
elbo = Trace_ELBO(num_particles=20, max_plate_nesting=1, vectorize_particles=True)
svi = SVI(model, structured, Adam({"lr": 0.02}), elbo)
bound = [-svi.step(dose, deaths) for step in range(2000)]
reached = np.mean(bound[-500:])
full_rank = pc.fit(model, "full_rank", dose, deaths)
print(f"bound: {reached:.1f} by hand, {full_rank.elbo.value:.1f} full rank, in nats")

# %% tags=["checks"]
error = np.std(bound[-500:]) / 500**0.5
assert abs(reached - full_rank.elbo.value) < 5 * error + 0.02
mean_field = pc.fit(model, "mean_field", dose, deaths)
assert reached > mean_field.elbo.value + 0.1  # which the mean-field loop does not reach
pyro.clear_param_store()
