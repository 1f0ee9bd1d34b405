"""Single-precision data: fitted in double precision, returned in single."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.programs import array
from scipy import stats
from torch import Tensor

import pyro_cookbook as pc
from pyro_cookbook.programs.density.unconstrained import unconstrained_density
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated

Y = torch.linspace(-1, 2, 7, dtype=torch.float64)
X = torch.linspace(-1, 1, 21).reshape(7, 3)


def regression(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("row", len(x), dim=-1):
        none = x @ torch.zeros(3)  # of the default dtype, whatever that is when this runs
        pyro.sample("y", dist.Normal(x @ w + none, 1.0), obs=y)


def closure(y: Tensor) -> None:
    regression(X, y)


def regression_by_hand(z):
    x, y = array(X), array(Y.float())
    return stats.norm.logpdf(z).sum(1) + stats.norm(z @ x.T).logpdf(y).sum(1)


@pytest.mark.parametrize(
    ("model", "args", "dtype", "rtol"),
    [
        (regression, (X, Y.float()), torch.float64, 1e-12),  # widened, to optimise in
        (closure, (Y.float(),), torch.float32, 1e-6),
    ],
    ids=["data", "closure"],
)
def test_single_precision_is_widened_where_it_can_be(model, args, dtype, rtol):
    with isolated(0):
        density = unconstrained_density(Program(model, args))
    assert density.dtype == dtype
    assert torch.get_default_dtype() == torch.float32
    z = np.random.default_rng(3).standard_normal((6, 3))
    np.testing.assert_allclose(density.value(z), regression_by_hand(z), rtol=rtol)
    value, gradient = density.value_and_grad(z)
    assert value.dtype == gradient.dtype == np.float64
    step = 1e-2 * np.eye(3)[0]  # exact but for rounding: the density is quadratic
    slope = (regression_by_hand(z + step) - regression_by_hand(z - step)) / 2e-2
    np.testing.assert_allclose(gradient[:, 0], slope, rtol=10 * rtol + 1e-9, atol=10 * rtol)


@pytest.mark.parametrize("family", ["map", "laplace", "mean_field", "low_rank", "full_rank"])
@pytest.mark.parametrize("model", [regression, closure])
def test_fits_of_single_precision_data_stay_single(model, family):
    args = (X, Y.float()) if model is regression else (Y.float(),)
    fit = pc.fit(model, family, *args)
    assert fit.engine == "deterministic"
    assert fit.converged
    assert {p.dtype for p in fit.guide.parameters()} == {torch.float32}
    x, y = array(X), array(Y.float())
    mean = np.linalg.solve(x.T @ x + np.eye(3), x.T @ y)
    found = fit.guide.median()["w"].detach().numpy()
    # Half the tolerance of the fit, in sds of at most 1.
    np.testing.assert_allclose(found, mean, atol=0.025)


def process(x: Tensor, y: Tensor) -> None:
    length = pyro.sample("length", dist.LogNormal(-1.0, 1.0))
    apart = (x[:, None] - x) / length
    covariance = (-0.5 * apart**2).exp() + 1e-8 * torch.eye(len(x)).to(x)
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros_like(x), covariance))
    pyro.sample("y", dist.Normal(f, 0.1).to_event(1), obs=y)


@pytest.mark.parametrize("family", ["map", "full_rank"])
def test_a_matrix_that_single_precision_makes_singular_is_fitted(family):
    """Where the posterior is, a smooth Gaussian process has no noise to keep it apart."""
    x = torch.linspace(0, 1, 20)
    fit = pc.fit(process, family, x, torch.sin(6 * x))
    assert fit.converged
    assert {p.dtype for p in fit.guide.parameters()} == {torch.float32}
    tree = pc.to_datatree(fit, num_draws=10)
    assert tree.posterior["f"].shape == (1, 10, 20)
    found = tree.posterior["f"].mean(("chain", "draw")).to_numpy()
    np.testing.assert_allclose(found, torch.sin(6 * x).numpy(), atol=0.2)
