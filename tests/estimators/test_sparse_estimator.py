"""Codes beside scikit-learn's lasso, by coordinate descent, on the same dictionary."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import sparse_encode

from pyro_cookbook.estimators import SparseCoding

X = load_digits().data[:200]


@pytest.fixture(scope="module")
def fitted():
    return SparseCoding(30, rate=1.5, scale=0.8, max_iter=60, tol=1e-4).fit(X)


def cost(fitted, codes, rows=X):
    residual = rows - fitted.inverse_transform(codes)
    return (residual**2).sum(1) / 2 + fitted.alpha_ * abs(codes).sum(1)


def test_codes_are_the_lassos(fitted):
    peer = sparse_encode(
        X - fitted.mean_, fitted.components_, algorithm="lasso_cd", alpha=fitted.alpha_,
        max_iter=20_000,
    )  # fmt: skip
    codes = fitted.transform(X)
    np.testing.assert_allclose(cost(fitted, codes), cost(fitted, peer), rtol=1e-6)
    assert (cost(fitted, np.zeros_like(codes)) > 1.5 * cost(fitted, codes)).mean() > 0.9
    assert 0.3 < (codes == 0).mean() < 0.95
    np.testing.assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1)


def test_learning_has_lowered_the_objective_of_rows_it_has_not_seen(fitted):
    new = load_digits().data[200:400]
    unlearned = SparseCoding(30, rate=1.5, scale=0.8, max_iter=1)
    with pytest.warns(UserWarning, match="not converged"):
        unlearned.fit(X)
    assert fitted.score(new) > unlearned.score(new) + 0.5
    assert np.diff(fitted.objective_).max() < 0
    per_row = cost(fitted, fitted.transform(new), new) / fitted.noise_scale_**2
    assert fitted.score(new) == pytest.approx(-per_row.mean(), rel=1e-9)
    assert fitted.objective_[-1] == pytest.approx(-len(X) * fitted.score(X), rel=1e-5)


def test_many_rows_begin_with_mini_batches():
    rows = load_digits().data[:600]
    coding = SparseCoding(20, rate=1.0, scale=1.0, tol=1e-3).fit(rows)
    assert coding.score(rows) > SparseCoding(20, rate=1.0, scale=1.0).set_params(tol=1e-3).fit(
        rows[:60]
    ).score(rows)


def test_a_code_is_a_point_and_its_verdict_says_so(fitted):
    assert fitted.verdict_ == "unreliable"
    assert fitted.diagnosis_.is_point
    unit = fitted.noise_scale_ / 0.8
    point = fitted.fit_.guide.h_loc.detach().numpy()
    np.testing.assert_allclose(point * unit, fitted.transform(X), rtol=1e-5, atol=1e-4)


def test_constant_columns_do_no_harm():
    assert (X.std(0) == 0).any()
    coding = SparseCoding(5).fit(X)
    constant = X.std(0) == 0
    np.testing.assert_allclose(coding.components_[:, constant], 0, atol=1e-12)
    np.testing.assert_allclose(coding.mean_[constant], X[0, constant])
