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


def test_the_slope_is_that_of_the_power():
    sizes = [100, 300, 1000]
    assert growth.slope(sizes, [2e-3 * n**1.25 for n in sizes]) == pytest.approx(1.25)
    assert np.isnan(growth.slope([1], [1.0]))


def test_a_work_that_takes_too_long_goes_no_further(monkeypatch):
    monkeypatch.setattr(growth, "cell", lambda name, n: {"seconds": n / 10, "memory": 0.0})
    cells = growth.grow("em", [10, 20, 50, 100], 3.0)
    assert [one["n"] for one in cells] == [10, 20]
