"""Linear and robust regressions, most of them exact: Gaussian given the noise scale."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import constraints

from .entry import Entry, Moments, arrays, tensors
from .exact import gaussian_posterior, log_space, regression, split


def _design(seed: int, num_rows: int, D: int) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=(num_rows, D))


def linear_data() -> tuple[Tensor, ...]:
    rng, X = _design(1, 100, 4)
    return tensors(X, 1.5 + X @ [1.0, -0.5, 0.0, 2.0] + rng.normal(size=100))


def linear(X, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(alpha + X @ beta, sigma), obs=y)


def _linear_exact(data, scale_alpha: float, scale_beta: float, prior, sigma: np.ndarray) -> Moments:
    X, y = arrays(data)
    D = X.shape[1]
    scales = np.r_[scale_alpha, np.full(D, scale_beta)]
    noise, coefficients = regression(np.c_[np.ones(len(y)), X], y, sigma, prior.logpdf, scales)
    return {"sigma": noise, **split(coefficients, alpha=0, beta=D)}


def linear_exact() -> Moments:
    return _linear_exact(linear_data, 10, 5, stats.halfnorm(scale=5), log_space(0.3, 3, 301))


def collinear_data() -> tuple[Tensor, ...]:
    rng, X = _design(2, 80, 2)
    X[:, 1] = X[:, 0] + 0.01 * X[:, 1]
    return tensors(X, 0.5 + X @ [1.0, 1.0] + rng.normal(size=80))


def collinear_exact() -> Moments:
    return _linear_exact(collinear_data, 10, 5, stats.halfnorm(scale=5), log_space(0.3, 4, 301))


def kidscore_data() -> tuple[Tensor, ...]:
    """A child's test score on the mother's schooling and IQ, uncentred, and their product."""
    rng = np.random.default_rng(3)
    school, iq = rng.binomial(1, 0.79, 434), rng.normal(100, 15, 434)
    X = np.c_[np.ones(434), school, iq, school * iq]
    return tensors(X, X @ [-11.0, 51.0, 1.1, -0.5] + rng.normal(scale=18, size=434))


def kidscore(X, score):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (4,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("child", len(score)):
        pyro.sample("score", dist.Normal(X @ beta, sigma), obs=score)


def kidscore_exact() -> Moments:
    """σ² is inverse gamma with (n − p − 1)/2 and S/2 under priors flat in β and σ."""
    X, y = arrays(kidscore_data)
    Q, R = np.linalg.qr(X)
    beta = np.linalg.solve(R, Q.T @ y)
    S, df = np.sum((y - X @ beta) ** 2), len(y) - X.shape[1] - 1
    variance = S / (df - 2)
    mean = np.sqrt(S / 2) * np.exp(special.gammaln((df - 1) / 2) - special.gammaln(df / 2))
    sd = np.sqrt(variance * np.sum(np.linalg.inv(R) ** 2, axis=1))
    return {"beta": (beta, sd), "sigma": (mean, np.sqrt(variance - mean**2))}


def scales_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(4)
    dose, income = rng.uniform(0, 1e-3, 40), rng.normal(5e4, 1.5e4, 40)
    y = 20 + 1e5 * dose - 1e-3 * income + rng.normal(scale=15, size=40)
    return tensors(dose, income, y)


def scales(dose, income, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 100.0))
    per_dose = pyro.sample("per_dose", dist.Normal(0.0, 1e6))
    per_income = pyro.sample("per_income", dist.Normal(0.0, 0.01))
    sigma = pyro.sample("sigma", dist.HalfCauchy(10.0))
    loc = alpha + per_dose * dose + per_income * income
    for n in range(len(y)):
        pyro.sample(f"y_{n}", dist.Normal(loc[n], sigma), obs=y[n])


def scales_exact() -> Moments:
    dose, income, y = arrays(scales_data)
    X, prior = np.c_[np.ones(40), dose, income], stats.halfcauchy(scale=10)
    noise, rest = regression(X, y, log_space(5, 50, 301), prior.logpdf, np.r_[1e2, 1e6, 1e-2])
    return {"sigma": noise, **split(rest, alpha=0, per_dose=0, per_income=0)}


def wide_data() -> tuple[Tensor, ...]:
    rng, X = _design(5, 300, 150)
    return tensors(X, X @ rng.normal(scale=0.3, size=150) + rng.normal(size=300))


def more_columns_data() -> tuple[Tensor, ...]:
    rng, X = _design(6, 100, 198)
    return tensors(X, X @ rng.normal(scale=0.5, size=198) + rng.normal(size=100))


def many_columns(X, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1.0))
    with pyro.plate("column", X.shape[1]):
        beta = pyro.sample("beta", dist.Normal(0.0, 0.5))
    sigma = pyro.sample("sigma", dist.LogNormal(0.0, 0.5))
    pyro.sample("y", dist.Normal(alpha + X @ beta, sigma).to_event(1), obs=y)


def wide_exact() -> Moments:
    return _linear_exact(wide_data, 1, 0.5, stats.lognorm(0.5), log_space(0.5, 2, 121))


def more_columns_exact() -> Moments:
    return _linear_exact(more_columns_data, 1, 0.5, stats.lognorm(0.5), log_space(0.02, 30, 121))


def inverse_gamma_data() -> tuple[Tensor, ...]:
    rng, X = _design(7, 60, 6)
    return tensors(X, X @ rng.normal(size=6) + rng.normal(scale=0.7, size=60))


def inverse_gamma(X, y):
    variance = pyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    prior = dist.Normal(torch.zeros(X.shape[1]), 2.0 * variance.sqrt())
    beta = pyro.sample("beta", prior.to_event(1))
    pyro.sample("y", dist.Normal(X @ beta, variance.sqrt()).to_event(1), obs=y)


def inverse_gamma_exact() -> Moments:
    X, y = arrays(inverse_gamma_data)
    precision = X.T @ X + np.eye(6) / 4
    beta = np.linalg.solve(precision, X.T @ y)
    a, b = 3 + len(y) / 2, 2 + (y @ y - beta @ precision @ beta) / 2
    mean = b / (a - 1)
    sd = np.sqrt(mean * np.diag(np.linalg.inv(precision)))
    return {"variance": (mean, mean / np.sqrt(a - 2)), "beta": (beta, sd)}


def known_noise_data() -> tuple[Tensor, ...]:
    rng, X = _design(8, 50, 20)
    return tensors(X, X @ rng.normal(size=20) + rng.normal(size=50))


def known_noise(X, y):
    beta = [pyro.sample(f"beta_{d}", dist.Normal(0.0, 1.0)) for d in range(X.shape[1])]
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(X @ torch.stack(beta), 1.0), obs=y)


def known_noise_exact() -> Moments:
    _, mean, sd = gaussian_posterior(*arrays(known_noise_data), 1.0, 1.0)
    return split((mean, sd), **{f"beta_{d}": 0 for d in range(20)})


def robust_data() -> tuple[Tensor, ...]:
    rng, X = _design(9, 120, 3)
    return tensors(X, 1 + X @ [0.5, -1.0, 0.0] + 0.5 * rng.standard_t(3, size=120))


def robust(X, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 2.5).expand([3]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    nu = pyro.sample("nu", dist.Gamma(2.0, 0.1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(nu, alpha + X @ beta, sigma), obs=y)


def unequal_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(10)
    x = rng.uniform(-2, 2, 150)
    return tensors(x, 1 + 2 * x + np.exp(-0.3 + 0.6 * x) * rng.normal(size=150))


def unequal(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    c = pyro.sample("c", dist.Normal(0.0, 2.0))
    d = pyro.sample("d", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b * x, torch.exp(c + d * x)), obs=y)


def lasso(X, y):
    beta = pyro.sample("beta", dist.Laplace(0.0, 0.3).expand([X.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def sparse_data() -> tuple[Tensor, ...]:
    rng, X = _design(11, 80, 10)
    return tensors(X, X @ [2.0, -1.5, 1.0, *[0.0] * 7] + rng.normal(size=80))


def horseshoe(X, y):
    """λ = tan(π u / 2) is half-Cauchy: in u every moment exists."""
    D = X.shape[1]
    tau = pyro.sample("tau", dist.HalfCauchy(0.3))
    u = pyro.sample("u", dist.Uniform(0.0, 1.0).expand([D]).to_event(1))
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    beta = z * tau * torch.tan(torch.pi / 2 * u)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def covariance_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(13)
    C = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.4], [0.2, -0.4, 0.5]])
    return tensors(rng.multivariate_normal([1.0, 0.0, -1.0], C, size=60))


def covariance(y):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 5.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(2.0).expand([3]).to_event(1))
    L = pyro.sample("L", dist.LKJCholesky(3, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.MultivariateNormal(mu, scale_tril=scale.diag() @ L), obs=y)


ENTRIES = [
    Entry("linear", "linear", linear, linear_data, linear_exact),
    Entry("collinear", "linear", linear, collinear_data, collinear_exact),
    Entry("kidscore_flat", "linear", kidscore, kidscore_data, kidscore_exact),
    Entry("scales_apart", "linear", scales, scales_data, scales_exact),
    Entry("wide_150", "linear", many_columns, wide_data, wide_exact),
    Entry("more_columns_than_rows", "linear", many_columns, more_columns_data, more_columns_exact),
    Entry(
        "normal_inverse_gamma", "conjugate", inverse_gamma, inverse_gamma_data, inverse_gamma_exact
    ),
    Entry("known_noise", "linear", known_noise, known_noise_data, known_noise_exact),
    Entry("robust_t", "linear", robust, robust_data),
    Entry("unequal_noise", "linear", unequal, unequal_data),
    Entry("lasso", "linear", lasso, sparse_data),
    Entry("horseshoe", "funnel", horseshoe, sparse_data),
    Entry("covariance_lkj", "linear", covariance, covariance_data),
]
