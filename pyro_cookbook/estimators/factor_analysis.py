"""Factor analysis and probabilistic PCA as a transformer with a likelihood."""

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from guides.factor_analysis import FactorAnalysisAmortized
from models import factor_analysis as models
from pyro_cookbook.algorithms.factor_analysis import (
    FactorAnalysisParameters,
    log_evidence,
    maximise,
    posterior,
)
from pyro_cookbook.data import InputError
from pyro_cookbook.estimators.base import Array, Judged, as_array, on_device, seed_of
from pyro_cookbook.estimators.units import measure_units
from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.options import check_positive, check_whole
from pyro_cookbook.programs.state.holding import hold
from pyro_cookbook.programs.state.isolation import isolated


class FactorAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Judged):  # type: ignore[misc]
    """Few hidden factors explain the correlations of many columns, at the largest likelihood.

    A row is v = mean + hᵀ components + noise, with h ~ N(0, I) and independent normal noise. The
    factors are turned so that their posterior is a product (componentsᵀ Ψ⁻¹ components diagonal,
    the strongest factor first, its largest loading positive): without that they are known up to a
    rotation only.

    Parameters
    ----------
    n_components : int, default 2
        Factors, at most the number of columns.
    isotropic : bool, default False
        One noise scale for all columns, in the units given: probabilistic PCA.
    tol : float, default 1e-8
        Stop when an iteration raises the log likelihood by less than `tol` relative.
    max_iter : int, default 10_000
        Of L-BFGS over the noise of the columns; the isotropic maximum is known without.
    random_state : int, RandomState or None, default 0
        Of what `sample` draws; the fit draws nothing.
    device : torch.device or str, optional
        Where to compute.
    verbose : bool, default False
        Say how the fit ended.

    Attributes
    ----------
    components_ : array, shape (K, D)
        Loadings, in units of the columns.
    mean_ : array, shape (D,)
    noise_variance_ : array, shape (D,)
        In squared units, as in scikit-learn.
    noise_scale_ : array, shape (D,)
        Its root, in units of the columns.
    posterior_scale_ : array, shape (K,)
        Standard deviation of each factor given a row, the same for all rows; the factors are
        independent given a row.
    loglike_ : list of float
        Total log likelihood of the start and after every iteration, in nats, in the units of the
        columns.
    n_iter_ : int
    converged_ : bool
    fit_, diagnosis_, verdict_
        See `pyro_cookbook.diagnose`; made when first asked for.

    Raises
    ------
    InputError
        For more factors than columns, or a constant column.

    Notes
    -----
    The columns are standardised inside (by one common scale if `isotropic`), and all is reported in
    the units given. With as many factors as a set of collinear columns has dimensions, or as rows,
    the noise of some column falls to 0 and the likelihood has no bound; it stays above 10⁻⁸ of the
    column's variance.

    References
    ----------
    Jöreskog (1967), doi:10.1007/BF02289658. Tipping and Bishop (1999),
    doi:10.1111/1467-9868.00196.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from pyro_cookbook.estimators import FactorAnalysis
    >>> X = load_wine().data
    >>> factors = FactorAnalysis(n_components=3).fit(X)
    >>> factors.transform(X).shape
    (178, 3)
    >>> print(f"{factors.score(X):.2f} nats a row")
    -19.18 nats a row
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        isotropic: bool = False,
        tol: float = 1e-8,
        max_iter: int = 10_000,
        random_state: Any = 0,
        device: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.isotropic = isotropic
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to rows.

        Parameters
        ----------
        X : array-like, shape (n, D)
        y : ignored
        """
        self._begin()
        check_whole(1, n_components=self.n_components, max_iter=self.max_iter)
        check_positive(tol=self.tol)
        rows = self._rows(X, reset=True, least=2).astype(np.float64)
        if self.n_components > rows.shape[1]:
            raise InputError(
                f"n_components: got {self.n_components}, expected at most"
                f" n_features={rows.shape[1]}"
            )
        units = measure_units(rows, self._names(), common=self.isotropic, allow_constant=False)
        self._units, self._data = units, units.standardise(rows)
        found = maximise(
            self._tensor(self._data), self.n_components, isotropic=self.isotropic, tol=self.tol,
            max_iterations=self.max_iter,
        )  # fmt: skip
        self._theta = on_device(_turned(found.theta), None)
        self.loglike_ = [value - len(rows) * units.log_volume for value in found.log_evidence]
        self.n_iter_ = max(len(self.loglike_) - 1, 1)
        self.converged_ = found.converged
        self._report()
        return self._end(
            self.converged_,
            f"maximum likelihood, {self.n_iter_} iterations, log likelihood"
            f" {self.loglike_[-1]:.4f} nats",
        )

    def _report(self) -> None:
        """Set what is reported, in the reader's units."""
        units, theta = self._units, self._theta
        self.components_ = (as_array(theta.W) * units.scale[:, None]).T
        self.mean_ = units.restore(as_array(theta.b))
        self.noise_scale_ = as_array(theta.scale.expand(len(theta.W))) * units.scale
        self.noise_variance_ = self.noise_scale_**2
        covariance = posterior(theta, theta.b[None])[1]
        self.posterior_scale_ = as_array(covariance.diagonal().sqrt())

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def transform(self, X: Any) -> Array:
        """Give the posterior means of the factors, shape (n, K)."""
        rows = self._rows(X)
        v = self._tensor(self._units.standardise(rows))
        found = posterior(on_device(self._theta, self.device), v)[0]
        return as_array(found).astype(rows.dtype)

    def inverse_transform(self, X: Any) -> Array:
        """Give the expected rows of factors, shape (n, D), from factors of shape (n, K)."""
        check_is_fitted(self)
        h = check_array(X, dtype=[np.float64, np.float32])
        return np.asarray(h @ self.components_ + self.mean_, dtype=h.dtype)

    def score_samples(self, X: Any) -> Array:
        """Give log p(v) of every row, in nats, in the units of the columns, shape (n,)."""
        rows = self._rows(X)
        v = self._tensor(self._units.standardise(rows))
        values = as_array(log_evidence(on_device(self._theta, self.device), v))
        return values - self._units.log_volume

    def score(self, X: Any, y: Any = None) -> float:
        """Give the mean log likelihood of the rows, in nats."""
        return float(self.score_samples(X).mean())

    def get_covariance(self) -> Array:
        """Give the covariance of a row under the model, shape (D, D)."""
        check_is_fitted(self)
        return np.asarray(self.components_.T @ self.components_ + np.diag(self.noise_variance_))

    def sample(self, n_samples: int = 1) -> Array:
        """Draw rows from the model, shape (n_samples, D); the same for the same `random_state`."""
        check_is_fitted(self)
        check_whole(1, n_samples=n_samples)
        rng = np.random.default_rng(seed_of(self.random_state))
        h = rng.standard_normal((n_samples, self._n_features_out))
        noise = rng.standard_normal((n_samples, self.n_features_in_)) * self.noise_scale_
        return np.asarray(self.mean_ + h @ self.components_ + noise)

    def _make_fit(self) -> Fit:
        """Put the exact posterior into the linear encoder, in whose family it is."""
        theta, v = on_device(self._theta, self.device), self._tensor(self._data)
        num_features, num_factors = theta.W.shape
        isotropic = len(theta.scale) < num_features
        with isolated(0):
            model = hold(models.FactorAnalysis(num_features, num_factors, isotropic), theta)
            guide: Any = FactorAnalysisAmortized(num_features, num_factors).to(v)
            offset, covariance = posterior(theta, torch.zeros_like(theta.b)[None])
            slopes = posterior(theta, torch.eye(num_features).to(v))[0] - offset
            guide.encoder[0].load_state_dict({"weight": slopes.mT, "bias": offset[0]})
            guide.h_scale_tril = torch.linalg.cholesky(covariance)
        return as_fit(
            model, guide, v, losses=[-value for value in self.loglike_],
            converged=self.converged_, reason=f"maximum likelihood, {self.n_iter_} iterations",
        )  # fmt: skip

    def __sklearn_tags__(self) -> Any:
        """Say that single precision comes back as such."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _turned(theta: FactorAnalysisParameters) -> FactorAnalysisParameters:
    """Turn the factors until WᵀΨ⁻¹W is diagonal, largest first: p(v) does not change."""
    white = theta.W / theta.scale[:, None]
    turn = torch.linalg.svd(white, full_matrices=False).Vh.mT
    W = theta.W @ turn
    largest = W.abs().argmax(0)
    signs = W.gather(0, largest[None]).sign()[0]
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return FactorAnalysisParameters(W * signs, theta.b, theta.scale)
