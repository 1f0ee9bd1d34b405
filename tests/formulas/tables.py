"""Tables for tests of formulas."""

import numpy as np
import pandas as pd


def small() -> pd.DataFrame:
    """Twelve rows with a column of every kind."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "y": rng.normal(size=12),
            "x": rng.normal(size=12),
            "z": rng.uniform(1, 2, size=12),
            "g": list("abcd") * 3,
            "h": list("uvw") * 4,
            "k": [0, 1, 4, 2, 1, 3, 0, 2, 5, 1, 0, 2],
            "trials": 10,
            "yes": ["no", "yes", "yes"] * 4,
            "flag": [True, False] * 6,
            "grade": pd.Categorical(
                ["low", "high", "mid"] * 4, ["low", "mid", "high"], ordered=True
            ),
            "time": rng.uniform(1, 3, size=12),
        }
    )
