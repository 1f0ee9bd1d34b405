"""Expectation maximisation for Gaussian mixtures: full, stepwise, and with SVI as the M step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

from pyro_cookbook.algorithms.gaussian_mixture.densities import (
    MixtureParameters,
    log_evidence,
    log_joint,
    random_start,
    responsibilities,
)
from pyro_cookbook.algorithms.gaussian_mixture.sums import (
    Components,
    SufficientStatistics,
    expected_sums,
    statistics,
)
from pyro_cookbook.programs.state.isolation import calm_threads, isolated

__all__ = [
    "EMResult",
    "MixtureParameters",
    "SufficientStatistics",
    "e_step",
    "em",
    "generalised_em",
    "log_evidence",
    "log_joint",
    "m_step",
    "random_start",
    "responsibilities",
    "statistics",
    "stepwise_em",
]


def e_step(
    theta: MixtureParameters, v: Tensor, origin: Tensor | None = None
) -> tuple[SufficientStatistics, Tensor]:
    """Sum the expected sufficient statistics and the log evidence, chunk by chunk.

    Parameters
    ----------
    theta : MixtureParameters
        Means relative to `origin`.
    v : Tensor
        Rows, shape (n, D).
    origin : Tensor, optional
        Shape (D,), taken from every row; default 0. Second moments lose digits far from it.

    Returns
    -------
    statistics : SufficientStatistics
        Of rows relative to `origin`, in double precision.
    log_evidence : Tensor
        Σ_n log p(v_n; θ), in nats, shape (): the bound right after this E step.
    """
    tril = theta.scale_tril
    num_features = tril.shape[-1]
    eye = torch.eye(num_features).to(tril).expand_as(tril)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = theta.weights.log() - log_det - 0.5 * num_features * math.log(2 * math.pi)
    root = torch.linalg.solve_triangular(tril, eye, upper=False)
    return expected_sums(Components(constant, root, theta.loc), v, origin)


def m_step(
    sums: SufficientStatistics, reg_covar: float = 1e-6, dtype: torch.dtype | None = None
) -> MixtureParameters:
    """Maximise the expected complete-data likelihood.

    Parameters
    ----------
    sums : SufficientStatistics
    reg_covar : float, default 1e-6
        Added to the diagonal of every covariance, in squared units of the data: it keeps a
        component from collapsing onto a row. Above 0 the bound may fall by a like amount.
    dtype : torch.dtype, optional
        Of the rows, whose rounding decides what is singular. Default: that of the sums.

    Raises
    ------
    ValueError
        If a component's covariance is singular, naming the component.
    """
    eps = 10 * torch.finfo(dtype or sums.count.dtype).eps
    count = sums.count + eps
    loc = sums.first / count[:, None]
    outer = loc[:, :, None] * loc[:, None, :]
    covariance = (
        sums.second / count[:, None, None] - outer * (2 - sums.count / count)[:, None, None]
    )
    covariance.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
    scale_tril, info = torch.linalg.cholesky_ex(covariance)
    # A variance within the rounding error of the difference above is none.
    rounding = eps * sums.second.diagonal(dim1=-2, dim2=-1) / count[:, None]
    lost = scale_tril.diagonal(dim1=-2, dim2=-1).square() <= rounding
    singular = (info > 0) | lost.any(-1)
    if singular.any():
        k = int(singular.nonzero()[0])
        raise ValueError(
            f"component {k} has a singular covariance with {float(sums.count[k]):.3g} rows;"
            " use fewer components, another start or a larger reg_covar"
        )
    return MixtureParameters(count / count.sum(), loc, scale_tril)


@dataclass(frozen=True)
class EMResult:
    """Outcome of EM.

    Attributes
    ----------
    theta : MixtureParameters
        Of the best start.
    elbo : list of float
        The bound after each E step of that start, in nats: log p(v; θ) under the θ of that step.
    converged : bool
    restarts : list of float
        Final bound of every start that did not collapse, in nats.
    """

    theta: MixtureParameters
    elbo: list[float]
    converged: bool
    restarts: list[float]


@calm_threads()
def em(
    v: Tensor,
    num_components: int,
    *,
    start: MixtureParameters | None = None,
    max_iterations: int = 1000,
    tol: float = 1e-9,
    reg_covar: float = 1e-6,
    num_restarts: int = 1,
    seed: int = 0,
) -> EMResult:
    """Fit a Gaussian mixture by EM from one or several starts, and keep the best.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_components : int
        K, at most n.
    start : MixtureParameters, optional
        Where the first start begins. Default: `random_start` by `seed`.
    max_iterations : int, default 1000
    tol : float, default 1e-9
        Stop when an iteration raises the bound by less than `tol` relative.
    reg_covar : float, default 1e-6
        As in `m_step`.
    num_restarts : int, default 1
    seed : int, default 0

    References
    ----------
    Dempster, Laird and Rubin (1977), doi:10.1111/j.2517-6161.1977.tb01600.x.
    """
    if not 1 <= num_components <= len(v):
        raise ValueError(f"num_components: got {num_components}, expected 1 to {len(v)} (the rows)")
    centre = v.mean(0)
    outcomes: list[tuple[MixtureParameters, list[float], bool]] = []
    collapsed: ValueError | None = None
    for r in range(num_restarts):
        theta = random_start(v, num_components, seed=seed + r) if start is None or r else start
        theta = _moved(theta, -centre)
        try:
            theta, elbo, converged = _climb(v, centre, theta, max_iterations, tol, reg_covar)
        except ValueError as error:  # another start may do: give up only if all collapse
            collapsed = error
            continue
        outcomes.append((_moved(theta, centre, v.dtype), elbo, converged))
    if not outcomes and collapsed is not None:
        raise collapsed
    best = max(outcomes, key=lambda outcome: outcome[1][-1])
    return EMResult(*best, restarts=[elbo[-1] for _, elbo, _ in outcomes])


def _moved(
    theta: MixtureParameters, by: Tensor, dtype: torch.dtype = torch.float64
) -> MixtureParameters:
    """Move the means; in double precision sums and parameters keep what their rows tell."""
    loc = theta.loc.double() + by.double()
    return MixtureParameters(*(x.to(dtype) for x in (theta.weights, loc, theta.scale_tril)))


def _climb(
    v: Tensor,
    centre: Tensor,
    theta: MixtureParameters,
    max_iterations: int,
    tol: float,
    reg_covar: float,
) -> tuple[MixtureParameters, list[float], bool]:
    """Run EM from one start: θ, the bound after every E step, and whether it has converged.

    Where it has not, θ is one M step ahead of the last bound, and no worse.
    """
    elbo: list[float] = []
    for _ in range(max_iterations):
        sums, evidence = e_step(theta, v, centre)
        elbo.append(float(evidence))
        if len(elbo) > 1 and elbo[-1] - elbo[-2] < tol * abs(elbo[-1]):
            return theta, elbo, True
        theta = m_step(sums, reg_covar, v.dtype)
    return theta, elbo, False


@calm_threads()
def stepwise_em(
    v: Tensor,
    num_components: int,
    *,
    batch_size: int = 256,
    num_epochs: int = 20,
    decay: float = 0.7,
    start: MixtureParameters | None = None,
    reg_covar: float = 1e-6,
    seed: int = 0,
) -> EMResult:
    """EM on mini-batches: blend each batch's statistics into a running average.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    num_components : int
        K.
    batch_size : int, default 256
    num_epochs : int, default 20
    decay : float, default 0.7
        The step of batch t is (t + 2)^−decay; convergence needs 0.5 < decay ≤ 1.
    start, reg_covar, seed
        As for `em`.

    Returns
    -------
    EMResult
        With the bound on all rows after every epoch; it need not rise at every one.

    References
    ----------
    Cappé and Moulines (2009), doi:10.1111/j.1467-9868.2009.00698.x.
    """
    if not 0.5 < decay <= 1:
        raise ValueError(f"decay: got {decay}, expected above 0.5 and at most 1")
    generator = torch.Generator().manual_seed(seed)
    centre = v.mean(0)
    theta = _moved(start or random_start(v, num_components, seed=seed), -centre)
    average = _per_row(e_step(theta, v, centre)[0], len(v))
    elbo: list[float] = []
    step = 0
    for _ in range(num_epochs):
        for part in torch.randperm(len(v), generator=generator).to(v.device).split(batch_size):
            sums, _ = e_step(theta, v[part], centre)
            average = average.interpolate(_per_row(sums, len(part)), (step + 2) ** -decay)
            theta = m_step(average, reg_covar, v.dtype)
            step += 1
        elbo.append(float(e_step(theta, v, centre)[1]))
    theta = _moved(theta, centre, v.dtype)
    return EMResult(theta, elbo, converged=False, restarts=elbo[-1:])


def _per_row(sums: SufficientStatistics, n: int) -> SufficientStatistics:
    return SufficientStatistics(sums.count / n, sums.first / n, sums.second / n)


def generalised_em(
    model: nn.Module,
    guide: Any,
    v: Tensor,
    *,
    num_iterations: int = 50,
    steps_per_iteration: int = 20,
    lr: float = 0.02,
    elbo: Any = None,
    seed: int = 0,
) -> Iterator[float]:
    """Alternate an exact E step with an M step by SVI: climb the bound, do not top it.

    Parameters
    ----------
    model : GaussianMixture
        Its parameters are changed in place.
    guide : GaussianMixtureExact
        Its `e_step` copies the model's parameters, so the M step moves only the model.
    v : Tensor
        Rows, shape (n, D).
    num_iterations, steps_per_iteration : int
        E steps, and gradient steps in each M step.
    lr : float, default 0.02
        Adam's learning rate.
    elbo : pyro.infer.ELBO, optional
        Default: ``TraceEnum_ELBO``, which sums over h. ``Trace_ELBO`` draws h instead.
    seed : int, default 0

    Yields
    ------
    float
        The bound in nats after each E step, where it equals log p(v; θ).

    References
    ----------
    Neal and Hinton (1998), doi:10.1007/978-94-011-5014-9_12.
    """
    elbo = elbo or TraceEnum_ELBO(max_plate_nesting=1)
    run_guide: Callable[..., Any] = guide
    if isinstance(elbo, TraceEnum_ELBO):
        run_guide = config_enumerate(guide)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for iteration in range(num_iterations):
        guide.e_step(model)
        with torch.no_grad():
            evidence = float(log_evidence(model, v).sum())  # type: ignore[arg-type]
        yield evidence
        with isolated(seed + iteration):
            for _ in range(steps_per_iteration):
                optimizer.zero_grad()
                elbo.loss_and_grads(model, run_guide, v)
                optimizer.step()
