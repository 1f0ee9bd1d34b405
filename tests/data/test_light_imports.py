"""A reader's own table needs no scikit-learn, which takes about a second to import."""

import subprocess
import sys

from pyro_cookbook import data


def test_own_tables_and_recipes_are_read_without_scikit_learn(tmp_path):
    (tmp_path / "own.csv").write_text("a,b\n1.5,2\n2.5,4\n3.5,7\n")
    asked = """
import sys
from pyro_cookbook import catalogue, data
table = data.read("own.csv")
assert list(table.frame.columns) == ["a", "b"]
assert catalogue.RECIPES
assert "sklearn" not in sys.modules
data.load("iris")  # which is scikit-learn's, so that the line before can fail
assert "sklearn" in sys.modules
"""
    subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, check=True)


def test_scikit_learns_tables_are_as_they_were():
    assert data.load("wine").frame.shape == (178, 13)
    assert data.load("breast_cancer").frame["malignant"].sum() == 212
    assert data.load("diabetes").frame.shape == (442, 11)
