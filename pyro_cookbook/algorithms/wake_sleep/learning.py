"""Learn sigmoid belief networks and linear recognition networks, several from one call."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_cookbook.algorithms.wake_sleep import rules
from pyro_cookbook.algorithms.wake_sleep.enumeration import BeliefParameters, Distances, distances
from pyro_cookbook.programs.state.isolation import calm_threads

# How fast the running mean of the log weights forgets, a step: Pyro's default for its baselines.
BASELINE_DECAY = 0.9


class Recognition(NamedTuple):
    """φ of a linear recognition network, or of several: q(h_i | v) = Bernoulli(σ((R v + r)_i)).

    Attributes
    ----------
    R, r : Tensor
        Shapes (..., K, D), (..., K), real.
    """

    R: Tensor
    r: Tensor

    def logits(self, v: Tensor) -> Tensor:
        """Log odds of the causes given rows of shape (..., n, D): shape (..., n, K)."""
        return v @ self.R.mT + self.r[..., None, :]


class Pull(NamedTuple):
    """Directions in which θ and φ are moved: gradients to ascend, of the parameters' shapes."""

    theta: BeliefParameters
    phi: Recognition


@dataclass(frozen=True)
class Learnt:
    """What `learn` found, for each of S seeds, and the path there.

    Attributes
    ----------
    theta : BeliefParameters
        Shapes (S, D, K), (S, K), (S, D).
    phi : Recognition
        Shapes (S, K, D), (S, K).
    steps : Tensor
        Steps at which the path was measured, shape (T,).
    log_evidence, reverse, forward : Tensor
        Means over the rows of log p(v), KL(q ‖ p) and KL(p ‖ q), in nats a row, shape (T, S).
    """

    theta: BeliefParameters
    phi: Recognition
    steps: Tensor
    log_evidence: Tensor
    reverse: Tensor
    forward: Tensor


def start(
    v: Tensor, num_units: int, num_seeds: int, generator: torch.Generator
) -> tuple[BeliefParameters, Recognition]:
    """Draw W and R from N(0, 0.1²); b = −1, r = 0, and c the log odds of the columns' means."""
    num_features = v.shape[1]

    def small(*shape: int) -> Tensor:
        drawn = torch.randn(num_seeds, *shape, generator=generator, dtype=torch.float64)
        return (0.1 * drawn).to(v)

    mean = (v.sum(0) + 0.5) / (len(v) + 1)
    theta = BeliefParameters(
        small(num_features, num_units),
        v.new_full((num_seeds, num_units), -1.0),
        torch.logit(mean).repeat(num_seeds, 1),
    )
    return theta, Recognition(small(num_units, num_features), v.new_zeros(num_seeds, num_units))


