"""The command line: ``pyro-cookbook run``, ``list``, ``fit``, ``infer``, ``predict`` and more."""

import csv
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pyro_cookbook.publish.command_options import (
    Columns,
    Decimal,
    Draws,
    Encoding,
    Exclude,
    Folder,
    GuideName,
    Header,
    Missing,
    OutcomeName,
    Overwrite,
    OwnModel,
    Patches,
    RecipeNames,
    RunFolder,
    Seed,
    Separator,
    Source,
)

app = typer.Typer(
    help="Approximate inference with Pyro: fits, diagnoses and a verdict on each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


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
        # They ask for every frame's module: seconds from among other imports, and little here. And
        # torch first: asked by it, what ArviZ has not imported yet (NumPyro) would be imported.
        import torch  # noqa: F401, I001
        import arviz_base  # noqa: F401

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
    from pyro_cookbook.publish.listing import print_recipes

    print_recipes()


@app.command()
def run(
    recipes: RecipeNames = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for what is written.")] = Path(
        "results"
    ),
    seed: Seed = 0,
    draws: Draws = 250,
) -> None:
    """Fit every recipe under each of its guides; write a report and a folder a fit."""
    with _one_line_errors():
        import torch
        from tqdm import tqdm

        from pyro_cookbook import catalogue, data
        from pyro_cookbook.publish.console import print_outcomes, say
        from pyro_cookbook.publish.outcome import Outcome, run_recipes
        from pyro_cookbook.publish.report import write_report
        from pyro_cookbook.publish.runs.writing import write_outcome

        wanted = {r.name for name in recipes or () for r in catalogue.matching(name)}
        chosen = [r for r in catalogue.RECIPES if r.name in wanted or not wanted]
        torch.set_num_threads(1)  # these tensors are small: threads cost more than they give
        command = _command()
        total = sum(len(recipe.guides) for recipe in chosen)
        with tqdm(total=total, desc="fits", unit="fit") as bar:

            def on_outcome(outcome: Outcome) -> None:
                folder = out / f"{outcome.recipe.name}-{outcome.guide}"
                write_outcome(outcome, folder, command=command, report=None, overwrite=True)
                bar.set_postfix_str(f"{outcome.recipe.topic} {outcome.guide}")
                bar.update()

            outcomes = run_recipes(
                chosen, data.load, out / "unfinished", on_outcome, seed=seed, num_draws=draws
            )
        path = write_report(outcomes, out / "report.html", command=command, seed=seed)
        print_outcomes(outcomes)
        say(f"Report: {path}")
        say(f"Fits:   {out}/*/ (fit.nc for ArviZ, state.safetensors for pyro_cookbook.load)")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def fit(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe, by name or its beginning.")],
    guide: GuideName = None,
    table: Annotated[Source | None, typer.Option("--data", help="A table of your own.")] = None,
    columns: Columns = None,
    exclude: Exclude = None,
    outcome: OutcomeName = None,
    missing: Missing = "refuse",
    separator: Separator = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    patches: Patches = None,
    out: RunFolder = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    draws: Draws = 1000,
) -> None:
    """Fit one recipe to its bundled data or to a table of your own.

    A recipe's own options follow: --components 5, --coefficient-scale 1.
    """
    with _one_line_errors():
        from pyro_cookbook import catalogue
        from pyro_cookbook.data import InputError
        from pyro_cookbook.publish.runs.answering import answer_formula, fit_recipe

        chosen = catalogue.recipe(recipe)
        options = catalogue.read_options(chosen, context.args)
        reading = {
            "columns": _names("--columns", columns), "exclude": _names("--exclude", exclude),
            "missing": missing, "separator": separator, "decimal": decimal,
            "encoding": encoding, "header": header,
        }  # fmt: skip
        if chosen.name == "regression":
            if outcome is not None:
                raise InputError("--outcome: the formula names it, before ~; leave it out")
            answer_formula(
                options, guide or "infer", table, reading, out, overwrite=overwrite, seed=seed,
                draws=draws, command=_command(),
            )  # fmt: skip
            return
        fit_recipe(
            chosen, guide, table, outcome, reading, patches, options, out, overwrite=overwrite,
            seed=seed, draws=draws, command=_command(),
        )  # fmt: skip


