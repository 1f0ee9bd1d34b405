"""Gaussian variational fits of three models, from a cold process to a bound.

Ours, NumPyro's SVI and PyMC's ADVI fit a mean field and a Gaussian with a whole covariance. What
they give is judged by one estimate of the bound (32,768 quasi-random draws), and counts if it is
within 0.1 nats of the best that either of the two reached. Steps and learning rates are the fastest
that were found to get there; where the peer does not, the row says by how much it falls short, and
its seconds are a lower bound: more steps take longer.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.harness.row import LOWER_BOUND, Measured, Row

SPEED = str(Path(__file__).parents[1] / "speed")
WITHIN = 0.1
LATENTS = {"eight_schools": 10, "logistic": 26, "hierarchical": 125}
SIZES = {  # of the data
    "eight_schools": "8 schools",
    "logistic": "5,000 rows, 25 columns",
    "hierarchical": "2,000 counts in 120 groups",
}
TINY: dict[str, dict[str, int]] = {
    "eight_schools": {},
    "logistic": {"rows": 300, "columns": 3},
    "hierarchical": {"rows": 300, "groups": 12},
}


def ours(size: Mapping[str, Any]) -> Measured:
    started = perf_counter()
    sys.path.insert(0, SPEED)
    import pyro_cookbook  # noqa: F401 - before torch, as anyone would who uses it

    # isort: split
    import torch

    torch.set_default_dtype(torch.float64)
    from ours import fit

    return measured(started, size, fit(size["problem"], size["family"], **size["sizes"]))


def numpyro(size: Mapping[str, Any]) -> Measured:
    started = perf_counter()
    sys.path.insert(0, SPEED)
    from with_numpyro import fit

    rate, steps = size["setting"]
    found = fit(size["problem"], rate, steps, size["family"], decay=size["decay"], **size["sizes"])
    return measured(started, size, found)


def pymc(size: Mapping[str, Any]) -> Measured:
    started = perf_counter()
    sys.path.insert(0, SPEED)
    from with_pymc import fit

    rate, iterations = size["setting"]
    found = fit(size["problem"], iterations, size["family"], rate=rate, **size["sizes"])
    return measured(started, size, found)


def measured(started: float, size: Mapping[str, Any], found: Mapping[str, Any]) -> Measured:
    """Number the entries of the arrays: a run's quality is a dict of numbers."""
    quality = {
        f"{key} {i}": float(value)
        for key, array in found.items()
        for i, value in enumerate(array.ravel())
    }
    return Measured(perf_counter() - started, {"tiny": float(size["tiny"]), **quality})


def elbo(run: Measured, size: Mapping[str, Any]) -> float:
    """Bound of the Gaussian of a run, in nats, by draws that are the same for all."""
    sys.path.insert(0, SPEED)
    import numpy as np
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        from pyro_models import MODELS, data

        from pyro_cookbook.engines.base_draws import base_draws
        from pyro_cookbook.programs.density.unconstrained import UnconstrainedDensity
        from pyro_cookbook.programs.program import Program

        model = MODELS[size["problem"]]
        density = UnconstrainedDensity(Program(model, data(size["problem"], **size["sizes"])))
        parts = {
            key: np.array([v for k, v in run.quality.items() if k.startswith(f"{key} ")])
            for key in ("loc", "scale", "root")
        }
        dim = len(parts["loc"])
        root = np.diag(parts["scale"]) if parts["scale"].size else parts["root"].reshape(dim, dim)
        eps = base_draws(32_768, dim, seed=1)
        # log q = −|ε|²/2 − log |det R| − D/2 log 2π, at z = loc + R ε.
        log_det = np.linalg.slogdet(root)[1]
        log_q = -(eps**2).sum(1) / 2 - log_det - dim * np.log(2 * np.pi) / 2
        return float((density.value(parts["loc"] + eps @ root.T) - log_q).mean())
    finally:
        torch.set_default_dtype(before)


