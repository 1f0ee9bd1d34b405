"""Where `adapt` writes: whole or not at all; and how it says that the cookbook is installed."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_cookbook.data import InputError, load
from pyro_cookbook.publish.adapt import adapt
from pyro_cookbook.publish.adapt.folder import write_folder
from pyro_cookbook.publish.adapt.installed import licence, requirement

FILES = {"a.txt": b"first", "b.txt": b"second", "c.txt": b"third"}


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("99", "p"), "recipe: got '99', expected one of 01_inference_as_optimisation, "),
        (("04c", "p"), "recipe: got '04c', which fits 3 recipes, expected one of 04c_"),
        (("02", "p", "exakt"), "--guide: got 'exakt', expected one of exact, map, amortized, "
                               "mean_field; did you mean 'exact'?"),
        (("02", "p", "zzz"), "--guide: got 'zzz', expected one of exact, map, amortized, "
                             "mean_field"),
        (("02", "full"), "DEST: full has 1 entry in it, such as 'kept.txt', expected a new or an"
                         " empty folder"),
        (("02", "full/kept.txt"), "DEST: full/kept.txt is no folder, expected a new or an empty"
                                  " folder"),
        (("02", "full/kept.txt/p"), "DEST: full/kept.txt/p: not written: Not a directory"),
        (("02", "dangling"), "DEST: dangling is no folder, expected a new or an empty folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/kept.txt").write_text("kept")
    Path("dangling").symlink_to("nowhere")
    before = everything(tmp_path)
    name, dest, *guide = arguments
    with pytest.raises(InputError) as caught:
        adapt(name, dest, guide=guide[0] if guide else None)
    said = str(caught.value)
    assert said.startswith(told)
    assert said == told or told.endswith((", ", "_"))
    assert "\n" not in said
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "data", "size", "told"),
    [
        ("02", "iris", 0, "--size: got 0 components, expected 1 to 149 for 'iris'"),
        ("04c_eight", None, 3, "--size: 04c_eight_schools has nothing to count; leave it out"),
        ("04c_expl", "iris", None, "--columns: got 4 columns"),
        ("05a", "iris", None, "--data: the columns are expected to be 0 or 1"),
    ],
)
def test_a_table_that_the_recipe_cannot_take_is_refused(name, data, size, told, tmp_path):
    with pytest.raises(InputError, match=r"^--") as caught:
        adapt(name, tmp_path / "p", table=load(data) if data else None, size=size)
    assert str(caught.value).startswith(told)
    assert everything(tmp_path) == []


@pytest.mark.parametrize("dest", ["new", "new/deep", "empty"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_an_interruption_leaves_nothing(dest, error, call, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    before, calls = everything(tmp_path), []
    owner = os if call == "fsync" else Path
    real = getattr(owner, call)

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == (2 if call == "fsync" or dest == "empty" else 1):
            raise error
        return real(*arguments)

    monkeypatch.setattr(owner, call, fails)
    wanted = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted) as caught:
        write_folder(FILES, tmp_path / dest)
    assert everything(tmp_path) == before
    if wanted is InputError:
        said = f"DEST: {tmp_path / dest}: not written: No space left on device"
        assert str(caught.value) == said


def test_a_place_without_permission_is_refused(tmp_path, monkeypatch):
    def refuses(path, *arguments, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(InputError, match=r"not written: Permission denied$"):
        write_folder(FILES, tmp_path / "new")


def test_files_are_written_whole(tmp_path):
    (tmp_path / "empty").mkdir()
    place = (tmp_path / "empty").stat().st_ino
    for dest in ("new/deep", "empty"):
        paths = write_folder(FILES, tmp_path / dest)
        assert [path.read_bytes() for path in paths] == list(FILES.values())
        assert everything(tmp_path / dest) == sorted(FILES)
    # A shell may be in an empty folder: it is filled, not replaced.
    assert (tmp_path / "empty").stat().st_ino == place


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (None, "pyro-cookbook==1.2"),
        (
            {"url": "https://example.org/c.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            "pyro-cookbook @ git+https://example.org/c.git@ab12",
        ),
        (
            {"url": "https://me:secret@example.org/c.git", "subdirectory": "sub",
             "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            "pyro-cookbook @ git+https://example.org/c.git@ab12#subdirectory=sub",
        ),
        (
            {"url": "https://example.org/c-1.2.tar.gz", "archive_info": {}},
            "pyro-cookbook @ https://example.org/c-1.2.tar.gz",
        ),
        ({"url": "file:///home/c", "dir_info": {"editable": True}}, "-e /home/c"),
        (
            {"url": "file:///my%20home/c", "dir_info": {"editable": True}},
            "-e file:///my%20home/c",
        ),
        ({"url": "file:///home/c", "dir_info": {}}, "pyro-cookbook @ file:///home/c"),
    ],
)  # fmt: skip
def test_the_cookbook_is_asked_for_as_it_was_installed(told, line):
    text = None if told is None else json.dumps(told)
    asked = []
    fake = SimpleNamespace(version="1.2", read_text=lambda name: asked.append(name) or text)
    assert requirement(fake) == line
    assert asked == ["direct_url.json"]


def test_the_licence_is_the_one_that_is_installed():
    fake = SimpleNamespace(read_text={"licenses/LICENSE": "free"}.get)
    assert licence(fake) == "free"
