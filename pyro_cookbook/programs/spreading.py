"""`spread`: one function of many items, over cores, or over machines by joblib's setting."""

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from pyro_cookbook.programs.options import check_whole
from pyro_cookbook.programs.state.isolation import isolated
from pyro_cookbook.programs.state.progress import shown

# Of an item that failed so many characters are shown.
_SHOWN = 80


class ItemFailed(RuntimeError):
    """The function failed at one of the items.

    Attributes
    ----------
    index : int
        Which it was.
    item : object
    traceback : str
        Of the error where it happened, in another process or on another machine.
    """

    def __init__(self, index: int, item: Any, told: str, trace: str) -> None:
        line = " ".join(told.split())
        super().__init__(f"items[{index}] = {_short(item)}: {line}")
        self.index, self.item, self.traceback = index, item, trace


def spread(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int | None = None,
    seed: int = 0,
    progress: bool | None = False,
    on_result: Callable[[Any, Any], object] = lambda item, result: None,
) -> list[Any]:
    """Call a function of every item: many fits, many seeds, many tables.

    Parameters
    ----------
    function : callable
        Of one item. Functions of a notebook or a script are sent as they are; what they import has
        to be importable where they run.
    items : iterable
    workers : int, optional
        Processes. Default: what ``joblib.parallel_config`` says, and without it one, this one.
    seed : int, default 0
        For item i the random streams of torch, NumPy and Pyro begin at ``seed + i``. (Those of
        Python's `random` as well; on a worker of Dask its own threads draw from them meanwhile.)
    progress : bool, optional, default False
        Show a bar of items that are done; None: at a terminal and in a notebook.
    on_result : callable
        Called here with an item and its result, in the order of the items, as they come.

    Returns
    -------
    list
        The results, in the order of the items: the same numbers whatever the number of workers,
        one thread each, in the caller's default dtype.

    Raises
    ------
    ItemFailed
        If the function fails, naming the first item at which it does, or if a worker ends, or what
        goes there or comes back cannot be sent; the rest is called off.
    TypeError
        If the function is none.

    Notes
    -----
    Over cores: `workers`, or ``with joblib.parallel_config(n_jobs=8):`` around the call. Over
    machines, by Dask: ``client = dask.distributed.Client("scheduler:8786")``, then
    ``with joblib.parallel_config(backend="dask"):``. Either setting holds for the chains of
    `sample` too. After Ctrl-C no worker goes on.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def mean_of(scale):
    ...     def model(y):
    ...         mu = pyro.sample("mu", dist.Normal(0.0, scale))
    ...         with pyro.plate("row", len(y)):
    ...             pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    ...     fit = pc.fit(model, "full_rank", torch.tensor([1.0, 2.0, 3.0]))
    ...     return pc.to_datatree(fit).posterior["mu"].mean().item()
    >>> [round(mean, 1) for mean in pc.spread(mean_of, [0.1, 10.0])]
    [0.1, 2.0]
    """
    check_whole(1, workers=workers)
    if not callable(function):
        raise TypeError(f"function: got {_short(function)}, expected a function of one item")
    given = list(items)
    dtype = torch.get_default_dtype()
    jobs = (delayed(_one)(_Job(function, item, seed + i, dtype)) for i, item in enumerate(given))
    results: list[Any] = []
    running = Parallel(n_jobs=workers, return_as="generator", batch_size=1)(jobs)
    try:
        came = _coming(running, given)
        bar = tqdm(came, total=len(given), desc="items done", disable=not shown(progress))
        for index, (found, error) in enumerate(bar):
            if error is not None:
                raise ItemFailed(index, given[index], *error)
            on_result(given[index], found)
            results.append(found)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that items are called off: an error says it
            running.close()  # what has not begun yet never does
    return results


def _coming(running: Iterator[Any], given: list[Any]) -> Iterator[Any]:
    """Yield what comes back; where nothing does, say in one line what joblib or Dask says."""
    index = 0
    while True:  # to the end of what runs: joblib tidies up there
        try:
            one = next(running, None)
        except Exception as error:  # a worker has ended, or something cannot be pickled
            told = str(error).strip().splitlines() or [""]
            line = f"it, or a later one, did not come back: {type(error).__name__}: {told[0]}"
            raise ItemFailed(index, given[index], line, traceback.format_exc()) from error
        if one is None:
            return
        yield one
        index += 1


def is_spread() -> bool:
    """Whether the caller has set joblib to other than this one process."""
    backend, workers = get_active_backend()
    return (workers or 1) != 1 or not type(backend).__name__.startswith(("Loky", "Sequential"))


@dataclass(frozen=True)
class _Job:
    """One item, and all that its numbers depend on."""

    function: Callable[[Any], Any]
    item: Any
    seed: int
    dtype: torch.dtype


def _one(job: _Job) -> tuple[Any, tuple[str, str] | None]:
    """Give the result, or what went wrong in words: not every error can be sent."""
    with isolated(job.seed):
        torch.set_num_threads(1)  # sums are added in one order
        torch.set_default_dtype(job.dtype)
        try:
            return job.function(job.item), None
        except Exception as error:  # whatever the caller's function raises
            return None, (f"{type(error).__name__}: {error}", traceback.format_exc())


def _short(item: Any) -> str:
    told = " ".join(repr(item).split())
    return told if len(told) <= _SHOWN else told[: _SHOWN - 1] + "…"
