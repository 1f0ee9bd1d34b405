"""Maximum entropy, on a grid and with a flow."""

import numpy as np
import pytest
import torch
from build import build
from oracles.maximum_entropy import (
    known_maxima,
    normal_negative_log_likelihood,
)
from oracles.programs import gaussian_kl, log_prob, log_ratio, row_log_ratios
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ExponentialLR
from scipy import stats
from torch import Tensor

from guides._splines import MonotoneSpline
from guides.maximum_entropy import MaximumEntropyFlow, MaximumEntropyNormal
from models.maximum_entropy import Multipliers, maximum_entropy
from pyro_cookbook.algorithms.calculus_of_variations.maximum_entropy import (
    gaussian_multipliers,
    kl_divergence,
    make_grid,
    maximise_entropy,
    total_variation,
)

KNOWN = known_maxima()
known = pytest.mark.parametrize("case", KNOWN, ids=[case.name for case in KNOWN])
MEAN, SD = 2.3, 1.1
MOMENTS = [MEAN, MEAN**2 + SD**2]
STATISTICS = [lambda x: x, np.square]


def solved(case, num_panels=400):
    grid = make_grid(*case.support, num_panels)
    return maximise_entropy(grid, case.statistics, case.targets)


# --- the grid ----------------------------------------------------------------------------------


def test_the_quadrature_is_exact_for_polynomials_up_to_its_order():
    grid = make_grid(-1, 3, num_panels=3, order=4)
    assert grid.points.min() > -1
    assert grid.points.max() < 3
    assert (np.diff(grid.points) > 0).all()
    for power in range(8):
        expected = (3 ** (power + 1) - (-1) ** (power + 1)) / (power + 1)
        assert grid.integral(grid.points**power) == pytest.approx(expected, rel=1e-12)
    assert grid.integral(grid.points**8) != pytest.approx((3**9 + 1) / 9, rel=1e-12)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, np.inf)])
def test_an_interval_that_is_none_is_refused(ends):
    with pytest.raises(ValueError, match="low, high"):
        make_grid(*ends)


@known
def test_maximum_entropy_has_the_textbook_density(case):
    found = solved(case)
    expected = case.density.logpdf(found.grid.points)
    there = expected > np.log(1e-10)
    np.testing.assert_allclose(found.log_density[there], expected[there], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.multipliers, case.multipliers, rtol=0, atol=1e-6)
    assert found.entropy == pytest.approx(float(case.density.entropy()), abs=1e-8)


def test_maximum_entropy_of_a_variance_is_half_log_2_pi_e_variance():
    found = maximise_entropy(make_grid(-15, 20), STATISTICS, MOMENTS)
    assert found.entropy == pytest.approx(0.5 * np.log(2 * np.pi * np.e * SD**2), abs=1e-9)
    assert max(found.edges) < 1e-30
    linear, quadratic = gaussian_multipliers(MEAN, SD)
    np.testing.assert_allclose(found.multipliers, [linear, quadratic], rtol=1e-8)


def test_newton_has_the_right_hessian_and_is_quick_from_far_away():
    found = maximise_entropy(make_grid(-10, 14, 800), STATISTICS, [4.0, 16.01])
    assert found.entropy == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 0.01), abs=1e-8)
    assert found.num_iterations <= 20  # with the second moments for a Hessian: 22


@known
def test_the_functional_derivative_vanishes_in_every_allowed_direction(case):
    """Perturb p by εη with ∫η = ∫ηT = 0: the entropy falls, and by ε² only."""
    found = solved(case)
    grid, p = found.grid, np.exp(found.log_density)
    rows = [np.ones_like(p), *(T(grid.points) for T in case.statistics)]
    rng = np.random.default_rng(0)
    knots = np.linspace(*case.support, 30)
    bumps = np.interp(grid.points, knots, rng.standard_normal(30)) * p
    basis = np.stack([row * p for row in rows])  # remove the parts that change a constraint
    gram = basis * grid.weights @ np.stack(rows).T
    eta = bumps - np.linalg.solve(gram.T, np.stack(rows) @ (grid.weights * bumps)) @ basis
    assert np.abs(np.stack(rows) @ (grid.weights * eta)).max() < 1e-9
    top = np.abs(eta / p).max()

    def entropy(density):
        return -grid.integral(density * np.log(density))

    falls = [found.entropy - entropy(p + size / top * eta) for size in (0.1, -0.1, 0.01, -0.01)]
    assert min(falls) > 0
    assert falls[0] > 1e-6
    assert falls[2] / falls[0] == pytest.approx(0.01, rel=0.2)
    assert falls[3] / falls[1] == pytest.approx(0.01, rel=0.2)


