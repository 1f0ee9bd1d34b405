"""Constants of a traced graph, computed once: what no argument changes is not computed each time.

A third to a half of the operations in the graph of a small density are of this kind: variances and
normalisers of fixed scales, zeros for Jacobians that are one, the seeds of the gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from pyro_cookbook.programs.density.recording import KIND

_ATEN = torch.ops.aten
# They look at shape and type of their argument alone.
_FILLED: dict[Any, Callable[[Node], Any]] = {
    _ATEN.zeros_like.default: lambda _: 0.0,
    _ATEN.ones_like.default: lambda _: 1.0,
    _ATEN.full_like.default: lambda node: node.args[1],
}


def fold_constants(graph: GraphModule) -> GraphModule:
    """Replace what no argument changes by its value, in place.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        Of ATen operators, as `record` gives it.

    Returns
    -------
    torch.fx.GraphModule
        The same object, which computes the same values.
    """
    values: dict[Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(graph, node.target)
        elif node.op == "call_function" and _writes_into(node, values):
            return graph  # a constant is changed in place, at each call anew
        elif node.op == "call_function" and _is_constant(node, values):
            values[node] = _value(node, values)
    for number, node in enumerate(values):
        outside = [user for user in node.users if user not in values]
        if node.op == "get_attr" or not outside:
            continue
        name = f"_folded{number}"
        setattr(graph, name, values[node])  # a buffer is found more slowly
        with graph.graph.inserting_before(node):
            constant = graph.graph.create_node("get_attr", name)
        node.replace_all_uses_with(constant, delete_user_cb=outside.__contains__)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _writes_into(node: Node, values: dict[Node, Any]) -> bool:
    """Whether an operation changes its first argument, and that is one of the constants."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    written = pytree.tree_leaves(node.args[0])
    return any(isinstance(one, Node) and one in values for one in written)


def _is_constant(node: Node, values: dict[Node, Any]) -> bool:
    if node.target in _FILLED:
        return True
    drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return not drawn and all(one in values for one in node.all_input_nodes)


def _value(node: Node, values: dict[Node, Any]) -> Any:
    with torch.no_grad():
        if node.target in _FILLED:
            like, value = node.meta[KIND], _FILLED[node.target](node)
            return torch.full(like.shape, value, dtype=like.dtype, device=like.device)
        args, kwargs = pytree.tree_map(
            lambda one: values[one] if isinstance(one, Node) else one, (node.args, node.kwargs)
        )
        operator: Any = node.target
        return operator(*args, **kwargs)
