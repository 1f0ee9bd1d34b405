"""What was understood of a table, before anything is fitted to it."""

import textwrap
from dataclasses import dataclass
from typing import Any

import pandas as pd

_WIDTH = 100
_MOST_ROWS = 20  # of the table that is printed


@dataclass(frozen=True, eq=False)
class Understood:
    """What was understood of a table; its ``str`` is for people.

    Attributes
    ----------
    lines : tuple of str
        Sentences: the file, how it is written, rows and columns, what each column holds, what was
        left out, dropped and encoded.
    table : pandas.DataFrame
        A row for each column that was read: "column", "kind", "smallest", "largest", "mean", "sd"
        (in the column's units, of the rows that are kept), "levels" and "missing" (in the rows that
        were read).
    """

    lines: tuple[str, ...]
    table: pd.DataFrame

    def __str__(self) -> str:
        """Print sentences and table in 100 columns; of many columns the first and the last."""
        wrapped = [
            part
            for line in self.lines
            for part in textwrap.wrap(
                line, _WIDTH, subsequent_indent="    ", break_on_hyphens=False
            )
        ]
        table = self.table
        if len(table) > _MOST_ROWS:
            half = _MOST_ROWS // 2
            table = pd.concat([table.iloc[:half], table.iloc[-half:]])
            wrapped.append(f"Of {len(self.table)} columns the first and the last {half}:")
        cells = pd.DataFrame({name: [_cell(one) for one in table[name]] for name in table})
        printed = cells.to_string(index=False, max_colwidth=28, line_width=_WIDTH)
        return "\n".join([*wrapped, *(line.rstrip() for line in printed.splitlines())])


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{value:.5g}"
