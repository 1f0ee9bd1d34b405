"""Textbook posteriors of one site or two, closed by conjugacy."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special
from torch import Tensor
from torch.distributions import constraints

from .entry import Entry, Moments, arrays, tensors


def _beta(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = a / (a + b)
    return mean, np.sqrt(mean * (1 - mean) / (a + b + 1))


def coin_data() -> tuple[Tensor, ...]:
    return tensors([1.0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1])


def coin(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("toss", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def coin_exact() -> Moments:
    (y,) = arrays(coin_data)
    return {"p": _beta(1 + y.sum(), 1 + len(y) - y.sum())}


def no_success_data() -> tuple[Tensor, ...]:
    return tensors(np.zeros(5))


def no_success(y):
    """Jeffreys' prior and five failures: the density is infinite at 0."""
    p = pyro.sample("p", dist.Beta(0.5, 0.5))
    pyro.sample("y", dist.Bernoulli(p).expand([5]).to_event(1), obs=y)


def no_success_exact() -> Moments:
    return {"p": _beta(np.array(0.5), np.array(5.5))}


def ab_data() -> tuple[Tensor, ...]:
    return tensors([1000.0, 1000.0], [48.0, 67.0])


def ab_test(visits, sales):
    with pyro.plate("page", 2):
        p = pyro.sample("p", dist.Beta(1.0, 19.0))
        pyro.sample("sales", dist.Binomial(visits, p), obs=sales)


def ab_exact() -> Moments:
    n, y = arrays(ab_data)
    return {"p": _beta(1 + y, 19 + n - y)}


def deaths_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(701)
    lifetime = rng.exponential(8.0, 30)
    return tensors(np.minimum(lifetime, 10.0), (lifetime < 10.0) * 1.0)


def exponential_censored(time, died):
    rate = pyro.sample("rate", dist.Gamma(2.0, 10.0))
    pyro.factor("survival", (died * rate.log() - rate * time).sum())


def exponential_exact() -> Moments:
    time, died = arrays(deaths_data)
    a, b = 2 + died.sum(), 10 + time.sum()
    return {"rate": (a / b, np.sqrt(a) / b)}


def votes_data() -> tuple[Tensor, ...]:
    return tensors([31.0, 14.0, 6.0, 2.0, 0.0])


def votes(counts):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(5)))
    pyro.sample("counts", dist.Multinomial(int(counts.sum()), probs=p), obs=counts)


def _dirichlet(a: np.ndarray) -> Moments:
    return {"p": _beta(a, a.sum() - a)}


def votes_exact() -> Moments:
    return _dirichlet(1 + arrays(votes_data)[0])


def sparse_data() -> tuple[Tensor, ...]:
    return tensors([3.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def sparse(counts):
    """Shares that are mostly 0: the mass lies at the edges of the simplex."""
    p = pyro.sample("p", dist.Dirichlet(torch.full((8,), 0.2)))
    pyro.factor("counts", (counts * p.log()).sum(-1))


def sparse_exact() -> Moments:
    return _dirichlet(0.2 + arrays(sparse_data)[0])


def variance_data() -> tuple[Tensor, ...]:
    return tensors([0.4, -1.3, 2.2, 0.1])


def variance(y):
    v = pyro.sample("v", dist.InverseGamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(0.0, v.sqrt()), obs=y)


def variance_exact() -> Moments:
    (y,) = arrays(variance_data)
    a, b = 2 + len(y) / 2, 1 + np.sum(y**2) / 2
    return {"v": (b / (a - 1), b / (a - 1) / np.sqrt(a - 2))}


def jeffreys_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(702)
    return tensors(100 + 5 * rng.normal(size=12))


def jeffreys(y):
    """A flat prior on mu, and one proportional to 1 / sigma."""
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    pyro.factor("prior", -sigma.log())
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def jeffreys_exact() -> Moments:
    """σ² is inverse gamma with (n − 1)/2 and S/2; mu is Student t."""
    (y,) = arrays(jeffreys_data)
    n, S = len(y), np.sum((y - y.mean()) ** 2)
    variance = S / (n - 3)
    ratio = np.exp(special.gammaln((n - 2) / 2) - special.gammaln((n - 1) / 2))
    mean = np.sqrt(S / 2) * ratio
    return {
        "mu": (y.mean(), np.sqrt(variance / n)),
        "sigma": (mean, np.sqrt(variance - mean**2)),
    }


ENTRIES = [
    Entry("beta_bernoulli", "conjugate", coin, coin_data, coin_exact),
    Entry("no_success_in_five", "boundary", no_success, no_success_data, no_success_exact),
    Entry("ab_test", "conjugate", ab_test, ab_data, ab_exact),
    Entry(
        "exponential_censored", "conjugate", exponential_censored, deaths_data, exponential_exact
    ),
    Entry("dirichlet_multinomial", "conjugate", votes, votes_data, votes_exact),
    Entry("dirichlet_sparse", "boundary", sparse, sparse_data, sparse_exact),
    Entry("inverse_gamma_variance", "heavy tail", variance, variance_data, variance_exact),
    Entry("jeffreys_normal", "conjugate", jeffreys, jeffreys_data, jeffreys_exact),
]
