"""Gradients to the right second moments: `refine` beside NUTS.

    python benchmarks/gradients/run.py [--runs 5] [POSTERIOR …]
    python benchmarks/gradients/run.py --reference [POSTERIOR …]

Counts gradients of the log density until the squared bias of every unconstrained latent's second
moment, (mean of z² − E z²)² / var z², is below 0.01 and stays there. Of `refine`: all chains
together, those of the fit, of tuning and of rounds that were thrown away included. Of NUTS (nutpie,
its defaults, one chain): with and without its warm-up. A Hessian-vector product counts as two
gradients. --reference makes references.csv, long runs of NUTS from a fit. Writes results.md.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import arviz as az
import numpy as np
import numpy.typing as npt
import nutpie
import pandas as pd
import pyarrow as pa
import torch
from nutpie.compiled_pyfunc import from_pyfunc

import pyro_cookbook as pc
from pyro_cookbook.posterior.refining.beginning import begin
from pyro_cookbook.posterior.refining.refine import better_centred
from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity, unconstrained_density

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "speed")]

from cold import rows_of  # noqa: E402
from posteriors import POSTERIORS  # noqa: E402

Array = npt.NDArray[np.float64]
REFERENCES, RESULTS = HERE / "references.csv", HERE / "results.md"
SMALL = 0.01
# Gradients after which a run is given up, and what is published: for NUTS, and for an adjusted
# microcanonical sampler.
LIMIT = 6_000_000
PUBLISHED = {
    "brownian_bridge": ("33,462", "14,364"),
    "sparse_logistic": ("110,828", "56,953"),
    "item_response": ("71,758", "40,073"),
    "stochastic_volatility": ("1,300,000", "402,531"),
}


# --- the reference --------------------------------------------------------------------------------


def refer(name: str) -> None:
    """Write the second moments of long chains."""
    posterior, started = POSTERIORS[name], time.perf_counter()
    fit = pc.fit(posterior.model, "mean_field", *posterior.data(), progress=False)
    density = unconstrained_density(fit.programs.model)
    tree = pc.sample(fit, num_draws=posterior.draws, num_warmup=1000, processes=2, progress=False)
    draws = tree["posterior"].to_dataset().stack(all=("chain", "draw"), create_index=False)
    latents = {
        site: torch.tensor(draws[site].transpose("all", ...).to_numpy()) for site in density.shapes
    }
    z = density.unconstrain(latents)
    squares = (z**2).reshape(4, posterior.draws, -1)
    ess = [float(az.ess(squares[:, :, i])) for i in range(z.shape[1])]
    table = pd.DataFrame(
        {"posterior": name, "square": (z**2).mean(0), "variance": (z**2).var(0), "ess": ess}
    )
    old = pd.read_csv(REFERENCES) if REFERENCES.exists() else table[:0]
    pd.concat([old[old["posterior"] != name], table]).to_csv(
        REFERENCES, index=False, float_format="%.8g"
    )
    print(f"{name}: {time.perf_counter() - started:.0f} s, least ESS of a square {min(ess):.0f}")


# --- counting -------------------------------------------------------------------------------------


class Bias:
    """Running second moments of draws, and after how many gradients they are right for good."""

    def __init__(self, square: Array, variance: Array) -> None:
        self.square, self.variance = square, variance
        self.total, self.count = np.zeros_like(square), 0
        self.right_at: float | None = None

    def add(self, z: Array, gradients: float) -> None:
        """Take in positions, shape (N, D), after so many gradients."""
        self.total += (z**2).sum(0)
        self.count += len(z)
        worst = ((self.total / self.count - self.square) ** 2 / self.variance).max()
        if worst >= SMALL:
            self.right_at = None
        elif self.right_at is None:
            self.right_at = gradients


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the gradients of all densities."""
    count = [0]

    def counting(name: str, price: int):
        inner = getattr(UnconstrainedDensity, name)

        def outer(self, z, *rest):
            count[0] += price * len(np.atleast_2d(z))
            return inner(self, z, *rest)

        return mock.patch.object(UnconstrainedDensity, name, outer)

    with counting("value_and_grad", 1), counting("hvp", 2):
        yield count


