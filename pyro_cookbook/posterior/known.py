"""Which latents of new data are those of the training data: groups are, rows are not.

The *rows* are the plate of the first dimension of what is observed. New data have new rows, however
many; only an amortised guide says something of them, and only if their observations are given.
Every other plate numbers things that stay, groups or components or features: their entries are
known up to their number in training, and new beyond. The same observations make the same rows.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import distributions as dist
from torch import Tensor

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.arguments import holders, named_arguments
from pyro_cookbook.programs.observing import Node
from pyro_cookbook.programs.program import Program, Site


class Known(NamedTuple):
    """Where the known latents come from.

    Attributes
    ----------
    guide : Program
        What draws them.
    sites : frozenset of str
        Latents of the model on the new data that keep what the guide draws, entry by entry.
    """

    guide: Program
    sites: frozenset[str]


def known_latents(fit: Fit, asked: Program, known: Collection[str] | None) -> Known:
    """Say which latents of new data are known, and what draws them.

    Parameters
    ----------
    fit : Fit
    asked : Program
        The model on the new data; the fit's own for the training data.
    known : collection of str, optional
        As for `predict`.

    Raises
    ------
    ValueError
        If there is no such plate or site; if rows or groups with observations of their own are new
        to the guide; if what is new depends on what is known in a way that the model does not say.
    """
    trained, guide = fit.programs
    latents = frozenset(asked.latents)
    if asked is trained:
        return Known(guide, latents)
    plates = {name: _plates(node) for name, node in (asked.nodes | trained.nodes).items()}
    _check_known(known, plates)
    observed = [name for name, site in trained.sites.items() if site.is_data]
    seen = [name for name in observed if name in asked.sites and asked.sites[name].observed]
    if seen and _same_data(trained, asked, seen):
        return Known(guide, latents)
    if known is None:
        rows = row_plates(trained)
        unplated = _unplated_rows(trained, alone=not seen)
    else:
        rows, unplated = frozenset().union(*plates.values()), frozenset()
    new = {name for name in latents if (plates[name] & rows) - set(known or ())} | unplated
    new = (new & latents) - set(known or ())
    if not seen:
        return Known(guide, latents - new)
    informed = asked.of(fit.guide)
    if new:
        _check_infers(trained, informed, asked, new)
        return Known(informed, latents)
    _check_no_new_groups(asked, guide)
    return Known(informed if _sites(informed) else guide, latents)


def row_plates(program: Program) -> frozenset[str]:
    """Plates of the first dimension of what is observed; a loop's, where it has no dimensions."""
    found = set()
    for name, site in program.sites.items():
        if not site.is_data:
            continue
        loops = [f.name for f in program.nodes[name]["cond_indep_stack"] if not f.vectorized]
        found |= set(site.plates[:1] or loops[:1])
    return frozenset(found - {""})


def independent_dims(node: Node) -> int:
    """Count the leading dimensions along which a site's entries are independent a priori."""
    fn = node["fn"]
    wrapped = (dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)
    while isinstance(fn, (*wrapped, torch.distributions.Independent)):
        fn = fn.base_dist
    dims: int = node["value"].dim() - fn.event_dim
    return dims


def _plates(node: Node) -> frozenset[str]:
    return frozenset(frame.name for frame in node["cond_indep_stack"])


def _check_known(known: Collection[str] | None, plates: Mapping[str, frozenset[str]]) -> None:
    if isinstance(known, str):
        raise ValueError(f"known: got {known!r}, expected a list of plates or sites")
    names = sorted({*plates, *frozenset().union(*plates.values())})
    for name in known or ():
        if name not in names:
            raise ValueError(f"known: got {name!r}, expected plates or sites: {', '.join(names)}")


def _same_data(trained: Program, asked: Program, seen: Collection[str]) -> bool:
    """Whether a posterior given these data is that of the training data.

    The observations have to be equal, and all inputs; inputs may go on beyond them.
    """
    if not all(_equal(trained.observed[name], asked.observed[name]) for name in seen):
        return False
    observed = set(holders(trained).values())
    now = named_arguments(asked)
    return all(
        name in observed or _goes_on(value, now.get(name))
        for name, value in named_arguments(trained).items()
    )