def test_the_dual_is_least_at_the_multipliers_and_equals_the_entropy_there():
    grid = make_grid(-15, 20)
    found = maximise_entropy(grid, STATISTICS, MOMENTS)
    values = np.stack([T(grid.points) for T in STATISTICS])

    def dual(multipliers):
        return np.log(grid.integral(np.exp(multipliers @ values))) - multipliers @ MOMENTS

    assert dual(found.multipliers) == pytest.approx(found.entropy, abs=1e-9)
    for step in ([0.1, 0], [-0.1, 0], [0, 0.05], [0, -0.05]):
        assert dual(found.multipliers + step) > found.entropy + 1e-3


def test_without_a_constraint_on_the_spread_the_answer_is_the_grids():
    narrow, wide = (
        maximise_entropy(make_grid(-width, width), [lambda x: x], [0.0]) for width in (10, 1000)
    )
    assert narrow.edges == pytest.approx((1, 1), abs=1e-9)
    assert wide.edges == pytest.approx((1, 1), abs=1e-9)
    assert wide.entropy - narrow.entropy == pytest.approx(np.log(100), abs=1e-9)


def test_edges_tell_which_end_of_the_grid_cuts_the_density_off():
    low, high = maximise_entropy(make_grid(0, 3), [lambda x: x], [1.0]).edges
    assert low == pytest.approx(1, abs=0.01)
    assert 0.05 < high < 0.5
    assert maximise_entropy(make_grid(0, 60), [lambda x: x], [1.0]).edges[1] < 1e-20


@pytest.mark.parametrize(
    ("statistics", "targets", "message"),
    [
        (STATISTICS, [1.0, 0.5], "no density on the grid"),  # a negative variance
        (STATISTICS, [1.0], "expected one number for each of 2"),
        ([np.abs], [-1.0], "for statistic 0, whose values"),
        ([lambda x: x, lambda x: 2 * x + 1], [1.0, 3.0], "linear combination"),
        ([lambda x: x + np.where(x > 0, np.inf, 0)], [1.0], "not finite"),
    ],
)
def test_constraints_that_cannot_be_met_are_refused(statistics, targets, message):
    with pytest.raises(ValueError, match=message):
        maximise_entropy(make_grid(-5, 5), statistics, targets)


def test_distances_are_those_of_two_normals():
    grid = make_grid(-20, 20)
    p, q = stats.norm(0.5, 1.2), stats.norm(-0.3, 2.0)
    log_p, log_q = p.logpdf(grid.points), q.logpdf(grid.points)
    expected = gaussian_kl(np.array([0.5]), np.array([[1.44]]), np.array([-0.3]), np.array([[4.0]]))
    assert kl_divergence(grid, log_p, log_q) == pytest.approx(expected, abs=1e-10)
    shifted = stats.norm(1.3, 1.2).logpdf(grid.points)
    expected = 2 * stats.norm.cdf(0.4 / 1.2) - 1
    assert total_variation(grid, log_p, shifted) == pytest.approx(expected, abs=1e-3)


# --- the program -------------------------------------------------------------------------------

LOC, SCALE = torch.tensor([[0.4, -1.5, 3.0], [0.7, 2.0, 1.1]], dtype=torch.float64)


@pytest.fixture(scope="module")
def rows(wine: Tensor) -> Tensor:
    return wine[:, :3] * torch.tensor([1.0, 0.5, 2.0]) + torch.tensor([0.3, -1.0, 2.0])


