"""Guides for `models.sparse_coding`: point, independent Laplaces or normals, encoder."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from guides._encoders import mlp
from guides._rows import require_all_rows


class SparseCodingMAP(PyroModule):
    """q(h_n) = δ(h_n − m_n): one point per row, the posterior mode in the space of h itself.

    Its bound is −J(m) plus a constant: the entropy of a point, −∞, is left out, so the number is
    the height of a density and no lower bound on the evidence. Gradient steps end near the mode,
    whose zeros they step over and never hit; FISTA
    (`pyro_cookbook.algorithms.sparse_coding.fista.fista`) gives them exactly.

    Parameters
    ----------
    num_rows, num_atoms : int
        n and K.

    Attributes
    ----------
    h_loc : Tensor
        m, shape (n, K), real. Initially 0, the prior mode.
    """

    def __init__(self, num_rows: int, num_atoms: int) -> None:
        super().__init__()
        self.num_rows, self.num_atoms = num_rows, num_atoms
        self.h_loc = PyroParam(torch.zeros(num_rows, num_atoms))

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", dist.Delta(self.h_loc, event_dim=1))}


class SparseCodingMeanField(PyroModule):
    """q(h_n) = ∏_k Laplace(m_nk, s_nk): independent Laplaces, the family of the prior.

    Laplaces, because the posterior of a code that its row says nothing about is the prior, and this
    family holds it exactly. The posterior of a code that the row determines is close to a normal:
    for such codes `SparseCodingGaussian` is the better one. Both bounds can be computed: compare
    them. Neither knows that the codes of overlapping atoms depend on each other given the row.

    Parameters
    ----------
    num_rows, num_atoms : int
        n and K.

    Attributes
    ----------
    h_loc : Tensor
        m, the medians and means, shape (n, K), real. Initially 0, the prior's.
    h_scale : Tensor
        s, the mean absolute deviations, shape (n, K), positive; the sd is √2 s. Initially 0.1.
    """

    def __init__(self, num_rows: int, num_atoms: int) -> None:
        super().__init__()
        self.num_rows, self.num_atoms = num_rows, num_atoms
        self.h_loc = PyroParam(torch.zeros(num_rows, num_atoms))
        start = torch.full((num_rows, num_atoms), 0.1)
        self.h_scale = PyroParam(start, constraint=constraints.positive)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> dict[str, Tensor]:
        require_all_rows(v, num_obs, self.num_rows)
        with pyro.plate("row", self.num_rows, dim=-1):
            return {"h": pyro.sample("h", self._factors().to_event(1))}

    def _factors(self) -> dist.TorchDistribution:
        return dist.Laplace(self.h_loc, self.h_scale)


class SparseCodingGaussian(SparseCodingMeanField):
    """q(h_n) = ∏_k N(m_nk, s_nk²): independent normals.

    The parameters are those of `SparseCodingMeanField`, with s the standard deviation.
    """

    def _factors(self) -> dist.TorchDistribution:
        return dist.Normal(self.h_loc, self.h_scale)


class SparseCodingAmortized(PyroModule):
    """q(h | v) = ∏_k Laplace(m_k(v), s_k), m a network from the row: one forward pass for a code.

    The scales are shared by all rows. With `point` q is a delta at m(v), and training maximises
    −J(m(v)): a network that learns to do sparse coding. The network is smooth, so its codes have no
    exact zeros; recipe 5b unrolls ISTA into a network whose codes do.

    Parameters
    ----------
    num_features, num_atoms : int
        D and K.
    hidden : sequence of int, default (128,)
        Widths of the layers between.
    point : bool, default False
        A delta in place of the Laplaces.

    Attributes
    ----------
    encoder : torch.nn.Sequential
        m, from (n, D) to (n, K). Initially torch's default, by the global seed.
    h_scale : Tensor
        s, shape (K,), positive. Initially 0.1. Absent if `point`.
    """

    def __init__(
        self,
        num_features: int,
        num_atoms: int,
        hidden: Sequence[int] = (128,),
        point: bool = False,
    ) -> None:
        super().__init__()
        self.num_features, self.num_atoms = num_features, num_atoms
        self.hidden, self.point = tuple(hidden), point
        self.encoder = mlp(num_features, hidden, num_atoms)
        if not point:
            start = torch.full((num_atoms,), 0.1)
            self.h_scale = PyroParam(start, constraint=constraints.positive)

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            loc = self.encoder(v)
            if self.point:
                return {"h": pyro.sample("h", dist.Delta(loc, event_dim=1))}
            return {"h": pyro.sample("h", dist.Laplace(loc, self.h_scale).to_event(1))}
