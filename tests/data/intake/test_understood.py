"""What is said before anything is fitted: whole for a few columns, short for many."""

import doctest
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from pyro_cookbook import data

SMALL = """\
t: 4 rows, 3 columns, 4 once words are encoded
text: UTF-8; separator: semicolon; decimals after a comma
dropped: 1 of 5 rows, in which entries are missing: 'dose' 1; marks: ? 1
'dose': numbers from 1.5 to 7
'team': words, 3 levels: blue (the base), green, red; columns team[green], team[red]
'old': true (1) and false (0)
column     kind smallest largest   mean      sd levels missing
  dose   number      1.5       7 3.8125  2.087              1
  team category                                       3       0
   old  boolean        0       1   0.75 0.43301              0"""


def test_a_small_table_is_told_whole(tmp_path):
    (tmp_path / "t.csv").write_text(
        "dose;team;old\n1,5;red;true\n2,5;blue;false\n4,25;green;true\n?;red;true\n7;blue;true\n"
    )
    table = data.read(tmp_path / "t.csv", missing="drop")
    told = [" ".join(line.split()) for line in str(table.understood).splitlines()]
    assert told == [" ".join(line.split()) for line in SMALL.splitlines()]
    numbers = table.understood.table.set_index("column")
    dose = np.array([1.5, 2.5, 4.25, 7])
    assert numbers.loc["dose", ["mean", "sd"]].tolist() == pytest.approx([dose.mean(), dose.std()])


def test_a_wide_table_is_told_in_short():
    values = np.random.default_rng(0).normal(size=(9, 200))
    frame = pd.DataFrame(values, columns=[f"gene number {i}" for i in range(200)])
    understood = data.read(frame.assign(t=["a", "b", "c"] * 3)).understood
    told = str(understood).splitlines()
    assert len(told) < 30
    assert max(map(len, told)) <= 100
    assert "columns: 200 of numbers, 1 of words" in told
    assert "Of 201 columns the first and the last 10:" in told
    assert len(understood.table) == 201


def test_long_names_and_many_levels_are_cut_to_the_page():
    levels = [f"level with a long name {i}" for i in range(30)]
    frame = pd.DataFrame({"a" * 90: levels * 2, "y": np.arange(60.0) ** 2})
    table = data.read(frame)
    assert max(map(len, str(table.understood).splitlines())) <= 100
    assert "level with a long name 0 (the base)" in " ".join(table.understood.lines)


@pytest.mark.parametrize("module", ["errors", "tables", "intake.recognise", "intake.schema"])
def test_examples_run(module):
    found = doctest.testmod(import_module(f"pyro_cookbook.data.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
