"""What the command line prints."""

from collections.abc import Sequence

import pandas as pd
from rich.markup import escape
from rich.table import Table as RichTable

from pyro_cookbook.publish.listing import console
from pyro_cookbook.publish.outcome import Outcome

# Of a table of numbers so many rows are shown; the rest is in the files.
_ROWS_SHOWN = 40
_STYLES = {"reliable": "green", "unreliable": "red"}


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print a line for each fit."""
    from pyro_cookbook.publish.report import row  # late: most commands draw nothing

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
