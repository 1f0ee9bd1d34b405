"""Pictures cut into squares."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pyro_cookbook import data
from pyro_cookbook.cli import app


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    place = tmp_path / "pictures"
    place.mkdir()
    kept = []
    for k, shape in enumerate([(9, 14), (20, 7)]):
        grey = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(grey).save(place / f"{k}.png")
        kept.append(grey / 255)
    return place, kept


def test_squares_lie_side_by_side_and_have_mean_zero(pictures):
    place, (first, second) = pictures
    table = data.read_patches(place, 4)
    assert table.columns[:5] == ("0, 0", "0, 1", "0, 2", "0, 3", "1, 0")
    assert table.raw.shape == (2 * 3 + 5 * 1, 16)
    for row, square in ((0, first[:4, :4]), (4, first[4:8, 4:8]), (7, second[4:8, :4])):
        expected = square - square.mean()
        np.testing.assert_allclose(table.raw[row].reshape(4, 4), expected, atol=1e-12)
        assert np.abs(expected).max() > 0.1


def test_of_many_squares_some_are_kept_evenly(pictures):
    place, _ = pictures
    some, every = data.read_patches(place, 4, most=6), data.read_patches(place, 4)
    assert len(some.raw) == 6
    assert some.raw[0].equal(every.raw[0])
    assert some.raw[-1].equal(every.raw[-1])


@pytest.mark.parametrize(
    ("side", "folder", "told"),
    [
        (1, "pictures", "--patches: got 1, expected a side of 2 to 64 pixels"),
        (65, "pictures", "--patches: got 65, expected a side of 2 to 64 pixels"),
        (21, "pictures", "no picture of 21 × 21 pixels or more"),
        (4, "none", "none: no such folder"),
        (4, "pictures/0.png", "--patches is for a folder of pictures"),
        (4, "mixed", "b.txt: expected pictures alone in the folder"),
        (4, "damaged", "not a readable picture"),
    ],
)
def test_what_cannot_be_cut_is_one_line(side, folder, told, pictures, tmp_path):
    for name, file in (("mixed", "b.txt"), ("damaged", "a.png")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("x")
    with pytest.raises((data.InputError, FileNotFoundError)) as caught:
        data.read_patches(tmp_path / folder, side)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dictionary_of_ones_own_pictures(pictures, tmp_path, monkeypatch):
    place, _ = pictures
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "03", "--guide", "map", "--data", str(place), "--patches", "4", "--atoms", "3"]
    done = CliRunner().invoke(app, [*fit, "--out", "run", "--draws", "10"])
    assert done.exit_code == 0, done.output
    assert "pictures: 11 squares of 4 × 4 pixels; brightness" in done.output
    again = ["predict", "run", "--data", str(place), "--patches", "4", "--out", "codes.csv"]
    done = CliRunner().invoke(app, again)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "codes.csv").read_text("utf-8").count("\n") == 12
