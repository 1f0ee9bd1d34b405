"""Adam's step on all small parameters at once, and on large ones by torch's kernel for them.

    m ← m + (1 − β₁) (g − m)
    v ← β₂ v + (1 − β₂) g²
    x ← x − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)

`torch.optim.Adam` calls eight operations for each parameter, which takes longer than all of a
small model's density. The moments of small parameters are one vector here: the same numbers.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

# Scalars from which on a parameter is large: its arithmetic takes longer than the calls.
LARGE = 2**15


class Adam:
    """Torch's optimiser, by fewer calls where the same parameters have gradients at every step.

    Parameters
    ----------
    parameters : sequence of Tensor
        Leaves. Large ones on the processor are moved by torch's fused kernel.
    lr : float
        First learning rate.
    """

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        self.parameters = list(parameters)
        small = [p for p in parameters if not _is_large(p)]
        large = [p for p in parameters if _is_large(p)]
        groups: list[dict[str, Any]] = [{"params": small}] if small else []
        groups += [{"params": large, "fused": True}] if large else []
        self.torchs = torch.optim.Adam(groups, lr=lr)
        self._joint: _Joint | None = None
        self._given: list[Tensor | None] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Torch's groups of parameters, each with its learning rate under "lr"."""
        groups: list[dict[str, Any]] = self.torchs.param_groups
        return groups

    def take(self, gradients: Sequence[Tensor | None]) -> bool:
        """Take the gradients of the next step; say whether all are finite."""
        moving = [i for i, g in enumerate(gradients) if g is not None]
        given = [g for g in gradients if g is not None]
        if self._joint is not None and self._joint.moving != moving:
            self._joint.release()
            self._joint = None
        if self._joint is None and _Joint.serves(self.torchs, [self.parameters[i] for i in moving]):
            self._joint = _Joint(self.torchs, self.parameters, moving)
        if self._joint is not None:
            return self._joint.take(given)
        self._given = list(gradients)
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(given)))

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        if self._joint is not None:
            self._joint.step()
            return
        for parameter, gradient in zip(self.parameters, self._given, strict=True):
            parameter.grad = gradient
        self.torchs.step()

    def state_dict(self) -> dict[str, Any]:
        """Torch's state, in tensors of its own."""
        if self._joint is not None:
            self._joint.release()
        state: dict[str, Any] = self.torchs.state_dict()
        own = {i: {k: v.clone() for k, v in one.items()} for i, one in state["state"].items()}
        return {**state, "state": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._joint = None
        self.torchs.load_state_dict(state)


def _is_large(parameter: Tensor) -> bool:
    return parameter.numel() > LARGE and parameter.device.type == "cpu"


class _Joint:
    """Steps on parameters that all have gradients; the moments of the small ones are one vector.

    The moments in torch's state become views of those here; `release` brings its counts up to date.
    """

    def __init__(
        self, torchs: torch.optim.Adam, parameters: Sequence[Tensor], moving: list[int]
    ) -> None:
        self.torchs, self.moving = torchs, moving
        moved = [parameters[i] for i in moving]
        self.where_small = [i for i, p in enumerate(moved) if not _is_large(p)]
        self.where_large = [i for i, p in enumerate(moved) if _is_large(p)]
        self.large = [moved[i] for i in self.where_large]
        self.gradients: list[Tensor] = []  # of the large ones
        self.states = [torchs.state[moved[i]] for i in self.where_small]
        self.count = int(self.states[0]["step"]) if self.states else 0
        self.values = [moved[i].detach() for i in self.where_small]  # the same memory
        self.first, self.firsts = _joined([one["exp_avg"] for one in self.states])
        self.second, seconds = _joined([one["exp_avg_sq"] for one in self.states])
        self.denominator, self.denominators = _joined(seconds)
        self.gradient, _ = _joined(seconds)
        for state, first, second in zip(self.states, self.firsts, seconds, strict=True):
            state.update({"exp_avg": first, "exp_avg_sq": second})

    @staticmethod
    def serves(torchs: torch.optim.Adam, parameters: Sequence[Tensor]) -> bool:
        """Whether all parameters have moments, after as many steps, and are of one kind."""
        kinds = {(p.device.type, p.dtype) for p in parameters}
        states = [torchs.state.get(p) for p in parameters]
        counts = {int(state["step"]) if state else 0 for state in states}
        return (
            len(kinds) == 1 and next(iter(kinds))[0] == "cpu" and len(counts) == 1 and counts != {0}
        )

    def take(self, gradients: Sequence[Tensor]) -> bool:
        """Join the gradients; say whether all are finite: a norm is not where one entry is not."""
        self.gradients = [gradients[i] for i in self.where_large]
        every = self.gradients
        if self.states:
            small = [gradients[i].reshape(-1) for i in self.where_small]
            torch.cat(small, out=self.gradient)
            every = [self.gradient, *every]
        return all(math.isfinite(norm.item()) for norm in torch._foreach_norm(every))

    def step(self) -> None:
        """Move all parameters."""
        with torch.no_grad():
            if self.states:
                self._step_of_small(self.torchs.param_groups[0])
            if self.large:
                self._step_of_large(self.torchs.param_groups[-1])

    def _step_of_small(self, group: dict[str, Any]) -> None:
        (beta1, beta2), gradient = group["betas"], self.gradient
        self.count += 1
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch.sqrt(self.second, out=self.denominator)
        self.denominator.div_((1 - beta2**self.count) ** 0.5).add_(group["eps"])
        size = group["lr"] / (1 - beta1**self.count)
        torch._foreach_addcdiv_(self.values, self.firsts, self.denominators, value=-size)

    def _step_of_large(self, group: dict[str, Any]) -> None:
        states = [self.torchs.state[p] for p in self.large]
        adam(
            self.large, self.gradients, [one["exp_avg"] for one in states],
            [one["exp_avg_sq"] for one in states], [], [one["step"] for one in states],
            fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1],
            lr=group["lr"], weight_decay=0.0, eps=group["eps"], maximize=False,
        )  # fmt: skip

    def release(self) -> None:
        """Bring torch's counts up to date."""
        for state in self.states:
            state["step"].fill_(float(self.count))


def _joined(parts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Copy tensors into one vector; give it, and its parts in their shapes."""
    if not parts:
        return torch.empty(0), []
    flat = torch.cat([part.reshape(-1) for part in parts])
    cut = zip(flat.split([part.numel() for part in parts]), parts, strict=True)
    return flat, [piece.view(part.shape) for piece, part in cut]
