"""The variational auto-encoder as a transformer with a bound on the likelihood."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from scipy.stats import norm, qmc
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from guides.variational_autoencoder import VariationalAutoencoderAmortized
from models import variational_autoencoder as models
from pyro_cookbook.data import InputError
from pyro_cookbook.estimators.base import Array, Judged, as_array, of_choice, seed_of
from pyro_cookbook.estimators.units import Units, measure_units
from pyro_cookbook.fits.fitting import as_fit, fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.options import check_positive, check_whole
from pyro_cookbook.programs.state.isolation import isolated

GAUSSIAN, _, BETA_BINOMIAL = models.LIKELIHOODS
# Numbers that a table of draws × rows × columns may have at once.
_CHUNK_NUMBERS = 2**22


class _Architecture(NamedTuple):
    """What model and guide are built from."""

    num_features: int
    num_latents: int
    hidden: tuple[int, ...]
    likelihood: str
    total_count: int

    def build(self) -> tuple[Any, Any]:
        """Build both, untrained; inside `isolated`, as torch's own stream is drawn from."""
        model = models.VariationalAutoencoder(
            self.num_features, self.num_latents, self.hidden, likelihood=self.likelihood,
            total_count=self.total_count,
        )  # fmt: skip
        guide = VariationalAutoencoderAmortized(
            self.num_features, self.num_latents, self.hidden[::-1], float(self.total_count)
        )
        return model, guide


class VariationalAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Judged):  # type: ignore[misc]
    """A few latents, sent through a network, say what a row looks like; another infers them.

    Parameters
    ----------
    n_components : int, default 2
        Latents.
    hidden_layer_sizes : sequence of int, default (64,)
        Of the decoder; the encoder has the same, the other way round. Without any both are linear.
    likelihood : {"gaussian", "bernoulli", "beta_binomial"}, default "gaussian"
        For real columns, which are standardised; for columns of 0 and 1; for whole numbers from 0
        to `total_count`.
    total_count : int, optional
        Beta-binomial: the largest value there can be. Default: the largest at the fit.
    num_draws : int, default 64
        Draws for each row behind `score_samples`: more make the bound tighter.
    batch_size : int, default 200
    learning_rate : float, default 0.02
        Adam's first step.
    tol : float, default 0.1
        Learning stops when the bound no longer rises by `tol` nats a row.
    max_iter : int, default 1000
        Passes over the rows.
    random_state : int, RandomState or None, default 0
    device : torch.device or str, optional
    verbose : bool, default False
        Also shows a progress bar.

    Attributes
    ----------
    noise_scale_ : array, shape (D,)
        Gaussian: standard deviations of the noise, in the units of X.
    lower_bound_ : float
        The mean bound of the rows (ELBO), in nats and the units of X.
    losses_ : array
        −ELBO of all rows at every step, estimated from a mini-batch, in nats, standardised.
    n_iter_ : int
        Passes over the rows.
    converged_ : bool
    fit_, diagnosis_, verdict_
        See `pyro_cookbook.diagnose`; made when first asked for. The verdict is on the latents of
        the rows at the fit.

    Raises
    ------
    InputError
        For an entry outside the likelihood's support, or a constant column of real numbers.

    Notes
    -----
    Latents are known up to what leaves N(0, I) as it is: compare scores of two fits, never single
    latents. Scores of different likelihoods are not comparable: one is a density.

    References
    ----------
    Kingma and Welling (2014), arXiv:1312.6114. Burda, Grosse and Salakhutdinov (2016),
    arXiv:1509.00519.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from pyro_cookbook.estimators import VariationalAutoencoder
    >>> X = load_iris().data
    >>> vae = VariationalAutoencoder(n_components=1, hidden_layer_sizes=(8,), tol=2.0).fit(X)
    >>> vae.transform(X).shape, vae.inverse_transform([[0.0]]).shape
    ((150, 1), (1, 4))
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        hidden_layer_sizes: Sequence[int] = (64,),
        likelihood: str = GAUSSIAN,
        total_count: int | None = None,
        num_draws: int = 64,
        batch_size: int = 200,
        learning_rate: float = 0.02,
        tol: float = 0.1,
        max_iter: int = 1000,
        random_state: Any = 0,
        device: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.likelihood = likelihood
        self.total_count = total_count
        self.num_draws = num_draws
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train decoder and encoder together, by SVI in mini-batches.

        Parameters
        ----------
        X : array-like, shape (n, D)
        y : ignored
        """
        seed = self._begin()
        self._check_options()
        rows = self._rows(X, reset=True, least=2).astype(np.float64)
        self._architecture = _Architecture(
            rows.shape[1], self.n_components, tuple(self.hidden_layer_sizes), self.likelihood,
            self._largest(rows),
        )  # fmt: skip
        self._check_support(rows)
        self._units = self._measure(rows)
        self._data = self._units.standardise(rows)
        v = self._tensor(self._data)
        with isolated(seed):
            model, guide = (module.to(v) for module in self._architecture.build())
        size = min(self.batch_size, len(v))
        a_pass = -(-len(v) // size)
        found = fit(
            model, guide, v, seed=seed, batch_size=size, lr=self.learning_rate,
            max_steps=self.max_iter * a_pass, tol=self.tol * len(v), progress=bool(self.verbose),
        )  # fmt: skip
        self._fit_result = found
        modules: tuple[Any, ...] = (found.model, found.guide)
        self._state = [
            {name: value.detach().cpu() for name, value in module.state_dict().items()}
            for module in modules
        ]
        self.losses_ = found.losses
        self.lower_bound_ = found.elbo.value / len(v) - self._units.log_volume
        self.n_iter_ = -(-len(found.losses) // a_pass)
        self.converged_ = found.converged
        if self.likelihood == GAUSSIAN:
            with isolated(0):
                scale = self._trained()[0].scale
            self.noise_scale_ = as_array(scale) * self._units.scale
        return self._end(
            self.converged_, f"{found.reason}; bound {self.lower_bound_:.4f} nats a row"
        )

    def _check_options(self) -> None:
        of_choice("likelihood", self.likelihood, models.LIKELIHOODS)
        check_whole(
            1, n_components=self.n_components, total_count=self.total_count,
            num_draws=self.num_draws, batch_size=self.batch_size, max_iter=self.max_iter,
        )  # fmt: skip
        for width in self.hidden_layer_sizes:
            check_whole(1, hidden_layer_sizes=width)
        check_positive(learning_rate=self.learning_rate, tol=self.tol)

    def _check_support(self, rows: Array) -> None:
        """Refuse an entry that the likelihood gives no probability."""
        if self._architecture.likelihood == GAUSSIAN:
            return
        largest = self._architecture.total_count
        bad = (rows < 0) | (rows > largest) | (rows != rows.round())
        if bad.any():
            n, d = (int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"X: row {n}, column {self._names()[d]!r}: got {rows[n, d]:g}, expected a whole"
                f" number from 0 to {largest} ({int(bad.sum())} such entries)"
            )

    def _largest(self, rows: Array) -> int:
        """Give the largest value that a column of whole numbers can have."""
        if self.likelihood != BETA_BINOMIAL:
            return 1
        return self.total_count or max(1, int(rows.max()))

    def _measure(self, rows: Array) -> Units:
        """Standardise real columns; whole numbers stay as they are."""
        if self.likelihood == GAUSSIAN:
            return measure_units(rows, self._names(), allow_constant=False)
        return Units(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))

    def _trained(self) -> tuple[Any, Any]:
        """Build model and guide with what they have learned; inside `isolated`."""
        unit = self._tensor(0.0)
        model, guide = (module.to(unit) for module in self._architecture.build())
        for module, state in zip((model, guide), self._state, strict=True):
            module.load_state_dict(state)
            module.requires_grad_(False)
        return model, guide

    @property
    def _n_features_out(self) -> int:
        return self._architecture.num_latents

    def _encoded(self, X: Any) -> tuple[Tensor, Tensor, np.dtype[Any]]:
        """Mean and standard deviation of the latents given each row."""
        rows = self._rows(X)
        self._check_support(rows)
        v = self._tensor(self._units.standardise(rows))
        with isolated(0):
            loc, scale = self._trained()[1].encode(v)
        return loc, scale, rows.dtype

    def transform(self, X: Any) -> Array:
        """Give the means of the latents given each row, shape (n, K)."""
        loc, _, dtype = self._encoded(X)
        return as_array(loc).astype(dtype)

    def transform_scale(self, X: Any) -> Array:
        """Give the standard deviations of the latents given each row, shape (n, K)."""
        _, scale, dtype = self._encoded(X)
        return as_array(scale).astype(dtype)

    def inverse_transform(self, X: Any) -> Array:
        """Give the expected rows of latents, shape (n, D), from latents of shape (n, K)."""
        check_is_fitted(self)
        h = check_array(X, dtype=[np.float64, np.float32])
        with isolated(0):
            mean = self._trained()[0].decode(self._tensor(h)).mean
        return self._units.restore(as_array(mean)).astype(h.dtype)

    def score_samples(self, X: Any) -> Array:
        """Give a bound on log p(v) of each row, in nats and the units of X, shape (n,).

        It is the log of the mean of `num_draws` importance weights from the encoder: in expectation
        a lower bound, tighter than the ELBO. The base draws are the same for all rows and calls, so
        that a row's score does not depend on the others.
        """
        rows = self._rows(X)
        self._check_support(rows)
        v = self._tensor(self._units.standardise(rows))
        eps = self._base_draws()
        size = max(1, _CHUNK_NUMBERS // (len(eps) * v.shape[1]))
        with isolated(0), torch.no_grad():
            model, guide = self._trained()
            found = torch.cat(list(_bounds(model, guide, v.split(size), eps)))
        return as_array(found) - self._units.log_volume

    def _base_draws(self) -> Tensor:
        """Scrambled Sobol points as normal draws, shape (num_draws, 1, K), always the same."""
        sobol = qmc.Sobol(self._n_features_out, rng=np.random.default_rng(0))
        points = sobol.random(2 ** math.ceil(math.log2(self.num_draws)))[: self.num_draws]
        return self._tensor(norm.ppf(np.clip(points, 1e-12, 1 - 1e-12)))[:, None]

    def score(self, X: Any, y: Any = None) -> float:
        """Give the mean of `score_samples`: a bound on the mean log likelihood, in nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> Array:
        """Draw rows from the model, shape (n_samples, D); the same for the same `random_state`."""
        check_is_fitted(self)
        check_whole(1, n_samples=n_samples)
        with isolated(seed_of(self.random_state)), torch.no_grad():
            rows = self._trained()[0](num_obs=n_samples)
        return self._units.restore(as_array(rows))

    def _make_fit(self) -> Fit:
        """Wrap what was learned anew, after a pickle has left the fit out."""
        with isolated(0):
            model, guide = self._trained()
        return as_fit(
            model, guide, self._tensor(self._data), losses=list(self.losses_),
            converged=self.converged_, reason=f"SVI, {self.n_iter_} passes",
        )  # fmt: skip

    def __sklearn_tags__(self) -> Any:
        """Say that single precision comes back as such."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _bounds(model: Any, guide: Any, parts: Sequence[Tensor], eps: Tensor) -> Iterator[Tensor]:
    """Log mean weight of each row, part by part."""
    for v in parts:
        loc, scale = guide.encode(v)
        h = loc + scale * eps
        # log N(h; 0, I) − log N(h; m, s²): the constants cancel.
        log_ratio = ((eps.square() - h.square()) / 2 + scale.log()).sum(-1)
        weights = model.decode(h).log_prob(v) + log_ratio
        yield torch.logsumexp(weights, 0) - math.log(len(eps))
