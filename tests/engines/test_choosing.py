"""Which engine fits what, and how the deterministic one resumes."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import some_centre
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.engines import bound as deterministic
from pyro_cookbook.engines import deterministic as engines
from pyro_cookbook.engines import families
from pyro_cookbook.engines.bound import GAUSSIAN, maximise
from pyro_cookbook.engines.gaussians import Gaussian
from pyro_cookbook.programs.program import Program

ORIGIN = torch.zeros((), dtype=torch.float64)
Y = torch.linspace(-1, 2, 7, dtype=torch.float64)


def poisson(y):
    rate = pyro.sample("rate", dist.Normal(torch.zeros(2).to(y), 3.0).to_event(1))
    pyro.sample("y", dist.Poisson((rate[..., 0] * y + rate[..., 1]).exp()).to_event(1), obs=y**2)


COUNTS = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)


# --- checkpoints -------------------------------------------------------------------------------


class Steps:
    """`maximise` with its steps counted, and a KeyboardInterrupt at the last of them."""

    def __init__(self, last=0):
        self.last, self.seen = last, 0

    def __call__(self, *args, **options):
        return maximise(*args, **options | {"on_step": self.step})

    def step(self, _):
        self.seen += 1
        if self.seen == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("part", [0, 0.5, 1])
def test_an_interrupted_fit_resumes_with_the_same_numbers(name, part, tmp_path, monkeypatch):
    monkeypatch.setattr(deterministic, "TOLERANCE", 0.005)  # several rounds
    path = tmp_path / "fit.ckpt"
    whole = pc.fit(poisson, name, COUNTS)
    monkeypatch.setattr(engines, "maximise", Steps(max(1, round(part * len(whole.losses)))))
    with pytest.raises(KeyboardInterrupt):
        pc.fit(poisson, name, COUNTS, checkpoint=path)
    rest = Steps()
    monkeypatch.setattr(engines, "maximise", rest)
    monkeypatch.setattr(engines, "find_start", None)  # no second climb
    resumed = pc.fit(poisson, name, COUNTS, checkpoint=path)
    assert (rest.seen < len(whole.losses)) == (part > 0)  # no round that was done
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert (resumed.elbo, resumed.reason, resumed.modes) == (
        whole.elbo, whole.reason, whole.modes,
    )  # fmt: skip


def test_a_checkpoint_of_another_family_or_engine_is_refused(tmp_path):
    path = tmp_path / "fit.ckpt"
    pc.fit(poisson, "full_rank", COUNTS, checkpoint=path)
    for name, engine in (("low_rank", None), ("full_rank", "stochastic")):
        with pytest.raises(ValueError, match=r"was written with (guide|engine)="):
            pc.fit(poisson, name, COUNTS, checkpoint=path, engine=engine)


# --- which engine ------------------------------------------------------------------------------


class Learning(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.noise = pyro.nn.PyroParam(torch.ones(()), constraints.positive)

    def forward(self, y):
        h = pyro.sample("h", dist.Normal(ORIGIN, 1.0))
        pyro.sample("y", dist.Normal(h, self.noise).expand(y.shape).to_event(1), obs=y)


def with_param(y):
    noise = pyro.param("noise", torch.ones(()), constraints.positive)
    h = pyro.sample("h", dist.Normal(ORIGIN, 1.0))
    pyro.sample("y", dist.Normal(h, noise).expand(y.shape).to_event(1), obs=y)


def subsampling(y):
    h = pyro.sample("h", dist.Normal(ORIGIN, 1.0))
    with pyro.plate("row", len(y), subsample_size=3, dim=-1) as rows:
        pyro.sample("y", dist.Normal(h, 1.0), obs=y[rows])


def by_rows(y, num_obs=None):
    h = pyro.sample("h", dist.Normal(y.new_zeros(2), 1.0).to_event(1)).sum(-1)
    with pyro.plate("row", num_obs or len(y), subsample_size=len(y), dim=-1):
        pyro.sample("y", dist.Normal(h[..., None], 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "guide", "options", "why"),
    [
        (Learning(), "full_rank", {}, "the model has parameters to learn"),
        (subsampling, "full_rank", {}, "plate 'row' takes a subsample of 3 of 7"),
        (by_rows, "flow", {}, "a flow is fitted by SVI"),
        (by_rows, "full_rank", {"batch_size": 4}, "mini-batches make the bound random"),
        (by_rows, "full_rank", {"elbo": Trace_ELBO()}, "an estimator of the bound was given"),
        (by_rows, families.FAMILIES["full_rank"](by_rows), {}, "a program of its own"),
    ],
)
def test_what_the_deterministic_engine_cannot_do_goes_to_the_other_and_why(
    model, guide, options, why
):
    fit = pc.fit(model, guide, Y, max_steps=60, **options)
    assert fit.engine == "stochastic"
    assert why in fit.why
    with pytest.raises(ValueError, match="engine: got 'deterministic', but") as caught:
        pc.fit(model, guide, Y, max_steps=60, engine="deterministic", **options)
    assert why in str(caught.value)


def test_a_parameter_outside_modules_needs_a_guide_of_ones_own():
    with pytest.raises(ValueError, match=r"calls pyro.param\('noise'\), which a family by name"):
        pc.fit(with_param, "full_rank", Y)


def test_the_engine_is_deterministic_where_it_can_be_and_as_asked():
    by_default = pc.fit(by_rows, "full_rank", Y)
    assert (by_default.engine, by_default.why) == (
        "deterministic", "continuous latents, all data and a Gaussian family by name",
    )  # fmt: skip
    frozen = pc.fit(Learning().requires_grad_(False), "full_rank", Y)
    assert frozen.engine == "deterministic"
    asked = pc.fit(by_rows, "full_rank", Y, engine="stochastic", max_steps=60)
    assert (asked.engine, asked.why) == ("stochastic", "it was asked for")
    with pytest.raises(ValueError, match="engine: got 'svi', expected 'deterministic' or"):
        pc.fit(by_rows, "full_rank", Y, engine="svi")


def test_frozen_rows_of_a_module_are_fitted_with_their_parameters_held(wine):
    """The exact posterior's evidence, from a module that is frozen."""
    model = FactorAnalysis(13, 2).requires_grad_(False)
    fit = pc.fit(model, "mean_field", wine[:20])
    own = pc.fit(model, FactorAnalysisMeanField(20, 2), wine[:20], max_steps=1500)
    assert fit.engine == "deterministic"
    assert fit.elbo.value == pytest.approx(own.elbo.value, abs=0.5)
    assert fit.elbo.value > own.elbo.value - 3 * np.hypot(fit.elbo.se, own.elbo.se)


