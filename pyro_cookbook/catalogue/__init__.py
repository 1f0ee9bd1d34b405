"""What there is: every recipe with its data, its model and its guides. The one place that knows."""

from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.topics import (
    binary_sparse_coding,
    eight_schools,
    explaining_away,
    factor_analysis,
    gaussian_mixture,
    learning,
    logistic_regression,
    maximum_entropy,
    sparse_coding,
)

__all__ = ["RECIPES", "GuideEntry", "Prepared", "Recipe", "matching", "recipe"]

RECIPES: tuple[Recipe, ...] = (
    factor_analysis.RECIPE,
    gaussian_mixture.RECIPE,
    sparse_coding.RECIPE,
    binary_sparse_coding.RECIPE,
    maximum_entropy.RECIPE,
    explaining_away.RECIPE,
    logistic_regression.RECIPE,
    eight_schools.RECIPE,
    learning.RECIPE,
)


def matching(name: str) -> tuple[Recipe, ...]:
    """Look recipes up by their name or its beginning; a notebook may have several.

    Raises
    ------
    ValueError
        If none matches, listing what there is.
    """
    found = [r for r in RECIPES if r.name == name] or [
        r for r in RECIPES if r.name.startswith(name) or r.name.partition("_")[2].startswith(name)
    ]
    if not found:
        raise ValueError(
            f"recipe: got {name!r}, expected one of {', '.join(r.name for r in RECIPES)}"
        )
    return tuple(found)


def recipe(name: str) -> Recipe:
    """Look one recipe up by its name, or the start of it.

    Raises
    ------
    ValueError
        If none or several match, listing what there is.
    """
    found = matching(name)
    if len(found) != 1:
        raise ValueError(
            f"recipe: got {name!r}, expected one of {', '.join(r.name for r in RECIPES)}"
        )
    return found[0]
