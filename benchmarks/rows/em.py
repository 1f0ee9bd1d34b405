"""EM for a Gaussian mixture with full covariances, beside scikit-learn's from the same start.

Ten iterations over 500,000 rows of 16 columns, 10 components: in double and in single precision,
alone and with two busy processes beside, and the memory both take above the data. The target in
single precision is stated against the peer in double; a row of its own has the peer in single.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.harness.row import Measured, Row

ITERATIONS = 10
FULL = {"rows": 500_000, "columns": 16, "components": 10}
TINY = {"rows": 3_000, "columns": 4, "components": 3}
WORK = "EM, full covariances, 500,000 × 16, 10 components, 10 iterations, same start"


def data(size: Mapping[str, Any], dtype: str) -> tuple[Any, dict[str, Any]]:
    """Rows from twelve normal groups; weights, means and the covariance that both begin with."""
    import numpy as np

    rng = np.random.default_rng(0)
    num_rows, num_features = size["rows"], size["columns"]
    num_components = size["components"]
    centres = rng.normal(scale=4, size=(12, num_features))
    v = rng.normal(size=(num_rows, num_features))
    v += centres[rng.integers(12, size=num_rows)]
    start = {
        "weights": np.full(num_components, 1 / num_components, dtype),
        "loc": v[rng.choice(num_rows, num_components, replace=False)].astype(dtype),
        "covariance": np.cov(v.T),
    }
    return v.astype(dtype), start


def ours(size: Mapping[str, Any], *, dtype: str) -> Measured:
    import pyro_cookbook  # noqa: F401 - before torch, as anyone would who uses it

    # isort: split
    import numpy as np
    import torch

    from benchmarks.harness.memory import above
    from pyro_cookbook.algorithms.gaussian_mixture.em import MixtureParameters, em

    x, start = data(size, dtype)
    root = np.linalg.cholesky(start["covariance"]).astype(dtype)
    v, tril = torch.as_tensor(x), torch.as_tensor(root).repeat(size["components"], 1, 1)
    theta = MixtureParameters(
        torch.as_tensor(start["weights"]), torch.as_tensor(start["loc"]), tril
    )

    def fit(num_rows: int) -> float:
        found = em(v[:num_rows], len(theta.loc), start=theta, max_iterations=ITERATIONS, tol=0)
        return found.elbo[-1] / num_rows

    fit(1000)
    began = perf_counter()
    bound, memory = above(lambda: fit(len(v)))
    return measured(size, perf_counter() - began, bound, memory)


def scikit_learn(size: Mapping[str, Any], *, dtype: str) -> Measured:
    import numpy as np
    from sklearn.mixture import GaussianMixture

    from benchmarks.harness.memory import above

    warnings.simplefilter("ignore")  # it has not converged: ten iterations were asked for
    x, start = data(size, dtype)
    precision = np.linalg.inv(start["covariance"]).astype(dtype)

    def fit(num_rows: int) -> float:
        model = GaussianMixture(
            size["components"],
            tol=0,
            max_iter=ITERATIONS,
            weights_init=start["weights"],
            means_init=start["loc"],
            precisions_init=np.repeat(precision[None], size["components"], 0),
        )
        return float(model.fit(x[:num_rows]).lower_bounds_[-1])

    fit(1000)
    began = perf_counter()
    bound, memory = above(lambda: fit(len(x)))
    return measured(size, perf_counter() - began, bound, memory)


def measured(size: Mapping[str, Any], seconds: float, bound: float, memory: float) -> Measured:
    """Count what an iteration needs at least: a triangle for whitening, a triangle of moments."""
    num_rows, num_features = size["rows"], size["columns"]
    # N K D (D + 1) / 2 multiplications and additions, twice.
    flops = 2 * num_rows * size["components"] * num_features * (num_features + 1)
    return Measured(seconds, {"bound a row": bound}, ITERATIONS * flops, memory=memory)


def same(runs: Mapping[str, Sequence[Measured]], *, tol: float) -> str:
    """Every run of every side ended at one bound."""
    bounds = [run.quality["bound a row"] for many in runs.values() for run in many]
    apart = (max(bounds) - min(bounds)) / abs(max(bounds))
    assert apart < tol, f"bounds are {apart:.1e} apart, expected less than {tol:.0e}"
    return f"bounds a row, {bounds[0]:.6f} nats, equal to {apart:.0e}"


def row(
    name: str, dtype: str, theirs: str, target: float, tol: float, work: str = WORK, **more: Any
) -> Row:
    told = "double" if theirs == "float64" else "single"
    return Row(
        name=name,
        work=f"{work}, {'double' if dtype == 'float64' else 'single'} precision",
        peer="scikit-learn",
        sides={
            "ours": partial(ours, dtype=dtype),
            "scikit-learn": partial(scikit_learn, dtype=theirs),
        },
        full=FULL,
        tiny=TINY,
        same=partial(same, tol=tol),
        target=target,
        note=f"the peer in {told} precision",
        **more,
    )


BUSY = {"work": f"{WORK}, two busy processes beside", "busy": 2, "threads": 0}
MEMORY = {"work": f"peak memory above the data: {WORK}", "of": "memory"}
ROWS = (
    row("em_float64", "float64", "float64", 2.5, 1e-9),
    row("em_float32", "float32", "float64", 6.0, 1e-4),
    row("em_float32_both", "float32", "float32", 2.5, 1e-4),
    row("em_busy", "float64", "float64", 1.0, 1e-9, **BUSY),
    row("em_memory", "float64", "float64", 5.0, 1e-9, **MEMORY),
)
