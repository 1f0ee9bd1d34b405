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
# # 4c · Continuous latents: solutions
#
# Solutions to the exercises of `recipes/04c_continuous_latents.ipynb`. All bounds are in nats.

# %%
import math

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from sklearn import datasets

import pyro_cookbook as pc
from guides.logistic_regression import LogisticRegressionFullRank
from models.eight_schools import eight_schools_noncentred
from models.logistic_regression import logistic_regression
from pyro_cookbook.algorithms import explaining_away
from pyro_cookbook.algorithms import logistic_regression as logistic

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
pyro.settings.set(module_local_params=True)  # else a second guide starts where the first ended
plt.style.use("../cookbook.mplstyle")
BLUE, ORANGE = "C0", "C1"

# %% [markdown]
# ## 1 All at once
#
# With equal strengths $a$, one parallel update is $m \leftarrow c - B m$, where $B$ has 0 on the
# diagonal and $b = a^2/(1 + a^2)$ elsewhere. Its eigenvalues are $(K - 1)b$, for equal errors, and
# $-b$. The errors grow if $(K - 1)b > 1$, that is $(K - 2)a^2 > 1$. For $K = 3$: **if $a > 1$**.
# For two causes it never diverges.
#
# Each sequential update is the maximum of the bound in one mean, the others held. So the bound
# cannot fall, and being quadratic with one maximum it leads there for every $a$.

# %%
v = torch.tensor([[4.0]])


def parallel(a, num_causes=3, sweeps=40):
    """Largest error of the means after every parallel sweep."""
    w = torch.full((num_causes,), a)
    exact, _ = explaining_away.posterior(w, v)
    m, errors = torch.zeros(1, num_causes), []
    for _ in range(sweeps):
        unexplained = v - (m @ w)[:, None] + m * w  # what all others leave, for each cause
        m = unexplained * w / (1 + w**2)
        errors.append(float((m - exact).abs().max()))
    return np.array(errors)


fig, ax = plt.subplots()
for a, colour in ((0.9, BLUE), (1.1, ORANGE)):
    w = torch.full((3,), a)
    path = explaining_away.mean_field(w, v, max_sweeps=40).path
    sequential = (path - explaining_away.posterior(w, v)[0]).abs().amax((1, 2)).numpy()
    together = parallel(a)
    ax.plot(np.arange(1, 41), together, color=colour, label=f"parallel, a = {a}")
    ax.plot(sequential, color=colour, ls="--", label=f"one after the other, a = {a}")
    rate = together[-1] / together[-2]
    predicted = 2 * a**2 / (1 + a**2)
    print(
        f"a = {a}: a parallel sweep multiplies the error by {rate:.4f}, predicted {predicted:.4f}"
    )
    assert abs(rate - predicted) < 1e-6
    assert (rate > 1) == (a > 1)
    assert sequential[-1] < 1e-3
ax.set(yscale="log", xlabel="sweeps", ylabel="largest error of a mean", ylim=(1e-8, 1e3))
ax.set_title("Three causes: parallel updates diverge beyond a = 1, sequential ones never")
ax.legend(loc="lower right")
plt.show()

# %% tags=["checks"]
assert parallel(5.0, num_causes=2, sweeps=400)[-1] < 1e-3

# %% [markdown]
# ## 2 Sum out what you can
#
# Given $\mu$ and $\tau$, $y_j$ is the sum of $h_j \sim \mathcal N(\mu, \tau)$ and noise
# $\mathcal N(0, s_j)$: $y_j \sim \mathcal N(\mu, (s_j^2 + \tau^2)^{1/2})$. The $h_j$ are gone from
# the model, and come back from $p(h_j \mid \mu, \tau, y_j)$, which is a normal.


# %%
def collapsed(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0)))
    with pyro.plate("row", len(sigma), dim=-1):
        return pyro.sample("y", dist.Normal(mu, (sigma**2 + tau**2).sqrt()), obs=y)


run = az.load_arviz_data("centered_eight")
effect = torch.tensor(run["observed_data"]["obs"].to_numpy())
sigma = torch.tensor(run["constant_data"]["sigma"].to_numpy())

fits = {
    f"collapsed, {family}": pc.fit(collapsed, family, sigma, effect)
    for family in ("laplace", "mean_field")
}
fits["non-centred, full_rank"] = pc.fit(eight_schools_noncentred, "full_rank", sigma, effect)
pymc = az.load_arviz_data("non_centered_eight")
comparison = pc.compare({**fits, "PyMC's NUTS": pymc})
table = comparison.table.loc[list(fits)]
at = table.loc
for family in ("laplace", "mean_field"):
    assert 0.4 < at[f"collapsed, {family}", "khat"] < 1.0
    assert at[f"collapsed, {family}", "mean_error"] < 0.6
    assert at[f"collapsed, {family}", "elbo"] > at["non-centred, full_rank", "elbo"] + 0.02
table[["elbo", "mean_error", "sd_error"]].round(1)

# %% [markdown]
# Nothing is left of the funnel: even Laplace's bound is higher than that of full rank on all ten
# latents. What is integrated exactly cannot be approximated badly. The tail of $\tau$ is still
# heavier than a normal's in $\log \tau$: k-hat is near 0.7, and with other draws on the other side
# of it. Two latents are quickly sampled. To have $h$, draw it given those draws of $\mu$ and
# $\tau$:

