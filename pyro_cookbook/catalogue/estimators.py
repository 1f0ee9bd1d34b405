"""Estimators that several topics share: of the bound, and of the exact log evidence."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_cookbook.fits.result import Fit


def vectorised_bound(num_particles: int = 8) -> Trace_ELBO:
    """Estimate the bound with little noise: eight draws in one run cost little more than one."""
    return Trace_ELBO(num_particles, vectorize_particles=True, max_plate_nesting=1)


def sum_of_rows(log_evidence: Callable[[Any, Tensor], Tensor]) -> Callable[[Fit], float]:
    """Make log p(v; θ) of a fit, in nats, from a function of θ and rows that gives it row by row.

    Parameters
    ----------
    log_evidence : callable
        ``log_evidence(theta, v)``, shape (n,); the fitted model serves as θ.
    """

    def total(fit: Fit) -> float:
        with torch.no_grad():
            return float(log_evidence(fit.model, fit.args[0]).sum())

    return total
