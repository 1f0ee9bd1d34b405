"""Sparse coding: a linear model whose hidden causes are mostly near zero."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from models._constraints import unit_columns


class SparseCoding(PyroModule):
    """Each row is a weighted sum of a few of many atoms, plus noise.

    ====== ==========================================  ================
    site   distribution, for each row n                 shape
    ====== ==========================================  ================
    ``h``  h_k ~ Laplace(0, 1/λ), independent           (row, K)
    ``v``  v | h ~ N(W h + b, β⁻¹ I)                    (row, D)
    ====== ==========================================  ================

    With λ = `rate` and β = 1 / `scale`², log p(v, h) is −J(h) up to a constant, where

    J(h) = β/2 ‖v − b − W h‖² + λ Σ_k |h_k|.

    Parameters
    ----------
    num_features : int
        D, the number of columns of the data.
    num_atoms : int
        K, the number of atoms; it may exceed D.
    rate : float, default 1.0
        λ, the rate of the prior of a code, in 1 / units of the data; positive. Not learned.
    scale : float, default 1.0
        β^−½, the standard deviation of the noise, in units of the data; positive. Not learned.

    Attributes
    ----------
    W : Tensor
        The dictionary, shape (D, K): an atom in each column, of length 1. Whatever it is set to
        is divided by the lengths of its columns. Drawn by `reset_parameters`, every direction
        equally likely.
    b : Tensor
        Mean of the rows, shape (D,), in the units of the data. Initially 0.

    Raises
    ------
    ValueError
        If `rate` or `scale` is not positive.

    Notes
    -----
    Without the unit length the MAP objective has no minimum: W may grow without bound and h shrink.
    W is known up to the order and the signs of its atoms. The mode of h has exact zeros; a draw
    from the prior, or from the posterior, has none: sparsity in the strict sense belongs to the
    mode and not to the distribution. J cannot choose λ or β, which the delta's bound would drive to
    its edge.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, equations 13.12 to 13.19 and 19.14
    to 19.16. Olshausen and Field (1996), doi:10.1038/381607a0.
    """

    def __init__(
        self, num_features: int, num_atoms: int, rate: float = 1.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        for name, value in (("rate", rate), ("scale", scale)):
            if not value > 0:
                raise ValueError(f"{name}: got {value}, expected a positive number")
        self.num_features, self.num_atoms = num_features, num_atoms
        self.rate, self.scale = float(rate), float(scale)
        self.W = PyroParam(torch.eye(num_features, num_atoms), constraint=unit_columns)
        self.b = PyroParam(torch.zeros(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the atoms anew: those that start equal stay equal."""
        self.W = torch.nn.functional.normalize(torch.randn_like(self.W), dim=0)
        self.b = torch.zeros_like(self.b)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> Tensor:
        """Run the generative story.

        Parameters
        ----------
        v : Tensor, optional
            Rows observed, shape (n, D). Without it the rows are drawn from the prior predictive.
        num_obs : int, optional
            Rows in the whole data set, when `v` is a mini-batch of it. Default: the rows of `v`,
            or 1 without them.

        Returns
        -------
        Tensor
            The rows, observed or drawn, shape (n, D).
        """
        num_rows = (num_obs or 1) if v is None else len(v)
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            unit = self.W.new_ones(self.num_atoms)
            h = pyro.sample("h", dist.Laplace(0 * unit, unit / self.rate).to_event(1))
            loc = h @ self.W.mT + self.b
            return pyro.sample("v", dist.Normal(loc, self.scale).to_event(1), obs=v)
