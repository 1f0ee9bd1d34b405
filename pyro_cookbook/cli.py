"""The command line: ``pyro-cookbook run``, ``list``, ``fit`` and ``doctor``."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

app = typer.Typer(
    help="Approximate inference with Pyro: fits, diagnoses and a verdict on each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_STYLES = {"reliable": "green", "reliable after reweighting": "yellow", "unreliable": "red"}

RecipeNames = Annotated[
    list[str] | None, typer.Argument(help="Recipes, by name or its beginning. Default: all.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for what is written.")]
Draws = Annotated[int, typer.Option(help="Draws to keep in each NetCDF file.", min=10)]
Seed = Annotated[int, typer.Option(help="Same seed, same numbers.", min=0)]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Say what is wrong with the input in one line, and leave with code 2."""
    try:
        yield
    except (ValueError, OSError, TypeError) as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(str(error))}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        Console(stderr=True).print("interrupted; what was finished has been kept")
        raise typer.Exit(130) from error


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pyro-cookbook {version('pyro-cookbook')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fit recipes of approximate inference and say which numbers may be used."""


@app.command("list")
def list_recipes() -> None:
    """Show every recipe with its data and its guides."""
    from pyro_cookbook.catalogue import RECIPES

    table = RichTable("recipe", "topic", "data", "guides", "you learn")
    for recipe in RECIPES:
        table.add_row(
            recipe.name, recipe.topic, recipe.data, ", ".join(recipe.guides), recipe.learn
        )
    _console().print(table)


@app.command()
def run(
    recipes: RecipeNames = None,
    out: Out = Path("results"),
    seed: Seed = 0,
    draws: Draws = 250,
) -> None:
    """Fit every recipe under each of its guides; write a report and a NetCDF file a fit."""
    with _one_line_errors():
        import torch
        from tqdm import tqdm

        from pyro_cookbook import catalogue, data
        from pyro_cookbook.publish.outcome import Outcome, run_recipes, write_outcome
        from pyro_cookbook.publish.report import write_report

        wanted = {r.name for name in recipes or () for r in catalogue.matching(name)}
        chosen = [r for r in catalogue.RECIPES if r.name in wanted or not wanted]
        torch.set_num_threads(1)  # these tensors are small: threads cost more than they give
        total = sum(len(recipe.guides) for recipe in chosen)
        with tqdm(total=total, desc="fits", unit="fit") as bar:

            def on_outcome(outcome: Outcome) -> None:
                write_outcome(outcome, out)
                bar.set_postfix_str(f"{outcome.recipe.topic} {outcome.guide}")
                bar.update()

            outcomes = run_recipes(chosen, data.load, on_outcome, seed=seed, num_draws=draws)
        command = " ".join(["pyro-cookbook run", *(recipe.name for recipe in chosen if recipes)])
        path = write_report(outcomes, out / "report.html", command=command, seed=seed)
        _print_table(outcomes)
        console = _console()
        console.print(f"Report: {path}", soft_wrap=True)
        console.print(
            f"Fits:   {out}/*.nc (ArviZ), {out}/*.pt (pyro_cookbook.load)", soft_wrap=True
        )


@app.command()
def fit(
    recipe: Annotated[str, typer.Argument(help="A recipe, by name or its beginning.")],
    guide: Annotated[str, typer.Option(help="One of the recipe's guides; see list.")],
    out: Out = Path("results"),
    table: Annotated[
        Path | None, typer.Option("--data", help="A .csv or .parquet table of your own.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of it to use, separated by commas. Default: all.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Number of factors, components or atoms. Default: its own."),
    ] = None,
    seed: Seed = 0,
    draws: Draws = 1000,
) -> None:
    """Fit one recipe under one guide, to its bundled data or to a table of your own."""
    with _one_line_errors():
        import torch

        from pyro_cookbook import catalogue, data
        from pyro_cookbook.publish.outcome import run_guide, write_outcome

        if columns and table is None:
            raise ValueError("--columns: it chooses columns of --data, which is not given")
        chosen = catalogue.recipe(recipe)
        names = [name.strip() for name in columns.split(",")] if columns else None
        loaded = data.read(table, names) if table else data.load(chosen.data)
        torch.set_num_threads(1)
        outcome = run_guide(
            chosen, guide, loaded, size=size, seed=seed, num_draws=draws, progress=None
        )
        path = write_outcome(outcome, out)
        _print_table([outcome])
        console = _console()
        console.print(escape(str(outcome.diagnosis)), soft_wrap=True)
        console.print(f"Draws: {path}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Check the installation: versions, places, and one fit with a known answer."""
    from pyro_cookbook.doctor import check

    table = RichTable("check", "", "found")
    results = check()
    for name, passed, found in results:
        table.add_row(name, "[green]ok[/green]" if passed else "[red]no[/red]", escape(found))
    _console().print(table)
    if not all(passed for _, passed, _ in results):
        raise typer.Exit(1)


def _console() -> Console:
    """Write tables whole where the output is a file, not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _print_table(outcomes: "list[Outcome]") -> None:  # type: ignore[name-defined] # noqa: F821
    from pyro_cookbook.publish.report import row

    table = RichTable("topic", "guide")
    for name in ("ELBO (nats)", "log evidence", "gap", "k-hat"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        cells = row(outcome)
        verdict = str(cells["verdict"])
        style = _STYLES[verdict]
        names = ("topic", "guide", "elbo", "evidence", "gap", "khat")
        values = [str(cells[name]) for name in names]
        table.add_row(*values, f"[{style}]{verdict}[/{style}]", str(cells["seconds"]))
    _console().print(table)