def _goes_on(old: Any, new: Any) -> bool:
    """Whether an input is as it was in training, but for rows after the old ones."""
    if isinstance(old, (Tensor, np.ndarray)):
        if not isinstance(new, (Tensor, np.ndarray)):
            return False
        old, new = torch.as_tensor(old), torch.as_tensor(new)
        return _equal(old, new[: len(old)] if old.dim() and new.dim() else new)
    return new == old if isinstance(old, float) else True  # whole numbers are sizes: they may grow


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.device != other.device:
        return False
    both_nan = (one != one) & (other != other)  # noqa: PLR0124 - missing entries
    return bool(((one == other) | both_nan).all())


def _unplated_rows(trained: Program, *, alone: bool) -> frozenset[str]:
    """Latents outside of plates that have an entry for each row all the same.

    A site is suspected for its size, and convicted if it grows when the data have one more row.
    With the new rows alone, without observations, its entries have to be independent.
    """
    sizes = {site.shape[0] for site in trained.sites.values() if site.is_data and len(site.shape)}
    suspects = {
        name: site
        for name, site in trained.sites.items()
        if not site.deterministic and sizes & {n for n, plate in _dims(site) if not plate}
    }
    longer = _sites(one_more_row(trained, sizes)) if suspects else {}
    found = set()
    for name, site in suspects.items():
        after = longer[name].shape if name in longer else site.shape
        grown = [
            i for i, pair in enumerate(zip(site.shape, after, strict=False)) if len({*pair}) > 1
        ]
        if not grown:
            continue
        if alone and max(grown) >= independent_dims(trained.nodes[name]):
            raise ValueError(
                f"new_data: the entries of site {name!r} for new rows depend on those for the"
                " training rows, which the model on new rows alone cannot say; give it old and new"
                " rows together, or write it with independent latents in a plate"
            )
        if not site.observed:
            found.add(name)
    return frozenset(found)


def _dims(site: Site) -> list[tuple[int, str]]:
    """Size and plate of every dimension, "" for those without."""
    names = [*site.plates, *[""] * (len(site.shape) - len(site.plates))]
    return list(zip(site.shape, names, strict=True))


def one_more_row(program: Program, sizes: Collection[int]) -> Program:
    """Repeat the last row of every argument that has as many as the data: no number is new."""

    def grow(name: str, value: Any) -> Any:
        if isinstance(value, (Tensor, np.ndarray)) and value.ndim and value.shape[0] in sizes:
            tensor = torch.as_tensor(value)
            return torch.cat([tensor, tensor[-1:]])
        return value + 1 if name == "num_obs" and value in sizes else value

    args = [grow("", value) for value in program.args]
    return program.on(*args, **{name: grow(name, v) for name, v in program.kwargs.items()})


def _check_infers(
    trained: Program, informed: Program, asked: Program, new: Collection[str]
) -> None:
    """Refuse a guide that does not infer rows, whether or not the new ones are as many."""
    old = trained.of(informed.function).sites
    sizes = {site.shape[0] for site in trained.sites.values() if site.is_data and len(site.shape)}
    sites, longer = _sites(informed), _sites(one_more_row(trained, sizes).of(informed.function))
    for name in sorted(new):
        fits = name in sites and sites[name].shape == asked.sites[name].shape
        # Rows that a loop writes out are sites of their own.
        follows = (
            name not in old
            or len(longer) > len(old)
            or (name in longer and longer[name].shape != old[name].shape)
        )
        if fits and follows:
            continue
        shape = tuple(old[name].shape) if name in old else "none"
        raise ValueError(
            f"new_data: site {name!r} was fitted with shape {shape}, for the training rows; only an"
            " amortized guide infers new rows from their observations"
        )


def _check_no_new_groups(asked: Program, guide: Program) -> None:
    for name in asked.latents:
        if name not in guide.sites:
            continue
        old, new = guide.sites[name].shape, asked.sites[name].shape
        if len(old) != len(new) or any(a < b for a, b in zip(old, new, strict=True)):
            raise ValueError(
                f"new_data: site {name!r} was fitted with shape {tuple(old)}, these observations"
                f" need {tuple(new)}; the guide infers nothing from observations of what is new"
            )


def _sites(program: Program) -> Mapping[str, Site]:
    """Sites of a program; none if it does not run on its data."""
    try:
        return program.sites
    except Exception:  # whatever a reader's model or guide runs into on data it was not made for
        return {}
