"""Binary sparse coding: the mean-field fixed point of many rows, beside vectorised NumPy."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.row import Measured, Row

MAX_SWEEPS, TOL = 20_000, 1e-8


def _problem(size: Mapping[str, Any]) -> tuple[Any, ...]:
    """Rows of the model: overlapping atoms, a tenth of the units on; v, W, b and scale."""
    import numpy as np

    rng = np.random.default_rng(0)
    n, K, D = size["rows"], size["units"], size["features"]
    W, b, scale = rng.normal(size=(D, K)) / D**0.5, np.full(K, -2.2), 0.35
    on = rng.random((n, K)) < 1 / (1 + np.exp(2.2))
    return on @ W.T + scale * rng.normal(size=(n, D)), W, b, scale


def _quality(v: Any, W: Any, b: Any, scale: float, h: Any) -> dict[str, float]:
    """Bound per row, moments of ĥ, and how far ĥ is from the fixed point's right side."""
    import numpy as np
    from scipy.special import entr, expit

    beta = scale**-2
    drive = b + beta * (v @ W - (W**2).sum(0) / 2)
    coupling = beta * W.T @ W
    np.fill_diagonal(coupling, 0)
    field = drive - h @ coupling
    base = -np.logaddexp(0, b).sum() - len(W) * np.log(scale * (2 * np.pi) ** 0.5)
    base = base - beta * (v**2).sum(1) / 2
    bound = base + (h * (drive + field)).sum(1) / 2 + (entr(h) + entr(1 - h)).sum(1)
    off = np.abs(expit(field) - h).max()
    return {
        "bound": float(bound.mean()), "on": float(h.mean()), "off": float(off),
        "second": float((h**2).mean()),
    }  # fmt: skip


def _ours(size: Mapping[str, Any]) -> Measured:
    import torch

    from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import (
        SparseCodingParameters,
        coordinate_ascent,
    )

    problem = v, W, b, scale = _problem(size)
    theta = SparseCodingParameters(*map(torch.as_tensor, (W, b)), torch.tensor(scale).double())
    rows = torch.as_tensor(v)
    coordinate_ascent(theta, rows[:100], max_sweeps=2, keep_elbo=False)
    began = time.perf_counter()
    found = coordinate_ascent(theta, rows, max_sweeps=MAX_SWEEPS, tol=TOL, keep_elbo=False)
    seconds = time.perf_counter() - began
    assert found.converged
    n, K, D = size["rows"], size["units"], size["features"]
    # The drive, and at least one sweep in which every unit looks at every other.
    return Measured(
        seconds, _quality(*problem, torch.sigmoid(found.logits).numpy()), 2.0 * n * K * (D + K)
    )


def _numpy(size: Mapping[str, Any]) -> Measured:
    import numpy as np
    from scipy.special import expit

    problem = v, W, b, scale = _problem(size)
    expit(np.zeros(3))
    began = time.perf_counter()
    beta = scale**-2
    drive = b + beta * (v @ W - (W**2).sum(0) / 2)
    coupling = beta * W.T @ W
    np.fill_diagonal(coupling, 0)
    drive = np.ascontiguousarray(drive.T)  # unit by row: NumPy is several times faster so
    h = np.repeat(expit(b)[:, None], len(v), 1)
    found, rows = np.empty_like(h), np.arange(len(v))
    for _ in range(MAX_SWEEPS):
        before = h.copy()
        for i in range(len(b)):
            h[i] = expit(drive[i] - coupling[i] @ h)
        going = np.abs(h - before).max(0) > TOL
        if 4 * going.sum() <= 3 * len(rows):  # a few rows need a thousand sweeps, most need few
            found[:, rows[~going]] = h[:, ~going]
            rows, h, drive = rows[going], h[:, going], drive[:, going]
        if not len(rows):
            break
    else:
        raise AssertionError("the sweeps have not converged")
    return Measured(time.perf_counter() - began, _quality(*problem, found.T))


def _same(runs: Mapping[str, Sequence[Measured]]) -> str:
    every = [one.quality for side in runs.values() for one in side]
    apart = max(abs(one["bound"] - every[0]["bound"]) for one in every)
    assert apart < 1e-7, f"the bounds differ by {apart} nats a row"
    for name in ("on", "second"):
        assert max(abs(one[name] - every[0][name]) for one in every) < 1e-7, name
    off = max(one["off"] for one in every)
    assert off < 1e-6, f"a probability is {off} from the fixed point"
    return f"bounds within {apart:.0e} nats a row, both within {off:.0e} of the fixed point"


ROWS = (
    Row(
        name="fixed_point",
        work="Binary sparse coding, mean-field fixed point from the prior, 100,000 rows × 64 "
        "latents (64 features), float64, until no probability moves by more than 1e-8",
        peer="NumPy, unit after unit in all unfinished rows at once",
        sides={"ours": _ours, "NumPy": _numpy},
        full={"rows": 100_000, "units": 64, "features": 64},
        tiny={"rows": 500, "units": 12, "features": 10},
        same=_same,
        target=3.0,
    ),
)
