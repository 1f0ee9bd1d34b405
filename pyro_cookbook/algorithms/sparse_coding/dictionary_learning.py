"""Dictionary learning: alternate codes by FISTA with atoms by exact coordinate steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_cookbook.algorithms.sparse_coding.fista import (
    Codes,
    SparseCodingParameters,
    fista,
    objective,
)
from pyro_cookbook.programs.state.isolation import calm_threads


@dataclass(frozen=True)
class Sums:
    """What the atoms' step needs of rows and codes; additive over mini-batches.

    Attributes
    ----------
    codes : Tensor
        Σ_n h_n h_nᵀ, shape (K, K).
    cross : Tensor
        Σ_n (v_n − b) h_nᵀ, shape (D, K).
    """

    codes: Tensor
    cross: Tensor

    def blend(self, other: "Sums", keep: float) -> "Sums":
        """keep · self + other."""
        return Sums(keep * self.codes + other.codes, keep * self.cross + other.cross)


def sums(theta: SparseCodingParameters, v: Tensor, h: Tensor) -> Sums:
    """Sum over the rows."""
    return Sums(h.mT @ h, (v - theta.b).mT @ h)


def update_atoms(W: Tensor, total: Sums, *, sweeps: int = 1) -> Tensor:
    """Minimise Σ‖v − b − W h‖² over one atom after the other, each of length 1.

    With the other atoms held the sum is a constant − 2 w_kᵀ(B_k − Σ_{j≠k} A_jk w_j), A and B the
    sums, because ‖w_k‖ = 1. So the best w_k points along the bracket. An atom that no code uses
    stays as it is.

    Parameters
    ----------
    W : Tensor
        Shape (D, K), columns of length 1.
    total : Sums
    sweeps : int, default 1
        How often to go through the atoms.

    Returns
    -------
    Tensor
        A new dictionary; the sum of squares is never larger than before.

    References
    ----------
    Mairal, Bach, Ponce and Sapiro (2010), *Online learning for matrix factorization and sparse
    coding*, JMLR 11, algorithm 2, with the unit ball replaced by its surface.
    """
    # Copies, an atom's numbers side by side.
    atoms = W.mT.clone(memory_format=torch.contiguous_format)
    cross = total.cross.mT.contiguous()
    usage = total.codes.diagonal().tolist()
    used = [k for k, share in enumerate(usage) if share > 0]
    for _ in range(sweeps):
        for k in used:
            wanted = torch.addmv(cross[k], atoms.mT, total.codes[k], alpha=-1)
            wanted.add_(atoms[k], alpha=usage[k])
            length = float(torch.linalg.vector_norm(wanted))
            if length > 0:
                torch.div(wanted, length, out=atoms[k])
    return atoms.mT.contiguous()


def random_atoms(v: Tensor, num_atoms: int, *, seed: int = 0) -> Tensor:
    """Take rows as atoms, their mean removed and their length 1; random directions beyond n.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_atoms : int
        K.
    seed : int, default 0

    Returns
    -------
    Tensor
        Shape (D, K).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = (v - v.mean(0))[torch.randperm(len(v), generator=generator).to(v.device)]
    rows = rows[rows.norm(dim=1) > 0][:num_atoms]
    extra = torch.randn(num_atoms - len(rows), v.shape[1], generator=generator).to(v)
    return torch.nn.functional.normalize(torch.cat([rows, extra]), dim=1).mT


class Learned(NamedTuple):
    """A dictionary and how it was reached.

    Attributes
    ----------
    theta : SparseCodingParameters
    codes : Codes
        Of all rows under `theta`, by FISTA.
    trace : list of float
        Full-batch: ΣJ after every round, in nats; it never rises. Online: J per row of each
        mini-batch before the step that it caused.
    converged : bool
    """

    theta: SparseCodingParameters
    codes: Codes
    trace: list[float]
    converged: bool


