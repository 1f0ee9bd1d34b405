"""One cold fit by NumPyro's SVI: python with_numpyro.py PROBLEM LEARNING_RATE STEPS."""

import json
import sys

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from problems import PROBLEMS, SITES

jax.config.update("jax_enable_x64", True)


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8, dim=-1):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def logistic(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("row", len(x), dim=-1):
        numpyro.sample("y", dist.Bernoulli(logits=a + x @ b), obs=y)


def hierarchical(x, group, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("group", 120, dim=-1):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x), dim=-1):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + x @ b + tau * eta[group])), obs=y)


MODELS = {"eight_schools": eight_schools, "logistic": logistic, "hierarchical": hierarchical}

name, rate, steps = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
model = MODELS[name]
arguments = [jnp.asarray(value) for value in PROBLEMS[name]().values()]
svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(rate), Trace_ELBO())
found = svi.run(jax.random.PRNGKey(0), steps, *arguments, progress_bar=False).params
print(
    json.dumps(
        {
            key: [v for s in SITES[name] for v in found[f"{s}_auto_{key}"].ravel().tolist()]
            for key in ("loc", "scale")
        }
    )
)
