"""Censored lifetimes; then laboratories, fields, and people whose tastes correlate."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from ..entry import Entry, Moments, arrays, tensors
from ..exact import grid_weights, log_space, mix, split
from .counts import rotated_grid, sites
from .groups import mixed


def leukaemia_data() -> tuple[Tensor, ...]:
    """Weeks in remission, 1 for relapse, and 1 for 6-MP: Freireich et al. (1963), table of 42.

    doi:10.1182/blood.V21.6.699.699.
    """
    drug = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    relapse, treated = np.repeat([1.0, 0.0, 1.0], [9, 12, 21]), np.repeat([1.0, 0.0], 21)
    return tensors(np.array(drug + placebo, float), relapse, treated)


def leukaemia(weeks, relapse, treated):
    a = pyro.sample("a", dist.Normal(2.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    scale = torch.exp(a + b * treated)
    seen = relapse == 1
    pyro.sample("seen", dist.Weibull(scale[seen], shape).to_event(1), obs=weeks[seen])
    pyro.factor("censored", -((weeks[~seen] / scale[~seen]) ** shape).sum())


def leukaemia_exact() -> Moments:
    t, died, x = (column[:, None] for column in arrays(leukaemia_data))

    def log_density(p):
        k = np.exp(p[2])
        z = k * (np.log(t) - p[0] - p[1] * x)
        prior = 2 * p[2] - k - (p[0] - 2) ** 2 / 8 - p[1] ** 2 / 2
        return prior + np.sum(died * (p[2] + z) - np.exp(z), axis=0)

    weights, points = rotated_grid(log_density, [2, 0, 0], 41, 12.0)
    return sites(weights, a=points[0], b=points[1], shape=np.exp(points[2]))


def relapse_data() -> tuple[Tensor, ...]:
    """Simulated: events and months at risk of 150 patients in six periods, and two covariates."""
    rng = np.random.default_rng(1301)
    X, cuts = np.c_[rng.binomial(1, 0.5, 150) - 0.5, rng.normal(size=150)], [0, 2, 5, 9, 14, 20, 36]
    hazard = np.array([0.02, 0.05, 0.08, 0.06, 0.04, 0.03]) * np.exp(X @ [-0.6, 0.4])[:, None]
    spent = np.cumsum(hazard * np.diff(cuts), axis=1)
    need = rng.exponential(size=150)[:, None]
    before = np.c_[np.zeros(150), spent[:, :-1]]
    at_risk = np.clip((need - before) / hazard, 0, np.diff(cuts))
    return tensors(X, at_risk, ((before < need) & (need <= spent)) * 1.0)


def piecewise(X, at_risk, event):
    """Hazards constant within a period."""
    hazard = pyro.sample("hazard", dist.Gamma(1.5, 20.0).expand([6]).to_event(1))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    rate = hazard * torch.exp(X @ beta)[:, None]
    pyro.factor("events", (event * rate.log() - at_risk * rate).sum())


def piecewise_exact() -> Moments:
    """The hazards are gamma given beta."""
    X, at_risk, event = arrays(relapse_data)
    a, sums = 1.5 + event.sum(0), X.T @ event.sum(1)

    def rate(beta):
        return 20 + at_risk.T @ np.exp(X @ beta)

    def log_density(beta):
        return sums @ beta - 0.5 * np.sum(beta**2, 0) - a @ np.log(rate(beta))

    weights, points = rotated_grid(log_density, [0, 0], 33)
    b = rate(points.reshape(2, -1)).T.reshape(*weights.shape, 6)
    hazard = mix(weights, a / b, np.sqrt(a) / b)
    return {"hazard": hazard, **sites(weights, beta=points)}


def stay_data() -> tuple[Tensor, ...]:
    """Simulated: days until 140 tenants leave, of whom those after day 400 are still there."""
    rng = np.random.default_rng(1302)
    X = np.c_[rng.normal(size=140), rng.binomial(1, 0.3, 140)]
    days = np.exp(5.4 + X @ [0.3, -0.5] + rng.normal(scale=0.8, size=140))
    return tensors(X, np.minimum(days, 400.0), days < 400)


def tenants(X, days, left):
    a = pyro.sample("a", dist.Normal(5.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    loc = a + X @ b
    left = left == 1
    with pyro.plate("left", int(left.sum())):
        pyro.sample("days", dist.LogNormal(loc[left], sigma), obs=days[left])
    pyro.factor("stay", torch.special.log_ndtr((loc - days.log())[~left] / sigma).sum())


def tenants_exact() -> Moments:
    X, days, left = arrays(stay_data)
    X, left, log_t = np.c_[np.ones(140), X], left[:, None] == 1, np.log(days)[:, None]

    def log_density(p):
        z = (log_t - X @ p[:3]) / np.exp(p[3])
        each = np.where(left, -0.5 * z**2 - p[3], special.log_ndtr(-z))
        prior = (p[0] - 5) ** 2 / 8 + 0.5 * np.sum(p[1:3] ** 2, 0) + 0.5 * np.exp(2 * p[3]) - p[3]
        return each.sum(0) - prior

    weights, points = rotated_grid(log_density, [5, 0, 0, 0], 19)
    return sites(weights, a=points[0], b=points[1:3], sigma=np.exp(points[3]))


def clinics_data() -> tuple[Tensor, ...]:
    """Simulated: months until infection, censored at 12, of 8 patients in each of 25 clinics."""
    rng = np.random.default_rng(1303)
    clinic, treated = np.arange(200) % 25, np.arange(200) // 25 % 2 * 1.0
    rate = 0.12 * rng.gamma(2.0, 0.5, 25)[clinic] * np.exp(-0.6 * treated)
    months = rng.exponential(1 / rate)
    return tensors(clinic, treated, np.minimum(months, 12.0), (months < 12) * 1.0)


def frailty(clinic, treated, months, infected):
    rate = pyro.sample("rate", dist.Gamma(1.0, 5.0))
    effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    theta = pyro.sample("theta", dist.Gamma(2.0, 0.5))
    with pyro.plate("clinics", 25):
        w = pyro.sample("w", dist.Gamma(theta, theta))
    hazard = rate * w[clinic] * torch.exp(effect * treated)
    with pyro.plate("patients", len(months)):
        pyro.factor("time", infected * hazard.log() - hazard * months)


def frailty_exact() -> Moments:
    """The frailties are gamma given the rest."""
    clinic, x, t, died = arrays(clinics_data)
    d = np.bincount(clinic, died)[:, None]
    time = [np.bincount(clinic, t * (x == arm))[:, None] for arm in (0, 1)]
    sums = died.sum(), died @ x

    def gammas(p):
        theta = np.exp(p[2])
        return theta + d, theta + np.exp(p[0]) * (time[0] + np.exp(p[1]) * time[1])

    def log_density(p):
        theta, (a, b) = np.exp(p[2]), gammas(p)
        each = theta * p[2] - special.gammaln(theta) + special.gammaln(a) - a * np.log(b)
        prior = p[0] - 5 * np.exp(p[0]) - p[1] ** 2 / 2 + 2 * p[2] - 0.5 * theta
        return prior + sums[0] * p[0] + sums[1] * p[1] + each.sum(0)

    weights, points = rotated_grid(log_density, [-2, 0, 1], 33, 9.0)
    a, b = (m.T.reshape(*weights.shape, 25) for m in gammas(points.reshape(3, -1)))
    out = sites(weights, rate=np.exp(points[0]), effect=points[1], theta=np.exp(points[2]))
    return {**out, "w": mix(weights, a / b, np.sqrt(a) / b)}


def cure_data() -> tuple[Tensor, ...]:
    """Simulated: years until relapse of 200 patients, half of them treated; some never relapse."""
    rng = np.random.default_rng(1304)
    treated = np.arange(200) % 2 * 1.0
    never = rng.binomial(1, special.expit(-0.6 + 0.9 * treated)) == 1
    years = np.where(never, np.inf, 2.0 * rng.weibull(1.4, 200))
    end = rng.uniform(6, 12, 200)
    return tensors(treated, np.minimum(years, end), (years < end) * 1.0)


def cure(treated, years, relapse):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1.5))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    shape = pyro.sample("shape", dist.LogNormal(0.0, 0.5))
    scale = pyro.sample("scale", dist.LogNormal(1.0, 1.0))
    cured = torch.sigmoid(alpha + beta * treated)
    hazard = (years / scale) ** shape
    log_density = torch.log1p(-cured) + dist.Weibull(scale, shape).log_prob(years)
    log_survival = torch.log(cured + (1 - cured) * torch.exp(-hazard))
    with pyro.plate("patient", len(years)):
        pyro.factor("relapse", torch.where(relapse == 1, log_density, log_survival))


def cure_exact() -> Moments:
    x, t, relapse = (column[:, None] for column in arrays(cure_data))

    def log_density(p):
        eta, z = p[0] + p[1] * x, np.exp(p[2]) * (np.log(t) - p[3])
        seen = p[2] + z - np.log(t) - np.exp(z)
        each = np.where(relapse == 1, seen, np.logaddexp(eta, -np.exp(z))) - np.logaddexp(0, eta)
        prior = p[0] ** 2 / 4.5 + p[1] ** 2 / 2 + 2 * p[2] ** 2 + (p[3] - 1) ** 2 / 2
        return each.sum(0) - prior

    weights, (a, b, shape, scale) = rotated_grid(log_density, [0, 0, 0, 1], 25, 12.0)
    return sites(weights, alpha=a, beta=b, shape=np.exp(shape), scale=np.exp(scale))


def laboratories_data() -> tuple[Tensor, ...]:
    """Simulated: eight assays in each of ten laboratories, which differ in precision."""
    rng = np.random.default_rng(1305)
    sd = np.exp(rng.normal(-0.3, 0.6, 10))
    return tensors((5 + rng.normal(size=10))[:, None] + sd[:, None] * rng.normal(size=(10, 8)))


def laboratories(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    middle = pyro.sample("middle", dist.Normal(0.0, 1.0))
    spread = pyro.sample("spread", dist.LogNormal(-0.7, 0.5))
    with pyro.plate("laboratory", len(y)):
        level = pyro.sample("level", dist.Normal(mu, tau))
        sigma = pyro.sample("sigma", dist.LogNormal(middle, spread))
        pyro.sample("y", dist.Normal(level[:, None], sigma[:, None]).to_event(1), obs=y)


def laboratories_exact() -> Moments:
    """Each level is Gaussian given (mu, tau, sigma), and each sigma has a grid of its own."""
    (y,) = arrays(laboratories_data)
    mu, tau = np.meshgrid(np.linspace(-2.5, 12.5, 91), log_space(1e-2, 12, 51), indexing="ij")
    middle, spread = np.meshgrid(np.linspace(-3, 3, 41), log_space(0.05, 4, 41), indexing="ij")
    first = stats.norm.logpdf(mu, 0, 10) + stats.halfnorm.logpdf(tau, scale=2) + np.log(tau)
    second = stats.norm.logpdf(middle) + stats.norm.logpdf(np.log(spread), -0.7, 0.5)
    log_p, s = first.ravel()[:, None] + second.ravel(), log_space(1e-3, 300, 401)
    prior = stats.norm.pdf(np.log(s)[:, None], middle.ravel(), spread.ravel())
    m, v, labs = mu.ravel()[:, None], tau.ravel()[:, None] ** 2, []
    for row in y:
        error, rss = s**2 / 8, np.sum((row - row.mean()) ** 2)
        each = -7 * np.log(s) - 0.5 * rss / s**2 - 0.5 * (row.mean() - m) ** 2 / (v + error)
        each -= 0.5 * np.log(v + error)
        each = np.exp(each - each.max())
        mean, variance = (m * error + row.mean() * v) / (v + error), v * error / (v + error)
        labs.append((each, mean, mean**2 + variance))
        log_p += np.log(each @ prior + 1e-300)
    weights = grid_weights(log_p.reshape(*mu.shape, *middle.shape))
    w, moments = weights.reshape(log_p.shape), []
    for each, mean, square in labs:
        share = each * ((w / (each @ prior + 1e-300)) @ prior.T)
        level, sigma = np.sum(share * mean), np.sum(share * s)
        variances = np.sum(share * square) - level**2, np.sum(share * s**2) - sigma**2
        moments.append([level, sigma, *np.sqrt(variances)])
    level, sigma, level_sd, sigma_sd = np.array(moments).T
    out = {"level": (level, level_sd), "sigma": (sigma, sigma_sd)}
    first, second = weights.sum((2, 3)), weights.sum((0, 1))
    return {**out, **sites(first, mu=mu, tau=tau), **sites(second, middle=middle, spread=spread)}


def fields_data() -> tuple[Tensor, ...]:
    """Simulated: yields of 10 varieties in each of three blocks in each of seven fields."""
    rng = np.random.default_rng(1306)
    block, variety = np.divmod(np.arange(210), 10)
    y = 6 + rng.normal(scale=0.9, size=7)[block // 3] + rng.normal(scale=0.5, size=21)[block]
    y += rng.normal(scale=0.6, size=10)[variety]
    return tensors(variety, block // 3, block, y + rng.normal(scale=0.7, size=210))


def fields(variety, field, block, y):
    scale = [pyro.sample(f"scale_{i}", dist.LogNormal(-0.5, 0.7)) for i in range(4)]
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("varieties", 10):
        a = pyro.sample("a", dist.Normal(0.0, scale[0]))
    with pyro.plate("fields", 7):
        b = pyro.sample("b", dist.Normal(mu, scale[1]))
    with pyro.plate("blocks", 21):
        c = pyro.sample("c", dist.Normal(0.0, scale[2]))
    with pyro.plate("plots", len(y)):
        pyro.sample("y", dist.Normal(a[variety] + b[field] + c[block], scale[3]), obs=y)


def fields_exact() -> Moments:
    variety, field, block, y = arrays(fields_data)
    X = np.c_[np.ones(210), np.eye(10)[variety], np.eye(7)[field], np.eye(21)[block]]
    T = np.eye(39)
    T[11:18, 0] = 1
    grids = map(log_space, (0.06, 0.01, 0.1, 0.5), (4, 10, 3.3, 1.1), (17, 27, 19, 16))
    prior = stats.lognorm(0.7, scale=np.exp(-0.5))
    scales = [(f"scale_{i}", prior, grid) for i, grid in enumerate(grids)]
    out, rest = mixed(X, y, scales, lambda a, b, c, s: [10.0, *[a] * 10, *[b] * 7, *[c] * 21], T)
    return {**out, **split(rest, mu=0, a=10, b=7, c=21)}


def conjoint_data() -> tuple[Tensor, ...]:
    """Simulated: 24 choices of each of 16 people, yes or no, by price and quality."""
    rng = np.random.default_rng(1308)
    person, X = np.arange(384) // 24, np.c_[np.ones(384), rng.normal(size=(384, 2))]
    C = np.array([[1.0, -0.3, 0.2], [-0.3, 0.6, -0.3], [0.2, -0.3, 0.5]])
    u = rng.multivariate_normal([0.2, -1.0, 0.8], C, size=16)[person]
    return tensors(person, X, rng.binomial(1, special.expit(np.sum(u * X, 1))) * 1.0)


def conjoint(person, X, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.5).expand([3]).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(1.0).expand([3]).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(3, 2.0))
    with pyro.plate("people", 16):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    u = mu + z @ (tau[:, None] * L).T
    with pyro.plate("choice", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=(u[person] * X).sum(-1)), obs=y)


ENTRIES = [
    Entry("leukaemia_weibull", "survival", leukaemia, leukaemia_data, leukaemia_exact),
    Entry("piecewise_hazards", "survival", piecewise, relapse_data, piecewise_exact),
    Entry("tenants_lognormal", "survival", tenants, stay_data, tenants_exact),
    Entry("clinics_gamma_frailty", "survival", frailty, clinics_data, frailty_exact),
    Entry("cure_fraction", "survival", cure, cure_data, cure_exact),
    Entry(
        "laboratories_own_sd", "hierarchical", laboratories, laboratories_data, laboratories_exact
    ),
    Entry("fields_nested_crossed", "hierarchical", fields, fields_data, fields_exact),
    Entry("conjoint_lkj_noncentred", "hierarchical", conjoint, conjoint_data),
]
