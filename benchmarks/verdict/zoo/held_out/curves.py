"""Differential equations, non-linear curves, Gaussian processes and basis functions."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special
from torch import Tensor

from ..dynamics import rk4
from ..entry import Entry, Moments, arrays, tensors
from ..exact import grid_weights, log_space, mix, on_grid, split


def linear_in(columns, y, scale, log_prior, loc=0.0, **axes: np.ndarray):
    """Moments on a grid of a curve's shape and noise, and of the factors of its columns.

    The last axis is the noise; `log_prior` is the log density where the axes are even.
    """
    *shape, sigma = grid = np.meshgrid(*axes.values(), indexing="ij")
    X = np.stack(columns(*(axis[..., :1, None] for axis in shape)), axis=-1)
    variance = sigma[..., None] ** 2
    precision = X.swapaxes(-1, -2) @ X / variance[..., None] + np.diag(scale**-2.0)
    right = np.sum(X * y[:, None], axis=-2) / variance + loc / scale**2
    inverse = np.linalg.inv(precision)
    mean, sd = (inverse @ right[..., None])[..., 0], np.diagonal(inverse, axis1=-2, axis2=-1) ** 0.5
    log_p = np.sum(mean * right, axis=-1) - y @ y / sigma**2 - np.linalg.slogdet(precision)[1]
    weights = grid_weights(log_prior(*grid) + 0.5 * log_p - len(y) * np.log(sigma))
    moments = {name: mix(weights, axis) for name, axis in zip(axes, grid, strict=True)}
    return moments, mix(weights, mean, sd)


def _seir_path(beta, gamma, num_days: int) -> Tensor:
    """Log susceptible, exposed, infectious and ever infectious, of 10,000; 3 days of latency."""

    def field(z):
        new, onset = beta / 1e4 * z[0] * z[2], z[1] / 3.0
        return torch.stack([-new, new - onset, onset - gamma * z[2], onset])

    return rk4(field, torch.tensor([9980.0, 10.0, 10.0, 0.0]).double(), num_days + 1, 2, 1.0)


def seir_data() -> tuple[Tensor, ...]:
    """Simulated: reported cases on each of 20 days."""
    rng = np.random.default_rng(2201)
    path = _seir_path(*tensors(1.1, 0.35), 20).numpy()
    return tensors(rng.poisson(0.3 * np.diff(path[:, 3])) * 1.0)


def seir(cases):
    beta = pyro.sample("beta", dist.LogNormal(0.0, 0.5))
    gamma = pyro.sample("gamma", dist.LogNormal(-1.0, 0.3))
    reported = pyro.sample("reported", dist.Beta(3.0, 5.0))
    onsets = torch.diff(_seir_path(beta, gamma, len(cases))[:, 3])
    with pyro.plate("day", len(cases)):
        pyro.sample("cases", dist.Poisson((reported * onsets).clamp(min=1e-6)), obs=cases)


def bolus_data() -> tuple[Tensor, ...]:
    """Simulated: concentration after 100 mg into a vein, by hours."""
    rng = np.random.default_rng(2202)
    t = np.array([0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24])
    curve = 4.2 * np.exp(-1.6 * t) + 1.9 * np.exp(-0.11 * t)
    return tensors(t, curve * np.exp(rng.normal(scale=0.1, size=len(t))))


def two_compartments(t, concentration):
    """Clearance, central volume, flow between the compartments, peripheral volume."""
    cl = pyro.sample("cl", dist.LogNormal(1.5, 0.5))
    v1 = pyro.sample("v1", dist.LogNormal(3.0, 0.5))
    q = pyro.sample("q", dist.LogNormal(2.5, 0.5))
    v2 = pyro.sample("v2", dist.LogNormal(3.0, 0.5))
    sigma = pyro.sample("sigma", dist.HalfNormal(0.3))
    out, to, back = cl / v1, q / v1, q / v2
    half, product = (out + to + back) / 2, out * back
    fast = half + (half**2 - product).sqrt()
    slow = product / fast
    curve = (fast - back) * torch.exp(-fast * t) + (back - slow) * torch.exp(-slow * t)
    loc = (100.0 / v1 / (fast - slow) * curve).log()
    with pyro.plate("time", len(t)):
        pyro.sample("concentration", dist.LogNormal(loc, sigma), obs=concentration)


def _grazing_path(r, a, e, m) -> Tensor:
    """Log densities, at ten times, of prey that grow to 10 and of predators that are sated."""

    def field(log_z):
        prey, hunters = log_z.exp()
        meal = a / (1 + 0.5 * prey)
        return torch.stack([r * (1 - prey / 10.0) - meal * hunters, e * meal * prey - m])

    return rk4(field, torch.tensor([2.0, 1.0]).double().log(), 11, 4, 1.5)[1:]


def grazing_data() -> tuple[Tensor, ...]:
    """Simulated: densities of prey and predators, with 15% of error."""
    rng = np.random.default_rng(2203)
    path = _grazing_path(*tensors(1.0, 0.8, 0.5, 0.4)).numpy()
    return tensors(np.exp(path + rng.normal(scale=0.15, size=path.shape)))


def predators(density):
    """Rosenzweig and MacArthur (1963), doi:10.1086/282272."""
    r = pyro.sample("r", dist.LogNormal(0.0, 0.4))
    a = pyro.sample("a", dist.LogNormal(0.0, 0.4))
    e = pyro.sample("e", dist.Beta(4.0, 4.0))
    m = pyro.sample("m", dist.LogNormal(-1.0, 0.4))
    path = _grazing_path(r, a, e, m)
    pyro.sample("density", dist.LogNormal(path, 0.15).to_event(2), obs=density)


def tumour_data() -> tuple[Tensor, ...]:
    """Simulated: volume of a tumour on 15 days."""
    rng = np.random.default_rng(2204)
    t = np.arange(0, 45, 3.0)
    return tensors(t, 12 * np.exp(-4 * np.exp(-0.1 * t)) + rng.normal(scale=0.4, size=15))


def gompertz(t, volume):
    top = pyro.sample("top", dist.Normal(10.0, 5.0))
    b = pyro.sample("b", dist.LogNormal(1.0, 0.5))
    rate = pyro.sample("rate", dist.LogNormal(-2.0, 0.5))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("day", len(t)):
        curve = top * torch.exp(-b * torch.exp(-rate * t))
        pyro.sample("volume", dist.Normal(curve, sigma), obs=volume)


def gompertz_exact() -> Moments:
    t, y = arrays(tumour_data)
    shape, top = linear_in(
        lambda b, rate: [np.exp(-b * np.exp(-rate * t))],
        y,
        np.array([5.0]),
        lambda b, k, s: np.log(s) - s**2 / 2 - 2 * (np.log(b) - 1) ** 2 - 2 * (np.log(k) + 2) ** 2,
        loc=10.0,
        b=log_space(1, 25, 161),
        rate=log_space(0.02, 0.4, 161),
        sigma=log_space(0.12, 3, 31),
    )
    return {**shape, "top": (top[0][0], top[1][0])}


def response_data() -> tuple[Tensor, ...]:
    """Simulated: response to eight doses, in triplicate."""
    rng = np.random.default_rng(2205)
    dose = np.repeat([0.0, 1, 3, 10, 30, 100, 300, 1000], 3)
    return tensors(dose, 5 + 40 * dose**1.3 / (25**1.3 + dose**1.3) + rng.normal(0, 4, 24))


def emax(dose, response):
    e0 = pyro.sample("e0", dist.Normal(0.0, 10.0))
    top = pyro.sample("top", dist.Normal(50.0, 25.0))
    ed50 = pyro.sample("ed50", dist.LogNormal(3.0, 1.0))
    hill = pyro.sample("hill", dist.LogNormal(0.0, 0.5))
    sigma = pyro.sample("sigma", dist.HalfCauchy(5.0))
    power = dose**hill
    with pyro.plate("animal", len(dose)):
        loc = e0 + top * power / (ed50**hill + power)
        pyro.sample("response", dist.Normal(loc, sigma), obs=response)


def emax_exact() -> Moments:
    x, y = arrays(response_data)
    shape, linear = linear_in(
        lambda m, h: [np.ones_like(m + x), x**h / (m**h + x**h)],
        y,
        np.array([10.0, 25.0]),
        lambda m, h, s: np.log(s / (25 + s**2)) - 0.5 * (np.log(m) - 3) ** 2 - 2 * np.log(h) ** 2,
        loc=np.array([0.0, 50.0]),
        ed50=log_space(3, 1500, 101),
        hill=log_space(0.2, 12, 61),
        sigma=log_space(1.5, 20, 31),
    )
    return {**shape, **split(linear, e0=0, top=0)}


def decay_data() -> tuple[Tensor, ...]:
    """Simulated: fluorescence that fades to a background, 40 rows."""
    rng = np.random.default_rng(2206)
    t = np.linspace(0, 8, 40)
    return tensors(t, 3 * np.exp(-0.6 * t) + 1 + rng.normal(scale=0.3, size=40))


def decay(t, y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    c = pyro.sample("c", dist.Normal(0.0, 5.0))
    k = pyro.sample("k", dist.Gamma(2.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    pyro.sample("y", dist.Normal(a * torch.exp(-k * t) + c, sigma).to_event(1), obs=y)


def decay_exact() -> Moments:
    t, y = arrays(decay_data)
    shape, linear = linear_in(
        lambda k: [np.exp(-k * t), np.ones_like(k * t)],
        y,
        np.full(2, 5.0),
        lambda k, s: 2 * np.log(k) - 2 * k - 0.5 * s**2 + np.log(s),
        k=log_space(0.03, 8, 201),
        sigma=log_space(0.13, 0.8, 41),
    )
    return {**shape, **split(linear, a=0, c=0)}


def spring_data() -> tuple[Tensor, ...]:
    """Simulated: displacement of a damped spring, 50 rows."""
    rng = np.random.default_rng(2207)
    t = np.linspace(0, 10, 50)
    return tensors(t, 2 * np.exp(-0.2 * t) * np.cos(2 * t + 0.5) + rng.normal(scale=0.4, size=50))


def oscillator(t, y):
    ab = pyro.sample("ab", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    damping = pyro.sample("damping", dist.HalfNormal(0.5))
    frequency = pyro.sample("frequency", dist.LogNormal(0.7, 0.1))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    waves = torch.stack([torch.cos(frequency * t), torch.sin(frequency * t)], dim=-1)
    with pyro.plate("row", len(t)):
        pyro.sample("y", dist.Normal(torch.exp(-damping * t) * (waves @ ab), sigma), obs=y)


def oscillator_exact() -> Moments:
    t, y = arrays(spring_data)
    shape, ab = linear_in(
        lambda g, w: [np.exp(-g * t) * np.cos(w * t), np.exp(-g * t) * np.sin(w * t)],
        y,
        np.full(2, 2.0),
        lambda g, w, s: np.log(g * s) - 2 * g**2 - 50 * (np.log(w) - 0.7) ** 2 - s,
        damping=log_space(1e-6, 1.5, 121),
        frequency=log_space(1.6, 2.5, 61),
        sigma=log_space(0.17, 1.2, 31),
    )
    return {**shape, "ab": ab}


def matern(x, lengthscale):
    """Matérn 3/2 of unit variance."""
    r = 3**0.5 * abs(x[:, None] - x) / lengthscale
    return (1 + r) * (torch if isinstance(r, Tensor) else np).exp(-r)


def transect_data() -> tuple[Tensor, ...]:
    """Simulated: a rough curve on a slope, at 60 uneven places."""
    rng = np.random.default_rng(2208)
    x = np.sort(rng.uniform(0, 10, 60))
    f = np.linalg.cholesky(matern(x, 1.5)) @ rng.normal(size=60)
    return tensors(x, 1 + 0.3 * x + f + 0.4 * rng.normal(size=60))


def gp_on_a_line(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    C = matern(x, 1.5) + 1e-8 * torch.eye(len(x))
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(x)), C))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + b * x + f, 0.4), obs=y)


def gp_on_a_line_exact() -> Moments:
    x, y = arrays(transect_data)
    X, scale = np.c_[np.ones(60), x, np.eye(60)], np.diag([4.0, 1.0])
    prior = np.block([[scale, np.zeros((2, 60))], [np.zeros((60, 2)), matern(x, 1.5)]])
    prior[2:, 2:] += 1e-8 * np.eye(60)
    gain = np.linalg.solve(X @ prior @ X.T + 0.16 * np.eye(60), X @ prior)
    return split((gain.T @ y, np.sqrt(np.diag(prior - prior @ X.T @ gain))), a=0, b=0, f=60)


def soil_data() -> tuple[Tensor, ...]:
    """Simulated: moisture at 50 places of the plane."""
    rng = np.random.default_rng(2209)
    x = rng.uniform(0, 4, (50, 2))
    return tensors(x, np.sin(x[:, 0]) + 0.5 * np.cos(2 * x[:, 1]) + 0.3 * rng.normal(size=50))


def gp_plane(x, y):
    lengthscale = pyro.sample("lengthscale", dist.LogNormal(0.3, 0.5))
    amplitude = pyro.sample("amplitude", dist.LogNormal(0.0, 0.5))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
    C = amplitude**2 * torch.exp(-torch.cdist(x, x) / lengthscale)
    C = C + noise**2 * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), C), obs=y)


def gp_plane_exact() -> Moments:
    """One eigendecomposition for each lengthscale."""
    x, y = arrays(soil_data)
    axes = log_space(0.05, 40, 41), log_space(0.1, 12, 41), log_space(3e-3, 2, 61)
    ell, amplitude, noise = np.meshgrid(*axes, indexing="ij")
    log_p = -2 * ((np.log(ell) - 0.3) ** 2 + np.log(amplitude) ** 2 + (np.log(noise) + 1) ** 2)
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    for i, length in enumerate(axes[0]):
        values, vectors = np.linalg.eigh(np.exp(-distance / length))
        variance = amplitude[i, ..., None] ** 2 * values + noise[i, ..., None] ** 2
        log_p[i] -= 0.5 * np.sum((vectors.T @ y) ** 2 / variance + np.log(variance), axis=-1)
    return on_grid(log_p, lengthscale=ell, amplitude=amplitude, noise=noise)


def crash_data() -> tuple[Tensor, ...]:
    """Simulated: a curve whose noise grows, on eight bumps, 120 rows."""
    rng = np.random.default_rng(2212)
    t = np.sort(rng.uniform(0, 1, 120))
    bumps = np.exp(-0.5 * ((t[:, None] - np.linspace(0, 1, 8)) / 0.12) ** 2)
    noise = rng.normal(size=120) * np.exp(-2 + 2 * t)
    return tensors(bumps, np.sin(7 * t) * special.expit(8 * t - 2) + noise)


def mean_and_spread(bumps, y):
    with pyro.plate("bump", bumps.shape[1]):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(bumps @ w, torch.exp(-1 + bumps @ v)), obs=y)


ENTRIES = [
    Entry("seir_reports", "ode", seir, seir_data),
    Entry("two_compartments", "ode", two_compartments, bolus_data),
    Entry("sated_predators", "ode", predators, grazing_data),
    Entry("gompertz", "ode", gompertz, tumour_data, gompertz_exact),
    Entry("emax_hill", "ode", emax, response_data, emax_exact),
    Entry("decay_to_background", "ode", decay, decay_data, decay_exact),
    Entry("damped_spring", "ode", oscillator, spring_data, oscillator_exact),
    Entry("gp_on_a_line", "gp", gp_on_a_line, transect_data, gp_on_a_line_exact),
    Entry("gp_plane", "gp", gp_plane, soil_data, gp_plane_exact),
    Entry("mean_and_spread", "gp", mean_and_spread, crash_data),
]
