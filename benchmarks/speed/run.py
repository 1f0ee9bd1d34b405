"""Cold-process time to a mean-field fit, beside NumPyro's SVI and PyMC's ADVI.

    python benchmarks/speed/run.py --peers PYTHON [--runs 5] [--rates R …] [--steps N …]
        [--iterations N …] [PROBLEM …]

PYTHON is an interpreter that has numpyro and pymc. Every fit is its own process, timed from its
start to its end, imports and compilation included. Its location and scales are then judged by one
common estimate of the ELBO (32,768 quasi-random draws). A fit counts if it is within 0.1 nats of
the best ELBO that any of them reached; of each peer the fastest setting that counts is timed. The
settings are tried from few steps to many, at every learning rate, until one of them counts.
Writes results.md beside this file.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

torch.set_default_dtype(torch.float64)

from cold import run  # noqa: E402
from pyro_models import MODELS, data  # noqa: E402

from pyro_cookbook.engines.base_draws import base_draws  # noqa: E402
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity  # noqa: E402
from pyro_cookbook.programs.program import Program  # noqa: E402

HERE = Path(__file__).parent
RATES, STEPS = (0.1, 0.03, 0.01), (1_000, 2_000, 5_000, 10_000, 20_000)
ITERATIONS = (10_000, 20_000, 50_000, 100_000, 200_000)
WITHIN = 0.1


def elbo(density: UnconstrainedDensity, found: dict) -> float:
    """Bound of a mean-field fit, in nats."""
    loc, scale = np.array(found["loc"]), np.array(found["scale"])
    eps = base_draws(32_768, len(loc), seed=1)
    log_q = -(eps**2) / 2 - np.log(scale) - np.log(2 * np.pi) / 2
    return float((density.value(loc + scale * eps) - log_q.sum(1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="*", default=list(MODELS))
    parser.add_argument("--peers", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--iterations", type=int, nargs="+", default=ITERATIONS)
    args = parser.parse_args()
    lines = [
        "| problem | latents | this project, s | NumPyro SVI, s | PyMC ADVI, s |"
        " ELBO below the best (ours, NumPyro, PyMC), nats |",
        "|---|---|---|---|---|---|",
    ]
    for name in args.problems:
        density = UnconstrainedDensity(Program(MODELS[name], data(name)))
        # Settings of one length stand together: a longer run is never faster than a shorter one.
        numpyro, pymc = (args.peers, "with_numpyro.py", name), (args.peers, "with_pymc.py", name)
        settings: dict[str, list[list[tuple]]] = {
            "ours": [[(sys.executable, "ours.py", name)]],
            "NumPyro": [[(*numpyro, rate, n) for rate in args.rates] for n in args.steps],
            "PyMC": [[(*pymc, n)] for n in args.iterations],
        }
        tried: dict[tuple, tuple] = {}
        best = -np.inf
        for tool, lengths in settings.items():
            for commands in lengths:
                for command in commands:
                    seconds, found = run(command[0], HERE / command[1], *command[2:])
                    tried[command] = (tool, seconds, elbo(density, found))
                    best = max(best, tried[command][2])
                    print(name, *command[1:], f"{seconds:.2f} s, ELBO {tried[command][2]:.3f}",
                          flush=True)  # fmt: skip
                if any(tried[command][2] > best - WITHIN for command in commands):
                    break
        cells, gaps = [], []
        for tool in settings:
            own = {c: (s, v) for c, (t, s, v) in tried.items() if t == tool}
            good = {c: s for c, (s, v) in own.items() if v > best - WITHIN}
            # Where no setting gets there, the best of the longest is a lower bound, and said to be.
            longest = settings[tool][-1]
            chosen = min(good, key=good.get) if good else max(longest, key=lambda c: own[c][1])
            gap = best - own[chosen][1]
            setting = ", ".join(map(str, chosen[3:]))
            if good:
                python, script, *options = chosen
                again = [run(python, HERE / script, *options) for _ in range(args.runs)]
                times = [seconds for seconds, _ in again]
                cell = f"{statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f})"
            else:
                cell = f"> {own[chosen][0]:.2f}, not within {WITHIN} nats"
            cells.append(cell + (f"; {setting}" if setting else ""))
            gaps.append(f"{gap:.3f}")
        lines.append(f"| {name} | {density.dim} | {' | '.join(cells)} | {', '.join(gaps)} |")
        print(lines[-1], flush=True)
        text = "\n".join(lines) + "\n"
        (HERE / "results.md").write_text(
            "Cold process, wall seconds: median (least–most)"
            f" of {args.runs} runs; learning rate and steps, or iterations, of the fastest setting"
            f" that gets within {WITHIN} nats.\n\n{text}"
        )


if __name__ == "__main__":
    main()
