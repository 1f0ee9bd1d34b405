"""Discrete latents that nothing gives a value to, summed out of a model's density.

Pyro's NUTS and `TraceEnum_ELBO` do so while they run: what they leave behind, draws and guides, has
no such sites. Here the sum is taken once more, site by site, by the same message passing.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from pyro_cookbook.programs.observing import Node, is_derived
from pyro_cookbook.programs.program import Program, Site, sample_sites

Evaluate = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class _Enumerate(EnumMessenger):
    """Pyro's handler, which looks at a value's ``.data`` to learn its shape: vmap forbids that."""

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor):
            msg["value"] = torch.empty(value.shape, device="meta")
        super()._pyro_post_sample(msg)
        msg["value"] = value


class _OneByOne(LogRing):
    """Sums of products in log space, a dimension at a time; Pyro's own ring is not for vmap."""

    def sumproduct(self, terms: Sequence[Tensor], dims: Iterable[str]) -> Tensor:
        """Multiply terms and sum dimensions out, first those that fewest others come with."""
        left, terms = set(dims), list(terms)
        while left:
            touched = {dim: [t for t in terms if dim in _dims(t)] for dim in sorted(left)}
            dim = min(touched, key=lambda d: len(set().union(*map(_dims, touched[d]))))
            left.remove(dim)
            terms = [t for t in terms if dim not in _dims(t)]
            if touched[dim]:
                whole = _product(touched[dim])
                terms.append(_named(whole.logsumexp(_dims(whole).index(dim)), whole, dim))
        return _product(terms)

    def broadcast(self, term: Tensor, ordinal: frozenset[str]) -> Tensor:
        """Leave a term as it is: it is expanded where its shape is known."""
        return term


def _dims(term: Any) -> str:
    """Names of the dimensions of a packed tensor, a letter each."""
    return str(term._pyro_dims)


def _named(value: Any, like: Tensor, without: str = "") -> Tensor:
    value._pyro_dims = _dims(like).replace(without, "") if without else _dims(like)
    named: Tensor = value
    return named


def _product(terms: Sequence[Tensor]) -> Tensor:
    first, *others = packed.broadcast_all(*terms)
    return _named(sum(others, first[...]), first)


