"""What can be wrong with a model, a guide or data before anything is fitted, in one line each."""

import inspect
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.drawing import has_moving_support
from pyro_cookbook.programs.forms import described, signature_of, that_runs
from pyro_cookbook.programs.observing import MaskedSite, Node, describe_value, is_derived
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.in_place import copy_data, refuse_in_place, refuse_iterators

# Dimensions that the trees of draws have, whatever the model.
RESERVED = ("chain", "draw", "sample")


def first_run(model: Program, *, guide: Any = None, batch_size: int | None = None) -> Program:
    """Run a model on its data for the first time: is there something to infer, and can it be?

    Parameters
    ----------
    model : Program
    guide : callable or str, optional
        What is to be fitted.
    batch_size : int, optional
        Rows of a mini-batch, if there are to be any.

    Returns
    -------
    Program
        The model on data with which it runs: as given, or as tensors, or as tensors of floats.

    Raises
    ------
    ValueError
        If model or guide is no program, the model does not run on these data or its log density
        cannot be computed, nothing is latent or nothing observed, an observation is missing,
        outside its support or counted more than once, or a name cannot be kept.
    """
    _check_callable(model.function, "model", "a function or a module that samples sites")
    if guide is not None and not isinstance(guide, str):
        _check_callable(guide, "guide", "a guide or the name of a family before the data")
    refuse_iterators(model)
    trial = copy_data(model)
    with suppress(Exception):  # whatever the reader's model raises: it is said just below
        _ = trial.nodes
    refuse_in_place(model, trial)
    if not vars(trial).get("nodes", {"?"}):  # it runs, and samples nothing at all
        _check_latents(trial)
    model = that_runs(model)
    check_names(model)
    _check_latents(model)
    if not any(site.observed and not site.deterministic for site in model.sites.values()):
        _check_forgotten(model)
    for name, node in model.nodes.items():
        if node["is_observed"] and not is_derived(node):
            _check_support(model, name, node)
    if batch_size is not None:
        for role, function in (("model", model.function), ("guide", guide)):
            _check_num_obs(role, function)
    return model


def _check_latents(model: Program) -> None:
    if not model.latents:
        raise ValueError(
            "model: it has no latent site, so there is nothing to infer; to maximise the likelihood"
            " of its parameters use pyro.infer.SVI, or give them a prior and fit 'map'"
        )


def same_sites(model: Program, guide: Program) -> None:
    """Refuse a guide that does not run, or has not exactly the model's latent sites.

    Raises
    ------
    ValueError
        Naming the sites that only one of the two has, or rows that neither has in a plate: Pyro's
        estimators need to know which dimensions are independent.
    """
    wanted = set(model.latents)
    try:
        drawn = {name for name, site in guide.latents.items() if not site.auxiliary}
    except Exception as error:  # whatever the reader's guide raises
        raise ValueError(
            f"guide: it does not run on these data ({first_line(error)}); got {described(guide)}"
        ) from error
    for missing, role, other in (
        (sorted(wanted - drawn), "guide", "model"),
        (sorted(drawn - wanted), "model", "guide"),
    ):
        if missing:
            listed = ", ".join(repr(name) for name in missing)
            raise ValueError(
                f"{role}: it has no latent site {listed}, which the {other} samples; every latent"
                " site of the model, and no other, has to be in the guide"
            )
    for role, program in (("model", model), ("guide", guide)):
        _check_plates(role, program)


def _check_plates(role: str, program: Program) -> None:
    for name, site in program.sites.items():
        rows = zip(site.batch_shape, site.plates, strict=True)
        loose = [size for size, plate in rows if size > 1 and not plate]
        if loose and not site.deterministic:
            raise ValueError(
                f"{role}: site {name!r} has {loose[0]} rows in no plate; sample it inside"
                f" pyro.plate(name, {loose[0]}), or as one event: .to_event({len(loose)})"
            )


# --- names -------------------------------------------------------------------------------------


def tree_name(name: str) -> str:
    """Give the name that a site or plate has in a tree, where "/" leads into a group.

    Pyro's own ``scope`` makes names with "/": ``encoder/weight`` becomes ``encoder.weight``.
    """
    return name.replace("/", ".")


def dimension_name(plate: str) -> str:
    """Give the name that a plate's dimension has in a tree.

    A plate called like a dimension of the draws makes way: ``sample`` becomes ``sample_plate``.
    """
    name = tree_name(plate)
    return f"{name}_plate" if name in RESERVED else name


