"""The verdict, on posteriors whose answer is known."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_cookbook as pc
from guides.gaussian_mixture import GaussianMixtureExact, GaussianMixtureMAP
from models.gaussian_mixture import GaussianMixture
from pyro_cookbook.algorithms.gaussian_mixture import em as gaussian_mixture
from pyro_cookbook.posterior.importance import weigh
from pyro_cookbook.posterior.pareto import smooth
from pyro_cookbook.verdict.by_weights import check_weights

ORIGIN = torch.zeros((), dtype=torch.float64)


def correlated(v):
    """Two latents of correlation 0.95, and an observation that says nothing about them."""
    covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]]).to(v)
    pyro.sample("h", dist.MultivariateNormal(torch.zeros(2).to(v), covariance))
    pyro.sample("v", dist.Normal(v, 1.0), obs=v)


def normal_guide(loc, scale):
    """A guide with parameters set by hand."""

    def guide(v):
        pyro.sample("h", dist.Normal(v + loc, v + scale))

    return guide


def standard_normal(v):
    pyro.sample("h", dist.Normal(v, v + 1.0))
    pyro.sample("v", dist.Normal(v, 1.0), obs=v)


def test_mean_field_of_a_correlated_posterior_is_not_reliable():
    fit = pc.fit(correlated, "mean_field", ORIGIN, max_steps=4000)
    diagnosis = pc.diagnose(fit)
    assert diagnosis.verdict == "unreliable"
    assert "short chains from the guide's draws move" in diagnosis.reasons[0]
    # Four standard errors of 512 chains' sd, and of that of 20,000 draws.
    np.testing.assert_allclose(diagnosis.table.chain_sd, 1, atol=4 / (2 * 512) ** 0.5)
    np.testing.assert_allclose(diagnosis.table.sd, 0.0975**0.5, rtol=4 / 200 / 2**0.5)
    # Along (1, 1) the posterior variance is 1.95 and the guide's 1 − 0.95²: k = 1 − ratio.
    assert diagnosis.khat == pytest.approx(1 - 0.0975 / 1.95, abs=0.15)
    assert "full_rank" in " ".join(diagnosis.advice)


def test_full_rank_of_the_same_posterior_is_reliable():
    fit = pc.fit(correlated, "full_rank", ORIGIN, elbo=Trace_ELBO(num_particles=4))
    diagnosis = pc.diagnose(fit, log_evidence=float(dist.Normal(0.0, 1.0).log_prob(ORIGIN)))
    assert fit.converged
    assert diagnosis.verdict == "reliable"
    assert 0 <= diagnosis.gap.value + 4 * diagnosis.gap.se < 0.1


@pytest.mark.parametrize("scale", [0.5, 0.8, 0.95])
def test_khat_of_a_narrow_normal_guide_is_one_minus_the_ratio_of_variances(scale):
    log_weights = weigh(pc.as_fit(standard_normal, normal_guide(0.0, scale), ORIGIN), 20_000).joint
    _, khat = smooth(log_weights)
    assert khat == pytest.approx(1 - scale**2, abs=0.12)


def test_a_wide_guide_has_bounded_weights_and_a_negative_khat():
    fit = pc.as_fit(standard_normal, normal_guide(0.0, 2.0), ORIGIN)
    assert smooth(weigh(fit, 20_000).joint)[1] < 0.2


@pytest.mark.parametrize(
    ("loc", "scale", "verdict"),
    [
        (0.0, 1.0, "reliable"),
        (0.0, 0.95, "reliable"),
        (0.0, 0.7, "reliable after reweighting"),  # sd 30% too small, k-hat 0.51
        (0.5, 1.0, "reliable after reweighting"),  # mean off by half an sd
        (0.0, 0.4, "unreliable"),  # k-hat 0.84
        (3.0, 0.5, "unreliable"),
    ],
)
def test_the_verdict_on_a_normal_guide_of_a_normal_posterior(loc, scale, verdict):
    diagnosis = pc.diagnose(pc.as_fit(standard_normal, normal_guide(loc, scale), ORIGIN))
    assert diagnosis.verdict == verdict, str(diagnosis)


def test_the_importance_weighted_evidence_is_that_of_the_model():
    fit = pc.as_fit(standard_normal, normal_guide(0.3, 0.9), ORIGIN)
    diagnosis = pc.diagnose(fit)
    exact = float(dist.Normal(0.0, 1.0).log_prob(ORIGIN))
    assert abs(diagnosis.evidence.value - exact) < 4 * diagnosis.evidence.se
    assert exact - diagnosis.elbo.value > 8 * diagnosis.elbo.se  # the bound itself is below


def test_reweighted_draws_have_the_posterior_moments():
    fit = pc.as_fit(standard_normal, normal_guide(0.5, 0.8), ORIGIN)
    raw = pc.to_datatree(fit, num_draws=4000).posterior.h
    reweighted = pc.to_datatree(fit, num_draws=4000, reweight=True).posterior.h
    assert abs(float(raw.mean())) > 0.4
    assert abs(float(reweighted.mean())) < 0.1  # about 4 standard errors of 1,300 effective draws
    assert float(raw.std()) < 0.85
    assert float(reweighted.std()) == pytest.approx(1, abs=0.08)


def test_a_point_is_not_reliable_and_is_told_what_it_cannot_tell():
    diagnosis = pc.diagnose(pc.fit(correlated, "map", ORIGIN))
    assert diagnosis.verdict == "unreliable"
    assert np.isnan(diagnosis.khat)
    assert "−∞" in " ".join(diagnosis.reasons)


def test_a_fit_that_has_not_converged_says_so():
    options = {"engine": "stochastic", "max_steps": 2000, "lr": 1e-4}
    fit = pc.fit(correlated, "full_rank", ORIGIN + 3.0, **options)
    assert not fit.converged
    diagnosis = pc.diagnose(fit)
    assert diagnosis.verdict == "unreliable"
    assert "has not converged" in str(diagnosis)


def groups(y):
    """A global mean over ten group means, each seen once: the joint weights of all are useless."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    with pyro.plate("group", len(y), dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


