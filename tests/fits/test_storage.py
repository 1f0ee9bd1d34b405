"""Saving, loading and predicting."""

import pickle
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from guides.factor_analysis import FactorAnalysisAmortized, FactorAnalysisMeanField
from models.factor_analysis import FactorAnalysis
from pyro_cookbook import catalogue, data


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(x.new_tensor(0.0), 2.0))
    with pyro.plate("row", len(x), dim=-1):
        return pyro.sample("y", dist.Normal(slope * x, 0.3), obs=y)


@pytest.fixture(scope="module")
def points():
    x = torch.linspace(-1, 1, 25, dtype=torch.float64)
    return x, 1.5 * x + 0.3 * torch.randn(25, generator=torch.Generator().manual_seed(0)).double()


def draws(fit):
    tree = pc.to_datatree(fit, num_draws=20)
    return {name: value.to_numpy() for name, value in tree.posterior.data_vars.items()}


@pytest.mark.parametrize(
    ("recipe", "guide"), [(r.name, g) for r in catalogue.RECIPES for g in r.guides]
)
def test_every_fit_of_the_catalogue_comes_back(recipe, guide, tmp_path):
    entry = catalogue.recipe(recipe)
    rows = entry.rows(data.load(entry.data))
    prepared = entry.guides[guide].prepare(rows, entry.size, 0)
    prepared.options["max_steps"] = 450
    fit = prepared.fit()
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt")
    before, after = draws(fit), draws(again)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (again.elbo, again.reason, again.restarts) == (fit.elbo, fit.reason, fit.restarts)
    np.testing.assert_array_equal(again.losses, fit.losses)


@pytest.mark.parametrize("family", ["map", "laplace", "mean_field", "full_rank"])
def test_a_fit_of_ones_own_model_needs_the_model(family, points, tmp_path):
    fit = pc.fit(line, family, *points, max_steps=500)
    pc.save(fit, tmp_path / "fit.pt")
    with pytest.raises(ValueError, match=r"its model is .*line.*pass it: load\(path, model=…\)"):
        pc.load(tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=line)
    assert np.array_equal(draws(fit)["slope"], draws(again)["slope"])


@pytest.mark.parametrize("family", ["low_rank", "whitened_mean_field", "flow", "response"])
def test_families_that_are_kept_in_another_shape_come_back(family, tmp_path):
    """Also a factor of another rank than Pyro's own, a flow's fixed map, the mended covariance."""

    def model(y):
        h = pyro.sample("h", dist.Normal(y.new_zeros(9), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(h.sum(-1), 0.5), obs=y)

    y = torch.tensor(2.0, dtype=torch.float64)
    if family == "response":
        fit = pc.linear_response(pc.fit(model, "mean_field", y))
    else:
        fit = pc.fit(model, family, y, max_steps=400)
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=model)
    before, after = draws(fit)["h"], draws(again)["h"]
    np.testing.assert_array_equal(before, after)
    assert len(np.unique(before)) == before.size
    assert again.family == fit.family


def test_what_a_fit_says_of_itself_comes_back(tmp_path):
    def schools(y):
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("school", len(y), dim=-1):
            theta = pyro.sample("theta", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(theta**2, 0.5), obs=y)  # either sign

    y = torch.tensor([4.0, 4.5], dtype=torch.float64)
    fit = pc.fit(schools, "mean_field", y, noncentred=["theta"])
    assert len(fit.modes) > 1
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=schools)
    for name in ("modes", "engine", "why", "lost_starts", "noncentred", "reason", "converged"):
        assert getattr(again, name) == getattr(fit, name), name
    assert again.noncentred == ("theta",)
    assert (again.engine, again.why[:10]) == ("deterministic", "continuous")


