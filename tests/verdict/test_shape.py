"""The linearity of the score tells a stretched Gaussian from a funnel, and where it bends."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.verdict.advice import advise
from pyro_cookbook.verdict.shape import Curved, curved_shares, most_curved

RNG = np.random.default_rng(0)
S = 4000


def tilted():
    """A normal of correlation 0.99 and sds 1 and 1,000."""
    root = np.array([[1.0, 0.0], [990.0, 141.0]])
    x = RNG.normal(size=(S, 2)) @ root.T
    return x, -np.linalg.solve(root @ root.T, x.T).T


def funnel():
    """Neal's: x has the log sd v."""
    v = RNG.normal(size=S)
    x = np.exp(v) * RNG.normal(size=S)
    scores = np.column_stack([-v - 1 + x**2 * np.exp(-2 * v), -x * np.exp(-2 * v)])
    return np.column_stack([v, x]), scores


def test_the_score_of_a_gaussian_is_linear_however_stretched():
    found = most_curved(*tilted(), ["a", "b"])
    assert found.share < 1e-9
    assert found.is_gaussian
    assert "stretched Gaussian" in str(found)


def test_the_score_of_a_funnel_is_not():
    found = most_curved(*funnel(), ["v", "x[0]"])
    assert not found.is_gaussian
    assert found.share > 0.5
    assert "is not linear in the latents" in str(found)


def test_the_site_that_bends_is_named_without_its_index():
    x = RNG.normal(size=(S, 3))
    scores = np.column_stack([-x[:, 0], -(x[:, 1] ** 3), -x[:, 2]])
    # Of x³ the part 3x is linear: 9 of the variance of 15.
    found = most_curved(x, scores, ["a", "b[7]", "c"])
    assert found.site == "b"
    assert found.share == pytest.approx(1 - 9 / 15, abs=0.1)


def test_noise_that_is_fitted_is_not_linearity():
    """A score that has nothing to do with the latents, and nearly as many latents as draws."""
    shares = np.concatenate(
        [curved_shares(RNG.normal(size=(200, 40)), RNG.normal(size=(200, 40))) for _ in range(5)]
    )
    assert shares.mean() == pytest.approx(1.0, abs=0.05)
    assert curved_shares(RNG.normal(size=(160, 40)), RNG.normal(size=(160, 40))).size == 0


def test_nothing_is_said_of_what_cannot_be_told():
    x, scores = tilted()
    assert most_curved(x[:5], scores[:5], ["a", "b"]) is None
    assert most_curved(x, scores * np.nan, ["a", "b"]) is None
    constant = np.column_stack([x[:, 0], np.ones(S)])
    assert most_curved(constant, scores, ["a", "b"]) is None
    broken = scores.copy()
    broken[0] = np.inf
    assert most_curved(x, broken, ["a", "b"]).is_gaussian
    flat = np.column_stack([scores[:, 0], np.zeros(S)])
    assert curved_shares(x, flat)[1] == 0


# --- in advice ------------------------------------------------------------------------------------


def correlated():
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), scale_tril=root))


def hierarchy(y):
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("row", len(y)):
        h = pyro.sample("h", dist.Normal(0.0, tau))
        pyro.sample("y", dist.Normal(h, 10.0), obs=y)


def test_a_stretched_gaussian_is_to_have_a_covariance():
    first = pc.diagnose(pc.fit(correlated, "mean_field")).advice[0]
    assert "stretched Gaussian; fit the richer family 'full_rank'" in first
    assert "'x[0]' and 'x[1]' are correlated" in first


def test_a_funnel_is_to_be_non_centred_and_its_site_is_named():
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    advice = pc.diagnose(pc.fit(hierarchy, "mean_field", y)).advice
    assert "the score at 'tau' is not linear" in advice[0]
    assert "non-centre 'h'" in advice[0]
    richer = next(i for i, step in enumerate(advice) if "richer family" in step)
    assert "pc.refine(fit)" in advice[richer - 2]


def test_a_whole_covariance_is_not_told_that_a_gaussian_would_do():
    y = torch.tensor([1.0, 2.0, 3.0])
    nearly = Curved("tau", 0.1)
    told = " ".join(advise(pc.fit(hierarchy, "full_rank", y), "tau", None, [], nearly))
    assert "stretched Gaussian" not in told
    assert "fit 'flow'" in told
    narrow = " ".join(advise(pc.fit(hierarchy, "mean_field", y), "tau", None, [], nearly))
    assert "stretched Gaussian" in narrow
