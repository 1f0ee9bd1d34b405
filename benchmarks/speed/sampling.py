"""Effective draws a second: `pc.sample` beside Pyro's own NUTS, both from a cold start.

    python benchmarks/speed/sampling.py [--runs 3] [--cap 300] [MODEL …]

Each run is a process of its own, timed from its start to its end: imports, a fit and four chains on
our side, imports and four chains one after the other on Pyro's. Runs are interleaved. Draws are
compared with the known means and sds of `benchmarks/verdict`. Writes sampling.md beside this file
(or --out); models that are not named keep their rows. To see that it works: --runs 1 --draws 20
--warmup 20 --cap 60 --out FILE.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

BEGUN = time.monotonic()
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "verdict"))

import torch  # noqa: E402

torch.set_default_dtype(torch.float64)

import numpy as np  # noqa: E402
from cold import rows_of, run  # noqa: E402
from zoo import MODELS  # noqa: E402

NAMES = ("logistic", "radon_centred", "schools_noncentred", "local_level", "rasch")
CHAINS = 4
MAX_SHIFT, MAX_STRETCH = 0.1, 0.1
INTRODUCTION = """\
Least bulk ESS of a scalar latent, by ArviZ, over the seconds of a whole process: imports, a fit
(`pc.fit(model, "auto", …)`) and `pc.sample` on our side; imports and `MCMC(NUTS(model), …)`, all
else as Pyro has it by default, four times with four seeds, on the other. Four chains of {draws}
draws after {warmup} of warm-up; ours in as many processes as there are cores, Pyro's one after the
other. Pyro's may take {cap:.0f} seconds, a quarter for each chain: a chain that is not done by then
is cut off with the draws that it has, all chains at one length (†). "Error" is the largest over all
latent scalars, of means in posterior sds and of sds as a share, in the last run, against exact
answers or long runs; bold if both are at most a tenth. Written by `sampling.py`, run by run in
turn."""


# --- one process ----------------------------------------------------------------------------------


def ours(name: str, draws: int, warmup: int, _: float) -> tuple[dict[str, np.ndarray], bool]:
    """Fit and sample; give draws, shape (chain, draw, scalars), and whether chains were cut off."""
    import pyro_cookbook as pc

    entry = MODELS[name]
    fit = pc.fit(entry.model, "auto", *entry.data(), progress=False)
    tree = pc.sample(fit, num_draws=draws, num_warmup=warmup, num_chains=CHAINS, progress=False)
    latents = fit.programs.model.latents
    found = {site: tree["posterior"][site].to_numpy() for site in latents}
    return found, False


class Cut(Exception):
    """The chain's time is up."""


def pyro_own(name: str, draws: int, warmup: int, cap: float) -> tuple[dict[str, np.ndarray], bool]:
    """Run Pyro's NUTS on the plain model, chain by chain; give what `ours` gives."""
    import pyro
    from pyro.infer import MCMC, NUTS

    entry = MODELS[name]
    data, chains = entry.data(), []
    for chain in range(CHAINS):
        kept: list[dict[str, torch.Tensor]] = []
        until = BEGUN + cap * (chain + 1) / CHAINS

        def note(kernel, z, stage, step, kept=kept, until=until):
            if "sample" in stage.lower():
                kept.append({site: value.clone() for site, value in z.items()})
            if time.monotonic() > until:
                raise Cut

        pyro.set_rng_seed(chain)
        kernel = NUTS(entry.model)
        mcmc = MCMC(
            kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True, hook_fn=note
        )
        with suppress(Cut):
            mcmc.run(*data)
        chains.append(
            {
                site: torch.stack([kernel.transforms[site].inv(z[site]) for z in kept])
                for site in (kept[0] if kept else {})
            }
        )
        if not kept:
            return {}, True
    least = min(len(next(iter(chain.values()))) for chain in chains)
    found = {
        site: torch.stack([chain[site][:least] for chain in chains]).numpy() for site in chains[0]
    }
    return found, least < draws


SIDES = {"ours": ours, "Pyro": pyro_own}


# --- all of them ----------------------------------------------------------------------------------


