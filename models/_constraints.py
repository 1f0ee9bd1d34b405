"""Constraints on parameters that torch lacks, with the map that Pyro keeps them by."""

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.transforms import Transform


class _UnitColumns(constraints.Constraint):
    """Matrices whose columns have length 1."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        """Say whether every column has length 1, to four digits."""
        return ((value.norm(dim=-2) - 1).abs() < 1e-4).all(-1)


class _Normalise(Transform):
    """Divide each column by its length: many to one, so the inverse is one of many."""

    domain = constraints.independent(constraints.real, 2)
    codomain = _UnitColumns()
    bijective = False

    def _call(self, x: Tensor) -> Tensor:
        # A column of zeros has no direction, and stays.
        return x / x.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.clone()


unit_columns = _UnitColumns()


@transform_to.register(_UnitColumns)
def _to_unit_columns(constraint: _UnitColumns) -> _Normalise:
    return _Normalise()
