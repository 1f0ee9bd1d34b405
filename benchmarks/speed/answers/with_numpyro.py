"""One cold answer by NumPyro's NUTS: python with_numpyro.py MODEL FILE. Means and sds as JSON.

Four chains of 1,000 draws after 1,000 of warm-up, all else as NumPyro has it by default. Models
are those of the zoo, word for word.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import sample
from numpyro.infer import MCMC, NUTS


def logistic(X, y):
    alpha = sample("alpha", dist.Normal(0.0, 2.5))
    beta = sample("beta", dist.Normal(0.0, 2.5).expand([4]).to_event(1))
    with numpyro.plate("row", len(y)):
        sample("y", dist.Bernoulli(logits=alpha + X @ beta), obs=y)


def poisson(X, y):
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    beta = sample("beta", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("row", len(y)):
        sample("y", dist.Poisson(jnp.exp(alpha + X @ beta)), obs=y)


def negative_binomial(X, y):
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    beta = sample("beta", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    size = sample("size", dist.Gamma(2.0, 0.5))
    with numpyro.plate("row", len(y)):
        sample("y", dist.NegativeBinomial2(jnp.exp(alpha + X @ beta), size), obs=y)


def robust_t(X, y):
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    beta = sample("beta", dist.Normal(0.0, 2.5).expand([3]).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    nu = sample("nu", dist.Gamma(2.0, 0.1))
    with numpyro.plate("row", len(y)):
        sample("y", dist.StudentT(nu, alpha + X @ beta, sigma), obs=y)


def rasch(y):
    theta = sample("theta", dist.Normal(0.0, 1.0).expand([y.shape[0]]).to_event(1))
    b = sample("b", dist.Normal(0.0, 2.0).expand([y.shape[1]]).to_event(1))
    sample("y", dist.Bernoulli(logits=theta[:, None] - b).to_event(2), obs=y)


def gp_hyperparameters(x, y):
    lengthscale = sample("lengthscale", dist.InverseGamma(5.0, 5.0))
    amplitude = sample("amplitude", dist.HalfNormal(2.0))
    noise = sample("noise", dist.HalfNormal(1.0))
    C = amplitude**2 * jnp.exp(-0.5 * ((x[:, None] - x) / lengthscale) ** 2)
    C = C + (noise**2 + 1e-6) * jnp.eye(len(x))  # 1e-9 is too small for single precision
    sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), C), obs=y)


def local_level(y):
    start = sample("start", dist.Normal(0.0, 5.0))
    step = sample("step", dist.HalfNormal(1.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    z = sample("z", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    sample("y", dist.Normal(start + step * jnp.cumsum(z), sigma).to_event(1), obs=y)


def weibull_censored(X, time, died):
    shape = sample("shape", dist.LogNormal(0.0, 1.0))
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    beta = sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    log_ratio = jnp.log(time) - alpha - X @ beta
    log_hazard = jnp.log(shape) - jnp.log(time) + shape * log_ratio
    numpyro.factor("survival", (died * log_hazard - jnp.exp(shape * log_ratio)).sum())


def radon_centred(county, floor, y):
    mu = sample("mu", dist.Normal(0.0, 5.0))
    slope = sample("slope", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfNormal(1.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("county", 30):
        level = sample("level", dist.Normal(mu, tau))
    with numpyro.plate("house", len(y)):
        sample("y", dist.Normal(level[county] + slope * floor, sigma), obs=y)


def pumps(hours, failures):
    alpha = sample("alpha", dist.Exponential(1.0))
    beta = sample("beta", dist.Gamma(0.1, 1.0))
    with numpyro.plate("pump", len(hours)):
        rate = sample("rate", dist.Gamma(alpha, beta))
        sample("failures", dist.Poisson(rate * hours), obs=failures)


def varying_slopes(group, x, y):
    mu = sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    tau = sample("tau", dist.HalfNormal(2.0).expand([2]).to_event(1))
    L = sample("L", dist.LKJCholesky(2, 2.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    z = sample("z", dist.Normal(0.0, 1.0).expand([15, 2]).to_event(2))
    u = mu + z @ (tau[:, None] * L).T
    with numpyro.plate("row", len(y)):
        sample("y", dist.Normal(u[group, 0] + u[group, 1] * x, sigma), obs=y)


def logistic_120_groups(group, x, y):
    mu = sample("mu", dist.Normal(0.0, 2.5))
    slope = sample("slope", dist.Normal(0.0, 2.5))
    tau = sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("group", 120):
        z = sample("z", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        sample("y", dist.Bernoulli(logits=mu + tau * z[group] + slope * x), obs=y)


def batting(hits):
    phi = sample("phi", dist.Beta(2.0, 2.0))
    kappa = sample("kappa", dist.LogNormal(4.0, 1.0))
    with numpyro.plate("player", len(hits)):
        theta = sample("theta", dist.Beta(phi * kappa, (1 - phi) * kappa))
        sample("hits", dist.Binomial(45, theta), obs=hits)


name, file = sys.argv[1:]
data = [jnp.asarray(value) for value in np.load(file).values()]
chains = MCMC(NUTS(globals()[name]), num_warmup=1000, num_samples=1000, num_chains=4,
              progress_bar=False)  # fmt: skip
chains.run(jax.random.PRNGKey(0), *data)
draws = {site: np.asarray(value, dtype=float) for site, value in chains.get_samples().items()}
print(
    json.dumps(
        {
            "mean": {site: value.mean(0).ravel().tolist() for site, value in draws.items()},
            "std": {site: value.std(0).ravel().tolist() for site, value in draws.items()},
        }
    )
)
