"""Long NUTS runs for the models of the zoo that have no exact answer.

    python benchmarks/verdict/references.py [name …]

Writes references.csv beside this file: mean, sd, effective sample size and R-hat of every scalar.
Names given are run anew; without names, those not in the file yet. About twenty minutes in all.
"""

import sys
import time
from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import torch
from zoo import MODELS, Entry

import pyro_cookbook as pc

HERE = Path(__file__).parent
FILE = HERE / "references.csv"
NUM_DRAWS, NUM_WARMUP, NUM_CHAINS = 1000, 300, 4
# Posteriors whose corners need short steps.
CAREFUL = {
    "gp_counts": 0.98,
    "horseshoe": 0.98,
    "crossed_effects": 0.9,
    "stochastic_volatility": 0.9,
    "volatility_centred": 0.95,
    "ordered_logit_groups": 0.9,
    "bradley_terry": 0.9,
    "regularised_horseshoe": 0.98,
    "blocker_trials": 0.9,
    "seeds_overdispersed": 0.9,
}

# A tail so rare that its weight in the sd needs many more draws, or chains that move slowly.
LONG = {"one_compartment": 6000, "gp_counts": 2500}


def reference(entry: Entry) -> pd.DataFrame:
    """Sample one model, in the form that NUTS samples well, and summarise its own sites."""
    model, data = entry.reference_model or entry.model, entry.data()
    fit = pc.fit(model, "full_rank", *data)
    tree = pc.sample(
        fit,
        num_draws=LONG.get(entry.name, NUM_DRAWS),
        num_warmup=NUM_WARMUP,
        num_chains=NUM_CHAINS,
        target_accept=CAREFUL.get(entry.name, 0.8),
    )
    draws = {str(name): value.to_numpy() for name, value in tree["posterior"].data_vars.items()}
    summary = az.summary(tree, kind="diagnostics", round_to="none")
    worst = {"ess": summary["ess_bulk"].min(), "r_hat": summary["r_hat"].max()}
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}
    if entry.reference_map is not None:
        flat = entry.reference_map(flat)
    rows = []
    for name, value in flat.items():
        columns = np.asarray(value).reshape(len(value), -1)
        for i, (mean, sd) in enumerate(zip(columns.mean(0), columns.std(0), strict=True)):
            rows.append({"model": entry.name, "site": name, "index": i, "mean": mean, "sd": sd})
    diverging = int(tree["sample_stats"]["diverging"].sum())
    return pd.DataFrame(rows).assign(**worst, divergences=diverging)


def main(names: list[str]) -> None:
    torch.set_default_dtype(torch.float64)
    done = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame({"model": []})
    missing = [
        e.name for e in MODELS.values() if e.exact is None and e.name not in set(done["model"])
    ]
    for name in names or missing:
        started = time.perf_counter()
        try:
            table = reference(MODELS[name])
        except Exception as error:
            print(f"{name:28s} FAILED {type(error).__name__}: {error}", flush=True)
            continue
        # Read again: another run of this script may have added models meanwhile.
        done = pd.read_csv(FILE) if FILE.exists() else done
        done = pd.concat([done[done["model"] != name], table])
        done.to_csv(FILE, index=False, float_format="%.8g")
        first = table.iloc[0]
        print(
            f"{name:28s} {time.perf_counter() - started:6.1f} s, ESS {first['ess']:6.0f},"
            f" R-hat {first['r_hat']:.3f}, {first['divergences']} divergences",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
