"""Guides for `models.sparse_coding` that learn to infer: PSD, LISTA, and learned step sizes."""

from typing import Protocol, Self

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints


class Dictionary(Protocol):
    """What an unrolled guide starts from: the model, or anything with its four attributes."""

    W: Tensor  # (D, K)
    b: Tensor  # (D,)
    rate: float  # λ
    scale: float  # β^−½


class SparseCodingPSD(PyroModule):
    """q(h | v) = δ(h − f(v)), f(v) = g ∘ tanh(F v + c): one shallow layer from a row to its code.

    The encoder of predictive sparse decomposition. There it is trained jointly with the dictionary,
    by the tether α/2 ‖h − f(v)‖² to a code h that has its own optimisation
    (`pyro_cookbook.algorithms.sparse_coding.learned_codes.tethered`), and used alone afterwards. As
    a guide, trained by its own bound, it is the limit of a large α. No code is exactly 0, and none
    is larger than its gain.

    Parameters
    ----------
    num_features, num_atoms : int
        D and K.

    Attributes
    ----------
    weight, bias : Tensor
        F and c, shapes (K, D) and (K,), real. Initially those of torch's linear layer, by the
        global seed.
    gain : Tensor
        g, shape (K,), real. Initially 1.

    References
    ----------
    Kavukcuoglu, Ranzato and LeCun (2008), *Fast inference in sparse coding algorithms with
    applications to object recognition*, arXiv:1010.3467. Goodfellow, Bengio and Courville (2016),
    *Deep Learning*, section 14.8.
    """

    def __init__(self, num_features: int, num_atoms: int) -> None:
        super().__init__()
        self.num_features, self.num_atoms = num_features, num_atoms
        layer = torch.nn.Linear(num_features, num_atoms)
        self.weight = PyroParam(layer.weight.detach())
        self.bias = PyroParam(layer.bias.detach())
        self.gain = PyroParam(torch.ones(num_atoms))

    def code(self, v: Tensor) -> Tensor:
        """Compute f(v), shape (n, K), of rows of shape (n, D)."""
        return self.gain * (v @ self.weight.mT + self.bias).tanh()

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        return _point_at(self.code(v), num_obs)


class SparseCodingLISTA(PyroModule):
    """q(h | v) = δ(h − h_T(v)), h_T the end of T learned iterations of soft thresholding.

    With h_0 = 0, each layer is h_t = sh(E_t (v − b) + S_t h_{t−1}; θ_t), where sh moves every code
    towards 0 by its own θ and stops at 0: codes have exact zeros. `start_at` makes the layers T
    iterations of ISTA: E = Wᵀ/L, S = I − WᵀW/L, θ = λ/(βL), with L the largest eigenvalue of WᵀW.
    Training on the bound lets each layer do more than one iteration, for rows like those seen.

    Parameters
    ----------
    num_features, num_atoms : int
        D and K.
    num_layers : int
        T, at least 1.

    Attributes
    ----------
    encode : Tensor
        E, shape (T, K, D), real.
    inhibit : Tensor
        S of layers 2 to T, shape (T − 1, K, K), real: the first layer starts at 0.
    threshold : Tensor
        θ, shape (T, K), positive.
    b : Tensor
        Mean of the rows, shape (D,): a buffer, not trained.

    Initially ISTA for random atoms of length 1, by the global seed, with b = 0 and λ = β = 1.

    Raises
    ------
    ValueError
        If `num_layers` is below 1.

    References
    ----------
    Gregor and LeCun (2010), *Learning fast approximations of sparse coding*, ICML, where all layers
    share one E, S and θ.
    """

    b: Tensor

    def __init__(self, num_features: int, num_atoms: int, num_layers: int) -> None:
        super().__init__()
        _check(num_layers)
        self.num_features, self.num_atoms, self.num_layers = num_features, num_atoms, num_layers
        self.register_buffer("b", torch.zeros(num_features))
        self.encode = PyroParam(torch.zeros(num_layers, num_atoms, num_features))
        self.inhibit = PyroParam(torch.zeros(num_layers - 1, num_atoms, num_atoms))
        one = torch.ones(num_layers, num_atoms)
        self.threshold = PyroParam(one, constraint=constraints.positive)
        self._set(_random_atoms(num_features, num_atoms), self.b, 1.0)

    def start_at(self, theta: Dictionary) -> Self:
        """Make the layers T iterations of ISTA.

        Parameters
        ----------
        theta : Dictionary
            The model, or its parameters; the guide does not follow later changes of them.

        Returns
        -------
        Self
            The guide.
        """
        self._set(theta.W.detach(), theta.b.detach(), theta.rate * theta.scale**2)
        return self

    def _set(self, W: Tensor, b: Tensor, shrinkage: float) -> None:
        curvature, own = _curvature(W), self.b
        step = torch.eye(self.num_atoms).to(W) - W.mT @ W / curvature
        self.b = b.to(own).clone()
        self.encode = (W.mT / curvature).to(own).repeat(self.num_layers, 1, 1)
        self.inhibit = step.to(own).repeat(self.num_layers - 1, 1, 1)
        self.threshold = (shrinkage / curvature).to(own).repeat(self.num_layers, self.num_atoms)

    def code(self, v: Tensor) -> Tensor:
        """Compute h_T, shape (n, K), of rows of shape (n, D)."""
        x = v - self.b
        # Unbound at once: the gradient of an index has the size of all layers.
        first, *encode = self.encode.unbind()
        cut, *threshold = self.threshold.unbind()
        h = _soft_threshold(x @ first.mT, cut)
        for E, S, cut in zip(encode, self.inhibit.unbind(), threshold, strict=True):
            h = _soft_threshold(x @ E.mT + h @ S.mT, cut)
        return h

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        return _point_at(self.code(v), num_obs)


