"""The public names: complete, documented, and their examples run."""

import ast
import doctest
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import pyro_cookbook as pc

SOURCE = Path(pc.__file__).read_text("utf-8")
# An example compares text; numbers are printed with few digits, spaces do not matter.
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def names_for_type_checkers() -> set[str]:
    """Names imported under TYPE_CHECKING, which editors and mypy see."""
    blocks = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.If)]
    return {
        alias.name
        for block in blocks
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_lists_of_public_names_agree():
    assert pc.__all__ == sorted(pc.__all__)
    assert set(pc.__all__) == set(pc._HOMES) == names_for_type_checkers()
    assert set(pc.__all__) <= set(dir(pc))
    with pytest.raises(AttributeError, match="has no attribute 'refit'"):
        pc.refit  # noqa: B018


@pytest.mark.parametrize("name", pc.__all__)
def test_a_public_name_lives_where_it_is_said_to(name):
    value = getattr(pc, name)
    assert value.__name__ == name
    assert value.__module__.startswith("pyro_cookbook.")


@pytest.mark.parametrize("name", pc.__all__)
def test_a_public_name_documents_its_parameters_and_its_errors(name):
    value = getattr(pc, name)
    text = inspect.getdoc(value) or ""
    assert re.search(r"^Examples\n--------$", text, re.MULTILINE)
    if inspect.isfunction(value):
        for parameter in inspect.signature(value).parameters:
            assert re.search(rf"^[*\w, ]*\b{parameter}\b[\w, *]*( :.*)?$", text, re.MULTILINE), (
                parameter
            )
        assert "Returns\n-------" in text or value.__annotations__.get("return") in {None, "None"}


@pytest.mark.parametrize("name", pc.__all__)
def test_the_example_of_a_public_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # save writes a file
    text = inspect.getdoc(getattr(pc, name)) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert any(part.want for part in example.examples), "an example shows something"
    said: list[str] = []
    with np.printoptions(precision=3, suppress=True):
        result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert result.failed == 0, "".join(said)
