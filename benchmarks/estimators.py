"""The estimators under scikit-learn's own checks, in a pipeline and in a grid search.

Run ``.venv/bin/python benchmarks/estimators.py``; it prints the tables and writes
``benchmarks/estimators.md``. The checks are `sklearn.utils.estimator_checks.check_estimator`, with
no failure expected; each fits the estimator some eighty times, to small tables.
"""

import os

os.environ["SCIPY_ARRAY_API"] = "1"  # before SciPy: else scikit-learn leaves a check out

import time
import warnings
from collections import Counter
from pathlib import Path

import sklearn
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from pyro_cookbook.estimators import (
    BayesianClassifier,
    BayesianRegressor,
    FactorAnalysis,
    GaussianMixture,
    SparseCoding,
    VariationalAutoencoder,
)

ESTIMATORS = [
    GaussianMixture(),
    GaussianMixture(2, inference="variational_bayes"),
    FactorAnalysis(),
    SparseCoding(),
    VariationalAutoencoder(max_iter=20),
    BayesianRegressor(),
    BayesianRegressor(family="student_t"),
    BayesianClassifier(),
]


def checked(estimator) -> str:
    """One line of the table: what the checks found."""
    started = time.perf_counter()
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    seconds = time.perf_counter() - started
    counts = Counter(result["status"] for result in results)
    why = "; ".join(
        f"{result['check_name']}: {result['exception']}"
        for result in results
        if result["status"] != "passed"
    )
    assert counts["passed"] + counts["failed"] + counts["skipped"] == len(results)
    return (
        f"| `{' '.join(repr(estimator).split())}` | {counts['passed']} | {counts['failed']} |"
        f" {counts['skipped']} | {seconds:.0f} | {why or '–'} |"
    )


def in_use() -> list[str]:
    """A pipeline by cross-validation, and two searches over the number of components."""
    x, y = load_breast_cancer(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), FactorAnalysis(), BayesianClassifier())
    scores = cross_val_score(pipeline, x, y)
    lines = [
        "`cross_val_score(make_pipeline(StandardScaler(), FactorAnalysis(), BayesianClassifier()))`"
        f" on breast_cancer, five folds: accuracy {scores.mean():.3f},"
        f" {scores.min():.3f} to {scores.max():.3f}.",
        "",
        "`GridSearchCV` of the same over the factors, and of `FactorAnalysis` alone by the held-out"
        " log likelihood of wine, in nats a row:",
        "",
        "| factors | accuracy, breast_cancer | log likelihood, wine |",
        "|---|---|---|",
    ]
    sizes = [1, 2, 3, 4, 5]
    search = GridSearchCV(pipeline, {"factoranalysis__n_components": sizes}).fit(x, y)
    wine = load_wine().data
    folds = KFold(5, shuffle=True, random_state=0)  # its rows are in the order of the classes
    other = GridSearchCV(FactorAnalysis(), {"n_components": sizes}, cv=folds).fit(wine)
    for size, one, two in zip(
        sizes,
        search.cv_results_["mean_test_score"],
        other.cv_results_["mean_test_score"],
        strict=True,
    ):
        lines.append(f"| {size} | {one:.3f} | {two:.3f} |")
    lines += [
        "",
        f"Best: {search.best_params_['factoranalysis__n_components']} and"
        f" {other.best_params_['n_components']}. Verdict of the best pipeline's classifier:"
        f" {search.best_estimator_[-1].verdict_}.",
    ]
    return lines


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", module="sklearn")
    lines = [
        "# The estimators under scikit-learn's own checks",
        "",
        "`python benchmarks/estimators.py`: `check_estimator` of scikit-learn"
        f" {sklearn.__version__} with no failure expected, one thread.",
        "",
        "| estimator | passed | failed | skipped | seconds | which, and why |",
        "|---|---|---|---|---|---|",
    ]
    for estimator in ESTIMATORS:
        lines.append(checked(estimator))
        print(lines[-1], flush=True)
    found = in_use()
    print("\n".join(found))
    text = "\n".join([*lines, "", "## In use", "", *found, ""])
    (Path(__file__).parent / "estimators.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
