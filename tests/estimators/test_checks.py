"""All estimators: scikit-learn's checks, pipelines, searches, frames, units, pickles, verdicts."""

import copy
import doctest
import inspect
import pickle
import random
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyro_cookbook as pc
from pyro_cookbook import estimators
from pyro_cookbook.data import InputError
from pyro_cookbook.estimators import (
    BayesianClassifier,
    BayesianRegressor,
    FactorAnalysis,
    GaussianMixture,
    SparseCoding,
    VariationalAutoencoder,
)

X, Y = load_iris(return_X_y=True)
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
# Small settings: the checks fit each some eighty times, to small tables.
CHECKED = {
    "mixture": GaussianMixture(),
    "variational mixture": GaussianMixture(2, inference="variational_bayes", n_init=1, max_iter=50),
    "factors": FactorAnalysis(max_iter=50),
    "sparse coding": SparseCoding(max_iter=3, code_tol=1e-4),
    "auto-encoder": VariationalAutoencoder(max_iter=1, hidden_layer_sizes=(3,)),
    "regressor": BayesianRegressor(),
    "classifier": BayesianClassifier(),
}
ESTIMATORS = {
    **CHECKED,
    "mixture": GaussianMixture(3, n_init=2),
    "probabilistic PCA": FactorAnalysis(isotropic=True, tol=1e-6),
    "sparse coding": SparseCoding(6, max_iter=5, rate=2.0, code_tol=1e-6),
    "auto-encoder": VariationalAutoencoder(max_iter=5, hidden_layer_sizes=(3,)),
    "factors": FactorAnalysis(tol=1e-5),
}
TRANSFORMERS = ["factors", "sparse coding", "auto-encoder"]
METHODS = ("predict", "predict_proba", "transform", "score_samples")


@pytest.fixture
def unconverged_is_fine():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def outputs(estimator, rows=X):
    return [getattr(estimator, name)(rows) for name in METHODS if hasattr(estimator, name)]


@pytest.mark.usefixtures("unconverged_is_fine")
@pytest.mark.parametrize("name", CHECKED)
def test_scikit_learn_finds_nothing_wrong(name):
    results = check_estimator(CHECKED[name], on_skip=None)  # a failure is raised
    counts = dict.fromkeys(("passed", "skipped", "failed", "xfail"), 0)
    for result in results:
        counts[result["status"]] += 1
    assert counts["passed"] >= 40
    assert (counts["failed"], counts["xfail"]) == (0, 0)
    # Left out by scikit-learn itself, unless SCIPY_ARRAY_API is set before SciPy is imported.
    skipped = [result["check_name"] for result in results if result["status"] == "skipped"]
    assert set(skipped) <= {"check_array_api_input"}


def test_every_public_estimator_is_checked():
    assert {type(one).__name__ for one in CHECKED.values()} == set(estimators.__all__)
    assert pc.estimators is estimators


def test_the_package_is_imported_without_scikit_learn():
    code = "import sys, pyro_cookbook; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", estimators.__all__)
def test_the_example_runs_and_every_parameter_is_documented(name):
    kind = getattr(estimators, name)
    text = inspect.getdoc(kind) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert any(part.want for part in example.examples)
    said: list[str] = []
    flags = doctest.NORMALIZE_WHITESPACE
    assert doctest.DocTestRunner(optionflags=flags).run(example, out=said.append).failed == 0, said
    documented, _, _ = text.partition("Attributes\n-------")
    for parameter in inspect.signature(kind).parameters:
        assert f"\n{parameter}" in documented or f", {parameter}" in documented, parameter


@pytest.mark.usefixtures("unconverged_is_fine")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_copy_says_the_same_and_nothing_global_has_moved(name):
    before = [np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()]  # noqa: NPY002
    fitted = clone(ESTIMATORS[name]).set_params(random_state=None).fit(X, Y)
    expected = outputs(fitted)
    for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        for one, two in zip(outputs(again), expected, strict=True):
            np.testing.assert_array_equal(one, two)
    if hasattr(fitted, "sample"):
        fitted.sample(3)
    after = [np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()]  # noqa: NPY002
    assert after == before


