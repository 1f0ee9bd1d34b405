"""Seconds from a cold process to numbers that may be used, beside NumPyro's NUTS.

    python benchmarks/speed/answers/run.py --peers PYTHON [--runs 5] [MODEL …]

PYTHON is an interpreter that has numpyro. Each answer is a process of its own, timed from its
start to its end, imports and compilation included: `pc.infer` with its defaults, and NUTS with
four chains of 1,000 draws after 1,000 of warm-up. Runs are interleaved. Their means and sds are
compared with the known ones of `benchmarks/verdict`: "error" is the largest, of a mean in sds or of
an sd as a share. Writes results.md beside this file; models that are not named keep their rows.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "verdict")]

import torch  # noqa: E402

torch.set_default_dtype(torch.float64)

from cold import rows_of, run  # noqa: E402
from study import errors, truth  # noqa: E402
from zoo import MODELS  # noqa: E402

NAMES = (
    "logistic", "poisson", "negative_binomial", "robust_t", "weibull_censored", "rasch",
    "gp_hyperparameters", "local_level", "radon_centred", "pumps", "batting", "varying_slopes",
    "logistic_120_groups",
)  # fmt: skip
MAX_SHIFT, MAX_STRETCH = 0.1, 0.1
INTRODUCTION = """\
Each answer is a process of its own, timed from its start to its end, imports and compilation
included: `pc.infer` with its defaults, and NumPyro's NUTS with four chains of 1,000 draws after
1,000 of warm-up, one after the other, as it does by default on a processor. "Error" is the largest
over all latent scalars, of means in posterior sds and of sds as a share, against exact answers or
long runs; bold if both are at most a tenth. Written by `run.py`, run by run in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=NAMES)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    sides = {"ours": (sys.executable, "ours.py"), "NumPyro": (chosen.peers, "with_numpyro.py")}
    rows = rows_of(HERE / "results.md", NAMES)
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.models:
            file, known = Path(folder) / f"{name}.npz", truth(name)
            np.savez(file, *[value.numpy() for value in MODELS[name].data()])
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            found: dict[str, dict] = {}
            for _ in range(chosen.runs):
                for side, (python, script) in sides.items():
                    spent, found[side] = run(python, HERE / script, name, file)
                    seconds[side].append(spent)
            cells, median = {}, {side: statistics.median(s) for side, s in seconds.items()}
            for side, spent in seconds.items():
                moments = {s: (m, found[side]["std"][s]) for s, m in found[side]["mean"].items()}
                shift, stretch, _ = errors(moments, known)
                good = shift <= MAX_SHIFT and stretch <= MAX_STRETCH
                error = f"{shift:.2f}, {stretch:.0%}"
                cells[side] = (
                    f"{median[side]:.1f} ({min(spent):.1f} to {max(spent):.1f})",
                    f"**{error}**" if good else error,
                )
            ratio = median["NumPyro"] / median["ours"]
            rows[name] = (
                f"| {name} | {chosen.runs} | {cells['ours'][0]} | {found['ours']['rung']} |"
                f" {cells['ours'][1]} | {cells['NumPyro'][0]} | {cells['NumPyro'][1]} |"
                f" {ratio:.2f} |"
            )
            print(rows[name], flush=True)
            write(rows, HERE / "results.md")


def write(rows: dict[str, str], file: Path) -> None:
    """Write the table, in the order of NAMES."""
    ordered = [rows[name] for name in NAMES if name in rows]
    accurate = [row for row in ordered if row.count("**") == 4]  # both errors are bold
    ahead = sum(float(row.split("|")[-2]) > 1 for row in accurate)
    lines = [
        "# Seconds from a cold process to an answer",
        "",
        INTRODUCTION,
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, medians (smallest to largest).",
        "",
        "| model | runs | `pc.infer`, s | rung | error | NumPyro NUTS, s | error | times faster |",
        "|---|--:|--:|---|--:|--:|--:|--:|",
        *ordered,
        "",
        f"Ahead on {ahead} of the {len(accurate)} where both are within a tenth.",
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
