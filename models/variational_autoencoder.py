"""The variational auto-encoder's generative half: a network from few latents to many columns."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from models._networks import mlp

LIKELIHOODS = ("gaussian", "bernoulli", "beta_binomial")
# A pseudo-count of 0 has no density; a column that never varies would go there.
_LEAST_COUNT = 1e-3


class VariationalAutoencoder(PyroModule):
    """A few standard normal latents, sent through a network f, say what a row looks like.

    ====== ===============================================  ================
    site   distribution, for each row n                     shape
    ====== ===============================================  ================
    ``h``  h ~ N(0, I_K)                                    (row, K)
    ``v``  v | h ~ the likelihood, with parameters f(h)     (row, D)
    ====== ===============================================  ================

    - "gaussian": N(f(h), diag(scale²))
    - "bernoulli": the columns are independent given h, with log odds f(h)
    - "beta_binomial": so too, with N = `total_count` and pseudo-counts a = softplus(f(h)_1…D) and
      b = softplus(f(h)_D+1…2D)

    Parameters
    ----------
    num_features : int
        D, the number of columns of the data.
    num_latents : int
        K.
    hidden : sequence of int, default (128,)
        Widths of the decoder's hidden layers; without any it is linear, and with the Gaussian
        likelihood the model is factor analysis; isotropic, it is probabilistic PCA.
    likelihood : {"gaussian", "bernoulli", "beta_binomial"}
        For real columns; for columns of 0 and 1; for whole numbers from 0 to `total_count`.
    total_count : int, default 1
        N of the beta-binomial, the largest value a column can have.
    isotropic : bool, default False
        Gaussian only: share one noise scale among the columns.

    Attributes
    ----------
    decoder : torch.nn.Sequential
        f, from (..., K) to (..., D), or (..., 2 D) for the beta-binomial. Torch's own random start.
    scale : Tensor
        Gaussian only: noise standard deviations, shape (D,), or (1,) if isotropic; positive, in the
        units of the data. Initially 1.

    Raises
    ------
    ValueError
        For another likelihood, or a `total_count` below 1.

    Notes
    -----
    The latents are known up to whatever leaves N(0, I) as it is, rotations among them: compare
    bounds and predictions of two fits, never single latents. A latent that the decoder ignores has
    the prior as its posterior (*collapse*): with a large noise scale all are ignored. The bound is
    comparable between likelihoods only where all are probabilities of the same values: a *density*
    of rounded numbers can be made as large as one likes, by a noise scale near 0.

    References
    ----------
    Kingma and Welling (2014), *Auto-encoding variational Bayes*, arXiv:1312.6114.
    Rezende, Mohamed and Wierstra (2014), arXiv:1401.4082.
    """

    def __init__(
        self,
        num_features: int,
        num_latents: int,
        hidden: Sequence[int] = (128,),
        *,
        likelihood: str = "gaussian",
        total_count: int = 1,
        isotropic: bool = False,
    ) -> None:
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(
                f"likelihood: got {likelihood!r}, expected one of {', '.join(LIKELIHOODS)}"
            )
        if total_count < 1:
            raise ValueError(f"total_count: got {total_count}, expected at least 1")
        self.num_features, self.num_latents, self.hidden = num_features, num_latents, tuple(hidden)
        self.likelihood, self.total_count, self.isotropic = likelihood, total_count, isotropic
        width = 2 * num_features if likelihood == "beta_binomial" else num_features
        self.decoder = mlp(num_latents, hidden, width)
        if likelihood == "gaussian":
            num_scales = 1 if isotropic else num_features
            self.scale = PyroParam(torch.ones(num_scales), constraint=constraints.positive)

    def reset_parameters(self) -> None:
        """Draw the decoder's weights anew."""
        for layer in self.decoder:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        if self.likelihood == "gaussian":
            self.scale = torch.ones_like(self.scale)

    def decode(self, h: Tensor) -> Any:
        """Give the distribution of a row given its latents.

        Parameters
        ----------
        h : Tensor
            Shape (..., K).

        Returns
        -------
        pyro.distributions.Distribution
            Batch shape (...), event shape (D,).
        """
        f = self.decoder(h)
        if self.likelihood == "gaussian":
            return dist.Normal(f, self.scale).to_event(1)
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(logits=f).to_event(1)
        a, b = (softplus(f) + _LEAST_COUNT).chunk(2, -1)
        return dist.BetaBinomial(a, b, total_count=self.total_count).to_event(1)

    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> Tensor:
        """Run the generative story.

        Parameters
        ----------
        v : Tensor, optional
            Rows observed, shape (n, D). Without it the rows are drawn from the prior predictive.
        num_obs : int, optional
            Rows in the whole data set, when `v` is a mini-batch of it. Default: the rows of `v`,
            or 1 without them.

        Returns
        -------
        Tensor
            The rows, observed or drawn, shape (n, D).
        """
        num_rows = (num_obs or 1) if v is None else len(v)
        with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
            unit = next(self.decoder.parameters()).new_ones(self.num_latents)
            h = pyro.sample("h", dist.Normal(0 * unit, unit).to_event(1))
            return pyro.sample("v", self.decode(h), obs=v)