# %%
tree = pc.sample(fits["collapsed, mean_field"], num_draws=1000, num_warmup=300)
drawn = tree["posterior"].to_dataset().stack(all=("chain", "draw"))
mu, tau = (torch.tensor(drawn[name].to_numpy())[:, None] for name in ("mu", "tau"))
k = tau**2 / (sigma**2 + tau**2)
pyro.set_rng_seed(0)
theta = torch.normal(k * effect + (1 - k) * mu, k.sqrt() * sigma)
reference = pymc["posterior"]["theta"]
pair = pd.DataFrame(
    {
        "mean, collapsed": theta.mean(0),
        "mean, PyMC": reference.mean(("chain", "draw")),
        "sd, collapsed": theta.std(0),
        "sd, PyMC": reference.std(("chain", "draw")),
    },
    index=reference["school"].to_numpy(),
)
apart = (pair["mean, collapsed"] - pair["mean, PyMC"]).abs() / pair["sd, PyMC"]
pair.round(1)

# %% tags=["checks"]
assert apart.max() < 0.15
assert (pair["sd, collapsed"] / pair["sd, PyMC"] - 1).abs().max() < 0.12

# %% [markdown]
# Means within 0.15 sd, sds within 12% of PyMC's.
#
# ## 3 A bound without draws

# %%
bunch = datasets.load_breast_cancer()
raw, malignant = bunch.data[:, :10], torch.tensor(1.0 - bunch.target)


def split(seed, num_known=100):
    """Standardised columns, and which rows are known."""
    order = np.random.default_rng(seed).permutation(len(raw))
    known = order[:num_known]
    x = torch.tensor((raw - raw[known].mean(0)) / raw[known].std(0))
    return x, known, order[num_known:]


def prior(scale):
    return {"intercept_scale": 5.0, "coefficient_scale": scale}


x, known, later = split(0)
data = (x[known], malignant[known])
full = pc.fit(logistic_regression, "full_rank", *data, **prior(5.0))
tangent = logistic.jaakkola_jordan(*data, **prior(5.0))
guide = LogisticRegressionFullRank(10)
guide.set_gaussian(tangent.loc, tangent.covariance)
by_tangent = pc.as_fit(logistic_regression, guide, *data, data_kwargs=prior(5.0))

sd_full = pc.diagnose(full).table["sd"].to_numpy()
ratio = tangent.covariance.diagonal().sqrt().numpy() / sd_full
print(f"tangent bound {tangent.bound[-1]:.2f}; ELBO of its Gaussian {by_tangent.elbo}")
print(f"ELBO of full rank {full.elbo}")
print(f"its sds are {ratio.min():.2f} to {ratio.max():.2f} of full rank's")

# %% tags=["checks"]
assert tangent.converged
assert np.diff(tangent.bound).min() > -1e-9
assert tangent.bound[-1] < by_tangent.elbo.value < full.elbo.value
assert ratio.max() < 1
assert ratio.min() < 0.5

# %% [markdown]
# The bound is below the ELBO of its own Gaussian, since it bounds each row's likelihood once more;
# and that ELBO is below full rank's. All its sds are smaller than full rank's, one by more than
# half: a quadratic that stays below the log likelihood has to bend more than it. What it buys: no
# draws, no learning rate, and a bound that never falls.
#
# ## 4 Was it luck?
#
# Twenty choices of the 100 tumours, two priors. The posterior mean is over the draws of full rank.

# %%
rows = []
for scale in (5.0, 1.0):
    for seed in range(20):
        x, known, later = split(seed)
        data = (x[known], malignant[known])
        mode = logistic.newton(*data, **prior(scale)).mode
        fit = pc.fit(logistic_regression, "full_rank", *data, **prior(scale), num_restarts=1)
        drawn = pc.to_datatree(fit, num_draws=2000)["posterior"].isel(chain=0)
        beta = torch.tensor(np.column_stack([drawn["intercept"], drawn["coefficient"]]))
        design, sign = logistic.design(x[later]), 2 * malignant[later] - 1
        plug = torch.nn.functional.logsigmoid(sign * (design @ mode))
        each = torch.nn.functional.logsigmoid(sign * (beta @ design.mT))
        bayes = torch.logsumexp(each, 0) - math.log(len(beta))
        brier = [float((1 - log_p.exp()).square().mean()) for log_p in (plug, bayes)]
        rows.append((scale, -float(plug.mean()), -float(bayes.mean()), *brier))
names = [
    "prior sd",
    "log, plug-in",
    "log, posterior mean",
    "Brier, plug-in",
    "Brier, posterior mean",
]
table = pd.DataFrame(rows, columns=names)
better = {}
for kind in ("log", "Brier"):
    is_better = table[f"{kind}, posterior mean"] < table[f"{kind}, plug-in"]
    better[kind] = is_better.groupby(table["prior sd"]).sum()
    print(f"{kind} score: posterior mean better in {better[kind][5.0]} of 20 choices with prior")
    print(f"    sd 5, in {better[kind][1.0]} of 20 with prior sd 1")
means = table.groupby("prior sd").mean()
means.round(4)

# %% tags=["checks"]
assert better["log"][5.0] >= 15
assert better["Brier"][5.0] >= 13
assert 4 <= better["log"][1.0] <= 15
assert abs(means.loc[1.0, "log, plug-in"] - means.loc[1.0, "log, posterior mean"]) < 0.01
assert means.loc[1.0, "log, plug-in"] < means.loc[5.0, "log, posterior mean"] - 0.01

# %% [markdown]
# It was not luck: with the wide prior the posterior mean has the better log score in at least 15 of
# 20 choices. And it was not the whole story: with a prior of sd 1 the two are within 0.01 nats of
# each other, and *both* are better than either with the wide prior, by more than 0.01 nats a row.
# Averaging repairs the harm of not knowing $\beta$; a prior that excludes absurd $\beta$ leaves
# less to repair. The tumours of the twenty choices overlap, so the counts are not those of 20
# independent trials.
