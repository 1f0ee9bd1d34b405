"""The three models in Pyro."""

import pyro
import pyro.distributions as dist
import torch
from problems import PROBLEMS


def eight_schools(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma), dim=-1):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def logistic(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("row", len(x), dim=-1):
        pyro.sample("y", dist.Bernoulli(logits=a + x @ b), obs=y)


def hierarchical(x, group, labels, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("group", len(labels), dim=-1):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x), dim=-1):
        pyro.sample("y", dist.Poisson((a + x @ b + tau * eta[group]).exp()), obs=y)


MODELS = {"eight_schools": eight_schools, "logistic": logistic, "hierarchical": hierarchical}


def data(name, **sizes):
    return tuple(torch.as_tensor(value) for value in PROBLEMS[name](**sizes).values())
