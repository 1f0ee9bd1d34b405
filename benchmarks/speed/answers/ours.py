"""One cold answer by this project: python ours.py MODEL FILE. Prints means and sds as JSON."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
sys.path.insert(0, str(Path(__file__).parents[2] / "verdict"))

from zoo import MODELS  # noqa: E402

import pyro_cookbook as pc  # noqa: E402

name, file = sys.argv[1:]
data = [torch.as_tensor(value) for value in np.load(file).values()]
answer = pc.infer(MODELS[name].model, *data, progress=False)
posterior = answer.tree()["posterior"].to_dataset()
found = {"verdict": answer.verdict, "rung": answer.tried.index[-1]}
for which in ("mean", "std"):
    over = getattr(posterior, which)(("chain", "draw"))
    found[which] = {str(site): np.ravel(value).tolist() for site, value in over.items()}
print(json.dumps(found))
