"""Tables: those that ship, and the reader's own with everything that can be wrong with them."""

import pandas as pd
import pytest
import torch

from pyro_cookbook import data


@pytest.mark.parametrize(("name", "shape"), [("wine", (178, 13)), ("iris", (150, 4))])
def test_bundled_tables_are_standardised_and_can_be_put_back(name, shape):
    table = data.load(name)
    assert table.v.shape == shape
    assert table.v.dtype == torch.float64
    assert table.v.mean(0).abs().max() < 1e-12
    assert (table.v.std(0, correction=0) - 1).abs().max() < 1e-12
    assert len(table.columns) == shape[1]
    assert len(table.labels) == shape[0]
    torch.testing.assert_close(table.v * table.scale + table.loc, table.raw)
    assert table.raw.min() >= 0  # chemical contents and lengths


def test_an_unknown_table_lists_those_there_are():
    with pytest.raises(
        ValueError, match="data: got 'penguins', expected one of wine, iris, patches, bars,"
    ):
        data.load("penguins")


@pytest.fixture
def frame():
    return pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [0.5, 0.1, 0.7]})


def test_csv_and_parquet_give_the_same_table(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    csv, parquet = data.read(tmp_path / "t.csv"), data.read(tmp_path / "t.parquet")
    torch.testing.assert_close(csv.v, parquet.v)
    assert csv.columns == ("a", "b")
    assert data.read(tmp_path / "t.csv", ["b"]).columns == ("b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,oops\n5,6\n", "line 3, column 'b': got 'oops', expected a finite number"),
        ("a,b\n1,2\n,4\n5,6\n", "line 3, column 'a': got '', which is missing, expected a number"),
        ("a,b\n1,2\n3,inf\n5,6\n", "line 3, column 'b': got .*inf.*, expected a finite number"),
        ("a,b\n1,2\n1,4\n1,6\n", "column 'a' is constant"),
        (
            "a,b\n1,2e200\n3,-2e200\n5,6\n",
            "line 2, column 'b': got '2e200', expected a number below 1e.150",
        ),
        (
            "a,b\n1,2020-01-01\n3,2020-01-02\n",
            "line 2, column 'b': got '2020-01-01', a date or a time",
        ),
        ("a,b\n1,1+2j\n3,4\n", "line 2, column 'b': got .*2j.*, expected a finite number"),
        ("a,b\n1,2\n", "got 1 row and 2 columns, expected 2 rows"),
        ("", "it is empty, expected a header and rows"),
        ("a,b\n1,2\n3,4,5,6\n", "line 3 has 4 fields, expected 2 like the header"),
    ],
)
def test_bad_tables_are_refused_with_the_place(text, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(data.InputError, match=message) as caught:
        data.read(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_columns_are_named(frame, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.read(tmp_path / "none.csv")
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(data.InputError, match="no column 'c'; there are a, b"):
        data.read(tmp_path / "t.csv", ["c"])
    with pytest.raises(data.InputError, match="column 'a' is there 2 times, expected once"):
        data.read(tmp_path / "t.csv", ["a", "b", "a"])
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(data.InputError, match="not a readable table"):
        data.read(tmp_path / "t.parquet")


def test_columns_of_other_kinds_of_numbers_are_taken(tmp_path):
    kinds = {"bool": [True, False, True], "int": pd.Series([1, 2, 4], dtype="Int64")}
    pd.DataFrame(kinds).to_parquet(tmp_path / "t.parquet")
    table = data.read(tmp_path / "t.parquet")
    assert table.columns == ("bool", "int")
    assert table.raw.T.tolist() == [[1, 0, 1], [1, 2, 4]]


def test_rows_in_their_own_units_are_those_that_were_read():
    """0 and 1 stay 0 and 1: standardised and put back, six shares in a hundred would not."""
    for n in range(5, 40):
        for k in range(1, n):
            y = pd.DataFrame({"y": [1.0] * k + [0.0] * (n - k)})
            assert set(data.standardise(y, "", (), "").raw.flatten().tolist()) == {0.0, 1.0}


def test_constant_means_in_the_units_of_the_column():
    tiny = pd.DataFrame({"distance": [1e-15, 2e-15, 4e-15]})
    assert data.standardise(tiny, "", (), "").v.std(correction=0) == pytest.approx(1)
    for rounding in (0.0, 1e-13):
        far = pd.DataFrame({"year": [2000.0, 2000.0, 2000.0 * (1 + rounding)]})
        with pytest.raises(data.InputError, match="column 'year' is constant"):
            data.standardise(far, "", (), "")


def test_a_column_can_be_moved_to_the_end(frame, tmp_path):
    frame.assign(c=[3.0, 1.0, 2.0]).to_csv(tmp_path / "t.csv", index=False)
    table = data.read(tmp_path / "t.csv")
    moved = table.ending_in("a")
    assert moved.columns == ("b", "c", "a")
    assert moved.raw[:, 2].tolist() == [1, 2, 4]
    torch.testing.assert_close(moved.v * moved.scale + moved.loc, moved.raw)
    assert table.ending_in("c").raw.equal(table.raw)
    with pytest.raises(data.InputError, match=r"t: no column 'd'; there are a, b, c"):
        table.ending_in("d")
