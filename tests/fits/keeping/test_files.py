"""Files that are written whole or not at all, and what damaged ones say."""

import errno
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pyro_cookbook.fits.keeping.files import write_bytes
from pyro_cookbook.fits.keeping.tensor_files import read_tensors, write_tensors

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


@contextmanager
def largest_memory(size):
    """Let the process take no more than `size` bytes of address space beyond what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "file.safetensors"
    content = {"kind": "thing", "x": [ROWS, {"y": (1, "a", None)}]}
    write_tensors(content, path)
    again = read_tensors(path, "thing")
    assert again["x"][0].equal(ROWS)
    assert again["x"][1] == {"y": (1, "a", None)}
    assert [one.name for one in path.parent.iterdir()] == ["file.safetensors"]


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
    inside = tmp_path / "file" / "inside.safetensors"
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
    path = tmp_path / "file.safetensors"
    views = {"slice": ROWS[:3], "column": ROWS.reshape(100, 10)[:, 2], "all": ROWS.view(10, 100).T}
    write_tensors({"kind": "thing", **views}, path)
    again = read_tensors(path, "thing")
    assert all(again[name].equal(value) for name, value in views.items())
    assert path.stat().st_size < 8_000
    write_tensors({"kind": "thing", "x": torch.zeros(1).expand(1000)}, path)
    assert read_tensors(path, "thing")["x"].equal(torch.zeros(1000))


def header_of(content: bytes) -> tuple[dict, bytes]:
    """Take a file apart: eight bytes of length, so many of JSON, and the tensors' entries."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: dict, rest: bytes) -> bytes:
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + rest


def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path):
    """Four hundred bytes that ask for gigabytes: nothing of the size is made."""
    path = tmp_path / "file.safetensors"
    write_tensors({"kind": "thing", "x": [ROWS[:3]]}, path)
    header, rest = header_of(path.read_bytes())
    for change in (
        {"shape": [10**9]},
        {"shape": [10**9], "data_offsets": [0, 4 * 10**9]},
        {"shape": [2**62, 2]},
        {"data_offsets": [0, 4]},
    ):
        path.write_bytes(with_header({**header, "0": header["0"] | change}, rest))
        assert path.stat().st_size < 400
        with largest_memory(2**30), pytest.raises(ValueError, match="not a readable thing file"):
            read_tensors(path, "thing")
    path.write_bytes((2**40).to_bytes(8, "little") + rest)
    with pytest.raises(ValueError, match="not a readable thing file"):
        read_tensors(path, "thing")


def test_what_the_header_says_of_tensors_is_checked(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors({"kind": "thing", "x": torch.arange(6.0).reshape(2, 3).T}, path)
    header, rest = header_of(path.read_bytes())
    told = header["__metadata__"]["content"]
    assert '"order": [1, 0]' in told
    for wrong in (
        told.replace("[1, 0]", "[1, 1]"),
        told.replace("[1, 0]", "[0]"),
        told.replace('"tensor": "0"', '"tensor": "1"'),
        told.replace('"tensor"', '"tense"'),
        told[:-1],
        "",
    ):
        path.write_bytes(with_header({**header, "__metadata__": {"content": wrong}}, rest))
        with pytest.raises(ValueError, match="not a readable thing file"):
            read_tensors(path, "thing")
    path.write_bytes(with_header({"0": header["0"]}, rest))
    with pytest.raises(ValueError, match="not a readable thing file"):
        read_tensors(path, "thing")


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(1.5), torch.zeros(0, 3), torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.tensor([1 + 2j], dtype=torch.complex128), torch.tensor([1 - 2j]).conj(),
        torch.tensor([True, False]), torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        torch.tensor([2**62, -1]), torch.rand(3, 5)[:, ::2], torch.zeros(1).expand(4),
        torch.tensor([float("nan"), float("inf")]), torch.eye(3).to_sparse(),
    ],
    ids=lambda value: f"{value.dtype}{tuple(value.shape)}",
)  # fmt: skip
def test_tensors_come_back_as_they_were(value, tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors({"kind": "thing", "x": value, "again": value}, path)
    found = read_tensors(path, "thing")
    for again in (found["x"], found["again"]):
        assert again.dtype == value.dtype
        assert again.layout == value.layout
        assert again.shape == value.shape
        torch.testing.assert_close(again, value.detach(), rtol=0, atol=0, equal_nan=True)
    whole = value.layout is torch.strided and value.is_contiguous()
    if whole:  # a matrix by columns stays one
        assert found["x"].stride() == value.stride()


def test_plain_values_come_back_as_they_were(tmp_path):
    path = tmp_path / "file.safetensors"
    content = {
        "kind": "thing", "x": [1, 2**70, 1.5, -0.0, 1e-320, float("inf"), True, None, "ä\n", ()],
        "y": {3: (1, [2, {"tensor": "0"}]), None: {}, True: 1 + 2j, (1, 2): "pair"},
    }  # fmt: skip
    write_tensors(content, path)
    assert read_tensors(path, "thing") == content
    assert str(read_tensors(path, "thing")) == str(content)  # kinds too, and the sign of zero
    with pytest.raises(TypeError, match="cannot write a set"):
        write_tensors({"kind": "thing", "x": {1}}, path)
    assert read_tensors(path, "thing") == content


def test_bytes_that_are_no_file_of_ours_are_refused_in_one_line(tmp_path):
    path = tmp_path / "file.safetensors"
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
    torch.save({"kind": "thing"}, path)
    with pytest.raises(ValueError, match="of an earlier release: fit and save again"):
        read_tensors(path, "thing")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(tmp_path / "none.safetensors", "thing")
