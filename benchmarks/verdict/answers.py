"""How often does `infer` answer, is the answer right, and how long does it take?

    python benchmarks/verdict/answers.py [--held-out] [--models NAME …] [--budget SECONDS] …

Asks for every model of the zoo and compares the numbers with the known answer. Writes answers.csv
(a row for each model) and answers.md beside this file. An answer is wrong if a mean is off by more
than a quarter of a posterior sd or an sd by more than 25%.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from study import MAX_SHIFT, MAX_STRETCH, errors, known_models, truth, where
from zoo import MODELS
from zoo.entry import Moments

import pyro_cookbook as pc

HERE = Path(__file__).parent


def one(name: str, budget: float, seed: int) -> dict:
    """Ask for one model."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    entry = MODELS[name]
    started = time.perf_counter()
    nothing = {"rung": "", "shift": np.nan, "stretch": np.nan, "where": ""}
    row = {"model": name, "kind": entry.kind, **nothing}
    try:
        answer = pc.infer(entry.model, *entry.data(), budget=budget, seed=seed, progress=False)
    except ValueError as error:
        seconds = time.perf_counter() - started
        return row | {"verdict": "refused", "seconds": seconds, "why": str(error)}
    row |= {
        "verdict": answer.verdict,
        "rung": answer.tried.index[-1],
        "seconds": time.perf_counter() - started,
        "why": answer.tried["why"].iloc[-1],
    }
    known = truth(name)
    options = {} if answer.fit.refinements else {"num_draws": 20_000}
    posterior = answer.tree(**options)["posterior"].to_dataset()
    shift, stretch, worst = errors(moments(posterior), known)
    return row | {"shift": shift, "stretch": stretch, "where": worst}


def moments(posterior: xr.Dataset) -> Moments:
    """Means and sds of draws, site by site."""
    by_draw = posterior.stack(all=("chain", "draw"), create_index=False)
    return {
        str(site): tuple(np.ravel(found) for found in (draws.mean("all"), draws.std("all")))
        for site, draws in by_draw.items()
    }


def summary(table: pd.DataFrame) -> str:
    """Write the counts and the models that were not answered in Markdown."""
    answered = table[table["verdict"].str.startswith("reliable")]
    known = answered[answered["shift"].notna()]
    wrong = known[(known["shift"] > MAX_SHIFT) | (known["stretch"] > MAX_STRETCH)]
    rest = table.drop(answered.index)
    lines = [
        f"- models: {len(table)}; answered: {len(answered)} ({len(answered) / len(table):.0%})",
        f"- answered and wrong, of {len(known)} with a known answer: {len(wrong)}"
        f"{''.join(f' ({name})' for name in wrong['model'])}",
        f"- seconds, processes and all: median {table['seconds'].median():.1f},"
        f" worst {table['seconds'].max():.1f} ({table.loc[table['seconds'].idxmax(), 'model']})",
        "- rungs: " + ", ".join(f"{n} {rung}" for rung, n in table["rung"].value_counts().items()),
        "",
        "| not answered | kind | seconds | why |",
        "|---|---|---|---|",
        *(f"| {r.model} | {r.kind} | {r.seconds:.0f} | {r.why} |" for r in rest.itertuples()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cluster", default="", help="address of a scheduler of Dask")
    parser.add_argument("--held-out", action="store_true", help="the models that came later")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    out = chosen.out or (HERE / "held_out" if chosen.held_out else HERE)
    out.mkdir(parents=True, exist_ok=True)
    names = chosen.models or known_models(chosen.held_out)
    rows = []

    def keep(_: str, row: dict) -> None:
        rows.append(row)
        table = pd.DataFrame(rows).sort_values("model")
        table.to_csv(out / "answers.csv", index=False, float_format="%.4g")

    with where(chosen.cluster, chosen.processes):
        pc.spread(
            lambda name: one(name, chosen.budget, chosen.seed), names, progress=None, on_result=keep
        )
    table = pd.DataFrame(rows).sort_values("model")
    (out / "answers.md").write_text(summary(table), encoding="utf-8")
    print(summary(table))


if __name__ == "__main__":
    from answers import main  # by that name other processes find its functions

    main()
