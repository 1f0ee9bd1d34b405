"""The bars test: images that are sums of horizontal and vertical bars, with noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A bar counts as found if the atom matched to it points this nearly in its direction.
MIN_COSINE = 0.9


@dataclass(frozen=True)
class Bars:
    """Images of bars, and what made them.

    Attributes
    ----------
    v : Tensor
        The images as rows, shape (n, side²), float64: brightness, 1 for a bar, 2 where two cross.
    atoms : Tensor
        The bars as columns, shape (side², 2 side), of 0 and 1: `side` horizontal ones from the top,
        then `side` vertical ones from the left.
    h : Tensor
        Which bars are in which image, shape (n, 2 side), of 0 and 1.
    prob, scale : float
        Probability of every bar, and the noise's standard deviation.
    """

    v: Tensor
    atoms: Tensor
    h: Tensor
    prob: float
    scale: float


def bar_atoms(side: int) -> Tensor:
    """All bars of a grid as columns, shape (side², 2 side): first the horizontal ones."""
    eye, ones = torch.eye(side, dtype=torch.float64), torch.ones(side, dtype=torch.float64)
    horizontal = eye[:, :, None] * ones  # (bar, line, column)
    vertical = eye[:, None, :] * ones[:, None]
    return torch.cat([horizontal, vertical]).flatten(1).mT.contiguous()


def make_bars(
    num_rows: int = 300,
    side: int = 4,
    *,
    prob: float | None = None,
    scale: float = 0.4,
    seed: int = 0,
) -> Bars:
    """Draw images from binary sparse coding with the bars as atoms.

    Parameters
    ----------
    num_rows : int, default 300
        n.
    side : int, default 4
        Lines and columns of the grid; there are 2 side bars.
    prob : float, optional
        Probability of each bar, in (0, 1). Default: 1 / side, two bars an image on average.
    scale : float, default 0.4
        Standard deviation of the noise of a pixel, in brightness; positive.
    seed : int, default 0

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Notes
    -----
    Crossing bars add up. In Földiák's original a crossing is as bright as one bar, which a sum of
    atoms cannot represent.

    References
    ----------
    Földiák (1990), *Forming sparse representations by local anti-Hebbian learning*,
    doi:10.1007/BF02331346.
    """
    prob = 1 / side if prob is None else prob
    if num_rows < 1 or side < 2 or not 0 < prob < 1 or scale <= 0:
        raise ValueError(
            f"num_rows, side, prob, scale: got {num_rows}, {side}, {prob}, {scale}, expected at"
            " least 1, at least 2, between 0 and 1, and above 0"
        )
    generator = torch.Generator().manual_seed(seed)
    atoms = bar_atoms(side)
    uniform = torch.rand(num_rows, 2 * side, dtype=torch.float64, generator=generator)
    h = (uniform < prob).double()
    noise = torch.randn(num_rows, side**2, dtype=torch.float64, generator=generator)
    return Bars(h @ atoms.mT + scale * noise, atoms, h, prob, scale)


def match_atoms(W: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Pair learnt atoms with true ones, each at most once, by the largest sum of cosines.

    Parameters
    ----------
    W : Tensor
        Learnt atoms as columns, shape (D, K).
    atoms : Tensor
        True atoms as columns, shape (D, M).

    Returns
    -------
    order : Tensor
        For each true atom the column of `W`, or −1 if K < M and none is left; shape (M,).
    cosine : Tensor
        Its cosine with that column, 0 without one; shape (M,). The sign counts: an atom of
        opposite sign is no match.
    """
    from scipy.optimize import linear_sum_assignment  # late: few readers look for bars

    unit_W = W / W.norm(dim=0).clamp_min(torch.finfo(W.dtype).tiny)
    cosine = (atoms / atoms.norm(dim=0)).mT.to(W) @ unit_W
    # Below 0 all are equally wrong: no true match is given up to spare a bad one.
    rows, columns = linear_sum_assignment(cosine.detach().clamp_min(0).cpu(), maximize=True)
    order = torch.full((atoms.shape[1],), -1)
    order[rows] = torch.as_tensor(columns)
    found = torch.zeros(atoms.shape[1], dtype=W.dtype)
    found[rows] = cosine.detach().cpu()[rows, columns]
    return order, found


def share_recovered(W: Tensor, atoms: Tensor, min_cosine: float = MIN_COSINE) -> float:
    """Share of the true atoms whose matched atom has a cosine of at least `min_cosine`."""
    return float((match_atoms(W, atoms)[1] >= min_cosine).double().mean())
