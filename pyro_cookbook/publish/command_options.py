"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RecipeNames = Annotated[
    list[str] | None, typer.Argument(help="Recipes, by name or its beginning. Default: all.")
]
Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]
Draws = Annotated[int, typer.Option(help="Draws to keep in each NetCDF file.", min=10)]
Seed = Annotated[int, typer.Option(help="Same seed, same numbers.", min=0, max=2**32 - 1)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")]
RunFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run. Default: one in results.")
]
OwnModel = Annotated[
    str | None,
    typer.Option("--model", help="my_model.py:model, for the run of a model of your own."),
]
Source = Annotated[
    str,
    typer.Option("--data", help="A table: CSV, TSV, Parquet, Arrow, .npy, NetCDF, Zarr, a folder of"
                                " any of them or of pictures; - for what is piped in."),
]  # fmt: skip
Columns = Annotated[
    str | None,
    typer.Option(help="Columns to use, separated by commas, a name with a comma in double quotes."),
]
Exclude = Annotated[str | None, typer.Option(help="Columns to leave out, written so.")]
Missing = Annotated[
    str, typer.Option(help="Rows in which an entry is missing: refuse them, or drop them.")
]
Separator = Annotated[str | None, typer.Option(help="Between columns. Default: recognised.")]
Decimal = Annotated[str | None, typer.Option(help="Of numbers: . or , Default: recognised.")]
Encoding = Annotated[str | None, typer.Option(help="Of the text. Default: recognised.")]
Header = Annotated[
    bool | None, typer.Option("--header/--no-header", help="Whether the first row has the names.")
]

Patches = Annotated[
    int | None, typer.Option(help="Cut pictures into squares of so many pixels, each a row.")
]
GuideName = Annotated[str | None, typer.Option(help="A guide of the recipe. Default: see list.")]
OutcomeName = Annotated[
    str | None, typer.Option(help="The column that the others explain. Default: the last.")
]
