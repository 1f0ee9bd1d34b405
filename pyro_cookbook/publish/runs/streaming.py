"""A recipe fitted to shards from the command line, by one process or by several."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_cookbook.catalogue import Prepared, Recipe
from pyro_cookbook.catalogue.options import flag_of
from pyro_cookbook.data import InputError, Shards, Table, did_you_mean
from pyro_cookbook.data.shards.tables import held_out_table
from pyro_cookbook.fits.keeping.checkpoint import digest
from pyro_cookbook.fits.streaming import FailedElsewhere, agreed, check_parts, together, world

# Options of the command that are about shards.
OPTIONS = ("batch_size", "held_out", "parts")


class Streaming:
    """A folder of shards, and how a recipe is fitted to it.

    Parameters
    ----------
    recipe : Recipe
    guide : str or None
    source : path
    options : mapping
        Of the recipe, those of shards among them.
    reading : mapping
        How tables are read; of shards, only which columns.
    seed : int

    Attributes
    ----------
    table : Table
        The rows held out.

    Raises
    ------
    FileNotFoundError, InputError
        In one line.
    """

    def __init__(
        self, recipe: Recipe, guide: str | None, source: str, options: Mapping[str, Any],
        reading: Mapping[str, Any], seed: int,
    ) -> None:  # fmt: skip
        self.recipe, self.options, self.seed = recipe, options, seed
        self.guide = guide or recipe.default
        self._check_guide()
        refused = [
            name for name, value in reading.items()
            if name != "columns" and value is not None and value != "refuse"
        ]  # fmt: skip
        if refused:
            raise InputError(
                f"{flag_of(refused[0])}: it is for tables in memory; name --columns instead"
            )
        size = options.get("batch_size", 1)
        if size < 1:
            raise InputError(f"--batch-size: got {size}, expected a whole number of at least 1")
        try:
            self.shards = Shards(
                source, reading.get("columns"), held_out=_held_out(options.get("held_out", "0.05")),
                parts=options.get("parts"), seed=seed, dtype=torch.float64,
            )  # fmt: skip
        except InputError as error:
            raise _as_typed(error) from error
        self.table: Table = held_out_table(self.shards, self.shards.moments())

    def _check_guide(self) -> None:
        entry = self.recipe.guides.get(self.guide)
        if entry is not None and entry.of_shards is not None:
            return
        able = [name for name, one in self.recipe.guides.items() if one.of_shards is not None]
        told = (
            f"expected {', '.join(able)}" if able else f"{self.recipe.name} has no guide for them"
        )
        hint = did_you_mean(self.guide, able) if entry is None else ""
        raise InputError(f"--guide: {self.guide} is not fitted to shards; {told}{hint}")

    @property
    def told(self) -> str:
        """How many shards, and a digest that tells their content from another."""
        found = self.shards.moments()
        content = digest([self.shards.fingerprint, found.loc, found.scale])
        return f"{self.shards.num_shards} ({content[:12]})"

    def begin(self, refuse: Callable[[], None]) -> None:
        """Check, before anything is fitted, what the first process writes and what all fit.

        Parameters
        ----------
        refuse : callable
            Raises where the run cannot be written.

        Raises
        ------
        InputError
            In the first process that finds something; the others end without a word.
        """
        _in_step(lambda: self._try(refuse))

    def _try(self, refuse: Callable[[], None]) -> None:
        if not self.follows:
            refuse()
        made = self._made()
        try:
            check_parts(self.shards, made.options["batch_size"])
        except ValueError as error:
            raise _as_typed(error) from error

    def prepare(
        self, guide: str, table: Table, *, size: int | None, seed: int, options: Mapping[str, Any]
    ) -> Prepared:
        """Build model and guide: what `Recipe.prepare` does for rows in memory."""
        made = self.recipe.prepare_shards(guide, self.shards, table, size=size, seed=seed)
        if "batch_size" in options:
            made.options["batch_size"] = options["batch_size"]
        return made

    def _made(self) -> Prepared:
        size, options = self.options.get("size"), self.options
        return self.prepare(self.guide, self.table, size=size, seed=self.seed, options=options)

    @property
    def follows(self) -> bool:
        """Whether this process only helps another one, which judges and writes."""
        return world()[0] > 0

    def help(self) -> None:
        """Take this process's part in the fit, and leave the rest to the first one.

        Raises
        ------
        InputError
            Naming the process.
        SystemExit
            After Ctrl-C: the first process says what is kept.
        """
        made = self._made()
        if "max_steps" in self.options:
            made.options["max_steps"] = self.options["max_steps"]
        try:
            made.fit(seed=self.seed)
        except ValueError as error:
            raise InputError(f"process {world()[0]}: {error}") from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def streaming(
    recipe: Recipe, guide: str | None, source: str | None, options: Mapping[str, Any],
    reading: Mapping[str, Any], seed: int,
) -> Streaming | None:  # fmt: skip
    """Say whether rows are to be streamed: asked for by an option, or by several processes.

    Raises
    ------
    FileNotFoundError, InputError
        If they cannot be; of several processes, in the first that finds out.
    """
    asked = [flag_of(name) for name in OPTIONS if name in options]
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not asked and not several:
        return None
    together(1, None, ())

    def open_shards() -> Streaming:
        what = asked[0] if asked else "torchrun"
        if source is None:
            raise InputError(f"{what}: it is for --data with a folder of Parquet files; give one")
        if Path(source).is_file() or source == "-":
            raise InputError(
                f"{what}: it is for --data with a folder of Parquet files, got {source}"
            )
        return Streaming(recipe, guide, source, options, reading, seed)

    return _in_step(open_shards)


def _in_step[T](check: Callable[[], T]) -> T:
    """Check in every process; only the first that finds something says so."""
    try:
        return agreed(check)
    except FailedElsewhere:
        raise SystemExit(2) from None


def _held_out(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _as_typed(error: ValueError) -> InputError:
    """Say what is wrong with an argument by the option that gave it."""
    name, colon, told = str(error).partition(":")
    known = name in (*OPTIONS, "columns")
    return InputError(f"{flag_of(name) if known else name}{colon}{told}")
