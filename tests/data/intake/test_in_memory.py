"""Tables that are in memory: every kind gives the same columns, or one line."""

import datetime
import decimal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
import xarray as xr

from pyro_cookbook import data

A, B = [1.5, 2.0, 4.0], [2.0, 5.0, 3.0]
VALUES = np.column_stack([A, B])
FRAME = pd.DataFrame({"a": A, "b": B})


class Protocol:
    """A frame of which only the dataframe protocol is known."""

    def __init__(self, frame):
        self.frame = frame

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        return self.frame.__dataframe__(nan_as_null, allow_copy)


class Capsule:
    """A frame of which only Arrow's stream is known."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


NAMED = {
    "pandas": FRAME,
    "nullable": FRAME.convert_dtypes(),
    "text": FRAME.astype(str),
    "objects": FRAME.astype(object),
    "sparse frame": FRAME.astype(pd.SparseDtype(float)),
    "categories of numbers read as words": None,  # below
    "decimals": FRAME.map(decimal.Decimal),
    "integer names": FRAME.set_axis(["a", "b"], axis=1),
    "sliced": pd.concat([FRAME, FRAME])[:3],
    "polars": pl.DataFrame({"a": A, "b": B}),
    "arrow": pa.table({"a": A, "b": B}),
    "capsule": Capsule(pa.table({"a": A, "b": B})),
    "protocol": Protocol(pa.table({"a": A, "b": B})),
    "fields": np.array(list(zip(A, B, strict=True)), dtype=[("a", "f8"), ("b", ">f8")]),
    "dataset": xr.Dataset({"a": ("row", A), "b": ("row", B)}),
    "labelled": xr.DataArray(VALUES, dims=("row", "name"), coords={"name": ["a", "b"]}),
    "lists": {"a": A, "b": B},
    "mixed": {"a": torch.tensor(A, dtype=torch.float64), "b": pl.Series(B)},
    "anndata": SimpleNamespace(
        X=sp.csr_matrix(VALUES), var_names=["a", "b"], obs_names=["x", "y", "z"]
    ),
    "anndata, dense": SimpleNamespace(X=VALUES, var_names=pd.Index(["a", "b"]), obs_names=A),
}
del NAMED["categories of numbers read as words"]
UNNAMED = {
    "array": VALUES,
    "fortran": np.asfortranarray(VALUES),
    "foreign bytes": VALUES.astype(">f8"),
    "long": VALUES.astype(np.longdouble),
    "masked nowhere": np.ma.array(VALUES),
    "objects": VALUES.astype(object),
    "words": VALUES.astype(str),
    "tensor": torch.tensor(VALUES),
    "with a gradient": torch.tensor(VALUES, requires_grad=True),
    "half": torch.tensor(VALUES).bfloat16(),
    "sparse tensor": torch.tensor(VALUES).to_sparse(),
    "csr": sp.csr_matrix(VALUES),
    "coo": sp.coo_array(VALUES),
    "unlabelled": xr.DataArray(VALUES),
}


@pytest.mark.parametrize("kind", NAMED)
def test_every_kind_with_names_gives_the_same(kind):
    table = data.read(NAMED[kind], name="mine")
    assert table.columns == ("a", "b")
    np.testing.assert_array_equal(table.raw, VALUES)
    assert (table.name, table.source) == ("mine", "mine")
    assert table.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", UNNAMED)
def test_every_kind_without_names_gives_the_same(kind):
    table = data.read(UNNAMED[kind])
    assert table.columns == ("column 1", "column 2")
    np.testing.assert_array_equal(table.raw, VALUES)


@pytest.mark.parametrize(
    ("column", "name"),
    [
        (pd.Series(A, name="a"), "a"),
        (pd.Series(A), "value"),
        (pl.Series("a", A), "a"),
        (pa.chunked_array([A]), "value"),
        (np.array(A), "column 1"),
        (torch.tensor(A), "column 1"),
        (xr.DataArray(A, name="a"), "a"),
    ],
)
def test_one_column_is_a_table(column, name):
    table = data.read(column)
    assert table.columns == (name,)
    assert table.raw[:, 0].tolist() == A


def test_what_is_read_is_not_changed_and_not_shared():
    values = VALUES.copy()
    table = data.read(values)
    table.raw.mul_(0)
    table.v.mul_(0)
    np.testing.assert_array_equal(values, VALUES)
    frame = FRAME.copy()
    read = data.read(frame).frame
    read.loc[0, "a"] = 7
    pd.testing.assert_frame_equal(frame, FRAME)


def test_categories_keep_their_order_and_lose_what_no_row_has():
    sizes = pd.Categorical(["S", "M", "S", "L"], categories=["XS", "S", "M", "L"], ordered=True)
    table = data.read(pd.DataFrame({"size": sizes, "y": [1.0, 2, 4, 3]}))
    assert table.columns == ("size[M]", "size[L]", "y")
    assert table.raw[:, :2].tolist() == [[0, 0], [1, 0], [0, 0], [0, 1]]
    assert table.schema.columns[0].base == "S"
    assert table.frame["size"].cat.categories.tolist() == ["S", "M", "L"]
    enum = pl.DataFrame({"size": pl.Series(list(sizes), dtype=pl.Enum(["S", "M", "L"]))})
    assert data.read(enum).columns == ("size[M]", "size[L]")


@pytest.mark.parametrize("unit", [1e-200, 1e-300, 1.0, 1e140])
def test_a_column_is_standardised_in_any_units(unit):
    table = data.read({"a": np.array([1.0, 2, 6, 7]) * unit})
    np.testing.assert_allclose(table.v[:, 0], np.array([-3, -2, 2, 3]) / 6.5**0.5, rtol=1e-12)


def test_categories_of_numbers_are_categories():
    frame = pd.DataFrame({"group": pd.Categorical([10, 2, 10]), "y": [1.0, 2, 4]})
    table = data.read(frame)
    assert table.columns == ("group[10]", "y")
    assert table.schema.columns[0].base == "2"


def test_truth_values_are_zero_and_one_whatever_holds_them():
    truth = [True, False, True]
    for column in (truth, pd.array(truth, "boolean"), np.array(truth), pl.Series(truth)):
        table = data.read({"t": column, "y": A})
        assert table.raw[:, 0].tolist() == [1, 0, 1]
        assert table.schema.columns[0].kind == "boolean"


def test_a_frame_with_names_for_its_rows_says_that_they_are_left_out():
    table = data.read(FRAME.set_axis(["x", "y", "z"], axis=0))
    assert "the index of the frame is no column: left out" in table.understood.lines
    assert "left out" not in str(data.read(FRAME).understood)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.0, None, 4.0]),
        pd.array([1, None, 4], "Int64"),
        np.ma.array([1, 7, 4], mask=[0, 1, 0]),
        pl.Series([1.0, None, 4.0]),
        [1.0, None, 4.0],
        ["1", "NA", "4"],
        pd.Categorical(["1", None, "4"]).astype(str),
        pd.array([True, None, False], "boolean"),
    ],
)
def test_rows_that_miss_an_entry_are_refused_or_dropped(column):
    source = {"a": column, "b": B}
    with pytest.raises(
        data.InputError, match=r"^data: row 1, column 'a': got .*, which is missing"
    ):
        data.read(source)
    table = data.read(source, missing="drop")
    assert table.rows.tolist() == [0, 2]
    assert table.raw[:, -1].tolist() == [2, 3]
    assert table.understood.table.set_index("column").loc["a", "missing"] == 1
    assert "dropped: 1 of 3 rows, in which entries are missing: 'a' 1" in str(table.understood)


DATE = datetime.date(2020, 1, 1)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "got None, expected a path, a frame, an array, a tensor or a dict of columns"),
        ([1, 2], "got a list, expected a path, a frame, an array, a tensor or a dict of columns"),
        (pl.LazyFrame({"a": A}), "got a LazyFrame, expected a path, a frame, an array, a tensor or"
         " a dict of columns"),
        (np.zeros((2, 2, 2)), "got an array of shape (2, 2, 2), expected rows and columns: (n, D)"),
        (np.array(3.0), "got an array of shape (), expected rows and columns: (n, D)"),
        (np.zeros((0, 2)), "got 0 rows and 2 columns, expected 2 rows and 1 column at least"),
        (np.zeros((3, 0)), "no column is left; it has none"),
        ({}, "no column is left; it has none"),
        ({"a": [1, 2], "b": [1]}, "columns of different lengths: 'a': 2, 'b': 1"),
        ({"a": 3}, "column 'a': got a int, expected a column"),
        ({"a": "xyz"}, "column 'a': got a str, expected a column"),
        ({"a": VALUES}, "column 'a': got shape (3, 2), expected (n,)"),
        ({1: A, "1": A}, "column '1' is there 2 times, expected once"),
        (pd.concat([FRAME, FRAME], axis=1), "column 'a' is there 2 times, 'b' is there 2 times,"
         " expected once"),
        (pd.concat({"x": FRAME}, axis=1), "its columns have 2 levels of names, expected one"),
        ({"a": [1 + 2j, 3]}, "row 0, column 'a': got (1+2j), expected a number or a word, not a"
         " complex (1 such of 2 rows)"),
        (np.array([[1 + 2j], [3]]), "row 0, column 'column 1': got (1+2j), expected a real number:"
         " it is complex (1 such of 2 rows)"),
        ({"a": [[1], [2]]}, "row 0, column 'a': got [1], expected a number or a word, not a list (2"
         " such of 2 rows)"),
        ({"a": [b"x", b"y"]}, "row 0, column 'a': got b'x', expected a number or a word, not a"
         " bytes (2 such of 2 rows)"),
        (pl.DataFrame({"a": [[1], [2]]}), "column 'a' holds large_list<item: int64>, expected"
         " numbers or words; leave it out (--exclude)"),
        ({"a": pd.Categorical([1, "1", 2])}, "column 'a': two of its levels are written alike: 1,"
         " 2, 1"),
        ({"a": [1, "x", 3]}, "row 1, column 'a': got 'x', expected a finite number (1 such of 3"
         " rows)"),
        ({"a": [1, np.inf]}, "row 1, column 'a': got inf, expected a finite number (1 such of 2"
         " rows)"),
        ({"a": [1, 1e300]}, "row 1, column 'a': got 1e+300, expected a number below 1e+150 in size,"
         " so that it has a square (1 such of 2 rows)"),
        ({"a": [None, None]}, "column 'a' has no entries; leave out what is empty (--exclude)"),
        (sp.csr_matrix((10**6, 10**5)), "a sparse matrix of 1,000,000 × 100,000 entries is too"
         " large to write out; choose columns first"),
        (xr.Dataset(), "the dataset has no variables"),
        (xr.Dataset({"a": ("row", A), "b": ("other", B)}), "expected variables of one dimension,"
         " the rows, or a single one of two; got a (row), b (other)"),
        (xr.DataArray(np.zeros((2, 3, 4)), name="q"), "variable 'q' has 3 dimensions (dim_0: 2,"
         " dim_1: 3, dim_2: 4), expected rows and columns"),
        (SimpleNamespace(X=None, var_names=[], obs_names=[]), "the AnnData has no matrix X"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_in_one_line(source, told):
    with pytest.raises(data.InputError) as caught:
        data.read(source)
    assert str(caught.value) == f"data: {told}"


@pytest.mark.parametrize(
    "column",
    [
        pd.to_datetime(["2020-01-01", "2020-01-02"]),
        pd.to_timedelta([1, 2], unit="D"),
        pd.period_range("2020-01", periods=2, freq="M"),
        [DATE, DATE + datetime.timedelta(1)],
        np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
        pl.Series([DATE, DATE]),
        pd.Categorical(["2020-01-01", "2020-01-02"]).astype(str),
    ],
)
def test_dates_are_refused_whatever_holds_them(column):
    with pytest.raises(data.InputError, match=r"row 0, column 'a': got .*, a date or a time, exp"):
        data.read({"a": column, "b": [1, 2]})
    assert data.read({"a": column, "b": [1, 2]}, exclude=["a"]).columns == ("b",)


def test_options_of_text_are_refused_for_what_is_none():
    with pytest.raises(data.InputError, match="separator, decimal, encoding and header are for"):
        data.read(FRAME, separator=";")