def test_parameters_outside_modules_come_back(points, tmp_path):
    def guide(x, y=None):
        loc = pyro.param("loc", x.new_tensor(0.0))
        scale = pyro.param("scale", x.new_tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("slope", dist.Normal(loc, scale))

    fit = pc.fit(line, guide, *points, max_steps=600)
    pc.save(fit, tmp_path / "fit.pt")
    again = pc.load(tmp_path / "fit.pt", model=line, guide=guide)
    assert np.array_equal(draws(fit)["slope"], draws(again)["slope"])
    assert draws(again)["slope"].mean() > 0.5  # the start has mean 0


def test_a_fresh_process_loads_it(tmp_path, wine):
    fit = pc.fit(FactorAnalysis(13, 2), FactorAnalysisAmortized(13, 2), wine, max_steps=450)
    path = tmp_path / "fit.pt"
    pc.save(fit, path)
    code = (
        "import sys, pyro_cookbook as pc\n"
        "fit = pc.load(sys.argv[1])\n"
        "print(float(pc.to_datatree(fit, num_draws=20).posterior.h.sum()))\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(float(draws(fit)["h"].sum()), rel=1e-9)


def test_loading_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "bomb.pt"
    with path.open("wb") as file:
        pickle.dump({"kind": "fit", "x": Bomb()}, file)
    with pytest.raises(ValueError, match="not a readable fit"):
        pc.load(path)
    torch.save({"kind": "fit", "x": Bomb()}, path)
    with pytest.raises(ValueError, match="not a readable fit"):
        pc.load(path)
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path, points):
    with pytest.raises(FileNotFoundError, match="no such file"):
        pc.load(tmp_path / "none.pt")
    fit = pc.fit(line, "full_rank", *points, max_steps=450)
    pc.save(fit, tmp_path / "fit.pt")
    content = (tmp_path / "fit.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        pc.load(tmp_path / "cut.pt", model=line)
    with pytest.raises(ValueError, match="guide: does not fit the parameters"):
        pc.load(tmp_path / "fit.pt", model=line, guide=FactorAnalysisAmortized(3, 2))


def test_an_argument_that_cannot_be_saved_is_named_and_the_old_file_stays(tmp_path, points):
    path = tmp_path / "fit.pt"
    path.write_text("old")
    model = lambda x, y, f: line(x, y)  # noqa: E731
    guide = lambda x, y, f: pyro.sample("slope", dist.Normal(x.new_tensor(1.0), 0.1))  # noqa: E731
    fit = pc.as_fit(model, guide, *points, data_kwargs={"f": object()})
    with pytest.raises(TypeError, match="f: cannot save a object"):
        pc.save(fit, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- predict -----------------------------------------------------------------------------------


def test_predictions_at_new_inputs_have_the_right_mean_and_spread(points):
    fit = pc.fit(line, "full_rank", *points)
    new = torch.tensor([0.0, 2.0], dtype=torch.float64)
    tree = pc.predict(fit, new, num_draws=4000)
    y = tree.predictions.y
    assert y.dims == ("sample", "row")
    x, seen = points
    precision = 1 / 4 + float(x @ x) / 0.09
    slope, sd = float(x @ seen) / 0.09 / precision, precision**-0.5
    assert y.mean("sample").to_numpy() == pytest.approx([0, 2 * slope], abs=0.05)
    spread = [0.3, np.hypot(0.3, 2 * sd)]
    assert y.std("sample").to_numpy() == pytest.approx(spread, rel=0.1)
    np.testing.assert_array_equal(tree.predictions_constant_data.x, new)


def test_observations_that_are_given_are_not_echoed(points):
    fit = pc.fit(line, "full_rank", *points, max_steps=800)
    x, y = points
    drawn = pc.predict(fit, x, y, num_draws=200).predictions.y
    assert (drawn.std("sample") > 0.2).all()
    alone = pc.predict(fit, num_draws=200).predictions.y  # the training data
    assert alone.sizes["row"] == len(x)
    assert (alone.std("sample") > 0.2).all()


def test_an_amortized_guide_infers_rows_it_has_not_seen(wine):
    programs = FactorAnalysis(13, 3), FactorAnalysisAmortized(13, 3)
    fit = pc.fit(*programs, wine[:150], max_steps=3000)
    tree = pc.predict(fit, wine[150:], num_draws=300)
    assert tree.posterior.h.shape == (300, 28, 3)
    error = tree.predictions.v.mean("sample").to_numpy() - wine[150:].numpy()
    assert np.square(error).mean() < 0.75 * np.square(wine[150:].numpy()).mean()


def test_a_guide_with_a_factor_for_each_row_refuses_new_rows(wine):
    model = FactorAnalysis(13, 2).requires_grad_(False)
    fit = pc.fit(model, FactorAnalysisMeanField(178, 2), wine, max_steps=450)
    with pytest.raises(ValueError, match="amortized"):
        pc.predict(fit, wine[:5])
    family = pc.fit(model, "mean_field", wine, max_steps=450)
    with pytest.raises(ValueError, match=r"site 'h' was fitted with shape \(178, 2\)"):
        pc.predict(family, wine[:5])
