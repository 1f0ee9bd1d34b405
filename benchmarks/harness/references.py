"""Answers of the peers that the project does not install, on tiny sizes, kept with their versions.

    python -m benchmarks.harness.references [ROW …]

runs the sides that need the extra ``bench`` (those called NumPyro… or PyMC…) on the tiny size of
each row and keeps what they reached in ``benchmarks/references.json``. A test, which has no such
peers, checks that ours reaches the same as what is kept. Run it after changing a row.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import machine, running
from benchmarks.harness.finding import ROOT, choose, find
from benchmarks.harness.row import Measured, Row

FILE = ROOT / "benchmarks" / "references.json"
EXTRAS = ("numpyro", "pymc")


def needs_extra(side: str) -> bool:
    """Whether a side is of a peer in the extra: its name begins with it."""
    return side.lower().startswith(EXTRAS)


def load() -> dict[str, dict[str, dict[str, Any]]]:
    """Row → side → "tiny", the size; "quality" and "versions"."""
    return json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}


def kept(references: Mapping[str, Any], row: Row, side: str) -> Measured:
    """Give what a peer reached on the tiny size.

    Raises
    ------
    LookupError
        If nothing is kept, or it was reached on another size than the row's is now.
    """
    command = f"python -m benchmarks.harness.references {row.name}"
    found = references.get(row.name, {}).get(side)
    if found is None:
        raise LookupError(f"{row.name}: no reference of {side}; make it with {command}")
    if found["tiny"] != plain(row.tiny):
        raise LookupError(f"{row.name}: the reference of {side} is of another size: {command}")
    return Measured(1.0, found["quality"], memory=1.0)


def plain(size: Mapping[str, Any]) -> dict[str, Any]:
    """A size as JSON gives it back."""
    return json.loads(json.dumps(dict(size)))


def main() -> None:
    found = find()
    for name in choose(found, sys.argv[1:]):
        file, row = found[name]
        for side in filter(needs_extra, row.sides):
            reached = running.run_side(file, row, side, "tiny")["quality"]
            # Nine digits: what is compared is far coarser.
            quality = {key: float(f"{value:.9g}") for key, value in reached.items()}
            references = load()  # anew: another process may have written meanwhile
            references.setdefault(name, {})[side] = {
                "tiny": plain(row.tiny), "versions": machine.versions(), "quality": quality,
            }  # fmt: skip
            print(f"{name}: {side}, {len(quality)} numbers", flush=True)
            ordered = {name: references[name] for name in found if name in references}
            rows = (f"{json.dumps(name)}: {json.dumps(one)}" for name, one in ordered.items())
            beside = FILE.with_suffix(f".{os.getpid()}")
            beside.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
            beside.replace(FILE)


if __name__ == "__main__":
    main()
