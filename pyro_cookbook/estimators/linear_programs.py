"""Pyro programs of the two regressions: with noise, and with more than two classes."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import constraints, transforms

from pyro_cookbook.algorithms.linear_regression import LinearPosterior
from pyro_cookbook.algorithms.logistic_regression import design


def linear_regression(
    x: Tensor, y: Tensor | None = None, *, scale: Tensor, shape: float, rate: float
) -> Tensor:
    """Draw coefficients and a noise, then an outcome for each row.

    =============  ====================================  =========
    site           distribution                          shape
    =============  ====================================  =========
    ``precision``  1 / σ² ~ Gamma(shape, rate)            ()
    ``beta``       β_p ~ N(0, scale_p), intercept first   (D + 1,)
    ``y``          y_n ~ N((1, x_n)ᵀ β, σ)                (row,)
    =============  ====================================  =========

    Parameters
    ----------
    x : Tensor
        Covariates, shape (n, D), standardised.
    y : Tensor, optional
        Outcomes, shape (n,), standardised. Without them they are drawn.
    scale : Tensor
        Prior standard deviations of β, shape (D + 1,).
    shape, rate : float
        Of the noise's precision.

    Notes
    -----
    One outlier moves all coefficients: `student_t_regression` heeds it less.

    References
    ----------
    Gelman et al. (2013), *Bayesian Data Analysis*, chapter 14.
    """
    loc, sigma = _predictor(x, scale, shape, rate)
    with pyro.plate("row", len(x), dim=-1):
        return pyro.sample("y", dist.Normal(loc, sigma), obs=y)


def student_t_regression(
    x: Tensor, y: Tensor | None = None, *, scale: Tensor, shape: float, rate: float
) -> Tensor:
    """Draw as `linear_regression` does, with Student's t for the noise.

    =============  ====================================  =========
    site           distribution                          shape
    =============  ====================================  =========
    ``precision``  1 / σ² ~ Gamma(shape, rate)            ()
    ``beta``       β_p ~ N(0, scale_p), intercept first   (D + 1,)
    ``excess``     ν − 2 ~ Gamma(2, 0.1)                  ()
    ``y``          y_n ~ t_ν((1, x_n)ᵀ β, σ)              (row,)
    =============  ====================================  =========

    Parameters
    ----------
    x, y, scale, shape, rate
        As for `linear_regression`.

    Notes
    -----
    ν is above 2, so that the noise has a variance; σ is its scale, not its standard deviation.

    References
    ----------
    Juárez and Steel (2010), doi:10.1198/jbes.2009.07145, for the prior of ν.
    """
    loc, sigma = _predictor(x, scale, shape, rate)
    excess = pyro.sample("excess", dist.Gamma(x.new_tensor(2.0), x.new_tensor(0.1)))
    with pyro.plate("row", len(x), dim=-1):
        return pyro.sample("y", dist.StudentT(2 + excess, loc, sigma), obs=y)


def _predictor(x: Tensor, scale: Tensor, shape: float, rate: float) -> tuple[Tensor, Tensor]:
    """Draw β and σ: the linear predictor of each row, and σ."""
    precision = pyro.sample("precision", dist.Gamma(x.new_tensor(shape), x.new_tensor(rate)))
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(scale), scale).to_event(1))
    loc = beta @ design(x).mT
    if beta.dim() > 1:  # many draws at once, (S, 1, D + 1): (S, n)
        loc = loc.squeeze(-2)
    return loc, precision.rsqrt()


class LinearRegressionExact(PyroModule):
    """q(σ) q(β | σ): the exact posterior of `linear_regression`.

    β given σ is exact. log σ is a mixture of narrow normals at the nodes of the quadrature, as wide
    as the nodes are apart: its density is the exact one, smoothed over 0.04 sd.

    Parameters
    ----------
    found : LinearPosterior
    """

    def __init__(self, found: LinearPosterior) -> None:
        super().__init__()
        for name in ("log_scale", "log_weight", "basis", "singular", "projected"):
            self.register_buffer(name, getattr(found, name))
        self.log_evidence = found.log_evidence

    def forward(self, x: Tensor, y: Tensor | None = None, **_: Any) -> dict[str, Tensor]:
        """Draw the noise, then the coefficients."""
        found = LinearPosterior(
            self.log_scale, self.log_weight, self.basis, self.singular, self.projected,
            self.log_evidence,
        )  # fmt: skip
        step = (self.log_scale[1] - self.log_scale[0]).expand_as(self.log_scale)
        nodes = dist.MixtureSameFamily(
            dist.Categorical(logits=self.log_weight), dist.Normal(self.log_scale, step)
        )
        to_precision = [transforms.AffineTransform(0.0, -2.0), transforms.ExpTransform()]
        precision = pyro.sample("precision", dist.TransformedDistribution(nodes, to_precision))
        loc, scale = found.given_scale(1 / precision)
        gamma = dist.Normal(loc, scale).to_event(1)
        beta = pyro.sample("beta", dist.TransformedDistribution(gamma, [_Linear(self.basis)]))
        return {"precision": precision, "beta": beta}


class _Linear(transforms.Transform):
    """β = B γ, for a square matrix B."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.basis = basis

    def _call(self, x: Tensor) -> Tensor:
        y: Tensor = x @ self.basis.mT
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        x: Tensor = y @ torch.linalg.inv(self.basis).mT
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        log_det: Tensor = torch.linalg.slogdet(self.basis)[1]
        return log_det.expand(x.shape[:-1])


def softmax_regression(
    x: Tensor,
    y: Tensor | None = None,
    *,
    contrasts: Tensor,
    intercept_scale: float,
    coefficient_scale: float,
) -> Tensor:
    """Draw intercepts and coefficients, then one of K classes for each row.

    ================  ============================================  ==========
    site              distribution                                  shape
    ================  ============================================  ==========
    ``intercept``     a_j ~ N(0, intercept_scale / √2)              (K − 1,)
    ``coefficient``   β_jd ~ N(0, coefficient_scale / √2)           (K − 1, D)
    ``y``             y_n ~ Categorical(softmax(C (a + β x_n)))     (row,)
    ================  ============================================  ==========

    The columns of C are orthonormal and sum to 0, so that the log odds of any two classes have the
    priors of `models.logistic_regression`, whose case K = 2 this is.

    Parameters
    ----------
    x : Tensor
        Covariates, shape (n, D), standardised.
    y : Tensor, optional
        Classes, whole numbers from 0, shape (n,). Without them they are drawn.
    contrasts : Tensor
        C, shape (K, K − 1).
    intercept_scale, coefficient_scale : float
        Prior standard deviations of the log odds of two classes.

    Notes
    -----
    Where planes separate the classes the prior alone holds the posterior, which is wide and skewed.

    References
    ----------
    Gelman, Jakulin, Pittau and Su (2008), doi:10.1214/08-AOAS191, for scales of priors.
    """
    num, dim = contrasts.shape[1], x.shape[1]
    zero = x.new_zeros(())
    prior = dist.Normal(zero, intercept_scale / math.sqrt(2)).expand([num]).to_event(1)
    intercept = pyro.sample("intercept", prior)
    prior = dist.Normal(zero, coefficient_scale / math.sqrt(2)).expand([num, dim]).to_event(2)
    coefficient = pyro.sample("coefficient", prior)
    score = x @ coefficient.mT
    if coefficient.dim() > 2:  # many draws at once, (S, 1, K − 1, D): (S, n, K − 1)
        score = score.squeeze(-3)
    logits = (score + intercept) @ contrasts.mT
    with pyro.plate("row", len(x), dim=-1):
        return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
