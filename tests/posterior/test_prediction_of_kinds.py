"""What kinds of fit predict."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(x.new_tensor(0.0), 2.0))
    with pyro.plate("row", len(x), dim=-1):
        return pyro.sample("y", dist.Normal(slope * x, 0.3), obs=y)


@pytest.fixture(scope="module")
def points():
    x = torch.linspace(-1, 1, 25, dtype=torch.float64)
    return x, 1.5 * x + 0.3 * torch.randn(25, generator=torch.Generator().manual_seed(0)).double()


def test_predictions_at_new_inputs_have_the_right_mean_and_spread(points):
    fit = pc.fit(line, "full_rank", *points)
    new = torch.tensor([0.0, 2.0], dtype=torch.float64)
    tree = pc.predict(fit, new, num_draws=4000)
    y = tree.predictions.y
    assert y.dims == ("chain", "draw", "row")
    x, seen = points
    precision = 1 / 4 + float(x @ x) / 0.09
    slope, sd = float(x @ seen) / 0.09 / precision, precision**-0.5
    assert y.mean(("chain", "draw")).to_numpy() == pytest.approx([0, 2 * slope], abs=0.05)
    spread = [0.3, np.hypot(0.3, 2 * sd)]
    assert y.std(("chain", "draw")).to_numpy() == pytest.approx(spread, rel=0.1)
    np.testing.assert_array_equal(tree.predictions_constant_data.x, new)


def test_observations_that_are_given_are_not_echoed(points):
    fit = pc.fit(line, "full_rank", *points, max_steps=800)
    x, y = points
    drawn = pc.predict(fit, x, y, num_draws=200).predictions.y
    assert (drawn.std(("chain", "draw")) > 0.2).all()
    alone = pc.predict(fit, num_draws=200).predictions.y  # the training data
    assert alone.sizes["row"] == len(x)
    assert (alone.std(("chain", "draw")) > 0.2).all()


def test_an_amortized_guide_infers_rows_it_has_not_seen(wine):
    programs = FactorAnalysis(13, 3), FactorAnalysisAmortized(13, 3)
    fit = pc.fit(*programs, wine[:150], max_steps=3000)
    tree = pc.predict(fit, wine[150:], num_draws=300)
    assert tree.posterior.h.shape == (1, 300, 28, 3)
    error = tree.predictions.v.mean(("chain", "draw")).to_numpy() - wine[150:].numpy()
    assert np.square(error).mean() < 0.75 * np.square(wine[150:].numpy()).mean()


def test_a_guide_with_a_factor_for_each_row_refuses_new_rows(wine):
    model = FactorAnalysis(13, 2).requires_grad_(False)
    fit = pc.fit(model, FactorAnalysisMeanField(178, 2), wine, max_steps=450)
    with pytest.raises(ValueError, match="amortized"):
        pc.predict(fit, wine[:5])
    family = pc.fit(model, "mean_field", wine, max_steps=450)
    with pytest.raises(ValueError, match=r"site 'h' was fitted with shape \(178, 2\)"):
        pc.predict(family, wine[:5])
