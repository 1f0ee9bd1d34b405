"""Guides for `models.maximum_entropy`: one density for all rows, normal or of any shape.

A point (MAP) makes no sense here: its entropy, which is to be maximised, is −∞. Nor does an
encoder: what is sought is one density, the same for every row, so nothing is to be computed from v.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from guides._splines import MonotoneSpline


class MaximumEntropyNormal(PyroModule):
    """q(h) = ∏_d N(loc_d, scale_d²), the same for every row; the optimum is in this family.

    Parameters
    ----------
    num_features : int
        D.

    Attributes
    ----------
    h_loc, h_scale : Tensor
        Means and standard deviations, shape (D,), real and positive. Initially 0 and 1.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.h_loc = PyroParam(torch.zeros(num_features))
        self.h_scale = PyroParam(torch.ones(num_features), constraint=constraints.positive)

    def forward(
        self,
        v: Tensor | None = None,
        num_obs: int | None = None,
        *,
        multipliers: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        num_rows = (num_obs or 1) if v is None else len(v)
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            return {"h": pyro.sample("h", dist.Normal(self.h_loc, self.h_scale).to_event(1))}


class MaximumEntropyFlow(PyroModule):
    """q(h): a logistic variable through a monotone spline, one for each column, for every row.

    The density is q(h) = f(x) / T′(x) at x = T⁻¹(h), with f the logistic density and T the spline.
    No setting of it is a Gaussian exactly; with enough knots it comes close to any smooth density.
    Beyond the outer knots, with 1 draw in 75 at the default bound, it keeps logistic tails.

    Parameters
    ----------
    num_features : int
        D.
    num_bins : int, default 6
        Pieces of each spline.
    bound : float, default 5.0
        Knots lie from −bound to bound in the units of the logistic variable.

    Attributes
    ----------
    h_loc, h_scale : Tensor
        The spline is loc + scale · (a spline of midpoint 0), shape (D,), real and positive.
        Initially 0 and 1.
    h_heights : Tensor
        Rise of that spline from knot to knot, shape (D, bins), positive. Initially 2 bound / bins,
        so that q starts as the logistic density itself, of mean 0 and sd π/√3 = 1.81.
    h_slopes : Tensor
        Slopes of the spline at the knots, shape (D, bins + 1), positive. Initially 1.

    Notes
    -----
    The scale and the heights say the same thing twice: the scale moves all bins at once, which
    every draw informs. A knot's parameters get a gradient from the draws that fall beside it only:
    bins far out are learnt late or not at all. Let the data have a scale near 1.
    """

    def __init__(self, num_features: int, num_bins: int = 6, bound: float = 5.0) -> None:
        super().__init__()
        self.num_features, self.num_bins, self.bound = num_features, num_bins, bound
        heights = torch.full((num_features, num_bins), 2 * bound / num_bins)
        slopes = torch.ones(num_features, num_bins + 1)
        self.h_loc = PyroParam(torch.zeros(num_features))
        self.h_scale = PyroParam(torch.ones(num_features), constraint=constraints.positive)
        self.h_heights = PyroParam(heights, constraint=constraints.positive)
        self.h_slopes = PyroParam(slopes, constraint=constraints.positive)

    def density(self) -> dist.TransformedDistribution:
        """q(h) of one row, with event shape (D,)."""
        loc = self.h_loc
        scale = self.h_scale[..., None]
        spline = MonotoneSpline(self.bound, loc, scale * self.h_heights, scale * self.h_slopes)
        base = dist.Logistic(torch.zeros_like(loc), torch.ones_like(loc))
        return dist.TransformedDistribution(base, [spline]).to_event(1)

    def forward(
        self,
        v: Tensor | None = None,
        num_obs: int | None = None,
        *,
        multipliers: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        num_rows = (num_obs or 1) if v is None else len(v)
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            return {"h": pyro.sample("h", self.density())}
