"""Posterior draws from a guide's draws, by importance resampling, block by block."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.posterior.importance import (
    MAX_KHAT,
    NUM_DRAWS,
    Array,
    Weights,
    inner_draws,
    weigh,
)
from pyro_cookbook.posterior.pareto import smooth
from pyro_cookbook.posterior.states import enumerate_states
from pyro_cookbook.programs.state.isolation import isolated


def resample(fit: Fit, num_draws: int, seed: int) -> dict[str, Tensor]:
    """Resample a fit's draws by their Pareto-smoothed weights.

    All latents at once where the joint weights allow it; otherwise the global latents by weights
    with the rows summed out, then each row's given them.

    Parameters
    ----------
    fit : Fit
    num_draws : int
    seed : int

    Returns
    -------
    dict of str to Tensor
        Every latent site → values, shape (num_draws, ...).

    Raises
    ------
    ValueError
        If k-hat of a block that is needed is above 0.7, naming the block.
    """
    weights = weigh(fit, max(NUM_DRAWS, num_draws), seed, sum_rows_out=False)
    rng = np.random.default_rng(seed)
    names = [name for name in weights.sites if name in weights.draws.values]
    latents = {name: weights.draws.values[name] for name in names}
    smoothed, joint = smooth(weights.joint)
    if joint <= MAX_KHAT:
        return _take(latents, rng.choice(len(smoothed), num_draws, p=smoothed))
    weights = weigh(fit, num_draws=max(4000, num_draws), seed=seed)
    latents = {name: weights.draws.values[name] for name in names}
    if weights.rows is None and weights.states is None:
        raise _refusal("joint weights", float(joint))
    if weights.shared is None:
        return _rows_alone(weights, latents, num_draws, rng)
    smoothed, shared = smooth(weights.shared)
    if shared > MAX_KHAT:
        raise _refusal("global weights", float(shared))
    picked = _take(latents, rng.choice(len(smoothed), num_draws, p=smoothed))
    with isolated(seed, fit.param_state):
        return _rows_given_global(fit, weights, picked, rng)


def _refusal(block: str, khat: float) -> ValueError:
    return ValueError(
        f"reweight: k-hat of the {block} is {khat:.2f}, above {MAX_KHAT}: they cannot be used"
    )


def _take(latents: Mapping[str, Tensor], index: np.ndarray) -> dict[str, Tensor]:
    return {name: value[torch.as_tensor(index)] for name, value in latents.items()}


def _rows_alone(
    weights: Weights, latents: Mapping[str, Tensor], num_draws: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Let every row pick its own draws: rows are independent given the parameters."""
    if weights.states is not None:
        log_p = weights.states.log_p[0]
        probs = np.exp(log_p - np.logaddexp.reduce(log_p, axis=-1, keepdims=True))
        chosen = [rng.choice(len(p), num_draws, p=p / p.sum()) for p in probs]
        return weights.states.chosen(np.stack(chosen, axis=1), weights.sites)
    assert weights.rows is not None
    smoothed, khat = smooth(weights.rows)
    if khat.max() > MAX_KHAT:
        raise _refusal(f"worst {weights.blocks.row!r}", float(khat.max()))
    picks = [rng.choice(len(column), num_draws, p=column) for column in smoothed.T]
    index = torch.as_tensor(np.stack(picks, axis=1))
    rows = torch.arange(index.shape[1])
    picked = {}
    for name, value in latents.items():
        axis = 1 + weights.sites[name].plates.index(weights.blocks.row)
        picked[name] = value.movedim(axis, 1)[index, rows].movedim(1, axis)
    return picked


def _rows_given_global(
    fit: Fit, weights: Weights, latents: dict[str, Tensor], rng: np.random.Generator
) -> dict[str, Tensor]:
    """Redraw the rows' latents given resampled global ones: exactly, or by inner weights."""
    blocks, sites = weights.blocks, weights.sites
    states = weights.states
    if states is not None:
        states = enumerate_states(fit, tuple(states.values), blocks.row, latents)
    if states is not None:
        return latents | states.chosen(_choose(states.log_p, rng), sites)
    total: Array | None = None
    for values, rows in inner_draws(fit, blocks, latents):
        # Weighted reservoir of size one: keep the newcomer with its share of the weight so far.
        if total is None:
            total = rows
            latents = values
            continue
        total = np.logaddexp(total, rows)
        swap = torch.as_tensor(np.log(rng.random(rows.shape)) < rows - total)
        for name in blocks.local_sites:
            axis = 1 + sites[name].plates.index(blocks.row)
            shape = [1] * values[name].dim()
            shape[0], shape[axis] = swap.shape
            latents[name] = torch.where(swap.reshape(shape), values[name], latents[name])
    return latents


def _choose(log_p: Array, rng: np.random.Generator) -> np.ndarray:
    """Draw an index along the last axis by unnormalised log probabilities (Gumbel's maximum)."""
    return np.asarray((log_p + rng.gumbel(size=log_p.shape)).argmax(-1))
