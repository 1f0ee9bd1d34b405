"""One chain of the No-U-Turn sampler, by nutpie, in coordinates in which the posterior is round.

nutpie walks in a thread of its own, which calls back into Python for the density, and learns in
its warm-up the scales that the coordinates have left uneven.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_cookbook.programs.coordinates import Coordinates
from pyro_cookbook.programs.density.log_density import first_line

Array = npt.NDArray[np.float64]
# Log density and its gradient at one vector.
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
# nutpie takes its first scales from the gradient at the start, and refuses one with a zero, as at a
# mode: then it is asked again, for a point so far away.
_NUDGE = 0.01


@dataclass(frozen=True)
class Chain:
    """A chain that has run.

    Attributes
    ----------
    positions : array, shape (S, D)
        On the unconstrained scale, warm-up left out.
    diverging : array of bool, shape (S,)
    """

    positions: Array
    diverging: npt.NDArray[np.bool_]


class _Landscape:
    """The log density in round coordinates, and how many draws have been made there.

    Never raises: an error would end nutpie's thread with a panic. The model's is kept for later.
    """

    def __init__(self, evaluate: Evaluate, coordinates: Coordinates) -> None:
        self.evaluate, self.coordinates = evaluate, coordinates
        self.error: Exception | None = None
        self.stopped = False
        self.num_draws = 0

    def __call__(self, u: Array) -> tuple[float, Array]:
        """Value and gradient at u; NaN, which ends a trajectory, where there is no density."""
        if self.stopped:
            return -0.5 * float(u @ u), -u  # a plain: nutpie comes to its end on any
        try:
            with torch.no_grad():
                value, slope = self.evaluate(torch.from_numpy(self.coordinates.place(u)))
            gradient = self.coordinates.gradient(slope.double().numpy())
            if np.isfinite(gradient).all():
                return value.item(), np.ascontiguousarray(gradient)
        except torch.linalg.LinAlgError:  # a matrix is singular just there
            pass
        except Exception as error:  # the model's own, whatever it is
            self.error, self.stopped = error, True
            return self(u)
        return np.nan, np.zeros_like(u)

    def note(self, u: Array) -> dict[str, Array]:
        """Count a draw, unless its trajectory may have been cut off."""
        self.num_draws += not self.stopped
        return {"u": u}


def run_chain(
    evaluate: Evaluate,
    coordinates: Coordinates,
    start: Array,
    *,
    num_draws: int,
    num_warmup: int,
    target_accept: float,
    seed: int,
    seconds: float | None = None,
) -> Chain:
    """Run one chain.

    Parameters
    ----------
    evaluate : callable
        Log density and gradient at one unconstrained vector.
    coordinates : Coordinates
    start : array, shape (D,)
        With a finite density and gradient.
    num_draws, num_warmup : int
        At least one of each.
    target_accept : float
    seed : int
    seconds : float, optional
        Wall time after which the chain ends with what it has: fewer draws, or none.

    Raises
    ------
    ValueError
        If a gradient is zero near the start, too: a direction is flat.
    """
    import nutpie  # local, as all that it imports: half a second, and seldom needed
    import pyarrow as pa
    from nutpie.compiled_pyfunc import from_pyfunc

    landscape = _Landscape(evaluate, coordinates)
    first, rng = coordinates.solve(start - coordinates.loc), np.random.default_rng(seed)
    steps = chain([0.0], repeat(_NUDGE))
    model = from_pyfunc(
        len(first), lambda: landscape, lambda *_: landscape.note,
        [np.dtype(np.float64)], [(len(first),)], ["u"],
        make_initial_point_fn=lambda _: first + next(steps) * rng.standard_normal(len(first)),
    )  # fmt: skip
    run: Any = nutpie.sample(
        model, draws=num_draws, tune=num_warmup, chains=1, cores=1, seed=seed,
        target_accept=target_accept, progress_bar=False, return_raw_trace=True,
        blocking=False,
    )  # fmt: skip
    try:
        found = run.wait(timeout=None if seconds is None else max(seconds, 0.0))
    except TimeoutError:
        landscape.stopped = True
        found = run.abort()
    except (KeyboardInterrupt, SystemExit):
        landscape.stopped = True
        run.cancel()
        raise
    except BaseException as error:  # no start; or a panic, which is no Exception
        raise landscape.error or ValueError(
            f"model: NUTS has failed ({first_line(error)}); the gradient of the log density is zero"
            " in some direction, or not finite"
        ) from error
    if landscape.error is not None:
        raise landscape.error
    (drawn,), (told,) = found.get_arrow_trace()
    kept = slice(num_warmup, max(landscape.num_draws, num_warmup))
    u = pa.array(drawn.column("u")).flatten().to_numpy().reshape(-1, len(first))[kept]
    diverging = pa.array(told.column("diverging")).to_numpy(zero_copy_only=False)[kept]
    return Chain(coordinates.place(u), diverging)
