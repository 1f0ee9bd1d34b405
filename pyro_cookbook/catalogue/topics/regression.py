"""Regression by formula: a table, a question about one of its columns, seven kinds of outcome."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from guides import regression as guides
from models.regression import regression
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import vectorised_bound
from pyro_cookbook.data import InputError, Table, load
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.formulas.design import DIMS, Design
from pyro_cookbook.formulas.families import FAMILIES
from pyro_cookbook.formulas.regression import Regression


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the recipe.

    Attributes
    ----------
    formula, family : str
        As for `pyro_cookbook.regression`.
    levels : str, optional
        The words of the outcome in their order, separated by commas.
    prior_scale : float
        Prior sd of coefficients, in the model's units.
    """

    formula: str = field(
        default="target ~ bmi + bp + s5 + sex",
        metadata={"help": "As 'y ~ x + z + (1 | group)'."},
    )
    family: str = field(
        default="normal", metadata={"help": f"Of the outcome: {', '.join(FAMILIES)}."}
    )
    levels: str | None = field(
        default=None,
        metadata={"help": "The outcome's words in their order, separated by commas."},
    )
    prior_scale: float = field(
        default=2.5,
        metadata={"help": "Prior sd of coefficients, of columns and outcome in sds."},
    )

    def __post_init__(self) -> None:
        if not 0 < self.prior_scale < float("inf"):
            raise InputError(f"--prior-scale: got {self.prior_scale}, expected a positive number")

    def design(self, frame: pd.DataFrame) -> Design:
        """Put the formula on a table."""
        levels = [one.strip() for one in self.levels.split(",")] if self.levels else None
        return Design(self.formula, frame, self.family, levels)


def prepared(guide: type[Any], design: Design, prior_scale: float) -> Prepared:
    """Build a guide for a design, with groups non-centred for the mode, which else has none."""
    point = guide is guides.RegressionMAP
    args, kwargs = design.arguments(prior_scale, noncentred=point)
    built = guide(
        num_features=len(design.columns),
        num_kinds=len(design.kinds),
        num_effects=len(design.kind),
        family=design.family.name,
        num_categories=len(design.response.levels) if design.family.is_ordinal else 0,
        has_intercept=design.has_intercept,
    )
    options: dict[str, Any] = {"elbo": vectorised_bound(1 if point else 16), "tol": 0.3}
    return Prepared(
        regression, built, args, kwargs, options,
        coords=design.coords(), dims=DIMS, notes=design.notes,
    )  # fmt: skip


def as_regression(
    options: Options, frame: pd.DataFrame, guide: str, fit: Fit, verdict: str
) -> Regression:
    """Give a fit of this recipe its summary, predictions and tree in the table's units.

    Parameters
    ----------
    options : Options
        Those that it was fitted with.
    frame : DataFrame
        The table that it was fitted to, or the columns of it that the formula names.
    guide : str
        One of the recipe's guides.
    fit : Fit
        Also one that was kept and is back, in another process.
    verdict : str
    """
    design = options.design(frame)
    return Regression(design, guide, options.prior_scale, fit, verdict, seed=fit.seed)


def _estimates(fit: Fit, table: Table) -> pd.DataFrame:
    """Give the summary of a fit with the options by default, in the table's units."""
    found = as_regression(Options(), table.frame, _guide_of(fit), fit, "").summary()
    return found.set_axis(["mean", "sd", "lower", "upper"], axis=1).assign(unit="")


def _apply(fit: Fit, new: Table) -> pd.DataFrame:
    """Predict rows by a fit of the bundled table, with the options by default."""
    found = as_regression(Options(), load("diabetes").frame, _guide_of(fit), fit, "")
    return found.predict(new.frame)


def _guide_of(fit: Fit) -> str:
    return "map" if isinstance(fit.guide, guides.RegressionMAP) else "full_rank"


def _of_table(guide: type[Any], table: Table, options: Options) -> Prepared:
    return prepared(guide, options.design(table.frame), options.prior_scale)


def _of_rows(guide: type[Any], v: Tensor, size: int, seed: int) -> Prepared:
    """Take all columns but the last as predictors of the last."""
    names = [f"x{index}" for index in range(v.shape[1] - 1)]
    frame = pd.DataFrame(v.numpy(), columns=[*names, "y"])
    return prepared(guide, Design(f"y ~ {' + '.join(names)}", frame), Options().prior_scale)


def _entry(summary: str, guide: type[Any]) -> GuideEntry:
    return GuideEntry(summary, partial(_of_rows, guide), partial(_of_table, guide))


RECIPE = Recipe(
    name="regression",
    title="Regression by formula",
    model="regression",
    topic="19.4.3",
    learn="what a table says about one of its columns",
    data="diabetes",
    size=0,
    size_name="",
    guides={
        "map": _entry("the mode, by SVI", guides.RegressionMAP),
        "mean_field": _entry("independent factors, by SVI", guides.RegressionMeanField),
        "full_rank": _entry("a full Gaussian, by SVI", guides.RegressionFullRank),
    },
    default="full_rank",
    because="coefficients correlate, and an intercept with the effects of groups",
    log_evidence=lambda fit: None,  # an integral over all sites
    dims=DIMS,
    estimates=_estimates,
    apply=_apply,
    standardised=False,
    has_outcome=True,
    notebook="08_your_data",
    options=Options,
)
