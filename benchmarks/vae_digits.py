"""Held-out bounds of variational auto-encoders on the digits, beside shallow models.

``python benchmarks/vae_digits.py`` trains every model with three seeds and writes the table to
``vae_digits.md`` beside it; half an hour on one core. The split is `pyro_cookbook.data.digits`'s.

What is compared. Grey levels are whole numbers, so a model of them is judged by a *probability*:
log P(v) of 64 numbers from 0 to 16, in nats. A density of whole numbers has no such meaning, and
can be made as large as one likes. Models with a density (factor analysis, the Gaussian mixture, the
Gaussian auto-encoder) are therefore trained and judged on v + u, u uniform on [−½, ½]^64, and by
Jensen's inequality the mean of log p(v + u) is a lower bound on log ∫ p(v + u) du, which is a
probability of v. Averaging p over several u inside the logarithm tightens it, exactly as importance
samples do. The Bernoulli likelihood is of other data, ink above half or not, and its numbers
compare only among themselves.
"""

import argparse
import math
import platform
from pathlib import Path

import numpy as np
import pyro
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import pyro_cookbook as pc
from guides.variational_autoencoder import VariationalAutoencoderAmortized
from models.variational_autoencoder import VariationalAutoencoder
from pyro_cookbook.algorithms import factor_analysis
from pyro_cookbook.algorithms.variational_autoencoder import bounds
from pyro_cookbook.algorithms.variational_autoencoder.early_stopping import in_rounds
from pyro_cookbook.data.digits import NUM_LEVELS, Split, load_split

NUM_LATENTS, HIDDEN = 10, (128,)
SAMPLES = (1, 10, 100, 1000)
ROUND, BATCH, LR = 600, 200, 0.01
# Sizes tried for the shallow models; the validation rows choose.
FACTORS, COMPONENTS = (10, 20, 30, 40), (1, 10, 20, 40, 80)
INK = 8  # above it a pixel counts as 1 for the Bernoulli likelihood


def noise(v: Tensor, seed: int) -> Tensor:
    """Uniform on [−½, ½], one for each entry."""
    return torch.rand(v.shape, generator=torch.Generator().manual_seed(seed), dtype=v.dtype) - 0.5


def iw(weights: Tensor) -> list[Tensor]:
    """Bounds of each row from 1, 10, 100 and 1000 samples."""
    return [bounds.importance_weighted_bound(weights, k) for k in SAMPLES]


def auto_encoder(split: Split, likelihood: str, seed: int) -> Tensor:
    """Train with early stopping; log weights of the test rows, shape (1000, n)."""
    grey = [part.v for part in split]
    if likelihood == "bernoulli":
        rows = [(v > INK).to(v) for v in grey]
    elif likelihood == "gaussian":
        rows = [v + noise(v, 100 * seed + i) for i, v in enumerate(grey)]
    else:
        rows = grey
    pyro.set_rng_seed(seed)
    unit = 1.0 if likelihood == "bernoulli" else 16.0
    model = VariationalAutoencoder(
        64, NUM_LATENTS, HIDDEN, likelihood=likelihood, total_count=NUM_LEVELS - 1
    )
    guide = VariationalAutoencoderAmortized(64, NUM_LATENTS, HIDDEN, unit=unit)

    def train(state, r):
        fit = pc.fit(*state, rows[0], batch_size=BATCH, max_steps=ROUND, lr=LR, seed=100 * seed + r)
        return fit.model, fit.guide

    def score(state):
        return float(bounds.log_weights(*state, rows[1], 20).mean())

    found = in_rounds(train, score, (model, guide), patience=2, max_rounds=20)
    print(
        f"{likelihood}, seed {seed}: {len(found.scores)} rounds, {max(found.scores):.2f}",
        flush=True,
    )
    if likelihood != "gaussian":
        return bounds.log_weights(*found.best, rows[2], SAMPLES[-1], seed=seed)
    return torch.cat(  # a new u for every draw of h
        [
            bounds.log_weights(*found.best, grey[2] + noise(grey[2], s), 1, seed=s)
            for s in range(SAMPLES[-1])
        ]
    )


def factors(split: Split, seed: int) -> tuple[Tensor, int]:
    """Factor analysis by EM, the number of factors by the validation rows."""
    training, validation, _ = (p.v + noise(p.v, 100 * seed + i) for i, p in enumerate(split))
    fits = {k: factor_analysis.em(training, k, seed=seed, tol=1e-7)[0] for k in FACTORS}
    best = max(fits, key=lambda k: float(factor_analysis.log_evidence(fits[k], validation).mean()))
    v = split.test.v
    rows = [factor_analysis.log_evidence(fits[best], v + noise(v, s)) for s in range(SAMPLES[-1])]
    return torch.stack(rows), best


def mixture(split: Split, seed: int) -> tuple[Tensor, str]:
    """Gaussian mixture by EM, size and kind of covariance by the validation rows."""
    training, validation, _ = (p.v + noise(p.v, 100 * seed + i) for i, p in enumerate(split))
    fits = {
        (k, kind): GaussianMixture(k, covariance_type=kind, random_state=seed, reg_covar=1e-3).fit(
            training.numpy()
        )
        for k in COMPONENTS
        for kind in ("full", "tied", "diag")
    }
    best = max(fits, key=lambda key: fits[key].score(validation.numpy()))
    v = split.test.v
    rows = [fits[best].score_samples((v + noise(v, s)).numpy()) for s in range(SAMPLES[-1])]
    return torch.as_tensor(np.stack(rows)), f"{best[0]}, {best[1]}"


