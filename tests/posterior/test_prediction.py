"""`predict`: which latents are known, which are new, and forecasts, against exact answers."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc

NUM_ROWS, SPREAD, NOISE = 40, 0.05, 0.1
NUM_DRAWS = 4000
X = torch.linspace(0.0, 1.0, NUM_ROWS, dtype=torch.float64)
EFFECTS = 3.0 + torch.sin(torch.arange(NUM_ROWS, dtype=torch.float64))  # far from the population
Y = X + EFFECTS
SAMPLE = ("chain", "draw")


def rows(x, y=None):
    with pyro.plate("row", len(x), dim=-1):
        h = pyro.sample("h", dist.Normal(x.new_zeros(len(x)), 1.0))
        return pyro.sample("y", dist.Normal(x + h, NOISE), obs=y)


def a_factor_a_row(x, y=None):
    with pyro.plate("row", NUM_ROWS, dim=-1):
        pyro.sample("h", dist.Normal(EFFECTS, SPREAD))


def amortised(x, y):
    with pyro.plate("row", len(x), dim=-1):
        pyro.sample("h", dist.Normal(y - x, SPREAD))


@pytest.fixture(scope="module")
def fit():
    return pc.as_fit(rows, a_factor_a_row, X, Y)


def assert_normal(draws, mean, sd):
    """Mean and sd of independent draws, within 4.5 standard errors of each."""
    draws, mean = np.asarray(draws, dtype=float), np.asarray(mean, dtype=float)
    draws = draws.reshape(-1, *draws.shape[2:])  # chains
    num = len(draws)
    assert (np.abs(draws.mean(0) - mean) < 4.5 * np.asarray(sd) / num**0.5).all()
    assert (np.abs(draws.std(0) / sd - 1) < 4.5 / (2 * num) ** 0.5).all()


def assert_population(tree, x):
    assert_normal(tree.posterior["h"], 0.0, 1.0)
    assert_normal(tree.predictions["y"], x, (1 + NOISE**2) ** 0.5)


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [1, NUM_ROWS - 1, NUM_ROWS, NUM_ROWS + 1])
def test_new_rows_are_new_whatever_their_number(fit, num_rows):
    x = torch.linspace(2.0, 3.0, num_rows, dtype=torch.float64)
    tree = pc.predict(fit, x, num_draws=NUM_DRAWS)
    assert_population(tree, x.numpy())


def test_the_training_rows_are_those_of_a_call_without_data(fit):
    tree = pc.predict(fit, num_draws=NUM_DRAWS)
    assert_normal(tree.posterior["h"], EFFECTS, SPREAD)
    assert_normal(tree.predictions["y"], Y, np.hypot(SPREAD, NOISE))
    again = pc.predict(fit, X, Y, num_draws=NUM_DRAWS)  # the same data are the same rows
    assert_normal(again.posterior["h"], EFFECTS, SPREAD)
    # Inputs alone do not say that a row is the old one.
    assert_population(pc.predict(fit, X, num_draws=NUM_DRAWS), X)


def test_rows_may_be_declared_known(fit):
    x = torch.cat([X, X[:2]])
    tree = pc.predict(fit, x, known=["row"], num_draws=NUM_DRAWS)
    assert_normal(tree.posterior["h"][..., :NUM_ROWS], EFFECTS, SPREAD)
    assert_normal(tree.posterior["h"][..., NUM_ROWS:], 0.0, 1.0)
    fewer = pc.predict(fit, X[:3], known=["row"], num_draws=NUM_DRAWS)
    assert_normal(fewer.posterior["h"], EFFECTS[:3], SPREAD)
    for name in ("h", "row"):
        by_name = pc.predict(fit, X, known=[name], num_draws=20)
        assert float(by_name.posterior["h"].min()) > 1.0
    with pytest.raises(ValueError, match=r"known: got 'rows', expected plates or sites: h, row, y"):
        pc.predict(fit, X, known=["rows"])
    with pytest.raises(ValueError, match="known: got 'row', expected a list"):
        pc.predict(fit, X, known="row")


@pytest.mark.parametrize("num_rows", [NUM_ROWS - 1, NUM_ROWS, NUM_ROWS + 1])
def test_rows_with_observations_need_a_guide_that_infers_them(fit, num_rows):
    x = torch.linspace(2.0, 3.0, num_rows, dtype=torch.float64)
    y = x - 5.0
    with pytest.raises(ValueError, match=r"new_data: site 'h' .*\(40,\).*only an amortized guide"):
        pc.predict(fit, x, y)
    inferring = pc.as_fit(rows, amortised, X, Y)
    tree = pc.predict(inferring, x, y, num_draws=NUM_DRAWS)
    assert_normal(tree.posterior["h"], -5.0, SPREAD)
    assert_normal(tree.predictions["y"], y, np.hypot(SPREAD, NOISE))
    # Without observations there is nothing to infer from.
    assert_population(pc.predict(inferring, x, num_draws=NUM_DRAWS), x.numpy())


def test_equal_observations_at_other_inputs_are_other_rows():
    ones = torch.ones(NUM_ROWS, dtype=torch.float64)
    fit = pc.as_fit(rows, a_factor_a_row, X, ones)
    with pytest.raises(ValueError, match="only an amortized guide"):
        pc.predict(fit, X + 1, ones.clone())
    tree = pc.predict(fit, X.clone(), ones.clone(), num_draws=20)
    assert float(tree.posterior["h"].min()) > 1.0


def test_rows_without_a_plate_are_rows():
    def model(x, y=None):
        h = pyro.sample("h", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(x + h, NOISE).to_event(1), obs=y)

    def guide(x, y=None):
        pyro.sample("h", dist.Normal(EFFECTS, SPREAD).to_event(1))

    fit = pc.as_fit(model, guide, X, Y)
    for num_rows in (NUM_ROWS - 1, NUM_ROWS):
        x = torch.linspace(2.0, 3.0, num_rows, dtype=torch.float64)
        assert_population(pc.predict(fit, x, num_draws=NUM_DRAWS), x.numpy())
    assert_normal(pc.predict(fit, num_draws=NUM_DRAWS).posterior["h"], EFFECTS, SPREAD)


def test_weights_as_many_as_rows_are_no_rows():
    """Three rows, three weights: only one of the two grows with the data."""

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        with pyro.plate("row", len(x), dim=-1):
            return pyro.sample("y", dist.Normal((x * w).sum(-1), NOISE), obs=y)

    w = torch.tensor([5.0, -5.0, 2.0], dtype=torch.float64)
    x = torch.eye(3, dtype=torch.float64)
    fit = pc.as_fit(
        model, lambda x, y=None: pyro.sample("w", dist.Normal(w, SPREAD).to_event(1)), x, w
    )
    tree = pc.predict(fit, 2 * x, num_draws=NUM_DRAWS)
    assert_normal(tree.predictions["y"], 2 * w, np.hypot(2 * SPREAD, NOISE))


def test_rows_that_a_loop_writes_out():
    def model(x, y=None):
        for i in pyro.plate("row", len(x)):
            h = pyro.sample(f"h_{i}", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample(f"y_{i}", dist.Normal(x[i] + h, NOISE), obs=None if y is None else y[i])

    def guide(x, y=None):
        for i in pyro.plate("row", 3):
            pyro.sample(f"h_{i}", dist.Normal(EFFECTS[i], SPREAD))

    fit = pc.as_fit(model, guide, X[:3], Y[:3])
    tree = pc.predict(fit, X[5:8], num_draws=NUM_DRAWS)
    for i in range(3):
        assert_normal(tree.posterior[f"h_{i}"], 0.0, 1.0)
        assert_normal(tree.predictions[f"y_{i}"], X[5 + i], (1 + NOISE**2) ** 0.5)
    with pytest.raises(ValueError, match=r"site 'h_0'.*only an amortized guide"):
        pc.predict(fit, X[5:8], Y[5:8])


@pytest.mark.parametrize("latent", [True, False])
def test_rows_that_depend_on_the_training_rows_are_refused(latent):
    """A Gaussian process: the model of new points alone does not know the old ones."""

    def model(x, y=None):
        covariance = torch.exp(-((x[:, None] - x) ** 2)) + 0.1 * torch.eye(len(x)).to(x)
        scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
        process = dist.MultivariateNormal(x.new_zeros(len(x)), scale[..., None, None] * covariance)
        if not latent:
            return pyro.sample("y", process, obs=y)
        f = pyro.sample("f", process)
        with pyro.plate("row", len(x), dim=-1):
            return pyro.sample("y", dist.Normal(f, NOISE), obs=y)

    def guide(x, y=None):
        pyro.sample("scale", dist.LogNormal(x.new_zeros(()), SPREAD))
        if latent:
            pyro.sample("f", dist.Normal(EFFECTS[:4], SPREAD).to_event(1))

    fit = pc.as_fit(model, guide, X[:4], Y[:4])
    name = "f" if latent else "y"
    for num_rows in (3, 4):
        with pytest.raises(ValueError, match=f"entries of site '{name}' for new rows depend on"):
            pc.predict(fit, X[:num_rows] + 1)
    assert pc.predict(fit, num_draws=20).predictions["y"].shape == (1, 20, 4)


# --- groups ---------------------------------------------------------------------------------------

GROUP_OF = torch.tensor([0, 0, 1, 2])
MEANS = torch.tensor([8.0, 9.0, 10.0], dtype=torch.float64)


def groups(group, num_groups, y=None, in_plate=True):
    centre = pyro.sample("centre", dist.Normal(Y.new_zeros(()), 10.0))
    if in_plate:
        with pyro.plate("group", num_groups, dim=-1):
            mean = pyro.sample("mean", dist.Normal(centre, 2.0))
    else:
        each = centre[..., None] + Y.new_zeros(num_groups)
        mean = pyro.sample("mean", dist.Normal(each, 2.0).to_event(1))
    mean = mean.reshape(mean.shape[:1] + mean.shape[-1:]) if mean.dim() > 1 else mean
    with pyro.plate("row", len(group), dim=-1):
        return pyro.sample("y", dist.Normal(mean[..., group], NOISE), obs=y)


def group_guide(in_plate=True):
    def guide(group, num_groups, y=None):
        pyro.sample("centre", dist.Normal(Y.new_tensor(5.0), 0.5))
        if in_plate:
            with pyro.plate("group", 3, dim=-1):
                pyro.sample("mean", dist.Normal(MEANS, SPREAD))
        else:
            pyro.sample("mean", dist.Normal(MEANS, SPREAD).to_event(1))

    return guide


@pytest.mark.parametrize("in_plate", [True, False])
def test_known_groups_stay_and_new_ones_are_drawn_given_the_population(in_plate):
    def model(group, num_groups, y=None):
        return groups(group, num_groups, y, in_plate)

    fit = pc.as_fit(model, group_guide(in_plate), GROUP_OF, 3, Y[:4])
    asked = torch.tensor([4, 2, 0])
    tree = pc.predict(fit, asked, 5, num_draws=NUM_DRAWS)
    population = np.hypot(0.5, 2.0)
    assert_normal(tree.posterior["mean"][..., :3], MEANS, SPREAD)
    assert_normal(tree.posterior["mean"][..., 3:], 5.0, population)
    sds = np.array([population, SPREAD, SPREAD])
    assert_normal(tree.predictions["y"], [5.0, 10.0, 8.0], np.hypot(sds, NOISE))
    # A new group's mean is drawn given its own draw of the population's centre.
    new = tree.posterior["mean"][0, :, 4].to_numpy()
    between = np.corrcoef(new, tree.posterior["centre"][0])[0, 1]
    assert abs(between - 0.5 / population) < 4.5 / NUM_DRAWS**0.5
    same = pc.predict(fit, asked - asked, 3, num_draws=NUM_DRAWS)
    assert_normal(same.posterior["mean"], MEANS, SPREAD)
    fewer = pc.predict(fit, torch.tensor([1]), 2, num_draws=NUM_DRAWS)
    assert_normal(fewer.predictions["y"], MEANS[1:2], np.hypot(SPREAD, NOISE))
    if in_plate:
        drawn = pc.predict(fit, asked, 5, known=[], num_draws=NUM_DRAWS)
        assert_normal(drawn.posterior["mean"], 5.0, population)
    with pytest.raises(ValueError, match=r"site 'mean' was fitted with shape \(3,\)"):
        pc.predict(fit, asked, 5, Y[:3])


def test_a_new_region_of_a_known_country_is_drawn_round_that_country():
    country_of = torch.tensor([0, 1, 0, 1, 2])  # regions 0 to 2 are known, and countries 0 and 1

    def model(region, num_countries, num_regions, y=None):
        with pyro.plate("country", num_countries, dim=-1):
            country = pyro.sample("country_mean", dist.Normal(Y.new_zeros(()), 5.0))
        country = (
            country.reshape(country.shape[:1] + country.shape[-1:])
            if country.dim() > 1
            else country
        )
        with pyro.plate("region", num_regions, dim=-1):
            mean = pyro.sample(
                "region_mean", dist.Normal(country[..., country_of[:num_regions]], 0.5)
            )
        with pyro.plate("row", len(region), dim=-1):
            return pyro.sample("y", dist.Normal(mean[..., region], NOISE), obs=y)

    def guide(region, num_countries, num_regions, y=None):
        with pyro.plate("country", 2, dim=-1):
            pyro.sample("country_mean", dist.Normal(Y.new_tensor([10.0, 20.0]), SPREAD))
        with pyro.plate("region", 3, dim=-1):
            pyro.sample("region_mean", dist.Normal(MEANS, SPREAD))

    fit = pc.as_fit(model, guide, torch.tensor([0, 1, 2]), 2, 3, Y[:3])
    tree = pc.predict(fit, torch.tensor([3, 4]), 3, 5, num_draws=NUM_DRAWS)
    assert_normal(tree.posterior["country_mean"], [10.0, 20.0, 0.0], [SPREAD, SPREAD, 5.0])
    sds = np.hypot([SPREAD] * 3 + [np.hypot(SPREAD, 0.5), np.hypot(5.0, 0.5)], 0.0)
    assert_normal(tree.posterior["region_mean"], [*MEANS, 20.0, 0.0], sds)


def test_outputs_beside_the_rows_are_known():
    """Two plates round the data: the first dimension has the rows, the other is known."""

    def model(x, num_outputs, y=None):
        with pyro.plate("output", num_outputs, dim=-1):
            w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("row", len(x), dim=-2):
                h = pyro.sample("h", dist.Normal(x.new_zeros(()), 1.0))
                return pyro.sample("y", dist.Normal(x[:, None] * w + h, NOISE), obs=y)

    w = torch.tensor([5.0, -5.0], dtype=torch.float64)

    def guide(x, num_outputs, y=None):
        with pyro.plate("output", 2, dim=-1):
            pyro.sample("w", dist.Normal(w, SPREAD))
            with pyro.plate("row", 2, dim=-2):
                pyro.sample("h", dist.Normal(EFFECTS[:4].reshape(2, 2), SPREAD))

    fit = pc.as_fit(model, guide, X[:2], 2, torch.ones(2, 2, dtype=torch.float64))
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    tree = pc.predict(fit, x, 2, num_draws=NUM_DRAWS)
    assert_normal(tree.posterior["w"], w, SPREAD)
    assert_normal(tree.posterior["h"], 0.0, 1.0)
    sds = np.sqrt((x.numpy()[:, None] * SPREAD) ** 2 + 1 + NOISE**2)
    assert_normal(tree.predictions["y"], x[:, None] * w, sds)


# --- what else is asked for -----------------------------------------------------------------------


def test_computed_values_are_those_of_the_data_and_new_observations_are_new():
    def model(y=None):
        h = pyro.sample("h", dist.Normal(Y.new_zeros(()), 1.0))
        with pyro.plate("row", NUM_ROWS, dim=-1):
            seen = pyro.sample("y", dist.Normal(h, 1.0), obs=y)
            pyro.deterministic("residual", seen - h)

    fit = pc.as_fit(model, lambda y=None: pyro.sample("h", dist.Normal(Y.mean(), SPREAD)), Y)
    for tree in (pc.predict(fit, num_draws=50), pc.to_datatree(fit, num_draws=50)):
        exact = Y.numpy() - tree.posterior["h"].to_numpy()[..., None]
        np.testing.assert_allclose(tree.posterior["residual"], exact)


def test_data_that_the_model_does_not_run_on_are_named():
    def model(x, y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h * x, 1.0).to_event(1), obs=y)

    fit = pc.as_fit(model, lambda x, y: pyro.sample("h", dist.Normal(0.0, 1.0)), X, Y)
    with pytest.raises(ValueError, match=r"new_data: the model does not run on them \(TypeError"):
        pc.predict(fit, X)


def test_the_layout_is_that_of_the_posterior(fit):
    tree = pc.predict(fit, X[:2], num_draws=10, coords={"row": ["a", "b"]})
    assert tree.predictions["y"].dims == (*SAMPLE, "row")
    assert list(tree.predictions["row"].values) == ["a", "b"]
    assert tree.predictions_constant_data["x"].dims == ("row",)
    flat = pc.predict(fit, X[:2], num_draws=10, sample_dims=["sample"])
    assert flat.posterior["h"].dims == ("sample", "row")
    with pytest.raises(ValueError, match=r"coords: got 3 labels for 'row', expected 2"):
        pc.predict(fit, X[:2], num_draws=10, coords={"row": ["a", "b", "c"]})
    with pytest.raises(
        ValueError, match=r"num_draws: 10000000 draws fill 6 GiB, more than max_gib=1"
    ):
        pc.predict(fit, X, num_draws=10_000_000)
