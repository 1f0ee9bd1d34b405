"""Cells of the report's table, and figures of fits of any shape."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from pyro_cookbook.cli import app
from pyro_cookbook.fits.result import Estimate
from pyro_cookbook.publish.figures import plot_predictive
from pyro_cookbook.publish.report import gap_cell
from pyro_cookbook.publish.topic_figures import plot_intervals, plot_latent_map


@pytest.mark.parametrize(
    ("value", "se", "evidence", "text"),
    [
        (40.84, 0.15, -2684.0, "40.84 ± 0.15"),
        (0.06, 0.006, -2684.0, "0.06 ± 0.01"),
        (0.06, 0.002, -2684.0, "0.06"),
        (-0.02, 0.03, -2684.0, "-0.02 ± 0.03"),  # by chance
        (-0.11, 0.03, -10.0, "-0.11 ± 0.03"),
        (-0.13, 0.03, -10.0, "-0.13 ± 0.03 !"),
        (0.13, 0.03, -10.0, "0.13 ± 0.03"),
        (-0.5, 0.0, -10.0, "-0.50 !"),
        (-1e-7, 0.0, -2684.0, "0.00"),  # rounding
        (-1e-7, 0.0, -1.0, "0.00 !"),
        (-0.001, 0.001, -10.0, "0.00"),
    ],
)
def test_a_gap_is_written_as_it_was_estimated(value, se, evidence, text):
    assert gap_cell(Estimate(value, se), evidence) == text


@pytest.mark.parametrize("dims", [("row",), ("row", "feature")])
def test_bits_are_checked_by_their_calibration_however_they_are_laid_out(dims):
    rng, shape = np.random.default_rng(0), (30, 4)[: len(dims)]
    groups = {"posterior_predictive": (1, 50, *shape), "observed_data": shape}
    tree = xr.DataTree.from_dict(
        {
            name: xr.Dataset({"v": ((("chain", "draw") * (len(size) > len(dims))) + dims,
                                    rng.binomial(1, 0.4, size))})
            for name, size in groups.items()
        }
    )  # fmt: skip
    alt, figure = plot_predictive(tree, "map")
    assert alt.startswith("Calibration")
    assert figure.axes[0].lines


def test_intervals_of_one_guide_are_drawn():
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"mu": ("draw", np.arange(20.0))})})
    for trees in ({"map": tree}, {"map": tree, "full_rank": tree}):
        table = SimpleNamespace(name="t")
        _, figure = plot_intervals(trees, table, names=["mu"], title="Effects")
        assert figure.get_suptitle().startswith("Effects")


def test_rows_are_drawn_where_their_latents_are():
    means = np.random.default_rng(0).standard_normal((30, 2))
    tree = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({"h": (("draw", "row", "latent"), np.stack([means] * 3))})}
    )
    table = SimpleNamespace(name="t", labels=["a", "b"] * 15, v=means)
    _, figure = plot_latent_map({"map": tree, "amortized": tree}, table)
    left, _ = figure.axes
    drawn = np.vstack([points.get_offsets() for points in left.collections])
    np.testing.assert_allclose(drawn, np.vstack([means[::2], means[1::2]]))


def test_names_that_look_like_formulas_are_names(tmp_path):
    """matplotlib sets what stands between dollars as a formula, and raises where it is none."""
    rng = np.random.default_rng(0)
    odd = {r"price ($\frac{)": rng.standard_normal(40), "<b>$x$</b>": rng.standard_normal(40)}
    path = tmp_path / "a$b$.csv"
    pd.DataFrame(odd).to_csv(path, index=False)
    for recipe, options in (("01", ("--factors", "1")), ("02", ("--components", "1"))):
        out = tmp_path / recipe
        done = CliRunner().invoke(
            app, ["fit", recipe, "--data", str(path), "--out", str(out), "--draws", "20", *options]
        )
        assert done.exit_code == 0, done.output
        page = (out / "report.html").read_text("utf-8")
        assert "<b>$x$" not in page
        assert "&lt;b&gt;$x$&lt;/b&gt;" in page
