"""The priors of a regression, stated in the units of its table."""

import numpy as np
import pandas as pd

from pyro_cookbook.formulas.design import Design


def priors_of(design: Design, prior_scale: float) -> pd.DataFrame:
    """State the priors of a design in the units of the table, as `Regression.priors`."""
    rows: dict[str, tuple[str, float]] = {}
    normal = f"normal, {prior_scale:g} sds"
    if design.has_intercept:
        at = "normal about the mean outcome, at the means of all columns"
        rows["Intercept"] = (at, prior_scale * design.y_scale)
    for name, scale in zip(design.columns, design.scale, strict=True):
        rows[name] = (normal, prior_scale * design.y_scale / scale)
    for kind, scale in zip(design.kinds, design.z_scale, strict=True):
        rows[f"sd({kind.name})"] = ("exponential", design.y_scale / scale)
    if design.family.has_units:
        rows["scale"] = ("exponential", design.y_scale)
    if design.family.name == "student_t":
        rows["degrees_of_freedom"] = ("gamma of shape 2", 20.0)
    if design.family.name == "negative_binomial":
        rows["dispersion"] = ("exponential", 1.0)
    if design.family.is_ordinal:
        rows["cut"] = ("uniform shares of the categories, at the means of all columns", np.nan)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["prior", "scale"])
