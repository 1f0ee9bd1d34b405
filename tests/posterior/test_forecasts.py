"""Forecasts go on from the history that was fitted; exact answers."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc

SPREAD, NOISE = 0.05, 0.1
NUM_DRAWS = 4000
SAMPLE = ("chain", "draw")


def assert_normal(draws, mean, sd):
    """Mean and sd of independent draws, within 4.5 standard errors of each."""
    draws, mean = np.asarray(draws, dtype=float), np.asarray(mean, dtype=float)
    draws = draws.reshape(-1, *draws.shape[2:])  # chains
    num = len(draws)
    assert (np.abs(draws.mean(0) - mean) < 4.5 * np.asarray(sd) / num**0.5).all()
    assert (np.abs(draws.std(0) / sd - 1) < 4.5 / (2 * num) ** 0.5).all()


SERIES = torch.tensor([0.3, -0.2, 0.4, 1.1, 0.9], dtype=torch.float64)
HORIZON, STEP = 3, 0.7


def level(y, horizon=0):
    """A random walk seen through noise; steps in a plate that goes on beyond the data."""
    with pyro.plate("time", len(y) + horizon, dim=-1):
        step = pyro.sample("step", dist.Normal(y.new_zeros(()), STEP))
    path = pyro.deterministic("path", step.cumsum(-1))
    with pyro.plate("seen", len(y), dim=-1):
        pyro.sample("y", dist.Normal(path[..., : len(y)], NOISE), obs=y)
    if horizon:
        with pyro.plate("ahead", horizon, dim=-1):
            pyro.sample("y_ahead", dist.Normal(path[..., len(y) :], NOISE))


@pytest.fixture(scope="module")
def walk():
    """Mean and covariance of the whole path given the series."""
    total = len(SERIES) + HORIZON
    prior = STEP**2 * (np.minimum(*np.indices((total, total))) + 1.0)
    gain = prior[:, :5] @ np.linalg.inv(prior[:5, :5] + NOISE**2 * np.eye(5))
    return gain @ SERIES.numpy(), prior - gain @ prior[:5]


def steps_guide(walk):
    difference = torch.eye(5, dtype=torch.float64) - torch.diag(
        torch.ones(4, dtype=torch.float64), -1
    )
    loc = difference @ torch.as_tensor(walk[0][:5])
    covariance = difference @ torch.as_tensor(walk[1][:5, :5]) @ difference.T
    q = dist.MultivariateNormal(loc, covariance)

    def guide(y, horizon=0):
        steps = pyro.sample("steps", q, infer={"is_auxiliary": True})
        with pyro.plate("time", 5, dim=-1):
            steps = steps.reshape(steps.shape[:1] + steps.shape[-1:]) if steps.dim() > 1 else steps
            pyro.sample("step", dist.Delta(steps))

    return guide


def test_a_forecast_goes_on_from_the_history_it_was_fitted_to(walk):
    fit = pc.as_fit(level, steps_guide(walk), SERIES)
    mean, covariance = walk
    sd = np.sqrt(np.diag(covariance))
    # The same numbers in another tensor are the same history: as after `load`.
    for y in (SERIES, SERIES.clone()):
        tree = pc.predict(fit, y, horizon=HORIZON, num_draws=NUM_DRAWS)
        assert set(tree.predictions.data_vars) == {"y_ahead"}
        assert_normal(tree.posterior["path"], mean, sd)
        assert_normal(tree.predictions["y_ahead"], mean[5:], np.hypot(sd[5:], NOISE))
    tail = tree.predictions["y_ahead"][0].to_numpy()
    between = np.corrcoef(tail[:, 0], tree.posterior["path"][0, :, 4])[0, 1]
    exact = covariance[4, 5] / (sd[4] * np.hypot(sd[5], NOISE))
    assert abs(between - exact) < 4.5 / NUM_DRAWS**0.5
    with pytest.raises(ValueError, match="site 'step' was fitted with shape"):
        pc.predict(fit, SERIES + 1, horizon=HORIZON)  # another history
    assert set(pc.predict(fit, num_draws=5).predictions.data_vars) == {"y"}


@pytest.mark.parametrize("in_plate", [True, False])
def test_an_autoregression_forecasts_from_the_observed_past(in_plate):
    """The mean h steps ahead is φ^h y_T; its variance is that of h shocks, not of the history."""
    phi, shock = 0.8, 0.25

    def model(y, horizon=0):
        slope = pyro.sample("slope", dist.Normal(y.new_zeros(()), 1.0))
        last = y.new_zeros(())
        for t in range(len(y) if in_plate else len(y) + horizon):
            seen = y[t] if t < len(y) else None
            last = pyro.sample(f"y_{t}", dist.Normal(slope * last, shock), obs=seen)
        if horizon and in_plate:  # as many series from where the history ends
            with pyro.plate("ahead", horizon, dim=-1):
                pyro.sample("y_ahead", dist.Normal(slope * last, shock))

    fit = pc.as_fit(
        model, lambda y, horizon=0: pyro.sample("slope", dist.Delta(y.new_tensor(phi))), SERIES
    )
    tree = pc.predict(fit, SERIES, horizon=HORIZON, num_draws=NUM_DRAWS)
    last = float(SERIES[-1])
    if in_plate:
        assert set(tree.predictions.data_vars) == {"y_ahead"}
        assert_normal(tree.predictions["y_ahead"], phi * last, shock)
        return
    assert set(tree.predictions.data_vars) == {"y_5", "y_6", "y_7"}
    for h in range(1, HORIZON + 1):
        sd = shock * sum(phi ** (2 * k) for k in range(h)) ** 0.5
        assert_normal(tree.predictions[f"y_{h + 4}"], phi**h * last, sd)


def test_a_walk_in_one_site_cannot_be_continued_entry_by_entry():
    def model(y, horizon=0):
        steps = torch.arange(1.0, len(y) + horizon + 1).to(y)
        covariance = STEP**2 * torch.minimum(steps, steps[:, None])
        path = pyro.sample("path", dist.MultivariateNormal(0 * steps, covariance))
        pyro.sample("y", dist.Normal(path[..., : len(y)], NOISE).to_event(1), obs=y)

    def guide(y, horizon=0):
        pyro.sample("path", dist.Normal(SERIES, SPREAD).to_event(1))

    fit = pc.as_fit(model, guide, SERIES)
    with pytest.raises(ValueError, match=r"site 'path' .* \(5,\), these data need \(8,\)"):
        pc.predict(fit, SERIES, horizon=HORIZON)
