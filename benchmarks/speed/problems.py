"""Data of the three problems, the same for every library: NumPy alone, fixed seeds."""

import numpy as np


def eight_schools() -> dict[str, np.ndarray]:
    """Rubin (1981): effects of coaching in eight schools, with their standard errors."""
    return {
        "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
        "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    }


def logistic(rows: int = 5000, columns: int = 25) -> dict[str, np.ndarray]:
    """5,000 rows, 25 correlated columns."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, columns)) + 0.5 * rng.standard_normal((rows, 1))
    logits = x @ (0.3 * rng.standard_normal(columns)) - 0.5
    return {"x": x, "y": (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(float)}


def hierarchical(rows: int = 2000, groups: int = 120) -> dict[str, np.ndarray]:
    """Counts of 2,000 rows in 120 groups, three columns: 125 latent scalars."""
    rng = np.random.default_rng(2)
    group = rng.integers(0, groups, rows)
    x = rng.standard_normal((rows, 3))
    effect = 0.6 * rng.standard_normal(groups)
    rate = np.exp(0.5 + effect[group] + x @ np.array([0.3, -0.2, 0.1]))
    y = rng.poisson(rate).astype(float)
    return {"x": x, "group": group, "labels": np.arange(groups), "y": y}


PROBLEMS = {"eight_schools": eight_schools, "logistic": logistic, "hierarchical": hierarchical}
# Latent sites in the order of the flat vectors that the scripts print.
SITES = {
    "eight_schools": ("mu", "tau", "eta"),
    "logistic": ("a", "b"),
    "hierarchical": ("a", "b", "tau", "eta"),
}
