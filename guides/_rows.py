"""Guides with one factor per row: what they ask of the rows they are shown."""

from torch import Tensor


def require_all_rows(v: Tensor | None, num_obs: int | None, num_rows: int) -> None:
    """Refuse any call that does not show the very rows the guide has factors for.

    Raises
    ------
    ValueError
        If `v` does not have `num_rows` rows, or `num_obs` says that there are more.
    """
    seen = num_rows if v is None else len(v)
    if seen != num_rows or num_obs not in {None, num_rows}:
        raise ValueError(
            f"v: this guide has one factor for each of {num_rows} rows, got {seen} rows"
            f" of {num_obs or seen}; use an amortized guide for mini-batches or new rows"
        )
