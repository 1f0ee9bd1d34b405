"""Maximum entropy under a fixed mean and variance: the Lagrangian as an unnormalised program."""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


class Multipliers(NamedTuple):
    """Lagrange multipliers of the constraints on the mean and on the second moment.

    Attributes
    ----------
    linear : Tensor
        λ₁ of E[h] = E[v], shape (D,), real, in 1/units of the data.
    quadratic : Tensor
        λ₂ of E[h²] = E[v²], shape (D,), negative (else no density is the optimum), in 1/units².
    """

    linear: Tensor
    quadratic: Tensor


class Flat(dist.Normal):
    """Density 1 everywhere: it adds nothing to a log density.

    A flat density cannot be drawn from. Its draws are those of the normal it is made from; they
    serve as a start and say nothing.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 for every value."""
        return torch.zeros_like(value + self.loc)


def maximum_entropy(
    v: Tensor | None = None, num_obs: int | None = None, *, multipliers: Multipliers
) -> Tensor:
    """Replace every row by a hidden one that need only agree with it on average.

    =============  ======================================================  ==========
    site           log density, for each row n                             shape
    =============  ======================================================  ==========
    ``h``          0: a flat base                                          (row, D)
    ``v``          0: a flat base                                          (row, D)
    ``lagrangian`` Σ_d λ₁ (h − v) + λ₂ (h² − v²)                           (row,)
    =============  ======================================================  ==========

    With a guide q(h), the same for every row, the ELBO is n times the Lagrangian
    H(q) + λ₁ (E_q[h] − mean of v) + λ₂ (E_q[h²] − mean of v²), summed over the columns. At fixed
    multipliers it is largest at q ∝ exp(λ₁ h + λ₂ h²). The multipliers are not learnt by raising
    the ELBO: the right ones *minimise* its maximum over q, and there it is n times the largest
    entropy under the constraints.

    Parameters
    ----------
    v : Tensor, optional
        Rows whose mean and mean square are the constraints, column by column, shape (n, D). Without
        it they are drawn from N(0, 1), since nothing can be drawn from a flat density.
    num_obs : int, optional
        Rows in the whole data set, when `v` is a mini-batch of it. Default: the rows of `v`, or 1
        without them.
    multipliers : Multipliers

    Returns
    -------
    Tensor
        The rows, observed or drawn, shape (n, D).

    Notes
    -----
    The joint is not normalised: its "evidence" n log ∫ exp(λ₁ h + λ₂ h²) dh − Σ_n (λ₁ v_n + λ₂
    v_n²) is the negative log likelihood of the rows under q's optimum, not a probability. With a
    quadratic multiplier that is not negative the integral is infinite and the ELBO has no maximum.
    The optimum matches the rows' mean and variance and nothing else of them: it is not their
    density.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, section 19.4.2.
    Jaynes (1957), doi:10.1103/PhysRev.106.620.
    """
    num_rows = (num_obs or 1) if v is None else len(v)
    linear, quadratic = multipliers
    flat = Flat(torch.zeros_like(linear), torch.ones_like(linear)).to_event(1)
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        h = pyro.sample("h", flat)
        v = pyro.sample("v", flat, obs=v)
        excess = linear * (h - v) + quadratic * (h.square() - v.square())
        pyro.factor("lagrangian", excess.sum(-1))
    return v
