"""The command line: ``pyro-cookbook run``, ``list``, ``fit``, ``infer`` and ``doctor``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from pyro_cookbook.catalogue import Recipe
    from pyro_cookbook.data import Table
    from pyro_cookbook.publish.outcome import Outcome

app = typer.Typer(
    help="Approximate inference with Pyro: fits, diagnoses and a verdict on each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# Of a column's words, and of the table of numbers, so many are shown; the rest is in the files.
_LEVELS_SHOWN, _ROWS_SHOWN = 10, 40
_STYLES = {"reliable": "green", "unreliable": "red"}

RecipeNames = Annotated[
    list[str] | None, typer.Argument(help="Recipes, by name or its beginning. Default: all.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for what is written.")]
Draws = Annotated[int, typer.Option(help="Draws to keep in each NetCDF file.", min=10)]
Seed = Annotated[int, typer.Option(help="Same seed, same numbers.", min=0, max=2**32 - 1)]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Say in one line what is wrong with the input, and leave with code 2; 130 after Ctrl-C.

    What is about the input is told by its class. `InputError` is raised where options and tables
    are read and checked (`pyro_cookbook.data`, `pyro_cookbook.catalogue`, `run_guide`), which is
    before anything is fitted, and for what the documented `ValueError` of a fit says about the
    rows. A file that cannot be read or written is an `OSError`; rows on which a bound overflows, a
    `NonFiniteELBO`. Anything else is a fault of the cookbook's own, and shows its traceback.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        told = str(error) or "nothing was kept"
        Console(stderr=True, soft_wrap=True).print(escape(f"interrupted; {told}"))
        raise typer.Exit(130) from error
    except Exception as error:  # any, to look at its class: importing it first would take seconds
        from pyro_cookbook import NonFiniteELBO
        from pyro_cookbook.data import InputError

        if not isinstance(error, (InputError, OSError, NonFiniteELBO)):
            raise
        told = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(told)}")
        raise typer.Exit(2) from error


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
    from pyro_cookbook.catalogue import NOTEBOOKS, RECIPES

    table = RichTable()
    table.add_column("recipe", no_wrap=True)
    for name in ("topic", "data", "guides", "guide by default", "you learn"):
        table.add_column(name)
    for recipe in RECIPES:
        default = f"[bold]{recipe.default}[/bold]: {recipe.because}"
        guides = ", ".join(recipe.guides)
        table.add_row(recipe.name, recipe.topic, recipe.data, guides, default, recipe.learn)
    console = _console()
    console.print(table)
    for name, what in NOTEBOOKS.items():
        console.print(f"{name}: {what}.", soft_wrap=True)


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
        from pyro_cookbook.publish.outcome import Outcome, forget, run_recipes
        from pyro_cookbook.publish.report import write_report

        wanted = {r.name for name in recipes or () for r in catalogue.matching(name)}
        chosen = [r for r in catalogue.RECIPES if r.name in wanted or not wanted]
        torch.set_num_threads(1)  # these tensors are small: threads cost more than they give
        total = sum(len(recipe.guides) for recipe in chosen)
        with tqdm(total=total, desc="fits", unit="fit") as bar:

            def on_outcome(outcome: Outcome) -> None:
                bar.set_postfix_str(f"{outcome.recipe.topic} {outcome.guide}")
                bar.update()

            outcomes = run_recipes(chosen, data.load, out, on_outcome, seed=seed, num_draws=draws)
        command = " ".join(["pyro-cookbook run", *(recipe.name for recipe in chosen if recipes)])
        path = write_report(outcomes, out / "report.html", command=command, seed=seed)
        forget(outcomes)
        _print_table(outcomes)
        console = _console()
        console.print(f"Report: {path}", soft_wrap=True)
        console.print(
            f"Fits:   {out}/*.nc (ArviZ), {out}/*.safetensors (pyro_cookbook.load)", soft_wrap=True
        )


@app.command()
def fit(
    recipe: Annotated[str, typer.Argument(help="A recipe, by name or its beginning.")],
    guide: Annotated[
        str | None,
        typer.Option(help="One of the recipe's guides. Default: see list."),
    ] = None,
    out: Out = Path("results"),
    table: Annotated[
        Path | None, typer.Option("--data", help="A .csv or .parquet table of your own.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of it to use, separated by commas. Default: all.")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(help="The column that the others explain. Default: the last."),
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

        from pyro_cookbook import catalogue
        from pyro_cookbook.publish.outcome import forget, run_guide

        chosen = catalogue.recipe(recipe)
        loaded = _table(chosen, table, columns, outcome)
        torch.set_num_threads(1)
        done = run_guide(
            chosen, guide or chosen.default, loaded, out, size=size, seed=seed, num_draws=draws,
            progress=None,
        )  # fmt: skip
        forget([done])
        _print_table([done])
        console = _console()
        console.print(escape(str(done.diagnosis)), soft_wrap=True)
        if done.note:
            console.print(f"Note:  {done.note}", soft_wrap=True)
        console.print(f"Draws: {done.path}", soft_wrap=True)


@app.command("infer")
def infer_own(
    model: Annotated[str, typer.Argument(help="A file and a function in it: my_model.py:model.")],
    table: Annotated[
        Path,
        typer.Option("--data", help="A .csv or .parquet table: its columns go to the arguments of"
                                    " the same names; words as whole numbers."),
    ],
    out: Out = Path("results"),
    budget: Annotated[float, typer.Option(help="Seconds after which nothing is begun.")] = 60.0,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Answer a model of your own on a table of your own: numbers that may be used, or why not."""
    with _one_line_errors():
        import torch

        from pyro_cookbook.publish.own_model import answer, summary

        torch.set_num_threads(1)
        found, arguments, written = answer(
            model, table, out, budget=budget, seed=seed, progress=None
        )
        console = _console()
        for name, kinds in arguments.levels.items():
            listed = ", ".join(f"{code} {kind}" for code, kind in enumerate(kinds[:_LEVELS_SHOWN]))
            more = ", …" if len(kinds) > _LEVELS_SHOWN else ""
            console.print(escape(f"{name}: {len(kinds)} words: {listed}{more}"), soft_wrap=True)
        if arguments.unused:
            console.print(escape(f"not used: {', '.join(arguments.unused)}"), soft_wrap=True)
        console.print(escape(str(found)), soft_wrap=True)
        console.print(escape(summary(found.tree()).round(3).head(_ROWS_SHOWN).to_string()))
        for what, path in written.items():
            console.print(f"{what.capitalize()}: {path}", soft_wrap=True)


