"""One cold fit by PyMC's ADVI: python with_pymc.py PROBLEM ITERATIONS."""

import json
import sys

import numpy as np
import pymc as pm
from problems import PROBLEMS, SITES


def model(name, data):
    """The model in PyMC; its names are the others'."""
    with pm.Model() as made:
        if name == "eight_schools":
            mu = pm.Normal("mu", 0.0, 5.0)
            tau = pm.HalfCauchy("tau", 5.0)
            eta = pm.Normal("eta", 0.0, 1.0, shape=8)
            pm.Normal("y", mu + tau * eta, data["sigma"], observed=data["y"])
        elif name == "logistic":
            a = pm.Normal("a", 0.0, 5.0)
            b = pm.Normal("b", 0.0, 2.0, shape=data["x"].shape[1])
            pm.Bernoulli("y", logit_p=a + data["x"] @ b, observed=data["y"])
        else:
            a = pm.Normal("a", 0.0, 2.0)
            b = pm.Normal("b", 0.0, 1.0, shape=3)
            tau = pm.HalfNormal("tau", 1.0)
            eta = pm.Normal("eta", 0.0, 1.0, shape=len(data["labels"]))
            rate = pm.math.exp(a + data["x"] @ b + tau * eta[data["group"]])
            pm.Poisson("y", rate, observed=data["y"])
    return made


def fit(name, iterations, family="mean_field", *, rate=None, **sizes):
    """Location, and scale or root of the covariance, in the order of SITES; a rate is Adam's."""
    options = {"obj_optimizer": pm.adam(learning_rate=rate)} if rate else {}
    with model(name, PROBLEMS[name](**sizes)):
        method = {"mean_field": "advi", "full_rank": "fullrank_advi"}[family]
        found = pm.fit(n=iterations, method=method, progressbar=False, random_seed=0, **options)
    places = {key.removesuffix("_log__"): part for key, (_, part, _, _) in found.ordering.items()}
    order = np.concatenate([np.arange(len(found.mean.eval()))[places[s]] for s in SITES[name]])
    given = {"loc": found.mean.eval()[order]}
    if family == "mean_field":
        given["scale"] = found.std.eval()[order]
    else:
        given["root"] = np.linalg.cholesky(found.cov.eval()[np.ix_(order, order)])
    return given


if __name__ == "__main__":
    found = fit(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({key: value.tolist() for key, value in found.items()}))
