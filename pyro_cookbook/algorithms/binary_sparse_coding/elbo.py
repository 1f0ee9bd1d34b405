"""The bound of binary sparse coding, its expectation in closed form, as a Pyro ELBO."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyro_cookbook.algorithms.binary_sparse_coding.mean_field import mean_field_elbo


class ClosedFormELBO(ELBO):
    """Estimates nothing: E_q[log p(v, h)] + H(q) for a factorised q, exactly.

    Used like ``Trace_ELBO``: ``SVI(model, guide, optimizer, ClosedFormELBO())`` or
    ``pc.fit(model, guide, v, elbo=ClosedFormELBO())``. Gradients reach guide and model and have no
    noise besides that of mini-batches. They cost K² a row, where ``TraceEnum_ELBO`` costs 2^K.

    Notes
    -----
    For `models.binary_sparse_coding.BinarySparseCoding` and guides whose site ``h`` is a
    ``BernoulliVector``. The formula is this model's: no other model may be put in its place.
    """

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Minus the bound, in nats."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the bound as a tensor, shape ().

        Raises
        ------
        ValueError
            If the guide's ``h`` has no logits.
        """
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        logits = getattr(guide_trace.nodes["h"]["fn"], "logits", None)
        if logits is None:
            raise ValueError(
                f"guide: its site 'h' is {type(guide_trace.nodes['h']['fn']).__name__}, expected"
                " BernoulliVector"
            )
        v = model_trace.nodes["v"]
        rows = mean_field_elbo(model, v["value"], logits)  # type: ignore[arg-type]
        return -v["scale"] * rows.sum()

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[poutine.Trace, poutine.Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        return poutine.trace(replayed).get_trace(*args, **kwargs), guide_trace

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Minus the bound, in nats; its gradient is added to the parameters' ``grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())