def test_a_model_that_vmap_cannot_follow_is_told():
    def branch(y):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(h if h.item() > -100 else -h, 1.0), obs=y)

    fit = pc.fit(branch, "full_rank", torch.tensor(1.0))
    assert "one draw at a time, as torch.vmap cannot follow the model" in fit.why
    assert "item()" in fit.why


@pytest.mark.parametrize(
    ("dim", "family"),
    [
        (families.MAX_AUTO_FULL_RANK, "full_rank"),
        (families.MAX_AUTO_FULL_RANK + 1, "low_rank"),
    ],
)
def test_the_family_behind_auto_changes_above_its_limit(dim, family):
    def model():
        pyro.sample("h", dist.Normal(torch.zeros(dim), 1.0).to_event(1))

    assert families.choose(Program(model)) == family


def test_a_flow_starts_at_the_gaussian_of_its_centre():
    """Its own part, a tenth of Pyro's start, moves draws by less than 0.1 sd and stretches less."""

    def model():
        pyro.sample("h", dist.Normal(torch.zeros(4), 1.0).to_event(1))

    centre = some_centre(4, 2, dense=True)
    for seed in range(5):
        pyro.set_rng_seed(seed)
        flow = families.flow_from(Program(model), centre)
        with torch.no_grad():
            z = flow.get_posterior().sample((4000,)).double().numpy()
        exact = Gaussian(centre.z, factor=centre.coordinates.matrix)
        u = np.linalg.solve(families.cholesky(exact), (z - centre.z).T)
        np.testing.assert_allclose(u.mean(1), 0, atol=0.1 + 4 / 4000**0.5)
        np.testing.assert_allclose(u.std(1), 1.0, rtol=0.1 + 4 / 8000**0.5)


def test_the_fixed_map_of_a_flow_comes_after_the_flow():
    """z = loc + L flow(ε): by the same ε without the map, and the densities differ by log |L|."""

    def model():
        pyro.sample("h", dist.Normal(torch.zeros(4), 1.0).to_event(1))

    flow = families.flow_from(Program(model), some_centre(4, 2, dense=True))
    loc, root = flow.loc.clone(), flow.scale_tril.clone()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(10)  # Pyro's own start: far from the identity
        found = []
        for at, triangle in ((torch.zeros(4), torch.eye(4)), (loc, root)):
            flow.loc.copy_(at)
            flow.scale_tril.copy_(triangle)
            pyro.set_rng_seed(0)
            posterior = flow.get_posterior()
            z = posterior.sample((100,))
            found.append((z, posterior.log_prob(z)))
    (u, log_u), (z, log_z) = found
    np.testing.assert_allclose(z, loc + u @ root.mT, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_z, log_u - root.diagonal().log().sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["map", "mean_field"])
@pytest.mark.parametrize("inside", ["h.x", "h_unconstrained"])
def test_a_latent_may_have_its_name_inside_anothers(family, inside):
    def model(y):
        a = pyro.sample("h", dist.Gamma(y.new_tensor(2.0), 1.0))
        b = pyro.sample(inside, dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    fit = pc.fit(model, family, torch.tensor(1.0, dtype=torch.float64))
    assert fit.converged
    assert set(pc.to_datatree(fit, num_draws=10).posterior.data_vars) == {"h", inside}
