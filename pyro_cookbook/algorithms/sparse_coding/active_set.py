"""Sparse codes to the end: a few gradient steps, then Newton steps on each row's own few atoms.

In units of the noise variance J(h) = ½‖x − W h‖² + α Σ|h_k|, with x = v − b. Let
q = Wᵀ(x − W h) be the pull of every atom. Where the signs s of a code are known, J is quadratic
in its atoms S, and the minimum is one linear system away:

    h_S + d,  with  (WᵀW)_SS d = q_S − α s_S.

`fista` needs hundreds of iterations for the last digits; the systems, of a dozen unknowns, few.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softshrink

from pyro_cookbook.algorithms.sparse_coding.fista import (
    Codes,
    SparseCodingParameters,
    fista,
    objective,
)
from pyro_cookbook.programs.state.isolation import calm_threads

# The first steps end when a row's set of atoms changes by less than so many in so many steps.
_SETTLED, _LOOK, _FIRST = 0.6, 4, 200
# Their momentum at first, and their length times the largest curvature: below 4/3 a quadratic's
# converge with any momentum up to 1.
_MOMENTUM, _LENGTH = 0.5, 1.33
# Rounds of Newton after which the rows that are left go to FISTA.
_ROUNDS = 40
# Rows in work at once, and rows whose systems are solved at once: both fit in a core's cache. The
# systems are sorted by size among many rows, for those solved at once are made equally large.
_PIECE, _BATCH, _MANY = 1024, 128, 16384
# An atom joins if its pull exceeds α by so much of what the strongest newcomer's does.
_SHARE = 0.4
# Taken from the pull of atoms in use, which are no newcomers.
_NEVER = 1e30
# A step is stuck if it gains less than so much of twice what it would if no sign turned.
_LITTLE = 1e-3


@calm_threads()
def codes(
    theta: SparseCodingParameters, v: Tensor, *, start: Tensor | None = None, tol: float = 1e-7
) -> Codes:
    """Minimise J over the codes of all rows, W held: what `fista` finds, several times faster.

    Parameters
    ----------
    theta : SparseCodingParameters
        Or any object with its attributes, such as the model.
    v : Tensor
        Rows, shape (n, D).
    start : Tensor, optional
        Shape (n, K), such as the codes of a dictionary that was nearly this one. Default: the
        some gradient steps with momentum from 0, in single precision.
    tol : float, default 1e-7
        A row is done when its duality gap is below `tol` times its J, as in `fista`.

    Returns
    -------
    Codes
        Their trace has an entry for each round of Newton steps, not for each iteration of FISTA.

    Raises
    ------
    ValueError
        If `tol` is not positive.

    Notes
    -----
    A round adds the atoms that pull most, solves for the row's atoms, and drops those whose sign
    has turned if that lowers J; else it goes to the best point on the way where a sign turns. J
    never rises. Where that gains next to nothing, the next round takes in no atoms, and those to
    come one at a time. Rows that are not done after 40 rounds are left to `fista`.

    References
    ----------
    Lee, Battle, Raina and Ng (2006), *Efficient sparse coding algorithms*, NIPS 19, for one atom
    at a time. Kim and Park (2010), *Fast active-set-type algorithms for L1-regularized linear
    regression*, AISTATS, for several.

    Examples
    --------
    >>> import torch
    >>> from pyro_cookbook.algorithms.sparse_coding.active_set import codes
    >>> from pyro_cookbook.algorithms.sparse_coding.fista import SparseCodingParameters
    >>> theta = SparseCodingParameters(torch.eye(2), torch.zeros(2), rate=1.0, scale=1.0)
    >>> codes(theta, torch.tensor([[3.0, 0.5], [-1.5, 2.0]])).h
    tensor([[ 2.0000,  0.0000],
            [-0.5000,  1.0000]])
    """
    if not tol > 0:
        raise ValueError(f"tol: got {tol}, expected a positive number")
    W, alpha, beta = theta.W.detach(), theta.rate * theta.scale**2, theta.scale**-2
    v, b = v.detach(), theta.b.detach()
    gram = W.mT @ W
    h = (
        _first_codes(gram, W, v - b, alpha)
        if start is None
        else start.detach().clone().contiguous()
    )
    gaps, costs = v.new_zeros(len(v)), v.new_zeros(len(v))
    share = torch.full_like(costs, _SHARE)
    padded = _with_strangers(gram)
    rows, trace = torch.arange(len(v), device=v.device), []
    for _ in range(_ROUNDS + 1):
        left = []
        for many in rows.split(_MANY):
            found = []
            for some in many.split(_PIECE):
                code = h.index_select(0, some)
                error = (v.index_select(0, some) - b).addmm_(code, W.mT, alpha=-1)
                pull = error @ W
                costs[some], gaps[some] = cost, gap = _cost_and_gap(code, error, pull, alpha)
                more = gap > tol * cost
                found.append(_choose(some, more, code, pull, alpha, share[some], tol))
            left.append(_newton(padded, h, found, alpha, share))
        rows = torch.cat(left)
        trace.append(float(costs.sum()) * beta)
        if not len(rows):
            return Codes(h, gaps * beta, trace, True)
    last = fista(theta, v[rows], start=h[rows], tol=tol)
    h[rows], gaps[rows] = last.h, last.gap / beta
    fall = float(costs[rows].sum()) * beta - float(objective(theta, v[rows], last.h).sum())
    return Codes(h, gaps * beta, [*trace, trace[-1] - fall], last.converged)


def _first_codes(gram: Tensor, W: Tensor, x: Tensor, alpha: float) -> Tensor:
    """Take first steps in single precision, for they need not be exact, only near.

    With momentum m, from h = a = 0:  h′ = shrink(a + step (Wᵀx − G a)),  a = h′ + m (h′ − h).
    Atoms settle sooner than by FISTA: its momentum begins at 0, and its steps are shorter.
    """
    step = _LENGTH / float(torch.linalg.eigvalsh(gram.double())[-1])
    keep = torch.eye(len(gram), device=gram.device) - step * gram.float()
    atoms, found = step * W.float(), x.new_empty(len(x), len(gram))
    for rows, into in zip(x.split(_PIECE), found.split(_PIECE), strict=True):
        pull = rows.float() @ atoms
        h = softshrink(pull, step * alpha)
        ahead, seen = h * (1 + _MOMENTUM), h.bool()
        for t in range(2, _FIRST + 1):
            new = softshrink(torch.addmm(pull, ahead, keep), step * alpha)
            h, ahead = new, torch.lerp(h, new, 1 + max(_MOMENTUM, t / (t + 3)))
            if t % _LOOK == 0:
                used = h.bool()
                if int(torch.count_nonzero(used ^ seen)) < _SETTLED * len(h):
                    break
                seen = used
        into.copy_(h)
    return found


def _cost_and_gap(h: Tensor, error: Tensor, pull: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """J/β and its duality gap of every row: see `fista.duality_gap`, with u = shrink · error."""
    square = error.square().sum(1)
    cost = square / 2 + alpha * h.abs().sum(1)
    shrink = alpha / pull.abs().amax(1).clamp_min(alpha)
    along = square + (h * pull).sum(1)  # errorᵀx
    return cost, cost - shrink * along + shrink.square() * square / 2


def _with_strangers(gram: Tensor) -> Tensor:
    """Put K atoms beside the dictionary's that meet no other: rows with fewer atoms are filled up.

    A little is added to the diagonal, so that atoms which coincide leave a system that can be
    solved. The step is shorter by a trifle, and J falls all the same.
    """
    K = len(gram)
    padded = torch.eye(2 * K, dtype=gram.dtype, device=gram.device)
    padded[:K, :K] = gram
    ridge = torch.finfo(gram.dtype).eps ** 0.67 * float(gram.diagonal().amax())
    padded.diagonal()[:K] += ridge
    return padded


class _Chosen(NamedTuple):
    """Atoms of some rows, row after row: `size` of each, and what belongs to each atom."""

    rows: Tensor
    size: Tensor
    position: Tensor  # row · K + atom
    code: Tensor
    pull: Tensor


def _choose(
    rows: Tensor, more: Tensor, h: Tensor, pull: Tensor, alpha: float, share: Tensor, tol: float
) -> _Chosen:
    """Take the atoms in use and those of the others that pull most, of the rows with `more` to do.

    One that pulls by tol · α more than α adds at most tol · J to the gap: it can stay outside.
    """
    used = h.bool()
    excess = pull.abs().sub_(alpha).sub_(used.to(pull), alpha=_NEVER)
    strongest = excess.amax(1)
    least = torch.where(strongest > tol / 2 * alpha, share * strongest, torch.inf)
    chosen = (used | (excess >= least[:, None])) & more[:, None]
    row, atom = torch.nonzero(chosen, as_tuple=True)
    position, size = rows[row] * h.shape[1] + atom, chosen.sum(1)[more]
    return _Chosen(rows[more], size, position, h[row, atom], pull[row, atom])


def _newton(padded: Tensor, h: Tensor, found: list[_Chosen], alpha: float, share: Tensor) -> Tensor:
    """One round for unfinished rows, which it returns: new codes, and the share they take next."""
    rows, size, position, code, pull = map(torch.cat, zip(*found, strict=True))
    if not len(rows):
        return rows
    K, places = h.shape[1], torch.arange(int(size.max()), device=h.device)
    atom, code, pull = (pad(of, (0, 1)) for of in (position % K, code, pull))
    order, stuck = size.argsort(), []
    begin, size = (size.cumsum(0) - size)[order, None], size[order, None]
    for begins, sizes in zip(begin.split(_BATCH), size.split(_BATCH), strict=True):
        place = places[: int(sizes[-1])]
        own = place < sizes
        at = torch.where(own, begins + place, -1)
        among = torch.where(own, atom[at], K + place)
        pairs = among[:, :, None] * len(padded) + among[:, None, :]
        system = padded.view(-1).index_select(0, pairs.view(-1)).view_as(pairs)
        code[at], still = _step(system, code[at], pull[at], alpha)
        stuck.append(still)
    h.view(-1)[position] = code[:-1]
    # Where no newcomer helped: first none, to the best point of the old atoms; then one at a time.
    before = share[rows[order]]
    share[rows[order]] = torch.where(
        torch.cat(stuck), torch.inf, torch.where(before == torch.inf, 1, before)
    )
    return rows


def _step(system: Tensor, h: Tensor, pull: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Go to the minimum for these atoms and signs, or as far as J falls; say where it did not."""
    sign = torch.where(h != 0, h, pull).sign()
    slope = pull - alpha * sign
    d = torch.cholesky_solve(slope[:, :, None], torch.linalg.cholesky_ex(system)[0])[:, :, 0]
    new = h + d
    turned = new * sign < 0
    stuck = torch.zeros(len(h), dtype=torch.bool, device=h.device)
    rows = torch.nonzero(turned.any(1))[:, 0]
    if not len(rows):
        return new, stuck
    clipped = new[rows].masked_fill(turned[rows], 0)
    move = clipped - h[rows]
    bend = (system[rows].to(move) @ move[:, :, None])[:, :, 0]
    gain = alpha * (clipped.abs() - h[rows].abs()) - move * (pull[rows] - bend / 2)
    new[rows] = clipped
    rows = rows[gain.sum(1) >= 0]
    if len(rows):
        new[rows], stuck[rows] = _best_turn(h[rows], d[rows], pull[rows], slope[rows], alpha)
    return new, stuck


def _best_turn(
    h: Tensor, d: Tensor, pull: Tensor, slope: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Of the points h + t d, 0 < t ≤ 1, where a sign turns, find the lowest; or stay.

    Say where that gains next to nothing: atoms near 0 would take turns to hold each other up.

    Along the way J changes by −t qᵀd + t²/2 dᵀGd + α Σ(|h + t d| − |h|), and G d is the slope.
    """
    t = -h / d
    t = torch.where((t > 0) & (t < 1), t, 1)
    size = (h[:, None] + t[:, :, None] * d[:, None]).abs().sum(2) - h.abs().sum(1, keepdim=True)
    straight, bend = (pull * d).sum(1, keepdim=True), (slope * d).sum(1, keepdim=True)
    change = t.square() * bend / 2 - t * straight + alpha * size
    best = change.min(1, keepdim=True)
    here = torch.where(best.values >= 0, 0, t.gather(1, best.indices))
    new = torch.where((t == here) & (here < 1), 0, h + here * d)
    return new, (best.values >= -_LITTLE * bend)[:, 0]
