"""Structural time series, autoregressions and volatility: exact but the last."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from scipy.linalg import solve_triangular
from torch import Tensor

from ..entry import Draws, Entry, Moments, arrays, tensors
from ..exact import conditionally_gaussian, gaussian_posterior, log_space, mix, regression, split


def dual_posterior(X, y, noise, scale, loc, outputs=None):
    """As `gaussian_posterior`, by a Cholesky factor of rows × rows: quick if columns are many."""
    T = (np.eye(len(scale)) if outputs is None else outputs) * scale
    L = np.linalg.cholesky((X * scale) @ (X * scale).T + noise**2 * np.eye(len(y)))
    W = solve_triangular(L, np.c_[(X * scale) @ T.T, y - X @ loc], lower=True)
    log_evidence = -0.5 * np.sum(W[:, -1] ** 2) - np.log(np.diag(L)).sum()
    W, u = W[:, :-1], W[:, -1]
    return log_evidence, T / scale @ loc + W.T @ u, np.sqrt(np.sum(T**2, 1) - np.sum(W**2, 0))


def given(log_prior: Callable, conditional: Callable, **axes: np.ndarray):
    """Moments of each axis of a grid, and of what is Gaussian given a point of it.

    `log_prior` is the log density in the coordinates in which the axes are even.
    """
    grid = np.meshgrid(*axes.values(), indexing="ij")
    weights, rest = conditionally_gaussian(
        log_prior(*grid), map(conditional, *(axis.ravel() for axis in grid))
    )
    return {n: mix(weights, axis) for n, axis in zip(axes, grid, strict=True)}, rest


def nile_data() -> tuple[Tensor, ...]:
    """Flow of the Nile, 1871 to 1970, 10¹⁰ m³: Cobb (1978), doi:10.1093/biomet/65.2.243."""
    flow = (
        "1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958"
        " 1140 1100 1210 1150 1250 1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020"
        " 1050 969 831 726 456 824 702 1120 1100 832 764 821 768 845 864 862 698 845 744 796 1040"
        " 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890"
        " 744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740"
    )
    return tensors(np.array(flow.split(), float) / 100)


def nile(flow):
    first = pyro.sample("first", dist.Normal(10.0, 3.0))
    level_var = pyro.sample("level_var", dist.InverseGamma(2.0, 0.2))
    noise_var = pyro.sample("noise_var", dist.InverseGamma(2.0, 2.0))
    with pyro.plate("change", len(flow) - 1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    level = torch.cat([first[None], first + level_var.sqrt() * z.cumsum(-1)])
    with pyro.plate("year", len(flow)):
        pyro.sample("flow", dist.Normal(level, noise_var.sqrt()), obs=flow)


def _walk(T: int) -> np.ndarray:
    """Sums of the steps after the first row."""
    return np.tril(np.ones((T, T - 1)), -1)


def nile_exact() -> Moments:
    (y,) = arrays(nile_data)
    scale, loc = np.r_[3.0, np.ones(99)], np.r_[10.0, np.zeros(99)]

    def conditional(q: float, s: float):
        return dual_posterior(np.c_[np.ones(100), q**0.5 * _walk(100)], y, s**0.5, scale, loc)

    variances, rest = given(
        lambda q, s: -2 * np.log(q * s) - 0.2 / q - 2 / s,
        conditional,
        level_var=log_space(5e-3, 10, 41),
        noise_var=log_space(0.3, 6, 31),
    )
    return {**variances, **split(rest, first=0, z=99)}


def trend_data() -> tuple[Tensor, ...]:
    """Simulated: a level whose slope drifts, 60 months, with known standard errors."""
    rng = np.random.default_rng(2101)
    error, slope = rng.uniform(0.5, 1.5, 60), 0.2 + np.cumsum(rng.normal(scale=0.1, size=60))
    level = np.cumsum(slope + rng.normal(scale=0.3, size=60))
    return tensors(error, level + error * rng.normal(size=60))


def linear_trend(error, y):
    level = pyro.sample("level", dist.Normal(0.0, 5.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    level_step = pyro.sample("level_step", dist.Gamma(2.0, 4.0))
    slope_step = pyro.sample("slope_step", dist.Gamma(2.0, 10.0))
    with pyro.plate("step", len(y) - 1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    levels = [level]
    for t in range(len(y) - 1):
        levels.append(levels[-1] + slope + level_step * z[t])
        slope = slope + slope_step * w[t]
    with pyro.plate("month", len(y)):
        pyro.sample("y", dist.Normal(torch.stack(levels), error), obs=y)


def linear_trend_exact() -> Moments:
    error, y = arrays(trend_data)
    start, scale = np.c_[np.ones(60), np.arange(60)], np.r_[5.0, np.ones(119)]
    late = np.c_[_walk(60) @ _walk(59), np.zeros(60)]  # the slope's last step moves no level

    def conditional(q: float, r: float):
        X = np.c_[start, q * _walk(60), r * late]
        return dual_posterior(X, y, error, scale, np.zeros(120))

    scales, rest = given(
        lambda q, r: 2 * np.log(q * r) - 4 * q - 10 * r,
        conditional,
        level_step=log_space(2e-5, 4, 61),
        slope_step=log_space(4e-6, 2, 67),
    )
    return {**scales, **split(rest, level=0, slope=0, z=59, w=59)}


def quarters_data() -> tuple[Tensor, ...]:
    """Simulated: log sales of 48 quarters, a season and a wandering level."""
    rng = np.random.default_rng(2102)
    season = np.array([0.3, -0.1, -0.4, 0.2])[np.arange(48) % 4]
    level = 3 + np.cumsum(rng.normal(scale=0.08, size=48))
    return tensors(np.arange(48) % 4, level + season + rng.normal(scale=0.15, size=48))


def seasonal(quarter, y):
    """Season effects that sum to zero."""
    start = pyro.sample("start", dist.Normal(3.0, 1.0))
    free = pyro.sample("free", dist.Normal(0.0, 0.5).expand([3]).to_event(1))
    season = torch.cat([free, -free.sum(-1, keepdim=True)])
    step = pyro.sample("step", dist.Exponential(5.0))
    sigma = pyro.sample("sigma", dist.LogNormal(-2.0, 0.7))
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(y) - 1]).to_event(1))
    level = start + step * torch.cat([torch.zeros(1), torch.cumsum(z, -1)])
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level + season[quarter], sigma), obs=y)


def seasonal_exact() -> Moments:
    quarter, y = arrays(quarters_data)
    effects = np.c_[np.ones(48), np.vstack([np.eye(3), -np.ones(3)])[quarter]]
    scale, loc = np.r_[1.0, [0.5] * 3, np.ones(47)], np.r_[3.0, np.zeros(50)]
    scales, rest = given(
        lambda q, s: np.log(q) - 5 * q - 0.5 * ((np.log(s) + 2) / 0.7) ** 2,
        lambda q, s: dual_posterior(np.c_[effects, q * _walk(48)], y, s, scale, loc),
        step=log_space(1e-6, 1.5, 81),
        sigma=log_space(2e-3, 0.6, 51),
    )
    return {**scales, **split(rest, start=0, free=3, z=47)}


def lynx_data() -> tuple[Tensor, ...]:
    """Canadian lynx trapped, 1821 to 1934: Elton and Nicholson (1942), doi:10.2307/1358."""
    lynx = (
        "269 321 585 871 1475 2821 3928 5943 4950 2577 523 98 184 279 409 2285 2685 3409 1824 409"
        " 151 45 68 213 546 1033 2129 2536 957 361 377 225 360 731 1638 2725 2871 2119 684 299 236"
        " 245 552 1623 3311 6721 4254 687 255 473 358 784 1594 1676 2251 1426 756 299 201 229 469"
        " 736 2042 2811 4431 2511 389 73 39 49 59 188 377 1292 4031 3495 587 105 153 387 758 1307"
        " 3465 6991 6313 3794 1836 345 382 808 1388 2713 3800 3091 2985 3790 674 81 80 108 229 399"
        " 1132 2432 3574 2935 1537 529 485 662 1000 1590 2657 3396"
    )
    return tensors(np.log10(np.array(lynx.split(), float)))


def ar3(y):
    c = pyro.sample("c", dist.Normal(0.0, 2.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    lags = torch.stack([y[2:-1], y[1:-2], y[:-3]], dim=-1)
    with pyro.plate("year", len(y) - 3):
        pyro.sample("y", dist.Normal(c + lags @ phi, sigma), obs=y[3:])


def ar3_exact() -> Moments:
    (y,) = arrays(lynx_data)
    X = np.c_[np.ones(111), y[2:-1], y[1:-2], y[:-3]]
    noise, rest = regression(
        X, y[3:], log_space(0.1, 0.5, 101), stats.expon.logpdf, np.r_[2.0, np.ones(3)]
    )
    return {"sigma": noise, **split(rest, c=0, phi=3)}


def arma_data() -> tuple[Tensor, ...]:
    """Simulated: φ = 0.6, θ = 0.4, 60 rows."""
    rng = np.random.default_rng(2105)
    y, e = [1.0], rng.normal(size=60)
    for t in range(1, 60):
        y.append(0.4 + 0.6 * y[-1] + e[t] + 0.4 * e[t - 1])
    return tensors(np.array(y))


def arma(y):
    """Given the first row, with no error before the second."""
    c = pyro.sample("c", dist.Normal(0.0, 2.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 1.0))
    theta = pyro.sample("theta", dist.Uniform(-1.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.0))
    error = torch.tensor(0.0)
    for t in range(1, len(y)):
        loc = c + phi * y[t - 1] + theta * error
        pyro.sample(f"y_{t}", dist.Normal(loc, sigma), obs=y[t])
        error = y[t] - loc


def arma_exact() -> Moments:
    """The errors are linear in (c, φ) given θ; θ = tanh(u) has density (1 − θ²)/2 in u."""
    (y,) = arrays(arma_data)
    columns = np.c_[np.ones(59), y[:-1], y[1:]]

    def conditional(theta: float, s: float):
        filtered = solve_triangular(np.eye(59) + theta * np.eye(59, k=-1), columns, lower=True)
        return gaussian_posterior(filtered[:, :2], filtered[:, 2], s, np.array([2.0, 1.0]))

    scales, rest = given(
        lambda theta, s: np.log1p(-(theta**2)) + stats.halfcauchy.logpdf(s, scale=2) + np.log(s),
        conditional,
        theta=np.tanh(np.linspace(-8, 11, 191)),
        sigma=log_space(0.4, 3, 31),
    )
    return {**scales, **split(rest, c=0, phi=0)}


def drift_data() -> tuple[Tensor, ...]:
    """Simulated: the slope of a regression wanders, 50 rows."""
    rng = np.random.default_rng(2106)
    x, slope = rng.normal(size=50), 1 + np.cumsum(rng.normal(scale=0.4, size=50))
    return tensors(x, 0.5 + slope * x + rng.normal(scale=0.5, size=50))


def drifting_slope(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    step = pyro.sample("step", dist.LogNormal(-1.0, 0.7))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    slope = pyro.sample("slope_0", dist.Normal(0.0, 2.0))
    pyro.sample("y_0", dist.Normal(a + slope * x[0], sigma), obs=y[0])
    for t in range(1, len(y)):
        slope = pyro.sample(f"slope_{t}", dist.Normal(slope, step))
        pyro.sample(f"y_{t}", dist.Normal(a + slope * x[t], sigma), obs=y[t])


def drifting_slope_exact() -> Moments:
    x, y = arrays(drift_data)
    scale = np.r_[2.0, 2.0, np.ones(49)]

    def conditional(q: float, s: float):
        slopes = np.c_[np.zeros(50), np.ones(50), q * _walk(50)]
        X = x[:, None] * slopes + np.eye(1, 51)
        return dual_posterior(X, y, s, scale, np.zeros(51), np.vstack([np.eye(1, 51), slopes]))

    scales, rest = given(
        lambda q, s: -0.5 * ((np.log(q) + 1) / 0.7) ** 2 - 0.5 * s**2 + np.log(s),
        conditional,
        step=log_space(1e-2, 5, 41),
        sigma=log_space(0.02, 2, 51),
    )
    return {**scales, **split(rest, a=0, **{f"slope_{t}": 0 for t in range(50)})}


def returns_data() -> tuple[Tensor, ...]:
    """Simulated: 80 daily returns in percent."""
    rng = np.random.default_rng(2108)
    h = [0.3]
    for _ in range(79):
        h.append(0.93 * h[-1] + rng.normal(scale=0.35))
    return tensors(rng.normal(scale=np.exp(np.array(h) / 2)))


def _volatility_parameters():
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    p = pyro.sample("p", dist.Beta(20.0, 1.5))
    return mu, 2 * p - 1, pyro.sample("sigma", dist.HalfNormal(0.5))


def volatility_centred(returns):
    """Kim, Shephard and Chib (1998), doi:10.1111/1467-937X.00050: their prior of persistence."""
    mu, phi, sigma = _volatility_parameters()
    h = pyro.sample("h_0", dist.Normal(mu, sigma / (1 - phi**2).sqrt()))
    pyro.sample("return_0", dist.Normal(0.0, torch.exp(h / 2)), obs=returns[0])
    for t in range(1, len(returns)):
        h = pyro.sample(f"h_{t}", dist.Normal(mu + phi * (h - mu), sigma))
        pyro.sample(f"return_{t}", dist.Normal(0.0, torch.exp(h / 2)), obs=returns[t])


def volatility_noncentred(returns):
    mu, phi, sigma = _volatility_parameters()
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(returns)]).to_event(1))
    u = [z[..., 0] / (1 - phi**2).sqrt()]
    for t in range(1, len(returns)):
        u.append(phi * u[-1] + z[..., t])
    scale = torch.exp((mu + sigma * torch.stack(u, -1)) / 2)
    pyro.sample("return", dist.Normal(0.0, scale).to_event(1), obs=returns)


def volatility_map(draws: Draws) -> dict[str, np.ndarray]:
    mu, phi, sigma, z = draws["mu"], 2 * draws["p"] - 1, draws["sigma"], draws["z"]
    out = {name: draws[name] for name in ("mu", "p", "sigma")}
    u = z[..., 0] / np.sqrt(1 - phi**2)
    for t in range(z.shape[-1]):
        u = phi * u + z[..., t] if t else u
        out[f"h_{t}"] = mu + sigma * u
    return out


ENTRIES = [
    Entry("nile_level", "time series", nile, nile_data, nile_exact),
    Entry("linear_trend", "time series", linear_trend, trend_data, linear_trend_exact),
    Entry("seasonal_level", "time series", seasonal, quarters_data, seasonal_exact),
    Entry("lynx_ar3", "time series", ar3, lynx_data, ar3_exact),
    Entry("arma_1_1", "time series", arma, arma_data, arma_exact),
    Entry("drifting_slope", "time series", drifting_slope, drift_data, drifting_slope_exact),
    Entry(
        "volatility_centred",
        "funnel",
        volatility_centred,
        returns_data,
        reference_model=volatility_noncentred,
        reference_map=volatility_map,
    ),
]
