"""Generalised linear models, item response and survival: two exact, the others by long NUTS."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform
from scipy import special, stats
from torch import Tensor
from torch.distributions import constraints

from .entry import Entry, Moments, arrays, tensors
from .exact import on_grid


def _design(seed: int, num_rows: int, D: int) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng, rng.normal(size=(num_rows, D))


def logistic_data() -> tuple[Tensor, ...]:
    rng, X = _design(101, 200, 4)
    return tensors(X, rng.binomial(1, special.expit(-0.5 + X @ [1.0, -0.7, 0.3, 0.0])) * 1.0)


def logistic(X, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 2.5))
    beta = pyro.sample("beta", dist.Normal(0.0, 2.5).expand([4]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=alpha + X @ beta), obs=y)


def separated_data() -> tuple[Tensor, ...]:
    """Every x above 0 is a success: the likelihood has no maximum."""
    x = np.array([-2.1, -1.3, -1.0, -0.6, -0.2, 0.3, 0.5, 0.9, 1.4, 2.2])
    return tensors(x, (x > 0) * 1.0)


def separated(x, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=alpha + beta * x), obs=y)


def separated_exact() -> Moments:
    x, y = arrays(separated_data)
    a, b = np.meshgrid(np.linspace(-60, 60, 601), np.linspace(-60, 80, 701), indexing="ij")
    log_p = stats.norm.logpdf(a, 0, 10) + stats.norm.logpdf(b, 0, 10)
    for x_n, y_n in zip(x, y, strict=True):
        log_p -= np.logaddexp(0, (1 - 2 * y_n) * (a + b * x_n))
    return on_grid(log_p, alpha=a, beta=b)


def bioassay_data() -> tuple[Tensor, ...]:
    """Log dose, animals and deaths: Gelman et al. (2013), *Bayesian Data Analysis*, table 3.1."""
    return tensors([-0.86, -0.30, -0.05, 0.73], [5.0] * 4, [0.0, 1.0, 3.0, 5.0])


def bioassay(log_dose, animals, deaths):
    coefficients = pyro.sample("ab", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    logits = coefficients[0] + coefficients[1] * log_dose
    pyro.sample("deaths", dist.Binomial(animals, logits=logits).to_event(1), obs=deaths)


def bioassay_exact() -> Moments:
    x, n, y = arrays(bioassay_data)
    a, b = np.meshgrid(np.linspace(-10, 25, 1401), np.linspace(-15, 120, 1351), indexing="ij")
    logits = a[..., None] + b[..., None] * x
    m = on_grid(np.sum(y * logits - n * np.logaddexp(0, logits), axis=-1), a=a, b=b)
    return {"ab": (np.array([m["a"][0], m["b"][0]]), np.array([m["a"][1], m["b"][1]]))}


def poisson_data() -> tuple[Tensor, ...]:
    rng, X = _design(102, 150, 3)
    return tensors(X, rng.poisson(np.exp(0.8 + X @ [0.4, -0.3, 0.1])) * 1.0)


def poisson(X, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson((alpha + X @ beta).exp()), obs=y)


def negative_binomial_data() -> tuple[Tensor, ...]:
    rng, X = _design(103, 200, 3)
    mean = np.exp(1.2 + X @ [0.5, 0.0, -0.4])
    return tensors(X, rng.poisson(mean * rng.gamma(2.0, 0.5, 200)) * 1.0)


def negative_binomial(X, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    size = pyro.sample("size", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        logits = alpha + X @ beta - size.log()
        pyro.sample("y", dist.NegativeBinomial(size, logits=logits), obs=y)


def zero_inflated_data() -> tuple[Tensor, ...]:
    rng, X = _design(104, 200, 1)
    counts = rng.poisson(np.exp(1.0 + 0.5 * X[:, 0])) * rng.binomial(1, 0.7, 200)
    return tensors(X[:, 0], counts * 1.0)


def zero_inflated(x, y):
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.ZeroInflatedPoisson((a + b * x).exp(), gate=gate), obs=y)


def ordered_data() -> tuple[Tensor, ...]:
    rng, X = _design(105, 200, 3)
    latent = X @ [0.8, -0.5, 0.2] + rng.logistic(size=200)
    return tensors(X, np.digitize(latent, [-1.5, -0.3, 0.8, 2.0]))


def ordered_logit(X, y):
    beta = pyro.sample("beta", dist.Normal(0.0, 2.5).expand([3]).to_event(1))
    base = dist.Normal(0.0, 2.0).expand([4]).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(base, OrderedTransform()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.OrderedLogistic(X @ beta, cuts), obs=y)


def multinomial_data() -> tuple[Tensor, ...]:
    rng, X = _design(106, 200, 3)
    logits = X @ np.array([[0.0, 1.0, -0.5], [0.0, 0.2, 0.8], [0.0, -0.6, 0.3]])
    return tensors(X, np.argmax(logits + rng.gumbel(size=(200, 3)), axis=1))


def multinomial_logit(X, y):
    W = pyro.sample("W", dist.Normal(0.0, 2.0).expand([3, 2]).to_event(2))
    b = pyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    logits = torch.cat([torch.zeros(len(X), 1), X @ W + b], dim=-1)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def rasch_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(107)
    theta, b = rng.normal(size=30), rng.normal(size=10)
    return tensors(rng.binomial(1, special.expit(theta[:, None] - b)) * 1.0)


def rasch(y):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0).expand([y.shape[0]]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 2.0).expand([y.shape[1]]).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=theta[:, None] - b).to_event(2), obs=y)


def two_parameter_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(108)
    theta, b, a = rng.normal(size=60), rng.normal(size=8), np.exp(rng.normal(0.2, 0.3, 8))
    return tensors(rng.binomial(1, special.expit(a * (theta[:, None] - b))) * 1.0)


def two_parameter(y):
    with pyro.plate("item", y.shape[1], dim=-1):
        a = pyro.sample("a", dist.LogNormal(0.0, 0.5))
        b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("person", y.shape[0], dim=-2):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    pyro.factor("answers", dist.Bernoulli(logits=a * (theta - b)).log_prob(y).sum())


def weibull_data() -> tuple[Tensor, ...]:
    rng, X = _design(109, 150, 2)
    lifetime = np.exp(1.0 + X @ [0.5, -0.3]) * rng.weibull(1.5, 150)
    return tensors(X, np.minimum(lifetime, 4.0), (lifetime < 4.0) * 1.0)


def weibull(X, time, died):
    shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    log_ratio = time.log() - alpha - X @ beta
    log_hazard = shape.log() - time.log() + shape * log_ratio
    pyro.factor("survival", (died * log_hazard - (shape * log_ratio).exp()).sum())


def gamma_data() -> tuple[Tensor, ...]:
    rng, X = _design(110, 120, 2)
    return tensors(X, rng.gamma(3.0, np.exp(0.5 + X @ [0.4, -0.2]) / 3.0))


def gamma_regression(X, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    shape = pyro.sample("shape", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gamma(shape, shape * (-alpha - X @ beta).exp()), obs=y)


ENTRIES = [
    Entry("logistic", "glm", logistic, logistic_data),
    Entry("logistic_separated", "boundary", separated, separated_data, separated_exact),
    Entry("bioassay_flat", "glm", bioassay, bioassay_data, bioassay_exact),
    Entry("poisson", "glm", poisson, poisson_data),
    Entry("negative_binomial", "glm", negative_binomial, negative_binomial_data),
    Entry("zero_inflated_poisson", "glm", zero_inflated, zero_inflated_data),
    Entry("ordered_logit", "glm", ordered_logit, ordered_data),
    Entry("multinomial_logit", "glm", multinomial_logit, multinomial_data),
    Entry("rasch", "glm", rasch, rasch_data),
    Entry("item_response_2pl", "glm", two_parameter, two_parameter_data),
    Entry("weibull_censored", "glm", weibull, weibull_data),
    Entry("gamma_regression", "glm", gamma_regression, gamma_data),
]
