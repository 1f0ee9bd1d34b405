"""What an entry of the catalogue is made of."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from pyro_cookbook.catalogue.checks import anything
from pyro_cookbook.catalogue.notes import nothing
from pyro_cookbook.catalogue.options import checked
from pyro_cookbook.data import InputError, Shards, Table, did_you_mean
from pyro_cookbook.fits.fitting import as_fit, fit
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.programs.state.isolation import isolated


def _num_columns(v: Tensor) -> int:
    return v.shape[1]


@dataclass(frozen=True)
class Prepared:
    """A model and a guide, ready to be fitted to data.

    Attributes
    ----------
    model, guide : callable
    data : tuple
        What they are called with: the rows, or covariates and what is observed.
    data_kwargs : dict
        Keyword data besides.
    options : dict
        For `fit`: the estimator of the bound, the learning rate.
    losses : list of float
        −ELBO of the closed-form algorithm that has set the guide already, if one has.
    reason : str
        What that algorithm says of itself; "" if the guide is still to be fitted by SVI.
    converged : bool
        Whether that algorithm converged.
    coords, dims : mapping
        Labels and names of the dimensions, for ArviZ, where they are not the recipe's.
    notes : tuple of str
        What a reader should know of the table before he believes a fit.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: tuple[Any, ...]
    data_kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    reason: str = ""
    converged: bool = True
    coords: Mapping[str, list[str]] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fit(
        self, *, seed: int = 0, progress: bool | None = False, checkpoint: Path | None = None
    ) -> Fit:
        """Fit to the data that it was prepared for.

        A guide that a closed-form algorithm has set is judged as it is, and needs no checkpoint.
        """
        if self.reason:
            return as_fit(
                self.model,
                self.guide,
                *self.data,
                data_kwargs=self.data_kwargs,
                seed=seed,
                losses=self.losses,
                converged=self.converged,
                reason=self.reason,
            )
        settings: dict[str, Any] = {
            "seed": seed, "progress": progress, "checkpoint": checkpoint, **self.options
        }  # fmt: skip
        return fit(self.model, self.guide, *self.data, data_kwargs=self.data_kwargs, **settings)


