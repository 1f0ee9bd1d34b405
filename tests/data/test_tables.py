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
    raw = table.v * table.scale + table.loc
    assert raw.min() >= 0  # chemical contents and lengths


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
        ("a,b\n1,2\n,4\n5,6\n", "line 3, column 'a': got .*nan.*, expected a finite number"),
        ("a,b\n1,2\n3,inf\n5,6\n", "line 3, column 'b': got .*inf.*, expected a finite number"),
        ("a,b\n1,2\n1,4\n1,6\n", "column 'a' is constant"),
        ("a,b\n1,2\n", "got 1 rows and 2 columns, expected 2 rows"),
        ("", "not a readable table"),
        ("a,b\n1,2\n3,4,5,6\n", "not a readable table"),
    ],
)
def test_bad_tables_are_refused_with_the_place(text, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        data.read(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_columns_are_named(frame, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.read(tmp_path / "none.csv")
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="no column 'c'; there are a, b"):
        data.read(tmp_path / "t.csv", ["c"])
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="not a readable table"):
        data.read(tmp_path / "t.parquet")
