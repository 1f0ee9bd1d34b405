"""Gradients to the right second moments: `refine` beside NUTS.

    python benchmarks/gradients/run.py [--runs 3] [POSTERIOR …]

Counts gradients of the log density until the squared bias of the second moment of every
unconstrained latent, (mean of z² − E z²)² / var z², is below 0.01 and stays there to the run's end;
E z² and var z² are those of references.csv (`references.py`). Adds to runs.csv, and writes
results.md of all that is there.

Of `refine` (the steps of `pc.refine`, but stopped by the bias, which a reader does not know): those
of all chains together, of the fit, of tuning and of rounds that were thrown away; and those in a
row, a batch for one. A product with the Hessian counts for two. Of NUTS (nutpie, its defaults, one
chain as in the literature): with its warm-up and without.
"""

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

import pyro_cookbook as pc
from pyro_cookbook.posterior.refining.beginning import begin
from pyro_cookbook.posterior.refining.ensemble import Run
from pyro_cookbook.posterior.refining.refine import better_centred, scalars
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
from pyro_cookbook.programs.program import Program

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

from densities import DENSITIES, Evaluate  # noqa: E402
from posteriors import POSTERIORS  # noqa: E402
from walk import walk  # noqa: E402

Array = npt.NDArray[np.float64]
REFERENCES, RUNS, RESULTS = HERE / "references.csv", HERE / "runs.csv", HERE / "results.md"
SMALL, TUNE = 0.01, 1000
# Gradients after which a run of `refine` is given up.
LIMIT = 6_000_000
# Counts published for NUTS and for adjusted microcanonical sampling.
PUBLISHED = {
    "brownian_bridge": ("33,462", "14,364"),
    "sparse_logistic": ("110,828", "56,953"),
    "item_response": ("71,758", "40,073"),
    "stochastic_volatility": ("1.3 million", "402,531"),
}
COLUMNS = ("fit", "all", "row", "nuts", "kept")


class Bias:
    """Running second moments of draws, and after how many gradients they are right for good."""

    def __init__(self, name: str) -> None:
        table = pd.read_csv(REFERENCES).query("posterior == @name")
        self.square, self.variance = table["square"].to_numpy(), table["variance"].to_numpy()
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was drawn while tuning is thrown away."""
        self.total, self.count = np.zeros_like(self.square), 0
        self.right_at: tuple[float, ...] | None = None

    def add(self, z: Array, gradients: tuple[float, ...]) -> None:
        """Take in positions, shape (N, D), after so many gradients, however they are counted."""
        self.total += (z**2).sum(0)
        self.count += len(z)
        worst = ((self.total / self.count - self.square) ** 2 / self.variance).max()
        if worst >= SMALL:
            self.right_at = None
        elif self.right_at is None:
            self.right_at = gradients


class Counter:
    """Gradients: of all vectors, and in a row."""

    def __init__(self) -> None:
        self.all, self.row = 0, 0

    @contextmanager
    def counting(self, by_hand: Evaluate | None) -> Iterator[None]:
        """Count those of every density; take them from the one by hand, if there is one."""
        product, slopes = UnconstrainedDensity.hvp, UnconstrainedDensity.value_and_grad

        def counted(density: UnconstrainedDensity, z: Array) -> tuple[Array, Array]:
            self.all, self.row = self.all + len(z), self.row + 1
            return by_hand(np.asarray(z)) if by_hand else slopes(density, z)

        def counted_product(density: UnconstrainedDensity, z: Array, v: Array) -> Array:
            self.all, self.row = self.all + 2 * len(z), self.row + 2
            return product(density, z, v)

        with (
            mock.patch.object(UnconstrainedDensity, "value_and_grad", counted),
            mock.patch.object(UnconstrainedDensity, "hvp", counted_product),
        ):
            yield


def on_the_walk(density: UnconstrainedDensity, run: Run) -> Array:
    """Give the bridge's draws as the literature has them: logs of the scales, and the walk."""
    values = scalars(density, run)
    scales = [np.log(values[name]) for name in ("innovation", "error")]
    return np.concatenate([*scales, values["x"]], axis=2)


def as_they_are(density: UnconstrainedDensity, run: Run) -> Array:
    """Give draws on the density's own unconstrained scale."""
    return run.draws


PLACES: dict[str, Callable[[UnconstrainedDensity, Run], Array]] = {"brownian_bridge": on_the_walk}


def compare_densities(name: str) -> None:
    """Stop if the density by hand is not the model's."""
    posterior = POSTERIORS[name]
    density = UnconstrainedDensity(Program(posterior.model, posterior.data(), {}, {}))
    z = 0.5 * np.random.default_rng(0).normal(size=(8, density.dim))
    values, slopes = density.value_and_grad(z)
    by_hand = z.copy()
    if name == "brownian_bridge":
        by_hand[:, 2:] = z[:, 2:].cumsum(1)
    value, slope = DENSITIES[name]()(by_hand)
    if name == "brownian_bridge":
        slope[:, 2:] = slope[:, :1:-1].cumsum(1)[:, ::-1]
    np.testing.assert_allclose(np.diff(value), np.diff(values), rtol=1e-8)
    np.testing.assert_allclose(slope, slopes, rtol=1e-8, atol=1e-8)