@pytest.mark.usefixtures("unconverged_is_fine")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_seed_fixes_the_numbers(name):
    one, two, other = (
        clone(ESTIMATORS[name]).set_params(random_state=seed).fit(X, Y)
        for seed in (7, np.random.RandomState(7), np.random.RandomState(7))
    )
    assert one.random_state == 7
    for a, b in zip(outputs(two), outputs(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("unconverged_is_fine")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_units_only_change_units(name):
    """Millimetres in place of metres, and another zero: the same fit, said in other units."""
    common = name in {"sparse coding", "probabilistic PCA"}  # one unit for all columns
    unit = np.full(4, 1000.0) if common else np.array([1000.0, 1e-3, 1.0, 20.0])
    moved = X * unit + 5 * unit
    plain = clone(ESTIMATORS[name]).fit(X, Y)
    other = clone(ESTIMATORS[name]).fit(moved, Y)
    if hasattr(plain, "predict"):
        np.testing.assert_allclose(other.predict(moved), plain.predict(X), rtol=1e-6)
    if hasattr(plain, "predict_proba"):
        np.testing.assert_allclose(other.predict_proba(moved), plain.predict_proba(X), atol=1e-6)
    if hasattr(plain, "score_samples"):
        expected = plain.score_samples(X) - np.log(unit).sum()
        np.testing.assert_allclose(other.score_samples(moved), expected, atol=2e-5)
        assert abs(other.score_samples(moved) - plain.score_samples(X)).min() > 1
    if hasattr(plain, "transform"):
        size = 1000.0 if name == "sparse coding" else 1.0
        expected = size * plain.transform(X)
        np.testing.assert_allclose(other.transform(moved), expected, atol=1e-5 * size)
        back = plain.inverse_transform(plain.transform(X)) * unit + 5 * unit
        shown = other.inverse_transform(other.transform(moved))
        np.testing.assert_allclose(shown, back, atol=1e-4 * unit.max())


@pytest.mark.usefixtures("unconverged_is_fine")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_single_precision_and_frames_come_back_as_they_went_in(name):
    frame = pd.DataFrame(X, columns=NAMES, index=[f"flower {n}" for n in range(len(X))])
    transformer = clone(ESTIMATORS[name]).set_output(transform="pandas").fit(frame)
    shown = transformer.transform(frame)
    assert list(shown.index) == list(frame.index)
    assert list(shown.columns) == list(transformer.get_feature_names_out())
    assert list(transformer.feature_names_in_) == NAMES
    plain = clone(ESTIMATORS[name]).fit(X)
    np.testing.assert_allclose(shown.to_numpy(), plain.transform(X), atol=1e-9)
    single = plain.transform(X.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, plain.transform(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_before_a_fit_there_is_no_verdict(name):
    for attribute in ("verdict_", "diagnosis_", "fit_"):
        with pytest.raises(NotFittedError):
            getattr(ESTIMATORS[name], attribute)
        assert not hasattr(ESTIMATORS[name], attribute)


def test_a_verdict_is_computed_when_asked_for_and_not_by_a_picture(monkeypatch):
    asked = []
    judge = pc.diagnose
    monkeypatch.setattr(
        "pyro_cookbook.estimators.base.diagnose",
        lambda fit, **options: asked.append(fit) or judge(fit, **options),
    )
    fitted = GaussianMixture(3).fit(X)
    assert "weights_" in fitted._repr_html_()
    assert asked == []
    assert (fitted.verdict_, fitted.diagnosis_.verdict) == ("reliable", "reliable")
    assert asked == [fitted.fit_]
    assert pickle.loads(pickle.dumps(fitted)).verdict_ == "reliable"
    assert len(asked) == 1  # a pickle keeps the diagnosis
    fitted.fit(X[:100])
    standardised = fitted.lower_bound_ + np.log(X[:100].std(0)).sum()
    assert fitted.diagnosis_.elbo.value == pytest.approx(100 * standardised)
    assert len(asked) == 2


def test_a_refit_leaves_nothing_of_the_fit_before():
    estimator = BayesianRegressor(family="student_t", guide="laplace").fit(X, Y)
    assert hasattr(estimator, "df_")
    estimator.set_params(family="normal").fit(X, Y)
    assert not hasattr(estimator, "df_")
    assert estimator.fit_.family == "LinearRegressionExact"


@pytest.mark.usefixtures("unconverged_is_fine")  # a noise falls to 0, slowly
def test_a_pipeline_and_a_grid_search():
    pipeline = make_pipeline(
        StandardScaler(), FactorAnalysis(max_iter=200), BayesianClassifier(guide="laplace")
    )
    search = GridSearchCV(pipeline, {"factoranalysis__n_components": [1, 3]}, cv=3).fit(X, Y)
    scores = dict(zip([1, 3], search.cv_results_["mean_test_score"], strict=True))
    assert search.best_params_ == {"factoranalysis__n_components": 3}
    assert scores[3] > 0.93
    assert scores[1] < scores[3]
    by_likelihood = GridSearchCV(GaussianMixture(n_init=2), {"n_components": [1, 3]}, cv=3)
    order = np.random.default_rng(0).permutation(len(X))
    assert by_likelihood.fit(X[order]).best_params_ == {"n_components": 3}


@pytest.mark.parametrize("name", ["mixture", "factors", "auto-encoder"])
def test_a_density_refuses_a_constant_column_by_name(name):
    frame = pd.DataFrame(X, columns=NAMES).assign(year=2024.0)
    with pytest.raises(InputError, match=r"^X: column 'year' is constant, .* VarianceThreshold"):
        clone(ESTIMATORS[name]).fit(frame)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (GaussianMixture(200), r"^n_components: got 200, expected at most n_samples=150$"),
        (GaussianMixture(inference="mcmc"), r"^inference: got 'mcmc', expected one of em, var"),
        (GaussianMixture(reg_covar=-1), r"^reg_covar: got -1, expected a positive number$"),
        (GaussianMixture(means_init=X[:1]), r"^weights_init: got none, expected weights_init, "),
        (
            GaussianMixture(2, weights_init=[1], means_init=X[:2], precisions_init=[np.eye(4)] * 2),
            r"^weights_init: got shape \(1,\), expected \(2,\)$",
        ),
        (
            GaussianMixture(weights_init=[1], means_init=X[:1], precisions_init=[-np.eye(4)]),
            r"^precisions_init: expected positive definite matrices$",
        ),
        (FactorAnalysis(5), r"^n_components: got 5, expected at most n_features=4$"),
        (FactorAnalysis(0), r"^n_components: got 0, expected a whole number of at least 1$"),
        (SparseCoding(rate=0), r"^rate: got 0, expected a positive number$"),
        (VariationalAutoencoder(likelihood="poisson"), r"^likelihood: got 'poisson', expected one"),
        (
            VariationalAutoencoder(likelihood="bernoulli"),
            r"^X: row 0, column 'x0': got 5\.1, expected a whole number from 0 to 1 \(\d+ such",
        ),
        (
            VariationalAutoencoder(likelihood="beta_binomial", total_count=3),
            r"^X: row 0, column 'x0': got 5\.1, expected a whole number from 0 to 3 \(\d+ such",
        ),
        (BayesianRegressor(family="cauchy"), r"^family: got 'cauchy', expected one of normal, st"),
        (BayesianRegressor(guide="flow"), r"^guide: got 'flow', expected one of auto, laplace"),
        (BayesianClassifier(coefficient_scale=0), r"^coefficient_scale: got 0, expected a pos"),
        (FactorAnalysis(random_state="one"), r"'one' cannot be used to seed"),
    ],
)
def test_what_cannot_serve_is_said_in_one_line(estimator, message):
    with pytest.raises(ValueError, match=message) as caught:
        estimator.fit(X, Y)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotFittedError):
        estimator.score(X, Y)


def test_too_large_and_one_class_are_said():
    with pytest.raises(InputError, match=r"^X: column 'x0' has entries too large to square"):
        FactorAnalysis(1).fit([[1e200, 1], [-1e200, 2], [3, 3]])
    with pytest.raises(InputError, match=r"^y: column 'y' has entries too large to square"):
        BayesianRegressor().fit(X[:3], [1e200, -1e200, 1])
    with pytest.raises(InputError, match=r"^y: got one class, 'setosa', expected two at least$"):
        BayesianClassifier().fit(X[:3], ["setosa"] * 3)


def test_what_has_not_converged_warns_and_verbose_says_how_it_ended(capsys):
    with pytest.warns(
        ConvergenceWarning, match=r"^FactorAnalysis has not converged: maximum likelihood, 2 it"
    ):
        FactorAnalysis(max_iter=2, verbose=True).fit(X)
    assert capsys.readouterr().out.startswith(
        "FactorAnalysis: maximum likelihood, 2 iterations, log likelihood -"
    )
    FactorAnalysis(tol=1e-5).fit(X)
    assert capsys.readouterr().out == ""
