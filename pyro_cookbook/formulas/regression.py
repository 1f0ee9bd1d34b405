"""`regression`: a formula, a table and a family of outcomes; a posterior in the table's units."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from models.regression import regression as model
from pyro_cookbook.data import InputError, Table
from pyro_cookbook.fits.fitting import fit as fit_once
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.formulas.design import DIMS, Design
from pyro_cookbook.formulas.families import Array
from pyro_cookbook.formulas.prediction import Of, Unseen, predicted, summary_table
from pyro_cookbook.formulas.priors import priors_of
from pyro_cookbook.formulas.syntax import nearest
from pyro_cookbook.formulas.trees import tree_in_units
from pyro_cookbook.formulas.units import in_units, latent_draws
from pyro_cookbook.posterior.datatree import to_datatree
from pyro_cookbook.programs.options import check_positive, check_share, check_whole
from pyro_cookbook.verdict.diagnosis import Diagnosis, diagnose
from pyro_cookbook.verdict.findings import REWEIGHT, UNRELIABLE
from pyro_cookbook.verdict.inference import Answer, infer

GUIDES = ("infer", "map", "laplace", "mean_field", "full_rank", "low_rank")


@dataclass(frozen=True, eq=False)
class Regression:
    """A fitted regression, in the units of the table.

    Attributes
    ----------
    design : Design
        The formula on the table; ``design.notes`` has what a reader should know.
    guide : str
        What was asked for: "infer" or a family.
    prior_scale : float
    fit : Fit
        Of `models.regression.regression`, on standardised data.
    verdict : str
        May the numbers be used?
    diagnosis : Diagnosis or None
        Reasons of the verdict; None for a fit that was kept and is back.
    answer : Answer or None
        What `infer` has tried, for the guide "infer".
    seed : int

    Examples
    --------
    >>> import pandas as pd
    >>> import pyro_cookbook as pc
    >>> table = pd.DataFrame({"x": [1.0, 2, 3, 4, 5, 6], "y": [2.1, 3.9, 6.2, 7.8, 10.1, 12.0]})
    >>> found = pc.regression("y ~ x", table)
    >>> found.predict(pd.DataFrame({"x": [10.0]}), of="mean")["mean"].round().tolist()
    [20.0]
    """

    design: Design
    guide: str
    prior_scale: float
    fit: Fit
    verdict: str
    diagnosis: Diagnosis | None = None
    answer: Answer | None = None
    seed: int = 0

    @property
    def may_be_used(self) -> bool:
        """Whether means, sds and intervals may be used."""
        return self.verdict != UNRELIABLE

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the table."""
        return self.design.notes

    @cached_property
    def _drawn(self) -> dict[str, Array]:
        return self._draws(4000)

    def _draws(self, num_draws: int) -> dict[str, Array]:
        return latent_draws(
            self.fit, self.design, num_draws=num_draws, seed=self.seed,
            reweight=self.verdict == REWEIGHT,
        )  # fmt: skip

    def summary(self, prob: float = 0.89) -> pd.DataFrame:
        """Mean, sd and interval of the coefficients, and of the scales of groups and noise.

        Parameters
        ----------
        prob : float, default 0.89
            Of the interval with equal tails.

        Returns
        -------
        DataFrame
            Indexed by name: "Intercept", at 0 of all columns; coefficients as formulae names them;
            "sd(1|village)", scales of group effects; "scale", "degrees_of_freedom" and
            "dispersion"; "cut(low|middle)". Of a point, sd and interval are NaN.
        """
        check_share(prob=prob)
        found = in_units(self._drawn, self.design)
        names: list[str] = []
        values: list[Array] = []
        for site, labels in self._labels().items():
            if site in found:
                names += labels
                values.append(found[site].reshape(len(found[site]), -1))
        table = summary_table(np.concatenate(values, axis=1), prob).set_axis(names)
        return self._without_spread(table)

    def effects(self, prob: float = 0.89) -> pd.DataFrame:
        """Mean, sd and interval of every effect of a group, as "1|village[a]".

        Parameters
        ----------
        prob : float, default 0.89
        """
        check_share(prob=prob)
        if not self.design.kinds:
            raise InputError(f"formula: {self.design.formula!r} has no groups")
        values = in_units(self._drawn, self.design)["effect"]
        return self._without_spread(summary_table(values, prob).set_axis(self.design.effects))

    def _without_spread(self, table: pd.DataFrame) -> pd.DataFrame:
        """Draws of a point are all the same: they say nothing of how sure it is."""
        return table.assign(**dict.fromkeys(table.columns[1:], np.nan)) if self._point else table

    @property
    def _point(self) -> bool:
        return self.guide == "map"

    def _labels(self) -> dict[str, list[str]]:
        design = self.design
        return {
            "intercept": ["Intercept"],
            "coefficient": list(design.columns),
            "cutpoint": [f"cut({cut})" for cut in design.coords()["cut"]],
            "group_scale": [f"sd({kind.name})" for kind in design.kinds],
            "scale": ["scale"],
            "degrees_of_freedom": ["degrees_of_freedom"],
            "dispersion": ["dispersion"],
        }

    def priors(self) -> pd.DataFrame:
        """Prior of every number in `summary`, in the units of the table.

        Returns
        -------
        DataFrame
            Columns "prior", the family, and "scale", its sd or (exponential) its mean.
        """
        return priors_of(self.design, self.prior_scale)

    def predict(
        self,
        data: Any,
        *,
        of: Of = "outcome",
        unseen: Unseen = "refuse",
        prob: float = 0.89,
        num_draws: int = 1000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Predict rows, in their order and in the units of the table.

        Parameters
        ----------
        data : DataFrame, Table or mapping
            With the columns of the predictors; the outcome is not needed.
        of : {"outcome", "mean"}, default "outcome"
            New outcomes, with their noise; or the expected outcome, a probability for Bernoulli
            outcomes, with what is not known of it. The mean is the same.
        unseen : {"refuse", "population"}, default "refuse"
            Levels of groups that the fit has not seen are refused by name, or drawn from the
            population of the groups: every row of them anew.
        prob : float, default 0.89
            Of the interval with equal tails.
        num_draws : int, default 1000
        seed : int, default 0

        Returns
        -------
        DataFrame
            With the index of `data`: "mean", "sd" and the interval; for an ordinal outcome the
            probability of every category, and the most probable one.

        Raises
        ------
        InputError
            If a column is missing, or has missing values, levels not seen or words for numbers.
        """
        check_share(prob=prob)
        check_whole(2, num_draws=num_draws)
        if of not in {"outcome", "mean"}:
            raise InputError(f"of: got {of!r}, expected 'outcome' or 'mean'")
        if unseen not in {"refuse", "population"}:
            raise InputError(f"unseen: got {unseen!r}, expected 'refuse' or 'population'")
        frame = as_frame(data)
        drawn = self._drawn if num_draws <= len(self._size) else self._draws(num_draws)
        have = len(next(iter(drawn.values())))
        kept = np.linspace(0, have - 1, min(num_draws, have)).round().astype(int)
        drawn = {name: value[kept] for name, value in drawn.items()}
        return predicted(drawn, self.design, frame, of=of, unseen=unseen, prob=prob, seed=seed)

    @property
    def _size(self) -> Array:
        return next(iter(self._drawn.values()))

    def tree(self, **options: Any) -> xr.DataTree:
        """Lay draws out as `to_datatree`, labelled, in the units of the table.

        Parameters
        ----------
        **options
            As for `to_datatree`.

        Returns
        -------
        xarray.DataTree
            In posterior and prior the sites of `summary`; outcomes in their units in the groups of
            predictions and data; the pointwise likelihood of outcomes in their units. What the
            model was called with stays standardised.
        """
        design = self.design
        tree = to_datatree(
            self.fit, coords=design.coords(), dims=DIMS, reweight=self.verdict == REWEIGHT,
            **{"seed": self.seed, **options},
        )  # fmt: skip
        tree = tree_in_units(tree, design)
        tree.attrs.update(formula=design.formula, family=design.family.name, verdict=self.verdict)
        return tree

    def __str__(self) -> str:
        """Write the verdict, the notes and the summary."""
        notes = "".join(f"Note: {note}.\n" for note in self.notes)
        title = f"{self.design.formula}, family {self.design.family.name}, by {self.guide}"
        said = self.diagnosis or f"Verdict: {self.verdict}"
        table = self.summary().to_string(float_format="%.4g")
        return f"{title}\n{said}\n{notes}\n{table}"


def as_frame(data: Any) -> pd.DataFrame:
    """Give a table as a DataFrame.

    Raises
    ------
    InputError
        If it is none.
    """
    if isinstance(data, Table):
        return data.frame
    if isinstance(data, pd.DataFrame):
        return data.set_axis([str(name) for name in data.columns], axis=1)
    if isinstance(data, Mapping):
        try:
            return pd.DataFrame(dict(data))
        except ValueError as error:  # columns of different lengths
            raise InputError(f"data: {error}") from error
    raise InputError(
        f"data: got a {type(data).__name__}, expected a DataFrame, a Table or a mapping of columns"
    )


def regression(
    formula: str,
    data: Any,
    *,
    family: str = "normal",
    levels: Sequence[Any] | None = None,
    guide: str = "infer",
    prior_scale: float = 2.5,
    budget: float = 60.0,
    seed: int = 0,
    progress: bool | None = None,
) -> Regression:
    """Fit a regression, given as a formula, to a table.

    Parameters
    ----------
    formula : str
        As ``"y ~ x + z + (1 | group)"``, in the language of `formulae`: interactions ``x:z`` and
        ``x*z``, ``C(x)``, ``scale(x)``, ``poly(x, 2)``, ``bs(x, df=4)``, ``log(x)``, ``np.sin(x)``,
        ``offset(log(exposure))``, ``0 +`` for no intercept; ``(x | group)`` for an intercept and a
        slope by group, ``(0 + x | group)`` for a slope alone; ``p(successes, trials)`` before the
        ``~`` for binomial outcomes, ``answer[yes]`` for one word against the others.
    data : DataFrame, Table or mapping of str to array
        Words are categories, the first of which (in their order, or the alphabet's) is the base.
    family : str, default "normal"
        "normal", "student_t", "bernoulli", "binomial", "poisson", "negative_binomial" or "ordinal".
    levels : sequence, optional
        The order of an ordinal outcome's words; failure and success of a Bernoulli outcome's.
        Default: the order of categories, of numbers, or (two words) of the alphabet.
    guide : str, default "infer"
        "infer": numbers that may be used, or why not, by `infer`. Or one fit: "map", "laplace",
        "mean_field", "full_rank" or "low_rank".
    prior_scale : float, default 2.5
        Prior sd of coefficients and intercept: of columns in sds, of a measured outcome in sds too,
        else in log odds or logs.
    budget : float, default 60
        Seconds, for "infer".
    seed : int, default 0
    progress : bool, optional

    Returns
    -------
    Regression

    Raises
    ------
    InputError
        If formula, table and family do not go together, in one line, before anything is fitted.

    Warns
    -----
    UserWarning
        With what a reader should know: more coefficients than rows, outcomes that a plane
        separates, groups of few levels.

    Notes
    -----
    The priors are weakly informative, on columns of mean 0 and sd 1: coefficients N(0, 2.5), the
    intercept N(0, 2.5) about the mean of the outcomes, the scales of noise and of groups
    exponential with mean 1 (an sd of a measured outcome), ν ~ Gamma(2, 0.1), the dispersion
    exponential with mean 1, ordinal shares uniform; `Regression.priors` has them in the table's
    units. Intercept and slope of a group are independent a priori, which is not the correlated
    model of lme4's ``(x | g)``: the slope's variable is centred, so that it is the effect at its
    mean that is independent of the slope. Group effects are centred or not by what a pilot estimate
    says of their data; "infer" tries the other form where the first may not be used.

    References
    ----------
    Gelman, Jakulin, Pittau and Su (2008), doi:10.1214/08-AOAS191, for the priors.
    Capretto, Piho, Kumar, Westfall, Yarkoni and Martin (2022), doi:10.18637/jss.v103.i15, for the
    language of the formulas.

    Examples
    --------
    >>> import pandas as pd
    >>> import pyro_cookbook as pc
    >>> table = pd.DataFrame({"x": [1.0, 2, 3, 4, 5, 6], "y": [2.1, 3.9, 6.2, 7.8, 10.1, 12.0]})
    >>> found = pc.regression("y ~ x", table, guide="map")
    >>> f"{found.summary().loc['x', 'mean']:.1f}"
    '2.0'
    """
    if guide not in GUIDES:
        raise nearest("guide", guide, GUIDES)
    try:
        check_positive(prior_scale=prior_scale, budget=budget)
    except ValueError as error:
        raise InputError(str(error)) from error
    design = Design(formula, as_frame(data), family, levels)
    for note in design.notes:
        warnings.warn(f"{formula}: {note}", stacklevel=2)
    noncentred = guide == "map"  # the centred form has no mode
    args, kwargs = design.arguments(prior_scale, noncentred=noncentred)
    answer: Answer | None = None
    if guide == "infer":
        answer = infer(
            model, *args, data_kwargs=kwargs, budget=budget, seed=seed, progress=progress
        )
        fit, diagnosis = answer.fit, answer.diagnosis
    else:
        fit = fit_once(model, guide, *args, data_kwargs=kwargs, seed=seed, progress=progress)
        diagnosis = diagnose(fit, seed=seed, progress=progress)
    verdict = diagnosis.verdict
    return Regression(design, guide, prior_scale, fit, verdict, diagnosis, answer, seed)
