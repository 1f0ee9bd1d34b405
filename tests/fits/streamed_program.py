"""A fit to shards that tests run in processes of their own: alone, under torchrun, or killed."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.data import Shards
from pyro_cookbook.engines import stochastic
from pyro_cookbook.engines.svi import SVI

NUM_FEATURES, NUM_FACTORS, NUM_STEPS, KILLED_AT = 4, 1, 260, 87


def fit_shards(
    folder: Path, checkpoint: Path | None = None, *, parts: int | None = 2, steps: int = NUM_STEPS
) -> pc.Fit:
    """Fit factor analysis and its encoder to shards, in batches that divide no epoch."""
    rows = Shards(folder, buffer=150, parts=parts, held_out=0.1, dtype=torch.float64)
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # the first process's start counts
    model = FactorAnalysis(NUM_FEATURES, NUM_FACTORS)
    guide = FactorAnalysisAmortized(NUM_FEATURES, NUM_FACTORS)
    return pc.fit(
        model, guide, rows, batch_size=32, lr=0.03, max_steps=steps, tol=10.0,
        checkpoint=checkpoint, progress=False,
    )  # fmt: skip


def state_of(fit: pc.Fit) -> dict[str, Tensor]:
    """Everything that two equal fits have in common."""
    found = {"losses": torch.tensor(fit.losses), "elbo": torch.tensor(fit.elbo.value)}
    for role, program in (("model", fit.model), ("guide", fit.guide)):
        found |= {f"{role}.{name}": value for name, value in program.state_dict().items()}
    return found


def killed_in_the_middle(step: int) -> None:
    """End this process by SIGKILL at a step, as if the machine had gone."""
    take = SVI.step

    def step_or_die(self: SVI) -> None:
        if len(self.losses) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        take(self)

    SVI.step = step_or_die


if __name__ == "__main__":
    what, folder, checkpoint, out = sys.argv[1], *map(Path, sys.argv[2:])
    stochastic.SAVE_EVERY = 50
    torch.set_num_threads(1)
    if what == "killed":
        killed_in_the_middle(KILLED_AT)
    found = fit_shards(folder, checkpoint, parts=2 if what == "killed" else None)
    if os.environ.get("RANK", "0") == "0":
        torch.save(state_of(found), out)
