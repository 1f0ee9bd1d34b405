"""Gaussian mixtures: evidence, EM and its variants, and each guide, against exact answers."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from build import build
from oracles.programs import (
    array,
    log_ratio,
    mixture_log_evidence,
    mixture_log_joint,
    mixture_responsibilities,
    row_log_ratios,
)
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy.cluster.vq import vq
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_cookbook as pc
from guides.gaussian_mixture import (
    GaussianMixtureAmortized,
    GaussianMixtureExact,
    GaussianMixtureMAP,
)
from models.gaussian_mixture import GaussianMixture
from pyro_cookbook.algorithms.gaussian_mixture import densities, sums
from pyro_cookbook.algorithms.gaussian_mixture import em as gm
from pyro_cookbook.algorithms.gaussian_mixture.em import MixtureParameters, em, random_start

RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def theta(iris: Tensor) -> MixtureParameters:
    return em(iris, 3, num_restarts=5).theta


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """1797 handwritten digits, their first 8 principal components."""
    return torch.tensor(PCA(8, svd_solver="full").fit_transform(load_digits().data))


@pytest.fixture(scope="module")
def petals(iris: Tensor) -> Tensor:
    """Length and width of the petals of the two species that overlap."""
    return iris[50:, 2:]


def model_of(theta: MixtureParameters, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    num_components, num_features = theta.loc.shape
    return build(GaussianMixture(num_features, num_components), dtype, **vars(theta))


def exact_guide(model: GaussianMixture) -> GaussianMixtureExact:
    guide = GaussianMixtureExact(model.num_features, model.num_components)
    guide.e_step(model)
    return guide


# --- the closed forms --------------------------------------------------------------------------


def test_joint_evidence_and_responsibilities_are_those_of_enumeration(iris, theta):
    np.testing.assert_allclose(gm.log_joint(theta, iris), mixture_log_joint(theta, iris), 1e-9)
    np.testing.assert_allclose(
        gm.log_evidence(theta, iris), mixture_log_evidence(theta, iris), 1e-9
    )
    expected = mixture_responsibilities(theta, iris)
    np.testing.assert_allclose(gm.responsibilities(theta, iris), expected, rtol=1e-8, atol=1e-15)


def test_log_evidence_keeps_its_digits_far_from_the_origin(iris, theta):
    far = MixtureParameters(theta.weights, (theta.loc + 1e4).float().double(), theta.scale_tril)
    v, single = (iris + 1e4).float(), MixtureParameters(*(x.float() for x in vars(far).values()))
    expected = mixture_log_evidence(far, v)
    np.testing.assert_allclose(gm.log_evidence(single, v), expected, rtol=1e-4, atol=1e-4)


def test_statistics_are_sums_over_rows(iris, theta):
    weight = gm.responsibilities(theta, iris)
    found = gm.statistics(weight, iris)
    np.testing.assert_allclose(found.count, weight.sum(0))
    np.testing.assert_allclose(found.first, torch.einsum("nk,nd->kd", weight, iris))
    np.testing.assert_allclose(found.second, torch.einsum("nk,nd,ne->kde", weight, iris, iris))


@pytest.mark.parametrize("dtype", RTOL, ids=str)
def test_each_draw_from_the_posterior_gives_the_evidence(iris, theta, dtype):
    model = model_of(theta, dtype)
    guide, expected = exact_guide(model), mixture_log_evidence(theta, iris)
    for _ in range(100):
        rows = row_log_ratios(model, guide, iris.to(dtype))
        assert rows.sum() == pytest.approx(expected.sum(), rel=RTOL[dtype])
        np.testing.assert_allclose(rows, expected, rtol=10 * RTOL[dtype], atol=10 * RTOL[dtype])


def test_each_draw_from_an_older_posterior_gives_another_number(iris, theta):
    model, guide = model_of(theta), GaussianMixtureExact(4, 3)
    guide.e_step(random_start(iris, 3, seed=1))
    ratios = [log_ratio(model, guide, iris) for _ in range(100)]
    assert np.std(ratios) > 1
    assert np.mean(ratios) < mixture_log_evidence(theta, iris).sum() - 1


def test_e_step_of_the_guide_is_a_copy(iris, theta):
    model = model_of(theta)
    guide = exact_guide(model)
    before = guide.loc.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert guide.loc.equal(before)
    assert not list(guide.parameters())


# --- EM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "num_components"), [("iris", 3), ("digits", 10)])
@pytest.mark.parametrize("seed", [0, 1])
def test_em_has_the_bounds_of_sklearn(request, data, num_components, seed):
    v = request.getfixturevalue(data)
    start = random_start(v, num_components, seed=seed)
    ours = em(v, num_components, start=start, max_iterations=20, tol=0)
    peer = SklearnMixture(
        num_components,
        weights_init=array(start.weights),
        means_init=array(start.loc),
        precisions_init=array(torch.cholesky_inverse(start.scale_tril)),
        max_iter=20,
        tol=0,
    )
    with pytest.warns(ConvergenceWarning):
        peer.fit(array(v))
    np.testing.assert_allclose(ours.elbo, len(v) * np.array(peer.lower_bounds_), rtol=1e-10)
    np.testing.assert_allclose(ours.theta.loc, peer.means_, rtol=1e-8, atol=1e-8)
    assert ours.elbo[-1] > ours.elbo[0] + 100


def test_em_never_lowers_the_bound():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for problem in range(1000):
        num_rows, num_features, num_components = integer(60, 120), integer(1, 3), integer(1, 4)
        group = torch.randint(num_components, (num_rows,), generator=generator)
        v = draw(num_rows, num_features) + 2 * draw(num_components, num_features)[group]
        result = em(v, num_components, seed=problem, reg_covar=0, max_iterations=10, tol=0)
        fall = max([a - b for a, b in pairwise(result.elbo)], default=0)
        assert fall < 1e-12 * abs(result.elbo[-1])


def test_bound_after_the_e_step_is_the_evidence(iris):
    result = em(iris, 3, seed=1)
    assert result.converged
    assert result.elbo[-1] == pytest.approx(mixture_log_evidence(result.theta, iris).sum(), 1e-12)
    start = random_start(iris, 3, seed=1)
    assert result.elbo[0] == pytest.approx(mixture_log_evidence(start, iris).sum(), rel=1e-12)


def test_restarts_find_the_best_optimum_where_the_first_start_does_not(iris):
    peer = SklearnMixture(3, n_init=10, tol=1e-9, max_iter=1000, random_state=0).fit(array(iris))
    best = peer.score(array(iris)) * len(iris)
    result = em(iris, 3, num_restarts=5, seed=0)
    assert result.elbo[-1] == pytest.approx(best, rel=1e-6)
    assert result.elbo[-1] == max(result.restarts)
    assert result.restarts[0] == em(iris, 3, seed=0).elbo[-1]
    assert result.restarts[0] < best - 5


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_em_does_not_mind_where_the_origin_is(iris, theta, offset):
    start = MixtureParameters(theta.weights, theta.loc + 0.3 + offset, theta.scale_tril)
    result = em(iris + offset, 3, start=start)
    assert result.elbo[0] < result.elbo[-1] - 5
    assert result.elbo[-1] == pytest.approx(mixture_log_evidence(theta, iris).sum(), rel=1e-6)
    np.testing.assert_allclose(result.theta.loc - offset, theta.loc, atol=1e-3)


def test_collapsing_component_is_named():
    v = torch.tensor([[0.0], [0.0], [5.0], [6.0]], dtype=torch.float64)
    start = MixtureParameters(
        torch.tensor([0.5, 0.5]).double(), v[[2, 0]], 0.1 * torch.ones(2, 1, 1).double()
    )
    with pytest.raises(ValueError, match="component 1 has a singular covariance with 2 rows"):
        em(v, 2, start=start, reg_covar=0)


# --- memory ------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Records the number of scalars in the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        inputs = {
            tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, Tensor)
        }
        for tensor in made:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self.size = max(self.size, tensor.numel())
        return out


@pytest.mark.parametrize("scalars", [2**17, 2**19])
def test_e_step_makes_no_tensor_larger_than_a_chunk(monkeypatch, scalars):
    num_rows, num_features, num_components = 20_000, 10, 8
    monkeypatch.setitem(sums.CHUNK_SCALARS, "cpu", scalars)
    v = torch.randn(num_rows, num_features, dtype=torch.float64)
    theta = random_start(v, num_components)
    with LargestTensor() as largest:
        gm.e_step(theta, v)
    assert 0 < largest.size <= scalars < num_rows * num_components * num_features


def test_guide_makes_no_tensor_of_rows_by_components_by_features():
    v = torch.randn(2000, 10, dtype=torch.float64)
    guide = GaussianMixtureExact(10, 8)
    guide.e_step(random_start(v, 8))
    with LargestTensor() as largest:
        guide(v)
    assert largest.size <= 2 * len(v) * 10


def test_chunks_change_nothing(monkeypatch, iris, theta):
    whole = [gm.log_evidence(theta, iris), gm.responsibilities(theta, iris)]
    monkeypatch.setattr(densities, "CHUNK_ROWS", 7)
    chunked = [gm.log_evidence(theta, iris), gm.responsibilities(theta, iris)]
    for a, b in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


# --- hard assignment ---------------------------------------------------------------------------


def spherical(loc: Tensor) -> MixtureParameters:
    num_components, num_features = loc.shape
    eye = torch.eye(num_features).to(loc)
    return MixtureParameters(
        loc.new_full((num_components,), 1 / num_components), loc, 0 * loc[..., None] + eye
    )


def test_map_guide_with_equal_spheres_is_one_k_means_assignment(digits):
    guide, centres = GaussianMixtureMAP(8, 10), digits[:10]
    guide.e_step(spherical(centres))
    nearest, _ = vq(array(digits), array(centres))
    assert array(guide(digits)["h"]).tolist() == nearest.tolist()


def test_map_guide_and_m_step_with_equal_spheres_are_k_means(iris):
    guide, loc = GaussianMixtureMAP(4, 3), iris[[0, 60, 149]]
    for _ in range(20):
        guide.e_step(spherical(loc))
        h = guide(iris)["h"]
        loc = gm.m_step(gm.statistics(torch.nn.functional.one_hot(h, 3).to(iris), iris)).loc
    peer = KMeans(3, init=array(iris[[0, 60, 149]]), n_init=1, algorithm="lloyd").fit(array(iris))
    assert h.tolist() == peer.labels_.tolist()
    np.testing.assert_allclose(loc, peer.cluster_centers_, rtol=1e-12)


def test_bound_of_the_map_guide_is_the_largest_joint(iris, theta):
    guide = GaussianMixtureMAP(4, 3)
    guide.e_step(theta)
    rows = row_log_ratios(model_of(theta), guide, iris)
    np.testing.assert_allclose(rows, mixture_log_joint(theta, iris).max(1), rtol=1e-9)
    assert rows.sum() < mixture_log_evidence(theta, iris).sum()


# --- variants of EM ----------------------------------------------------------------------------


def test_stepwise_em_comes_close_to_em(iris):
    start = random_start(iris, 3, seed=2)
    result = gm.stepwise_em(iris, 3, batch_size=30, num_epochs=40, start=start)
    best = em(iris, 3, start=start).elbo[-1]
    assert mixture_log_evidence(start, iris).sum() < best - 100
    assert best - 1 < result.elbo[-1] < best + 1e-6
    assert result.elbo[-1] == pytest.approx(mixture_log_evidence(result.theta, iris).sum(), 1e-9)


@pytest.mark.parametrize("batch_size", [150, 100])
def test_stepwise_em_averages_statistics_with_the_weights_it_says(iris, batch_size):
    """It begins with all rows; step t blends in those of its batch with weight (t + 2)^−decay."""
    start = random_start(iris, 3, seed=2)

    def per_row(theta: MixtureParameters, v: Tensor) -> list[Tensor]:
        return [value / len(v) for value in vars(gm.e_step(theta, v)[0]).values()]

    theta, average, step, expected = start, per_row(start, iris), 0, []
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        for rows in torch.randperm(150, generator=generator).split(batch_size):
            weight = (step + 2) ** -0.9
            average = [
                (1 - weight) * a + weight * b
                for a, b in zip(average, per_row(theta, iris[rows]), strict=True)
            ]
            theta, step = gm.m_step(gm.SufficientStatistics(*average)), step + 1
        expected.append(mixture_log_evidence(theta, iris).sum())
    found = gm.stepwise_em(
        iris, 3, batch_size=batch_size, num_epochs=3, decay=0.9, start=start, seed=5
    )
    np.testing.assert_allclose(found.elbo, expected, rtol=1e-9)
    assert np.ptp(expected) > 10


def test_generalised_em_climbs_to_the_optimum_of_em(iris):
    start = random_start(iris, 2, seed=0)
    model = model_of(start)
    evidence, seen = [], []
    steps = gm.generalised_em(
        model, GaussianMixtureExact(4, 2), iris, num_iterations=16, steps_per_iteration=20, lr=0.05
    )
    for bound in steps:
        evidence.append(bound)
        seen.append(mixture_log_evidence(model, iris).sum())
    np.testing.assert_allclose(evidence, seen, rtol=1e-12)
    best = em(iris, 2, start=start).elbo[-1]
    assert np.diff(evidence).min() > 0
    assert evidence[0] < best - 100
    assert best - 0.1 < evidence[-1] < best


def test_generalised_em_leaves_the_e_step_guide_at_the_models_parameters(iris):
    """The bound of the pair is then the evidence: one draw shows it."""
    model, guide = model_of(random_start(iris, 2, seed=0)), GaussianMixtureExact(4, 2)
    bounds = gm.generalised_em(model, guide, iris, num_iterations=2, steps_per_iteration=3)
    for bound in bounds:
        assert log_ratio(model, guide, iris) == pytest.approx(bound, rel=1e-9)


@pytest.mark.parametrize("elbo", [Trace_ELBO(num_particles=5), TraceEnum_ELBO(max_plate_nesting=1)])
def test_generalised_em_raises_the_evidence_with_and_without_enumeration(petals, elbo):
    model = model_of(random_start(petals, 2, seed=0))
    bounds = list(
        gm.generalised_em(
            model, GaussianMixtureExact(2, 2), petals, num_iterations=4, elbo=elbo, lr=0.02
        )
    )
    assert bounds[-1] > bounds[0] + 5


def test_amortized_classifier_learns_the_e_step(petals):
    model = model_of(em(petals, 2, num_restarts=5).theta).requires_grad_(False)
    evidence = mixture_log_evidence(model, petals).sum()
    fit = pc.fit(
        model,
        GaussianMixtureAmortized(2, 2),
        petals,
        elbo=TraceEnum_ELBO(max_plate_nesting=1),
        max_steps=600,
    )
    assert -fit.losses[0] < evidence - 100
    assert evidence - 1 < fit.elbo.value < evidence + 4 * fit.elbo.se
    learned = torch.softmax(fit.guide.encoder(petals), 1)
    error = abs(array(learned) - mixture_responsibilities(model, petals))
    assert error.mean() < 0.03