def multipliers_of(loc, scale, dtype: torch.dtype = torch.float64) -> Multipliers:
    return Multipliers(*(torch.as_tensor(m, dtype=dtype) for m in gaussian_multipliers(loc, scale)))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_with_the_optimal_density_every_draw_gives_the_evidence(rows, dtype, rtol):
    """The evidence of the unnormalised joint is the negative log likelihood of the rows."""
    guide = build(MaximumEntropyNormal(3), dtype, h_loc=LOC, h_scale=SCALE)
    kwargs = {"multipliers": multipliers_of(LOC, SCALE, dtype)}
    expected = normal_negative_log_likelihood(rows.numpy(), LOC.numpy(), SCALE.numpy())
    for _ in range(3):
        value = log_ratio(maximum_entropy, guide, rows.to(dtype), **kwargs)
        assert value == pytest.approx(expected, rel=rtol)
    other = build(MaximumEntropyNormal(3), dtype, h_loc=LOC, h_scale=SCALE * 1.1)
    draws = [log_ratio(maximum_entropy, other, rows.to(dtype), **kwargs) for _ in range(20)]
    assert np.std(draws) > 1


def test_the_evidence_is_least_at_the_right_multipliers_and_is_the_maximum_entropy(rows):
    loc, scale = rows.mean(0), rows.std(0, correction=0)

    def evidence(loc, scale):
        guide = build(MaximumEntropyNormal(3), h_loc=loc, h_scale=scale)
        return log_ratio(maximum_entropy, guide, rows, multipliers=multipliers_of(loc, scale))

    entropy = float(torch.distributions.Normal(loc, scale).entropy().sum())
    least = evidence(loc, scale)
    assert least == pytest.approx(len(rows) * entropy, rel=1e-12)
    for factor, shift in ((1.1, 0.0), (0.9, 0.0), (1.0, 0.1), (1.0, -0.1)):
        assert evidence(loc + shift, scale * factor) > least + 0.1


def test_log_joint_is_the_lagrangian_row_by_row(rows):
    linear, quadratic = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([-0.3, -0.7, -1.1])
    h = torch.randn(len(rows), 3, dtype=torch.float64)
    value = log_prob(
        maximum_entropy,
        {"h": h},
        rows,
        multipliers=Multipliers(linear.double(), quadratic.double()),
    )
    excess = (h - rows) @ linear.double() + (h**2 - rows**2) @ quadratic.double()
    assert value == pytest.approx(float(excess.sum()), rel=1e-12)


def test_normal_guide_is_independent_normals():
    guide = build(MaximumEntropyNormal(3), h_loc=LOC, h_scale=SCALE)
    h = torch.randn(5, 3, dtype=torch.float64)
    expected = stats.norm(LOC, SCALE).logpdf(h.numpy()).sum()
    assert log_prob(guide, {"h": h}, h) == pytest.approx(expected, rel=1e-12)


# --- the flow ----------------------------------------------------------------------------------


def some_flow(num_features: int = 2, dtype: torch.dtype = torch.float64) -> MaximumEntropyFlow:
    rng = torch.Generator().manual_seed(3)
    guide = MaximumEntropyFlow(num_features, num_bins=5, bound=4.0)
    return build(
        guide, dtype,
        h_loc=torch.randn(num_features, generator=rng),
        h_scale=0.5 + torch.rand(num_features, generator=rng),
        h_heights=0.2 + torch.rand(num_features, 5, generator=rng),
        h_slopes=0.2 + torch.rand(num_features, 6, generator=rng),
    )  # fmt: skip


def spline_of(guide: MaximumEntropyFlow) -> MonotoneSpline:
    (spline,) = guide.density().base_dist.transforms
    return spline


