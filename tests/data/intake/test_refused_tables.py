"""What no table is made of: each text, and the one line that refuses it."""

import re

import pytest

from pyro_cookbook import data

NUMBER = "expected a finite number"
MARKS = "expected a finite number without marks of thousands"
SIGN = "expected a finite number without a sign or unit"
DATE = (
    "a date or a time, expected a number or a word; make it a number (days since the first, say) or"
    " leave the column out (--exclude)"
)
NAMES = (
    "expected the names of the columns; header=False (--no-header) takes it for the first row,"
    " header=True for names"
)
DROP = "missing='drop' (--missing drop) drops such rows"
EMPTY = "it is empty, expected a header and rows"
NO_ROWS = "it has a header and no rows below it"
FEW = "expected 2 rows and 1 column at least"
UNNAMED = "a column without a name?"
COMMA = "a comma for the decimals, or a column without a name?"
LARGE = "expected a number below 1e+150 in size, so that it has a square"
THOUSAND = (
    "can be a thousand or a decimal; say decimal=',' (--decimal ,), or leave the marks of thousands"
    " out of the file"
)

# Content, options, and what is said after "t.csv: ".
REFUSED = [
    # nothing there
    ("", {}, EMPTY),
    ("\n\n", {}, EMPTY),
    ("  \n\t\n", {}, EMPTY),
    (b"\xef\xbb\xbf", {}, EMPTY),
    ("a,b\n", {}, NO_ROWS),
    ("a,b", {}, NO_ROWS),
    ("a,b\n\n \n", {}, NO_ROWS),
    ("a,b\n,\n,\n", {}, NO_ROWS),
    ("a\n", {}, NO_ROWS),
    ("a\n1\n", {}, f"got 1 row and 1 column, {FEW}"),
    ("a,b\n1,2\n", {}, f"got 1 row and 2 columns, {FEW}"),
    # no text
    (b"a,b\n1,\x002\n3,4\n", {}, "not text: it has bytes of value 0 (a binary file?)"),
    (b"a,b\n" + 50 * b"1,2\n" + b"1,\0\n", {},
     "not text: it has bytes of value 0 (a binary file?)"),
    (bytes(range(4)) * 50, {}, "line 1: character 0x01, expected text (a binary file?)"),
    (b"a,b\n1,\x012\n", {}, "line 2: character 0x01, expected text (a binary file?)"),
    (b"a,b\n1,\x1b[31m\n", {}, "line 2: character 0x1b, expected text (a binary file?)"),
    (b"%PDF-1.4\n", {}, "it is a PDF"),
    (b"\x89PNG\r\n\x1a\n", {}, "it is a picture; give a folder of pictures"),
    (b"\xd0\xcf\x11\xe0rest", {}, "it is an old Excel workbook; save it as CSV"),
    (b"\x80\x04\x95rest", {}, "it is a Python pickle, which runs code when it is read; save it as"
     " Parquet"),
    ("a,b\né,1\n", {"encoding": "ascii"}, "not ascii: ordinal not in range(128) (byte 0xc3, line"
     " 2)"),
    # the header
    ("1,2\n3,4\n5,7\n", {}, f"line 1: got '1,2', all numbers, {NAMES}"),
    ("\n\n1;2,5\n3;4,5\n", {}, f"line 3: got '1;2,5', all numbers, {NAMES}"),
    ("5.1,3.5,setosa\n4.9,3.0,setosa\n", {},
     f"line 1: got '5.1,3.5,setosa', 5.1 among them, {NAMES}"),
    ("anna,170,65\nbert,180,70\n", {}, f"line 1: got 'anna,170,65', 170 among them, {NAMES}"),
    ("a,b\n1,2\n3,4\n", {"header": False},
     f"line 1, column 'column 1': got 'a', {NUMBER} (1 such of"
     " 3 rows)"),
    ("a,b,a\n1,2,3\n4,5,6\n", {}, "line 1: column 'a' is there 2 times, expected once"),
    ("a, a\n1,2\n3,4\n", {}, "line 1: column 'a' is there 2 times, expected once"),
    ("\na,,b\n1,2,3\n3,4,5\n", {}, "line 2: column 2 has no name"),
    ("a,b,\n1,2,3\n3,4,5\n", {}, "line 1: column 3 has no name"),
    (",a,b\n7,1,2\n3,3,5\n2,4,4\n", {},
     "the first column has no name, and neither numbers nor names"
     " the rows; name it, or choose the others (--columns)"),
    (",\n0,\n1,\n", {}, "its only column has no name and numbers the rows from 0"),
    # rows of another length
    ("height,weight\n1,170,65\n2,180,70\n", {}, "line 2 has 3 fields, expected 2 like the header:"
     f" '1,170,65'; {COMMA}"),
    ("a,b\n1,2\n3\n5,6\n", {}, "line 3 has 1 field, expected 2 like the header: '3'"),
    ("a,b\n1,2\n\n\n3,4\n5,6,x\n", {}, "line 6 has 3 fields, expected 2 like the header: '5,6,x';"
     f" {UNNAMED}"),
    ('a,b\n1,"x\ny"\n3,"x\ny"\n5\n', {}, "line 6 has 1 field, expected 2 like the header: '5'"),
    ("a,b\n1,2,\n3,4,\n5,7,8\n", {},
     "line 2 has 3 fields, expected 2 like the header: '1,2,'; it ends"
     " in a separator"),
    ("a;b\n1;2;3;4\n", {}, "line 2 has 4 fields, expected 2 like the header: '1;2;3;4'"),
    ("1,2\n3,4,5\n", {"header": False},
     "line 2 has 3 fields, expected 2 like the first row: '3,4,5';"
     f" {COMMA}"),
    ("x\n1,5\n2,5\n", {}, f"line 2 has 2 fields, expected 1 like the header: '1,5'; {COMMA}"),
    ("x\n1;5\n2;5\n", {}, f"line 2 has 2 fields, expected 1 like the header: '1;5'; {UNNAMED}"),
    ("# my data\na,b\n1,2\n", {},
     "line 2 has 2 fields, expected 1 like the header: 'a,b'; a title or a"
     " comment above the header?"),
    ('a,b\n1,2\n3,"4\n5,6\n', {}, 'line 3 opens a quote (") that is never closed'),
    ('a,b\n"1,2\n3,4\n', {}, 'line 2 opens a quote (") that is never closed'),
    ('a,b\n1,2\n3,"4\n' + "5,6\n" * 40_000, {}, "line 3 begins an entry of more than 131,072"
     " characters; a quote that is never closed?"),
    # what is no number
    ("a,b\n\n1,2\n\n3,oops\n5,6\n7,8\n", {},
     f"line 5, column 'b': got 'oops', {NUMBER} (1 such of 4"
     " rows)"),
    ('a,b\n"1\n",2\n3,oops\n5,6\n7,8\n', {},
     f"line 4, column 'b': got 'oops', {NUMBER} (1 such of 4"
     " rows)"),
    ("sep=;\na;b\n1;2\n3;5\n4;x\n5;4\n", {}, f"line 5, column 'b': got 'x', {NUMBER} (1 such of 4"
     " rows)"),
    ("a,b\n1,1e400\n2,3\n", {}, f"line 2, column 'b': got '1e400', {NUMBER} (1 such of 2 rows)"),
    ("a,b\n1,2\n3,-Infinity\n", {},
     f"line 3, column 'b': got '-Infinity', {NUMBER} (1 such of 2 rows)"),
    ("a,b\n1,2\n3,x\n4,inf\n", {}, f"line 3, column 'b': got 'x', {NUMBER} (1 such of 3 rows)"),
    ("a,b\n1,1e200\n2,-1e200\n3,4\n", {},
     f"line 2, column 'b': got '1e200', {LARGE} (2 such of 3 rows)"),
    ("a,b\n1,2\n3,1e308\n", {}, f"line 3, column 'b': got '1e308', {LARGE} (1 such of 2 rows)"),
    ("a,b\n0x1A,2\n3,4\n5,6\n", {}, f"line 2, column 'a': got '0x1A', {NUMBER} (1 such of 3 rows)"),
    ("a,b\n1,1+2j\n3,4\n5,7\n", {}, f"line 2, column 'b': got '1+2j', {NUMBER} (1 such of 3 rows)"),
    ("a;b\n1 000;2\n2 000;3\n", {}, f"line 2, column 'a': got '1 000', {MARKS} (2 such of 2 rows)"),
    ("a;b\n1.234,5;2\n2,5;3\n", {},
     f"line 2, column 'a': got '1.234,5', {MARKS} (1 such of 2 rows)"),
    ('a,b\n"1,234.5",2\n2.5,3\n', {},
     f"line 2, column 'a': got '1,234.5', {MARKS} (1 such of 2 rows)"),
    ("a;b\n1'234;2\n2'345;3\n", {},
     f'line 2, column \'a\': got "1\'234", {MARKS} (2 such of 2 rows)'),
    ("a;b\n1,234;2\n2,345;3\n", {}, f"'1,234' {THOUSAND}"),
    ('a,b\n"1,234",2\n"2,345",3\n', {}, f"'1,234' {THOUSAND}"),
    ("a;b\n1,5;2.5\n2,5;3.5\n", {}, "line 2, column 'a': got '1,5', expected a finite number with a"
     " decimal point, or decimal=',' (--decimal ,) (2 such of 2 rows)"),
    ("a;b\n1.5;2\n2,5;3\n", {"decimal": ","},
     "line 2, column 'a': got '1.5', expected a finite number"
     " with a decimal comma like the others, or decimal='.' (--decimal .) (1 such of 2 rows)"),
    ("a,b\n€5,1\n€6,2\n", {}, f"line 2, column 'a': got '€5', {SIGN} (2 such of 2 rows)"),
    ("a,b\n5%,1\n6%,2\n", {}, f"line 2, column 'a': got '5%', {SIGN} (2 such of 2 rows)"),
    ("a,b\n+1,2\n−5,3\n4,5\n", {},
     "line 3, column 'a': got '−5', expected a finite number; its sign is"
     " not the minus of a keyboard (-) (1 such of 3 rows)"),
    # dates
    ("when,b\n2020-01-01,1\n2020-01-02,2\n", {},
     f"line 2, column 'when': got '2020-01-01', {DATE}"),
    ("when,b\n,1\n2020-01-02 10:30:00,2\n", {}, "line 3, column 'when': got '2020-01-02 10:30:00',"
     f" {DATE}"),
    ("when,b\n01/02/2020,1\n02/03/2020,2\n", {},
     f"line 2, column 'when': got '01/02/2020', {DATE}"),
    ("when;b\n01.02.20;1\n02.03.20;2\n", {}, f"line 2, column 'when': got '01.02.20', {DATE}"),
    ("when,b\n3 Jan 2020,1\n4 Jan 2020,2\n", {},
     f"line 2, column 'when': got '3 Jan 2020', {DATE}"),
    ("t,b\n12:30,1\n12:31,2\n", {}, f"line 2, column 't': got '12:30', {DATE}"),
    # what is missing
    ("a,b\n1,NA\n3,?\n,4\n4,5\n", {},
     "line 2, column 'b': got 'NA', which is missing, expected a number"
     f" (missing: 'a' 1, 'b' 2 of 4 rows); {DROP}"),
    ("a,b\n1,2\n  ,5\n4,4\n", {}, "line 3, column 'a': got '', which is missing, expected a number"
     f" (missing: 'a' 1 of 3 rows); {DROP}"),
    ("t,y\nred,1\n\n-,2\nred,4\nblue,5\n", {},
     "line 4, column 't': got '-', which is missing, expected a"
     f" word (missing: 't' 1 of 4 rows); {DROP}"),
    ("a,b,c\n1,,1\n3,,2\n", {}, "column 'b' has no entries; leave out what is empty (--exclude)"),
    ("a,b,c\n1,,\n3,.,NA\n", {"missing": "drop"},
     "columns 'b', 'c' have no entries; leave out what is"
     " empty (--exclude)"),
    ("a,b\n1,\n,2\n", {"missing": "drop"}, "every row has a missing entry: 'a' 1, 'b' 1"),
    ("a,b\n1,\n3,2\n", {"missing": "drop"}, f"got 1 row and 2 columns, {FEW}"),
    # what says nothing
    ("a,b\n1,1\n1,2\n1,3\n", {}, "column 'a' is constant; leave it out (--exclude)"),
    ("a,b,c\n1,1,2\n1,2,2\n1,3,2\n", {},
     "columns 'a', 'c' are constant; leave them out (--exclude)"),
    ("t,y\nred,1\nred,2\n", {}, "column 't' is constant; leave it out (--exclude)"),
    ("who,b\nx,1\ny,2\nz,3\n", {},
     "column 'who' has a different word in each of 3 rows (x, y, z): it"
     " names rows; leave it out (--exclude)"),
    ("a,a[y],b\nx,1,2\ny,2,3\nx,4,1\n", {}, "two columns are called 'a[y]' once words are encoded;"
     " rename one"),
    # choices
    ("a,b\n1,2\n3,4\n", {"columns": ["a", "a"]}, "column 'a' is there 2 times, expected once"),
    ("a,b\n1,2\n3,4\n", {"exclude": ["b", "b"]}, "column 'b' is there 2 times, expected once"),
    ("height,weight\n1,2\n3,4\n", {"columns": ["wieght"]},
     "no column 'wieght'; there are height, weight;"
     " did you mean 'weight'?"),
    ("height,weight\n1,2\n3,4\n", {"exclude": ["Height"]},
     "no column 'Height'; there are height, weight;"
     " did you mean 'height'?"),
    ("a,b\n1,2\n3,4\n", {"outcome": "y"}, "no column 'y'; there are a, b"),
    ("a,b\n1,2\n3,4\n", {"outcome": "a", "exclude": ["a"]},
     "column 'a' is the outcome, and excluded"),
    ("a,b\n1,2\n3,4\n", {"exclude": ["a", "b"]}, "no column is left; there are a, b"),
    ("a,t\n1,x\n3,y\n4,z\n5,x\n", {"outcome": "t"},
     "outcome 't' has 3 levels (x, y, z), expected 2, or"
     " numbers"),
]  # fmt: skip


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def written(content, name="t.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return written


@pytest.mark.parametrize(("content", "options", "told"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_said_in_one_line(content, options, told, write):
    with pytest.raises(data.InputError) as caught:
        data.read(write(content), **options)
    assert str(caught.value) == f"t.csv: {told}"


def test_enough_is_refused_and_nothing_twice():
    assert len(REFUSED) >= 60
    assert len({(content, str(options)) for content, options, _ in REFUSED}) == len(REFUSED)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": "a"}, "columns: got 'a', expected a sequence of names: ['a']"),
        ({"exclude": "a,b"}, "exclude: got 'a,b', expected a sequence of names: ['a,b']"),
        ({"missing": "impute"}, "missing: got 'impute', expected 'refuse' or 'drop'"),
        ({"separator": "::"}, "separator: got '::', expected one character"),
        ({"separator": ""}, "separator: got '', expected one character"),
        ({"separator": "."}, "separator: got '.', which cannot separate numbers"),
        (
            {"separator": ",", "decimal": ","},
            "separator: got ',', which is the decimal as well",
        ),
        ({"decimal": "point"}, "decimal: got 'point', expected '.' or ','"),
        ({"encoding": "klingon"}, "encoding: got 'klingon', expected one that Python knows"),
    ],
)
def test_a_wrong_option_is_refused(options, told, write):
    with pytest.raises(data.InputError) as caught:
        data.read(write("a,b\n1,2\n3,4\n"), **options)
    assert str(caught.value) == told


def test_columns_that_are_not_used_are_not_looked_at(write):
    path = write("when,a,b\n2020-01-01,1,x\n2020-01-02,2,\n2020-01-03,4,z\n")
    assert data.read(path, ["a"]).columns == ("a",)
    assert data.read(path, exclude=["when", "b"]).raw.flatten().tolist() == [1, 2, 4]


def test_a_level_too_many_is_counted(write):
    words = [f"w{i}" for i in range(1002)]
    rows = "".join(f"{word},{i % 7}\n" for i, word in enumerate([*words, *words]))
    with pytest.raises(data.InputError, match=r"'t' has 1,002 different words, expected 1,000 at"):
        data.read(write(f"t,y\n{rows}"))


def test_a_file_that_changes_while_it_is_read_is_refused(write, tmp_path, monkeypatch):
    path = tmp_path / write("a,b\n1,2\n3,4\n")
    whole = type(path).read_bytes

    def meanwhile(self):
        found = whole(self)
        path.write_text("a,b\n1,2\n3,4\n5,6\n")
        return found

    monkeypatch.setattr(type(path), "read_bytes", meanwhile)
    with pytest.raises(data.InputError, match=r"t\.csv: it changed while it was read; try again"):
        data.read(path)


@pytest.mark.parametrize("call", ["read_bytes", "iterdir"])
def test_what_may_not_be_read_is_said(call, write, tmp_path, monkeypatch):
    path = tmp_path / write("a,b\n1,2\n3,4\n") if call == "read_bytes" else tmp_path

    def denied(self):
        raise PermissionError(13, "no")

    monkeypatch.setattr(type(path), call, denied)
    with pytest.raises(data.InputError) as caught:
        data.read(path)
    assert str(caught.value) == f"{path}: cannot be read: Permission denied"


def test_no_file_is_a_file_not_found(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"{tmp_path / 'none.csv'}: no such file")
    ):
        data.read(tmp_path / "none.csv")
    with pytest.raises(data.InputError, match=r"cannot be read: File name too long"):
        data.read(tmp_path / ("x" * 300))
    with pytest.raises(data.InputError, match="neither a file nor a folder"):
        data.read("/dev/null")
