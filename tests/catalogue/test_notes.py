"""What is said of a table before it is fitted, and what is refused."""

import numpy as np
import pytest

from pyro_cookbook import catalogue, data

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal((60, 3))


def table(**columns):
    return data.read({"a": NORMAL[:, 0], "b": NORMAL[:, 1], **columns}, name="mine")


def notes(recipe, guide, rows, **options):
    return catalogue.recipe(recipe).prepare(guide, rows, options=options or None).notes


@pytest.mark.parametrize("guide", catalogue.recipe("02").guides)
def test_a_column_of_two_values_is_no_measurement_of_a_mixture(guide):
    """EM would put a component on each: an ELBO of +124,818, and the labels sure."""
    sick = (NORMAL[:, 2] > 0) * 1.0
    with pytest.raises(data.InputError, match=r"^--data: column sick of 'mine' has two values: a"):
        catalogue.recipe("02").prepare(guide, table(sick=sick))
    words = np.where(sick, "yes", "no")
    with pytest.raises(data.InputError, match=r"columns sick, word\[yes\] of 'mine' have"):
        catalogue.recipe("02").prepare(guide, table(sick=3 * sick, word=words[::-1]))
    assert catalogue.recipe("02").prepare(guide, table(sick=sick + (NORMAL[:, 2] > 1))).data


def test_factors_of_a_column_of_two_values_are_said_to_be_crude():
    sick = (NORMAL[:, 2] > 0) * 1.0
    (note,) = notes("01", "map", table(sick=sick, c=NORMAL[:, 2]))
    assert note.startswith("'sick': two values; the model takes every column for a normal one")
    assert notes("01", "map", table(c=NORMAL[:, 2])) == ()


@pytest.mark.parametrize("grams", [1000.0, 1e-3])
def test_codes_in_other_units_are_told_the_same_prior_in_theirs(grams):
    rows = np.abs(NORMAL) * grams
    raw = data.read(rows, name="mine")
    (note,) = notes("03", "map", raw)
    assert "the prior is for other units; --scale" in note
    words = note.split()
    scale = float(words[words.index("--scale") + 1])
    rate = float(words[words.index("--rate") + 1])
    rms = float(np.sqrt((rows**2).mean()))
    assert scale == pytest.approx(0.65 * rms, rel=0.01)
    assert rate == pytest.approx(2.0 / rms, rel=0.01)
    assert notes("03", "map", raw, scale=scale, rate=rate) == ()
    assert notes("03", "map", data.read(NORMAL, name="mine")) == ()


def test_effects_far_beyond_the_prior_are_pointed_out():
    schools = {"sigma": np.full(60, 900.0) + NORMAL[:, 0], "effect": 3000.0 * NORMAL[:, 1]}
    (note,) = notes("04c_eight", "mean_field", data.read(schools))
    assert note.startswith("'effect' goes up to ")
    assert "--mu-scale and --tau-scale of about" in note
    scales = {"mu_scale": 5000.0, "tau_scale": 5000.0}
    assert notes("04c_eight", "mean_field", data.read(schools), **scales) == ()


@pytest.mark.parametrize("recipe", catalogue.RECIPES, ids=lambda one: one.name)
def test_of_the_bundled_table_there_is_nothing_to_say(recipe):
    assert recipe.notes(data.load(recipe.data), recipe.options and recipe.options()) == ()
