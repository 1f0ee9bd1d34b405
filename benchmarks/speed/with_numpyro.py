"""One cold fit by NumPyro's SVI: python with_numpyro.py PROBLEM LEARNING_RATE STEPS."""

import json
import sys

import jax
import jax.example_libraries.optimizers
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
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


def hierarchical(x, group, labels, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("group", len(labels), dim=-1):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x), dim=-1):
        numpyro.sample("y", dist.Poisson(jnp.exp(a + x @ b + tau * eta[group])), obs=y)


MODELS = {"eight_schools": eight_schools, "logistic": logistic, "hierarchical": hierarchical}


def fit(name, rate, steps, family="mean_field", *, decay=False, **sizes):
    """Location, and scale or root of the covariance, in the order of SITES."""
    model, rows = MODELS[name], PROBLEMS[name](**sizes)
    guide = {"mean_field": AutoNormal, "full_rank": AutoMultivariateNormal}[family](model)
    if decay:  # to a hundredth of itself by the last step
        rate = jax.example_libraries.optimizers.exponential_decay(rate, steps, 0.01)
    svi = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO())
    arguments = [jnp.asarray(value) for value in rows.values()]
    found = svi.run(jax.random.PRNGKey(0), steps, *arguments, progress_bar=False).params
    if family == "mean_field":
        return {
            key: np.concatenate([np.ravel(found[f"{s}_auto_{key}"]) for s in SITES[name]])
            for key in ("loc", "scale")
        }
    # The one vector has the sites in the order in which the model draws them: that of SITES.
    return {"loc": np.asarray(found["auto_loc"]), "root": np.asarray(found["auto_scale_tril"])}


if __name__ == "__main__":
    found = fit(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({key: value.tolist() for key, value in found.items()}))
