"""One cold fit by PyMC's ADVI: python with_pymc.py PROBLEM ITERATIONS."""

import json
import sys

import numpy as np
import pymc as pm
from problems import PROBLEMS, SITES

name, iterations = sys.argv[1], int(sys.argv[2])
data = PROBLEMS[name]()

with pm.Model() as model:
    if name == "eight_schools":
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        eta = pm.Normal("eta", 0.0, 1.0, shape=8)
        pm.Normal("y", mu + tau * eta, data["sigma"], observed=data["y"])
    elif name == "logistic":
        a = pm.Normal("a", 0.0, 5.0)
        b = pm.Normal("b", 0.0, 2.0, shape=25)
        pm.Bernoulli("y", logit_p=a + data["x"] @ b, observed=data["y"])
    else:
        a = pm.Normal("a", 0.0, 2.0)
        b = pm.Normal("b", 0.0, 1.0, shape=3)
        tau = pm.HalfNormal("tau", 1.0)
        eta = pm.Normal("eta", 0.0, 1.0, shape=120)
        rate = pm.math.exp(a + data["x"] @ b + tau * eta[data["group"]])
        pm.Poisson("y", rate, observed=data["y"])
    found = pm.fit(n=iterations, method="advi", progressbar=False, random_seed=0)

ordering = {key.removesuffix("_log__"): part for key, (_, part, _, _) in found.ordering.items()}
mean, sd = found.mean.eval(), found.std.eval()
print(
    json.dumps(
        {
            key: np.concatenate([np.ravel(value[ordering[s]]) for s in SITES[name]]).tolist()
            for key, value in (("loc", mean), ("scale", sd))
        }
    )
)
