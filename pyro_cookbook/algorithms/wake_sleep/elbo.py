"""The methods as Pyro ELBOs, for any model and guide whose latents belong to rows."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_cookbook.algorithms.wake_sleep import rules


class ParticleELBO(ELBO):
    """Learns θ and φ from K draws of the guide for each row, each pulled as `rules` says.

    Used like ``Trace_ELBO``: ``SVI(model, guide, optimizer, ParticleELBO("reweighted", 5))``. The
    loss it returns is minus the importance-weighted bound of K draws, whatever the method climbs.

    Parameters
    ----------
    method : {"wake_sleep", "reweighted_sleep", "reweighted", "importance_weighted", "score"}
        See `rules.coefficients`.
    num_particles : int, default 1
        K; at least 2 for methods that weigh the draws.

    Raises
    ------
    ValueError
        If there is no such method, or too few draws for it.

    Notes
    -----
    Model and guide are those of the cookbook: called with rows ``v`` and ``num_obs``, all latents
    in a plate of rows at dimension −1, and the model returns the rows that it draws. Weights are
    normalised row by row. Pyro's ``ReweightedWakeSleep`` has one weight for all rows together, and
    its ``RenyiELBO`` at α = 0 gives the guide of a discrete latent no gradient.
    """

    def __init__(self, method: str, num_particles: int = 1) -> None:
        rules.check(method, num_particles)
        untyped: Any = super()
        untyped.__init__(num_particles=num_particles, max_plate_nesting=1)
        self.method = method

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Minus an estimate of the importance-weighted bound of K draws, in nats."""
        with torch.no_grad():
            log_p, log_q, scale = self._draws(model, guide, args, kwargs)
            return -scale * float(rules.importance_weighted_bound(log_p - log_q).sum())

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """As `loss`; minus the pull on every parameter is added to its ``grad``."""
        log_p, log_q, scale = self._draws(model, guide, args, kwargs)
        log_weights = (log_p - log_q).detach()
        a, c = rules.coefficients(self.method, log_weights)
        climbed = (a * log_p).sum() + (c * log_q).sum()
        if self.method in rules.DREAMING:
            climbed = climbed + self._dream(model, guide, log_p.shape[1])
        if climbed.requires_grad:
            (-scale * climbed).backward()
        return -scale * float(rules.importance_weighted_bound(log_weights).sum())

    def _draws(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[Tensor, Tensor, float]:
        """log p(v, h) and log q(h | v) of every draw and row, shape (K, n); scale of a mini-batch.

        θ's gradient goes through the first only, and φ's through the second only.
        """
        with pyro.plate("particles", self.num_particles, dim=-2):
            model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        log_p, scale = self._by_row(model_trace)
        return log_p, self._by_row(guide_trace)[0], scale

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[poutine.Trace, poutine.Trace]:
        with torch.no_grad():  # a draw passes no gradient on
            drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace, guide_trace = (
            poutine.trace(poutine.replay(program, drawn)).get_trace(*args, **kwargs)
            for program in (model, guide)
        )
        return model_trace, guide_trace

    def _dream(self, model: Callable[..., Any], guide: Callable[..., Any], num_rows: int) -> Tensor:
        """log q(h | v) of as many dreams (v, h) of the model as there are rows, summed."""
        with torch.no_grad():
            dream = poutine.trace(model).get_trace(num_obs=num_rows)
        rows = dream.nodes["_RETURN"]["value"]
        with_dream: Any = poutine.replay(guide, dream)
        log_q: Any = poutine.trace(with_dream).get_trace(rows).log_prob_sum()
        return torch.as_tensor(log_q)

    @staticmethod
    def _by_row(trace: poutine.Trace) -> tuple[Tensor, float]:
        """Sum the sites' unscaled log densities, each of shape (K, n); and their one scale."""
        total: Any = 0.0
        scale = 1.0
        for name, site in prune_subsample_sites(trace).nodes.items():
            if site["type"] != "sample":
                continue
            if "row" not in {frame.name for frame in site["cond_indep_stack"]}:
                raise ValueError(f"model, guide: site {name!r} belongs to no row")
            scale = float(site["scale"])
            fn: Any = site["fn"]
            total = total + fn.log_prob(site["value"])
        return total, scale
