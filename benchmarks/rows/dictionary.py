"""Dictionary learning to the objective that scikit-learn reaches in ten epochs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.row import Measured, Row

RATE, SCALE = 2.0, 0.65  # of recipe 3


def _rows(size: Mapping[str, Any]) -> Any:
    """Whitened patches of two photographs: recipe 3's, 8 × 8."""
    import torch

    from pyro_cookbook.data import patches

    rows = torch.cat(
        [
            patches.random_patches(patches.photograph(name, 2), 8, size["rows"], seed=seed)
            for seed, name in enumerate(patches.PHOTOGRAPHS)
        ]
    )
    rows = patches.most_varied(rows)
    rows = patches.fit_whitening(rows, floor=0.1).whiten(rows)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def _measured(size: Mapping[str, Any], seconds: float, rows: Any, W: Any) -> Measured:
    """The objective per row at exact codes, atoms no longer than 1: the same for both."""
    from pyro_cookbook.algorithms.sparse_coding.active_set import codes
    from pyro_cookbook.algorithms.sparse_coding.fista import SparseCodingParameters, objective

    theta = SparseCodingParameters(W, rows.new_zeros(rows.shape[1]), RATE, SCALE)
    cost = objective(theta, rows, codes(theta, rows, tol=1e-8).h).mean()
    quality = {"objective": float(cost), "longest": float(W.norm(dim=0).max())}
    return Measured(seconds, quality)


def _ours(size: Mapping[str, Any]) -> Measured:
    from pyro_cookbook.algorithms.sparse_coding.active_set import codes
    from pyro_cookbook.algorithms.sparse_coding.dictionary_learning import learn_online

    rows = _rows(size)

    def learn(rows: Any, num_steps: int) -> Any:
        return learn_online(
            rows, size["atoms"], rate=RATE, scale=SCALE, num_steps=num_steps, batch_size=512,
            code_tol=0.1, solver=codes,
        ).theta.W  # fmt: skip

    learn(rows[:500], 1)
    began = time.perf_counter()
    W = learn(rows, size["steps"])
    return _measured(size, time.perf_counter() - began, rows, W)


def _sklearn(size: Mapping[str, Any]) -> Measured:
    """Ten whole epochs: its early stop is off. Of its two ways to codes, the faster."""
    import torch
    from sklearn.decomposition import MiniBatchDictionaryLearning

    rows = _rows(size)

    def learn(x: Any, epochs: int) -> Any:
        return MiniBatchDictionaryLearning(
            size["atoms"], alpha=RATE * SCALE**2, max_iter=epochs, fit_algorithm="cd",
            transform_algorithm="lasso_cd", batch_size=256, max_no_improvement=None, tol=0,
            random_state=0,
        ).fit(x).components_  # fmt: skip

    learn(rows[:256].numpy(), 1)
    began = time.perf_counter()
    atoms = learn(rows.numpy(), 10)
    seconds = time.perf_counter() - began
    return _measured(size, seconds, rows, torch.as_tensor(atoms.T.copy()))


def _same(runs: Mapping[str, Sequence[Measured]]) -> str:
    every = [one.quality for side in runs.values() for one in side]
    assert max(one["longest"] for one in every) < 1 + 1e-9, "an atom is longer than 1"
    ours = max(one.quality["objective"] for one in runs["ours"])
    theirs = min(one.quality["objective"] for one in runs["scikit-learn"])
    assert ours <= theirs, f"ours ends at {ours} nats a row, above scikit-learn's {theirs}"
    return f"ours ends at {ours:.3f} nats a row at exact codes, scikit-learn at {theirs:.3f}"


ROWS = (
    Row(
        name="dictionary",
        work="Dictionary of 128 atoms from 20,000 whitened 8 × 8 patches, to the objective of ten "
        "epochs of the peer",
        peer="scikit-learn MiniBatchDictionaryLearning, 10 epochs",
        sides={"ours": _ours, "scikit-learn": _sklearn},
        full={"rows": 20_000, "atoms": 128, "steps": 120},
        tiny={"rows": 800, "atoms": 70, "steps": 60},
        same=_same,
        target=8.0,
        note="ours: 120 mini-batches of 512, codes to 0.1 relative",
    ),
)