def conditional_guide(y):
    """The exact posterior: mu, then theta given mu."""
    precision = len(y) / 5 + 1 / 25
    mu = pyro.sample("mu", dist.Normal(y.sum() / 5 / precision, y.new_tensor(precision**-0.5)))
    with pyro.plate("group", len(y), dim=-1):
        pyro.sample("theta", dist.Normal((4 * mu + y) / 5, y.new_tensor(0.8**0.5)))


def independent_guide(y):
    """The global mean exact, the group means too narrow by a sixth each."""
    precision = len(y) / 5 + 1 / 25
    mu = pyro.sample("mu", dist.Normal(y.sum() / 5 / precision, y.new_tensor(precision**-0.5)))
    with pyro.plate("group", len(y), dim=-1):
        pyro.sample("theta", dist.Normal((4 * mu + y) / 5, y.new_tensor(0.85 * 0.8**0.5)))


def khats(fit):
    """k-hat of every block, the rows summed out of the global one."""
    return check_weights(weigh(fit), lambda: weigh(fit, seed=1)).khats


def test_blocks_are_judged_apart_where_the_joint_weights_are_useless():
    y = torch.linspace(-3, 3, 120, dtype=torch.float64)
    exact = pc.diagnose(pc.as_fit(groups, conditional_guide, y))
    assert exact.verdict == "reliable"
    assert exact.elbo.se < 1e-6  # every draw gives the evidence
    fit = pc.as_fit(groups, independent_guide, y)
    narrow, by_block = pc.diagnose(fit), khats(fit)
    assert narrow.verdict == "reliable"
    assert by_block["joint"] > 0.7 > max(by_block["group"], by_block["global"])
    assert narrow.elbo.value < exact.elbo.value < narrow.evidence.value + 4 * narrow.evidence.se


def test_a_mean_field_guide_of_a_global_mean_is_caught_in_its_own_block():
    """Mean field makes mu far too sure; its block's weights, rows summed out, must see it."""
    y = torch.linspace(-3, 3, 40, dtype=torch.float64)

    def mean_field(y):
        pyro.sample("mu", dist.Normal(y.new_zeros(()), y.new_tensor((40 + 1 / 25) ** -0.5)))
        with pyro.plate("group", len(y), dim=-1):
            pyro.sample("theta", dist.Normal(0.2 * y, y.new_tensor(0.8**0.5)))

    fit = pc.as_fit(groups, mean_field, y)
    assert pc.diagnose(fit).verdict != "reliable"
    by_block = khats(fit)
    # The exact marginal of mu has variance 1 / (40/5 + 1/25), the guide's is 1 / (40 + 1/25).
    assert by_block["global"] == pytest.approx(1 - (8 + 1 / 25) / (40 + 1 / 25), abs=0.35)
    assert by_block["group"] < 0.5  # and the groups are not blamed


