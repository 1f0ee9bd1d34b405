"""Latent traits, factors, rankings, ordered classes, zeros in excess, and walks under counts."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform
from scipy import special
from sklearn.datasets import load_diabetes, load_iris
from torch import Tensor

from ..entry import Draws, Entry, Moments, arrays, tensors
from ..exact import grid_weights, on_grid


def answers_data() -> tuple[Tensor, ...]:
    """Simulated: 50 people answer about nine of 12 items each."""
    rng = np.random.default_rng(2301)
    person, item = np.nonzero(rng.uniform(size=(50, 12)) < 0.75)
    ability, difficulty = rng.normal(0, 1.2, 50), rng.normal(-0.5, 1, 12)
    p = special.expit(ability[person] - difficulty[item])
    return tensors(person, item, rng.binomial(1, p) * 1.0)


def rasch_missing(person, item, right):
    sd = pyro.sample("sd", dist.HalfNormal(2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("people", 50):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("items", 12):
        difficulty = pyro.sample("difficulty", dist.Normal(mean, 1.0))
    with pyro.plate("answer", len(right)):
        logits = sd * z[person] - difficulty[item]
        pyro.sample("right", dist.Bernoulli(logits=logits), obs=right)


def grades_data() -> tuple[Tensor, ...]:
    """Simulated: 60 people, five questions, four grades."""
    rng = np.random.default_rng(2302)
    latent = rng.normal(size=(60, 1)) * [1.5, 1.0, 0.7, 2.0, 1.2] + rng.logistic(size=(60, 5))
    cuts = np.array([-1.5, 0.0, 1.2]) + rng.normal(0, 0.4, (5, 1))
    return tensors(np.sum(latent[..., None] > cuts, axis=-1))


def graded_response(grade):
    """Samejima (1969), doi:10.1007/BF03372160."""
    with pyro.plate("person", len(grade)):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    for j in range(grade.shape[1]):
        slope = pyro.sample(f"slope_{j}", dist.LogNormal(0.0, 0.5))
        base = dist.Normal(0.0, 2.0).expand([3]).to_event(1)
        cuts = pyro.sample(f"cuts_{j}", dist.TransformedDistribution(base, OrderedTransform()))
        with pyro.plate(f"grades_{j}", len(grade)):
            pyro.sample(f"grade_{j}", dist.OrderedLogistic(slope * theta, cuts), obs=grade[:, j])


def visits_data() -> tuple[Tensor, ...]:
    """Simulated: counts of 15 shops on ten days, shops × days of rank one."""
    rng = np.random.default_rng(2304)
    return tensors(rng.poisson(np.outer(rng.gamma(2, 1, 15), rng.gamma(3, 1, 10))) * 1.0)


def rank_one(counts):
    """One gamma factor for rows and one for columns; only the prior parts their scales."""
    u = pyro.sample("u", dist.Gamma(2.0, 1.0).expand([counts.shape[0]]).to_event(1))
    v = pyro.sample("v", dist.Gamma(3.0, 1.0).expand([counts.shape[1]]).to_event(1))
    pyro.sample("counts", dist.Poisson(torch.outer(u, v)).to_event(2), obs=counts)


def rank_one_exact() -> Moments:
    """Shares within u and v are Dirichlet, independent of the sums U and V, which have a grid.

    V is gamma given U, with rate 1 + U.
    """
    (y,) = arrays(visits_data)
    out, shape_u, shape_v = {}, 2 * 15 + y.sum(), 3 * 10 + y.sum()
    log_U = np.linspace(-2, 8, 4001)
    U = np.exp(log_U)
    w = grid_weights(shape_u * log_U - U - shape_v * np.log1p(U))
    sums = {"u": (w @ U, w @ U**2)}
    V = shape_v / (1 + U)
    sums["v"] = w @ V, w @ (V**2 * (1 + 1 / shape_v))
    for name, shares in {"u": 2 + y.sum(1), "v": 3 + y.sum(0)}.items():
        total = shares.sum()
        mean = shares / total
        square = mean**2 + mean * (1 - mean) / (total + 1)
        first, second = sums[name]
        out[name] = mean * first, np.sqrt(square * second - (mean * first) ** 2)
    return out


def iris_data() -> tuple[Tensor, ...]:
    """Every third iris, standardised."""
    X = load_iris().data[::3]
    return tensors((X - X.mean(0)) / X.std(0))


def _pca_parameters(columns: int) -> tuple[Tensor, Tensor]:
    first = pyro.sample("first", dist.HalfNormal(1.0))
    others = pyro.sample("others", dist.Normal(0.0, 1.0).expand([columns - 1]).to_event(1))
    return torch.cat([first[None], others]), pyro.sample("sigma", dist.HalfNormal(1.0))


def pca(X):
    """One component, of positive weight in the first column: doi:10.1111/1467-9868.00196."""
    w, sigma = _pca_parameters(X.shape[1])
    with pyro.plate("flower", len(X)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("X", dist.Normal(z[:, None] * w, sigma).to_event(1), obs=X)


def pca_summed(X):
    w, sigma = _pca_parameters(X.shape[1])
    C = torch.outer(w, w) + sigma**2 * torch.eye(len(w))
    with pyro.plate("flower", len(X)):
        pyro.sample("X", dist.MultivariateNormal(torch.zeros(len(w)), C), obs=X)


def pca_map(draws: Draws) -> dict[str, np.ndarray]:
    """Draw the scores given the rest."""
    (X,) = arrays(iris_data)
    w = np.concatenate([draws["first"][..., None], draws["others"]], axis=-1)
    variance = draws["sigma"][..., None] ** 2
    precision = 1 + np.sum(w**2, axis=-1, keepdims=True) / variance
    mean = w @ X.T / variance / precision
    noise = np.random.default_rng(0).normal(size=mean.shape)
    return {**draws, "z": mean + noise / np.sqrt(precision)}


def league_data() -> tuple[Tensor, ...]:
    """Simulated: 12 teams, each pair at home and away."""
    rng = np.random.default_rng(2305)
    home, away = np.nonzero(~np.eye(12, dtype=bool))
    skill = rng.normal(0, 0.8, 12)
    p = special.expit(0.3 + skill[home] - skill[away])
    return tensors(home, away, rng.binomial(1, p) * 1.0)


def bradley_terry(home, away, won):
    """Bradley and Terry (1952), doi:10.2307/2334029."""
    advantage = pyro.sample("advantage", dist.Normal(0.0, 1.0))
    sd = pyro.sample("sd", dist.HalfNormal(1.0))
    skill = pyro.sample("skill", dist.Normal(torch.zeros(12), sd).to_event(1))
    with pyro.plate("match", len(won)):
        logits = advantage + skill[home] - skill[away]
        pyro.sample("won", dist.Bernoulli(logits=logits), obs=won)


def diabetes_data() -> tuple[Tensor, ...]:
    """Progression of diabetes in four classes, by BMI, blood pressure and two sera."""
    X, y = load_diabetes(return_X_y=True)
    X = X[:, [2, 3, 8, 9]] * len(X) ** 0.5
    return tensors(X, np.digitize(y, [90, 140, 210]))


def ordered_probit(X, y):
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    base = dist.Normal(torch.tensor([-1.0, 0.0, 0.0]), 1.0).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(base, OrderedTransform()))
    below = dist.Normal(0.0, 1.0).cdf(cuts - (X @ beta)[:, None])
    ends = torch.zeros(len(X), 1), torch.ones(len(X), 1)
    probs = torch.diff(torch.cat([ends[0], below, ends[1]], dim=-1), dim=-1)
    with pyro.plate("patient", len(X)):
        pyro.sample("y", dist.Categorical(probs=probs.clamp(min=1e-12)), obs=y)


def ratings_data() -> tuple[Tensor, ...]:
    """Simulated: 300 ratings of 1 to 5 stars, at 20 hotels, by price."""
    rng = np.random.default_rng(2306)
    hotel, price = np.arange(300) % 20, rng.normal(size=300)
    latent = rng.normal(0, 0.9, 20)[hotel] - 0.5 * price + rng.logistic(size=300)
    return tensors(hotel, price, np.digitize(latent, [-2.5, -1.2, 0.2, 1.6]))


def hotels(hotel, price, stars):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Exponential(1.0))
    base = dist.Normal(torch.tensor([-2.0, 0.0, 0.0, 0.0]), 1.0).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(base, OrderedTransform()))
    with pyro.plate("hotels", 20):
        level = pyro.sample("level", dist.Normal(0.0, tau))
    with pyro.plate("rating", len(stars)):
        pyro.sample("stars", dist.OrderedLogistic(level[hotel] + slope * price, cuts), obs=stars)


def parasites_data() -> tuple[Tensor, ...]:
    """Simulated: parasites in 250 fish; three in ten are immune."""
    rng = np.random.default_rng(2307)
    X = np.c_[rng.normal(size=250), rng.binomial(1, 0.5, 250)]
    rate = np.exp(1.3 + X @ [0.4, -0.5]) * rng.gamma(1.5, 1 / 1.5, 250)
    return tensors(X, rng.poisson(rate) * rng.binomial(1, 0.7, 250) * 1.0)


def inflated_negative_binomial(X, y):
    gate = pyro.sample("gate", dist.Beta(2.0, 4.0))
    size = pyro.sample("size", dist.Gamma(2.0, 1.0))
    alpha = pyro.sample("alpha", dist.Normal(0.0, 2.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    logits = alpha + X @ beta - size.log()
    with pyro.plate("fish", len(y)):
        counts = dist.ZeroInflatedNegativeBinomial(size, logits=logits, gate=gate)
        pyro.sample("y", counts, obs=y)


def doctor_data() -> tuple[Tensor, ...]:
    """Simulated: whether 200 people see a doctor and, if so, how often, by age."""
    rng = np.random.default_rng(2308)
    age = rng.uniform(-1, 1, 200)
    goes, often = special.expit(0.3 + age), np.exp(0.6 + 0.7 * age)
    counts = [next(n for n in rng.poisson(rate, 500) if n) for rate in often]
    return tensors(age, rng.binomial(1, goes) * np.array(counts) * 1.0)


def hurdle(age, visits):
    a = pyro.sample("a", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    went = visits > 0
    with pyro.plate("person", len(age)):
        pyro.sample("went", dist.Bernoulli(logits=a[0] + a[1] * age), obs=went.to(age.dtype))
    rate = torch.exp(b[0] + b[1] * age[went])
    above = dist.Poisson(rate).log_prob(visits[went]) - torch.log(-torch.expm1(-rate))
    pyro.factor("visits", above.sum())


def hurdle_exact() -> Moments:
    """Both parts have a grid of their own."""
    x, y = arrays(doctor_data)
    out, axis = {}, np.linspace(-3.5, 4.5, 321)
    for name, rows in {"a": y >= 0, "b": y > 0}.items():
        c, d = np.meshgrid(axis, axis, indexing="ij")
        log_p = -0.5 * (c**2 + d**2) / 1.5**2
        for x_n, y_n in zip(x[rows], y[rows], strict=True):
            eta = c + d * x_n
            if name == "a":
                log_p += (y_n > 0) * eta - np.logaddexp(0, eta)
            else:
                rate = np.exp(eta)
                log_p += y_n * eta - rate - np.log(-np.expm1(-rate))
        m = on_grid(log_p, c=c, d=d)
        out[name] = tuple(np.array([m["c"][i], m["d"][i]]) for i in (0, 1))
    return out


def calls_data() -> tuple[Tensor, ...]:
    """Simulated: calls on each of 200 days."""
    rng = np.random.default_rng(2309)
    return tensors(rng.poisson(np.exp(1.0 + np.cumsum(rng.normal(scale=0.1, size=200)))) * 1.0)


def poisson_walk(calls):
    start = pyro.sample("start", dist.Normal(1.0, 1.0))
    with pyro.plate("day", len(calls)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        log_rate = start + 0.1 * torch.cumsum(z, dim=-1)
        pyro.sample("calls", dist.Poisson(log_rate.exp()), obs=calls)


def polls_data() -> tuple[Tensor, ...]:
    """Simulated: how many of those asked agree, in each of 40 weeks."""
    rng = np.random.default_rng(2310)
    asked = rng.integers(20, 60, 40)
    share = special.expit(np.cumsum(rng.normal(scale=0.25, size=40)) - 0.5)
    return tensors(asked * 1.0, rng.binomial(asked, share) * 1.0)


def logit_walk(asked, agree):
    start = pyro.sample("start", dist.Normal(0.0, 1.5))
    step = pyro.sample("step", dist.HalfNormal(0.5))
    z = pyro.sample("z", dist.Normal(torch.zeros(len(asked) - 1), 1.0).to_event(1))
    logits = torch.cat([start[None], start + step * torch.cumsum(z, -1)])
    with pyro.plate("week", len(asked)):
        pyro.sample("agree", dist.Binomial(asked, logits=logits), obs=agree)


def trips_data() -> tuple[Tensor, ...]:
    """Simulated: fish caught on 150 trips; on some nobody fished."""
    rng = np.random.default_rng(2311)
    hours, rain = rng.normal(size=150), rng.normal(size=150)
    fished = rng.binomial(1, special.expit(0.8 - 0.9 * rain))
    return tensors(hours, rain, rng.poisson(np.exp(0.7 + 0.4 * hours)) * fished * 1.0)


def inflated_poisson(hours, rain, caught):
    """Covariates of the rate and of the gate."""
    rate = pyro.sample("rate", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    idle = pyro.sample("idle", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    log_rate, logits = rate[0] + rate[1] * hours, idle[0] + idle[1] * rain
    with pyro.plate("trip", len(caught)):
        counts = dist.ZeroInflatedPoisson(log_rate.exp(), gate_logits=logits)
        pyro.sample("caught", counts, obs=caught)


ENTRIES = [
    Entry("rasch_missing", "glm", rasch_missing, answers_data),
    Entry("graded_response", "ordinal", graded_response, grades_data),
    Entry("rank_one_counts", "factorisation", rank_one, visits_data, rank_one_exact),
    Entry(
        "pca_one_component",
        "factorisation",
        pca,
        iris_data,
        reference_model=pca_summed,
        reference_map=pca_map,
    ),
    Entry("bradley_terry", "hierarchical", bradley_terry, league_data),
    Entry("ordered_probit", "ordinal", ordered_probit, diabetes_data),
    Entry("ordered_logit_groups", "ordinal", hotels, ratings_data),
    Entry("zero_inflated_negative_binomial", "glm", inflated_negative_binomial, parasites_data),
    Entry("hurdle_poisson", "glm", hurdle, doctor_data, hurdle_exact),
    Entry("zero_inflated_gate", "glm", inflated_poisson, trips_data),
    Entry("poisson_walk", "time series", poisson_walk, calls_data),
    Entry("logit_walk", "time series", logit_walk, polls_data),
]
