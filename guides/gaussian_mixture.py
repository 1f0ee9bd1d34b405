"""Guides for `models.gaussian_mixture`: exact, hard, amortized, and mean field over everything."""

from collections.abc import Sequence
from typing import Any, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from guides._encoders import mlp
from guides._rows import require_all_rows
from models._distributions import Wishart


class MixtureParameters(Protocol):
    """What an E step reads: anything with these three attributes, such as the model itself."""

    weights: Tensor  # (K,), on the simplex
    loc: Tensor  # (K, D)
    scale_tril: Tensor  # (K, D, D), lower Cholesky factors


class _FromParameters(PyroModule):
    """Holds a copy of the mixture's parameters as they were at the last E step."""

    weights: Tensor
    loc: Tensor
    scale_tril: Tensor

    def __init__(self, num_features: int, num_components: int) -> None:
        super().__init__()
        self.num_features, self.num_components = num_features, num_components
        K, D = num_components, num_features
        self.register_buffer("weights", torch.full((K,), 1 / K))
        self.register_buffer("loc", torch.arange(float(K))[:, None].repeat(1, D))
        self.register_buffer("scale_tril", torch.eye(D).repeat(K, 1, 1))

    @torch.no_grad()
    def e_step(self, theta: MixtureParameters) -> None:
        """Set q to the posterior under `theta`, copied: later changes of `theta` do not reach q."""
        self.weights = theta.weights.detach().clone()
        self.loc = theta.loc.detach().clone()
        self.scale_tril = theta.scale_tril.detach().clone()

    def _logits(self, v: Tensor) -> Tensor:
        """log π_k + log N(v_n; μ_k, Σ_k), shape (n, K); a component at a time, not n × K × D."""
        log_density = [
            dist.MultivariateNormal(loc, scale_tril=scale_tril).log_prob(v)
            for loc, scale_tril in zip(self.loc, self.scale_tril, strict=True)
        ]
        return torch.stack(log_density, dim=-1) + self.weights.log()


class GaussianMixtureExact(_FromParameters):
    """q(h_n = k) = r_nk ∝ π_k N(v_n; μ_k, Σ_k): the responsibilities, the E step of EM.

    q belongs to the parameters of the last `e_step`. Under those parameters the bound equals the
    log evidence; as the model moves on, it falls behind by KL(q ‖ p(h | v; θ)).

    Parameters
    ----------
    num_features, num_components : int
        D and K.

    Attributes
    ----------
    weights, loc, scale_tril : Tensor
        The parameters of the last E step: buffers, not trained. Initially 1/K, component k at
        (k, …, k), and I.
    """

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            q = dist.Categorical(logits=self._logits(v))
            return {"h": pyro.sample("h", q)}


class GaussianMixtureMAP(_FromParameters):
    """q(h_n) = δ(h_n − argmax_k r_nk): every row goes to its likeliest component.

    The mode is taken over the discrete h, where a point has entropy 0: the bound holds. Alternating
    `e_step` with the M step is classification EM; with weights and covariances held equal and
    spherical it is k-means (Celeux and Govaert, 1992, doi:10.1016/0167-9473(92)90042-E).

    Parameters
    ----------
    num_features, num_components : int
        D and K.

    Attributes
    ----------
    weights, loc, scale_tril : Tensor
        The parameters of the last E step: buffers, not trained. Initially 1/K, component k at
        (k, …, k), and I.
    """

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            q = dist.Delta(self._logits(v).argmax(-1), log_density=v.new_zeros(len(v)))
            return {"h": pyro.sample("h", q)}


class GaussianMixtureAmortized(PyroModule):
    """q(h | v) = Categorical(softmax(f(v))): a classifier that learns the E step.

    Train it with TraceEnum_ELBO and `config_enumerate`, which sum over h: Trace_ELBO's
    score-function gradients of the same bound are unbiased but far noisier. Give it standardised
    columns: large inputs saturate the softmax at the start, and a saturated q has no gradient.

    Parameters
    ----------
    num_features, num_components : int
        D and K.
    hidden : sequence of int, default (32,)
        Widths of the hidden layers. The exact logits are quadratic in v, so one layer is needed.

    Attributes
    ----------
    encoder : torch.nn.Sequential
        f, from (n, D) to (n, K). Initially torch's default, by the global seed.
    """

    def __init__(
        self, num_features: int, num_components: int, hidden: Sequence[int] = (32,)
    ) -> None:
        super().__init__()
        self.num_features, self.num_components = num_features, num_components
        self.hidden = tuple(hidden)
        self.encoder = mlp(num_features, hidden, num_components)

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v), dim=-1):
            q = dist.Categorical(logits=self.encoder(v))
            return {"h": pyro.sample("h", q)}


