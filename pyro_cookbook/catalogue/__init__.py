"""What there is: every recipe with its data, its model and its guides. The one place that knows."""

from pyro_cookbook.catalogue.command_line import flag_of, read_options, table_for
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.topics import (
    binary_sparse_coding,
    eight_schools,
    explaining_away,
    factor_analysis,
    gaussian_mixture,
    learned_codes,
    learning,
    logistic_regression,
    maximum_entropy,
    sigmoid_belief_network,
    sparse_coding,
    variational_autoencoder,
)
from pyro_cookbook.data import InputError

__all__ = [
    "NOTEBOOKS",
    "RECIPES",
    "GuideEntry",
    "Prepared",
    "Recipe",
    "flag_of",
    "matching",
    "read_options",
    "recipe",
    "table_for",
]

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
    sigmoid_belief_network.RECIPE,
    learned_codes.RECIPE,
    variational_autoencoder.RECIPE,
)


# Notebooks without an entry here, and what they are.
NOTEBOOKS = {
    "00_start_here": "a notebook about one small model, recipes/00_start_here.ipynb, with"
    " nothing to fit from here",
    "05_two_dimensions": "a notebook about four densities in the plane,"
    " recipes/05_two_dimensions.ipynb, with nothing to fit from here",
    "06_the_bridge": "a notebook that compares methods on three models,"
    " recipes/06_the_bridge.ipynb, with nothing to fit from here; two of them are"
    " 04c_logistic_regression and 04c_eight_schools",
    "07_your_model": "a notebook about models of your own, recipes/07_your_model.ipynb, with"
    " nothing to fit from here; its first model, of eight schools, is 04c_eight_schools",
}


def matching(name: str) -> tuple[Recipe, ...]:
    """Look recipes up by their name or their notebook's, or the beginning of either.

    A notebook may have several; its number may be left out.

    Raises
    ------
    InputError
        If none matches, listing what there is.
    """

    def starts(full: str) -> bool:
        return full.startswith(name) or full.partition("_")[2].startswith(name)

    found = [r for r in RECIPES if r.name == name] or [
        r for r in RECIPES if starts(r.name) or starts(r.notebook)
    ]
    if not found:
        for notebook, what in NOTEBOOKS.items():
            if starts(notebook):
                raise InputError(f"recipe: {notebook} is {what}")
        raise InputError(
            f"recipe: got {name!r}, expected one of {', '.join(r.name for r in RECIPES)}"
        )
    return tuple(found)


def recipe(name: str) -> Recipe:
    """Look one recipe up by its name or its notebook's, or the start of either.

    Raises
    ------
    InputError
        If none matches, listing what there is, or several do, listing those.
    """
    found = matching(name)
    if len(found) > 1:
        raise InputError(
            f"recipe: got {name!r}, which fits {len(found)} recipes, expected one of"
            f" {', '.join(r.name for r in found)}"
        )
    return found[0]
