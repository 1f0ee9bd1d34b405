"""One chain of nutpie's NUTS with its defaults, on a density that is written by hand."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import nutpie
import pyarrow as pa
from densities import Evaluate
from nutpie.compiled_pyfunc import from_pyfunc

Array = npt.NDArray[np.float64]


class Walk(NamedTuple):
    """Positions, shape (tune + draws, D), and gradients that each has taken."""

    z: Array
    steps: npt.NDArray[np.int64]


def walk(evaluate: Evaluate, dim: int, *, tune: int, draws: int, seed: int) -> Walk:
    """Run one chain from a start of nutpie's own."""

    def one(u: Array) -> tuple[float, Array]:
        value, slope = evaluate(u[None])
        return float(value[0]), np.ascontiguousarray(slope[0])

    model = from_pyfunc(
        dim, lambda: one, lambda *_: lambda u: {"u": u}, [np.dtype(np.float64)], [(dim,)], ["u"]
    )
    found = nutpie.sample(
        model, draws=draws, tune=tune, chains=1, cores=1, seed=seed, progress_bar=False,
        return_raw_trace=True,
    )  # fmt: skip
    (drawn,), (told,) = found.get_arrow_trace()
    z = pa.array(drawn.column("u")).flatten().to_numpy().reshape(-1, dim)
    return Walk(z, pa.array(told.column("n_steps")).to_numpy(zero_copy_only=False).astype(int))
