"""Which engine fits what, what either can be told, and what either returns."""

from dataclasses import dataclass
from typing import Any, Protocol

from pyro import poutine
from pyro.infer import ELBO
from torch import nn

from pyro_cookbook.engines.streams.source import RowSource
from pyro_cookbook.programs.program import Function, Program, is_free, is_trained

DETERMINISTIC, STOCHASTIC = "deterministic", "stochastic"


@dataclass(frozen=True)
class Deterministic:
    """Options of the deterministic engine.

    Attributes
    ----------
    num_starts : int or None
        Dispersed climbs to a mode. None: as many as the model's cost allows, 8 at most.
    max_steps : int
        Largest number of L-BFGS iterations.
    """

    num_starts: int | None
    max_steps: int


@dataclass(frozen=True)
class Stochastic:
    """Options of the stochastic engine.

    Attributes
    ----------
    elbo : pyro.infer.ELBO
        Estimator of the bound.
    lr : float
        Adam's first learning rate.
    max_steps : int
        Largest number of steps of one start.
    tol : float
        A rise of the ELBO below this, two standard errors included, counts as none; in nats.
    batch_size : int or None
        Rows of a mini-batch; None for all.
    num_starts : int
        Starts, of which the best is kept.
    source : RowSource or None
        Where mini-batches come from; None for the program's own data.
    """

    elbo: ELBO
    lr: float
    max_steps: int
    tol: float
    batch_size: int | None = None
    num_starts: int = 1
    source: RowSource | None = None


@dataclass(frozen=True)
class Mode:
    """A mode of the posterior in which climbs from dispersed starts ended.

    Attributes
    ----------
    log_density : float
        Of the unconstrained latents there, in nats.
    share : float
        Share of the mass of all modes found, by Laplace's approximation.
    num_starts : int
        How many climbs ended here.
    distance : float
        From the mode with the most mass: the largest over the latents, in sds of the narrower.
    site : str
        The site where it is largest.
    location : tuple of float
        The unconstrained latents there.

    Examples
    --------
    A square's two roots.

    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     h = pyro.sample("h", dist.Normal(0.0, 2.0))
    ...     pyro.sample("y", dist.Normal(h**2, 0.3), obs=y)
    >>> fit = pc.fit(model, "mean_field", torch.tensor(4.0))
    >>> [f"{mode.share:.2f}" for mode in fit.modes]
    ['0.50', '0.50']
    """

    log_density: float
    share: float
    num_starts: int
    distance: float
    site: str
    location: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """What an engine returns for one start.

    Attributes
    ----------
    model : Program
    guide : callable
        The fitted programs: copies.
    family : str
        Name of the guide's family, or of its class.
    seed : int
    losses : list of float
        −ELBO at every step, in nats.
    converged, reason : bool, str
    modes : tuple of Mode
        Deterministic engine: the distinct modes in which climbs ended.
    lost : int
        Climbs that ended in no mode.
    failure : ArithmeticError or None
        Why the bound stopped being a number.
    obstacle : str
        Why the model had to be run one draw at a time, or by Pyro's handlers for each step of SVI;
        "" if it had not.
    """

    model: Program
    guide: Function
    family: str
    seed: int
    losses: list[float]
    converged: bool
    reason: str
    modes: tuple[Mode, ...] = ()
    lost: int = 0
    failure: ArithmeticError | None = None
    obstacle: str = ""


class Memory(Protocol):
    """Where an engine keeps the states of its starts, to go on from there."""

    starts: dict[int, Any]

    def save(self, start: int, state: dict[str, Any]) -> None:
        """Record the state of one start."""


def choose_engine(
    requested: str | None,
    model: Program,
    guide: Function | str,
    *,
    elbo: ELBO | None,
    batch_size: int | None,
) -> tuple[str, str]:
    """Choose an engine and say why.

    Raises
    ------
    ValueError
        If the deterministic engine is asked for where it cannot serve, or the name is unknown.
    """
    if requested not in {None, DETERMINISTIC, STOCHASTIC}:
        raise ValueError(f"engine: got {requested!r}, expected {DETERMINISTIC!r} or {STOCHASTIC!r}")
    if requested == STOCHASTIC:
        return STOCHASTIC, "it was asked for"
    obstacle = _obstacle(model, guide, elbo, batch_size)
    if obstacle and requested == DETERMINISTIC:
        raise ValueError(f"engine: got {DETERMINISTIC!r}, but {obstacle}")
    if obstacle:
        return STOCHASTIC, obstacle
    return DETERMINISTIC, "continuous latents, all data and a Gaussian family by name"


def _obstacle(
    model: Program, guide: Function | str, elbo: ELBO | None, batch_size: int | None
) -> str:
    """Why the deterministic engine cannot serve; "" if it can."""
    if not isinstance(guide, str):
        return "the guide is a program of its own"
    if guide == "flow":
        return "a flow is fitted by SVI, from the posterior's curvature"
    if batch_size is not None:
        return "mini-batches make the bound random"
    if elbo is not None:
        return "an estimator of the bound was given"
    if is_trained(model.function):
        return "the model has parameters to learn"
    nodes: Any = model.trace.nodes
    for name, node in nodes.items():
        if node["type"] == "param" and is_free(node["value"]):
            if not isinstance(model.function, nn.Module):
                raise ValueError(
                    f"model: it calls pyro.param({name!r}), which a family by name cannot learn;"
                    " make the model a PyroModule with that PyroParam, or give a guide of your own"
                )
            return f"the model has a parameter to learn, {name!r}"
        if node["type"] == "sample" and poutine.util.site_is_subsample(node):
            size, taken = node["fn"].size, len(node["value"])
            if taken < size:
                return f"plate {name!r} takes a subsample of {taken} of {size}"
    return ""
