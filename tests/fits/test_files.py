"""Files that are written whole or not at all, and what damaged ones say."""

import errno
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from pyro_cookbook.fits.files import read_tensors, write_bytes, write_tensors

ROWS = torch.arange(1000.0)


@contextmanager
def largest_file(size):
    """Let no file grow above `size` bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "file.pt"
    content = {"kind": "thing", "x": [ROWS, {"y": (1, "a", None)}]}
    write_tensors(content, path)
    again = read_tensors(path, "thing")
    assert again["x"][0].equal(ROWS)
    assert again["x"][1] == {"y": (1, "a", None)}
    assert [one.name for one in path.parent.iterdir()] == ["file.pt"]


@pytest.mark.parametrize("write", [write_bytes, write_tensors])
def test_a_full_disk_is_said_in_one_line_and_leaves_the_old_file(write, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    content = bytes(100_000) if write is write_bytes else {"x": torch.zeros(100_000)}
    with (
        largest_file(10_000),
        pytest.raises(OSError, match=f"^{path}: not written: File") as caught,
    ):
        write(content, path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_write_that_ends_early(failing, error, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)):
        write_bytes(b"new", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "inside.pt"
    with pytest.raises(OSError, match=f"{inside}: not written"):
        write_bytes(b"new", inside)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder: not written"):
        write_bytes(b"new", tmp_path / "folder")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]


def test_two_writers_of_one_file_leave_one_of_the_two(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([k]) * 1_000_000 for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_bytes(content, path), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_view_is_written_without_what_it_is_a_view_of(tmp_path):
    path = tmp_path / "file.pt"
    views = {"slice": ROWS[:3], "column": ROWS.reshape(100, 10)[:, 2], "all": ROWS.view(10, 100).T}
    write_tensors({"kind": "thing", **views}, path)
    again = read_tensors(path, "thing")
    assert all(again[name].equal(value) for name, value in views.items())
    assert path.stat().st_size < 8_000
    write_tensors({"kind": "thing", "x": torch.zeros(1).expand(1000)}, path)
    assert read_tensors(path, "thing")["x"].equal(torch.zeros(1000))


def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"kind": "thing", "x": [torch.zeros(1).expand(10**9)]}, path)
    with pytest.raises(ValueError, match=f"{path}: damaged: it has a tensor larger than the file"):
        read_tensors(path, "thing")


def test_bytes_that_are_no_file_of_ours_are_refused_in_one_line(tmp_path):
    path = tmp_path / "file.pt"
    write_tensors({"kind": "thing", "x": ROWS[:20]}, path)
    whole = path.read_bytes()
    damaged = [b"", b"text", whole[:100], whole[:-30], whole[50:], b"\x80\x02}q", b"PK\x03\x04"]
    damaged += [  # a byte here and there
        whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        for place in range(0, len(whole), 97)
    ]
    told = []
    for content in damaged:
        path.write_bytes(content)
        try:
            read_tensors(path, "thing")  # a byte of padding is of no account
        except ValueError as error:
            told.append(str(error))
    assert len(told) >= len(damaged) / 2
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in told)
    write_tensors({"kind": "other"}, path)
    with pytest.raises(ValueError, match="expected a thing file, got something else"):
        read_tensors(path, "thing")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="expected a thing file, got something else"):
        read_tensors(path, "thing")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(tmp_path / "none.pt", "thing")