def bernoulli_mixture(split: Split, seed: int) -> tuple[Tensor, int]:
    """Mixture of independent pixels by EM on the ink, the size by the validation rows."""
    training, validation, test = ((part.v > INK).double() for part in split)
    fits = {k: _bernoulli_em(training, k, seed) for k in (10, 40, 80, 160)}

    def evidence(theta, v):
        weights, p = theta
        joint = v @ p.log().mT + (1 - v) @ (1 - p).log().mT + weights.log()
        return torch.logsumexp(joint, 1)

    best = max(fits, key=lambda k: float(evidence(fits[k], validation).mean()))
    return evidence(fits[best], test)[None].expand(SAMPLES[-1], -1), best


def _bernoulli_em(v: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weights (K,) and probabilities (K, D); one row's worth of the mean as pseudo-data."""
    start = torch.randint(len(v), (size,), generator=torch.Generator().manual_seed(seed))
    p = 0.25 + 0.5 * v[start]
    weights = torch.full((size,), 1 / size)
    mean = (v.sum(0) + 1) / (len(v) + 2)
    for _ in range(200):
        joint = v @ p.log().mT + (1 - v) @ (1 - p).log().mT + weights.log()
        share = torch.softmax(joint, 1)
        weights = (share.sum(0) + 1) / (len(v) + size)
        p = (share.mT @ v + mean) / (share.sum(0) + 1)[:, None]
    return weights, p


def histograms(split: Split) -> Tensor:
    """Each pixel on its own: how often it had each level, one more than counted."""
    levels = torch.arange(NUM_LEVELS)
    counts = (split.training.v[:, :, None] == levels).sum(0) + 1.0
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    rows = log_p[torch.arange(64), split.test.v.long()].sum(1)
    return rows[None].expand(SAMPLES[-1], -1)


def line(name: str, size: str, runs: list[Tensor]) -> str:
    """One line: means over the seeds, standard error over the rows, spread over the seeds."""
    table = torch.stack([torch.stack(iw(run)) for run in runs])  # (seeds, samples, rows)
    of_rows, of_seeds = table.mean(0), table.mean(2)
    error = float(of_rows[0].std()) / math.sqrt(of_rows.shape[1])
    cells = [f"{float(of_rows[0].mean()):.2f} ± {error:.2f}"]
    cells += [f"{float(bound):.2f}" for bound in of_rows[1:].mean(1)]
    spread = [f"{float(s):.2f}" for s in of_seeds.std(0)] if len(runs) > 1 else ["–"] * 4
    return f"| {name} | {size} | {' | '.join(cells)} | {spread[0]} | {spread[-1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    num_seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    split, seeds = load_split(), range(num_seeds)
    head = (
        "| model | size | 1 sample | 10 | 100 | 1000 | sd over seeds, 1 | 1000 |\n"
        "|---|---|--:|--:|--:|--:|--:|--:|"
    )
    shallow = [factors(split, s) for s in seeds]
    mixtures = [mixture(split, s) for s in seeds]
    grey = [
        line("pixels on their own", "17 levels each", [histograms(split)]),
        line("Gaussian mixture", _sizes(mixtures), [run for run, _ in mixtures]),
        line("factor analysis", _sizes(shallow), [run for run, _ in shallow]),
    ]
    ink_mixtures = [bernoulli_mixture(split, s) for s in seeds]
    ink = [line("Bernoulli mixture", _sizes(ink_mixtures), [run for run, _ in ink_mixtures])]
    size = f"{NUM_LATENTS} latents"
    for likelihood, lines in (("gaussian", grey), ("beta_binomial", grey), ("bernoulli", ink)):
        runs = [auto_encoder(split, likelihood, s) for s in seeds]
        lines.append(line(f"auto-encoder, {likelihood.replace('_', '-')}", size, runs))
    what = __doc__.partition("What is compared. ")[2].strip()
    text = f"""# Auto-encoders on the digits

447 held-out images of scikit-learn's digits, trained on 1000, stopped by 350
(`pyro_cookbook/data/digits.py` has the split); {num_seeds} seeds of the start, the mini-batches and
u. Nats an image: the mean over rows and seeds, ± its standard error over the rows.
`benchmarks/vae_digits.py` prints this file.
{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}.

{what}

## Grey levels, log probability of 64 numbers from 0 to 16

{head}
{chr(10).join(grey)}

## Ink above half, log probability of 64 bits

{head}
{chr(10).join(ink)}

Where a model has its log evidence exactly (bits, histograms), it stands in all four columns. For
densities the samples are of u; for the Gaussian auto-encoder, of u and h together.
"""
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def _sizes(runs: list[tuple[Tensor, object]]) -> str:
    """Which sizes the validation rows chose."""
    return " / ".join(dict.fromkeys(str(size) for _, size in runs))


if __name__ == "__main__":
    main()
