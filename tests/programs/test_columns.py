"""Columns of tables as data of a model: each is its tensor, or is refused in one line."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import pyro_cookbook as pc

RNG = np.random.default_rng(0)
X = RNG.normal(size=30)
Y = 2 * X + RNG.normal(size=30)
FRAME = pd.DataFrame({"x": X, "y": Y}, index=range(100, 130))
GAP = [None, *Y[1:]]


def model(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def mean_and_sd(x=X, y=Y):
    """Posterior of the slope: a normal prior and a linear model of known noise."""
    precision = 1 / 100 + x @ x
    return x @ y / precision, precision**-0.5


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (FRAME.x, FRAME.y),
        (pl.Series(X), pl.Series(Y)),
        (pa.chunked_array([X[:7], X[7:]]), pa.array(Y)),
        (xr.DataArray(X, dims="row"), xr.DataArray(Y, dims="row")),
        (FRAME.x.astype("Float64"), FRAME.y.astype("Float64")),
        (pd.Series(pd.arrays.SparseArray(X)), FRAME.y),
        (np.ma.array(X), np.ma.array(Y, mask=False)),
        (X.astype(">f8"), Y.astype(">f8")),
        (X.astype(np.longdouble), Y.astype(np.longdouble)),
        (X[::-1], Y[::-1]),
        (list(X), tuple(Y)),
    ],
    ids=["pandas", "polars", "arrow", "xarray", "nullable", "sparse", "masked nowhere",
         "foreign bytes", "long", "reversed", "lists"],
)  # fmt: skip
def test_a_column_is_the_numbers_it_holds(x, y):
    fit = pc.fit(model, "laplace", x, y)
    tree = pc.to_datatree(fit)
    mean, sd = mean_and_sd()
    draws = tree.posterior["slope"].to_numpy()
    assert draws.mean() == pytest.approx(mean, abs=5 * sd / draws.size**0.5)
    assert draws.std() == pytest.approx(sd, rel=5 / (2 * draws.size) ** 0.5)
    assert abs(mean) > 5 * sd  # a prior's mean is elsewhere


MISSING = "observation [0] is missing (nan); leave its row out, or mask it"


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (pl.Series(GAP), MISSING),
        (pd.Series(GAP, dtype="Float64"), MISSING),
        (pd.Series(GAP), MISSING),
        (np.ma.array(Y, mask=[1] + [0] * 29), MISSING),
        (np.ma.array(np.arange(30), mask=[1] + [0] * 29), MISSING),
        (pd.Series(["a", "b"] * 15), "its observations are Series (30,) of str, expected numbers"),
        (
            pd.Series(["a", "b"] * 15, dtype="category"),
            "Series (30,) of category, expected num",
        ),
        (
            pl.Series(["a", "b"] * 15),
            "observations are Series (30,) of String, expected numbers",
        ),
        (pl.Series(["a", "b"] * 15, dtype=pl.Categorical), "Series (30,) of Categorical, expected"),
        (
            pd.Series([True, None] * 15, dtype="boolean"),
            "Series (30,) of boolean, expected",
        ),
        (pd.Series(GAP, dtype=object), "its observations are Series (30,) of object, expected num"),
        (pd.Series(pd.date_range("2020", periods=30)), "of datetime64[us], expected numbers"),
        (Y + 1j, "its observations are ndarray (30,) of complex128, expected numbers"),
        (FRAME[["y"]], "would each be counted 30 times; give a column of shape (30,)"),
    ],
)
def test_a_column_that_holds_no_numbers_is_refused_in_one_line(y, told):
    x = torch.as_tensor(X)[:, None] if isinstance(y, pd.DataFrame) else X
    with pytest.raises(ValueError, match=r"^site 'y': ") as caught:
        pc.fit(model, "laplace", x, y)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_words_that_a_model_computes_with_are_refused_by_name():
    words = pd.Series(["a", "b"] * 15, dtype="category")
    with pytest.raises(ValueError, match=r"got x: Series \(30,\) of category, y: ") as caught:
        pc.fit(model, "laplace", words, Y)
    assert "\n" not in str(caught.value)
