"""Every row of the benchmark on its tiny size: each side runs, and both solve the same problem.

No timing. A peer that the project does not install stands for itself by what it reached on that
size, kept with its versions in ``benchmarks/references.json``.
"""

from dataclasses import replace

import pytest
import torch

from benchmarks.harness import finding, references
from benchmarks.harness.row import Measured, Row

ROWS = {name: row for name, (_, row) in finding.find().items()}
KEPT = references.load()


def reached(row: Row, side: str) -> Measured:
    if references.needs_extra(side):
        return references.kept(KEPT, row, side)
    dtype = torch.get_default_dtype()
    try:
        return row.sides[side](row.tiny)
    finally:
        torch.set_default_dtype(dtype)  # a side has a process of its own, and sets what it likes


@pytest.mark.parametrize("name", ROWS)
def test_both_sides_solve_the_same_problem(name):
    row = ROWS[name]
    runs = {side: [reached(row, side)] for side in row.sides}
    for (one,) in runs.values():
        assert one.seconds > 0
        assert one.quality, "nothing to compare both sides by"
        assert one.memory >= 0  # 0 where this process has as much to spare
    said = row.same(runs)
    assert said, "words for the table"
    assert "\n" not in said
    # A wrong answer of ours is seen: every number of it off by a tenth and a bit.
    (ours,) = runs["ours"]
    wrong = replace(ours, quality={key: 1.1 * v + 0.5 for key, v in ours.quality.items()})
    with pytest.raises(AssertionError):
        row.same({**runs, "ours": [wrong]})


def test_rows_are_found_and_have_names_for_the_command_line():
    assert ROWS
    for name, row in ROWS.items():
        assert name == row.name
        assert not set(name) & set(" |'\"/")
        assert row.target > 0
        assert row.of in ("seconds", "memory")


def test_what_is_kept_of_a_peer_is_of_the_size_that_ours_runs():
    name, row = next((n, r) for n, r in ROWS.items() if any(map(references.needs_extra, r.sides)))
    side = next(filter(references.needs_extra, row.sides))
    assert references.kept(KEPT, row, side).quality == KEPT[name][side]["quality"]
    with pytest.raises(LookupError, match="another size"):
        references.kept(KEPT, replace(row, tiny={**row.tiny, "other": 1}), side)
    with pytest.raises(LookupError, match="no reference"):
        references.kept({}, row, side)


def test_no_reference_is_left_of_a_row_that_is_gone():
    assert set(KEPT) <= set(ROWS)
    assert all(set(sides) <= set(ROWS[name].sides) for name, sides in KEPT.items())
