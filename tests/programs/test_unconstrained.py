"""The log density as a function of one vector, against densities written by hand."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.programs import array
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoMultivariateNormal
from scipy import stats
from scipy.special import betaln
from torch.autograd.functional import jacobian
from torch.distributions import biject_to

from pyro_cookbook.programs.density import log_density as densities
from pyro_cookbook.programs.density.unconstrained import (
    NoDensity,
    UnconstrainedDensity,
    unconstrained_density,
)
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated

ZERO = torch.zeros((), dtype=torch.float64)
Y = torch.linspace(-1, 2, 7, dtype=torch.float64)


def every_support(y):
    """A positive, an interval, a simplex and a Cholesky factor of a 3 × 3 correlation matrix."""
    scale = pyro.sample("scale", dist.Gamma(2.0 + ZERO, 1.5))
    share = pyro.sample("share", dist.Uniform(-1.0 + ZERO, 3.0))
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.5]).to(ZERO)))
    root = pyro.sample("root", dist.LKJCholesky(3, 1.7 + ZERO))
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("y", dist.Normal(share + weights[..., 2] + root[..., 2, 0], scale), obs=y)


def lkj_log_density(root, eta):
    """Of the Cholesky factor: Lewandowski, Kurowicka and Joe (2009), equation 16, and ∏ L_kkᵈ⁻ᵏ."""
    d = len(root)
    log_const = 0.0
    for k in range(1, d):
        alpha = eta + (d - k - 1) / 2
        log_const += (2 * eta - 2 + d - k) * (d - k) * math.log(2)
        log_const += (d - k) * betaln(alpha, alpha)
    log_det = 2 * np.log(np.diag(root)).sum()
    to_factor = sum((d - k) * math.log(root[k - 1, k - 1]) for k in range(1, d + 1))
    return (eta - 1) * log_det - log_const + to_factor


def by_hand(scale, share, weights, root, y):
    """log p(y, h) of `every_support`."""
    return (
        stats.gamma(2.0, scale=1 / 1.5).logpdf(scale)
        + stats.uniform(-1.0, 4.0).logpdf(share)
        + stats.dirichlet([1.0, 2.0, 3.5]).logpdf(weights)
        + lkj_log_density(root, 1.7)
        + stats.norm(share + weights[2] + root[2, 0], scale).logpdf(y).sum()
    )


def log_volume(z):
    """log |dh/dz| from Jacobians by automatic differentiation, of as many entries as are free."""
    simplex, corr = biject_to(constraints.simplex), biject_to(constraints.corr_cholesky)
    scale, share, weights, root = (torch.tensor(part) for part in np.split(z, [1, 2, 4]))
    width = share.sigmoid()
    free = jacobian(lambda x: corr(x)[[1, 2, 2], [0, 0, 1]], root)
    return float(
        scale.sum()
        + (4 * width * (1 - width)).log().sum()
        + jacobian(lambda x: simplex(x)[:2], weights).det().abs().log()
        + free.det().abs().log()
    )


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(0).standard_normal((5, 7))


@pytest.fixture(scope="module")
def density():
    return UnconstrainedDensity(Program(every_support, (Y,)))


def sites(density, z):
    """Values of all latents, a dict for each row of z."""
    values = density.constrain(z)
    return [{name: array(value[s]) for name, value in values.items()} for s in range(len(z))]


# --- the function itself -----------------------------------------------------------------------


def test_value_is_the_density_written_by_hand_and_its_volume(density, z):
    bare = UnconstrainedDensity(Program(every_support, (Y,)), jacobian=False)
    expected = np.array([by_hand(**values, y=array(Y)) for values in sites(density, z)])
    volume = np.array([log_volume(one) for one in z])
    assert (np.abs(volume) > 0.5).all()  # what would be missed
    np.testing.assert_allclose(bare.value(z), expected, rtol=1e-12)
    np.testing.assert_allclose(density.value(z), expected + volume, rtol=1e-12)


def test_layout_is_that_of_an_automatic_guide(density, z):
    with isolated(0):
        guide = AutoMultivariateNormal(every_support)
        guide(Y)
        theirs = [(site["name"], value) for site, value in guide._unpack_latent(torch.tensor(z[0]))]
    ours = density.unpack(torch.tensor(z[0]))
    assert list(ours) == [name for name, _ in theirs]
    for name, value in theirs:
        np.testing.assert_array_equal(ours[name], value)


def test_round_trip_and_names(density, z):
    values = density.constrain(z)
    assert {name: tuple(v.shape) for name, v in values.items()} == {
        "scale": (5,), "share": (5,), "weights": (5, 3), "root": (5, 3, 3),
    }  # fmt: skip
    np.testing.assert_allclose(density.unconstrain(values), z, rtol=1e-10)
    assert density.dim == 7
    assert density.labels() == [
        "scale", "share", "weights[0]", "weights[1]", "root[0]", "root[1]", "root[2]",
    ]  # fmt: skip
    assert [density.site_of(i) for i in (0, 1, 3, 4, 6)] == [
        "scale",
        "share",
        "weights",
        "root",
        "root",
    ]
    assert density.unpack(torch.tensor(z[None]))["root"].shape == (1, 5, 3)


@pytest.mark.parametrize("jac", [True, False])
def test_gradient_and_hessian_are_those_of_finite_differences(z, jac):
    density, h = UnconstrainedDensity(Program(every_support, (Y,)), jacobian=jac), 1e-5
    steps = h * np.eye(7)
    # Central differences err by h² |f'''| / 6 and by rounding over h, both below 1e-8.
    for one in z:
        value, gradient = density.value_and_grad(one[None])
        assert value == density.value(one[None])
        slope = (density.value(one + steps) - density.value(one - steps)) / (2 * h)
        np.testing.assert_allclose(gradient[0], slope, atol=1e-6, rtol=1e-6)
        bend = density.value_and_grad(one + steps)[1] - density.value_and_grad(one - steps)[1]
        hessian = density.hessian(one)
        np.testing.assert_allclose(hessian, bend / (2 * h), atol=1e-6, rtol=1e-6)
        np.testing.assert_array_equal(hessian, hessian.T)
    v = np.random.default_rng(1).standard_normal(z.shape)
    by_row = np.stack([density.hessian(one) @ w for one, w in zip(z, v, strict=True)])
    np.testing.assert_allclose(density.hvp(z, v), by_row, rtol=1e-9, atol=1e-9)
    mean = np.mean([density.hessian(one) for one in z], axis=0)
    np.testing.assert_allclose(density.mean_hessian(z), mean, rtol=1e-12)


def test_points_in_small_chunks_are_as_all_at_once(density, z, monkeypatch):
    monkeypatch.setattr(densities, "CHUNK_SCALARS", 1)
    one_by_one = UnconstrainedDensity(Program(every_support, (Y,)))
    np.testing.assert_allclose(one_by_one.value(z), density.value(z), rtol=1e-14)
    for a, b in zip(one_by_one.value_and_grad(z), density.value_and_grad(z), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(one_by_one.hvp(z, z), density.hvp(z, z), rtol=1e-12)


def test_evaluations_are_counted(z):
    density = UnconstrainedDensity(Program(every_support, (Y,)))
    density.value(z)
    density.value_and_grad(z)
    assert density.evaluations == 10


def test_a_linear_density_has_no_curvature():
    def model(y):
        h = pyro.sample("h", dist.ImproperUniform(constraints.real, (), (2,)))
        pyro.factor("slope", 3 * h.sum(-1))

    density = UnconstrainedDensity(Program(model, (Y,)))
    z = np.array([1.0, 2.0])
    assert density.value(z[None]) == 9
    np.testing.assert_array_equal(density.hessian(z), np.zeros((2, 2)))


def test_where_torch_has_no_second_derivative_there_are_differences():
    def hills(_):
        x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        left, right = dist.Normal(-1.0, 0.05).log_prob(x), dist.Normal(1.0, 0.1).log_prob(x)
        pyro.factor("hills", torch.logaddexp(left, right))

    density = unconstrained_density(Program(hills, (Y,)))
    at = np.array([1.0])
    assert np.isnan(density.hvp(at[None], np.ones((1, 1))))  # or there is nothing to mend
    assert density.hessian(at).item() == pytest.approx(-100, rel=1e-6)
    assert density.hessian(-at).item() == pytest.approx(-400, rel=1e-6)


# --- what models do ----------------------------------------------------------------------------


def normal(x, loc=0.0, scale=1.0):
    return stats.norm(loc, scale).logpdf(x)


def with_factor(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    pyro.factor("extra", -3 * a**2)


def with_loop(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    for i in range(3):
        pyro.sample(f"y_{i}", dist.Normal(i * a, 1.0), obs=y[i])


def with_item(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    scale = 2.0 if a.item() > 0.3 else 0.5
    pyro.sample("y", dist.Normal(a, scale), obs=y[0])


def with_branch(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(a if a > 0.3 else 2 * a, 1.0), obs=y[0])


def with_improper(y):
    pyro.sample("a", dist.ImproperUniform(constraints.positive, (), ()))
    pyro.sample("b", dist.ImproperUniform(constraints.real, (), ()))
    pyro.sample("y", dist.Normal(y[0], 1.0), obs=y[0])


def with_scale(y):
    with poutine.scale(scale=2.5):
        a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(a, 1.0), obs=y[0])


def with_mask(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    with pyro.plate("row", len(y), dim=-1), poutine.mask(mask=y > 0):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


def with_derived(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    pyro.deterministic("b", a**2)


SEEN = array(Y)
EXPECTED = {
    with_factor: lambda a: normal(a) - 3 * a**2,
    with_loop: lambda a: normal(a) + sum(normal(SEEN[i], i * a) for i in range(3)),
    with_item: lambda a: normal(a) + normal(SEEN[0], a, 2.0 if a > 0.3 else 0.5),
    with_branch: lambda a: normal(a) + normal(SEEN[0], a if a > 0.3 else 2 * a),
    with_improper: lambda a, b: a + normal(0.0),  # the volume of exp
    with_scale: lambda a: 2.5 * normal(a) + normal(SEEN[0], a),
    with_mask: lambda a: normal(a) + normal(SEEN[SEEN > 0], a).sum(),
    with_derived: normal,
}


@pytest.mark.parametrize("model", EXPECTED, ids=lambda model: model.__name__)
def test_whatever_a_model_does_counts(model):
    density = unconstrained_density(Program(model, (Y,)))
    z = np.array([[-1.2], [0.1], [0.7], [2.0]]) * np.ones(density.dim)
    expected = [EXPECTED[model](*one) for one in z]
    np.testing.assert_allclose(density.value(z), expected, rtol=1e-12)
    h = 1e-6
    step = h * np.eye(density.dim)[0]
    slope = (density.value(z + step) - density.value(z - step)) / (2 * h)
    np.testing.assert_allclose(density.value_and_grad(z)[1][:, 0], slope, rtol=1e-6, atol=1e-8)


# --- as a graph --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [every_support, with_loop, with_mask, with_item, with_branch], ids=lambda m: m.__name__
)
def test_the_graph_is_the_same_function(model):
    """Of models that branch on values there is none: then it is the model itself."""
    density = UnconstrainedDensity(Program(model, (Y,)))
    run = density.traced()
    z = np.random.default_rng(2).standard_normal((20, density.dim))
    value, gradient = density.value_and_grad(z)
    for s in range(20):
        found, slope = run(torch.tensor(z[s]))
        assert float(found) == pytest.approx(value[s], rel=1e-12)
        np.testing.assert_allclose(slope, gradient[s], rtol=1e-9, atol=1e-9)


def test_the_graph_runs_no_python_of_the_model():
    calls = 0

    def counting(y):
        nonlocal calls
        calls += 1
        with_loop(y)

    run = UnconstrainedDensity(Program(counting, (Y,))).traced()
    run(torch.ones(1).double())  # makes the graph
    before = calls
    run(torch.zeros(1).double())
    assert calls == before


# --- what has no such density ------------------------------------------------------------------


def moving_support(y):
    high = pyro.sample("high", dist.LogNormal(ZERO, 1.0))
    pyro.sample("low", dist.Uniform(ZERO, high))


def random_outside(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(a, 1.0), obs=torch.randn_like(y[0]))


def random_factor(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(a * torch.rand(()), 1.0), obs=y[0])


def own_subsample(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    with pyro.plate("row", len(y), subsample_size=2, dim=-1) as rows:
        pyro.sample("y", dist.Normal(a, 1.0), obs=y[rows])


def sometimes(y):
    a = pyro.sample("a", dist.Normal(ZERO, 1.0))
    if a > 0:
        pyro.sample("b", dist.Normal(a, 1.0))


def latentless(y):
    pyro.sample("y", dist.Normal(ZERO, 1.0), obs=y[0])


def no_bijection(y):
    modes = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0)
    pyro.sample("h", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), modes))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (moving_support, r"support of site 'low' depends on another.*sample\('low_unit'"),
        (random_outside, "a random number is drawn outside pyro.sample"),
        (random_factor, "a random number is drawn outside pyro.sample"),
        (own_subsample, "takes its own subsample"),
        (latentless, "it has no latent site"),
        (no_bijection, "support of site 'h' has no bijection to the reals"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_function_of_the_latents_is_refused(model, message):
    with pytest.raises(NoDensity, match=message) as caught:
        UnconstrainedDensity(Program(model, (Y,)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_a_site_that_is_not_always_sampled_is_refused_whether_the_first_run_has_it_or_not(seed):
    pyro.set_rng_seed(seed)
    with pytest.raises(NoDensity, match="site 'b' is not sampled in every run"):
        UnconstrainedDensity(Program(sometimes, (Y,)))
