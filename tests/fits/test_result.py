"""How numbers of a fit are written."""

import pytest

from pyro_cookbook import Estimate


@pytest.mark.parametrize(
    ("value", "se", "told"),
    [
        (-12.3456, 0.021, "-12.346 ± 0.021"),
        (-12.3456, 0.0, "-12.3456 ± 0.0000"),
        (-1234.5, 30.0, "-1234 ± 30"),
        (-1e-9, 0.0, "0.0000 ± 0.0000"),
        (-0.2, 30.0, "0 ± 30"),
        (-0.0, 0.0, "0.0000 ± 0.0000"),
    ],
)
def test_an_estimate_has_the_digits_its_error_supports_and_no_minus_before_a_zero(value, se, told):
    assert str(Estimate(value, se)) == told
