"""Texts that are read, and what is said of how they are written."""

import bz2
import gzip
import io
import lzma
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pyro_cookbook import data

PLAIN = "text: UTF-8; separator: comma; decimals after a point"
WORDS = "a,b\n1,é\n2,b\n3,é\n"
ROWS = [[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]]


def zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inside.csv", content)
    return stream.getvalue()


def zstandard(content):
    return pa.compress(content, "zstd", asbytes=True)


# Content, options, the rows, and the sentences about how it is written.
READ = [
    ("a,b\n1,2\n3,5\n4,4\n", {}, ROWS, [PLAIN]),
    ("length;width\n1,5;2,25\n2,5;3\n", {}, [[1.5, 2.25], [2.5, 3.0]],
     ["text: UTF-8; separator: semicolon; decimals after a comma"]),
    ("a;b\n1,234;2\n2,5;3\n", {}, [[1.234, 2.0], [2.5, 3.0]],
     ["text: UTF-8; separator: semicolon; decimals after a comma"]),
    ("a;b\n1,234;2\n2,345;3\n", {"decimal": ","}, [[1.234, 2.0], [2.345, 3.0]],
     ["text: UTF-8; separator: semicolon; decimals after a comma"]),
    ('a,b\n"1,5","2,25"\n"2,5","3"\n', {}, [[1.5, 2.25], [2.5, 3.0]],
     ["text: UTF-8; separator: comma; decimals after a comma"]),
    ("a\tb\n1\t\"2\"\n3\t5\n4\t4\n", {}, ROWS, [PLAIN.replace("comma", "tab")]),
    ("a|b\n1|2\n3|5\n4|4\n", {}, ROWS, [PLAIN.replace("comma", "bar")]),
    ("a b\n1 2\n3 5\n4 4\n", {}, ROWS, [PLAIN.replace("comma", "blanks")]),
    ("  a     b \n  1   2.0\n  3   5  \n\n  4   4\n", {}, ROWS, [PLAIN.replace("comma", "blanks")]),
    ("a~b\n1~2\n3~5\n4~4\n", {"separator": "~"}, ROWS, [PLAIN.replace("comma", "'~'")]),
    ("'a','b'\n'1','2'\n'3','5'\n'4','4'\n", {}, ROWS, [PLAIN, "quotes: single"]),
    ("sep=;\na;b\n1;2\n3;5\n4;4\n", {}, ROWS,
     [PLAIN.replace("comma", "semicolon"), "line 1 names the separator (sep=;) and is no row"]),
    ("a,b\r\n1,2\r\n3,5\r\n4,4\r\n", {}, ROWS, [PLAIN]),
    ("a,b\r1,2\r3,5\r4,4\r", {}, ROWS, [PLAIN, "lines end in CR"]),
    ("a,b\r\n1,2\n3,5\r4,4\n", {}, ROWS, [PLAIN, "lines end in CR LF, CR and LF, taken alike"]),
    ("\n\na,b\n1,2\n\n3,5\n \n4,4", {}, ROWS, [PLAIN]),
    ("a,b\n 1 , 2\n3 ,5\n+4,4.\n", {}, ROWS, [PLAIN]),
    ("a,b,\n1,2,\n3,5,\n4,4,\n", {}, ROWS,
     [PLAIN, "every row ends in one more separator, which is left out"]),
    ("a,b\n1,2,\n3,5,\n4,4,\n", {}, ROWS,
     [PLAIN, "every row ends in one more separator, which is left out"]),
    ("a,b\n1,2\n3,5\n,\n4,4\n,\n,\n", {}, ROWS, [PLAIN, "rows without any entry: 3, left out"]),
    (",a,b\n0,1,2\n1,3,5\n2,4,4\n", {}, ROWS,
     [PLAIN, "left out: the first column (without a name), which numbers the rows from 0"]),
    ("Unnamed: 0,a,b\n1,1,2\n2,3,5\n3,4,4\n", {}, ROWS,
     [PLAIN, "left out: the first column ('Unnamed: 0'), which numbers the rows from 1"]),
    ('"",a,b\nx,1,2\ny,3,5\nz,4,4\n', {}, ROWS,
     [PLAIN, "left out: the first column (without a name), which names the rows"]),
    ("1,2\n3,5\n4,4\n", {"header": False}, ROWS,
     [PLAIN, "no header: the columns are called column 1, column 2, …, as asked"]),
    ("7,8\n1,2\n3,5\n4,4\n", {"header": True},
     ROWS, [PLAIN, "the first row has the names, as asked"]),
    ("a,A\n1,2\n3,5\n4,4\n", {}, ROWS, [PLAIN, "columns 'a' and 'A' differ only in case"]),
    ("a\n1\n3\n4\n", {}, [[1.0], [3.0], [4.0]],
     ["text: UTF-8; separator: none, one column; decimals after a point"]),
    ("a\n1,5\n3\n", {"decimal": ","}, [[1.5], [3.0]],
     ["text: UTF-8; separator: none, one column; decimals after a comma"]),
    ("\ufeffa,b\n1,2\n3,5\n4,4\n", {}, ROWS, [PLAIN.replace("8;", "8 with a byte-order mark;")]),
    (WORDS.encode("utf-16"), {}, [[1, 1], [2, 0], [3, 1]],
     [PLAIN.replace("UTF-8", "UTF-16 with a byte-order mark")]),
    (WORDS.encode("utf-16-le"), {}, [[1, 1], [2, 0], [3, 1]],
     [PLAIN.replace("UTF-8", "UTF-16 without a byte-order mark")]),
    (WORDS.encode("utf-16-be"), {}, [[1, 1], [2, 0], [3, 1]],
     [PLAIN.replace("UTF-8", "UTF-16 without a byte-order mark")]),
    (WORDS.encode("cp1252"), {}, [[1, 1], [2, 0], [3, 1]],
     [PLAIN.replace("UTF-8", "Windows-1252: it is not UTF-8 (byte 0xe9 in line 2)")]),
    (WORDS.encode("mac-roman"), {"encoding": "mac-roman"}, [[1, 1], [2, 0], [3, 1]],
     [PLAIN.replace("UTF-8", "encoding mac-roman, as asked")]),
    ("a,b\n1,NA\n3,?\n,4\n4,5\n6,-\n7,8\n", {"missing": "drop"}, [[4, 5], [7, 8]],
     [PLAIN,
      "dropped: 4 of 6 rows, in which entries are missing: 'a' 1, 'b' 3; marks: empty 1, NA 1,"
      " ? 1, - 1"]),
    ("id,b\n1,2\n2,5\n3,4\n4,4\n5,1\n", {}, [[1, 2], [2, 5], [3, 4], [4, 4], [5, 1]],
     [PLAIN, "'id' only counts the rows, from 1: leave it out (--exclude) if it measures nothing"]),
    (gzip.compress(b"a,b\n1,2\n3,5\n4,4\n"), {}, ROWS, ["compressed: gzip", PLAIN]),
    (bz2.compress(b"a,b\n1,2\n3,5\n4,4\n"), {}, ROWS, ["compressed: bzip2", PLAIN]),
    (lzma.compress(b"a,b\n1,2\n3,5\n4,4\n"), {}, ROWS, ["compressed: xz", PLAIN]),
    (zstandard(b"a,b\n1,2\n3,5\n4,4\n"), {}, ROWS, ["compressed: zstd", PLAIN]),
    (zipped(b"a,b\n1,2\n3,5\n4,4\n"), {}, ROWS, ["compressed: zip", PLAIN]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "options", "rows", "lines"), READ, ids=range(len(READ)))
