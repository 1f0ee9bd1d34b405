"""The tensor operations of a run as a graph, without the compiler that PyTorch's tracer loads.

`make_fx` gives the same graphs of ATen operators. But it imports Dynamo and Inductor, SymPy and
all of distributed PyTorch, one to two seconds, for what it does not need here: shapes that stay
open and decompositions.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

# What a node of a graph says of the tensor that it stands for: `node.meta[KIND]`.
KIND = "val"  # where `make_fx` puts it, too
_ATEN = torch.ops.aten
# A constant of at most so many entries is kept, in case the program asks for its value.
_FEW = 64


class TakesNumber(RuntimeError):
    """A program takes a number out of a tensor that depends on its arguments."""


@dataclass(frozen=True)
class Kind:
    """What is known of a tensor without its values."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "Kind":
        """Describe a tensor."""
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def record(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    """Run a function and write down every tensor operation in it, derivatives and draws included.

    The graph does what the run did, in the same order: it is the same function of tensors of the
    same shapes as long as the course of the function does not depend on values. Tensors that the
    function makes or finds elsewhere become constants of the graph.

    Parameters
    ----------
    function : callable
        Takes tensors and gives tensors, or lists, tuples and dicts of them.
    *inputs : Tensor
        What to run it at.

    Returns
    -------
    torch.fx.GraphModule
        Of ATen operators. Nodes that stand for a tensor have its `Kind` in `meta`.

    Raises
    ------
    TakesNumber
        If the function asks for a number that depends on its inputs or on draws: by ``.item()``,
        say, or in an ``if``.

    Examples
    --------
    >>> import torch
    >>> graph = record(lambda z: z.exp() + 1, torch.zeros(2))
    >>> [node.name for node in graph.graph.nodes]
    ['z', 'exp', 'add', 'output']
    >>> graph(torch.ones(2))
    tensor([3.7183, 3.7183])
    """
    recorder = _Recorder(inputs)
    with recorder:
        found = function(*inputs)
    return recorder.finish(found)


class _Recorder(TorchDispatchMode):
    """Sees every operation below autograd and vmap, on plain tensors."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.constants = Graph(), dict[str, Tensor]()
        self.nodes: Any = WeakTensorKeyDictionary()  # tensor → its node
        self.known: Any = WeakTensorKeyDictionary()  # tensor → its value, where it is constant
        for number, tensor in enumerate(inputs):
            name = "z" if len(inputs) == 1 else f"z_{number}"
            self._keep(tensor, self.graph.placeholder(name))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that no compiler need be told to keep out: PyTorch would load it for that."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        # What ``torch.tensor`` has just made stays as it is, if the program writes into it too.
        fresh = func is _ATEN.lift_fresh.default
        func = _ATEN.lift_fresh_copy.default if fresh else func
        out = func(*args, **kwargs)
        leaves = pytree.tree_leaves(out)
        if any(isinstance(one, (bool, int, float, complex)) for one in leaves):
            if all(one not in self.nodes or one in self.known for one in tensors):
                return out
            raise TakesNumber(f"{func} takes a value out of a tensor that is being traced")
        given, named = pytree.tree_map(self._as_argument, (args, kwargs))
        name = getattr(func, "overloadpacket", func).__name__
        node = self.graph.create_node("call_function", func, given, named, name)
        self._keep_all(out, node)
        self._note_values(func, tensors, leaves, fresh)
        return out

    def _note_values(
        self, func: Any, tensors: list[Tensor], leaves: list[Any], fresh: bool
    ) -> None:
        """Remember the values of small constants written out in the program."""
        if func._schema.is_mutable:
            if any(one in self.known for one in tensors):  # and of what else looks at it
                self.known.clear()
            return
        constant = fresh or (tensors and all(one in self.known for one in tensors))
        if constant and torch.Tag.nondeterministic_seeded not in func.tags:
            for one in leaves:
                if isinstance(one, Tensor) and one.numel() <= _FEW:
                    self.known[one] = True

    def _as_argument(self, value: Any) -> Any:
        """Give the node of a tensor; one not seen before is a constant."""
        if not isinstance(value, Tensor):
            return value
        node = self.nodes.get(value)
        if node is None:
            name = f"_tensor{len(self.constants)}"
            self.constants[name] = value
            node = self._keep(value, self.graph.create_node("get_attr", name))
        return node

    def _keep_all(self, out: Any, node: Node) -> None:
        """Name the tensors that an operation gave."""
        if isinstance(out, Tensor):
            self._keep(out, node)
        elif isinstance(out, (list, tuple)):
            for number, one in enumerate(out):
                if isinstance(one, Tensor):
                    part = self.graph.call_function(operator.getitem, (node, number))
                    self._keep(one, part)

    def _keep(self, tensor: Tensor, node: Node) -> Node:
        node.meta[KIND] = Kind.of(tensor)
        self.nodes[tensor] = node
        return node

    def finish(self, found: Any) -> GraphModule:
        """Close the graph with what the function gave."""
        self.graph.output(pytree.tree_map(self._as_argument, found))
        module = torch.nn.Module()
        for name, value in self.constants.items():
            setattr(module, name, value)
        return GraphModule(module, self.graph)
