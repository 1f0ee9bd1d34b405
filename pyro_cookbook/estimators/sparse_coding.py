"""Sparse coding as a transformer: a dictionary, and the exact mode of each row's code."""

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from guides.sparse_coding import SparseCodingMAP
from models import sparse_coding as models
from pyro_cookbook.algorithms.sparse_coding.active_set import codes
from pyro_cookbook.algorithms.sparse_coding.dictionary_learning import (
    alternate,
    learn_online,
    random_atoms,
)
from pyro_cookbook.algorithms.sparse_coding.fista import (
    SparseCodingParameters,
    log_normaliser,
    objective,
)
from pyro_cookbook.estimators.base import Array, Judged, as_array, on_device
from pyro_cookbook.estimators.units import measure_units
from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.options import check_positive, check_whole
from pyro_cookbook.programs.state.holding import hold
from pyro_cookbook.programs.state.isolation import isolated

# With more rows mini-batches come first: a round over all rows is then slow.
_BATCH, _ONLINE_FROM, _ONLINE_STEPS = 256, 512, 100


class SparseCoding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Judged):  # type: ignore[misc]
    """Each row is a weighted sum of a few of many atoms, plus noise.

    A code minimises ½ ‖v − mean − h components‖² + alpha_ Σ |h_k|: the posterior mode under a
    Laplace prior, with exact zeros. Atoms have length 1, and are learned in turn with the codes.

    Parameters
    ----------
    n_components : int, optional
        Atoms; default as many as columns. There may be more.
    rate : float, default 1.0
        λ of the codes' prior, in standardised units: the columns' root mean variance is 1.
    scale : float, default 0.5
        Standard deviation of the noise, in standardised units. The penalty is rate · scale².
    tol : float, default 1e-5
        Learning stops when a round lowers the objective by less than `tol` relative.
    code_tol : float, default 1e-7
        Relative duality gap to which codes are computed.
    max_iter : int, default 200
        Rounds of learning.
    random_state : int, RandomState or None, default 0
        Of the first atoms, which are rows, and of mini-batches.
    device : torch.device or str, optional
    verbose : bool, default False

    Attributes
    ----------
    components_ : array, shape (K, D)
        Atoms, of length 1.
    mean_ : array, shape (D,)
    noise_scale_ : float
        In the units of X.
    alpha_ : float
        The penalty in the units of X, which is scikit-learn's `alpha`.
    objective_ : list of float
        ΣJ over the rows after every round, in nats.
    n_iter_ : int
    converged_ : bool
    fit_, diagnosis_, verdict_
        See `pyro_cookbook.diagnose`; made when first asked for. A code is a point without a
        spread, and its verdict says so.

    Notes
    -----
    One scale for all columns, so that distances keep their shape: scale the columns first where
    they have different units. The dictionary is one of many local optima; its atoms have neither
    order nor sign.

    References
    ----------
    Goodfellow, Bengio and Courville (2016), *Deep Learning*, section 19.3. Beck and Teboulle
    (2009), doi:10.1137/080716542.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from pyro_cookbook.estimators import SparseCoding
    >>> X = load_iris().data
    >>> coding = SparseCoding(n_components=6).fit(X)
    >>> codes = coding.transform(X)
    >>> codes.shape, bool((codes == 0).mean() > 0.3)
    ((150, 6), True)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        rate: float = 1.0,
        scale: float = 0.5,
        tol: float = 1e-5,
        code_tol: float = 1e-7,
        max_iter: int = 200,
        random_state: Any = 0,
        device: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.rate = rate
        self.scale = scale
        self.tol = tol
        self.code_tol = code_tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn a dictionary.

        Parameters
        ----------
        X : array-like, shape (n, D)
        y : ignored
        """
        seed = self._begin()
        check_whole(1, n_components=self.n_components, max_iter=self.max_iter)
        check_positive(rate=self.rate, scale=self.scale, tol=self.tol, code_tol=self.code_tol)
        rows = self._rows(X, reset=True, least=2).astype(np.float64)
        self._units = measure_units(rows, self._names(), common=True)
        self._data = self._units.standardise(rows)
        v = self._tensor(self._data)
        learned = alternate(
            v, self._start(v, seed), max_rounds=self.max_iter, tol=self.tol, code_tol=self.code_tol,
            solver=codes,
        )  # fmt: skip
        self._theta = on_device(learned.theta, None)
        self.components_ = as_array(learned.theta.W).T
        unit = float(self._units.scale[0])
        self.mean_ = self._units.restore(as_array(learned.theta.b))
        self.noise_scale_ = self.scale * unit
        self.alpha_ = self.rate * self.scale**2 * unit
        self.objective_ = learned.trace
        self.n_iter_ = len(learned.trace)
        self.converged_ = learned.converged
        return self._end(
            self.converged_, f"{self.n_iter_} rounds, objective {learned.trace[-1]:.4f} nats"
        )

    def _start(self, v: Tensor, seed: int) -> SparseCodingParameters:
        """Begin with rows as atoms; where there are many rows, with what mini-batches learn."""
        num_atoms = self.n_components or v.shape[1]
        if len(v) > _ONLINE_FROM:
            online = learn_online(
                v, num_atoms, rate=self.rate, scale=self.scale, batch_size=_BATCH,
                num_steps=min(_ONLINE_STEPS, self.max_iter), code_tol=1e-2, seed=seed,
                solver=codes,
            )  # fmt: skip
            return online.theta
        atoms = random_atoms(v, num_atoms, seed=seed)
        return SparseCodingParameters(atoms, v.mean(0), self.rate, self.scale)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _codes(self, rows: Array) -> tuple[SparseCodingParameters, Tensor, Tensor]:
        """θ, standardised rows and their codes."""
        theta = on_device(self._theta, self.device)
        v = self._tensor(self._units.standardise(rows))
        return theta, v, codes(theta, v, tol=self.code_tol).h

    def transform(self, X: Any) -> Array:
        """Give the codes, the exact modes, in the units of X, shape (n, K)."""
        rows = self._rows(X)
        h = as_array(self._codes(rows)[2]) * self._units.scale[0]
        return np.asarray(h, dtype=rows.dtype)

    def inverse_transform(self, X: Any) -> Array:
        """Give the rows that codes, shape (n, K), describe, shape (n, D)."""
        check_is_fitted(self)
        h = check_array(X, dtype=[np.float64, np.float32])
        return np.asarray(h @ self.components_ + self.mean_, dtype=h.dtype)

    def score(self, X: Any, y: Any = None) -> float:
        """Give minus the mean of J = ‖v − v̂‖² / 2 noise_scale_² + Σ |h| / prior scale, in nats.

        Up to a constant it is the log joint density at the codes, and no likelihood: compare
        dictionaries of the same `rate` and `scale` by it, on held-out rows.
        """
        cost: Tensor = objective(*self._codes(self._rows(X)))
        return -float(cost.mean())

    def _make_fit(self) -> Fit:
        theta, v, h = self._codes(self._units.restore(self._data))
        num_features, num_atoms = theta.W.shape
        with isolated(0):
            empty = models.SparseCoding(num_features, num_atoms, rate=theta.rate, scale=theta.scale)
            model = hold(empty, theta)
            guide: Any = SparseCodingMAP(len(v), num_atoms).to(v)
            guide.h_loc = torch.clone(h)
        constant = len(v) * log_normaliser(theta)
        return as_fit(
            model, guide, v, losses=[value - constant for value in self.objective_],
            converged=self.converged_, reason=f"{self.n_iter_} rounds of codes and atoms",
        )  # fmt: skip

    def __sklearn_tags__(self) -> Any:
        """Say that single precision comes back as such."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
