"""Regressions and comparisons on everyday tables, and conjugate posteriors."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from torch import Tensor

from ..entry import Entry, Moments, arrays, tensors
from ..exact import conditionally_gaussian, gaussian_posterior, log_space, mix, on_grid, split


def _given_sigma(X, y, scale, prior, sigma, loc=0.0, outputs=None, **sizes) -> Moments:
    """Coefficients, or ``outputs`` of them, are Gaussian given sigma, which has a grid."""
    weights, rest = conditionally_gaussian(
        prior.logpdf(sigma) + np.log(sigma),
        (gaussian_posterior(X, y, s, scale, loc, outputs) for s in sigma),
    )
    return {"sigma": mix(weights, sigma), **split(rest, **sizes)}


def diabetes_data() -> tuple[Tensor, ...]:
    X, y = load_diabetes(return_X_y=True)
    return tensors(X * np.sqrt(len(X)), y)


def diabetes(X, y):
    alpha = pyro.sample("alpha", dist.Normal(150.0, 100.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 50.0).expand([X.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(100.0))
    with pyro.plate("patient", len(y)):
        pyro.sample("y", dist.Normal(alpha + X @ beta, sigma), obs=y)


def diabetes_exact() -> Moments:
    X, y = arrays(diabetes_data)
    X, scale, loc = np.c_[np.ones(len(y)), X], np.r_[100.0, [50.0] * 10], np.r_[150.0, [0.0] * 10]
    prior, sigma = stats.halfnorm(scale=100), log_space(40, 75, 81)
    return _given_sigma(X, y, scale, prior, sigma, loc, alpha=0, beta=10)


def tumour_data() -> tuple[Tensor, ...]:
    """Radius, texture, perimeter, area and smoothness of 569 tumours; 1 is benign."""
    X, y = load_breast_cancer(return_X_y=True)
    return tensors(stats.zscore(X[:, :5]), y * 1.0)


def tumours(X, benign):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 2.5))
    with pyro.plate("column", X.shape[1]):
        beta = pyro.sample("beta", dist.Normal(0.0, 2.5))
    with pyro.plate("tumour", len(benign)):
        pyro.sample("benign", dist.Bernoulli(logits=alpha + X @ beta), obs=benign)


def iris_data() -> tuple[Tensor, ...]:
    X, species = load_iris(return_X_y=True)
    return tensors(stats.zscore(X), species)


def iris(X, species):
    """Setosa is the class of reference; a plane parts it from the others."""
    W = pyro.sample("W", dist.Normal(torch.zeros(4, 2), 2.0).to_event(2))
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    logits = torch.nn.functional.pad(X @ W + b, (1, 0))
    with pyro.plate("flower", len(X)):
        pyro.sample("species", dist.Categorical(logits=logits), obs=species)


def wine_data() -> tuple[Tensor, ...]:
    """Cultivar, alcohol and malic acid (centred), and the strength of colour, of 178 wines."""
    X, cultivar = load_wine(return_X_y=True)
    return tensors(cultivar, *(X - X.mean(0))[:, :2].T, X[:, 9])


def wine(cultivar, alcohol, acid, colour):
    with pyro.plate("cultivar", 3):
        level = pyro.sample("level", dist.Normal(5.0, 5.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    acidity = pyro.sample("acidity", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    loc = level[cultivar] + slope[cultivar] * alcohol + acidity * acid
    with pyro.plate("wine", len(colour)):
        pyro.sample("colour", dist.Normal(loc, sigma), obs=colour)


def wine_exact() -> Moments:
    cultivar, alcohol, acid, y = arrays(wine_data)
    one = np.eye(3)[cultivar]
    X, scale = np.c_[one, one * alcohol[:, None], acid], np.r_[[5.0] * 3, [2.0] * 4]
    prior, sigma, loc = stats.expon(), log_space(0.8, 2.2, 81), np.r_[[5.0] * 3, [0.0] * 4]
    return _given_sigma(X, y, scale, prior, sigma, loc, level=3, slope=3, acidity=0)


def stack_data() -> tuple[Tensor, ...]:
    """Losses of ammonia on 21 days: Brownlee (1965), *Statistical Theory and Methodology*."""
    air = [80, 80, 75, 62, 62, 62, 62, 62, 58, 58, 58, 58, 58, 58, 50, 50, 50, 50, 50, 56, 70]
    water = [27, 27, 25, 24, 22, 23, 24, 24, 23, 18, 18, 17, 18, 19, 18, 18, 19, 19, 20, 20, 20]
    acid = [89, 88, 90, 87, 87, 87, 93, 93, 87, 80, 89, 88, 82, 93, 89, 86, 72, 79, 80, 82, 91]
    loss = [42, 37, 37, 28, 18, 18, 19, 20, 15, 14, 14, 13, 11, 12, 8, 7, 8, 8, 9, 15, 15]
    return tensors(stats.zscore([air, water, acid], axis=1).T, np.array(loss) * 1.0)


def stack_loss(X, loss):
    alpha = pyro.sample("alpha", dist.Normal(20.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
    nu = pyro.sample("nu", dist.Gamma(2.0, 0.1))
    pyro.sample("loss", dist.StudentT(nu, alpha + X @ beta, sigma).to_event(1), obs=loss)


def quantile_data() -> tuple[Tensor, ...]:
    """Simulated: rents whose spread grows with the floor's area."""
    rng = np.random.default_rng(3102)
    x = rng.uniform(-1, 1, 90)
    return tensors(x, 5 + 2 * x + (1.2 + 0.8 * x) * rng.normal(size=90))


