"""Parameters held at given values are those values, frozen, and copies."""

import doctest
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisMeanField
from models.binary_sparse_coding import BinarySparseCoding
from models.explaining_away import ExplainingAway
from models.factor_analysis import FactorAnalysis
from models.gaussian_mixture import GaussianMixture
from models.sparse_coding import SparseCoding
from pyro_cookbook.algorithms import factor_analysis as fa
from pyro_cookbook.algorithms.binary_sparse_coding import em as bsc_em
from pyro_cookbook.algorithms.gaussian_mixture import em as gmm
from pyro_cookbook.algorithms.sparse_coding import dictionary_learning, fista
from pyro_cookbook.programs.state import holding

ROWS = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def codes() -> fista.SparseCodingParameters:
    W = dictionary_learning.random_atoms(ROWS, 4)
    return fista.SparseCodingParameters(W, ROWS.mean(0), rate=2.0, scale=0.5)


def learned() -> list[tuple[PyroModule, object]]:
    return [
        (FactorAnalysis(5, 2), fa.em(ROWS, 2, max_iterations=3)[0]),
        (GaussianMixture(5, 3), gmm.em(ROWS, 3, max_iterations=3).theta),
        (BinarySparseCoding(5, 3), bsc_em.em(ROWS, 3, max_iterations=3).theta),
        (SparseCoding(5, 4, rate=2.0, scale=0.5), codes()),
        (ExplainingAway(2), {"w": torch.tensor([1.5, -2.0])}),
    ]


@pytest.mark.parametrize(("model", "theta"), learned(), ids=lambda value: type(value).__name__)
def test_parameters_are_the_values_frozen(model, theta):
    before = {name: value.detach().clone() for name, value in model.named_pyro_params()}
    assert pc.hold(model, theta) is model
    given = theta if isinstance(theta, dict) else vars(theta)
    for name, value in model.named_pyro_params():
        assert torch.allclose(value, given[name])
        assert not torch.equal(value.double(), before[name].double())
        assert value.dtype == given[name].dtype
    assert [p for p in model.parameters() if p.requires_grad] == []


def test_training_the_freed_model_leaves_theta_alone():
    theta, _ = fa.em(ROWS, 2, max_iterations=3)
    kept = theta.b.clone()
    model = pc.hold(FactorAnalysis(5, 2), theta).requires_grad_(True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(theta.b, kept)
    assert torch.equal(model.b, kept + 1)


def test_a_fit_of_a_held_model_moves_the_guide_alone():
    theta, _ = fa.em(ROWS, 2, max_iterations=3)
    model = pc.hold(FactorAnalysis(5, 2), theta)
    guide = FactorAnalysisMeanField(30, 2).double()
    Trace_ELBO().loss_and_grads(model, guide, ROWS)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in guide.parameters())


class Nested(PyroModule):
    """A plain parameter, a constrained one, and one a floor below."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(2))
        self.below = PyroModule()
        self.below.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self) -> torch.Tensor:
        return pyro.sample("z", dist.Normal(self.slope, self.below.scale).to_event(1))


def test_parameters_of_submodules_and_plain_ones_are_held():
    model = pc.hold(Nested(), {"slope": [1, 2], "below.scale": 0.25})
    assert model.slope.tolist() == [1.0, 2.0]
    assert float(model.below.scale) == 0.25
    assert not any(p.requires_grad for p in model.parameters())
    assert model().shape == (2,)


@pytest.mark.parametrize(
    ("model", "theta", "error", "line"),
    [
        (ExplainingAway, {}, ValueError, "theta: got no 'w', expected w"),
        (ExplainingAway, [1.0, 2.0], TypeError, "theta: got a list, expected a mapping or"),
        (ExplainingAway, {"w": 1.0}, ValueError, r"theta.w: got shape \(\), expected \(2,\)"),
        (
            ExplainingAway,
            {"w": [1.0, 2.0], "v": [0.0]},
            ValueError,
            "theta: got 'v', expected w alone",
        ),
        (
            Nested,
            {"slope": [1.0, 2.0], "below.scale": -1.0},
            ValueError,
            "theta.below.scale: got a value outside the parameter's support",
        ),
        (
            lambda: GaussianMixture(1, 2),
            {"weights": [0.9, 0.9], "loc": [[0.0], [1.0]], "scale_tril": [[[1.0]], [[1.0]]]},
            ValueError,
            "theta.weights: got a value outside the parameter's support",
        ),
        (
            lambda: SparseCoding(5, 4, rate=2.0),
            codes(),
            ValueError,
            "theta.scale: got 0.5, expected 1.0, which the model was made with",
        ),
        (
            lambda: SparseCoding(5, 4, rate=2.0, scale=0.5),
            replace(codes(), W=3 * codes().W),
            ValueError,
            "theta.W: got a value outside the parameter's support",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(model, theta, error, line):
    with pytest.raises(error, match=f"^{line}[^\n]*$"):
        pc.hold(model(), theta)


def test_the_example_runs():
    assert doctest.testmod(holding) == (0, 4)
