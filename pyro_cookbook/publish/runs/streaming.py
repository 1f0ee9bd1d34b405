"""A recipe fitted to shards from the command line, by one process or by several."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_cookbook.catalogue import Prepared, Recipe
from pyro_cookbook.data import InputError, Shards, Table
from pyro_cookbook.data.shards.opening import shards_in
from pyro_cookbook.data.shards.tables import held_out_table
from pyro_cookbook.fits.streaming import together, world

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
        entry = recipe.guides.get(guide or recipe.default)
        if entry is not None and entry.of_shards is None:
            able = [name for name, one in recipe.guides.items() if one.of_shards is not None]
            told = f"expected {', '.join(able)}" if able else f"{recipe.name} has no guide for them"
            raise InputError(f"--guide: {guide or recipe.default} is not fitted to shards; {told}")
        refused = [n for n, v in reading.items() if n != "columns" and v not in {None, "refuse"}]
        if refused:
            raise InputError(f"--{refused[0]}: it is for tables in memory; name --columns instead")
        together(1, None, ())
        self.recipe, self.options, self.seed = recipe, options, seed
        self.shards = Shards(
            source, reading.get("columns"), held_out=_held_out(options.get("held_out", "0.05")),
            parts=options.get("parts"), seed=seed, dtype=torch.float64,
        )  # fmt: skip
        self.table: Table = held_out_table(self.shards, self.shards.moments())

    def prepare(
        self, guide: str, table: Table, *, size: int | None, seed: int, options: Mapping[str, Any]
    ) -> Prepared:
        """Build model and guide: what `Recipe.prepare` does for rows in memory."""
        made = self.recipe.prepare_shards(guide, self.shards, table, size=size, seed=seed)
        if "batch_size" in options:
            made.options["batch_size"] = options["batch_size"]
        return made

    @property
    def follows(self) -> bool:
        """Whether this process only helps another one, which judges and writes."""
        return world()[0] > 0

    def help(self, guide: str) -> None:
        """Take this process's part in the fit, and leave the rest to the first one."""
        made = self.prepare(
            guide, self.table, size=self.options.get("size"), seed=self.seed, options=self.options
        )
        if "max_steps" in self.options:
            made.options["max_steps"] = self.options["max_steps"]
        made.fit(seed=self.seed)


def streaming(
    recipe: Recipe, guide: str | None, source: str | None, options: Mapping[str, Any],
    reading: Mapping[str, Any], seed: int,
) -> Streaming | None:  # fmt: skip
    """Say whether rows are to be streamed: asked for by an option, or by several processes.

    Raises
    ------
    InputError
        If they cannot be.
    """
    asked = [f"--{name.replace('_', '-')}" for name in OPTIONS if name in options]
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not asked and not several:
        return None
    what = asked[0] if asked else "torchrun"
    if source is None or not shards_in(Path(source)):
        raise InputError(f"{what}: it is for --data with a folder of Parquet files, got {source}")
    return Streaming(recipe, guide, source, options, reading, seed)


def _held_out(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