class BayesianGaussianMixtureMeanField(PyroModule):
    """q(h) q(π) ∏_k q(Λ_k) q(μ_k | Λ_k): the variational Bayes mixture.

    ============== ==============================  =====================================
    factor          distribution                    parameters
    ============== ==============================  =====================================
    q(π)            Dirichlet(α)                    ``weights_concentration``
    q(Λ_k)          Wishart(ν_k, scale L_k L_kᵀ)    ``precision_df``, ``precision_tril``
    q(μ_k | Λ_k)    N(m_k, (β_k Λ_k)⁻¹)             ``loc_loc``, ``loc_precision``
    q(h_n)          Categorical(r_n)                ``h_logits``
    ============== ==============================  =====================================

    The factors are the textbook's: μ_k and Λ_k stay together, as in their conjugate prior. The
    only approximation is the independence of h from the rest.

    Parameters
    ----------
    num_rows, num_features, num_components : int
        n, D and K.

    Attributes
    ----------
    h_logits : Tensor
        log r up to a constant, shape (n, K), real. Drawn from N(0, 1) by `reset_parameters`.
    weights_concentration : Tensor
        α, shape (K,), positive. Initially 1.
    loc_loc : Tensor
        m, shape (K, D), real. Drawn from N(0, 1) by `reset_parameters`.
    loc_precision : Tensor
        β, shape (K,), positive. Initially 1.
    precision_df : Tensor
        ν, shape (K,), above D - 1. Initially D + 1.
    precision_tril : Tensor
        L, lower Cholesky factors, shape (K, D, D). Initially I.

    References
    ----------
    Bishop (2006), *Pattern Recognition and Machine Learning*, equations 10.42 and 10.59.
    """

    def __init__(self, num_rows: int, num_features: int, num_components: int) -> None:
        super().__init__()
        self.num_rows, self.num_features = num_rows, num_features
        self.num_components = num_components
        K, D = num_components, num_features
        self.h_logits = PyroParam(torch.zeros(num_rows, K))
        self.weights_concentration = PyroParam(torch.ones(K), constraint=constraints.positive)
        self.loc_loc = PyroParam(torch.zeros(K, D))
        self.loc_precision = PyroParam(torch.ones(K), constraint=constraints.positive)
        self.precision_df = PyroParam(
            torch.full((K,), D + 1.0), constraint=constraints.greater_than(D - 1.0)
        )
        self.precision_tril = PyroParam(
            torch.eye(D).repeat(K, 1, 1), constraint=constraints.lower_cholesky
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw responsibilities and means anew: components that start equal stay equal."""
        self.h_logits = torch.randn_like(self.h_logits)
        self.loc_loc = torch.randn_like(self.loc_loc)

    def forward(
        self, v: Tensor | None = None, num_obs: int | None = None, *, prior: Any = None
    ) -> dict[str, Tensor]:
        """Draw every factor; `prior` is the model's and not looked at."""
        require_all_rows(v, num_obs, self.num_rows)
        weights = pyro.sample("weights", dist.Dirichlet(self.weights_concentration))
        with pyro.plate("component", self.num_components, dim=-1):
            precision = pyro.sample(
                "precision", Wishart(self.precision_df, scale_tril=self.precision_tril)
            )
            q_loc = dist.MultivariateNormal(
                self.loc_loc, precision_matrix=self.loc_precision[:, None, None] * precision
            )
            loc = pyro.sample("loc", q_loc)
        with pyro.plate("row", self.num_rows, dim=-1):
            q_h = dist.Categorical(logits=self.h_logits)
            h = pyro.sample("h", q_h)
        return {"weights": weights, "precision": precision, "loc": loc, "h": h}
