"""A traced graph with fewer operations that computes the same numbers, and as a plain function.

A small density's graph costs its operations' calls, not their arithmetic. Half of them change
nothing: another name of the same tensor, a sum of one number, a product with one, the same
difference once for the density and once for its gradient.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch.fx import GraphModule, Node

from pyro_cookbook.programs.density.folding import fold_constants
from pyro_cookbook.programs.density.recording import KIND

_ATEN = torch.ops.aten
# They give their first argument back, where shape and dtype stay.
_SAME_IF_ALIKE = {
    _ATEN.alias.default, _ATEN.detach.default, _ATEN.expand.default, _ATEN.view.default,
    _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.sum.default,
}  # fmt: skip
# Operator → the number as second argument with which it gives the first one back, bit for bit.
_NEUTRAL: dict[Any, float] = {
    _ATEN.mul.Tensor: 1, _ATEN.mul.Scalar: 1, _ATEN.div.Tensor: 1, _ATEN.div.Scalar: 1,
    _ATEN.sub.Tensor: 0, _ATEN.pow.Tensor_Scalar: 1,
}  # fmt: skip

# Operators of a tensor and a number → the same of two tensors.
_OF_NUMBERS: dict[Any, Any] = {
    getattr(packet, kind): packet.Tensor
    for packet in (_ATEN.add, _ATEN.sub, _ATEN.mul, _ATEN.div)
    for kind in ("Tensor", "Scalar")
}


# Numbers that `torch.randperm` permutes by one random number each, of 32 bits.
_FEW = 2**24


def simplify(graph: GraphModule) -> GraphModule:
    """Leave out what changes nothing, in place: the numbers stay, bit for bit.

    A graph that writes into a tensor others may look at is left as it is.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        Of ATen operators, as `record` gives it.

    Returns
    -------
    torch.fx.GraphModule
        The same object.
    """
    for node in list(graph.graph.nodes):
        if _is_mutable(node):
            _without_writing(graph, node)
    graph.graph.eliminate_dead_code()
    if not any(_is_mutable(node) for node in graph.graph.nodes):
        _share(graph)
        fold_constants(graph)
        _at_hand(graph)
    for node in graph.graph.nodes:  # last: for the passes before it would be a constant
        if _is_unseen_order(node) and takes_as_many():
            node.target, node.kwargs = pass_over_order, {}
    graph.recompile()
    return graph


def written_constants(graph: GraphModule) -> list[str]:
    """Names of the inputs and constants that a graph writes into, at each call anew."""
    outside = {node for node in graph.graph.nodes if node.op in {"get_attr", "placeholder"}}
    return [
        str(node.args[0])
        for node in graph.graph.nodes
        if _is_mutable(node) and _origin(node.args[0]) in outside
    ]


def as_function(graph: GraphModule) -> Callable[..., Any]:
    """Write a graph as one function of its inputs, a line for each operation.

    `GraphModule` looks every operator up by four names and calls it through a Python method, which
    takes as long as the operation. Here both are at hand.
    """
    names: dict[str, Any] = {}
    last = {arg: node for node in graph.graph.nodes for arg in node.all_input_nodes}
    inputs, lines, result = [], [], "None"
    for number, node in enumerate(graph.graph.nodes):
        if node.op == "placeholder":
            inputs.append(node.name)
        elif node.op == "get_attr":
            names[node.name] = getattr(graph, node.target)
        elif node.op == "output":
            result = _source(node.args[0], names)
        else:
            operator = f"_op{number}"
            names[operator] = getattr(node.target, "_op", node.target)
            given = [_source(one, names) for one in node.args]
            given += [f"{key}={_source(one, names)}" for key, one in node.kwargs.items()]
            lines.append(f"{node.name} = {operator}({', '.join(given)})")
            gone = [
                arg.name
                for arg in node.all_input_nodes
                if last[arg] is node and arg.op == "call_function"
            ]
            if gone:  # its memory is free for the next
                lines.append(f"del {', '.join(gone)}")
    body = "\n".join(f"    {line}" for line in [*lines, f"return {result}"])
    exec(f"def run({', '.join(inputs)}):\n{body}", names)
    run: Callable[..., Any] = names["run"]
    return run


def _source(value: Any, names: dict[str, Any]) -> str:
    """Write an argument as Python; what has no literal gets a name."""
    if isinstance(value, Node):
        return value.name
    if isinstance(value, (list, tuple)):
        inner = "".join(f"{_source(one, names)}, " for one in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    name = f"_constant{len(names)}"
    names[name] = value
    return name


def _is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_unseen_order(node: Node) -> bool:
    """Whether a plate draws which of all rows it has, though it was given them."""
    if node.target is not _ATEN.randperm.default or node.users:
        return False
    num: Any = node.args[0]
    return bool(node.meta["val"].device.type == "cpu" and 0 < num <= _FEW)


def pass_over_order(num: int) -> None:
    """Take from torch's generator what a permutation of `num` numbers takes, without it."""
    torch.empty(num - 1, dtype=torch.uint8).random_()


