"""What the command line prints."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pyro_cookbook import catalogue
from pyro_cookbook.publish.outcome import Outcome
from pyro_cookbook.publish.report import row

# Of a table of numbers so many rows are shown; the rest is in the files.
_ROWS_SHOWN = 40
_STYLES = {"reliable": "green", "unreliable": "red"}


def console() -> Console:
    """Write tables whole where the output is a file, not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=140)


def print_recipes() -> None:
    """Print every recipe with its data and its guides."""
    table = RichTable()
    table.add_column("recipe", no_wrap=True)
    for name in ("topic", "data", "guides", "guide by default", "you learn"):
        table.add_column(name)
    for recipe in catalogue.RECIPES:
        default = f"[bold]{recipe.default}[/bold]: {recipe.because}"
        guides = ", ".join(recipe.guides)
        table.add_row(recipe.name, recipe.topic, recipe.data, guides, default, recipe.learn)
    out = console()
    out.print(table)
    for name, what in catalogue.NOTEBOOKS.items():
        out.print(f"{name}: {what}.", soft_wrap=True)


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print a line for each fit."""
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
    console().print(table)


def print_understood(lines: Sequence[str]) -> None:
    """Print what was understood of a table."""
    out = console()
    for line in lines:
        out.print(escape(line), soft_wrap=True, highlight=False)


def print_numbers(numbers: pd.DataFrame) -> None:
    """Print the first rows of a table of numbers, rounded to four digits."""
    shown = numbers.head(_ROWS_SHOWN)
    told = shown.to_string(float_format=lambda value: f"{value:.4g}", na_rep="–")
    out = console()
    out.print(escape(told), soft_wrap=True, highlight=False)
    if len(numbers) > len(shown):
        out.print(f"… and {len(numbers) - len(shown)} more", soft_wrap=True)


def say(text: str) -> None:
    """Print one paragraph."""
    console().print(escape(text), soft_wrap=True)