def ours(name: str, seed: int, bias: Bias) -> tuple[float, float, float]:
    """Give gradients of the fit, of fit and chains until the moments are right, and of a chain."""
    posterior = POSTERIORS[name]
    with counted() as count:
        fit = pc.fit(posterior.model, "auto", *posterior.data(), seed=seed, progress=False)
        fit = better_centred(fit)
        of_fit = count[0]
        chains = begin(fit, seed, lambda: None)
        num_draws = 32
        while count[0] < LIMIT and bias.right_at is None:
            chains.ensemble.adapt(num_draws, lambda: None)
            bias.total[:], bias.count, bias.right_at = 0.0, 0, None
            for _ in range(num_draws):
                run = chains.ensemble.run(1, lambda: None)
                bias.add(run.draws[:, 0], count[0])
            num_draws *= 2
    right = bias.right_at or np.nan
    return of_fit, right, (right - of_fit) / len(chains.superchains)


def nuts(name: str, seed: int, bias: Bias) -> tuple[float, float]:
    """Give gradients of one chain until the moments are right: all, and without its warm-up."""
    posterior = POSTERIORS[name]
    density = unconstrained_density(
        pc.fit(posterior.model, "map", *posterior.data(), progress=False).programs.model
    )
    evaluate = density.traced()

    def log_density(u: Array) -> tuple[float, Array]:
        with torch.no_grad():
            value, slope = evaluate(torch.from_numpy(u.copy()))
        return value.item(), slope.numpy()

    model = from_pyfunc(
        density.dim, lambda: log_density, lambda *_: lambda u: {"u": u},
        [np.dtype(np.float64)], [(density.dim,)], ["u"],
    )  # fmt: skip
    tune, draws = 1000, 4000
    found = nutpie.sample(
        model, draws=draws, tune=tune, chains=1, cores=1, seed=seed, progress_bar=False,
        return_raw_trace=True,
    )  # fmt: skip
    (drawn,), (told,) = found.get_arrow_trace()
    z = pa.array(drawn.column("u")).flatten().to_numpy().reshape(-1, density.dim)
    steps = np.cumsum(pa.array(told.column("n_steps")).to_numpy(zero_copy_only=False))
    for i in range(tune, tune + draws):
        bias.add(z[i : i + 1], float(steps[i]))
    if bias.right_at is None:
        return np.nan, np.nan
    return bias.right_at, bias.right_at - float(steps[tune - 1])


# --- the table ------------------------------------------------------------------------------------

INTRODUCTION = """\
Gradients of the log density until the squared bias of the second moment of every unconstrained
latent is below 0.01 and stays there, medians of {runs} seeds (smallest to largest). Ours: all
chains of `refine` together, with the gradients of the fit ("fit"), of tuning and of rounds that
were thrown away. They run in batches, so that "in a row" counts those that wait for each other:
gradients of one chain. NUTS: nutpie with its defaults, one chain of 4,000 draws after 1,000 of
warm-up. Models and sizes are those of the literature, the data are simulated; published counts
(sequential, one chain, warm-up apart) are for other data. Written by `run.py`."""


def cells(values: list[float]) -> str:
    """Median and range of counts; a run that did not get there counts as endless."""
    ordered = [np.inf if np.isnan(v) else v for v in values]
    told = [f"{v:,.0f}" if np.isfinite(v) else "never" for v in
            (statistics.median(ordered), min(ordered), max(ordered))]  # fmt: skip
    return f"{told[0]} ({told[1]} to {told[2]})"


def compare(name: str, runs: int) -> str:
    """Give the table's row."""
    table = pd.read_csv(REFERENCES).query("posterior == @name")
    square, variance = table["square"].to_numpy(), table["variance"].to_numpy()
    found: dict[str, list[float]] = {k: [] for k in ("fit", "ours", "row", "nuts", "kept")}
    for seed in range(runs):
        counts = (
            *ours(name, seed, Bias(square, variance)),
            *nuts(name, seed, Bias(square, variance)),
        )
        for values, count in zip(found.values(), counts, strict=True):
            values.append(count)
    told = [f"{len(table)}", *map(cells, found.values()), " / ".join(PUBLISHED[name])]
    return f"| {name} | {' | '.join(told)} |"


def main() -> None:
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("posteriors", nargs="*", default=list(POSTERIORS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--reference", action="store_true")
    chosen = parser.parse_args()
    rows = rows_of(RESULTS, POSTERIORS)
    for name in chosen.posteriors:
        if chosen.reference:
            refer(name)
            continue
        rows[name] = compare(name, chosen.runs)
        print(rows[name], flush=True)
        lines = [
            "# Gradients to the right second moments",
            "",
            INTRODUCTION.format(runs=chosen.runs),
            "",
            "| posterior | latents | fit | `refine`, all | `refine`, in a row | NUTS, all"
            " | NUTS, without warm-up | published: NUTS / microcanonical |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
            *(rows[one] for one in POSTERIORS if one in rows),
        ]
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
