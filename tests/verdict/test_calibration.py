"""Simulation-based calibration, with guides that are known to be wrong as controls."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.engines import families
from pyro_cookbook.engines.gaussians import Gaussian
from pyro_cookbook.programs.density.unconstrained import unconstrained_density
from pyro_cookbook.programs.program import Program
from pyro_cookbook.verdict.calibration import ALPHA, is_uniform

Y = torch.zeros(3)
SIMULATIONS = 150


def normal(y=None):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 3, dim=-1):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def exact(shift, factor):
    """The conjugate posterior N(Σy/4, ¼), moved by `shift` sds and stretched by `factor`."""

    def guide(model, y):
        density = unconstrained_density(Program(model, (y,)))
        posterior = Gaussian(
            (y.double().sum().numpy() / 4 + shift * 0.5).reshape(1),
            diagonal=torch.tensor([0.5 * factor]).numpy(),
        )
        return pc.as_fit(
            model, families.from_gaussian("mean_field", Program(model, (y,)), density, posterior), y
        )

    return guide


def test_the_exact_posterior_is_calibrated():
    found = pc.calibrate(normal, exact(0.0, 1.0), Y, num_simulations=SIMULATIONS)
    assert found.calibrated
    assert found.num_simulations == SIMULATIONS
    # Uniform: mean ½ ± 0.024 and spread 1 ± 0.04.
    assert found.table.loc["loc", "mean"] == pytest.approx(0.5, abs=0.08)
    assert found.table.loc["loc", "spread"] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("shift", "factor", "sign"), [(0.0, 0.5, "wide"), (0.0, 2.0, "narrow"), (0.7, 1.0, "low")]
)
def test_a_wrong_guide_is_caught(shift, factor, sign):
    found = pc.calibrate(normal, exact(shift, factor), Y, num_simulations=SIMULATIONS)
    assert not found.calibrated
    row = found.table.loc["loc"]
    # Halved scales push the truth into the tails; a guide too far up finds it low.
    assert {
        "wide": row["spread"] < 0.85 or row["spread"] > 1.15,
        "narrow": row["spread"] < 0.85,
        "low": row["mean"] > 0.6 or row["mean"] < 0.4,
    }[sign]
    assert (row["symmetric_p"] < 0.01) == (sign == "low")


def test_a_family_by_name_is_fitted_to_every_simulation():
    found = pc.calibrate(normal, "full_rank", Y, num_simulations=30)
    assert found.calibrated
    assert str(found).startswith("not refuted in 30 simulations; worst 'loc'")
    assert found.probabilities["loc"].dims == ("simulation",)
    found.plot()


def test_data_stay_as_they_are_and_seeds_repeat():
    before = Y.clone()
    one, two = (pc.calibrate(normal, "laplace", Y, num_simulations=5) for _ in range(2))
    assert torch.equal(Y, before)
    assert one.probabilities.equals(two.probabilities)


def factored(y=None):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.factor("likelihood", -((y - loc) ** 2).sum() / 2)


def logarithmic(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("obs", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=y.log())


def twice(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    for name in ("first", "second"):
        pyro.sample(name, dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=y)


def autoregressive(y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    before = torch.cat([y.new_zeros(1), y[:-1]])
    pyro.sample("obs", dist.Normal(slope * before, 1.0).to_event(1), obs=y)


def empirical(y):
    loc = pyro.sample("loc", dist.Normal(y.mean(), 1.0))
    pyro.sample("obs", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=y)


def improper(y):
    loc = pyro.sample("loc", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.sample("obs", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (logarithmic, "no argument holds the value of observed site 'obs'"),
        (twice, "argument 'y' holds the observations of sites 'first', 'second'"),
        (autoregressive, r"what it draws at site 'obs' depends on the observations .* 'y'"),
        (empirical, r"what it draws at site 'loc' depends on the observations .* 'y'"),
        (improper, "calibration needs proper priors"),
    ],
)
def test_a_model_that_does_not_draw_its_argument_is_refused_in_a_line(model, told):
    with pytest.raises(ValueError, match=f"^model: .*{told}") as refusal:
        pc.calibrate(model, "mean_field", Y + 1.0, num_simulations=2)
    assert "\n" not in str(refusal.value)


def test_no_simulations_are_refused():
    with pytest.raises(ValueError, match="num_simulations: got 0, expected a whole number of"):
        pc.calibrate(normal, "full_rank", Y, num_simulations=0)


def poisson(exposure, counts):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(exposure), dim=-1):
        pyro.sample("y", dist.Poisson(rate * exposure), obs=counts)


def conjugate(seen):
    """The exact posterior, which keeps what it was given."""

    def guide(model, exposure, counts):
        seen.append((exposure, counts))

        def posterior(exposure, counts):
            pyro.sample("rate", dist.Gamma(2 + counts.sum(), 1 + exposure.sum()))

        return pc.as_fit(model, posterior, exposure, counts)

    return guide


def test_counts_are_simulated_and_an_exposure_of_equal_value_is_not():
    """Equality of values took the exposure for the counts, and a right guide for a wrong one."""
    seen = []
    ones = torch.ones(20)
    found = pc.calibrate(poisson, conjugate(seen), ones, ones, num_simulations=80)
    assert all(torch.equal(exposure, ones) for exposure, _ in seen)
    assert len({float(counts.sum()) for _, counts in seen}) > 20
    assert found.calibrated


@pytest.mark.parametrize("kind", ["column", "numpy"])
def test_simulated_data_have_the_shape_and_the_library_of_the_argument(kind):
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3, dim=-1):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=torch.as_tensor(y).reshape(-1))

    given = {"column": Y[:, None], "numpy": Y.numpy()}[kind]
    seen = []

    def guide(model, y):
        seen.append(y)
        return pc.as_fit(model, lambda y: pyro.sample("loc", dist.Normal(0.0, 1.0)), y)

    pc.calibrate(model, guide, given, num_simulations=2)
    assert all(type(y) is type(given) and y.shape == given.shape for y in seen)
    assert not np.array_equal(np.asarray(seen[0]), np.asarray(seen[1]))


@pytest.mark.parametrize("scalars", [1, 20])
def test_the_level_is_divided_among_the_scalars(scalars):
    def table(p):
        return pd.DataFrame({"uniform_p": [p, *[0.5] * (scalars - 1)]})

    assert ALPHA == 0.01
    assert is_uniform(table(1.01 * ALPHA / scalars))
    assert not is_uniform(table(0.99 * ALPHA / scalars))


def test_few_simulations_refute_little():
    """Of twelve, a spread of half the right one passes nine times in ten, as is documented."""
    rng = np.random.default_rng(0)
    p = [stats.kstest(stats.norm.cdf(2 * rng.standard_normal(12)), "uniform").pvalue
         for _ in range(400)]  # fmt: skip
    # The share of 400 has a standard error of 0.016.
    assert np.mean(np.array(p) < ALPHA) == pytest.approx(0.1, abs=0.06)


def failing(odd):
    def guide(model, y):
        if odd(float(y.sum())):
            raise ValueError("a line")
        return pc.as_fit(model, lambda y: pyro.sample("loc", dist.Normal(0.0, 1.0)), y)

    return guide


def test_fits_that_fail_are_counted_and_most_of_them_may_not():
    found = pc.calibrate(normal, failing(lambda total: total > 1.5), Y, num_simulations=20)
    assert 0 < found.num_failed < 10
    assert found.num_simulations == 20 - found.num_failed
    with pytest.raises(ValueError, match=r"model: \d+ of 20 fits failed: a line"):
        pc.calibrate(normal, failing(lambda total: total < 1.5), Y, num_simulations=20)


def test_the_random_state_stays_as_it_was():
    state = torch.get_rng_state()
    pc.calibrate(normal, "laplace", Y, num_simulations=2)
    assert torch.equal(state, torch.get_rng_state())


def test_a_bar_is_shown_on_request(capsys):
    for progress, told in ((True, True), (False, False), (None, False)):
        pc.calibrate(normal, exact(0.0, 1.0), Y, num_simulations=2, progress=progress)
        assert ("simulations" in capsys.readouterr().err) == told


def test_what_cannot_be_simulated_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'likelihood' is a pyro.factor"):
        pc.calibrate(factored, "full_rank", Y)
    with pytest.raises(ValueError, match="no argument holds the value of observed site 'y'"):
        pc.calibrate(lambda: normal(Y), "full_rank")
    with pytest.raises(ValueError, match="observes nothing"):
        pc.calibrate(normal, "full_rank")


def centred(y=None):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 3, dim=-1):
        h = pyro.sample("h", dist.Normal(loc, 1.0))
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def test_a_site_that_is_fitted_non_centred_is_judged_too():
    found = pc.calibrate(centred, "full_rank", Y, num_simulations=40, noncentred=["h"])
    assert found.calibrated
    assert list(found.table.index) == ["loc", "h[0]", "h[1]", "h[2]"]