@app.command()
def infer(
    model: Annotated[str, typer.Argument(help="A file and a function in it: my_model.py:model.")],
    table: Source,
    exclude: Exclude = None,
    missing: Missing = "refuse",
    separator: Separator = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    out: RunFolder = None,
    overwrite: Overwrite = False,
    budget: Annotated[float, typer.Option(help="Seconds after which nothing is begun.")] = 60.0,
    seed: Seed = 0,
) -> None:
    """Answer a model of your own on a table: numbers that may be used, or why not.

    The table's columns go to the arguments of the same names, words as whole numbers.
    """
    with _one_line_errors():
        from dataclasses import replace

        import torch

        from pyro_cookbook.publish import console, own_model
        from pyro_cookbook.publish.advising import as_typed
        from pyro_cookbook.publish.runs import folder as runs
        from pyro_cookbook.publish.runs.page import draws_of, page_of_answer
        from pyro_cookbook.publish.runs.writing import asked_of_model, write_answer

        torch.set_num_threads(1)
        function = own_model.load_model(model)
        arguments = own_model.arguments_of(
            function, table, exclude=_names("--exclude", exclude), missing=missing,
            separator=separator, decimal=decimal, encoding=encoding, header=header,
        )  # fmt: skip
        stem = f"{Path(model.rpartition(':')[0]).stem}-{arguments.name}"
        folder = out or Path("results") / stem
        asked = asked_of_model(model, arguments, seed)
        runs.refuse_if_taken(folder, asked, overwrite=overwrite)
        console.print_understood(arguments.lines)
        found = own_model.answer(function, arguments.data, budget=budget, seed=seed, progress=None)
        tree, command = draws_of(found), _command()
        estimates = own_model.summary(tree)
        page = page_of_answer(
            found, arguments, estimates, folder, spec=model, command=command, seed=seed
        )
        write_answer(
            found, arguments, tree, estimates, folder, spec=model, budget=budget, seed=seed,
            command=command, report=page, overwrite=overwrite,
        )  # fmt: skip
        console.say(str(replace(found, diagnosis=as_typed(found.diagnosis, folder, model))))
        console.print_numbers(estimates)
        console.say(f"Report: {folder / 'report.html'}")


@app.command()
def predict(
    folder: Folder,
    table: Source,
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv or .parquet.")],
    model: OwnModel = None,
    unseen: Annotated[
        str, typer.Option(help="Groups that a regression has not seen: refuse, or population.")
    ] = "refuse",
    missing: Missing = "refuse",
    separator: Separator = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
    patches: Patches = None,
    seed: Seed = 0,
) -> None:
    """Apply a run to new rows: clusters, codes, probabilities, predictions, in your units."""
    with _one_line_errors():
        import torch

        from pyro_cookbook.data import read_patches
        from pyro_cookbook.publish import console
        from pyro_cookbook.publish.runs.predicting import check_target, predict_rows, write_rows

        check_target(out)

        torch.set_num_threads(1)
        rows = table if patches is None else read_patches(table, patches).frame
        found = predict_rows(
            folder, rows, model=model, unseen=unseen, seed=seed, missing=missing,
            separator=separator, decimal=decimal, encoding=encoding, header=header,
        )  # fmt: skip
        write_rows(found, out)
        console.print_numbers(found.head(5))
        console.say(f"{len(found)} rows and {len(found.columns)} columns: {out}")


@app.command()
def reproduce(folder: Folder, model: OwnModel = None) -> None:
    """Make a run again from what its folder says, and compare the numbers."""
    with _one_line_errors():
        import torch

        from pyro_cookbook.publish import console
        from pyro_cookbook.publish.runs.reproducing import reproduce as again

        torch.set_num_threads(1)
        found = again(folder, model=model, progress=None)
        console.say(str(found))
    if not found.holds:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def adapt(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A recipe, by name or its beginning.")],
    dest: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
    guide: GuideName = None,
    table: Annotated[Source | None, typer.Option("--data", help="A table of your own.")] = None,
    columns: Columns = None,
    exclude: Exclude = None,
    outcome: OutcomeName = None,
    missing: Missing = "refuse",
    separator: Separator = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
    header: Header = None,
) -> None:
    """Take a recipe home as a small project of your own. A recipe's options follow, as in fit."""
    with _one_line_errors():
        from pyro_cookbook.publish.adapt import adapt_as_asked
        from pyro_cookbook.publish.console import say

        for path in adapt_as_asked(
            recipe, dest, context.args, guide=guide, source=table, outcome=outcome,
            columns=_names("--columns", columns), exclude=_names("--exclude", exclude),
            missing=missing, separator=separator, decimal=decimal, encoding=encoding, header=header,
        ):  # fmt: skip
            say(str(path))
        say(f"Next: cd {shlex.quote(str(dest))}; python fit.py; pytest")


@app.command()
def doctor() -> None:
    """Check the installation: versions, places, and one fit with a known answer."""
    from pyro_cookbook.doctor import check
    from pyro_cookbook.publish.listing import console

    table = RichTable("check", "", "found")
    results = check()
    for name, passed, found in results:
        table.add_row(name, "[green]ok[/green]" if passed else "[red]no[/red]", escape(found))
    console().print(table)
    if not all(passed for _, passed, _ in results):
        raise typer.Exit(1)


def _names(option: str, text: str | None) -> list[str] | None:
    """Read names separated by commas; one with a comma in it stands in double quotes."""
    if text is None:
        return None
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not all(names) or not names:
        from pyro_cookbook.data import InputError

        raise InputError(f"{option}: got {text!r}, expected names separated by commas")
    return names


def _command() -> str:
    """Give what was typed."""
    return shlex.join(["pyro-cookbook", *sys.argv[1:]])
