"""Which rows there are: those of `benchmarks/rows`, by name of the file, then as they stand."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.harness.row import Row

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "benchmarks" / "rows"


class UnknownRowError(ValueError):
    """A name that no row has."""


def find(folder: Path = ROWS) -> dict[str, tuple[str, Row]]:
    """Give name → (file it stands in, row), in the order of the table."""
    found: dict[str, tuple[str, Row]] = {}
    for file in sorted(folder.glob("[!_]*.py")):
        for row in rows_of(file.stem):
            if row.name in found:
                raise ValueError(
                    f"two rows are called {row.name!r}: {found[row.name][0]}, {file.stem}"
                )
            peer_of(row)
            found[row.name] = file.stem, row
    return found


def rows_of(stem: str) -> Sequence[Row]:
    """Rows of one file: its ``ROWS``."""
    return import_module(f"benchmarks.rows.{stem}").ROWS


def peer_of(row: Row) -> str:
    """The side that ours is compared with: the peer's, or the only other one."""
    others = [side for side in row.sides if side != "ours"]
    if len(others) == len(row.sides):
        raise ValueError(f"row {row.name!r} has no side 'ours'; it has {', '.join(row.sides)}")
    if row.peer in others:
        return row.peer
    if len(others) != 1:
        raise ValueError(f"row {row.name!r}: no side is called {row.peer!r}, its peer")
    return others[0]


def choose(found: dict[str, tuple[str, Row]], names: Iterable[str]) -> list[str]:
    """Give the rows that are meant: a file's name means all of its rows, none means all."""
    chosen: list[str] = []
    for name in names:
        meant = [row for row, (stem, _) in found.items() if name in (row, stem)]
        if not meant:
            raise UnknownRowError(f"no row is called {name!r}; there are {', '.join(found)}")
        chosen += meant
    return list(dict.fromkeys(chosen)) or list(found)
