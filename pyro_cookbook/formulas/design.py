"""A design: a formula on a table, standardised, as the model takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from pyro_cookbook.data import InputError
from pyro_cookbook.formulas import checks
from pyro_cookbook.formulas.families import FAMILIES, Array, Family
from pyro_cookbook.formulas.responses import Response, read_response
from pyro_cookbook.formulas.syntax import nearest
from pyro_cookbook.formulas.terms import Kind, Rows, Terms, Whole

# Where the data of a level say this many times more than the prior given the scale of the groups,
# effects are almost independent of the scale, and the centred form is the better one.
_WELL_KNOWN = 4.0


@dataclass(frozen=True, eq=False)
class Standardised:
    """Rows as the model takes them.

    Attributes
    ----------
    x, z : array
        Shape (n, D) and (n, E).
    level : array of int
        Index into all effects, shape (n, E); −1 for a level that the fit has not seen.
    offset : array
        With what stands in for the mean of the outcomes, shape (n,).
    """

    x: Array
    z: Array
    level: Whole
    offset: Array


class Design:
    """A formula on a table, for a family, standardised.

    Columns have mean 0 and sd 1 (without an intercept: sd 1), measurements as outcomes too; slopes
    of groups that have an intercept as well are about the mean of their variable.

    Parameters
    ----------
    formula : str
        As ``"y ~ x + z + (1 | group)"``, in the language of `formulae`.
    frame : DataFrame
    family : str, default "normal"
        One of `FAMILIES`.
    levels : sequence, optional
        The words of the outcome in their order: failure and success, or the categories.

    Attributes
    ----------
    terms : Terms
    family : Family
    response : Response
    loc, scale : array
        Of the columns, shape (D,).
    z_loc, z_scale : array
        Of what group effects are multiplied with, shape (E,).
    y_loc, y_scale : float
        Of the outcome; 0 and 1 where it has no units.
    centre : float
        Linear predictor at the mean of the outcomes, from where the intercept counts.
    kind : array of int
        Which kind each of the K effects is of, shape (K,).
    notes : tuple of str
        What a reader should know before he believes a fit.

    Raises
    ------
    InputError
        If formula, table and family do not go together, in one line.
    """

    def __init__(
        self,
        formula: str,
        frame: pd.DataFrame,
        family: str = "normal",
        levels: Sequence[Any] | None = None,
    ) -> None:
        if family not in FAMILIES:
            raise nearest("family", family, FAMILIES)
        self.formula = formula
        self.family: Family = FAMILIES[family]
        self.terms = Terms(formula, frame)
        frame = frame.reset_index(drop=True)
        self.response: Response = read_response(self.terms.response, frame, self.family, levels)
        rows = self.terms.rows
        self.is_centred = self.terms.has_intercept or self.family.is_ordinal
        self.has_intercept = self.terms.has_intercept and not self.family.is_ordinal
        if not (self.columns or self.kinds or self.has_intercept or self.family.is_ordinal):
            raise InputError(f"formula: {formula!r} has nothing to learn")
        if self.is_centred:
            checks.check_columns_vary(rows.x, self.columns)
        checks.check_groups(self.kinds, rows)
        self.loc, self.scale = _standard(rows.x, centred=np.full(rows.x.shape[1], self.is_centred))
        by = {kind.factor for kind in self.kinds if kind.name.startswith("1|")}
        slopes = np.array([k.factor in by and k.name[:2] != "1|" for k in self.kinds], bool)
        self.z_loc, self.z_scale = _standard(rows.z, centred=slopes)
        self.kind: Whole = np.repeat(
            np.arange(len(self.kinds)), [len(kind.levels) for kind in self.kinds]
        )
        self.y_loc, self.y_scale, self.centre = self._outcome_units(rows)
        self.rows = self.standardised(rows)
        x = self.rows.x if self.is_centred else rows.x / np.sqrt((rows.x**2).mean(0))
        if rows.x.shape[1] < len(rows.x):
            checks.check_independent(x, self.columns)
        self.notes = checks.notes(
            self.rows.x, self.columns, self.kinds, self.response, self.family,
            has_intercept=self.has_intercept,
        )  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D coefficients."""
        return self.terms.columns

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The E kinds of group effects."""
        return self.terms.kinds

    @property
    def effects(self) -> list[str]:
        """Names of the K effects: "1|village[a]"."""
        return [f"{kind.name}[{label}]" for kind in self.kinds for label in kind.labels]

    def _outcome_units(self, rows: Rows) -> tuple[float, float, float]:
        y, trials = self.response.y, self.response.trials
        if not self.family.has_units:
            centre = self.family.centre(y, trials, rows.offset) if self.has_intercept else 0.0
            return 0.0, 1.0, centre
        left = y - rows.offset
        if np.ptp(left) <= 1e-12 * np.abs(y).max():
            raise InputError(f"outcome: the offset explains {self.response.name!r} wholly")
        return float(left.mean()) if self.has_intercept else 0.0, float(left.std()), 0.0

    def standardised(self, rows: Rows) -> Standardised:
        """Give rows the units of the model."""
        first = np.concatenate([[0], np.cumsum(np.bincount(self.kind))[:-1]]) if self.kinds else 0
        return Standardised(
            (rows.x - self.loc) / self.scale,
            (rows.z - self.z_loc) / self.z_scale,
            np.where(rows.code < 0, -1, rows.code + first).astype(np.int64),
            rows.offset / self.y_scale + self.centre,
        )

    def on(self, frame: pd.DataFrame) -> tuple[Standardised, Array]:
        """Give new rows the same columns, and their numbers of trials.

        Raises
        ------
        InputError
            As `Terms.on`, or if the trials are missing.
        """
        rows = self.standardised(self.terms.on(frame))
        trials = self.terms.trials
        if not isinstance(trials, str):
            return rows, np.full(len(frame), float(trials or 1))
        if trials not in frame:
            raise InputError(f"data: no column {trials!r}, which has the trials of each row")
        found = frame[trials].to_numpy(float)
        bad = np.flatnonzero(~(found >= 1) | (found != np.round(found)))
        if len(bad):
            raise InputError(
                f"data: column {trials!r} is {found[bad[0]]} in row {bad[0]}, expected trials,"
                " 1, 2, 3, …"
            )
        return rows, found

    def arguments(
        self, prior_scale: float = 2.5, *, noncentred: bool = False
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
        """Give what `models.regression.regression` is called with.

        Parameters
        ----------
        prior_scale : float, default 2.5
            Prior sd of the intercept and of the coefficients, in the model's units.
        noncentred : bool, default False
            Whether all group effects are non-centred, whatever the data say of them.
        """
        rows, response = self.rows, self.response
        y = (response.y - self.y_loc) / self.y_scale
        values = (rows.x, rows.z, rows.level, rows.offset, response.trials, y)
        keywords: dict[str, Any] = {
            "family": self.family.name,
            "intercept_scale": prior_scale if self.has_intercept else None,
            "coefficient_scale": prior_scale,
        }
        if self.family.is_ordinal:
            keywords["num_categories"] = len(response.levels)
        if self.kinds:
            centring = np.zeros(len(self.kinds)) if noncentred else self.centring()
            keywords["kind"] = torch.as_tensor(self.kind)
            keywords["centring"] = torch.as_tensor(centring)
        return tuple(torch.as_tensor(value) for value in values), keywords

    def centring(self) -> Array:
        """Choose for each kind of group effect between the centred form (1) and the other (0).

        By a pilot estimate: one step of Newton's method on the columns, then the variance between
        levels beside that within, by moments (Papaspiliopoulos, Roberts and Sköld, 2007,
        doi:10.1214/088342307000000014, for why it is this that matters). Shape (E,).
        """
        rows, response = self.rows, self.response
        y = (response.y - self.y_loc) / self.y_scale
        working, precision = self.family.working(y, response.trials, rows.offset)
        root = np.sqrt(precision)
        columns = np.column_stack([np.ones(len(y)), rows.x])
        fitted = np.linalg.lstsq(columns * root[:, None], working * root, rcond=None)[0]
        left = working - columns @ fitted
        if self.family.has_units:
            within = self._within(left)
            precision = np.full(len(y), 1 / within)
        chosen = []
        for index in range(len(self.kinds)):
            z = rows.z[:, index]
            level = np.unique(rows.level[:, index], return_inverse=True)[1]
            weight = np.bincount(level, precision * z**2)
            known = weight > 0
            slope = np.bincount(level, precision * z * left)[known] / weight[known]
            between = max(float((slope**2 - 1 / weight[known]).mean()), 0.0)
            chosen.append(float(between * np.median(weight[known]) > _WELL_KNOWN))
        return np.array(chosen)

    def _within(self, left: Array) -> float:
        """Variance of residuals about the means of the finest groups."""
        level = np.unique(self.rows.level, axis=0, return_inverse=True)[1].reshape(-1)
        count = np.bincount(level)
        means = np.bincount(level, left) / count
        free = len(left) - len(count)
        if free <= 0:
            return float(left.var())
        return max(float(((left - means[level]) ** 2).sum()) / free, 1e-6)

    def coords(self) -> dict[str, list[str]]:
        """Labels of the dimensions in `DIMS`, for ArviZ."""
        levels = list(self.response.levels)
        cuts = [f"{low}|{high}" for low, high in pairwise(levels)]
        return {
            "predictor": list(self.columns),
            "group_term": [kind.name for kind in self.kinds],
            "group_level": self.effects,
            "category": levels,
            "cut": cuts,
        }


DIMS: Mapping[str, tuple[str, ...]] = {
    "coefficient": ("predictor",),
    "x": ("predictor",),
    "z": ("group_term",),
    "level": ("group_term",),
    "group_scale": ("group_term",),
    "centring": ("group_term",),
    "kind": ("group_level",),
    "deviation": ("group_level",),
    "deviation_decentered": ("group_level",),
    "effect": ("group_level",),
    "share": ("category",),
    "cutpoint": ("cut",),
}


def _standard(values: Array, centred: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean (0 where not `centred`) and sd of columns; the root mean square where sd is 0."""
    loc = np.where(centred, values.mean(0), 0.0)
    scale = values.std(0)
    flat = scale <= 1e-12 * np.abs(values).max(0, initial=0.0)
    return loc, np.where(flat, np.maximum(np.sqrt((values**2).mean(0)), 1e-300), scale)