@cache
def takes_as_many() -> bool:
    """Whether it is what this version of torch takes."""
    with torch.random.fork_rng(devices=()):
        before = torch.get_rng_state()
        torch.randperm(1000)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        pass_over_order(1000)
        return torch.equal(torch.get_rng_state(), after)


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(one.alias_info is not None for one in schema.returns)


def _origin(value: Any) -> Any:
    """Follow views back to the tensor that they look at."""
    while isinstance(value, Node) and value.op == "call_function" and _is_view(value):
        value = value.args[0]
    return value


def _without_writing(graph: GraphModule, node: Node) -> None:
    """Put an operator that gives a new tensor in the place of one that writes into its argument.

    Only where nothing else looks at what was written to: a fresh tensor, used here for the last
    time, of which there is no other view.
    """
    base = node.args[0]
    if not isinstance(base, Node) or base.op != "call_function":
        return
    if base.target in {_ATEN.alias.default, _ATEN.detach.default} and len(base.users) == 1:
        fresh = base.args[0]
        if isinstance(fresh, Node) and len(fresh.users) == 1:
            base = fresh
    order = {one: i for i, one in enumerate(graph.graph.nodes)}
    others = [one for one in base.users if one not in {node, node.args[0]}]
    if base.op != "call_function" or _is_view(base):
        return
    if any(order[one] > order[node] or _is_view(one) for one in others):
        return
    target: Any = node.target
    if target is _ATEN.normal_.default and _is_standard(node, base):
        node.target, node.args, node.kwargs = _ATEN.randn.default, (base.args[0],), base.kwargs
        return
    name = target.overloadpacket.__name__.rstrip("_")
    packet = getattr(_ATEN, name, None)
    if packet is None or target._overloadname not in packet.overloads():
        return
    node.target = getattr(packet, target._overloadname)
    node.args = (base, *node.args[1:])


def _is_standard(node: Node, base: Node) -> bool:
    """Whether N(0, 1) is drawn into an empty tensor: what `torch.randn` does."""
    standard = len(node.args) == 1 and not node.kwargs
    return standard and base.target is _ATEN.empty.memory_format


def _share(graph: GraphModule) -> None:
    """Drop operations without effect, and compute once what is computed twice."""
    known: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or _is_random(node):
            continue
        same = _first_argument(node)
        if same is None and node.target is not _ATEN.empty.memory_format:
            same = known.setdefault((node.target, str(node.args), str(node.kwargs)), node)
        if same is not None and same is not node:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)
        elif node.target is _ATEN.eq.Tensor and node.args[0] is node.args[1]:
            # A point's density at the point itself. Where it is NaN, so is the density it has.
            node.target, node.args = _ATEN.ones_like.default, (node.args[0],)
            node.kwargs = {"dtype": torch.bool}
    graph.graph.eliminate_dead_code()


def _at_hand(graph: GraphModule) -> None:
    """Make numbers that tensors meet tensors themselves, once: torch does it at each call."""
    made: dict[tuple[float, torch.dtype], str] = {}
    for node in list(graph.graph.nodes):
        first = node.args[0] if node.args else None
        if not isinstance(first, Node) or not _is_alike(first.meta, node.meta):
            continue
        like = node.meta[KIND]
        if not like.dtype.is_floating_point or like.device.type != "cpu" or len(node.args) != 2:
            continue
        number = node.args[1]
        if node.target is _ATEN.pow.Tensor_Scalar and number == 2:
            node.target, node.args = _ATEN.mul.Tensor, (first, first)
        elif node.target in _OF_NUMBERS and type(number) in (int, float) and not node.kwargs:
            key = (float(number), like.dtype)
            if key not in made:
                made[key] = f"_number{len(made)}"
                setattr(graph, made[key], torch.tensor(key[0], dtype=like.dtype))
            with graph.graph.inserting_before(node):
                constant = graph.graph.create_node("get_attr", made[key])
            node.target, node.args = _OF_NUMBERS[node.target], (first, constant)


def _first_argument(node: Node) -> Node | None:
    """Give what an operation leaves as it is; None if it does something."""
    first = node.args[0] if node.args else None
    if not isinstance(first, Node) or not _is_alike(first.meta, node.meta):
        return None
    if node.target in _SAME_IF_ALIKE:
        return None if node.target is _ATEN.sum.default and node.meta[KIND].shape else first
    if node.target in _NEUTRAL and len(node.args) == 2 and not node.kwargs:
        other = node.args[1]
        return first if isinstance(other, (int, float)) and other == _NEUTRAL[node.target] else None
    if node.target is _ATEN.neg.default and first.target is _ATEN.neg.default:
        inner = first.args[0]
        return inner if isinstance(inner, Node) else None
    return None


def _is_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return KIND in one and one[KIND] == other.get(KIND)
