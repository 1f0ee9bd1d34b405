"""`save` and `load`: a fit as one file of tensors and plain values; loading runs no code of it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_cookbook.engines import families
from pyro_cookbook.fits.keeping.encoding import (
    check_arguments,
    decode,
    encode,
    find,
    pack,
    reference,
    shown,
    unpack,
)
from pyro_cookbook.fits.keeping.files import write_bytes
from pyro_cookbook.fits.keeping.source import source_hash
from pyro_cookbook.fits.keeping.tensor_files import read_tensors, tensor_bytes
from pyro_cookbook.fits.result import (
    Estimate,
    Fit,
    Mode,
    Programs,
    Refinement,
    Restart,
    check_fit,
)
from pyro_cookbook.programs.density.enumeration import summed_out
from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.noncentring import noncentre
from pyro_cookbook.programs.program import Function, Program, quietly
from pyro_cookbook.programs.state.copying import copy_programs, keep_parameters_local
from pyro_cookbook.programs.state.isolation import isolated

_VERSION = 4
_KINDS: dict[str, Any] = {
    "kind": str,
    "version": int,
    "model": dict,
    "guide": dict | None,  # None for a family by name
    "model_state": dict,
    "guide_state": dict,
    "param_state": dict,
    "args": list,
    "kwargs": dict,
    "losses": Tensor,
    "about": dict,
}


@dataclass(frozen=True)
class _About:
    """What a `Fit` says of itself in numbers and words; stored under these names."""

    family: str
    seed: int
    elbo: Estimate
    converged: bool
    reason: str
    seconds: float
    restarts: tuple[Restart, ...]
    engine: str
    why: str
    modes: tuple[Mode, ...]
    lost_starts: int
    noncentred: tuple[str, ...]
    refinements: tuple[Refinement, ...]


def save(fit: Fit, path: str | Path) -> None:
    """Write a fit to a file.

    Parameters
    ----------
    fit : Fit
    path : path
        Replaced whole, or left as it was if something fails.

    Raises
    ------
    TypeError
        If an argument of the model is neither a tensor, an array, a plain value nor a list, tuple
        or dict of them, naming it; or the fit itself has what `load` would not take.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> pc.save(pc.fit(model, "full_rank", y), "mine.safetensors")
    >>> pc.load("mine.safetensors", model=model).family
    'full_rank'
    """
    write_bytes(fit_bytes(fit), Path(path))


def fit_bytes(fit: Fit) -> bytes:
    """Give what `save` writes; raise as it does."""
    check_fit(fit)
    names = [f"argument {i}" for i in range(len(fit.args))]
    about = pack(_About(**{field.name: getattr(fit, field.name) for field in fields(_About)}))
    try:
        unpack(_About, about)
    except ValueError as error:
        raise TypeError(f"fit: cannot save it: {error}") from error
    return tensor_bytes(
        {
            "kind": "fit",
            "version": _VERSION,
            "model": reference(fit.model),
            "guide": None if families.is_named(fit.family) else reference(fit.guide),
            "model_state": _state(fit.model, "model"),
            "guide_state": _state(fit.guide, "guide"),
            "param_state": _encode_store(fit.param_state),
            "args": [encode(value, name) for value, name in zip(fit.args, names, strict=True)],
            "kwargs": {key: encode(value, key) for key, value in fit.kwargs.items()},
            "losses": torch.as_tensor(fit.losses, dtype=torch.float64),
            "about": about,
        }
    )


def load(
    path: str | Path,
    *,
    model: Function | None = None,
    guide: Function | None = None,
    check_source: bool = True,
) -> Fit:
    """Read a fit back.

    Parameters
    ----------
    path : path
    model, guide : callable, optional
        The programs, built as before the fit; their parameters are filled in on copies. Needed
        unless they are the cookbook's own, or (the guide) a family by name.
    check_source : bool, default True
        Refuse a program whose source is not that of the fit: its latents may mean something else
        now. Comments and docstrings may change; of what it calls nothing is known.

    Returns
    -------
    Fit

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged or of another kind or release, or a program is needed, has
        changed or does not fit the saved parameters: in one line with the path. What the file says
        is checked before anything of the size it says is made.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> fit = pc.fit(model, "mean_field", y)
    >>> pc.save(fit, "mine.safetensors")
    >>> pc.load("mine.safetensors", model=model).elbo == fit.elbo
    True
    """
    path = Path(path)
    content = read_tensors(path, "fit")
    version = content.get("version")
    if type(version) is not int or version != _VERSION:
        told = f"format {shown(version)}, this release reads {_VERSION}"
        raise ValueError(f"{path}: {told}; fit and save again")
    try:
        _check_kinds(content)
        if check_source:
            _check_sources(content, model, guide)
        return _restore(content, model, guide)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_kinds(content: Mapping[str, Any]) -> None:
    if content.keys() != _KINDS.keys():
        odd = sorted(map(str, content.keys() ^ _KINDS.keys()))
        raise ValueError(f"damaged: expected {', '.join(_KINDS)}; wrong or missing {odd}")
    for name, kind in _KINDS.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"damaged: {name} is {shown(content[name])}")
    for name in ("model_state", "guide_state"):
        for key, value in content[name].items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise ValueError(f"damaged: {name} has {shown(value)} for {key!r}")
    for role in ("model", "guide"):
        named = content[role]
        if named is not None and (
            named.keys() != {"name", "init", "source"}
            or not isinstance(named["name"], str)
            or not isinstance(named["source"], str | None)
            or not isinstance(named["init"], dict | None)
        ):
            raise ValueError(f"damaged: {role} is no reference to a program")
    if not all(isinstance(key, str) for key in content["kwargs"]):
        raise ValueError("damaged: kwargs has a name that is no string")
    losses = content["losses"]
    if losses.dim() != 1 or losses.dtype != torch.float64:
        raise ValueError(f"damaged: losses is {shown(losses)} and {losses.dtype}")


def _check_sources(
    content: Mapping[str, Any], model: Function | None, guide: Function | None
) -> None:
    for role, program in (("model", model), ("guide", guide)):
        named = content[role]
        if named is None or named["source"] is None:
            continue
        now = source_hash(find(named["name"]) if program is None else program)
        if now is not None and now != named["source"]:
            raise ValueError(
                f"{role}: its source has changed since the fit; fit again, or load(…,"
                " check_source=False) if it means the same"
            )


def _restore(content: Mapping[str, Any], model: Function | None, guide: Function | None) -> Fit:
    try:
        about = unpack(_About, content["about"])
    except ValueError as error:
        raise ValueError(f"damaged: {error}") from error
    if not 0 <= about.seed < 2**32:
        raise ValueError(f"damaged: seed is {about.seed}")
    if families.is_named(about.family) != (content["guide"] is None):
        raise ValueError(f"damaged: family is {about.family!r}")
    args = tuple(decode(value) for value in content["args"])
    kwargs = {key: decode(value) for key, value in content["kwargs"].items()}
    store = _decode_store(content["param_state"])
    with isolated(about.seed, store):
        model = _rebuild(model, content["model"], content["model_state"], "model")
        program = Program(model, args, kwargs, store)
        _try(program, "model")
        if about.noncentred:
            program, _ = noncentre(program, about.noncentred)
        if content["guide"] is None and guide is None:
            program = summed_out(program)
            guide = _family(about.family, program, content["guide_state"])
        else:
            guide = _rebuild(guide, content["guide"], content["guide_state"], "guide")
        _try(program.of(guide), "guide")
        program = summed_out(program, program.of(guide).sites)
        for function in (program.function, guide):
            keep_parameters_local(function)
    return Fit(
        programs=Programs(program, program.of(guide)),
        losses=content["losses"].numpy(),
        **vars(about),
    )


def _try(program: Program, role: str) -> None:
    """Run a program once: arguments of the wrong kind show here, not in a plot next week."""
    try:
        _ = program.sites
    except Exception as error:  # whatever a program does with arguments that it was not made for
        raise ValueError(
            f"{role}: it does not run on the saved arguments: {first_line(error)}"
        ) from error


def _family(name: str, model: Program, state: Mapping[str, Tensor]) -> Function:
    """Build the guide of a family by name and fill in its parameters."""
    factor = state.get("cov_factor")
    rank = factor.shape[1] if factor is not None and factor.dim() == 2 else None
    guide: Any = families.build(families.STORED_AS.get(name, name), model, rank=rank)
    try:
        with quietly():
            guide(*model.args, **model.kwargs)  # makes its parameters
    except Exception as error:  # the model has no latents, or others than the family can serve
        raise ValueError(f"guide: no {name!r} for this model: {first_line(error)}") from error
    _fill(guide, state, "guide")
    return guide  # type: ignore[no-any-return]


def _rebuild(
    program: Function | None, named: Any, state: Mapping[str, Tensor], role: str
) -> Function:
    if program is None:
        found = find(named["name"]) if named else None
        is_class = inspect.isclass(found) and issubclass(found, nn.Module)
        is_usable = is_class or inspect.isfunction(found)
        if not is_usable or is_class != (named["init"] is not None):
            name = named["name"] if named else "?"
            raise ValueError(
                f"its {role} is {name.replace(':', '.')}, not one of the cookbook's own;"
                f" pass it: load(path, {role}=…)"
            )
        program = _construct(found, named["init"], state, role) if is_class else found
    elif isinstance(program, nn.Module):
        program = copy_programs(Program(program))[0].function  # the caller's stays as it is
    if isinstance(program, nn.Module):
        _fill(program, state, role)
    elif state:
        raise ValueError(f"{role}: the fit is of a module, got a function")
    assert program is not None
    return program


def _construct(
    kind: Any, init: Mapping[str, Any], state: Mapping[str, Tensor], role: str
) -> nn.Module:
    """Build a module of ours, once its arguments are seen to agree with the saved shapes."""
    check_arguments(kind, init, role)
    told = f"{kind.__name__}({', '.join(f'{key}={shown(value)}' for key, value in init.items())})"
    try:
        with torch.device("meta"):  # shapes only: nothing is allocated
            empty: nn.Module = kind(**init)
    except Exception as error:  # whatever a constructor does with arguments of the wrong kind
        raise ValueError(f"damaged: {role} is {told}: {first_line(error)}") from error
    wanted = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    saved = {name: tuple(value.shape) for name, value in state.items()}
    for name in {**wanted, **saved}:
        if wanted.get(name) != saved.get(name):
            raise ValueError(
                f"damaged: {role} is {told}, whose {name!r} has shape {wanted.get(name)}; the"
                f" file's has {saved.get(name)}"
            )
    module: nn.Module = kind(**init)
    return module


def _fill(program: nn.Module, state: Mapping[str, Tensor], role: str) -> None:
    floats = [value for value in state.values() if value.is_floating_point()]
    if floats:
        program.to(floats[0].dtype)
    try:
        program.load_state_dict(dict(state))
    except RuntimeError as error:
        told = str(error).splitlines()[-1].strip()
        raise ValueError(f"{role}: does not fit the parameters: {told}") from error


def _state(program: Any, role: str) -> dict[str, Tensor]:
    state = dict(program.state_dict()) if isinstance(program, nn.Module) else {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{role}: cannot save {shown(value)} in its state, {name!r}")
    return state


def _encode_store(store: Mapping[str, Any]) -> dict[str, Any]:
    # Constraints are objects; what is kept is the constrained value and the constraint's name.
    if not store.get("params"):
        return {}
    return {
        "params": dict(store["params"]),
        "constraints": {
            name: type(constraint).__name__ + ":" + repr(constraint)
            for name, constraint in store["constraints"].items()
        },
    }


def _decode_store(store: Mapping[str, Any]) -> dict[str, Any]:
    if not store:
        return {}
    params, constraints = store.get("params"), store.get("constraints")
    if (
        not isinstance(params, dict)
        or not isinstance(constraints, dict)
        or params.keys() != constraints.keys()
        or not all(isinstance(text, str) for text in (*params, *constraints.values()))
        or not all(isinstance(value, Tensor) for value in params.values())
    ):
        raise ValueError("damaged: param_state is no param store")
    return {
        "params": dict(params),
        "constraints": {name: _constraint(text, name) for name, text in constraints.items()},
    }


def _constraint(text: str, name: str) -> Any:
    known = {
        type(value).__name__ + ":" + repr(value): value
        for key in constraints.__all__
        if not inspect.isclass(value := getattr(constraints, key)) and not callable(value)
    }
    if text not in known:
        raise ValueError(f"param {name!r}: its constraint ({text}) cannot be restored")
    return known[text]
