"""The list of recipes, read from the sources, against the catalogue itself."""

import subprocess
import sys
from dataclasses import asdict

import pytest

from pyro_cookbook import catalogue
from pyro_cookbook.publish import listing


def test_it_says_what_the_catalogue_says():
    fields = ("name", "topic", "data", "default", "because", "learn")
    expected = [
        {field: getattr(recipe, field) for field in fields} | {"guides": tuple(recipe.guides)}
        for recipe in catalogue.RECIPES
    ]
    assert [asdict(one) for one in listing.listed()] == expected
    assert listing.notebooks() == catalogue.NOTEBOOKS


def test_a_list_needs_neither_torch_nor_pandas():
    """What makes it slow is not imported."""
    code = (
        "import sys; from pyro_cookbook.cli import app\n"
        "try: app(['list'])\nexcept SystemExit as end: assert not end.code, end.code\n"
        "slow = {'torch', 'pyro', 'pandas', 'numpy', 'sklearn', 'xarray', 'arviz_base'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert catalogue.RECIPES[0].name in found.stdout


def test_a_name_that_no_file_assigns_is_told(tmp_path):
    file = tmp_path / "topic.py"
    file.write_text("OTHER = 1\n")
    with pytest.raises(LookupError, match=r"topic\.py: nothing is assigned to RECIPE"):
        listing.assigned(file, "RECIPE")
