"""New rows become what the old ones became: in any form, in any order, in the same units."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from pyro_cookbook import data

TEXT = """dose;team;old;sick
1,5;red;true;no
2,5;blue;false;yes
4,25;green;true;no
5;red;true;yes
7;blue;false;yes
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(TEXT)
    return data.read("t.csv", outcome="sick")


def test_encoding_and_standardisation_are_scikit_learns():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": rng.gamma(2, size=200),
            "t": rng.choice(["b", "a", "d", "c"], 200),
            "z": rng.normal(7, 3, 200),
        }
    )
    encoder = ColumnTransformer(
        [("x", "passthrough", ["x"]), ("t", OneHotEncoder(drop="first"), ["t"]),
         ("z", "passthrough", ["z"])],
        sparse_threshold=0,
    )  # fmt: skip
    old, new = frame[:150], frame[150:]
    table = data.read(old)
    encoded = encoder.fit_transform(old)
    np.testing.assert_array_equal(table.raw, encoded)
    scaler = StandardScaler().fit(encoded)
    np.testing.assert_allclose(table.v, scaler.transform(encoded), atol=1e-12)
    applied = table.schema.apply(new)
    np.testing.assert_allclose(applied.v, scaler.transform(encoder.transform(new)), atol=1e-12)
    assert abs(float(applied.v.mean())) > 1e-3  # not standardised by themselves


def test_the_old_table_through_its_schema_is_the_old_table(table):
    schema = data.Schema.from_json(table.schema.model_dump_json())
    assert schema == table.schema
    again = schema.apply("t.csv", need_outcome=True)
    assert again.v.equal(table.v)
    assert again.raw.equal(table.raw)
    assert (again.columns, again.loc.tolist()) == (table.columns, table.loc.tolist())
    pd.testing.assert_frame_equal(again.frame, table.frame)
    assert "standardised by the means and sds of the fit" in again.understood.lines


NEW = {"old": [True, False], "note": ["x", "y"], "team": ["red", "blue"], "dose": [3.0, 9.0]}
ROWS = [[3.0, 0.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "form",
    [
        lambda: NEW,
        lambda: pd.DataFrame(NEW),
        lambda: pd.DataFrame(NEW).astype({"team": "category", "old": object}),
        lambda: pl.DataFrame(NEW),
        lambda: pd.DataFrame(NEW).to_csv("n.csv", index=False) or "n.csv",
        lambda: pd.DataFrame(NEW).to_csv("n.csv", sep="\t", decimal=",") or "n.csv",
        lambda: pd.DataFrame(NEW).to_parquet("n.parquet") or "n.parquet",
    ],
)
def test_new_rows_may_come_in_any_form_and_order_without_the_outcome(form, table):
    new = table.schema.apply(form())
    assert new.columns == ("dose", "team[green]", "team[red]", "old")
    assert new.raw.tolist() == ROWS
    expected = (torch.tensor(ROWS, dtype=torch.float64) - table.loc[:4]) / table.scale[:4]
    torch.testing.assert_close(new.v, expected)
    assert "'note'" in str(new.understood)
    assert "which the fit does not use" in str(new.understood)


def test_one_row_is_enough_and_levels_that_look_like_numbers_are_levels(table):
    assert table.schema.apply({"old": [True], "team": ["green"], "dose": ["3"]}).raw.tolist() == [
        [3, 1, 0, 1]
    ]
    frame = pd.DataFrame({"group": pd.Categorical([10, 2, 10]), "y": [1.0, 2, 4]})
    schema = data.read(frame).schema
    for written in ([10], ["10"], [10.0], pd.Categorical([10])):
        assert schema.apply({"group": written, "y": [3]}).raw.tolist() == [[1, 3]]
    with open("g.csv", "w") as file:  # noqa: PTH123
        file.write("y,group\n3,10\n4,2\n")
    assert schema.apply("g.csv").raw.tolist() == [[1, 3], [0, 4]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dose,team,old\n1,red,true\n3,purple,true\n", "line 3, column 'team': got 'purple', a"
         " level that the fit has not seen; it has blue, green, red (1 such of 2 rows)"),
        ("dose,team,old\n1,7,true\n", "line 2, column 'team': got '7', a level that the fit has not"
         " seen; it has blue, green, red (1 such of 1 rows)"),
        ("dose,taem,old\n1,red,true\n", "no column 'team', which the fit was made with; there are"
         " dose, taem, old; did you mean 'taem'?"),
        ("dose,team,old\n\nx,red,true\n", "line 3, column 'dose': got 'x', expected a finite number"
         " (1 such of 1 rows)"),
        ("dose,team,old\n1,red,maybe\n", "line 2, column 'old': got 'maybe', expected true or false"
         " (1 such of 1 rows)"),
        ("dose,team,old\n1,red,2\n", "line 2, column 'old': got '2', expected true or false (1 such"
         " of 1 rows)"),
        ("dose,team,old\n1,?,true\n", "line 2, column 'team': got '?', which is missing, expected a"
         " word (missing: 'team' 1 of 1 rows); missing='drop' (--missing drop) drops such rows"),
        ("dose,team,old\n", "it has a header and no rows below it"),
    ],
)  # fmt: skip
def test_new_rows_that_do_not_fit_are_refused(text, told, table, tmp_path):
    (tmp_path / "n.csv").write_text(text)
    with pytest.raises(data.InputError) as caught:
        table.schema.apply("n.csv")
    assert str(caught.value) == f"n.csv: {told}"


