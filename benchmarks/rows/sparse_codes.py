"""Sparse codes of patches of photographs, beside scikit-learn's coordinate descent."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.row import Measured, Row

TOL = 1e-6
RATE, SCALE = 2.0, 0.65  # of recipe 3: a tenth of the atoms is used


def _problem(size: Mapping[str, Any]) -> tuple[Any, Any]:
    """Whitened patches of two photographs, and a dictionary learned from some of them."""
    import torch

    from pyro_cookbook.algorithms.sparse_coding.active_set import codes
    from pyro_cookbook.algorithms.sparse_coding.dictionary_learning import learn_online
    from pyro_cookbook.data import patches

    rows = torch.cat(
        [
            patches.random_patches(patches.photograph(name, 2), 8, size["rows"], seed=seed)
            for seed, name in enumerate(patches.PHOTOGRAPHS)
        ]
    )
    rows = patches.most_varied(rows)
    rows = patches.fit_whitening(rows, floor=0.1).whiten(rows)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    learned = learn_online(
        rows[:4000], size["atoms"], rate=RATE, scale=SCALE, num_steps=size["steps"], code_tol=1e-2,
        solver=codes,
    )  # fmt: skip
    return rows[: size["rows"]].contiguous(), learned.theta


def _measured(size: Mapping[str, Any], seconds: float, theta: Any, rows: Any, h: Any) -> Measured:
    """J by one function for both, and the duality gap: what is missing to the optimum at most."""
    from pyro_cookbook.algorithms.sparse_coding.fista import duality_gap, objective

    total = float(objective(theta, rows, h).sum())
    quality = {
        "objective": total / len(rows),
        "gap": float(duality_gap(theta, rows, h).sum()) / total,
        "used": float((h != 0).double().sum(1).mean()),
    }
    n, D, K = size["rows"], size["features"], size["atoms"]
    # Wᵀx, and one look at the conditions of optimality at the answer: x − W h and its pull.
    return Measured(seconds, quality, 2.0 * n * D * K * 3)


def _ours(size: Mapping[str, Any]) -> Measured:
    from pyro_cookbook.algorithms.sparse_coding.active_set import codes

    rows, theta = _problem(size)
    codes(theta, rows[:200], tol=TOL)
    began = time.perf_counter()
    found = codes(theta, rows, tol=TOL)
    return _measured(size, time.perf_counter() - began, theta, rows, found.h)


def _sklearn(size: Mapping[str, Any]) -> Measured:
    """As `sparse_encode(algorithm="lasso_cd")` does it, which leaves no tolerance but 1e-8."""
    import torch
    from sklearn.linear_model import Lasso

    rows, theta = _problem(size)
    x, atoms = (rows - theta.b).numpy(), theta.W.T.numpy()
    alpha = theta.rate * theta.scale**2 / x.shape[1]

    def encode(x: Any) -> Any:
        lasso = Lasso(
            alpha=alpha, fit_intercept=False, precompute=atoms @ atoms.T, tol=TOL, max_iter=1000
        )
        return lasso.fit(atoms.T, x.T, check_input=False).coef_

    encode(x[:200])
    began = time.perf_counter()
    h = encode(x)
    return _measured(size, time.perf_counter() - began, theta, rows, torch.as_tensor(h))


def _same(runs: Mapping[str, Sequence[Measured]]) -> str:
    every = [one.quality for side in runs.values() for one in side]
    apart = max(abs(one["objective"] / every[0]["objective"] - 1) for one in every)
    assert apart < TOL, f"the objectives differ by {apart} relative"
    gap = max(one["gap"] for one in every)
    assert gap < TOL, f"an objective may be {gap} relative above the optimum"
    return f"objectives within {apart:.0e}, both at most {gap:.0e} above the optimum (duality gap)"


def _row(name: str, num_rows: int) -> Row:
    return Row(
        name=name,
        work=f"Sparse codes of {num_rows:,} whitened 8 × 8 patches, 128 learned atoms, float64, to "
        "1e-6 relative objective",
        peer="scikit-learn `sparse_encode`, lasso_cd (its `Lasso`, tol 1e-6)",
        sides={"ours": _ours, "scikit-learn": _sklearn},
        full={"rows": num_rows, "features": 64, "atoms": 128, "steps": 100},
        tiny={"rows": 300, "features": 64, "atoms": 80, "steps": 10},
        same=_same,
        target=3.0,
    )


ROWS = (_row("sparse_codes_4000", 4_000), _row("sparse_codes_20000", 20_000))
