"""Estimates of the bound and its gradient by graphs that Pyro's own estimates are the oracle of.

Pyro's handlers run model and guide anew for each estimate: milliseconds of Python, where a small
model's arithmetic takes microseconds. One run that is recorded shows all tensor operations, random
draws and derivatives among them; the graph of them takes the same random numbers from the same
generator, and gives the same loss and gradient, bit for bit. Its first estimates, and one of
so many later ones, are compared with Pyro's. Whatever differs ends the graph: Pyro's numbers count.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_cookbook.engines.traced.choices import OtherwiseError, answered
from pyro_cookbook.engines.traced.remembering import numbers_kept
from pyro_cookbook.engines.traced.sums import formula, taken_out
from pyro_cookbook.programs.density.log_density import first_line
from pyro_cookbook.programs.density.recording import TakesNumber, record
from pyro_cookbook.programs.density.simplifying import as_function, simplify, written_constants
from pyro_cookbook.programs.program import Program

# A graph is made at this estimate at the latest: to make it costs about what so many of them save.
CALLS_BEFORE = 100
# And at this one where at least so many of its kind are sure to come; the first may set things up.
SOONEST = 2
# Estimates by a graph that are compared with Pyro's: the first, a few, and every so manieth.
FIRST_CHECKS, EARLY_CHECKS, CHECK_EVERY = 3, frozenset({10, 100}), 1000
# A graph is given up when what it assumes has not held so often, and in one of so many estimates.
_MOST_MISSES, _MISSES_IN = 10, 4
# So many shapes of the data have a graph.
_MAX_GRAPHS = 6
# The estimator's method that gives the loss with its gradient.
_GRADIENTS = "loss_and_grads"

# A loss, −ELBO in nats, and its gradient: None for a parameter that it does not depend on.
Gradients = list[Tensor | None]
Estimate = tuple[float, Gradients]


@dataclass
class _Graph:
    """The operations of one estimate for data of one shape."""

    run: Callable[..., tuple[list[Tensor], list[Tensor], Gradients]]
    loss: Callable[[Sequence[float]], float]
    constants: list[tuple[Tensor, int]]  # tensors that are no inputs, in the versions that it saw
    assumes: bool  # that something holds which depends on values
    calls: int = 0
    misses: int = 0

    def __call__(self, inputs: Sequence[Tensor]) -> Estimate:
        with torch.no_grad():
            terms, assumed, gradients = self.run(*inputs)
        if not all(assumed):
            raise OtherwiseError
        return self.loss([term.item() for term in terms]), gradients

    def is_due(self) -> bool:
        """Whether the next estimate is to be compared."""
        early = self.calls < FIRST_CHECKS or self.calls in EARLY_CHECKS
        return early or self.calls % CHECK_EVERY == 0

    def is_current(self) -> bool:
        """Whether nobody has written into a constant since."""
        return all(one._version == version for one, version in self.constants)


class Estimates:
    """Estimates of a bound, by a graph where there is one and it gives the same numbers.

    Parameters
    ----------
    run : callable
        Takes a model on its data and the name of a method of the estimator, calls it, and gives
        the loss.
    elbo : ELBO
        The estimator.
    parameters : sequence of Tensor
        Leaves.
    by_rows : bool
        Whether the data are others at each estimate; without it they are constants.
    programs : mapping of str to callable
        Model and guide: a number that they keep must not change as they run.
    to_come : callable
        Gives how many estimates of the gradient are sure to come.

    Attributes
    ----------
    obstacle : str
        Why estimates are Pyro's; "" while nothing speaks against a graph.
    """

    def __init__(
        self,
        run: Callable[[Program, str], Any],
        elbo: ELBO,
        parameters: Sequence[Tensor],
        *,
        by_rows: bool,
        programs: Mapping[str, Any],
        to_come: Callable[[], int],
    ) -> None:
        self._run, self._elbo, self._parameters = run, elbo, list(parameters)
        self._by_rows, self._programs, self._to_come = by_rows, programs, to_come
        self._calls: Counter[Any] = Counter()
        self._graphs: dict[Any, _Graph] = {}
        self.obstacle = ""

    def gradients(self, model: Program) -> Estimate:
        """Estimate −ELBO and its gradient."""
        return self._estimate(model, _GRADIENTS)

    def loss(self, model: Program) -> float:
        """Estimate −ELBO."""
        with torch.no_grad():
            return self._estimate(model, "loss")[0]

    def _estimate(self, model: Program, method: str) -> Estimate:
        if self.obstacle:
            return self._plain(model, method)
        data = _tensors(model) if self._by_rows else []
        key = (method, *((one.shape, one.dtype) for one in data))
        graph = self._graphs.get(key)
        if graph is not None and not graph.is_current():
            del self._graphs[key]
            graph, self._calls[key] = None, 0
        if graph is None:
            self._calls[key] += 1
            if not self._pays(key) or len(self._graphs) == _MAX_GRAPHS:
                return self._plain(model, method)
            graph = self._trace(model, method, data)
            if graph is None:
                return self._plain(model, method)
            self._graphs[key] = graph
        due = graph.is_due()
        graph.calls += 1
        inputs = [*self._parameters, *data]
        if due:
            return self._compared(graph, inputs, model, method)
        return self._guarded(graph, inputs, model, method) if graph.assumes else graph(inputs)

    def _guarded(
        self, graph: _Graph, inputs: list[Tensor], model: Program, method: str
    ) -> Estimate:
        """Estimate by the graph, or as Pyro does where what the graph assumes does not hold."""
        before = torch.get_rng_state()
        try:
            return graph(inputs)
        except OtherwiseError:
            torch.set_rng_state(before)
        graph.misses += 1
        if graph.misses > max(_MOST_MISSES, graph.calls // _MISSES_IN):
            self.obstacle = "it sums over values of probability 0"
        return self._plain(model, method)

    def _pays(self, key: Any) -> bool:
        """Whether a graph saves more than it costs: for sure, or if as many come as have come."""
        calls = self._calls[key]
        if calls < SOONEST or key[0] != _GRADIENTS:
            return calls >= CALLS_BEFORE
        steps = sum(number for other, number in self._calls.items() if other[0] == _GRADIENTS)
        steps += sum(graph.calls for other, graph in self._graphs.items() if other[0] == _GRADIENTS)
        return calls >= CALLS_BEFORE or self._to_come() * calls / steps >= CALLS_BEFORE

    def _plain(self, model: Program, method: str) -> Estimate:
        for parameter in self._parameters:
            parameter.grad = None
        loss = float(self._run(model, method))
        return loss, [parameter.grad for parameter in self._parameters]

    def _compared(
        self, graph: _Graph, inputs: list[Tensor], model: Program, method: str
    ) -> Estimate:
        """Estimate as Pyro does, and again from the same random state by the graph."""
        before, kept = torch.get_rng_state(), numbers_kept(self._programs)
        loss, gradients = self._plain(model, method)
        after, now = torch.get_rng_state(), numbers_kept(self._programs)
        changed = [name for name in kept if kept[name] != now.get(name)]
        torch.set_rng_state(before)
        try:
            again, others = graph(inputs)
        except OtherwiseError:
            again, others = loss, gradients
        except Exception as error:  # an operator that raises on values, as Pyro's run may
            self.obstacle = first_line(error)
            torch.set_rng_state(after)
            return loss, gradients
        same = (again == loss or math.isnan(loss)) and all(map(_equal, gradients, others))
        if changed:
            self.obstacle = f"{changed[0]!r} changes as they run"
        elif not same:
            self.obstacle = "it gave other numbers on the same draws"
        elif not torch.equal(torch.get_rng_state(), after):
            self.obstacle = "it took other random numbers"
        torch.set_rng_state(after)
        return loss, gradients

    def _trace(self, model: Program, method: str, data: list[Tensor]) -> _Graph | None:
        def one(*_: Tensor) -> Any:  # parameters and data are known as they are: leaves
            with taken_out(self._elbo) as terms, answered(self._elbo, terms) as assumed:
                losses.append(self._run(model, method))
            assumptions.append(len(assumed))
            return terms, assumed, [parameter.grad for parameter in self._parameters]

        losses: list[Any] = []
        assumptions: list[int] = []
        before = torch.get_rng_state()
        for parameter in self._parameters:
            parameter.grad = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                traced = record(one, *self._parameters, *data)
            constants = _constants(traced)
            written = written_constants(traced)
            if written:
                self.obstacle = "they write into what they keep"
                return None
            run, loss = as_function(simplify(traced)), formula(losses[0])
            return _Graph(run, loss, constants, assumes=assumptions[0] > 0)
        except Exception as error:  # branches on values, operators without a trace
            branches = isinstance(error, TakesNumber)
            self.obstacle = "a number is taken out of a tensor" if branches else first_line(error)
            return None
        finally:
            torch.set_rng_state(before)
            for parameter in self._parameters:
                parameter.grad = None


def _tensors(model: Program) -> list[Tensor]:
    given = (*model.args, *model.kwargs.values())
    return [one for one in given if isinstance(one, Tensor)]


def _constants(graph: Any) -> list[tuple[Tensor, int]]:
    """Tensors that a graph reads and is not given, with how often they have been written to."""
    nodes = (node for node in graph.graph.nodes if node.op == "get_attr")
    values = (getattr(graph, str(node.target)) for node in nodes)
    return [(one, one._version) for one in values if isinstance(one, Tensor)]


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(torch.equal(one, other)) or bool(one.isnan().any())
