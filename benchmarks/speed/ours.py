"""One cold fit by this project: python ours.py PROBLEM. Prints location and scale as JSON."""

import json
import sys

import numpy as np
from problems import SITES

import pyro_cookbook as pc

# isort: split
from pyro_models import MODELS, data


def fit(name, family="mean_field", **sizes):
    """Location, and scale or root of the covariance, in the order of SITES."""
    found = pc.fit(MODELS[name], family, *data(name, **sizes), progress=False)
    guide = found.guide
    if family == "mean_field":
        return {
            key: np.concatenate(
                [
                    getattr(getattr(guide, f"{key}s"), s).detach().numpy().ravel()
                    for s in SITES[name]
                ]
            )
            for key in ("loc", "scale")
        }
    # The one vector has the sites in the order in which the model draws them: that of SITES.
    loc, root = guide.get_posterior().loc, guide.get_posterior().scale_tril
    return {"loc": loc.detach().numpy(), "root": root.detach().numpy()}


if __name__ == "__main__":
    import torch

    torch.set_default_dtype(torch.float64)
    found = fit(sys.argv[1])
    print(json.dumps({key: value.tolist() for key, value in found.items()}))
