"""By which plate a fit's latents fall apart."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_cookbook as pc
from pyro_cookbook.posterior.importance import Blocks, find_blocks, weigh

Y = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(3, 2)


@pytest.mark.parametrize("names", [("row", "column"), ("column", "row")])
def test_the_first_dimension_of_the_data_decides_whatever_the_plates_are_called(names):
    outer, inner = names

    def model(y):
        with pyro.plate(outer, 3, dim=-2), pyro.plate(inner, 2, dim=-1):
            h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    def guide(y):
        with pyro.plate(outer, 3, dim=-2), pyro.plate(inner, 2, dim=-1):
            pyro.sample("h", dist.Normal(0.5 * y, 0.7))

    fit = pc.as_fit(model, guide, Y)
    weights = weigh(fit, 500)
    assert weights.blocks == Blocks(outer, ("h",), ())
    assert weights.rows is not None
    assert weights.rows.shape == (500, 3)
    np.testing.assert_allclose(weights.rows.sum(1), weights.joint)


def test_rows_with_a_latent_summed_out_have_no_weights_of_their_own():
    """A switch that all rows share makes them depend on each other once it is summed out."""

    def model(y):
        switch = pyro.sample("switch", dist.Bernoulli(y.new_tensor(0.5)))
        with pyro.plate("row", 3, dim=-1):
            h = pyro.sample("h", dist.Normal(switch, 1.0))
            pyro.sample("y", dist.Normal(h, 1.0), obs=y)

    def guide(y):
        with pyro.plate("row", 3, dim=-1):
            pyro.sample("h", dist.Normal(0.5 * y, 0.8))

    fit = pc.as_fit(model, guide, Y[:, 0])
    model_sites, guide_sites = (program.sites for program in fit.programs)
    assert find_blocks(model_sites, guide_sites) == Blocks("", (), ("switch", "h"))
    # The evidence is a sum of two Gaussian integrals.
    densities = [dist.Normal(mean, 2**0.5).log_prob(Y[:, 0]).sum() for mean in (0.0, 1.0)]
    exact = float(torch.stack(densities).logsumexp(0)) - np.log(2)
    evidence = weigh(fit, 20_000).evidence()
    assert abs(evidence.value - exact) < 4 * evidence.se < 0.1
    assert "evidence" in str(pc.diagnose(fit))


def test_a_switch_without_rows_is_summed_out_of_both_densities_at_every_draw():
    """log p(v, a) − log q(a), whatever the guide says of the switch: the sum is over all of it."""
    prior, means = (torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [-1.0, 1.0]))
    y = Y[:, 0]

    def model(y):
        a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
        switch = pyro.sample("switch", dist.Categorical(prior))
        loc = (means[switch] + a)[..., None]
        pyro.sample("y", dist.Normal(loc.expand(*loc.shape[:-1], 3), 1.0).to_event(1), obs=y)

    def guide(y):
        pyro.sample("a", dist.Normal(y.new_tensor(0.2), 0.6))
        pyro.sample("switch", dist.Categorical(torch.tensor([0.2, 0.8]).to(y)))

    weights = weigh(pc.as_fit(model, guide, y), 200)
    a = weights.draws.values["a"].numpy()
    given = stats.norm.logpdf(y.numpy(), means.numpy()[:, None] + a[:, None, None], 1).sum(-1)
    expected = np.logaddexp.reduce(np.log(prior.numpy()) + given, axis=1)
    expected += stats.norm.logpdf(a) - stats.norm.logpdf(a, 0.2, 0.6)
    np.testing.assert_allclose(weights.shared, expected, atol=1e-9)
