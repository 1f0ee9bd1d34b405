"""What a fit returns: everything downstream is a function of it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyro_cookbook.engines.choosing import Mode
from pyro_cookbook.fits.refined import Refinement
from pyro_cookbook.programs.program import Function, Program

__all__ = ["Estimate", "Fit", "Mode", "Programs", "Refinement", "Restart", "check_fit"]


@dataclass(frozen=True)
class Estimate:
    """A Monte-Carlo estimate.

    Attributes
    ----------
    value : float
    se : float
        Its standard error; 0 for an exact value.

    Examples
    --------
    >>> from pyro_cookbook import Estimate
    >>> print(Estimate(-12.3456, 0.021))
    -12.346 ± 0.021
    """

    value: float
    se: float = 0.0

    def __str__(self) -> str:
        """Write the value with as many digits as the standard error supports."""
        if not np.isfinite(self.value) or not np.isfinite(self.se):
            return f"{self.value} ± {self.se}"
        digits = 4 if self.se < 1e-5 else max(0, 1 - int(np.floor(np.log10(self.se))))
        return f"{self.value:z.{digits}f} ± {self.se:.{digits}f}"  # z: no minus before a zero


@dataclass(frozen=True)
class Restart:
    """How one start of a fit ended.

    Attributes
    ----------
    seed : int
        The seed it was drawn from.
    elbo : Estimate
        ELBO at its end, in nats.
    converged : bool
    steps : int

    Examples
    --------
    >>> from pyro_cookbook import Estimate, Restart
    >>> Restart(seed=0, elbo=Estimate(-3.0, 0.1), converged=True, steps=400).steps
    400
    """

    seed: int
    elbo: Estimate
    converged: bool
    steps: int


class Programs(NamedTuple):
    """A fit's two programs on the data it was fitted to."""

    model: Program
    guide: Program


@dataclass(frozen=True, eq=False)
class Fit:
    """A model and a guide fitted to data.

    Attributes
    ----------
    programs : Programs
        Model and guide on the data they were fitted to. Copies: the ones given to `fit` are as
        they were.
    model, guide : callable
        The functions themselves.
    args, kwargs : tuple, dict
        The data, as they are called with it.
    param_state : dict
        Parameters that they keep with ``pyro.param`` outside a module.
    family : str
        Name of the guide's family, or of its class.
    seed : int
        The seed of the start that was kept.
    losses : numpy.ndarray
        −ELBO at every step of that start, shape (steps,), in nats: noisy estimates, from
        mini-batches if there were any.
    elbo : Estimate
        ELBO at the end, all data, fresh draws, in nats; true sign. Of the rows held out, where
        rows were read from files, as are `programs`; `losses` are of all rows that were fitted.
    converged : bool
        Whether the ELBO had stopped rising.
    reason : str
        Why the fit stopped, in words.
    seconds : float
        Wall time of all starts.
    restarts : tuple of Restart
        Every start, in order.
    engine, why : str
        "deterministic", "stochastic" or "" (fitted elsewhere), and why that one.
    modes : tuple of Mode
        Deterministic engine: the distinct modes in which dispersed climbs ended.
    lost_starts : int
        Climbs that ended in no mode.
    noncentred : tuple of str
        Sites that `fit` has non-centred.
    refinements : tuple of Refinement
        What `refine` has done, one for each time it was called.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> fit = pc.fit(model, "mean_field", torch.tensor(1.0))
    >>> fit.family, sorted(fit.programs.model.latents)
    ('mean_field', ['mu'])
    """

    programs: Programs
    family: str
    seed: int
    losses: npt.NDArray[np.float64]
    elbo: Estimate
    converged: bool
    reason: str
    seconds: float
    restarts: tuple[Restart, ...] = ()
    engine: str = ""
    why: str = ""
    modes: tuple[Mode, ...] = ()
    lost_starts: int = 0
    noncentred: tuple[str, ...] = ()
    refinements: tuple[Refinement, ...] = ()

    @property
    def model(self) -> Function:
        """The fitted model."""
        return self.programs.model.function

    @property
    def guide(self) -> Function:
        """The fitted guide."""
        return self.programs.guide.function

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional data."""
        return self.programs.model.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword data."""
        return self.programs.model.kwargs

    @property
    def param_state(self) -> dict[str, Any]:
        """Parameters kept outside modules."""
        return self.programs.model.store

    def __repr__(self) -> str:
        """One line: what was fitted, how well, and why it stopped."""
        family = self.family
        if self.noncentred:
            family += f", {', '.join(self.noncentred)} non-centred"
        engine = f" by the {self.engine} engine" if self.engine else ""
        return (
            f"Fit({self.programs.model.name}, {family}{engine}: ELBO {self.elbo},"
            f" {'converged' if self.converged else 'NOT converged'} after {len(self.losses)} steps:"
            f" {self.reason})"
        )


def check_fit(fit: Any) -> None:
    """Refuse what is no fit.

    Raises
    ------
    ValueError
        Saying what it is.
    """
    if not isinstance(fit, Fit):
        raise ValueError(f"fit: got a {type(fit).__name__}, expected a Fit, as `fit` gives it")
