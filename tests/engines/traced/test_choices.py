"""Sums over discrete latents by graphs: as Pyro's bit for bit, and Pyro's where one has no mass."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from engines.traced.test_estimates import both, numbers
from pyro.infer import TraceEnum_ELBO

from pyro_cookbook.engines.traced import estimates

Y = (torch.tensor([-2.1, -1.7, 0.4, 2.2, 1.9]),)


def mixture(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(loc[..., 0] + z * (loc[..., 1] - loc[..., 0]), 1.0), obs=y)


class Labels:
    """A guide of the labels too, whose log odds are its parameters times a draw's size."""

    def __init__(self, logits, size=0.0):
        self.logits, self.size = logits, size

    def __call__(self, y):
        at = pyro.param("at", lambda: torch.tensor([-1.0, 1.0]))
        loc = pyro.sample("loc", dist.Normal(at, 1.0).to_event(1))
        odds = pyro.param("odds", lambda: torch.full((len(y),), self.logits))
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Bernoulli(logits=odds + self.size * loc[..., 0].detach()))


def summed(y):
    """The labels are in no guide; the second depends on the first."""
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    either = {"enumerate": "parallel"}
    table = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    with pyro.plate("row", len(y)):
        a = pyro.sample("a", dist.Bernoulli(weight), infer=either)
        b = pyro.sample("b", dist.Categorical(table[a.long()]), infer=either)
        pyro.sample("y", dist.Normal(2.0 * b - 2.0, scale), obs=y)


def of_the_others(y):
    at = pyro.param("at", lambda: torch.tensor([1.0, 2.0]))
    pyro.sample("weight", dist.Beta(2.0 + at[0].exp(), 3.0))
    pyro.sample("scale", dist.LogNormal(at[1], 0.3))


def one_after_another(y):
    """A guide that Pyro runs once for each label."""
    at = pyro.param("at", lambda: torch.tensor([-1.0, 1.0]))
    pyro.sample("loc", dist.Normal(at, 1.0).to_event(1))
    odds = pyro.param("odds", lambda: torch.tensor(0.4))
    return pyro.sample("z", dist.Bernoulli(logits=odds), infer={"enumerate": "sequential"})


def of_one_label(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    z = pyro.sample("z", dist.Bernoulli(0.3))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(loc[..., 0] + z * loc[..., 1], 1.0), obs=y)


def sums(**options):
    return {"elbo": TraceEnum_ELBO(max_plate_nesting=1, **options)}


CASES = {
    "guide": (mixture, lambda: Labels(0.2), sums()),
    "model": (summed, lambda: of_the_others, sums()),
    "particles": (mixture, lambda: Labels(0.2, 0.5), sums(num_particles=2)),
    "at once": (
        mixture, lambda: Labels(0.2), sums(num_particles=3, vectorize_particles=True)
    ),
    "in turn": (of_one_label, lambda: one_after_another, sums()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_graph_sums_as_pyro_does(case, monkeypatch):
    model, guide, options = CASES[case]
    plain, quick = both(model, guide, Y, monkeypatch, **options)
    assert quick.estimates.obstacle == ""
    graphs = quick.estimates._graphs.values()
    assert len(graphs) == 2
    assert all(graph.calls > estimates.FIRST_CHECKS and not graph.misses for graph in graphs)
    assert numbers(quick) == numbers(plain)
    assert len(set(plain.losses)) > 1  # the start does not pass


def test_where_a_label_has_no_mass_the_estimate_is_pyros(monkeypatch):
    """In single precision the probability of a label is 0 in some draws, and its cost left out."""
    plain, quick = both(mixture, lambda: Labels(0.0, 55.0), Y, monkeypatch, steps=60, **sums())
    assert quick.estimates.obstacle == ""
    assert sum(graph.misses for graph in quick.estimates._graphs.values()) > 2
    assert numbers(quick) == numbers(plain)


def test_a_graph_that_is_seldom_right_is_given_up(monkeypatch):
    plain, quick = both(mixture, lambda: Labels(200.0), Y, monkeypatch, steps=40, **sums())
    assert quick.estimates.obstacle == "it sums over values of probability 0"
    assert numbers(quick) == numbers(plain)


def asking(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    far = 2.0 if loc[..., 0].sum().item() > 0 else 1.0
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(z * far, 1.0), obs=y)


def test_what_a_model_asks_is_not_answered(monkeypatch):
    plain, quick = both(asking, lambda: Labels(0.2), Y, monkeypatch, **sums())
    assert "a number is taken out of a tensor" in quick.estimates.obstacle
    assert numbers(quick) == numbers(plain)
