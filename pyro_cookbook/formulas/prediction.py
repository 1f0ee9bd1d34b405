"""What a fitted regression says of new rows."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from pyro_cookbook.data import InputError, listed
from pyro_cookbook.formulas.design import Design, Standardised
from pyro_cookbook.formulas.families import Array, category_shares

# Numbers that the draws of a batch of rows may fill.
_BATCH = 2**22

Of = Literal["outcome", "mean"]
Unseen = Literal["refuse", "population"]


def predicted(
    drawn: Mapping[str, Array],
    design: Design,
    frame: pd.DataFrame,
    *,
    of: Of,
    unseen: Unseen,
    prob: float,
    seed: int,
) -> pd.DataFrame:
    """Summarise predictions of rows, in the table's units and in the frame's order.

    Parameters
    ----------
    drawn : mapping of str to array
        Draws in the model's units, shape (S, ...) each.
    design : Design
    frame : DataFrame
    of : {"outcome", "mean"}
        New outcomes, with their noise, or the expected outcome.
    unseen : {"refuse", "population"}
        What becomes of levels of groups that the fit has not seen.
    prob : float
        Of the intervals.
    seed : int

    Raises
    ------
    InputError
        If the rows cannot be predicted, in one line.
    """
    rows, trials = design.on(frame)
    if unseen == "refuse":
        _refuse_unseen(rows, design, frame)
    rng = np.random.default_rng(seed)
    num_draws = len(next(iter(drawn.values())))
    wide = len(design.response.levels) if design.family.is_ordinal else 1
    size = max(1, _BATCH // (num_draws * (wide + 2 * len(design.kinds))))
    parts = []
    for start in range(0, len(frame), size):
        at = slice(start, start + size)
        score = _score(rng, drawn, design, rows, at)
        if design.family.is_ordinal:
            parts.append(_of_categories(score, drawn["cutpoint"], design))
        else:
            parts.append(_of_numbers(rng, score, trials[at], drawn, design, of=of, prob=prob))
    if not parts:
        raise InputError("data: got no rows to predict")
    return pd.concat(parts, ignore_index=True).set_axis(frame.index)


def _refuse_unseen(rows: Standardised, design: Design, frame: pd.DataFrame) -> None:
    bad = np.argwhere(rows.level < 0)
    if len(bad):
        row, index = bad[0]
        kind = design.kinds[index]
        got = ":".join(str(frame[name].iloc[row]) for name in kind.factor)
        raise InputError(
            f"data: the group {':'.join(kind.factor)!r} is {got!r} in row {row}, a level that the"
            f" fit has not seen; there are {listed(kind.labels)}; to draw it from the population:"
            " unseen='population'"
        )


def _score(
    rng: np.random.Generator,
    drawn: Mapping[str, Array],
    design: Design,
    rows: Standardised,
    at: slice,
) -> Array:
    """Linear predictor of some rows, shape (S, rows).

    Effects of levels that the fit has not seen are drawn for each row anew: what is told of a row
    is the same as if rows shared them.
    """
    num_draws = len(next(iter(drawn.values())))
    score = np.repeat(rows.offset[None, at], num_draws, axis=0)
    if "intercept" in drawn:
        score += drawn["intercept"][:, None]
    if "coefficient" in drawn:
        score += drawn["coefficient"] @ rows.x[at].T
    for index in range(len(design.kinds)):
        level = rows.level[at, index]
        effect = drawn["effect"][:, np.maximum(level, 0)]
        new = np.flatnonzero(level < 0)
        noise = rng.standard_normal((num_draws, len(new)))
        effect[:, new] = drawn["group_scale"][:, [index]] * noise
        score += effect * rows.z[at, index]
    return score


def _of_numbers(
    rng: np.random.Generator,
    score: Array,
    trials: Array,
    drawn: Mapping[str, Array],
    design: Design,
    *,
    of: Of,
    prob: float,
) -> pd.DataFrame:
    family = design.family
    expected = family.mean(score, trials)
    if of == "mean":
        values = expected
    else:
        spread = {name: drawn[name][:, None] for name in ("scale", "degrees_of_freedom",
                  "dispersion") if name in drawn}  # fmt: skip
        values = family.sample(rng, score, np.broadcast_to(trials, score.shape), spread)
    mean = design.y_loc + design.y_scale * expected.mean(0)
    values = design.y_loc + design.y_scale * values
    return summary_table(values, prob).assign(mean=mean)


def _of_categories(score: Array, cutpoint: Array, design: Design) -> pd.DataFrame:
    shares = category_shares(score, cutpoint[:, None, :]).mean(0)
    levels = list(design.response.levels)
    table = pd.DataFrame(shares, columns=levels)
    return table.assign(most_probable=[levels[k] for k in shares.argmax(1)])


def summary_table(values: Array, prob: float) -> pd.DataFrame:
    """Mean, sd and the interval with equal tails of draws, shape (S, n): a row for each column."""
    low, high = np.quantile(values, [(1 - prob) / 2, (1 + prob) / 2], axis=0)
    name = f"eti{100 * prob:.6g}"
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return pd.DataFrame(
        {"mean": values.mean(0), "sd": spread, f"{name}_lb": low, f"{name}_ub": high}
    )
