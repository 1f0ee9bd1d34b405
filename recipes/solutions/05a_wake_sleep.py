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
# # 5a · Wake-sleep: solutions
#
# Solutions to the exercises of `recipes/05a_wake_sleep.ipynb`. All numbers are in nats a row unless
# it says otherwise.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from pyro_cookbook.algorithms.wake_sleep import enumeration as exact
from pyro_cookbook.algorithms.wake_sleep import learning as wake_sleep
from pyro_cookbook.algorithms.wake_sleep import rules
from pyro_cookbook.data.bars import make_bars

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
plt.style.use("../cookbook.mplstyle")
BLUE, ORANGE, GREY = "C0", "C1", "0.47"

K, D = 8, 16
bars = make_bars(400, 4, scale=0.25, seed=1)
v = (bars.v > 0.5).double()
truth = exact.BeliefParameters(
    W=7.5 * bars.atoms, b=torch.full((K,), -1.1), c=torch.full((D,), -3.75)
)

# %% [markdown]
# ## 1 Two rules
#
# $\hat w_1 = w_1/(w_1 + w_2) = 1/(1 + w_2/w_1) = \sigma(\log w_1 - \log w_2)$. If q is the exact
# posterior every draw has the same weight, $\log w_k = \log p(v)$, so $\hat w_k = 1/K$: θ is moved
# as in wake-sleep, which is then exact EM, and φ along $\tfrac1K \sum_k \nabla \log q(h_k)$, whose
# mean is
# 0. VIMCO's $c_k$ are
# then $-1/K$, and the pull on φ has the same mean, 0.

# %%
log_w = torch.tensor([0.7, -0.4])
a, c = rules.coefficients("reweighted", log_w)
assert torch.allclose(a[0], torch.sigmoid(log_w[0] - log_w[1]))
assert torch.equal(a, c)
level = torch.full((5,), -6.0)
assert torch.allclose(rules.coefficients("reweighted", level)[0], torch.tensor(0.2))
assert torch.allclose(rules.coefficients("importance_weighted", level)[1], torch.tensor(-0.2))

# %% [markdown]
# ## 2 Early dreams
#
# Dreams of an untrained model, and of the true one: what does a network that learns from each know
# of the *true* posterior?

# %%
generator = torch.Generator().manual_seed(0)
first, _ = wake_sleep.start(v, K, 1, generator)
untrained = exact.BeliefParameters(*(x[0] for x in first))
rows = {}
for name, theta in (("untrained", untrained), ("true", truth)):
    phi = wake_sleep.learn(v, K, num_steps=500, theta=theta, lr=0.03).phi
    phi = wake_sleep.Recognition(*(x[0] for x in phi))
    dreams, _ = wake_sleep.dream(theta, 400, generator)
    rows[f"dreams of the {name} model"] = {
        "its own posterior, on its dreams": exact.distances(theta, dreams, phi.logits(dreams)),
        "the true posterior, on data": exact.distances(truth, v, phi.logits(v)),
    }
early = pd.DataFrame(
    {name: {k: float(d.forward.mean()) for k, d in row.items()} for name, row in rows.items()}
).T
early.index.name = "KL(p ‖ q) of a guide taught by"
early.round(1)

# %% tags=["checks"]
assert early.iloc[0, 0] < 0.1
assert early.iloc[0, 1] > 3
assert early.iloc[1, 1] < 0.6

# %% [markdown] Taught by the untrained model, the network is right about that model's dreams
# (below 0.1 nats) and knows nothing of the data (above 3 nats). Sleep can only teach what the
# model already believes.
#
# ## 3 Three explanations
#
# With M rare causes the posterior says "one of M". The marginals are 1/M each.

# %%
found = {}
for m in (2, 3, 4, 5):
    theta = exact.BeliefParameters(
        torch.full((1, m), 12.0), torch.full((m,), -4.0), torch.full((1,), -6.0)
    )
    lit = torch.ones(1, 1)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1])] * m)
    marginals = torch.logit(exact.posterior(theta, lit) @ states)
    one = torch.full((1, m), -3.0)
    one[0, 0] = 1.0
    settled, _ = exact.mean_field(theta, lit, start=one)
    asleep, awake = (exact.distances(theta, lit, q) for q in (marginals, settled))
    found[m] = {
        "neither, under sleep's q": float(exact.log_factorised(marginals)[0, 0].exp()),
        "sleep: KL(q ‖ p)": float(asleep.reverse),
        "bound: KL(q ‖ p)": float(awake.reverse),
        "sleep: KL(p ‖ q)": float(asleep.forward),
        "bound: KL(p ‖ q)": float(awake.forward),
    }
many = pd.DataFrame(found).T
many.index.name = "causes"
many.round(2)

# %% tags=["checks"]
assert (many["bound: KL(q ‖ p)"] < many["sleep: KL(q ‖ p)"]).all()
assert (many["sleep: KL(p ‖ q)"] < many["bound: KL(p ‖ q)"]).all()
lopsided = many["bound: KL(p ‖ q)"] - many["sleep: KL(p ‖ q)"]
assert (lopsided[[2, 3]] > 1).all()
assert (lopsided[[4, 5]] < 0.05).all()
assert many["bound: KL(q ‖ p)"].is_monotonic_increasing
assert many["neither, under sleep's q"].is_monotonic_increasing

# %% [markdown]
# The marginals put about $(1 - 1/M)^M$ on "no cause": from ¼ towards 1/e. With two or three causes
# the bound settles on one, which costs about $\log M$, the probability of the others. With four or
# more it does not: $\log 4 = 1.39$ is more than covering costs, and from the same lopsided start
# coordinate ascent ends at a q like the marginals.
#
# ## 4 One weight for all rows
#
# The log weight of a draw for *all* rows is a sum over rows, so its spread grows like the root of
# their number, and the heaviest draw takes everything.

# %%
guide = wake_sleep.learn(v, K, "reweighted", num_particles=5, num_steps=500, theta=truth, lr=0.03)
replicates = 200
held = exact.BeliefParameters(*(x.expand(replicates, *x.shape) for x in truth))
phi = wake_sleep.Recognition(*(x.expand(replicates, *x.shape[1:]) for x in guide.phi))
shares = {}
for n in (1, 10, 100):
    batch = v[:100].expand(replicates, 100, D)
    _, log_w = wake_sleep.pull(held, phi, batch, "score", 5, torch.Generator().manual_seed(0))
    together = log_w.unflatten(2, (100 // n, n)).sum(-1)
    shares[n] = float(torch.softmax(together, 0).amax(0).mean())
fig, ax = plt.subplots(figsize=(7, 3.2))
ax.plot(list(shares), list(shares.values()), "o-", color=BLUE)
ax.axhline(0.2, color=GREY, ls="--", label="five equal draws")
ax.set(xscale="log", ylim=(0, 1.05), xlabel="rows that share one weight")
ax.set(ylabel="share of the heaviest draw")
ax.set_xticks(list(shares), [str(n) for n in shares])
ax.legend(loc="lower right")
ax.set_title("One weight for many rows leaves one draw of five")
plt.show()

# %% tags=["checks"]
assert shares[1] < shares[10] < shares[100]
assert shares[100] > 0.85
assert np.isfinite(list(shares.values())).all()

# %% [markdown] With a hundred rows one draw of the five has more than 0.85 of the weight on
# average: four of five are drawn for nothing, and a row that a losing draw explains well is not
# heard.
#
# ## 5 A second layer
#
# Open. The sleep phase of the top unit is again a regression, on the dreamt h: no derivative goes
# through two layers, and that is what made wake-sleep attractive in 1995.
