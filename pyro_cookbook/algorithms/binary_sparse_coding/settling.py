"""Mean field to the end for many rows: sweeps unit after unit, and leaps where those crawl.

Near a fixed point a sweep multiplies what is missing of ĥ by a matrix whose eigenvalues lie in
[0, 1): they are Gauss–Seidel's for the bound's negative Hessian, which is positive definite there.
Soon the largest, λ, governs: a sweep's step s is λ times the one before, s′, and all steps to come
add up to (λ + λ² + …) s. So a row leaps (Aitken):

    ĥ ← ĥ + λ / (1 − λ) s,  with λ = sᵀs′ / s′ᵀs′.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Rows in work at once, which fit in a core's cache, and sweeps between two looks at them.
_PIECE, _SWEEPS = 1024, 3
# A row leaps if no probability moves by more, for then it has chosen its optimum, and as if λ were
# no larger: then three sweeps and a leap bring it nearer, whatever the other eigenvalues in [0, 1).
_NEAR, _LARGEST = 1e-3, 0.9
# Units whose sums over all others are one product of matrices.
_BLOCK = 16


def settle(
    drive: Callable[[slice], Tensor], coupling: Tensor, logits: Tensor, max_sweeps: int, tol: float
) -> bool:
    """Sweep over the units of every row until no probability moves; `logits` changes in place.

    Parameters
    ----------
    drive : callable
        From a slice of the rows to their `mean_field.drive`.
    coupling : Tensor
        `mean_field.inhibition`, shape (K, K).
    logits : Tensor
        Where to start, shape (n, K).
    max_sweeps, tol
        As for `mean_field.coordinate_ascent`.

    Returns
    -------
    bool
        Whether all rows are done.

    Notes
    -----
    A row that is done makes room for the next. One leaps only if it moves less than at its last
    leap, by a tenth, so that leaps come to an end; and not where steps grow, as beside a saddle.
    """
    if max_sweeps < 1:
        return not len(logits)
    ahead = min(_PIECE, len(logits))
    drives, h = drive(slice(ahead)).mT.contiguous(), torch.sigmoid(logits[:ahead].mT.contiguous())
    sweep = _sweeper(coupling, drives, fields := torch.empty_like(h), h)
    rows, settled = torch.arange(ahead, device=h.device), True
    age, near = torch.zeros_like(rows), torch.full_like(h[0], _NEAR)
    while len(rows):
        before = old = h
        several = min(_SWEEPS, max_sweeps - int(age.max()))
        for _ in range(several):
            old, before = before, h.clone()
            sweep()
        age += several
        step = h - before
        moved = step.abs().amax(0)
        leaps = _leap(h, step, before - old, moved < near)
        near = torch.where(leaps, 0.9 * moved, near)
        leaving = (moved <= tol) | (age >= max_sweeps)
        gone = torch.nonzero(leaving)[:, 0]
        if not len(gone):
            continue
        settled &= bool((moved[gone] <= tol).all())
        logits[rows[gone]] = fields[:, gone].mT
        new = torch.arange(ahead, min(ahead + len(gone), len(logits)), device=h.device)
        if len(new):
            arrivals, free = slice(ahead, ahead + len(new)), gone[: len(new)]
            drives[:, free] = drive(arrivals).mT
            h[:, free] = torch.sigmoid(logits[arrivals]).mT
            rows[free], age[free], near[free] = new, 0, _NEAR
            ahead += len(new)
        if len(new) < len(gone):
            leaving[gone[: len(new)]] = False
            stay = torch.nonzero(~leaving)[:, 0]
            rows, age, near = rows[stay], age[stay], near[stay]
            drives, h = drives.index_select(1, stay), h.index_select(1, stay)
            sweep = _sweeper(coupling, drives, fields := torch.empty_like(h), h)
    return settled


def _leap(h: Tensor, step: Tensor, previous: Tensor, may: Tensor) -> Tensor:
    """Add the steps to come to the rows that may and whose steps shrink; say which these are."""
    rate = (step * previous).sum(0) / previous.square().sum(0)
    leaps = may & (rate > 0) & (rate < 1)
    rate = torch.where(leaps, rate.clamp_max(_LARGEST), 0)
    h.addcmul_(step, rate / (1 - rate)).clamp_(0, 1)
    return leaps


def _sweeper(coupling: Tensor, drives: Tensor, fields: Tensor, h: Tensor) -> Callable[[], None]:
    """One sweep as a function, in place: field_i = drive_i − coupling_iᵀ ĥ, ĥ_i = σ(field_i).

    What a block of units takes from those outside is one product; the rest goes unit by unit.
    """
    blocks = []
    for units in torch.arange(len(h)).split(_BLOCK):
        own = slice(int(units[0]), int(units[-1]) + 1)
        outside = coupling[:, own].clone()
        outside[own] = 0
        each = list(zip(coupling[own, own], fields[own], h[own], strict=True))
        blocks.append((outside, drives[own].mT, fields[own].mT, h[own].mT, each))

    def sweep() -> None:
        for outside, drive, field, inside, each in blocks:
            torch.addmm(drive, h.mT, outside, alpha=-1, out=field)
            for weights, own_field, prob in each:
                own_field.addmv_(inside, weights, alpha=-1)
                torch.sigmoid(own_field, out=prob)

    return sweep
