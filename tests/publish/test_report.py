"""Cells of the report's table."""

import pytest

from pyro_cookbook.fits.result import Estimate
from pyro_cookbook.publish.report import gap_cell


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