def least_ess(found: dict[str, np.ndarray]) -> float:
    """Give the least bulk ESS of a scalar; 0 without draws to tell from."""
    import arviz as az
    import xarray as xr

    if not found or next(iter(found.values())).shape[1] < 4:
        return 0.0
    columns = np.concatenate([v.reshape(*v.shape[:2], -1) for v in found.values()], axis=2)
    posterior = xr.Dataset({"latents": (("chain", "draw", "scalar"), columns)})
    return float(np.nan_to_num(az.ess(posterior)["latents"].to_numpy()).min())


def cells(found: dict[str, np.ndarray], known, spent, rates, was_cut: bool) -> str:
    """Write one side's part of a row."""
    from study import errors

    mark = "†" if was_cut else ""
    rate = f"{statistics.median(rates):.3g} ({min(rates):.3g} to {max(rates):.3g})"
    seconds = f"{statistics.median(spent):.1f}{mark}"
    if not found:
        return f"{seconds} | no draws | –"
    moments = {s: (v.mean((0, 1)).ravel(), v.std((0, 1)).ravel()) for s, v in found.items()}
    shift, stretch, _ = errors(moments, known)
    error = f"{shift:.2f}, {stretch:.0%}"
    good = shift <= MAX_SHIFT and stretch <= MAX_STRETCH
    return f"{seconds} | {rate} | {f'**{error}**' if good else error}"


def row(name: str, runs: int, sizes: tuple[int, int, float], folder: Path) -> str:
    """Run both sides in turn; write the row of one model."""
    from study import truth

    spent: dict[str, list[float]] = {side: [] for side in SIDES}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    found: dict[str, dict[str, np.ndarray]] = {}
    was_cut = dict.fromkeys(SIDES, False)
    for _ in range(runs):
        for side in SIDES:
            file = folder / f"{name} {side}.npz"
            seconds, told = run(sys.executable, HERE / "sampling.py", "--one", side, file,
                                name, *sizes)  # fmt: skip
            with np.load(file) as kept:
                found[side] = dict(kept)
            spent[side].append(seconds)
            rates[side].append(least_ess(found[side]) / seconds)
            was_cut[side] |= told["cut"]
    known = truth(name)
    sides = [cells(found[s], known, spent[s], rates[s], was_cut[s]) for s in SIDES]
    slow = statistics.median(rates["Pyro"])
    ratio = f"{statistics.median(rates['ours']) / slow:.1f}" if slow else "–"
    return f"| {name} | {runs} | {' | '.join(sides)} | {ratio} |"


def machine() -> str:
    """Name the machine and the versions."""
    packages = ("torch", "pyro-ppl", "nutpie", "arviz")
    versions = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    return f"{platform.machine()}, {os.cpu_count()} cores; {', '.join(versions)}."


def write(rows: dict[str, str], file: Path, sizes: tuple[int, int, float]) -> None:
    """Write the table, in the order of NAMES."""
    draws, warmup, cap = sizes
    ordered = [rows[name] for name in NAMES if name in rows]
    lines = [
        "# Effective draws a second",
        "",
        INTRODUCTION.format(draws=draws, warmup=warmup, cap=cap),
        "",
        f"{machine()} Medians (smallest to largest).",
        "",
        "| model | runs | ours, s | ESS/s | error | Pyro, s | ESS/s | error | times as many |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        *ordered,
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=NAMES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--cap", type=float, default=300.0)
    parser.add_argument("--out", type=Path, default=HERE / "sampling.md")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes = (chosen.draws, chosen.warmup, chosen.cap)
    rows = rows_of(chosen.out, NAMES)
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.models:
            rows[name] = row(name, chosen.runs, sizes, Path(folder))
            print(rows[name], flush=True)
            write(rows, chosen.out, sizes)


def one(side: str, file: str, name: str, draws: str, warmup: str, cap: str) -> None:
    """Run one side in this process; keep its draws in a file."""
    warnings.simplefilter("ignore")
    found, was_cut = SIDES[side](name, int(draws), int(warmup), float(cap))
    np.savez(file, **found)
    print(json.dumps({"cut": was_cut}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        main()