def check_names(model: Program) -> None:
    """Refuse names that a tree of draws cannot keep apart.

    Raises
    ------
    ValueError
        If a site is called like a dimension that every tree has, or two sites or plates have one
        name in a tree.
    """
    for name in model.sites:
        if tree_name(name) in RESERVED:
            raise ValueError(
                f"model: site {name!r} is called like a dimension of the draws; expected any name"
                f" but {', '.join(map(repr, RESERVED))}"
            )
    plates = {plate for site in model.sites.values() for plate in site.plates if plate}
    names = {name: tree_name(name) for name in model.sites}
    names = {plate: dimension_name(plate) for plate in sorted(plates)} | names
    kept: dict[str, str] = {}
    for name, own in sorted(names.items(), key=lambda pair: pair[0] not in model.sites):
        other = kept.setdefault(own, name)
        if other != name:
            raise ValueError(
                f"model: {other!r} and {name!r} have the same name in a tree of draws, {own!r};"
                " rename one of them"
            )


# --- programs ----------------------------------------------------------------------------------


def _check_callable(program: Any, role: str, expected: str) -> None:
    if inspect.isclass(program):
        raise ValueError(f"{role}: got the class {program.__name__}, expected an instance of it")
    if not callable(program):
        raise ValueError(f"{role}: got {describe_value(program)}, expected {expected}")


def _check_num_obs(role: str, function: Any) -> None:
    """Refuse mini-batches for a program that cannot be told how many rows there are in all."""
    if function is None or isinstance(function, str):
        return
    try:
        parameters = signature_of(function).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "num_obs" not in parameters and not takes_all:
        raise ValueError(
            f"batch_size: the {role} takes no num_obs, the number of all rows; add num_obs=None to"
            " its arguments and open its plate as"
            " pyro.plate(name, num_obs or len(batch), subsample_size=len(batch))"
        )


def _check_forgotten(model: Program) -> None:
    """Refuse to fit the prior because what is observed was left out.

    A model that observes nothing, not even by ``pyro.factor``, may be a density on its own. But if
    an argument that was left out makes an observation of a latent site, it was forgotten.
    """
    try:
        signature = signature_of(model.function)
        given = signature.bind_partial(*model.args, **model.kwargs).arguments
    except (TypeError, ValueError):
        return
    for name, parameter in signature.parameters.items():
        if name in given or parameter.default is not None:
            continue
        for site, node in model.nodes.items():
            other = replace(model, kwargs={**model.kwargs, name: node["value"]})
            try:
                seen = other.nodes
            except Exception:  # this is not the argument that it takes
                continue
            if site in seen and seen[site]["is_observed"]:
                raise ValueError(
                    f"model: nothing is observed: {name!r} was left out, so that its site {site!r}"
                    f" is latent; give {name}=…, or {name}=None to fit the prior"
                )


# --- observations ------------------------------------------------------------------------------


def _check_support(model: Program, name: str, node: Node) -> None:
    """Refuse an observation that no value of the latents allows, and one that is missing."""
    outside = _outside(node)
    if outside is None:
        return
    entry = node["value"][outside] if outside else node["value"]
    where = f"observation {list(outside)}" if outside else "the observation"
    if bool(entry.isnan().any()):
        raise ValueError(
            f"site {name!r}: {where} is missing ({entry.flatten()[0].item():g}); leave its row out,"
            " or mask it: pyro.sample(…, obs_mask=~y.isnan())"
        )
    if has_moving_support(model, name):  # the density itself says where it is zero
        return
    base = node["fn"]
    while hasattr(base, "base_dist"):
        base = base.base_dist
    shown = f" ({entry.item():g})" if entry.numel() == 1 else ""
    raise ValueError(
        f"site {name!r}: {where}{shown} is outside the support of {type(base).__name__}"
    )


def _outside(node: Node) -> tuple[int, ...] | None:
    """Index of the first observation that is not in the support; None if all are."""
    fn, value = node["fn"], node["value"]
    if not isinstance(value, Tensor) or not value.numel():
        return None
    inner = fn
    while isinstance(inner, torch.distributions.Independent):
        inner = inner.base_dist
    if isinstance(inner, MaskedSite):
        value = inner.filled(value)
    try:
        inside = fn.support.check(value)
    except (NotImplementedError, RuntimeError, ValueError):  # no check, or another shape or dtype
        return None
    if bool(inside.all()):
        return None
    return tuple(int(i) for i in (~inside).nonzero()[0]) if inside.dim() else ()