def test_the_outcome_is_asked_for_only_where_it_is_needed(table, tmp_path):
    (tmp_path / "n.csv").write_text("dose,team,old\n1,red,true\n")
    assert table.schema.apply("n.csv").raw.tolist() == [[1, 0, 1, 1]]
    with pytest.raises(data.InputError, match="no column 'sick', which the fit was made with"):
        table.schema.apply("n.csv", need_outcome=True)
    with pytest.raises(data.InputError, match="the outcome is the only column"):
        data.read(pd.DataFrame({"y": [1, 2]}), outcome="y").schema.without_outcome()


def test_rows_with_missing_entries_are_dropped_where_they_were(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n,3\n4,9\n")
    schema = data.read(tmp_path / "t.csv", missing="drop").schema
    assert schema.missing == "drop"
    new = schema.apply({"a": [None, 5.0, 6.0], "b": [1.0, 2.0, None]})
    assert new.rows.tolist() == [1]
    with pytest.raises(data.InputError, match="row 0, column 'a': got None, which is missing"):
        schema.apply({"a": [None, 5.0], "b": [1.0, 2.0]}, missing="refuse")


def test_units_are_undone(table):
    v, schema = table.v, table.schema
    torch.testing.assert_close(schema.undo(v), table.raw)
    np.testing.assert_allclose(schema.undo(v.numpy()), table.raw)
    draws = np.random.default_rng(0).normal(size=(1000, 2))
    columns = ["old", "dose"]
    undone = schema.undo(draws, columns)
    where = [table.columns.index(one) for one in columns]
    scale = table.scale[where].numpy()
    np.testing.assert_allclose(undone.std(0), draws.std(0) * scale)
    np.testing.assert_allclose(schema.undo_scale(draws.std(0), columns), undone.std(0))
    torch.testing.assert_close(schema.undo_scale(v.std(0, correction=0)), table.scale)
    with pytest.raises(data.InputError, match=r"no column 'dsoe'; there are .*did you mean 'dose'"):
        schema.undo(draws, ["dsoe", "old"])
    with pytest.raises(data.InputError, match=r"values: got shape \(1000, 2\), expected 5 columns"):
        schema.undo(draws)


def changed(schema, **values):
    return json.dumps(json.loads(schema.model_dump_json()) | values)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda s: "{", "schema: Invalid JSON: EOF while parsing an object at line 1 column 1"),
        (lambda s: "[]", "schema: Input should be an object"),
        (lambda s: "{}", "schema: columns: Field required"),
        (lambda s: changed(s, x=1), "schema: x: Extra inputs are not permitted"),
        (lambda s: changed(s, scale=[-1.0] * 5), "schema: an sd is not positive"),
        (lambda s: changed(s, scale=[1.0]), "schema: 5 columns, 5 means and 1 sds"),
        (lambda s: changed(s, loc=[float("inf")] * 5),
         "schema: loc.0: Input should be a finite number"),
        (lambda s: changed(s, outcome="dose"), "schema: the outcome is 'dose', expected the last"
         " column"),
        (lambda s: changed(s, columns=[{"name": "a", "kind": "number"}] * 2), "schema: a column is"
         " there twice"),
        (lambda s: changed(s, columns=[{"name": "a", "kind": "category"}]), "schema: columns.0:"
         " column 'a': a category has levels, and nothing else has"),
        (lambda s: changed(s, columns=[{"name": "a", "kind": "category", "levels": ["x", "x"]}]),
         "schema: columns.0: column 'a': a level is there twice"),
        (lambda s: changed(s, missing="impute"), "schema: missing: Input should be 'refuse' or"
         " 'drop'"),
        (lambda s: " " * (1 << 26) + "{}", "schema: 67,108,866 bytes, expected 67,108,864 at most"),
    ],
)  # fmt: skip
def test_a_schema_that_was_tampered_with_is_refused(make, told, table):
    with pytest.raises(data.InputError) as caught:
        data.Schema.from_json(make(table.schema))
    assert str(caught.value) == told


@pytest.mark.parametrize("column", ["dose", "old", "sick"])
def test_another_outcome_has_its_own_schema(column, table):
    moved = table.ending_in(column)
    assert moved.columns[-1] == moved.schema.outcome == column
    assert moved.frame.columns[-1] == column
    torch.testing.assert_close(moved.v * moved.scale + moved.loc, moved.raw)
    again = moved.schema.apply("t.csv", need_outcome=True)
    assert again.raw.equal(moved.raw)
    assert again.columns == moved.columns
    assert moved.schema.apply("t.csv").raw.equal(moved.raw[:, :-1])


def test_an_outcome_may_be_called_as_it_was_encoded(table):
    plain = data.read("t.csv")
    assert plain.columns[-1] == "sick[yes]"
    assert plain.understood.lines[-1].endswith("no (the base), yes; columns sick[yes]")
    told = plain.ending_in("sick").understood
    assert told.lines == table.understood.lines
    pd.testing.assert_frame_equal(told.table, table.understood.table)
    assert plain.ending_in("dose").understood.table["column"].tolist()[-1] == "dose"
    assert plain.ending_in("sick[yes]").columns == plain.ending_in("sick").columns == table.columns
    with pytest.raises(data.InputError, match=r"t: outcome 'team' has 3 levels \(blue, green, red"):
        table.ending_in("team")


@pytest.mark.parametrize("name", ["wine", "digits", "bars", "breast_cancer"])
def test_bundled_tables_have_schemas(name):
    table = data.load(name)
    assert table.schema.apply(table.frame).v.equal(table.v)
    assert table.schema.encoded == table.columns
    assert len(table.understood.table) == len(table.columns)