@calm_threads()
def alternate(
    v: Tensor,
    start: SparseCodingParameters,
    *,
    max_rounds: int = 200,
    tol: float = 1e-5,
    code_tol: float = 1e-6,
    sweeps: int = 2,
    solver: Callable[..., Codes] = fista,
) -> Learned:
    """Minimise J over codes and atoms in turn, on all rows: EM with a delta for q.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    start : SparseCodingParameters
        With atoms of length 1; b, λ and β stay.
    max_rounds : int, default 200
    tol : float, default 1e-5
        Stop when a round lowers ΣJ by less than `tol` relative.
    code_tol : float, default 1e-6
        As `tol` of `fista`.
    sweeps : int, default 2
        Of the atoms' step in each round.
    solver : callable, default `fista`
        What computes codes: `fista`, or `active_set.codes`, which is several times faster.

    Returns
    -------
    Learned

    Notes
    -----
    J is convex in the codes and not in both: this is a local minimum, one of many, and equal to
    another only up to order and signs of the atoms.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, section 19.3.
    """
    theta, trace = start, [float("inf")]
    codes = solver(theta, v, tol=code_tol)
    converged = False
    for _ in range(max_rounds):
        theta = replace(theta, W=update_atoms(theta.W, sums(theta, v, codes.h), sweeps=sweeps))
        codes = solver(theta, v, start=codes.h, tol=code_tol)
        trace.append(float(objective(theta, v, codes.h).sum()))
        if trace[-2] - trace[-1] < tol * trace[-1]:
            converged = True
            break
    return Learned(theta, codes, trace[1:], converged)


@calm_threads()
def learn_online(
    v: Tensor,
    num_atoms: int,
    *,
    rate: float,
    scale: float,
    num_steps: int = 300,
    batch_size: int = 256,
    code_tol: float = 1e-3,
    start: Tensor | None = None,
    seed: int = 0,
    solver: Callable[..., Codes] = fista,
) -> Learned:
    """Learn a dictionary from mini-batches, forgetting old ones as the atoms improve.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_atoms : int
        K.
    rate, scale : float
        λ and β^−½.
    num_steps : int, default 300
        Mini-batches.
    batch_size : int, default 256
    code_tol : float, default 1e-3
        As `tol` of `fista`; the codes of a mini-batch are used once.
    start : Tensor, optional
        Atoms, shape (D, K). Default: `random_atoms` by `seed`.
    seed : int, default 0
    solver : callable, default `fista`
        As of `alternate`.

    Returns
    -------
    Learned
        With b the mean of the rows, its expectation under the model. `converged` is False: the
        number of steps is given.

    Raises
    ------
    ValueError
        If there are no rows, or `num_atoms` is below 1.

    Notes
    -----
    An atom that no code has used for some time is replaced by the row that is described worst.

    References
    ----------
    Mairal, Bach, Ponce and Sapiro (2010), *Online learning for matrix factorization and sparse
    coding*, JMLR 11.
    """
    if num_atoms < 1 or not len(v):
        raise ValueError(f"num_atoms: got {num_atoms} for {len(v)} rows, expected 1 at least")
    rough = partial(fista, max_iterations=200) if solver is fista else solver
    generator = torch.Generator().manual_seed(seed + 1)  # else the first batch holds the atoms
    W = random_atoms(v, num_atoms, seed=seed) if start is None else start
    theta = SparseCodingParameters(W, v.mean(0), rate, scale)
    total = Sums(W.new_zeros(num_atoms, num_atoms), torch.zeros_like(W))
    order = torch.empty(0, dtype=torch.long)
    trace: list[float] = []
    for step in range(num_steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(v), generator=generator)])
        batch, order = v[order[:batch_size].to(v.device)], order[batch_size:]
        h = rough(theta, batch, tol=code_tol).h
        cost = objective(theta, batch, h)
        trace.append(float(cost.mean()))
        # Statistics of step s weigh (s / t)² at step t: those of early, poor atoms fade.
        total = total.blend(sums(theta, batch, h), (step / (step + 1)) ** 2)
        theta = replace(theta, W=update_atoms(theta.W, total))
        theta, total = _revive(theta, total, batch, cost)
    return Learned(theta, solver(theta, v, tol=code_tol), trace, converged=False)


def _revive(
    theta: SparseCodingParameters, total: Sums, batch: Tensor, cost: Tensor
) -> tuple[SparseCodingParameters, Sums]:
    """Replace atoms that are hardly used by the rows described worst."""
    usage = total.codes.diagonal()
    unused = torch.nonzero(usage < 1e-3 * usage.mean()).flatten()[: len(batch)]
    if not len(unused):
        return theta, total
    worst = (batch - theta.b)[cost.topk(len(unused)).indices]
    W, codes, cross = theta.W.clone(), total.codes.clone(), total.cross.clone()
    W[:, unused] = torch.nn.functional.normalize(worst, dim=1).mT
    codes[unused], codes[:, unused], cross[:, unused] = 0, 0, 0
    # As if the new atoms had been used once: the next step does not find them unused.
    codes[unused, unused] = usage.mean()
    cross[:, unused] = usage.mean() * W[:, unused]
    return replace(theta, W=W), Sums(codes, cross)