@dataclass(frozen=True)
class GuideEntry:
    """One guide of a recipe.

    Attributes
    ----------
    summary : str
        Half a line: the family and what it leaves out.
    prepare : callable
        ``prepare(v, size, seed, **options)`` gives a `Prepared`; `size` counts factors, components,
        atoms, and the options are those of the recipe.
    of_table : callable, optional
        ``of_table(table, options)``, for what is no function of standardised rows: what
        `Recipe.prepare` calls instead.
    of_shards : callable, optional
        ``of_shards(shards, size, seed)``, for an amortised guide that can be trained on rows that
        are not in memory.
    """

    summary: str
    prepare: Callable[..., Prepared]
    of_table: Callable[[Table, Any], Prepared] | None = None
    of_shards: Callable[[Shards, int, int], Prepared] | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A topic of the chapter, with what is needed to run it.

    Attributes
    ----------
    name : str
        Also the stem of its notebook, unless `notebook` says otherwise.
    title, model, topic : str
        What it is about, what its model is called, and its section of the chapter.
    learn : str
        What the reader learns, half a line.
    data : str
        Name of the bundled table.
    size, size_name : int, str
        Default number of factors, components or atoms, and what to call it; 0 and "" where there is
        nothing to count.
    guides : mapping of str to GuideEntry
    default, because : str, str
        The guide to take if none is asked for: the one that is accurate most often; and why.
    log_evidence : callable
        Exact log p(v; θ) of a fit, in nats, or None where it is not known.
    dims : mapping of str to tuple of str
        Names of the event dimensions of its variables.
    estimates : callable
        ``estimates(fit, table)``: its global quantities in the user's units, a line for each, with
        columns mean, sd, lower and upper (an interval of 89%) and unit; NaN where there is no
        posterior.
    apply : callable
        ``apply(fit, new)``: what the fit means for rows, a line for each, in their order. The table
        is standardised by loc and scale of the one that was fitted; an outcome may be missing.
    standardised : bool, default True
        Whether `prepare` gets columns of mean 0 and sd 1, or columns in their own units.
    has_outcome : bool, default False
        Whether the last column is an outcome, which the others explain.
    check : callable
        ``check(table, size)`` refuses a table that the recipe cannot take, with an `InputError`.
    notes : callable
        ``notes(table, options)``: what a reader should know before a fit that goes on all the same.
    max_size : callable
        ``max_size(v)``: the largest size that the rows allow. Default: the number of columns.
    notebook : str
        Stem of its notebook. Default: the name; one notebook may have several models.
    options : type, optional
        A dataclass whose fields are the recipe's options, with defaults for the bundled table: see
        `options_of`. Default: it has none.
    """

    name: str
    title: str
    model: str
    topic: str
    learn: str
    data: str
    size: int
    size_name: str
    guides: Mapping[str, GuideEntry]
    default: str
    because: str
    log_evidence: Callable[[Fit], float | None]
    dims: Mapping[str, tuple[str, ...]]
    estimates: Callable[[Fit, Table], pd.DataFrame]
    apply: Callable[[Fit, Table], pd.DataFrame]
    standardised: bool = True
    has_outcome: bool = False
    check: Callable[[Table, int], None] = anything
    notes: Callable[[Table, Any], tuple[str, ...]] = nothing
    max_size: Callable[[Tensor], int] = _num_columns
    notebook: str = ""
    options: type | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "notebook", self.notebook or self.name)

    def prepare(
        self,
        guide: str,
        table: Table,
        *,
        size: int | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Check the options and the table, and build the model and the guide.

        Parameters
        ----------
        guide : str
            One of ``guides``.
        table : Table
        size : int, optional
            Number of factors or components. Default: the recipe's.
        seed : int, default 0
        options : mapping, optional
            The recipe's own options by name. Default: those of its bundled table.

        Raises
        ------
        InputError
            If the guide, the size, an option or the table is none that the recipe can take.
        """
        if guide not in self.guides:
            expected = f"expected one of {', '.join(self.guides)}"
            raise InputError(
                f"--guide: got {guide!r}, {expected}{did_you_mean(guide, self.guides)}"
            )
        size = self._checked_size(table, size)
        chosen = checked(self.name, self.options, options)
        of_table = self.guides[guide].of_table
        if of_table is not None:
            with isolated(seed):
                return of_table(table, chosen)
        self.check(table, size)
        with isolated(seed):
            try:
                given = {} if chosen is None else asdict(chosen)
                found = self.guides[guide].prepare(self.rows(table), size, seed, **given)
            except ValueError as error:
                # The chapter's algorithms refuse rows so: too few for the size, no noise left.
                raise InputError(f"--data: {table.name!r}: {error}") from error
        return replace(found, notes=(*found.notes, *self.notes(table, chosen)))

    def prepare_shards(
        self, guide: str, shards: Shards, table: Table, *, size: int | None = None, seed: int = 0
    ) -> Prepared:
        """Build the model and the guide for rows that are not in memory.

        Parameters
        ----------
        guide : str
            One of ``guides`` that has `GuideEntry.of_shards`.
        shards : Shards
        table : Table
            The rows held out.
        size, seed
            As for `prepare`.

        Raises
        ------
        InputError
            If the guide or the size is none that the recipe can take.
        """
        made = self.guides[guide].of_shards
        if made is None:
            raise InputError(f"--guide: {guide} of {self.name} is not fitted to shards")
        size = self._checked_size(table, size)
        with isolated(seed):
            return made(shards, size, seed)

    def _checked_size(self, table: Table, size: int | None) -> int:
        if not self.size_name:
            if size is not None:
                raise InputError(f"--size: {self.name} has nothing to count; leave it out")
            return self.size
        most = self.max_size(table.v)
        chosen = self.size if size is None else size
        if not 1 <= chosen <= most:
            default = ", the default" if size is None else ""
            raise InputError(
                f"--size: got {chosen} {self.size_name}{default}, expected 1 to {most} for"
                f" {table.name!r} with {len(table.v)} rows and {len(table.columns)} columns"
            )
        return chosen

    def rows(self, table: Table) -> Tensor:
        """Rows as `prepare` takes them, shape (n, D)."""
        return table.v if self.standardised else table.raw

    def coords(self, table: Table) -> dict[str, list[str]]:
        """Labels of the dimensions, for ArviZ."""
        return {"feature": list(table.columns), "covariate": list(table.columns[:-1])}