def ours(name: str, seed: int) -> dict[str, float]:
    """Count gradients of the fit, of all until the moments are right, and of those in a row."""
    posterior, bias, counter = POSTERIORS[name], Bias(name), Counter()
    by_hand = None if name in PLACES else DENSITIES[name]()
    with counter.counting(by_hand):
        fit = pc.fit(posterior.model, "auto", *posterior.data(), seed=seed, progress=False)
        fit = better_centred(fit)
        of_fit = counter.all
        chains = begin(fit, seed, lambda: None)
        num_draws = 32
        while bias.right_at is None and counter.all < LIMIT:
            chains.ensemble.adapt(num_draws, lambda: None)
            bias.forget()
            for _ in range(num_draws):
                run = chains.ensemble.run(1, lambda: None)
                z = PLACES.get(name, as_they_are)(chains.density, run)[:, 0]
                bias.add(z, (counter.all, counter.row))
            num_draws *= 2
    right = bias.right_at or (np.nan, np.nan)
    return {"fit": of_fit, "all": right[0], "row": right[1], "chains": len(chains.superchains)}


def nuts(name: str, seed: int) -> dict[str, float]:
    """Count gradients of one chain until the moments are right: all, and without its warm-up."""
    bias, draws = Bias(name), POSTERIORS[name].draws
    z, steps = walk(DENSITIES[name](), len(bias.square), tune=TUNE, draws=draws, seed=seed)
    gradients = steps.cumsum()
    for i in range(TUNE, TUNE + draws):
        bias.add(z[i : i + 1], (float(gradients[i]),))
    right = bias.right_at[0] if bias.right_at else np.nan
    return {"nuts": right, "kept": right - float(gradients[TUNE - 1])}


# --- the table ------------------------------------------------------------------------------------

INTRODUCTION = """\
Gradients of the log density until the squared bias of the second moment of every unconstrained
latent is below 0.01 and stays there: medians over seeds (smallest to largest). `refine`: all
chains together, with the gradients of the fit (its own column), of tuning and of rounds that were
thrown away; "in a row" counts a batch once, since its chains do not wait for each other. NUTS:
nutpie with its defaults, one chain, with its warm-up of 1,000 draws and without. The right moments
are exact (bridge), by importance sampling (volatility) or of long chains, with at least {ess:,.0f}
effective draws (references.csv).

Published (Robnik, Cohn-Gordon and Seljak, arXiv:2503.01707 and after): the same measure, of one
chain, the median of many; their code counts tuning apart. The bridge has their data; of the others
models and sizes are theirs and the data simulated. `refine` is given the bridge as increments and
their sum, as one would write it, and chooses to non-centre them; NUTS runs on the walk itself, as
published; the bias is that of the walk for both. Written by `run.py`; all runs are in runs.csv.

In gradients `refine` costs more than NUTS: each of 64 to 256 chains has to be tuned and to forget
its start, rounds double, and the fit may take as many again. In a row it takes far fewer. Neither
count is seconds: a batch costs more than one vector, and less than its vectors one by one. "Never":
not within 6,000,000 gradients of ours, or within the draws of NUTS (8,000 of the volatility).\
"""


def cells(values: pd.Series) -> str:
    """Median and range of counts; a run that did not get there counts as endless."""
    ordered = [np.inf if np.isnan(v) else v for v in values]
    told = [
        f"{v:,.0f}" if np.isfinite(v) else "never"
        for v in (statistics.median(ordered), min(ordered), max(ordered))
    ]
    return told[0] if len(values) == 1 else f"{told[0]} ({told[1]} to {told[2]})"


def write(found: pd.DataFrame) -> None:
    """Write the table of all runs."""
    references = pd.read_csv(REFERENCES)
    lines = [
        "# Gradients to the right second moments",
        "",
        INTRODUCTION.format(ess=references["ess"].min()),
        "",
        "| posterior | latents | chains | seeds | fit | `refine`, all | `refine`, in a row | NUTS"
        " | NUTS, without warm-up | published: NUTS / adjusted microcanonical |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in POSTERIORS:
        runs = found[found["posterior"] == name]
        if len(runs):
            dim = (references["posterior"] == name).sum()
            told = [dim, int(runs["chains"].iloc[0]), len(runs), *(cells(runs[c]) for c in COLUMNS)]
            lines.append(
                f"| {name} | {' | '.join(map(str, told))} | {' / '.join(PUBLISHED[name])} |"
            )
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("posteriors", nargs="*", default=list(POSTERIORS))
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    for name in chosen.posteriors:
        compare_densities(name)
        for seed in range(chosen.runs):
            one = {"posterior": name, "seed": seed, **ours(name, seed), **nuts(name, seed)}
            print(one, flush=True)
            old = pd.read_csv(RUNS) if RUNS.exists() else pd.DataFrame(columns=list(one))
            old = old[(old["posterior"] != name) | (old["seed"] != seed)]
            found = pd.DataFrame([*old.to_dict("records"), one])
            found.to_csv(RUNS, index=False)
            write(found)


if __name__ == "__main__":
    main()
