"""Simulation-based calibration, with guides that are known to be wrong as controls."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.engines import families
from pyro_cookbook.engines.gaussians import Gaussian
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.unconstrained import unconstrained_density

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
    assert str(found).startswith("calibrated in 30 simulations; worst 'loc'")
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
