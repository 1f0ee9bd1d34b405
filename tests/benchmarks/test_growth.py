"""The table of growth is made of small sizes, and its slope is a slope."""

import numpy as np
import pytest

from benchmarks import growth


def test_every_work_runs_and_has_its_lines(tmp_path):
    out = tmp_path / "growth.md"
    found = growth.main(["--tiny", "--out", str(out)])
    assert list(found) == list(growth.WORKS)
    assert all([one["n"] for one in cells] == list(growth.TINY) for cells in found.values())
    text = out.read_text("utf-8")
    assert text.count("| 200 |") == len(found)
    assert all(f"| {name} | 200 |" in text and f"- {name}: " in text for name in found)


def test_works_that_are_not_asked_for_keep_their_lines():
    cells = [{"n": n, "seconds": 1.0, "processor": 1.0, "memory": 2.0} for n in (200, 400)]
    both = growth.table({"em": cells, "diagnose": cells})
    faster = growth.table({"diagnose": [{**one, "seconds": 0.5} for one in cells]}, both)
    before, after = both.splitlines(), faster.splitlines()
    changed = [i for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert [after[i][:24] for i in changed] == [
        "| diagnose | 200 | 0.50 ",
        "|  | 400 | 0.50 | 1.00 |",
    ]
    assert growth.table({}, both) == both


def test_the_slope_is_that_of_the_power():
    sizes = [100, 300, 1000]
    assert growth.slope(sizes, [2e-3 * n**1.25 for n in sizes]) == pytest.approx(1.25)
    assert np.isnan(growth.slope([1], [1.0]))


def test_a_work_that_takes_too_long_goes_no_further(monkeypatch):
    monkeypatch.setattr(growth, "cell", lambda name, n: {"seconds": n / 10, "memory": 0.0})
    cells = growth.grow("em", [10, 20, 50, 100], 3.0)
    assert [one["n"] for one in cells] == [10, 20]