def same(
    runs: Mapping[str, Sequence[Measured]], *, sizes: Sequence[Mapping[str, Any]], peer: str
) -> str:
    """Ours is within 0.1 nats of the best; the peer, too, or its seconds are a lower bound."""
    known: dict[tuple, float] = {}
    bounds: dict[str, float] = {}
    size = sizes[int(runs["ours"][0].quality["tiny"])]
    for side, many in runs.items():
        for run in many:
            key = tuple(run.quality.values())  # one seed gives the same numbers over and over
            if key not in known:
                known[key] = elbo(run, size)
            bounds[side] = min(bounds.get(side, known[key]), known[key])
    gaps = {side: max(known.values()) - bound for side, bound in bounds.items()}
    assert gaps["ours"] < WITHIN, f"ours is {gaps['ours']:.3f} nats below the best"
    limit = size["limit"]
    told = f"nats below the best bound: ours {gaps['ours']:.3f}, {peer} {gaps[peer]:.3f}"
    if gaps[peer] < WITHIN:
        return told
    assert gaps[peer] < limit, f"{peer} is {gaps[peer]:.3f} nats below the best"
    return f"{told}, not within {WITHIN}: {LOWER_BOUND}"


def row(
    family: str, problem: str, peer: str, setting: tuple[float, int], tiny: tuple[float, int]
) -> Row:
    full = {
        "problem": problem,
        "family": family,
        "setting": setting,
        "decay": peer == "NumPyro",
        "sizes": {},
        "limit": inf,  # below the best bound, in nats, that the peer may stay
        "tiny": False,
    }
    little = {**full, "setting": tiny, "sizes": TINY[problem], "limit": 1.0, "tiny": True}
    sides: dict[str, Callable[[Mapping[str, Any]], Measured]] = {
        "ours": ours, peer: numpyro if peer == "NumPyro" else pymc,
    }  # fmt: skip

    told = (
        f"rate {setting[0]}, {setting[1]:,} steps"
        if peer == "NumPyro"
        else f"Adam {setting[0]}, {setting[1]:,} iterations"
    )
    kind = {
        ("NumPyro", "mean_field"): "SVI, AutoNormal",
        ("NumPyro", "full_rank"): "SVI, AutoMultivariateNormal",
        ("PyMC", "mean_field"): "ADVI",
        ("PyMC", "full_rank"): "full-rank ADVI",
    }[peer, family]
    return Row(
        name=f"{family}_{problem}_{peer.lower()}",
        work=f"{family.replace('_', ' ')}, {problem.replace('_', ' ')} ({SIZES[problem]},"
        f" {LATENTS[problem]} latents) to within {WITHIN} nats of the best",
        peer=f"{peer} {kind}, {told}",
        sides=sides,
        full=full,
        tiny=little,
        same=partial(same, sizes=(full, little), peer=peer),
        target=2.0 if peer == "NumPyro" else 5.0,
        cold=True,
    )


def numpyro_row(family: str, problem: str, rate: float, steps: int, tiny: int) -> Row:
    return row(family, problem, "NumPyro", (rate, steps), (rate, tiny))


def pymc_row(family: str, problem: str, iterations: int, tiny: int) -> Row:
    return row(family, problem, "PyMC", (0.003, iterations), (0.003, tiny))


# NumPyro: Adam whose rate decays to a hundredth, which gets there on all three; at a constant rate
# two of three fall short. PyMC: Adam at 0.003, which gets there on eight schools in 20,000
# iterations, where its default falls short in 200,000. Its full rank of the hierarchical model is
# no row: it ends in "NaN occurred in optimization", by its default and by Adam, at 0.0003 too.
ROWS = (
    numpyro_row("mean_field", "eight_schools", 0.03, 2000, 2000),
    pymc_row("mean_field", "eight_schools", 20_000, 20_000),
    numpyro_row("mean_field", "logistic", 0.03, 5000, 5000),
    pymc_row("mean_field", "logistic", 50_000, 20_000),
    numpyro_row("mean_field", "hierarchical", 0.03, 10_000, 5000),
    pymc_row("mean_field", "hierarchical", 50_000, 20_000),
    numpyro_row("full_rank", "eight_schools", 0.03, 2000, 2000),
    pymc_row("full_rank", "eight_schools", 50_000, 20_000),
    numpyro_row("full_rank", "logistic", 0.03, 5000, 5000),
    pymc_row("full_rank", "logistic", 50_000, 20_000),
    numpyro_row("full_rank", "hierarchical", 0.01, 20_000, 20_000),
)