def summing_out(
    program: Program,
    names: Sequence[str],
    example: Mapping[str, Tensor],
    *,
    by_site: bool = True,
) -> Evaluate:
    """Log density of one draw with discrete latents summed out, site by site.

    Of the sites that depend on one summed latent each has its density given those before it, the
    latents first: log p(h | θ), log p(v | h, θ), log p(v' | v, h, θ). Their sum is the log density
    of all of them.

    Parameters
    ----------
    program : Program
        A model, written as for Pyro's parallel enumeration.
    names : sequence of str
        The latents to sum out.
    example : mapping of str to Tensor
        One draw of all other latents, to see that it can be done.
    by_site : bool, default True
        Without it the sites that depend on one summed latent have one density together, under the
        name of the last: a chain of T latents takes T steps and not T².

    Returns
    -------
    callable
        Takes a draw, site → value, and gives site → log density, of the site's batch shape. Where
        rows share a summed latent they have one density: their dimensions are of size 1.

    Raises
    ------
    ValueError
        Naming the site that cannot be summed out, and why.
    """
    for name in names:
        _check(name, program.nodes[name])
    nesting = max((len(site.batch_shape) for site in program.sites.values()), default=0)

    def one(given: dict[str, Tensor]) -> dict[str, Tensor]:
        held = poutine.condition(program, data=given)
        marked = enumerating(held, names)
        with _Enumerate(first_available_dim=-1 - nesting):
            trace = poutine.trace(marked).get_trace()
        trace.compute_log_prob()
        trace.pack_tensors()
        return _marginal(trace, program.sites, by_site)

    try:
        one(dict(example))
    except Exception as error:  # whatever the model does with a tensor of all values
        listed = ", ".join(repr(name) for name in names)
        raise ValueError(
            f"site {listed}: it has no value, and could not be summed out"
            f" ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        ) from error
    return one


def summed_out(model: Program, drawn: Collection[str] = ()) -> Program:
    """Give a model whose discrete latents, but for those that a guide draws, are summed out.

    Parameters
    ----------
    model : Program
    drawn : collection of str
        Names of the sites that the guide has.

    Raises
    ------
    ValueError
        Naming the site that cannot be summed out, and why.
    """
    latents = model.latents
    names = tuple(n for n, site in latents.items() if site.is_discrete and n not in drawn)
    example = {n: model.nodes[n]["value"] for n in latents if n not in names}
    if not names or not example:  # with nothing left there is nothing to approximate
        return model
    with torch.no_grad():
        summing_out(model, names, example)
    return replace(model, summed=names)


def enumerating(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Give a function that asks Pyro's `TraceEnum_ELBO` to enumerate sites in parallel."""
    mark: Any = partial(_mark, names)
    marked: Callable[..., Any] = poutine.infer_config(function, config_fn=mark)
    return marked


def _check(name: str, node: Node) -> None:
    fn: Any = node["fn"]
    if not fn.has_enumerate_support:
        kind = type(fn).__name__
        raise ValueError(
            f"site {name!r}: it has no value, and a {kind} cannot be summed out; draw it in the"
            " guide, or give it finitely many values"
        )


def _mark(names: Sequence[str], msg: Any) -> dict[str, Any]:
    """Enumerate a site in parallel, over its whole support, whatever the model asks for."""
    return {"enumerate": "parallel", "num_samples": None} if msg["name"] in names else {}


def _marginal(trace: poutine.Trace, sites: Mapping[str, Site], by_site: bool) -> dict[str, Tensor]:
    """Log density of every site that is neither enumerated nor computed."""
    nodes = {name: node for name, node in sample_sites(trace).items() if not is_derived(node)}
    summed = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
    found: dict[str, Tensor] = {}
    for component in _components(nodes, summed):
        if any("_enumerate_dim" in node["infer"] for node in component.values()):
            found |= _chain(trace, component, summed, sites, by_site)
        else:
            found |= {name: node["log_prob"] for name, node in component.items()}
    return {name: found[name] for name in nodes if name in found}


def _components(nodes: Mapping[str, Node], summed: set[str]) -> list[dict[str, Node]]:
    """Part sites that depend, directly or through others, on the same enumerated ones."""
    parts: list[tuple[set[str], dict[str, Node]]] = []
    for name, node in nodes.items():
        symbols, members = _symbols(node) & summed, {name: node}
        for part in [part for part in parts if part[0] & symbols]:
            parts.remove(part)
            symbols, members = symbols | part[0], {**part[1], **members}
        parts.append((symbols, members))
    return [members for _, members in parts]


def _chain(
    trace: poutine.Trace,
    component: Mapping[str, Node],
    summed: set[str],
    sites: Mapping[str, Site],
    by_site: bool,
) -> dict[str, Tensor]:
    """Log density of each site of a component given those before it, the latents first."""
    plates = {
        name: frozenset(
            trace.plate_to_symbol[frame.name]
            for frame in node["cond_indep_stack"]
            if frame.vectorized
        )
        for name, node in component.items()
    }
    shared = frozenset.intersection(*plates.values())
    ring: Any = _OneByOne
    scale = _common_scale(component)
    enumerated = [name for name, node in component.items() if "_enumerate_dim" in node["infer"]]
    rest = [name for name in component if name not in enumerated]
    rest.sort(key=lambda name: sites[name].observed)
    found: dict[str, Tensor] = {}
    before: Tensor | None = None
    for last, site in enumerate(rest):
        if not by_site and last + 1 < len(rest):
            continue
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for name in (*enumerated, *rest[: last + 1]):
            tree.setdefault(plates[name], []).append(_factor(component[name]))
        whole = packed.unpack(
            contract_to_tensor(tree, summed, target_ordinal=shared, ring=ring()),
            trace.symbol_to_dim,
        )
        step = whole
        if before is not None:  # a draw without mass stays without: −∞, once
            step = torch.where(before == -torch.inf, torch.zeros_like(whole), whole - before)
        shape = [
            size if trace.plate_to_symbol.get(plate) in shared else 1
            for plate, size in zip(sites[site].plates, sites[site].batch_shape, strict=True)
        ]
        found[site], before = scale * step.expand(shape), whole
    return found


def _symbols(node: Node) -> set[str]:
    return set(_dims(node["packed"]["unscaled_log_prob"]))


def _factor(node: Node) -> Tensor:
    """Give a site's density, masked but not scaled: the scale stands outside of the sum."""
    term: Tensor = node["packed"]["unscaled_log_prob"]
    if "_enumerate_dim" not in node["infer"]:
        term = packed.scale_and_mask(term, mask=node["packed"]["mask"])
    return term


def _common_scale(component: Mapping[str, Node]) -> float:
    scales = {float(node["scale"]) for node in component.values()}
    if len(scales) > 1:
        raise ValueError(f"sites {', '.join(map(repr, component))} are scaled differently")
    return scales.pop()
