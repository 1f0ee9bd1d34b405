"""What a reader should know of a table before it is fitted: the fit goes on, and may be poor."""

from typing import Any

import torch

from pyro_cookbook.catalogue.options import flag_of
from pyro_cookbook.data import Table

# A table is in other units than a prior if it is so many times larger or smaller.
_FAR = 10.0
_SHOWN = 3


def nothing(table: Table, options: Any) -> tuple[str, ...]:
    """Have nothing to say."""
    return ()


def normal_columns(table: Table, options: Any) -> tuple[str, ...]:
    """Point out columns of few values, of which a normal density is a crude one."""
    few = [
        name
        for name, column in zip(table.columns, table.raw.unbind(1), strict=True)
        if len(torch.unique(column[:10_000])) <= 2
    ]
    if not few:
        return ()
    more = f" and {len(few) - _SHOWN} more" if len(few) > _SHOWN else ""
    named = ", ".join(map(repr, few[:_SHOWN])) + more
    return (
        f"{named}: two values; the model takes every column for a normal one, so probabilities of"
        " such a column mean little",
    )


def units_of_noise(table: Table, options: Any) -> tuple[str, ...]:
    """Point out rows in other units than those of the prior and the noise."""
    rms = float(table.raw.square().mean().sqrt())
    if options.scale / _FAR < rms < options.scale * _FAR:
        return ()
    scale, rate = options.scale * rms, options.rate / rms
    return (
        f"entries are {rms:.3g} in size, and the noise has an sd of {options.scale:.3g}: the prior"
        f" is for other units; {flag_of('scale')} {scale:.3g} {flag_of('rate')} {rate:.3g} are the"
        " same prior in yours",
    )


def effects_within_prior(table: Table, options: Any) -> tuple[str, ...]:
    """Point out effects that the prior would be surprised by."""
    largest = float(table.raw[:, -1].abs().max())
    if largest < _FAR * options.mu_scale:
        return ()
    return (
        f"{table.columns[-1]!r} goes up to {largest:.3g}, and the prior of the mean has an sd of"
        f" {options.mu_scale:.3g}: it is for other units; {flag_of('mu_scale')} and"
        f" {flag_of('tau_scale')} of about {largest:.2g} would not be surprised",
    )
