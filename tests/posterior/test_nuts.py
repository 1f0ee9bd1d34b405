"""NUTS from a fit, on posteriors whose moments are known."""

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import build
from scipy import stats
from torch import Tensor

import pyro_cookbook as pc
from guides.gaussian_mixture import GaussianMixtureExact
from models.gaussian_mixture import GaussianMixture
from pyro_cookbook.posterior import nuts as sampling

X = torch.stack([torch.ones(12), torch.linspace(100.0, 101.0, 12)], -1).double()
Y = torch.linspace(-2.0, 1.5, 12, dtype=torch.float64) + torch.sin(torch.arange(12.0)).double()
PRIOR = np.array([1e3, 10.0])


def line(x: Tensor, y: Tensor | None = None) -> None:
    """Two coefficients of correlation −0.99999 and sds 200 and 2; known noise."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), x.new_tensor(PRIOR)).to_event(1))
    pyro.deterministic("start", (x @ w[..., None])[..., 0, 0])
    with pyro.plate("row", len(x), dim=-1):
        pyro.sample("y", dist.Normal(x @ w, 0.7), obs=y)


def posterior() -> tuple[np.ndarray, np.ndarray]:
    x, y = X.numpy(), Y.numpy()
    covariance = np.linalg.inv(x.T @ x / 0.49 + np.diag(PRIOR**-2.0))
    return covariance @ x.T @ y / 0.49, covariance


OPTIONS = {"num_draws": 300, "num_warmup": 150, "num_chains": 4, "processes": 1}


@pytest.fixture(scope="module")
def fit():
    return pc.fit(line, "full_rank", X, Y)


@pytest.fixture(scope="module")
def tree(fit):
    return pc.sample(fit, **OPTIONS)


def test_moments_are_those_of_the_posterior_within_their_errors(tree):
    mean, covariance = posterior()
    sd = np.sqrt(np.diag(covariance))
    assert covariance[0, 1] / sd.prod() < -0.9999
    w = tree.posterior.w
    assert (az.rhat(tree).w < 1.02).all()
    for method in ("mean", "sd"):
        assert (az.ess(tree, method=method).w > 400).all()
    error = (w.mean(("chain", "draw")) - mean) / sd
    assert (abs(error) < 4 / az.ess(tree, method="mean").w ** 0.5).all()
    stretch = w.std(("chain", "draw")) / sd - 1
    assert (abs(stretch) < 4 / (2 * az.ess(tree, method="sd").w) ** 0.5).all()
    assert not tree.sample_stats.diverging.any()


def test_every_chain_is_another(tree):
    chains = tree.posterior.w.to_numpy()
    assert len(np.unique(chains[:, :, 0])) > 0.8 * chains[:, :, 0].size
    # lp is log p(y, h): against its density by hand.
    mean, covariance = posterior()
    z = chains - mean
    quadratic = -0.5 * np.einsum("cdi,ij,cdj->cd", z, np.linalg.inv(covariance), z)
    height = tree.sample_stats.lp.to_numpy() - quadratic
    np.testing.assert_allclose(height, height[0, 0], atol=1e-6)


@pytest.mark.parametrize("family", ["map", "mean_field"])
def test_a_poor_fit_gives_the_same_posterior(family):
    """A point has no spread to scale by, independent factors no correlation."""

    def model(y):
        w = pyro.sample("w", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(w.sum(-1), 0.5), obs=y)

    y = torch.tensor(1.0, dtype=torch.float64)
    drawn = pc.sample(pc.fit(model, family, y), **OPTIONS | {"num_draws": 600})
    # Given the sum, of variance 2 · 0.25 / 2.25, the difference has its prior's variance, 2.
    variance = (2 + 2 * 0.25 / 2.25) / 4
    ess = az.ess(drawn).w
    assert (az.rhat(drawn).w < 1.02).all()
    w = drawn.posterior.w
    assert not np.isin(w[0], w[1:]).any()  # chains from one point differ by their seeds
    mean = w.mean(("chain", "draw"))
    assert (abs(mean - 1 / 2.25) < 4 * (variance / ess) ** 0.5).all()
    stretch = w.var(("chain", "draw")) / variance - 1
    assert (abs(stretch) < 4 * (2 / az.ess(drawn, method="sd").w) ** 0.5).all()


def test_a_positive_latent_is_sampled_with_its_volume():
    """A Gamma prior and Poisson counts: the posterior is a Gamma."""

    def model(y):
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), y.new_tensor(1.0)))
        with pyro.plate("row", len(y), dim=-1):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    drawn = pc.sample(pc.fit(model, "full_rank", y), **OPTIONS)
    rate, ess = drawn.posterior.rate, float(az.ess(drawn).rate)
    mean, sd = 3 / 3, 3**0.5 / 3
    # Without the volume it would be Gamma(2, 3), of mean 2/3: 8 standard errors away.
    assert abs(float(rate.mean()) - mean) < 4 * sd / ess**0.5 < mean / 3
    assert float(rate.std()) == pytest.approx(sd, rel=4 / ess**0.5)


def test_numbers_do_not_depend_on_the_processes(fit):
    options = OPTIONS | {"num_draws": 40, "num_warmup": 40, "num_chains": 3}
    one, two = (pc.sample(fit, **options | {"processes": n}) for n in (1, 2))
    for name in ("w", "start"):
        np.testing.assert_array_equal(one.posterior[name], two.posterior[name])
    assert not np.isin(one.posterior.w[0], one.posterior.w[1:]).any()
    other = pc.sample(fit, **options | {"seed": 9})
    assert not np.isin(other.posterior.w, one.posterior.w).any()


def test_the_tree_has_the_shape_of_that_of_the_fit(fit, tree):
    dims = {"w": ["term"]}
    mine = pc.sample(
        fit, **OPTIONS | {"num_draws": 5, "num_warmup": 5}, dims=dims,
        coords={"term": ["one", "x"]},
    )  # fmt: skip
    assert list(mine.posterior.term.to_numpy()) == ["one", "x"]
    theirs = pc.to_datatree(fit, num_draws=5, dims=dims, sample_dims=("chain", "draw"))
    assert set(mine.posterior.data_vars) == set(theirs.posterior.data_vars) == {"w", "start"}
    for name, value in theirs.posterior.data_vars.items():
        assert mine.posterior[name].dims == value.dims
        assert mine.posterior[name].dtype == value.dtype
    assert (tree.posterior.sizes["chain"], tree.posterior.sizes["draw"]) == (4, 300)
    assert tree.log_likelihood.y.dims == theirs.log_likelihood.y.dims == ("chain", "draw", "row")
    start = (X.numpy() @ tree.posterior.w.to_numpy()[..., None])[..., 0, 0]
    np.testing.assert_allclose(tree.posterior.start, start, rtol=1e-9)


def test_single_precision_data_are_sampled():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("y", dist.Normal(x @ w, 0.7).to_event(1), obs=y)

    x = X.float() - torch.tensor([0.0, 100.5])
    fit = pc.fit(model, "full_rank", x, Y.float())
    drawn = pc.sample(fit, **OPTIONS | {"num_draws": 200})
    assert drawn.posterior.w.dtype == np.float32
    a, y = x.double().numpy(), Y.numpy()
    covariance = np.linalg.inv(a.T @ a / 0.49 + np.eye(2))
    error = drawn.posterior.w.mean(("chain", "draw")) - covariance @ a.T @ y / 0.49
    sd = np.sqrt(np.diag(covariance))
    assert (abs(error) / sd < 4 / az.ess(drawn).w ** 0.5).all()


def test_parameters_of_the_model_are_held_at_their_fitted_values():
    class Noisy(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = pyro.nn.PyroParam(torch.tensor(3.0), dist.constraints.positive)

        def forward(self, y):
            h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(h, self.scale).expand(y.shape).to_event(1), obs=y)

    fit = pc.as_fit(build(Noisy()), lambda y: pyro.sample("h", dist.Normal(y.mean(), 0.5)), Y + 3)
    drawn = pc.sample(fit, **OPTIONS | {"num_draws": 200})
    precision = 1 + 12 / 9
    mean = float((Y + 3).sum()) / 9 / precision
    ess = float(az.ess(drawn).h)
    assert abs(float(drawn.posterior.h.mean()) - mean) < 4 / (precision * ess) ** 0.5


def test_the_generators_are_left_alone(fit):
    torch.manual_seed(5)
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    pc.sample(fit, **OPTIONS | {"num_draws": 4, "num_warmup": 4})
    after = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    assert before[0].equal(after[0])
    assert before[1:] == after[1:]


def test_discrete_latents_are_refused(iris):
    fit = pc.as_fit(GaussianMixture(4, 3).double(), GaussianMixtureExact(4, 3).double(), iris)
    with pytest.raises(ValueError, match="site 'h'") as caught:
        pc.sample(fit, num_draws=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "least"), [("num_draws", 1), ("num_warmup", 1), ("num_chains", 1)]
)
def test_bad_options_are_named(fit, name, least):
    with pytest.raises(
        ValueError, match=f"{name}: got {least - 1}, expected a whole number of at least {least}"
    ):
        pc.sample(fit, **{name: least - 1})


def test_a_fit_that_starts_nowhere_is_refused(fit):
    def nowhere(x, y=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.factor("wall", torch.where(w[0] > 50, 0.0, -torch.inf))

    def guide(x, y=None):
        pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match="model: its log density is not finite at any of 16 draws"):
        pc.sample(pc.as_fit(nowhere, guide, X), **OPTIONS)


def test_a_start_without_density_is_passed_over():
    def half(y):
        h = pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))
        pyro.factor("wall", torch.where(h > 0, 0.0, -torch.inf))

    def guide(y):
        pyro.sample("h", dist.Normal(y.new_zeros(()), 1.0))

    drawn = pc.sample(pc.as_fit(half, guide, Y), **OPTIONS | {"num_chains": 8, "num_draws": 20})
    assert drawn.posterior.sizes["chain"] == 8
    assert (drawn.posterior.h > 0).all()
    assert drawn.sample_stats.diverging.any()  # at the wall


def test_chains_of_a_refined_fit_start_at_its_draws():
    fit = pc.refine(pc.fit(line, "laplace", X, Y))
    kept = fit.guide.latents["w"].numpy()
    _, coordinates, starts = sampling._prepare(fit, 4, 0)
    assert len(np.unique(starts, axis=0)) == 4
    assert all((start == kept).all(1).any() for start in starts)
    mean, covariance = posterior()
    assert (abs(coordinates.scale / np.sqrt(np.diag(covariance)) - 1) < 4 / 1000**0.5).all()
    drawn = pc.sample(fit, **OPTIONS | {"num_draws": 100})
    ess = az.ess(drawn).w
    error = (drawn.posterior.w.mean(("chain", "draw")) - mean) / np.sqrt(np.diag(covariance))
    assert (abs(error) < 4 / ess**0.5).all()


# --- seconds --------------------------------------------------------------------------------------

LONG = {"num_warmup": 50, "num_chains": 3, "target_accept": 0.8, "seed": 0}


@pytest.mark.parametrize("processes", [1, 2])
def test_chains_are_cut_off_at_one_length(fit, processes):
    """A million draws take hours, a hundred a moment."""
    draws, diverging = sampling.run_nuts(
        fit, num_draws=10**6, seconds=4.0, processes=processes, **LONG
    )
    assert 100 <= draws.shape[1] < 10**6
    assert draws.shape == (3, draws.shape[1], 2)
    assert diverging.shape == draws.shape[:2]
    # Nothing of a trajectory that was cut short: as they are without a limit.
    few = min(200, draws.shape[1])
    same, _ = sampling.run_nuts(fit, num_draws=few, processes=processes, **LONG)
    np.testing.assert_array_equal(draws[:, :few], same)
    assert np.isfinite(draws).all()
    assert (np.diff(draws, axis=1) != 0).any((0, 2))[-1]


@pytest.mark.parametrize("processes", [1, 2])
def test_too_few_seconds_are_an_error_of_one_line(fit, processes, chains_counted):
    with pytest.raises(
        sampling.OutOfTime, match=r"^NUTS: 0.001 seconds were not enough for warm-up and 100 draws$"
    ) as caught:
        sampling.run_nuts(fit, num_draws=200, seconds=0.001, processes=processes, **LONG)
    assert isinstance(caught.value, ValueError)  # as callers of a fit catch it
    if processes == 1:
        assert len(chains_counted) == 1  # the others are not begun


def test_enough_seconds_change_nothing(fit):
    options = LONG | {"num_draws": 30, "processes": 1}
    for one, other in zip(
        sampling.run_nuts(fit, **options), sampling.run_nuts(fit, seconds=600.0, **options),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, other)


# --- draws first, conversion after ----------------------------------------------------------------


@pytest.fixture
def chains_counted(monkeypatch):
    """Count the chains that are run."""
    run = []
    monkeypatch.setattr(
        sampling,
        "_run_chain",
        lambda job, real=sampling._run_chain: (run.append(job), real(job))[1],
    )
    return run


@pytest.mark.parametrize(
    ("likelihood", "events", "is_sum"),
    [
        (lambda w: dist.Normal(w, 0.7), 0, False),
        (lambda w: dist.Normal(w.sum(-1), 0.7), 0, True),
        (lambda w: dist.Normal(w, 0.7).to_event(1), 1, False),
        (lambda w: dist.Normal(w, 0.7).expand([6, 2]).to_event(2), 2, False),
    ],
    ids=["entries", "one for all", "rows", "all as one"],
)
def test_observations_of_any_shape_without_a_plate_are_laid_out(likelihood, events, is_sum):
    y = Y.reshape(6, 2)

    def model(y):
        w = pyro.sample("w", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
        pyro.sample("y", likelihood(w), obs=y)

    fit = pc.fit(model, "full_rank", y)
    short = OPTIONS | {"num_draws": 6, "num_warmup": 6, "num_chains": 2}
    for tree in (pc.sample(fit, **short), pc.to_datatree(fit, num_draws=6)):
        new = tree.posterior_predictive.y
        assert new.dims == ("chain", "draw", "y_dim_0", "y_dim_1")
        assert new.shape[2:] == tree.observed_data.y.shape == (6, 2)
        assert len(np.unique(new)) == new.size  # every row has a draw of its own
        w = tree.posterior.w.to_numpy()[..., None, :]
        exact = stats.norm.logpdf(y.numpy(), w.sum(-1, keepdims=True) if is_sum else w, 0.7)
        exact = exact.sum(tuple(range(4 - events, 4)))  # one observation has one density
        np.testing.assert_allclose(tree.log_likelihood.y, exact)


def test_what_cannot_be_laid_out_is_said_before_the_chains_run(fit, chains_counted):
    with pytest.raises(ValueError, match="dims: 'w' has shape"):
        pc.sample(fit, **OPTIONS, dims={"w": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="coords: got 1 labels for 'term', expected 2"):
        pc.sample(fit, **OPTIONS, dims={"w": ["term"]}, coords={"term": ["one"]})
    assert chains_counted == []


def test_draws_that_are_not_laid_out_all_the_same_are_kept(fit, monkeypatch):
    real = sampling.mcmc_tree

    def full_disk(model, latents, diverging, **options):
        if diverging.shape == (1, 8):  # the rehearsal
            return real(model, latents, diverging, **options)
        raise MemoryError("no room\nat all")

    monkeypatch.setattr(sampling, "mcmc_tree", full_disk)
    options = OPTIONS | {"num_draws": 5, "num_warmup": 5, "num_chains": 2}
    with pytest.raises(sampling.DrawsLeftOver, match=r"\(MemoryError: no room\)") as caught:
        pc.sample(fit, **options)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    np.testing.assert_array_equal(caught.value.draws["w"], pc.sample(fit, **options).posterior.w)


def test_parameters_of_the_store_are_held_at_their_fitted_values():
    def model(y):
        loc = pyro.param("loc", lambda: y.new_tensor(0.0))
        h = pyro.sample("h", dist.Normal(loc, 0.1))
        pyro.sample("y", dist.Normal(h, 100.0).expand(y.shape).to_event(1), obs=y)

    store = {"params": {"loc": Y.new_tensor(5.0)}, "constraints": {"loc": dist.constraints.real}}
    fit = pc.as_fit(
        model, lambda y: pyro.sample("h", dist.Normal(y.new_tensor(5.0), 0.1)), Y, param_state=store
    )
    for processes in (1, 2):
        options = {"num_draws": 20, "num_warmup": 20, "num_chains": 2, "processes": processes}
        assert abs(float(pc.sample(fit, **options).posterior.h.mean()) - 5) < 0.5
