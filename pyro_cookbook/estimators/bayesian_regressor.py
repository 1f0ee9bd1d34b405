"""Bayesian linear regression as a regressor whose predictions have a spread."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data

from pyro_cookbook.algorithms.linear_regression import (
    LinearPrior,
    linear_posterior,
)
from pyro_cookbook.estimators.base import Array, Judged, as_array, of_choice, on_device
from pyro_cookbook.estimators.linear_programs import (
    LinearRegressionExact,
    linear_regression,
    student_t_regression,
)
from pyro_cookbook.estimators.units import measure_units
from pyro_cookbook.fits.fitting import as_fit, fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.options import check_positive
from pyro_cookbook.programs.state.isolation import isolated

NORMAL, STUDENT_T = "normal", "student_t"
GAUSSIANS = ("auto", "laplace", "mean_field", "whitened_mean_field", "low_rank", "full_rank")
# Of 1 / σ², standardised: flat in log σ but for noise below a thousandth of the outcome's sd.
_SHAPE, _RATE = 0.01, 1e-6
_NUM_DRAWS = 4000


class BayesianRegressor(RegressorMixin, Judged):  # type: ignore[misc]
    """Linear regression with normal or Student's t noise, and a posterior for all its numbers.

    With columns and outcome standardised: intercept ~ N(0, intercept_scale),
    coefficient ~ N(0, coefficient_scale), 1 / noise² ~ Gamma(0.01, 1e-6); and for Student's t
    ν − 2 ~ Gamma(2, 0.1). All is reported in the units given.

    Parameters
    ----------
    family : {"normal", "student_t"}, default "normal"
        Of the noise. Normal: the exact posterior. Student's t heeds outliers less, and is fitted by
        `pyro_cookbook.fit`.
    intercept_scale, coefficient_scale : float, default 5 and 2.5
        Prior standard deviations, in standardised units.
    guide : str, default "auto"
        Student's t: the family of the approximation, as for `pyro_cookbook.fit`: "auto",
        "full_rank", "low_rank", "mean_field", "whitened_mean_field" or "laplace".
    random_state : int, RandomState or None, default 0
        Student's t: of the fit, and of the 4,000 draws behind means and standard deviations.
    device : torch.device or str, optional
    verbose : bool, default False

    Attributes
    ----------
    coef_ : array, shape (D,)
    intercept_ : float
        Posterior means, in the units of y per unit of a column.
    coef_scale_, intercept_scale_ : array, shape (D,), and float
        Posterior standard deviations.
    covariance_ : array, shape (D + 1, D + 1)
        Of intercept and coefficients, the intercept first.
    noise_scale_ : float
        Posterior mean of σ, in the units of y; for Student's t its scale.
    df_ : float
        Student's t: posterior mean of ν.
    fit_, diagnosis_, verdict_
        See `pyro_cookbook.diagnose`; made when first asked for.

    Notes
    -----
    A constant column has the prior for its coefficient's posterior. The prior's scales follow the
    data's own sds: two fits have the same prior only in those units.

    References
    ----------
    Gelman et al. (2013), *Bayesian Data Analysis*, chapters 14 and 17.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from pyro_cookbook.estimators import BayesianRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> regressor = BayesianRegressor().fit(X, y)
    >>> mean, scale = regressor.predict(X[:1], return_std=True)
    >>> print(f"{mean[0]:.0f} ± {scale[0]:.0f}, R² {regressor.score(X, y):.2f}")
    206 ± 55, R² 0.52
    """

    def __init__(
        self,
        *,
        family: str = NORMAL,
        intercept_scale: float = 5.0,
        coefficient_scale: float = 2.5,
        guide: str = "auto",
        random_state: Any = 0,
        device: Any = None,
        verbose: bool = False,
    ) -> None:
        self.family = family
        self.intercept_scale = intercept_scale
        self.coefficient_scale = coefficient_scale
        self.guide = guide
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Find the posterior.

        Parameters
        ----------
        X : array-like, shape (n, D)
        y : array-like, shape (n,)
        """
        self._seed = self._begin()
        of_choice("family", self.family, (NORMAL, STUDENT_T))
        of_choice("guide", self.guide, GAUSSIANS)
        check_positive(
            intercept_scale=self.intercept_scale, coefficient_scale=self.coefficient_scale
        )
        rows, outcome = validate_data(
            self, X, y, dtype=[np.float64, np.float32], y_numeric=True, ensure_min_samples=2
        )
        rows, outcome = rows.astype(np.float64), outcome.astype(np.float64)
        self._units = measure_units(rows, self._names())
        self._of_y = measure_units(outcome[:, None], ["y"], argument="y")
        self._data = (
            self._units.standardise(rows), self._of_y.standardise(outcome[:, None])[:, 0]
        )  # fmt: skip
        if self.family == NORMAL:
            return self._end(True, self._exactly())
        return self._end(*self._approximately())

    def _prior(self) -> LinearPrior:
        scale = np.full(self.n_features_in_ + 1, self.coefficient_scale)
        scale[0] = self.intercept_scale
        return LinearPrior(self._tensor(scale), _SHAPE, _RATE)

    def _exactly(self) -> str:
        """Find the exact posterior, under normal noise."""
        x, y = map(self._tensor, self._data)
        found = linear_posterior(x, y, self._prior())
        self._posterior = on_device(found, None)
        mean, covariance = map(as_array, found.moments())
        self._report(mean, covariance, found.expected(1), found.expected(2))
        return f"exact posterior, log evidence {found.log_evidence:.4f} nats, standardised"

    def _approximately(self) -> tuple[bool, str]:
        """Fit a Gaussian family, under Student's t, and take moments of its draws."""
        found = self._make_fit()
        self._fit_result = found
        with isolated(self._seed, found.param_state):
            drawn = draw(found.programs.guide, _NUM_DRAWS).values
        beta = as_array(drawn["beta"]).reshape(_NUM_DRAWS, -1)
        sigma = as_array(drawn["precision"]).reshape(-1) ** -0.5
        excess = as_array(drawn["excess"]).reshape(-1)
        variance = float((sigma**2 * (2 + excess) / excess).mean())
        covariance = np.cov(beta.T)
        self._report(beta.mean(0), covariance, float(sigma.mean()), variance)
        self.df_ = float(2 + excess.mean())
        return found.converged, f"{found.family}: {found.reason}"

    def _report(self, mean: Array, covariance: Array, sigma: float, variance: float) -> None:
        """Set what is reported, in the units given."""
        self._mean, self._covariance, self._noise_variance = mean, covariance, variance
        x, y = self._units, self._of_y
        unit = float(y.scale[0])
        # Intercept and coefficients of the raw columns: y = y.loc + unit βᵀ(1, (x − loc) / scale).
        to_raw = np.diag(np.concatenate([[1.0], 1 / x.scale]))
        to_raw[0, 1:] = -x.loc / x.scale
        raw = unit * (to_raw @ mean)
        self.covariance_ = unit**2 * to_raw @ covariance @ to_raw.T
        self.coef_, self.intercept_ = raw[1:], float(raw[0] + y.loc[0])
        scales = np.sqrt(np.diagonal(self.covariance_).clip(0))
        self.coef_scale_, self.intercept_scale_ = scales[1:], float(scales[0])
        self.noise_scale_ = sigma * unit

    def predict(
        self, X: Any, return_std: bool = False
    ) -> npt.NDArray[Any] | tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Give the posterior predictive mean of each row's outcome, in the units of y.

        Parameters
        ----------
        X : array-like, shape (n, D)
        return_std : bool, default False
            Give the standard deviations as well: of a new outcome, its noise included.

        Returns
        -------
        mean : array, shape (n,)
        std : array, shape (n,)
            If `return_std`.
        """
        rows = self._rows(X)
        z = self._units.standardise(rows)
        columns = np.concatenate([np.ones_like(z[:, :1]), z], axis=1)
        unit = self._of_y.scale[0]
        mean = np.asarray(self._of_y.loc[0] + unit * (columns @ self._mean), dtype=rows.dtype)
        if not return_std:
            return mean
        spread = ((columns @ self._covariance) * columns).sum(1).clip(0)
        return mean, (unit * np.sqrt(spread + self._noise_variance)).astype(rows.dtype)

    def _make_fit(self) -> Fit:
        x, y = map(self._tensor, self._data)
        prior: dict[str, Any] = vars(self._prior())
        if self.family == STUDENT_T:
            return fit(
                student_t_regression, self.guide, x, y, data_kwargs=prior, seed=self._seed,
                progress=bool(self.verbose),
            )  # fmt: skip
        with isolated(0):
            guide = LinearRegressionExact(on_device(self._posterior, self.device))
        return as_fit(
            linear_regression, guide, x, y, data_kwargs=prior, reason="the exact posterior"
        )