def test_spline_is_increasing_smooth_and_inverted():
    spline = spline_of(some_flow())
    x = torch.linspace(-7, 7, 2001, dtype=torch.float64)[:, None].expand(-1, 2).clone()
    x.requires_grad_(True)
    y = spline._call(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    assert slope.diff(dim=0).abs().max() < 0.1  # once differentiable: no jump at a knot
    torch.testing.assert_close(spline.log_abs_det_jacobian(x, y), slope.log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(spline._inverse(y), x, rtol=0, atol=1e-11)


def test_spline_takes_its_heights_and_slopes_at_the_knots_and_is_linear_beyond():
    guide = some_flow()
    spline, scale = spline_of(guide), guide.h_scale.detach()[:, None]
    knots = torch.linspace(-4, 4, 6, dtype=torch.float64)[:, None].expand(-1, 2)
    y = spline._call(knots)
    torch.testing.assert_close(y.diff(dim=0).mT, scale * guide.h_heights)
    torch.testing.assert_close((y[0] + y[-1]) / 2, guide.h_loc.detach())
    slopes = spline.log_abs_det_jacobian(knots, y).exp().mT
    torch.testing.assert_close(slopes, scale * guide.h_slopes.detach())
    step = torch.tensor([[-3.0], [5.0]], dtype=torch.float64)
    ends = spline._call(torch.stack([knots[0], knots[-1]]) + step)
    expected = torch.stack([y[0], y[-1]]) + step * slopes.mT[[0, -1]]
    torch.testing.assert_close(ends, expected)


def test_flow_starts_as_the_logistic_density():
    guide = build(MaximumEntropyFlow(2))
    h = torch.linspace(-12, 12, 101, dtype=torch.float64)[:, None].expand(-1, 2)
    expected = torch.tensor(stats.logistic.logpdf(h.numpy()).sum(-1))
    torch.testing.assert_close(guide.density().log_prob(h), expected)


def test_density_of_the_flow_integrates_to_one_and_belongs_to_its_draws():
    guide, grid = some_flow(1), make_grid(-60, 60, 4000)
    with torch.no_grad():
        log_q = guide.density().log_prob(torch.tensor(grid.points)[:, None]).numpy()
        drawn = guide.density().sample((40_000,))[:, 0].numpy()
    assert grid.integral(np.exp(log_q)) == pytest.approx(1, abs=5e-5)
    mean = grid.integral(grid.points * np.exp(log_q))
    sd = np.sqrt(grid.integral((grid.points - mean) ** 2 * np.exp(log_q)))
    assert abs(drawn.mean() - mean) < 4 * sd / 200
    assert drawn.std() == pytest.approx(sd, rel=0.03)


def test_log_density_of_a_draw_is_the_one_by_the_inverse(rows):
    guide = some_flow(3)
    trace = poutine.trace(guide).get_trace(rows)
    h = trace.nodes["h"]["value"].detach()
    by_draw = float(trace.log_prob_sum().detach())
    assert by_draw == pytest.approx(log_prob(guide, {"h": h.clone()}, rows), abs=1e-8)


def test_spline_runs_under_vmap_and_with_particles(rows):
    guide = some_flow(3)
    spline = spline_of(guide)
    x = torch.randn(4, 10, 3, dtype=torch.float64)
    y = torch.vmap(spline._call)(x)
    torch.testing.assert_close(y, torch.stack([spline._call(part) for part in x]))
    torch.testing.assert_close(torch.vmap(spline._inverse)(y), x)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    kwargs = {"multipliers": multipliers_of(LOC, SCALE)}
    assert np.isfinite(elbo.loss(maximum_entropy, guide, rows, **kwargs))
    assert row_log_ratios(lambda v: maximum_entropy(v, **kwargs), guide, rows).shape == (len(rows),)


@pytest.mark.parametrize("kind", [MaximumEntropyNormal, MaximumEntropyFlow])
def test_svi_lands_on_the_gaussian(kind):
    """Far off at the start; at the end KL and entropy agree to the noise of the last steps."""
    v = torch.tensor([[MEAN - SD], [MEAN + SD]], dtype=torch.float64)  # its mean and sd are these
    grid = make_grid(MEAN - 12, MEAN + 12, 400)
    log_p = stats.norm(MEAN, SD).logpdf(grid.points)
    guide = build(kind(1))

    def distance():
        with torch.no_grad():
            q = poutine.trace(guide).get_trace(v).nodes["h"]["fn"]
            return kl_divergence(
                grid, q.log_prob(torch.tensor(grid.points)[:, None, None]).numpy()[:, 0], log_p
            )

    start = distance()
    settings = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.2}, "gamma": 0.985}
    optimiser = ExponentialLR(settings)
    elbo = Trace_ELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(maximum_entropy, guide, optimiser, elbo)
    for _ in range(400):
        svi.step(v, multipliers=multipliers_of([MEAN], [SD]))
        optimiser.step()
    assert start > 0.5
    assert distance() < (1e-3 if kind is MaximumEntropyNormal else 0.01)
