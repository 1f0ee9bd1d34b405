"""The auto-encoder: a bound on the exact evidence where it is known, supports, and images."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits, load_wine

from pyro_cookbook.algorithms.variational_autoencoder import bounds, linear
from pyro_cookbook.estimators import FactorAnalysis, VariationalAutoencoder
from pyro_cookbook.programs.state.isolation import isolated

X = load_wine().data


@pytest.fixture(scope="module")
def fitted():
    return VariationalAutoencoder(2, hidden_layer_sizes=(), tol=0.02).fit(X)


def exact(fitted, rows):
    """log p(v) of a linear decoder: a normal, in the units of the rows."""
    with isolated(0):
        model, _ = fitted._trained()
        W = model.decoder[0].weight.numpy() * fitted._units.scale[:, None]
        b = fitted._units.restore(model.decoder[0].bias.numpy()[None])[0]
    covariance = W @ W.T + np.diag(fitted.noise_scale_**2)
    return multivariate_normal(b, covariance).logpdf(rows)


def test_scores_are_below_the_evidence_and_near_it(fitted):
    gap = exact(fitted, X) - fitted.score_samples(X)
    assert abs(gap.mean()) < 0.05
    assert gap.mean() > -0.01
    best = FactorAnalysis(2).fit(X).score(X)
    assert best - 0.3 < fitted.score(X) < best  # no linear model is better than this one
    assert fitted.lower_bound_ == pytest.approx(fitted.score(X), abs=0.05)


def test_with_the_exact_encoder_the_bound_is_the_evidence(fitted):
    """The closed form of probabilistic PCA put in: weights without variance."""
    again = VariationalAutoencoder(2, hidden_layer_sizes=(), max_iter=1, tol=1e9)
    with pytest.warns(UserWarning, match="not converged"):
        again.fit(X)
    theta = linear.optimum(again._tensor(again._data), 2)
    encoder = linear.encoder(theta)
    with isolated(0):
        model, guide = again._trained()
        model.scale = theta.scale.expand(13).clone()
        model.decoder[0].load_state_dict({"weight": theta.W, "bias": theta.b})
        weight = torch.cat([encoder.A, torch.zeros_like(encoder.A)])
        bias = torch.cat([encoder.c, encoder.scale.log()])
        guide.encoder[0].load_state_dict({"weight": weight, "bias": bias})
        again._state = [dict(module.state_dict()) for module in (model, guide)]
    again.noise_scale_ = theta.scale.numpy() * again._units.scale
    np.testing.assert_allclose(again.score_samples(X), exact(again, X), atol=1e-9)
    worse = fitted.score_samples(X)
    assert abs(worse - exact(fitted, X)).max() > 1e-5


def test_scores_tend_to_the_evidence_of_a_bent_decoder():
    rows = X[:, :4]
    vae = VariationalAutoencoder(1, hidden_layer_sizes=(6,), num_draws=1024, tol=0.2).fit(rows)
    with isolated(0):
        model, _ = vae._trained()
        found = bounds.on_grid(model, vae._tensor(vae._data), limit=6.0, num_points=401)
    expected = found.log_evidence.numpy() - vae._units.log_volume
    gap = expected - vae.score_samples(rows)
    assert abs(gap.mean()) < 0.02
    assert expected.mean() - vae.lower_bound_ > -0.01
    np.testing.assert_allclose(vae.transform(rows), found.mean.numpy(), atol=0.6)
    ratio = vae.transform_scale(rows) / found.sd.numpy()
    assert np.median(ratio) == pytest.approx(1, abs=0.3)


def test_rows_alone_score_as_among_others(fitted):
    alone = np.concatenate([fitted.score_samples(X[n : n + 1]) for n in range(5)])
    np.testing.assert_allclose(alone, fitted.score_samples(X)[:5], rtol=1e-10)


def test_latents_and_rows_go_to_and_fro(fitted):
    h = fitted.transform(X)
    shown = fitted.inverse_transform(h)
    unexplained = (X - shown).var(0) / X.var(0)
    assert np.median(unexplained) < 0.6
    assert (np.corrcoef(h.T)[0, 1]) < 0.9
    drawn = fitted.sample(20_000)
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.15 * X.std(0).max())
    np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.15)


def test_black_and_white_pictures_are_more_likely_than_column_by_column():
    rows = (load_digits().data[:300] > 7).astype(float)
    vae = VariationalAutoencoder(2, likelihood="bernoulli", hidden_layer_sizes=(16,), max_iter=100)
    with pytest.warns(UserWarning, match="not converged"):
        vae.fit(rows[:200])
    p = rows[:200].mean(0).clip(0.01, 0.99)
    alone = (rows[200:] * np.log(p) + (1 - rows[200:]) * np.log(1 - p)).sum(1).mean()
    assert vae.score(rows[200:]) > alone + 1
    drawn = vae.sample(50)
    assert set(np.unique(drawn)) == {0, 1}
    assert not hasattr(vae, "noise_scale_")
    with pytest.raises(ValueError, match=r"^X: row 0, column 'x0': got 17, expected a whole"):
        vae.score(np.full((1, 64), 17.0))


def test_grey_levels_keep_their_range():
    rows = load_digits().data[:100, 10:30]
    vae = VariationalAutoencoder(1, likelihood="beta_binomial", hidden_layer_sizes=(4,), max_iter=5)
    with pytest.warns(UserWarning, match="not converged"):
        vae.fit(rows)
    drawn = vae.sample(200)
    assert ((drawn == drawn.round()) & (drawn >= 0)).all()
    assert 12 < drawn.max() <= 16
    assert vae.inverse_transform([[0.0]]).max() < 16
    total = vae.set_params(total_count=20)
    with pytest.warns(UserWarning, match="not converged"):
        assert np.isfinite(total.fit(rows).score(rows + 4))  # up to 20, which the fit has not seen
