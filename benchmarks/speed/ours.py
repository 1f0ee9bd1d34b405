"""One cold fit by this project: python ours.py PROBLEM. Prints location and scale as JSON."""

import json
import sys

import torch

torch.set_default_dtype(torch.float64)

from problems import SITES  # noqa: E402
from pyro_models import MODELS, data  # noqa: E402

import pyro_cookbook as pc  # noqa: E402

name = sys.argv[1]
fit = pc.fit(MODELS[name], "mean_field", *data(name))
guide = fit.guide
print(
    json.dumps(
        {
            "loc": [v for s in SITES[name] for v in getattr(guide.locs, s).flatten().tolist()],
            "scale": [v for s in SITES[name] for v in getattr(guide.scales, s).flatten().tolist()],
        }
    )
)