@pytest.fixture(scope="module")
def mixture():
    v = torch.randn(60, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v[:30] += 2.5
    result = gaussian_mixture.em(v, 2, num_restarts=3)
    model = GaussianMixture(2, 2).to(v)
    model.weights, model.loc = result.theta.weights, result.theta.loc
    model.scale_tril = result.theta.scale_tril
    return v, model, result.elbo[-1]


def test_discrete_rows_are_judged_by_enumeration(mixture):
    v, model, log_evidence = mixture
    guide = GaussianMixtureExact(2, 2).to(v)
    start = pc.diagnose(pc.as_fit(model, guide, v), log_evidence=log_evidence)
    assert start.verdict == "unreliable"  # responsibilities of other parameters
    guide.e_step(model)
    diagnosis = pc.diagnose(pc.as_fit(model, guide, v), log_evidence=log_evidence)
    assert diagnosis.verdict == "reliable"
    assert diagnosis.gap.value == pytest.approx(0, abs=1e-8)
    assert start.evidence.value == pytest.approx(log_evidence, abs=1e-8)  # exact for any guide


def test_labels_that_are_surely_wrong_are_not_reliable(mixture):
    """The weights of a guide that always draws the same wrong labels are all equal."""
    v, model, log_evidence = mixture

    def wrong(v, num_obs=None):
        logits = gaussian_mixture.log_joint(model, v).detach()
        with pyro.plate("row", len(v), dim=-1):
            first = torch.arange(len(v)) < 40  # these are moved to the less likely component
            sign = torch.where(first, -1.0, 1.0)[:, None].to(v)
            pyro.sample("h", dist.Categorical(logits=30 * sign * (logits - logits.mean(1, True))))

    for known in (None, log_evidence):
        assert pc.diagnose(pc.as_fit(model, wrong, v), log_evidence=known).verdict == "unreliable"


def test_an_exact_evidence_shows_a_mode_that_the_guide_never_visits():
    def two_modes(v):
        weights = torch.tensor([0.5, 0.5]).to(v)
        modes = dist.Normal(torch.tensor([-20.0, 20.0]).to(v), v + 1.0)
        pyro.sample("h", dist.MixtureSameFamily(dist.Categorical(weights), modes))
        pyro.factor("scaled", v + 3.0)

    fit = pc.as_fit(two_modes, normal_guide(20.0, 1.0), ORIGIN)
    assert pc.diagnose(fit).verdict == "reliable"  # nothing in the draws can tell
    assert pc.diagnose(fit, log_evidence=3.0).verdict == "reliable"  # log 2 is within a nat

    few = pc.as_fit(two_modes, normal_guide(23.0, 0.1), ORIGIN)
    assert pc.diagnose(few, log_evidence=3.0).verdict == "unreliable"


def test_the_gap_of_hard_assignments_is_the_log_of_their_probability(mixture):
    v, model, log_evidence = mixture
    guide = GaussianMixtureMAP(2, 2).to(v)
    guide.e_step(model)
    diagnosis = pc.diagnose(pc.as_fit(model, guide, v), log_evidence=log_evidence)
    top = gaussian_mixture.responsibilities(model, v).max(1).values.detach()
    assert diagnosis.gap.value == pytest.approx(float(-top.log().sum()), abs=1e-8)
    assert diagnosis.verdict == "unreliable"
    assert "entropy of a point" not in str(diagnosis)  # a discrete point has entropy 0


def test_starts_that_end_apart_are_reported():
    class Bimodal(pyro.nn.PyroModule):
        """Two modes, the one at +4 higher by log 3."""

        def forward(self, v):
            weights = torch.tensor([0.25, 0.75]).to(v)
            mixture = dist.MixtureSameFamily(
                dist.Categorical(weights), dist.Normal(torch.tensor([-4.0, 4.0]).to(v), 0.3)
            )
            pyro.sample("h", mixture)
            pyro.sample("v", dist.Normal(v, 1.0), obs=v)

    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = pyro.nn.PyroParam(torch.zeros(()))
            self.reset_parameters()

        def reset_parameters(self):
            self.loc = 3 * torch.randn_like(self.loc)

        def forward(self, v):
            pyro.sample("h", dist.Normal(self.loc, 0.3 + 0 * self.loc))

    fit = pc.fit(Bimodal(), Guide(), ORIGIN, num_restarts=6, max_steps=3000)
    assert len(fit.restarts) == 6
    assert fit.elbo.value == max(restart.elbo.value for restart in fit.restarts)
    assert abs(fit.guide.loc.item() - 4) < 0.1
    assert "local optima" in str(pc.diagnose(fit))


@pytest.mark.parametrize(("progress", "told"), [(True, True), (False, False), (None, False)])
def test_a_bar_shows_the_weights_and_the_chains_on_request(progress, told, capsys):
    fit = pc.as_fit(standard_normal, normal_guide(0.0, 1.0), ORIGIN)
    silent = pc.diagnose(fit)
    assert str(pc.diagnose(fit, progress=progress)) == str(silent)
    shown = capsys.readouterr().err
    assert [stage in shown for stage in ("weights", "chains")] == [told, told]
    pc.diagnose(pc.fit(correlated, "map", ORIGIN), progress=progress)  # which has neither