def test_a_dialect_is_recognised_and_said(content, options, rows, lines, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = data.read(path, **options)
    assert table.raw.tolist() == rows
    about_columns = len(table.schema.columns)
    assert list(table.understood.lines[1:-about_columns]) == lines
    assert table.name == "t"


@pytest.mark.parametrize(
    ("content", "columns", "rows", "line"),
    [
        ("t,y\nred,1\nblue,2\ngreen,3\nred,5\n", ("t[green]", "t[red]", "y"), [0, 1, 1],
         "'t': words, 3 levels: blue (the base), green, red; columns t[green], t[red]"),
        ("t,y\nyes,1\nno,2\nyes,5\n", ("t[yes]", "y"), [1, 1],
         "'t': words, 2 levels: no (the base), yes; columns t[yes]"),
        ("t,y\nTRUE,1\nfalse,2\ntrue,5\n", ("t", "y"), [1, 1], "'t': true (1) and false (0)"),
        ("t,y\n1st,1\n2nd,2\n1st,5\n", ("t[2nd]", "y"), [0, 1],
         "'t': words, 2 levels: 1st (the base), 2nd; columns t[2nd]"),
        ("t,y\n<30,1\n30-45,2\n>45,3\n<30,5\n", ("t[<30]", "t[>45]", "y"), [1, 0, 1],
         "'t': words, 3 levels: 30-45 (the base), <30, >45; columns t[<30], t[>45]"),
        ("t,y\n1,1\nlow,2\nlow,3\nhigh,4\nlow,5\n", ("t[high]", "t[low]", "y"), [0, 0, 1],
         "'t': words, 3 levels: 1 (the base), high, low; columns t[high], t[low]"),
        ('t,y\n5" pipe,1\n6" pipe,2\n5" pipe,4\n', ('t[6" pipe]', "y"), [0, 1],
         "'t': words, 2 levels: 5\" pipe (the base), 6\" pipe; columns t[6\" pipe]"),
        ('t,y\n"a, b",1\nc,2\n"a, b",4\n', ("t[c]", "y"), [0, 1],
         "'t': words, 2 levels: a, b (the base), c; columns t[c]"),
    ],
)  # fmt: skip
def test_words_become_indicators_and_the_base_is_said(content, columns, rows, line, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    table = data.read(tmp_path / "t.csv")
    assert table.columns == columns
    assert table.raw[0].tolist() == rows
    assert table.understood.lines[-2] == line


def test_names_may_hold_separators_and_be_chosen(tmp_path):
    (tmp_path / "t.csv").write_text('"a,b",c,"d;e"\n1,2,3\n3,4,1\n4,9,2\n')
    assert data.read(tmp_path / "t.csv", ["d;e", "a,b"]).raw[0].tolist() == [3, 1]
    assert data.read(tmp_path / "t.csv", exclude=["a,b"]).columns == ("c", "d;e")
    assert data.read(tmp_path / "t.csv", ["c"], outcome="a,b").columns == ("c", "a,b")


def test_an_outcome_of_two_words_is_zero_or_one(tmp_path):
    (tmp_path / "t.csv").write_text("sick,dose\nyes,1\nno,2\nyes,4\n")
    table = data.read(tmp_path / "t.csv", outcome="sick")
    assert table.columns == ("dose", "sick")
    assert table.raw[:, 1].tolist() == [1, 0, 1]
    assert table.understood.lines[-1] == "'sick', the outcome: words: 1 is 'yes', 0 is 'no'"
    assert table.schema.outcome == "sick"


def test_the_standard_input_is_read(monkeypatch):
    class Piped:
        buffer = io.BytesIO(b"a;b\n1,5;2\n3;5\n")

    monkeypatch.setattr(sys, "stdin", Piped())
    table = data.read("-")
    assert table.raw.tolist() == [[1.5, 2], [3, 5]]
    assert (table.name, table.source) == ("stdin", "stdin")


@pytest.mark.parametrize(
    "options",
    [
        {}, {"sep": ";"}, {"sep": ";", "decimal": ","}, {"sep": "\t"}, {"encoding": "utf-16"},
        {"lineterminator": "\r\n"}, {"quoting": 1}, {"index": True}, {"sep": "|"}, {"na_rep": "."},
    ],
    ids=str,
)  # fmt: skip
def test_what_pandas_writes_is_what_is_read(options, tmp_path):
    """Whatever the dialect: words with every separator and quotes in them, numbers to the bit."""
    rng = np.random.default_rng(0)
    words = ['say "no"', "a;b", "c,d", "tab\there", "é|ü", "two\nlines"]
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=60) * 10.0 ** rng.integers(-8, 8, 60),
            "t": rng.choice(words, 60),
            "n": rng.integers(-5, 5, 60),
        }
    )
    if "na_rep" in options:
        frame.loc[7, "x"] = np.nan
    frame.to_csv(tmp_path / "t.csv", **{"index": False, **options})
    table = data.read(tmp_path / "t.csv", missing="drop")
    kept = frame.dropna()
    assert table.rows.tolist() == kept.index.tolist()
    np.testing.assert_array_equal(table.frame["x"], kept["x"])
    np.testing.assert_array_equal(table.frame["n"], kept["n"])
    assert table.frame["t"].astype(str).tolist() == kept["t"].tolist()
    dummies = pd.get_dummies(kept["t"], drop_first=True, dtype=float)
    columns = [table.columns.index(f"t[{level}]") for level in dummies]
    np.testing.assert_array_equal(table.raw[:, columns], dummies)
