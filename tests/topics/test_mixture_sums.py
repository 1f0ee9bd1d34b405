"""The pass over a mixture's rows: against sums written out, whatever the chunks and threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_cookbook.algorithms.gaussian_mixture import em as gm
from pyro_cookbook.algorithms.gaussian_mixture import sums as module
from pyro_cookbook.algorithms.gaussian_mixture.sums import Components, expected_sums

NUM_ROWS = 1500


def problem(num_features: int, num_components: int, seed: int = 0) -> tuple[Components, Tensor]:
    """Components with full roots, and rows near their means."""
    rng = np.random.default_rng(seed)
    K, D = num_components, num_features
    root = np.eye(D) + 0.3 * rng.normal(size=(K, D, D))
    loc = 2 * rng.normal(size=(K, D))
    v = loc[rng.integers(K, size=NUM_ROWS)] + rng.normal(size=(NUM_ROWS, D))
    return Components(*map(torch.tensor, (rng.normal(size=K), root, loc))), torch.tensor(v)


def written_out(components: Components, v: Tensor) -> list[Tensor]:
    """Count, first, second and norm, one array for all rows and components."""
    white = torch.einsum("kij,nkj->nki", components.root, v[:, None] - components.loc)
    joint = components.constant - 0.5 * white.square().sum(2)
    r = joint.softmax(1)
    return [
        r.sum(0),
        torch.einsum("nk,ni->ki", r, v),
        torch.einsum("nk,ni,nj->kij", r, v, v),
        joint.logsumexp(1).sum(),
    ]


def found(components: Components, v: Tensor, origin: Tensor | None = None) -> list[Tensor]:
    sums, norm = expected_sums(components, v, origin)
    return [sums.count, sums.first, sums.second, norm]


def largest_error(ours: list[Tensor], expected: list[Tensor]) -> float:
    """Of any sum, relative to the largest of its kind."""
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, expected, strict=True)
    )


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("num_components", [1, 2, 7])
@pytest.mark.parametrize("num_features", [1, 2, 3, 4, 9])
def test_sums_are_those_written_out(num_features, num_components):
    components, v = problem(num_features, num_components)
    assert largest_error(found(components, v), written_out(components, v)) < 1e-13


def test_single_precision_sums_in_double():
    """Each product is rounded, by 6e-8; their sum is not."""
    components, v = problem(5, 4)
    ours = found(components, v.float())
    assert {x.dtype for x in ours} == {torch.float64}
    assert 1e-12 < largest_error(ours, written_out(components, v)) < 1e-6


def test_rows_are_taken_from_the_origin():
    components, v = problem(4, 3)
    origin = torch.tensor([1e3, -2e3, 3e3, 0.0]).double()
    assert largest_error(found(components, v + origin, origin), found(components, v)) < 1e-10


@pytest.mark.parametrize("scalars", [1, 2**13, 2**15])
def test_chunks_of_any_size_give_the_same(monkeypatch, scalars):
    components, v = problem(5, 4)
    monkeypatch.setitem(module.CHUNK_SCALARS, "cpu", scalars)
    assert largest_error(found(components, v), written_out(components, v)) < 1e-13


def test_sums_do_not_depend_on_the_number_of_threads(monkeypatch, two_threads):
    monkeypatch.setitem(module.CHUNK_SCALARS, "cpu", 1)
    components, v = problem(5, 4)
    v = v.repeat(20, 1)  # several blocks
    in_two = found(components, v)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert all(map(torch.equal, in_two, found(components, v)))
    assert largest_error(in_two, written_out(components, v)) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_components_far_from_every_row_get_nothing(dtype):
    """Their shares underflow; the log norm is that of the others."""
    components, v = problem(3, 2)
    constant = torch.cat([components.constant, torch.tensor([-1e6, -torch.inf]).double()])
    root = torch.cat([components.root, components.root])
    more = Components(constant, root, torch.cat([components.loc, components.loc + 1e3]))
    (count, first, second, norm), expected = found(more, v.to(dtype)), found(components, v)
    tol = {torch.float64: 1e-13, torch.float32: 1e-6}[dtype]
    assert largest_error([count[:2], first[:2], second[:2], norm], expected) < tol
    assert count[2:].max() < 1e-30


def test_no_rows_are_refused():
    components, v = problem(3, 2)
    with pytest.raises(ValueError, match="v: got no rows"):
        expected_sums(components, v[:0])


def test_em_in_single_precision_follows_double():
    _, v = problem(5, 4)
    start = gm.random_start(v, 4)
    double = gm.em(v, 4, start=start, max_iterations=20, tol=0)
    single = gm.em(
        v.float(), 4, start=gm.MixtureParameters(*(x.float() for x in vars(start).values())),
        max_iterations=20, tol=0,
    )  # fmt: skip
    assert {x.dtype for x in vars(single.theta).values()} == {torch.float32}
    np.testing.assert_allclose(single.elbo, double.elbo, rtol=1e-6)
    assert single.elbo[-1] > single.elbo[0] + 100
