"""Bayesian logistic regression, of two or more classes, as a classifier."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from scipy.linalg import helmert
from scipy.special import softmax
from scipy.stats import norm, qmc
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from models.logistic_regression import logistic_regression
from pyro_cookbook.data import InputError
from pyro_cookbook.estimators.base import Array, Judged, as_array, of_choice
from pyro_cookbook.estimators.bayesian_regressor import GAUSSIANS
from pyro_cookbook.estimators.linear_programs import softmax_regression
from pyro_cookbook.estimators.units import measure_units
from pyro_cookbook.fits.fitting import fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.options import check_positive
from pyro_cookbook.programs.state.isolation import isolated

_NUM_DRAWS, _NUM_NODES = 4000, 512
_CHUNK_ROWS = 256


class BayesianClassifier(ClassifierMixin, Judged):  # type: ignore[misc]
    """Logistic regression whose probabilities are averaged over the posterior.

    With columns standardised, the log odds of any two classes have an intercept
    ~ N(0, intercept_scale) and coefficients ~ N(0, coefficient_scale).

    Parameters
    ----------
    intercept_scale, coefficient_scale : float, default 5 and 2.5
        Prior standard deviations, in log odds for a change of one sd of a column.
    guide : str, default "auto"
        The family of the approximation, as for `pyro_cookbook.fit`: "auto" (full rank, with many
        numbers low rank), "full_rank", "low_rank", "mean_field", "whitened_mean_field" or
        "laplace".
    random_state : int, RandomState or None, default 0
        Of the fit, and of the 4,000 draws behind means and standard deviations.
    device : torch.device or str, optional
    verbose : bool, default False

    Attributes
    ----------
    classes_ : array, shape (K,)
    coef_, intercept_ : array, shapes (1, D) and (1,); (K, D) and (K,) with more than two classes
        Posterior means, in log odds for a unit of a column: of the second class against the first;
        with more classes they sum to 0 over the classes.
    coef_scale_, intercept_scale_ : array
        Posterior standard deviations, of the same shapes.
    fit_, diagnosis_, verdict_
        See `pyro_cookbook.diagnose`; made when first asked for.

    Raises
    ------
    InputError
        If there is one class only.

    Notes
    -----
    The probabilities of a row far from the data are nearer to even than at the mode, as they should
    be. There is no `decision_function`: a score without its spread orders rows differently.

    References
    ----------
    Jaakkola and Jordan (2000), doi:10.1023/A:1008932416310. MacKay (1992),
    doi:10.1162/neco.1992.4.5.720, for the averages.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from pyro_cookbook.estimators import BayesianClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = BayesianClassifier().fit(X, y)
    >>> classifier.predict_proba(X[:1]).round(2)
    array([[0.99, 0.01, 0.  ]])
    """

    def __init__(
        self,
        *,
        intercept_scale: float = 5.0,
        coefficient_scale: float = 2.5,
        guide: str = "auto",
        random_state: Any = 0,
        device: Any = None,
        verbose: bool = False,
    ) -> None:
        self.intercept_scale = intercept_scale
        self.coefficient_scale = coefficient_scale
        self.guide = guide
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to rows and their classes.

        Parameters
        ----------
        X : array-like, shape (n, D)
        y : array-like, shape (n,)
            Classes: numbers or words.
        """
        self._seed = self._begin()
        of_choice("guide", self.guide, GAUSSIANS)
        check_positive(
            intercept_scale=self.intercept_scale, coefficient_scale=self.coefficient_scale
        )
        rows, labels = validate_data(
            self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=2
        )
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y: got one class, {str(self.classes_[0])!r}, expected two at least")
        rows = rows.astype(np.float64)
        self._units = measure_units(rows, self._names())
        self._data = self._units.standardise(rows), codes
        found = self._fit_result = self._make_fit()
        self._summarise(found)
        return self._end(found.converged, f"{found.family}: {found.reason}")

    def _contrasts(self) -> Array:
        """C, shape (K, K − 1): from the numbers of the model to a score for each class."""
        if len(self.classes_) == 2:
            return np.array([[-0.5], [0.5]])
        return np.asarray(helmert(len(self.classes_)).T)

    def _make_fit(self) -> Fit:
        x = self._tensor(self._data[0])
        options: dict[str, Any] = {
            "intercept_scale": self.intercept_scale, "coefficient_scale": self.coefficient_scale
        }  # fmt: skip
        if len(self.classes_) == 2:
            program: Any = logistic_regression
            y = self._tensor(self._data[1])
        else:
            program = softmax_regression
            y = torch.as_tensor(self._data[1], device=x.device)
            options["contrasts"] = self._tensor(self._contrasts())
        return fit(
            program, self.guide, x, y, data_kwargs=options, seed=self._seed,
            progress=bool(self.verbose),
        )  # fmt: skip

    def _summarise(self, found: Fit) -> None:
        """Take mean and covariance of the guide's draws, and report them in the units of X."""
        with isolated(self._seed, found.param_state):
            drawn = draw(found.programs.guide, _NUM_DRAWS).values
        num = len(self.classes_) - 1
        shape = (_NUM_DRAWS, num, -1)
        parts = [as_array(drawn[name]).reshape(shape) for name in ("intercept", "coefficient")]
        beta = np.concatenate(parts, axis=2)
        self._mean = beta.mean(0)
        apart = (beta - self._mean).reshape(_NUM_DRAWS, -1)
        covariance = apart.T @ apart / _NUM_DRAWS
        self._covariance = covariance.reshape(num, beta.shape[2], num, beta.shape[2])
        raw = beta / np.concatenate([[1.0], self._units.scale])
        raw[:, :, 0] -= raw[:, :, 1:] @ self._units.loc
        if num > 1:
            raw = self._contrasts() @ raw
        mean, scale = raw.mean(0), raw.std(0)
        self.intercept_, self.coef_ = mean[:, 0], mean[:, 1:]
        self.intercept_scale_, self.coef_scale_ = scale[:, 0], scale[:, 1:]

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Give the probability of each class, averaged over the posterior.

        Parameters
        ----------
        X : array-like, shape (n, D)
        return_std : bool, default False
            Give the posterior standard deviations of the probabilities as well.

        Returns
        -------
        probability : array, shape (n, K)
            Rows sum to 1.
        std : array, shape (n, K)
            If `return_std`.
        """
        rows = self._rows(X)
        z = self._units.standardise(rows)
        columns = np.concatenate([np.ones_like(z[:, :1]), z], axis=1)
        found = list(self._averages(columns))
        mean = np.concatenate([one for one, _ in found])
        if not return_std:
            return mean
        return mean, np.concatenate([two for _, two in found])

    def _averages(self, columns: Array) -> Iterator[tuple[Array, Array]]:
        """Mean and sd of the probabilities under the normal law of each row's scores."""
        nodes, weights = _nodes(len(self.classes_) - 1)
        contrasts = self._contrasts()
        for first in range(0, len(columns), _CHUNK_ROWS):
            part = columns[first : first + _CHUNK_ROWS]
            loc = part @ self._mean.T
            covariance = np.einsum("np,kplq,nq->nkl", part, self._covariance, part, optimize=True)
            values, vectors = np.linalg.eigh(covariance)  # a root that rounding cannot break
            root = vectors * np.sqrt(values.clip(0))[:, None, :]
            scores = loc[:, None] + nodes @ root.swapaxes(1, 2)
            shares = softmax(scores @ contrasts.T, axis=2)
            mean = np.einsum("s,nsk->nk", weights, shares)
            variance = np.einsum("s,nsk->nk", weights, (shares - mean[:, None]) ** 2)
            yield mean / mean.sum(1, keepdims=True), np.sqrt(variance)

    def predict_log_proba(self, X: Any) -> Array:
        """Give the logs of the probabilities, shape (n, K)."""
        return np.asarray(np.log(self.predict_proba(X)))

    def predict(self, X: Any) -> Any:
        """Give the likeliest class of each row, shape (n,)."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]


def _nodes(num: int) -> tuple[Array, Array]:
    """Nodes and weights of a standard normal in so many dimensions, shapes (S, num) and (S,).

    In one dimension Gauss and Hermite's; in more, scrambled Sobol points and their mirror images.
    """
    if num == 1:
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        return nodes[:, None], weights / weights.sum()
    points = qmc.Sobol(num, rng=np.random.default_rng(0)).random(_NUM_NODES // 2)
    half = norm.ppf(points)
    return np.concatenate([half, -half]), np.full(_NUM_NODES, 1 / _NUM_NODES)
