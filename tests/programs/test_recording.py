"""Runs written down as graphs: PyTorch's own tracer and the function itself are the oracles."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_cookbook.programs.density.recording import KIND, Kind, TakesNumber, record

Z = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
OTHER = Z.sin().flip(0)
DATA = torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64)


def gradient(z):
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        rate = (leaf[..., :1] + leaf[..., 1:] * DATA).exp()
        value = dist.Poisson(rate).log_prob(DATA).sum() + leaf.tanh().sum()
        return value.detach(), torch.autograd.grad(value, leaf)[0]


def vmapped(z):
    def one(v):
        scale = torch.stack([v[0].exp(), torch.tensor(0.5, dtype=v.dtype)])
        return dist.MultivariateNormal(v, scale_tril=scale.diag()).log_prob(v.new_zeros(2))

    return torch.vmap(one)(z)


def parts(z):
    largest, where = z.max(0)
    return {
        "split": z.split(2),
        "largest": [largest, where],
        "cholesky": torch.linalg.cholesky(z.T @ z),
    }


def in_place(z):
    total = torch.tensor([1.0, 2.0], dtype=z.dtype)
    view = total[:1]
    total.add_(z.sum(0))
    return view * 2, total


def draws(z):
    return z * torch.randn(3, 2, dtype=z.dtype), torch.rand(2)


def constants(z):
    """Numbers written out in the program may be asked for."""
    two = torch.tensor(2.0) + 0
    return z * two.item() if two > 1 else z


CASES = [gradient, vmapped, parts, in_place, draws, constants]


def leaves(values):
    return torch.utils._pytree.tree_leaves(values)


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_a_graph_does_what_the_function_does(function):
    with pyro.validation_enabled(False):
        graph = record(function, Z)
        for z in (Z, OTHER):
            torch.manual_seed(0)
            expected, after = leaves(function(z)), torch.get_rng_state()
            torch.manual_seed(0)
            found = leaves(graph(z))
            assert torch.equal(torch.get_rng_state(), after)
            assert len(found) == len(expected)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("function", [gradient, vmapped, in_place, draws])
def test_the_operations_are_those_that_pytorchs_own_tracer_sees(function):
    def operations(graph):
        aten = torch.ops.aten
        same = {aten.alias.default: aten.detach.default}  # its name for it
        nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
        return [same.get(node.target, node.target) for node in nodes]

    with pyro.validation_enabled(False):
        graph, other = record(function, Z), make_fx(function)(Z)
    for one in (graph, other):
        one.graph.eliminate_dead_code()
    assert operations(graph) == operations(other)


def test_nodes_know_shape_strides_and_dtype_of_their_tensors():
    graph = record(lambda z: z.T.float(), Z)
    kinds = [node.meta[KIND] for node in graph.graph.nodes if node.op != "output"]
    cpu = torch.device("cpu")
    assert kinds[0] == Kind(torch.Size([3, 2]), (2, 1), torch.float64, cpu)
    assert kinds[1] == Kind(torch.Size([2, 3]), (1, 2), torch.float64, cpu)
    assert kinds[-1].dtype == torch.float32


def branch(z):
    return -z if z.sum() > 0 else z


def number(z):
    return z * z.max().item()


def drawn(z):
    return z * torch.rand(()).item()


def written(z):
    """A constant is one no longer once something is written into it, nor is what looks at it."""
    total = torch.tensor([1.0, 2.0], dtype=z.dtype)
    view = total[0]
    total.add_(z.sum())
    return z * view.item()


@pytest.mark.parametrize("function", [branch, number, drawn, written])
def test_a_number_that_may_be_another_next_time_is_refused(function):
    with pytest.raises(TakesNumber, match="takes a value out of a tensor"):
        record(function, Z)


def test_a_tensor_found_elsewhere_is_the_graphs_own_constant():
    graph = record(lambda z: z.sum(0) * DATA[:2] + DATA[:2], Z)
    (name,) = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
    assert getattr(graph, name) is DATA


def test_a_fit_whose_density_is_a_graph_loads_no_compiler():
    """It takes longer to import than a small model to fit."""
    source = """
import sys
import pyro, pyro.distributions as dist, torch
import pyro_cookbook as pc
from pyro_cookbook.programs.density import graphs, unconstrained
unconstrained.CALLS_BEFORE = 2
recorded, record = [], graphs.record
graphs.record = lambda *given: recorded.append(record(*given)) or recorded[-1]
def model():
    pyro.sample("h", dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1))
pc.fit(model, "mean_field", progress=False)
assert recorded
print([m for m in ("sympy", "torch._dynamo", "torch._inductor") if m in sys.modules])
"""
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
