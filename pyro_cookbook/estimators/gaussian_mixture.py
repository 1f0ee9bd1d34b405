"""Gaussian mixtures by EM or variational Bayes: clusters, and densities."""

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from guides import gaussian_mixture as guides
from models import gaussian_mixture as models
from pyro_cookbook.algorithms.gaussian_mixture.em import MixtureParameters, em, log_joint
from pyro_cookbook.algorithms.gaussian_mixture.variational_bayes import (
    MixturePosterior,
    fit_variational_mixture,
    log_predictive_joint,
)
from pyro_cookbook.data import InputError
from pyro_cookbook.estimators.base import Array, Judged, as_array, of_choice, on_device, seed_of
from pyro_cookbook.estimators.units import measure_units
from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.options import check_positive, check_whole
from pyro_cookbook.programs.state.holding import hold
from pyro_cookbook.programs.state.isolation import isolated

EM, VARIATIONAL = "em", "variational_bayes"
_CHUNK_ROWS = 8192


def _is_em(estimator: "GaussianMixture") -> bool:
    return bool(estimator.inference == EM)


class GaussianMixture(DensityMixin, Judged):  # type: ignore[misc]
    """Each row comes from one of K Gaussians with covariances of their own.

    Parameters
    ----------
    n_components : int, default 1
        K, at most the number of rows.
    inference : {"em", "variational_bayes"}, default "em"
        Maximum likelihood; or a conjugate prior (Dirichlet and normal-Wishart), with mean field
        between labels and parameters, under which components that are not needed stay empty.
    tol : float, default 1e-7
        Stop when an iteration raises the bound by less than `tol` relative.
    reg_covar : float, default 1e-6
        EM: added to the diagonal of the standardised covariances. 0 is allowed; then a component
        that shrinks onto a row is an error.
    max_iter : int, default 1000
    n_init : int, default 5
        Starts (k-means++), of which the best is kept.
    weights_init, means_init, precisions_init : array-like, optional
        EM: the first start, all three or none; shapes (K,), (K, D), (K, D, D), in the units of X.
    weight_concentration_prior : float, optional
        Variational Bayes: α₀ of the Dirichlet; default 1 / K.
    mean_precision_prior : float, default 1.0
        Variational Bayes: β₀, in rows' worth of evidence that a mean is the overall one.
    random_state : int, RandomState or None, default 0
    device : torch.device or str, optional
    verbose : bool, default False

    Attributes
    ----------
    weights_ : array, shape (K,)
    means_ : array, shape (K, D)
    covariances_ : array, shape (K, D, D)
        In the units of X; posterior means under variational Bayes.
    weights_scale_, means_scale_ : array, shapes (K,) and (K, D)
        Variational Bayes: posterior standard deviations.
    lower_bound_, lower_bounds_ : float, list of float
        The bound a row, in nats and the units of X: at the end, and after every iteration. By EM it
        is the mean log likelihood.
    n_iter_ : int
    converged_ : bool
    fit_, diagnosis_, verdict_
        See `pyro_cookbook.diagnose`; made when first asked for.

    Raises
    ------
    InputError
        For more components than rows, or a constant column.

    Notes
    -----
    Under variational Bayes `score_samples` is the posterior predictive density under q, a mixture
    of Student's t, and `predict_proba` are its shares. Components have no order; EM finds a local
    optimum, and its likelihood has no bound without `reg_covar`.

    References
    ----------
    Dempster, Laird and Rubin (1977), doi:10.1111/j.2517-6161.1977.tb01600.x. Bishop (2006),
    *Pattern Recognition and Machine Learning*, sections 9.2 and 10.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from pyro_cookbook.estimators import GaussianMixture
    >>> X = load_iris().data
    >>> mixture = GaussianMixture(n_components=3).fit(X)
    >>> print(f"{mixture.score(X):.3f} nats a row")
    -1.201 nats a row
    >>> mixture.predict_proba(X[:1]).round(2).max()
    np.float64(1.0)
    """

    _theta: MixtureParameters | MixturePosterior

    def __init__(
        self,
        n_components: int = 1,
        *,
        inference: str = EM,
        tol: float = 1e-7,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 5,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float = 1.0,
        random_state: Any = 0,
        device: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.inference = inference
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
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
        seed = self._begin()
        self._check_options()
        rows = self._rows(X, reset=True, least=2).astype(np.float64)
        if self.n_components > len(rows):
            raise InputError(
                f"n_components: got {self.n_components}, expected at most n_samples={len(rows)}"
            )
        self._units = measure_units(rows, self._names(), allow_constant=False)
        self._data = self._units.standardise(rows)
        run = self._by_em if self.inference == EM else self._by_variational_bayes
        bounds, self.converged_ = run(self._tensor(self._data), seed)
        self.n_iter_ = len(bounds)
        self.lower_bounds_ = [value / len(rows) - self._units.log_volume for value in bounds]
        self.lower_bound_ = self.lower_bounds_[-1]
        return self._end(
            self.converged_,
            f"{self.inference}, best of {self.n_init} starts, {self.n_iter_} iterations, bound"
            f" {self.lower_bound_:.4f} nats a row",
        )

    def _check_options(self) -> None:
        of_choice("inference", self.inference, (EM, VARIATIONAL))
        check_whole(1, n_components=self.n_components, max_iter=self.max_iter, n_init=self.n_init)
        check_positive(
            tol=self.tol,
            weight_concentration_prior=self.weight_concentration_prior,
            mean_precision_prior=self.mean_precision_prior,
        )
        if self.reg_covar != 0:
            check_positive(reg_covar=self.reg_covar)

    def _by_em(self, v: Tensor, seed: int) -> tuple[list[float], bool]:
        """Climb by EM; the bound of every iteration, and whether it has converged."""
        found = em(
            v, self.n_components, start=self._start(), max_iterations=self.max_iter, tol=self.tol,
            reg_covar=self.reg_covar, num_restarts=self.n_init, seed=seed,
        )  # fmt: skip
        theta = on_device(found.theta, None)
        self._theta = theta
        units = self._units
        root = as_array(theta.scale_tril) * units.scale[:, None]
        self.weights_ = as_array(theta.weights)
        self.means_ = units.restore(as_array(theta.loc))
        self.covariances_ = root @ root.swapaxes(1, 2)
        return found.elbo, found.converged

    def _start(self) -> MixtureParameters | None:
        """Put the start that the reader gives into standardised units."""
        K, D = self.n_components, self.n_features_in_
        shapes = {"weights_init": (K,), "means_init": (K, D), "precisions_init": (K, D, D)}
        given = {name: getattr(self, name) for name in shapes}
        missing = [name for name, value in given.items() if value is None]
        if missing:
            if len(missing) < len(shapes):
                raise InputError(
                    f"{missing[0]}: got none, expected weights_init, means_init and"
                    " precisions_init, or none of the three"
                )
            return None
        for name, shape in shapes.items():
            if np.shape(given[name]) != shape:
                raise InputError(f"{name}: got shape {np.shape(given[name])}, expected {shape}")
        scale = self._units.scale
        precisions = np.asarray(given["precisions_init"]) * scale[:, None] * scale
        try:
            root = np.linalg.cholesky(np.linalg.inv(precisions))
        except np.linalg.LinAlgError as error:
            raise InputError("precisions_init: expected positive definite matrices") from error
        loc = self._units.standardise(np.asarray(given["means_init"]))
        weights = np.asarray(given["weights_init"])
        return MixtureParameters(*map(self._tensor, (weights / weights.sum(), loc, root)))

    def _prior(self, K: int) -> models.MixturePrior:
        """Make the weak prior of recipe 2, in standardised units; no singular covariance."""
        D = self.n_features_in_
        covariance = np.cov(self._data.T).reshape(D, D) + 1e-6 * np.eye(D)
        concentration = self.weight_concentration_prior or 1 / K
        return models.MixturePrior(
            concentration=self._tensor(np.full(K, concentration)),
            loc=self._tensor(np.zeros(D)),
            mean_precision=self._tensor(self.mean_precision_prior),
            df=self._tensor(D + 2.0),
            precision_tril=self._tensor(np.linalg.cholesky(np.linalg.inv(covariance))),
        )

    def _by_variational_bayes(self, v: Tensor, seed: int) -> tuple[list[float], bool]:
        """Climb by coordinate ascent; the bound of every sweep, and whether it has converged."""
        found = fit_variational_mixture(
            v, self._prior(self.n_components), max_iterations=self.max_iter, tol=self.tol,
            num_restarts=self.n_init, seed=seed,
        )  # fmt: skip
        q = on_device(found.posterior, None)
        self._theta = q
        units, D = self._units, self.n_features_in_
        alpha = as_array(q.concentration)
        total = alpha.sum()
        # E Σ = W⁻¹ / (ν − D − 1), and the mean of a component has covariance E Σ / β.
        inverse = np.linalg.inv(as_array(q.precision_tril) / units.scale[:, None])
        expected = inverse.swapaxes(1, 2) @ inverse / (as_array(q.df) - D - 1)[:, None, None]
        self.weights_ = alpha / total
        self.weights_scale_ = np.sqrt(self.weights_ * (1 - self.weights_) / (total + 1))
        self.means_ = units.restore(as_array(q.loc))
        self.covariances_ = expected
        variance = np.diagonal(expected, axis1=1, axis2=2) / as_array(q.mean_precision)[:, None]
        self.means_scale_ = np.sqrt(variance)
        return found.elbo, found.converged

    def _log_joint(self, X: Any) -> Array:
        """log p(v_n, h_n = k), in nats and the units of X, shape (n, K)."""
        rows = self._rows(X)
        theta: Any = on_device(self._theta, self.device)
        log_p: Any = log_joint if isinstance(theta, MixtureParameters) else log_predictive_joint
        v = self._tensor(self._units.standardise(rows))
        found = torch.cat([log_p(theta, part) for part in v.split(_CHUNK_ROWS)])
        return as_array(found) - self._units.log_volume

    def predict_proba(self, X: Any) -> Array:
        """Give the probability of each component given each row, shape (n, K)."""
        joint = self._log_joint(X)
        share = np.exp(joint - joint.max(1, keepdims=True))
        return np.asarray(share / share.sum(1, keepdims=True))

    def predict(self, X: Any) -> Any:
        """Give the likeliest component of each row, shape (n,)."""
        return self._log_joint(X).argmax(1)

    def fit_predict(self, X: Any, y: Any = None) -> Any:
        """Fit to rows, and give their likeliest components."""
        return self.fit(X).predict(X)

    def score_samples(self, X: Any) -> Array:
        """Give the log density of each row, in nats and the units of X, shape (n,)."""
        return np.asarray(np.logaddexp.reduce(self._log_joint(X), axis=1))

    def score(self, X: Any, y: Any = None) -> float:
        """Give the mean log density of the rows, in nats."""
        return float(self.score_samples(X).mean())

    @available_if(_is_em)  # type: ignore[untyped-decorator]
    def bic(self, X: Any) -> float:
        """Bayesian information criterion: −2 log likelihood + log n for each parameter."""
        return -2 * len(X) * self.score(X) + self._num_parameters() * float(np.log(len(X)))

    @available_if(_is_em)  # type: ignore[untyped-decorator]
    def aic(self, X: Any) -> float:
        """Akaike's information criterion: −2 log likelihood + 2 for each parameter."""
        return -2 * len(X) * self.score(X) + 2 * self._num_parameters()

    def _num_parameters(self) -> int:
        K, D = self.means_.shape
        return int(K - 1 + K * D + K * D * (D + 1) // 2)

    def sample(self, n_samples: int = 1) -> tuple[Array, Any]:
        """Draw rows and their components; the same for the same `random_state`.

        Under variational Bayes they are drawn from the posterior predictive density.

        Returns
        -------
        X : array, shape (n_samples, D)
        y : array of int, shape (n_samples,)
        """
        check_is_fitted(self)
        check_whole(1, n_samples=n_samples)
        rng = np.random.default_rng(seed_of(self.random_state))
        labels = rng.choice(len(self.weights_), n_samples, p=self.weights_)
        eps = rng.standard_normal((n_samples, self.n_features_in_))
        if isinstance(self._theta, MixtureParameters):
            roots = as_array(self._theta.scale_tril)
        else:  # Student's t: a normal over the root of χ² / df, in W's units
            q, D = self._theta, self.n_features_in_
            df, beta = as_array(q.df) + 1 - D, as_array(q.mean_precision)
            inverse = np.linalg.inv(as_array(q.precision_tril)).swapaxes(1, 2)
            roots = inverse * np.sqrt((1 + beta) / (df * beta))[:, None, None]
            eps /= np.sqrt(rng.chisquare(df[labels]) / df[labels])[:, None]
        z = as_array(self._theta.loc)[labels] + np.einsum("nij,nj->ni", roots[labels], eps)
        return self._units.restore(z), labels

    def _make_fit(self) -> Fit:
        v = self._tensor(self._data)
        losses = [-len(v) * (value + self._units.log_volume) for value in self.lower_bounds_]
        reason = f"{self.inference}, best of {self.n_init} starts, {self.n_iter_} iterations"
        theta, K = on_device(self._theta, self.device), len(self.weights_)
        model: Any = models.bayesian_gaussian_mixture
        kwargs: dict[str, Any] = {}
        with isolated(0):
            if isinstance(theta, MixtureParameters):
                model = hold(models.GaussianMixture(v.shape[1], K), theta)
                guide: Any = guides.GaussianMixtureExact(v.shape[1], K).to(v)
                guide.e_step(theta)
            else:
                guide, kwargs = _mean_field(theta, v), {"prior": self._prior(K)}
        return as_fit(
            model, guide, v, data_kwargs=kwargs, losses=losses, converged=self.converged_,
            reason=reason,
        )  # fmt: skip


def _mean_field(q: MixturePosterior, v: Tensor) -> Any:
    """Put the variational posterior into its guide."""
    guide: Any = guides.BayesianGaussianMixtureMeanField(len(v), v.shape[1], len(q.df)).to(v)
    guide.h_logits = q.expected_log_joint(v)
    guide.weights_concentration = q.concentration
    guide.loc_loc, guide.loc_precision = q.loc, q.mean_precision
    guide.precision_df, guide.precision_tril = q.df, q.precision_tril
    return guide
