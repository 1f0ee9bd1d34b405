"""The command line, from outside: what it prints, writes and refuses."""

import re
from html import unescape
from html.parser import HTMLParser

import arviz as az
import pandas as pd
import pytest
from typer.testing import CliRunner

import pyro_cookbook as pc
from pyro_cookbook import catalogue, data
from pyro_cookbook.cli import app

runner = CliRunner()


def call(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def prints_one_row_and_writes_one_file_for_every_guide(result, out):
    assert result.exit_code == 0, result.output
    for recipe in catalogue.RECIPES:
        for guide in recipe.guides:
            assert re.search(rf"{re.escape(recipe.topic)} +│ {guide} ", result.output)
            tree = az.from_netcdf(out / f"{recipe.name}-{guide}.nc")
            assert tree.posterior[recipe.site].sizes["sample"] == 50
            assert tree.attrs["guide"] == guide
            assert pc.load(out / f"{recipe.name}-{guide}.pt").elbo.value == tree.attrs["elbo"]
    assert "report.html" in result.output


def tells_reliable_fits_from_others(result):
    verdicts = dict(re.findall(r"19\.1 +│ (\w+) .*│ ([a-z ]+?) +│ +[\d.]+ │", result.output))
    assert verdicts == {
        "map": "unreliable",
        "mean_field": "reliable",  # sds 15% too small at most, below the limit of 25%
        "full_rank": "reliable",
        "amortized": "reliable",
    }


class References(HTMLParser):
    """Collects everything a page refers to."""

    def __init__(self):
        super().__init__()
        self.found, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"src", "href", "srcset", "action", "data"}:
                self.found.append(value)
        self.images += tag == "img"
        if tag == "img":
            assert dict(attrs)["alt"]


def report_refers_to_nothing_outside_itself(out):
    page = (out / "report.html").read_text("utf-8")
    parser = References()
    parser.feed(page)
    assert parser.images >= 2 * len(catalogue.RECIPES)
    assert all(reference.startswith("data:image/png;base64,") for reference in parser.found)
    assert "url(" not in page
    assert "@import" not in page
    for recipe in catalogue.RECIPES:
        assert recipe.title in unescape(page)
        for guide in recipe.guides.values():
            assert guide.summary in unescape(page)


def test_run_fits_judges_and_reports_every_recipe(tmp_path):
    """One test: a run takes minutes, and workers do not share it."""
    result = call("run", "--out", tmp_path, "--draws", 50)
    prints_one_row_and_writes_one_file_for_every_guide(result, tmp_path)
    tells_reliable_fits_from_others(result)
    report_refers_to_nothing_outside_itself(tmp_path)


def test_list_shows_every_recipe_and_guide():
    result = call("list")
    assert result.exit_code == 0
    words = re.sub(r"[│\s]+", " ", result.output)
    for recipe in catalogue.RECIPES:
        assert recipe.name in words
        assert all(guide in words for guide in recipe.guides)


def test_fit_takes_a_table_of_ones_own(tmp_path):
    table = data.load("iris")
    frame = pd.DataFrame(table.v[:, :3].numpy(), columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "mine.csv", index=False)
    result = call(
        "fit", "02", "--guide", "exact", "--data", tmp_path / "mine.csv", "--columns", "a,c",
        "--size", 2, "--out", tmp_path / "out", "--draws", 20,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Verdict: reliable" in result.output
    tree = az.from_netcdf(tmp_path / "out" / "02_expectation_maximisation-exact.nc")
    assert list(tree.observed_data.feature.values) == ["a", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "05", "--guide", "exact"], "recipe: got '05', expected one of 01_"),
        (["fit", "02", "--guide", "full_rank"], "--guide: got 'full_rank', expected one of exact"),
        (["fit", "01", "--guide", "map", "--size", "40"], "--size: got 40 factors, expected 1 to"),
        (["fit", "01", "--guide", "map", "--data", "none.csv"], "none.csv: no such file"),
        (["fit", "01", "--guide", "map", "--columns", "a"], "--columns: it chooses columns of"),
        (["run", "nothing"], "recipe: got 'nothing'"),
    ],
)
def test_bad_input_is_one_line_and_code_2_and_writes_nothing(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_doctor_passes_here_and_fails_on_a_stranger(monkeypatch, tmp_path):
    result = call("doctor")
    assert result.exit_code == 0, result.output
    assert "exact fit" in result.output
    monkeypatch.setattr("pyro_cookbook.doctor.ROOT", tmp_path)
    assert call("doctor").exit_code == 1
