"""Log densities of a program at given latents, site by site, many draws at a time.

What is computed for each draw is computed under `torch.vmap`, or one draw at a time where vmap
cannot follow: `over_draws` is the only place that decides, and it says which.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from pyro_cookbook.programs.density.batching import batchable
from pyro_cookbook.programs.density.enumeration import Evaluate, summing_out
from pyro_cookbook.programs.program import Program, quietly, run_at

# Largest number of scalars alive in one vmapped chunk: 64 MiB of doubles.
CHUNK_SCALARS = 2**23
# Vmapped chunks in one part: so many densities at most are kept where the parts are summed up.
_CHUNKS = 4

Values = Mapping[str, Tensor]


def chunk_size(scalars: int, num_draws: int) -> int:
    """Draws that one vmapped chunk may hold, where each fills so many scalars."""
    return max(1, min(num_draws, CHUNK_SCALARS // max(1, 4 * scalars)))


def over_draws(
    one: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    values: Values,
    *,
    chunk: int,
    singular: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    randomness: str = "error",
    obstacle: str = "",
    or_loop: bool = True,
) -> tuple[dict[str, Tensor], str]:
    """Compute something of every draw, in vmapped chunks or, where that fails, one by one.

    Parameters
    ----------
    one : callable
        Takes one draw, site → value, and gives tensors by name.
    values : mapping of str to Tensor
        Site → values, shape (S, ...).
    chunk : int
        Draws in one call.
    singular : callable, optional
        What to put for a draw where the function meets a singular matrix. Default: the error is
        raised.
    randomness : {"error", "same", "different"}, default "error"
        What vmap does with random numbers: the same for every draw or others, or none are allowed.
    obstacle : str, optional
        Why vmap could not follow before: it is not tried again.
    or_loop : bool, default True
        Go through the draws one by one where vmap cannot follow.

    Returns
    -------
    results : dict of str to Tensor
        Name → results, shape (S, ...); empty where vmap could not follow and nothing else was to
        be tried.
    obstacle : str
        Why vmap could not follow; "" if it did.
    """
    given = dict(values)
    num_draws = len(next(iter(given.values())))
    if not obstacle:
        try:
            with batchable():
                return dict(torch.vmap(one, chunk_size=chunk, randomness=randomness)(given)), ""
        except torch.linalg.LinAlgError:  # at some of the draws: halves show which
            if or_loop and num_draws > 1:
                return _by_halves(one, given, chunk, singular, randomness)
        except Exception as error:  # branches on values, .item(), operators without a batching rule
            obstacle = first_line(error)
    if not or_loop:
        return {}, obstacle or "a matrix is singular"
    rows = []
    for s in range(num_draws):
        single = {name: value[s] for name, value in given.items()}
        try:
            rows.append(one(single))
        except torch.linalg.LinAlgError:
            if singular is None:
                raise
            rows.append(singular(single))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}, obstacle


def _by_halves(
    one: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    given: dict[str, Tensor],
    chunk: int,
    singular: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
    randomness: str,
) -> tuple[dict[str, Tensor], str]:
    """Halve the draws until those of a singular matrix are alone: one costs 2 log₂ S calls."""
    found = []
    for half in (0, 1):
        part = {name: value.tensor_split(2)[half] for name, value in given.items()}
        rows, obstacle = over_draws(
            one, part, chunk=chunk, singular=singular, randomness=randomness
        )
        found.append(rows)
    return {name: torch.cat([rows[name] for rows in found]) for name in found[0]}, obstacle


def log_density(program: Program, values: Values, *, by_site: bool = True) -> dict[str, Tensor]:
    """Log density of a model at given latents, site by site; in double precision where it can be.

    Parameters
    ----------
    program : Program
    values : mapping of str to Tensor
        Latent site → values, shape (S, ...). Discrete latents that are left out, as Pyro's NUTS
        and guides for `TraceEnum_ELBO` do, are summed out.
    by_site : bool, default True
        As for `enumeration.summing_out`; where nothing is summed out there is no difference.

    Returns
    -------
    dict of str to Tensor
        Every sample site, observed ones included → log density, shape (S, batch...); −∞ where a
        matrix that the model factorises is singular. Where rows share a latent that is summed out,
        they have one density together: the row's dimension is then of size 1.

    Raises
    ------
    ValueError
        If a latent is left out that cannot be summed out.
    """
    program = program.wide
    values = program.to_own(values)

    def as_given(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: node["log_prob"] for name, node in run_at(program, given).items()}

    latents = (name for name, site in program.sites.items() if not site.observed)
    missing = [name for name in latents if name not in values]
    one: Evaluate = as_given
    if missing:
        with quietly():
            example = {name: value[0] for name, value in values.items()}
            one = summing_out(program, missing, example, by_site=by_site)

    def singular(given: dict[str, Tensor]) -> dict[str, Tensor]:
        first = next(iter(given.values()))
        nodes = program.sites.items()
        return {name: first.new_full(site.batch_shape, -torch.inf) for name, site in nodes}

    chunk = _chunk(program, len(next(iter(values.values()))))
    with quietly():
        found, _ = over_draws(one, values, chunk=chunk, singular=None if missing else singular)
    return found


def log_density_in_parts(
    program: Program, values: Values, *, by_site: bool = True
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Log densities as `log_density` gives them, some draws at a time: all may be too many to keep.

    Yields
    ------
    at : slice
        Which draws they are.
    found : dict of str to Tensor
        Site → log density, shape (part, batch...).
    """
    for at in parts(program, len(next(iter(values.values())))):
        part = {name: value[at] for name, value in values.items()}
        yield at, log_density(program, part, by_site=by_site)


def parts(program: Program, num_draws: int, copies: int = 1) -> Iterator[slice]:
    """Cut draws into parts whose densities may be kept, so many copies of them at a time."""
    step = max(1, _CHUNKS * _chunk(program, num_draws) // copies)
    for start in range(0, num_draws, step):
        yield slice(start, min(start + step, num_draws))


def _chunk(program: Program, num_draws: int) -> int:
    """How many draws are computed in one call."""
    sites = program.sites.values()
    scalars = sum(site.shape.numel() + site.batch_shape.numel() for site in sites)
    return chunk_size(scalars, num_draws)


def total(log_prob: Values) -> Tensor:
    """Sum log densities, shape (S, batch...) each, over sites and rows: shape (S,)."""
    terms = [value.reshape(len(value), -1).double().sum(1) for value in log_prob.values()]
    return torch.stack(terms).sum(0)


def first_line(error: BaseException) -> str:
    """Name an error, and the first line of what it says."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}"