class SparseCodingLearnedSteps(PyroModule):
    """q(h | v) = δ(h − h_T(v)), h_T the end of T iterations of FISTA of which only numbers learn.

    The matrices are those of the dictionary. Layer t looks ahead, y = h_{t−1} + m_t (h_{t−1} −
    h_{t−2}), and steps: h_t = sh(y − (s_t/L) Wᵀ(W y − v + b); s_t c_t λ/(βL)). 3T − 1 numbers are
    learned, whatever D and K. At the start s = c = 1 and m is FISTA's: T iterations of FISTA, for
    the dictionary of `start_at`.

    Parameters
    ----------
    num_features, num_atoms : int
        D and K.
    num_layers : int
        T, at least 1.

    Attributes
    ----------
    step : Tensor
        s, shape (T,), positive, in units of FISTA's step. Initially 1.
    shrink : Tensor
        c, shape (T,), positive: the threshold in units of what λ asks for at that step. Initially
        1.
    momentum : Tensor
        m of layers 2 to T, shape (T − 1,), real. Initially FISTA's.
    W, b, unit, curvature : Tensor
        Dictionary, mean of the rows, λ/β and L, shapes (D, K), (D,), () and (): buffers, not
        trained. Initially random atoms of length 1, by the global seed, with b = 0 and λ = β = 1.

    Raises
    ------
    ValueError
        If `num_layers` is below 1.

    Notes
    -----
    With c = 1 a layer leaves the minimum of J where it is; with another c it does not. The numbers
    suit rows like those of the training: on others the steps may overshoot. HyperLISTA, from which
    the idea is, has matrices computed from W to recover the true code behind a row; for the minimum
    of J the matrix is Wᵀ itself.

    References
    ----------
    Ablin, Moreau, Massias and Gramfort (2019), *Learning step sizes for unfolded sparse coding*,
    arXiv:1905.11071. Chen, Liu, Wang and Yin (2021), *Hyperparameter tuning is all you need for
    LISTA*, arXiv:2110.15900.
    """

    W: Tensor
    b: Tensor
    unit: Tensor
    curvature: Tensor

    def __init__(self, num_features: int, num_atoms: int, num_layers: int) -> None:
        super().__init__()
        _check(num_layers)
        self.num_features, self.num_atoms, self.num_layers = num_features, num_atoms, num_layers
        self.register_buffer("W", _random_atoms(num_features, num_atoms))
        self.register_buffer("b", torch.zeros(num_features))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("curvature", _curvature(self.W).to(self.W))
        one = torch.ones(num_layers)
        self.step = PyroParam(one, constraint=constraints.positive)
        self.shrink = PyroParam(one.clone(), constraint=constraints.positive)
        self.momentum = PyroParam(torch.tensor(_fista_momentum(num_layers)))

    def start_at(self, theta: Dictionary) -> Self:
        """Take a dictionary, and make the layers T iterations of FISTA.

        Parameters
        ----------
        theta : Dictionary
            The model, or its parameters; the guide does not follow later changes of them.

        Returns
        -------
        Self
            The guide.
        """
        own = self.b
        self.W, self.b = theta.W.detach().to(own).clone(), theta.b.detach().to(own).clone()
        self.unit = own.new_tensor(theta.rate * theta.scale**2)
        self.curvature = _curvature(theta.W.detach()).to(own)
        self.step = self.shrink = own.new_ones(self.num_layers)
        self.momentum = own.new_tensor(_fista_momentum(self.num_layers))
        return self

    def code(self, v: Tensor) -> Tensor:
        """Compute h_T, shape (n, K), of rows of shape (n, D)."""
        gram, pull = self.W.mT @ self.W, (v - self.b) @ self.W
        step, momentum = self.step / self.curvature, self.momentum
        threshold = step * self.shrink * self.unit
        old = torch.zeros_like(pull)
        h = _soft_threshold(step[0] * pull, threshold[0])
        for t in range(1, self.num_layers):
            ahead = h + momentum[t - 1] * (h - old)
            moved = ahead - step[t] * (ahead @ gram - pull)
            old, h = h, _soft_threshold(moved, threshold[t])
        return h

    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        return _point_at(self.code(v), num_obs)


def _check(num_layers: int) -> None:
    if num_layers < 1:
        raise ValueError(f"num_layers: got {num_layers}, expected 1 at least")


def _random_atoms(num_features: int, num_atoms: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(num_features, num_atoms), dim=0)


def _curvature(W: Tensor) -> Tensor:
    """L, the largest eigenvalue of WᵀW, shape (): a tensor, for `load` builds without values."""
    return torch.linalg.eigvalsh((W.mT @ W).double())[-1]


def _fista_momentum(num_layers: int) -> list[float]:
    """(a_t − 1) / a_{t+1} of layers t = 2 to T, where a_1 = 1 and a_{t+1} = ½ + √(¼ + a_t²)."""
    momentum, age = [], 1.0
    for _ in range(num_layers):
        older, age = age, 0.5 + (0.25 + age**2) ** 0.5
        momentum.append((older - 1) / age)
    return momentum[1:]


def _soft_threshold(h: Tensor, threshold: Tensor) -> Tensor:
    return (h - threshold).relu() - (-h - threshold).relu()


def _point_at(code: Tensor, num_obs: int | None) -> dict[str, Tensor]:
    num_rows = len(code)
    with pyro.plate("row", num_obs or num_rows, subsample_size=num_rows, dim=-1):
        return {"h": pyro.sample("h", dist.Delta(code, event_dim=1))}
