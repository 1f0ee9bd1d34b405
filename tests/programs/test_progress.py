"""Bars are shown where somebody watches: at a terminal, and in a notebook."""

import io
import sys
from types import SimpleNamespace

import pytest

from pyro_cookbook.programs.state.progress import shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def nobody_watches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def in_shell(monkeypatch, shell):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


@pytest.mark.parametrize("progress", [True, False])
def test_what_is_asked_for_is_done(progress, monkeypatch):
    assert shown(progress) == progress
    monkeypatch.setattr(sys, "stderr", Terminal())
    in_shell(monkeypatch, SimpleNamespace(kernel=object()))
    assert shown(progress) == progress
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert shown(progress) == progress


def test_in_a_file_or_a_pipe_there_is_no_bar():
    assert not shown(None)


def test_at_a_terminal_there_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert shown(None)


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        (SimpleNamespace(kernel=object()), True),
        (SimpleNamespace(), False),  # IPython at a terminal, whose output goes elsewhere
        (None, False),  # IPython was imported by a program
    ],
)
def test_in_a_notebook_there_is_though_its_standard_error_is_no_terminal(
    shell, expected, monkeypatch
):
    in_shell(monkeypatch, shell)
    assert shown(None) == expected


@pytest.mark.parametrize(("value", "expected"), [("1", False), ("", True), ("0", True)])
def test_tqdms_own_switch_counts(value, expected, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TQDM_DISABLE", value)
    assert shown(None) == expected