def bernoulli(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw bits with these log odds."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    return (uniform < torch.sigmoid(logits)).to(logits)


def dream(
    theta: BeliefParameters, num_rows: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw (v, h) from the model, or from each of several: shapes (..., n, D) and (..., n, K)."""
    shape = (*theta.b.shape[:-1], num_rows, theta.b.shape[-1])
    h = bernoulli(theta.b[..., None, :].expand(shape), generator)
    return bernoulli(h @ theta.W.mT + theta.c[..., None, :], generator), h


def log_bernoulli(bits: Tensor, logits: Tensor) -> Tensor:
    """Log probability of bits, summed over the last dimension."""
    return (bits * logits + logsigmoid(-logits)).sum(-1)


def pull(
    theta: BeliefParameters,
    phi: Recognition,
    v: Tensor,
    method: str,
    num_particles: int,
    generator: torch.Generator,
    baseline: Tensor | float = 0.0,
) -> tuple[Pull, Tensor]:
    """Directions of one step of a method from a batch of rows, by the delta rule.

    Every unit's gradient is local: (what the unit is − its probability) × its input, times the
    coefficient of `rules.coefficients`.

    Parameters
    ----------
    theta, phi : BeliefParameters, Recognition
        With a leading dimension S.
    v : Tensor
        Rows of each seed, shape (S, B, D).
    method : str
        One of `rules.METHODS`.
    num_particles : int
        Draws of h for each row.
    generator : torch.Generator
    baseline : Tensor or float, default 0
        For ``score``, shape (S, 1) or a number.

    Returns
    -------
    Pull
        Means over the B rows.
    Tensor
        Log weights, shape (K, S, B).
    """
    q_logits = phi.logits(v)
    h = bernoulli(q_logits.expand(num_particles, *q_logits.shape), generator)
    v_logits = h @ theta.W.mT + theta.c[..., None, :]
    log_p = log_bernoulli(h, theta.b[..., None, :]) + log_bernoulli(v, v_logits)
    log_weights = log_p - log_bernoulli(h, q_logits)
    a, c = rules.coefficients(method, log_weights, baseline)
    wrong = a[..., None] * (v - torch.sigmoid(v_logits))  # (K, S, B, D)
    to_theta = BeliefParameters(
        torch.einsum("ksbd,ksbi->sdi", wrong, h),
        (a[..., None] * (h - torch.sigmoid(theta.b[..., None, :]))).sum((0, 2)),
        wrong.sum((0, 2)),
    )
    if method in rules.DREAMING:
        v, h_dreamt = dream(theta, v.shape[1], generator)
        surprise = h_dreamt - torch.sigmoid(phi.logits(v))
    else:
        surprise = (c[..., None] * (h - torch.sigmoid(q_logits))).sum(0)
    to_phi = Recognition(surprise.mT @ v, surprise.sum(1))
    num_rows = v.shape[1]
    return Pull(
        BeliefParameters(*(g / num_rows for g in to_theta)),
        Recognition(*(g / num_rows for g in to_phi)),
    ), log_weights


@calm_threads()
def learn(
    v: Tensor,
    num_units: int,
    method: str = "wake_sleep",
    *,
    num_particles: int = 1,
    baseline: bool = False,
    num_steps: int = 2000,
    batch_size: int = 50,
    lr: float = 0.02,
    num_seeds: int = 1,
    seed: int = 0,
    theta: BeliefParameters | None = None,
    measure_every: int = 100,
) -> Learnt:
    """Learn θ and φ by one of five methods, from several seeds side by side.

    Parameters
    ----------
    v : Tensor
        Rows of 0 and 1, shape (n, D).
    num_units : int
        K, the number of causes; at most 20, since the path is measured by enumeration.
    method : {"wake_sleep", "reweighted_sleep", "reweighted", "importance_weighted", "score"}
        See `rules.coefficients`.
    num_particles : int, default 1
        Draws of h for each row; at least 2 for methods that weigh the draws.
    baseline : bool, default False
        For ``score``: subtract a running mean of the log weights.
    num_steps, batch_size : int
        Steps of Adam, on batches drawn with replacement; each seed draws its own.
    lr : float, default 0.02
        Adam's learning rate; it falls to a tenth of this over the last half of the steps.
    num_seeds, seed : int
        S runs, their starts and draws all from one stream that starts at `seed`.
    theta : BeliefParameters, optional
        Hold the model at this θ, without leading dimensions, and learn φ only.
    measure_every : int, default 100
        Steps between two measurements, by enumeration.

    Returns
    -------
    Learnt

    Raises
    ------
    ValueError
        If there is no such method, too few draws for it, or `v` has other values than 0 and 1.

    References
    ----------
    Those of `rules.coefficients`.
    """
    rules.check(method, num_particles)
    if not bool(((v == 0) | (v == 1)).all()):
        raise ValueError("v: got values besides 0 and 1, expected rows of bits")
    generator = torch.Generator().manual_seed(seed)
    current, phi = start(v, num_units, num_seeds, generator)
    held = theta is not None
    if theta is not None:
        current = BeliefParameters(*(x.detach().to(v).expand(num_seeds, *x.shape) for x in theta))
    moved = [*phi] if held else [*current, *phi]
    optimizer = torch.optim.Adam(moved, lr=lr, fused=True)
    mean: Tensor | float = 0.0
    path: list[tuple[int, Distances]] = []
    for step, rows in enumerate(_batches(v, batch_size, num_seeds, num_steps, generator)):
        if step % measure_every == 0:
            path.append((step, distances(current, v, phi.logits(v))))
        found, log_weights = pull(current, phi, rows, method, num_particles, generator, mean)
        if baseline:
            batch_mean = log_weights.mean((0, 2))[:, None]
            mean = BASELINE_DECAY * mean + (1 - BASELINE_DECAY) * batch_mean if step else batch_mean
        directions = [*found.phi] if held else [*found.theta, *found.phi]
        for parameter, direction in zip(moved, directions, strict=True):
            parameter.grad = -direction
        optimizer.param_groups[0]["lr"] = lr * _decay(step / num_steps)
        optimizer.step()
    path.append((num_steps, distances(current, v, phi.logits(v))))
    return Learnt(
        current,
        phi,
        torch.tensor([step for step, _ in path]),
        *(
            torch.stack([getattr(measured, name).mean(-1) for _, measured in path])
            for name in ("log_evidence", "reverse", "forward")
        ),
    )


def _decay(share: float) -> float:
    """1 in the first half, then geometrically down to a tenth."""
    return float(10.0 ** -max(0.0, 2 * share - 1))


def _batches(
    v: Tensor, batch_size: int, num_seeds: int, num_steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield rows drawn with replacement, shape (S, B, D)."""
    for _ in range(num_steps):
        yield v[torch.randint(len(v), (num_seeds, batch_size), generator=generator)]