def _table(
    recipe: "Recipe", path: Path | None, columns: str | None, outcome: str | None
) -> "Table":
    """Read the table that was asked for, its outcome last."""
    from pyro_cookbook import data

    if columns and path is None:
        raise data.InputError("--columns: it chooses columns of --data, which is not given")
    if outcome and not recipe.has_outcome:
        raise data.InputError(f"--outcome: {recipe.name} has none; leave it out")
    names = [name.strip() for name in columns.split(",")] if columns else None
    if names and outcome and outcome not in names:
        names.append(outcome)
    table = data.load(recipe.data) if path is None else data.read(path, names)
    return table.ending_in(outcome) if outcome else table


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
    return console if console.is_terminal else Console(width=140)


def _print_table(outcomes: "Sequence[Outcome]") -> None:
    from pyro_cookbook.publish.report import row

    table = RichTable("topic")
    for name in ("model", "guide"):
        table.add_column(name, no_wrap=True)
    for name in ("ELBO (nats)", "log\nevidence", "gap", "k-hat"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        cells = row(outcome)
        verdict = str(cells["verdict"])
        style = _STYLES.get(verdict, "yellow")  # after reweighting, or another repair
        names = ("topic", "model", "guide", "elbo", "evidence", "gap", "khat")
        values = [str(cells[name]) for name in names]
        table.add_row(*values, f"[{style}]{verdict}[/{style}]", str(cells["seconds"]))
    _console().print(table)