def upper_quartile(x, y):
    """Yu and Moyeed (2001), doi:10.1016/S0167-7152(01)00124-9."""
    a = pyro.sample("a", dist.Normal(5.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("flat", len(x)):
        pyro.sample("y", dist.AsymmetricLaplace(a + b * x, sigma, 3.0**0.5), obs=y)


def upper_quartile_exact() -> Moments:
    x, y = arrays(quantile_data)
    a, b = np.meshgrid(np.linspace(4.9, 6.7, 301), np.linspace(0.7, 3.9, 301), indexing="ij")
    loss = 0.0
    for x_n, y_n in zip(x, y, strict=True):
        left = y_n - a - b * x_n
        loss = loss + np.where(left > 0, np.sqrt(3) * left, -left / np.sqrt(3))
    prior = -0.02 * ((a - 5) ** 2 + b**2)
    sigma = log_space(0.38, 1.7, 61)
    log_p = prior[..., None] - loss[..., None] / sigma - 89 * np.log(sigma) - sigma**2 / 2
    return on_grid(log_p, a=a[..., None], b=b[..., None], sigma=sigma)


def calls_data() -> tuple[Tensor, ...]:
    return tensors([28.0, 17.0], [41.0, 39.0])


def two_rates(days, calls):
    """Calls a day before (A) and after (B), and how many times as many after."""
    with pyro.plate("period", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("calls", dist.Poisson(rate * days), obs=calls)
    pyro.deterministic("ratio", rate[..., 1] / rate[..., 0])


def two_rates_exact() -> Moments:
    days, calls = arrays(calls_data)
    a, b = 2 + calls, 1 + days
    mean = a[1] / b[1] * b[0] / (a[0] - 1)
    square = mean**2 * (a[1] + 1) / a[1] * (a[0] - 1) / (a[0] - 2)
    return {"rate": (a / b, np.sqrt(a) / b), "ratio": (mean, np.sqrt(square - mean**2))}


def aspirin_data() -> tuple[Tensor, ...]:
    """Heart attacks with aspirin and without: doi:10.1056/NEJM198801283180431."""
    return tensors([104.0, 189.0], [11037.0, 11034.0])


def aspirin(attacks, people):
    treated = pyro.sample("treated", dist.Beta(1.0, 1.0))
    control = pyro.sample("control", dist.Beta(1.0, 1.0))
    pyro.deterministic("difference", treated - control)
    pyro.deterministic("relative", treated / control)
    pyro.sample("attacks_treated", dist.Binomial(people[0], treated), obs=attacks[0])
    pyro.sample("attacks_control", dist.Binomial(people[1], control), obs=attacks[1])


def aspirin_exact() -> Moments:
    y, n = arrays(aspirin_data)
    a, total = 1 + y, 2 + n
    mean, sd = stats.beta(a, total - a).mean(), stats.beta(a, total - a).std()
    ratio = mean[0] * (total[1] - 1) / (a[1] - 1)
    square = (mean[0] ** 2 + sd[0] ** 2) * (total[1] - 1) * (total[1] - 2)
    square /= (a[1] - 1) * (a[1] - 2)
    return {
        **split((mean, sd), treated=0, control=0),
        "difference": (mean[0] - mean[1], np.hypot(*sd)),
        "relative": (ratio, np.sqrt(square - ratio**2)),
    }


def plants_data() -> tuple[Tensor, ...]:
    """Dry weights under a control and two treatments: Dobson (1983), R's PlantGrowth."""
    y = [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14, 4.81, 4.17, 4.41, 3.59, 5.87]
    y += [3.83, 6.03, 4.89, 4.32, 4.69, 6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26]
    return tensors(np.arange(30) // 10, y)


def plants(group, weight):
    mean = pyro.sample("mean", dist.Normal(5.0, 2.0).expand([3]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    pyro.deterministic("gain_1", mean[..., 1] - mean[..., 0])
    pyro.deterministic("gain_2", mean[..., 2] - mean[..., 0])
    with pyro.plate("plant", len(weight)):
        pyro.sample("weight", dist.Normal(mean[group], sigma), obs=weight)


def plants_exact() -> Moments:
    group, y = arrays(plants_data)
    outputs, sigma = np.vstack([np.eye(3), [[-1, 1, 0], [-1, 0, 1]]]), log_space(0.3, 2.0, 121)
    X, prior, sizes = np.eye(3)[group], stats.halfnorm(), {"mean": 3, "gain_1": 0, "gain_2": 0}
    return _given_sigma(X, y, 2.0, prior, sigma, 5.0, outputs, **sizes)


def setosa_data() -> tuple[Tensor, ...]:
    """Length and width of 50 sepals, cm."""
    return tensors(load_iris().data[:50, :2])


def wishart(y):
    """A Wishart prior of the precision, by Bartlett (1933), doi:10.1017/S0370164600020514."""
    chi2 = pyro.sample("chi2", dist.Chi2(torch.tensor([4.0, 3.0])).to_event(1))
    corner = pyro.sample("corner", dist.Normal(0.0, 1.0))
    L = chi2.sqrt().diag() + torch.tensor([[0.0, 0.0], [1.0, 0.0]]) * corner
    precision = pyro.deterministic("precision", L @ L.T)
    prior = dist.MultivariateNormal(torch.full((2,), 4.0), precision_matrix=0.1 * precision)
    mean = pyro.sample("mean", prior)
    with pyro.plate("flower", len(y)):
        pyro.sample("y", dist.MultivariateNormal(mean, precision_matrix=precision), obs=y)


def wishart_exact() -> Moments:
    """The posterior of the precision is Wishart with scale T = C Cᵀ, and L = C × Bartlett's."""
    (y,) = arrays(setosa_data)
    n, centre = len(y), y.mean(0)
    inverse = np.eye(2) + n * np.cov(y.T, bias=True)
    inverse += 0.1 * n / (0.1 + n) * np.outer(centre - 4, centre - 4)
    T, df, total = np.linalg.inv(inverse), np.array([4 + n, 3 + n]), 0.1 + n
    C, root = np.linalg.cholesky(T), stats.chi(4 + n)
    chi2, corner = np.diag(C) ** 2, np.hypot(C[1, 0] * root.std(), C[1, 1])
    sd = np.sqrt(df[0] * (T**2 + np.outer(np.diag(T), np.diag(T))))
    return {
        "chi2": (chi2 * df, chi2 * np.sqrt(2 * df)),
        "corner": (C[1, 0] * root.mean(), corner),
        "precision": (df[0] * T, sd),
        "mean": ((0.4 + n * centre) / total, np.sqrt(np.diag(inverse) / total / (df[0] - 3))),
    }


def survey_data() -> tuple[Tensor, ...]:
    """Simulated: three answers, 100 people asked in each of five regions, and their weights."""
    rng = np.random.default_rng(3103)
    counts = rng.multinomial(100, rng.dirichlet([9.0, 8.0, 3.0], 5)) * 1.0
    return tensors(counts, [0.35, 0.25, 0.2, 0.15, 0.05])


def survey(counts, weight):
    with pyro.plate("region", 5):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        pyro.sample("counts", dist.Multinomial(100, p), obs=counts)
    pyro.deterministic("lead", weight @ (p[..., 0] - p[..., 1]))


def survey_exact() -> Moments:
    counts, weight = arrays(survey_data)
    m = (1 + counts) / 103
    gap, both = m[:, 0] - m[:, 1], m[:, 0] + m[:, 1]
    sd = np.sqrt(np.sum(weight**2 * (both - gap**2)) / 104)
    return {"p": (m, np.sqrt(m * (1 - m) / 104)), "lead": (weight @ gap, sd)}


def petals_data() -> tuple[Tensor, ...]:
    """Length and width of 50 petals of versicolor, cm from their means."""
    y = load_iris().data[50:100, 2:]
    return tensors(y - y.mean(0))


def correlation(y):
    sd = pyro.sample("sd", dist.HalfNormal(1.0).expand([2]).to_event(1))
    rho = pyro.sample("rho", dist.Uniform(-1.0, 1.0))
    covariance = (torch.eye(2) + rho * (1 - torch.eye(2))) * sd[:, None] * sd
    with pyro.plate("flower", len(y)):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(2), covariance), obs=y)


def correlation_exact() -> Moments:
    """With rho = tanh(u)."""
    (y,) = arrays(petals_data)
    S = y.T @ y
    axes = log_space(0.2, 1.2, 91), log_space(0.09, 0.5, 91), np.tanh(np.linspace(-0.4, 2.6, 91))
    s, t, rho = np.meshgrid(*axes, indexing="ij")
    slack = 1 - rho**2
    square = S[0, 0] / s**2 + S[1, 1] / t**2 - 2 * rho * S[0, 1] / (s * t)
    log_p = np.log(slack) - (s**2 + t**2) / 2 + np.log(s * t)
    log_p -= 50 * (np.log(s * t) + 0.5 * np.log(slack)) + 0.5 * square / slack
    m = on_grid(log_p, s=s, t=t, rho=rho)
    sd = tuple(np.array(pair) for pair in zip(m["s"], m["t"], strict=True))
    return {"sd": sd, "rho": m["rho"]}


ENTRIES = [
    Entry("diabetes_ten_columns", "linear", diabetes, diabetes_data, diabetes_exact),
    Entry("breast_cancer_logit", "glm", tumours, tumour_data),
    Entry("iris_softmax", "glm", iris, iris_data),
    Entry("wine_cultivar_slopes", "linear", wine, wine_data, wine_exact),
    Entry("stack_loss_t", "linear", stack_loss, stack_data),
    Entry("upper_quartile", "linear", upper_quartile, quantile_data, upper_quartile_exact),
    Entry("two_poisson_rates", "conjugate", two_rates, calls_data, two_rates_exact),
    Entry("aspirin_difference", "conjugate", aspirin, aspirin_data, aspirin_exact),
    Entry("plant_contrasts", "linear", plants, plants_data, plants_exact),
    Entry("wishart_precision", "conjugate", wishart, setosa_data, wishart_exact),
    Entry("poststratified_survey", "conjugate", survey, survey_data, survey_exact),
    Entry("correlation_uniform", "linear", correlation, petals_data, correlation_exact),
]
