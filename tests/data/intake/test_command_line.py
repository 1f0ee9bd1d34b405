"""All that is refused, from the command line: one line, code 2, no traceback, nothing written."""

import csv
import io

import pytest
from test_binary_files import DAMAGED
from test_refused_tables import REFUSED
from typer.testing import CliRunner

from pyro_cookbook.cli import app

FLAGS = {True: ["--header"], False: ["--no-header"]}


def flags(options):
    """Write keywords as options of the command line."""
    found = []
    for name, value in options.items():
        if name == "header":
            found += FLAGS[value]
        elif isinstance(value, list):
            line = io.StringIO()
            csv.writer(line).writerow(value)
            found += [f"--{name}", line.getvalue().strip()]
        else:
            found += [f"--{name}", value]
    return found


def refusal(path, options, tmp_path):
    """Fit a table that cannot be; give what was said."""
    before = sorted(tmp_path.rglob("*"))
    recipe = "04c_log" if "outcome" in options else "02"
    done = CliRunner().invoke(app, ["fit", recipe, "--data", path, *flags(options)])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)  # and no traceback
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    return done.stderr.strip()


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("content", "options", "told"), REFUSED, ids=range(len(REFUSED)))
def test_text_that_is_no_table(content, options, told, tmp_path):
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    wanted = " ".join(f"error: t.csv: {told}".split())
    assert refusal("t.csv", options, tmp_path) == wanted


@pytest.mark.parametrize(("path", "content", "told"), DAMAGED, ids=range(len(DAMAGED)))
def test_files_that_are_no_table(path, content, told, tmp_path):
    (tmp_path / path).write_bytes(content)
    found = refusal(path, {}, tmp_path)
    wanted = f"error: {path}: {told}"
    assert found.startswith(wanted.strip()) if told.endswith(": ") else found == wanted


def test_they_are_more_than_a_hundred():
    assert len(REFUSED) + len(DAMAGED) > 100
