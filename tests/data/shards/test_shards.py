"""Shards: every row once an epoch, in an order that seed and epoch decide, entered anywhere."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from written import write_shards

from pyro_cookbook.data import InputError, Shards
from pyro_cookbook.data.shards import reading, shards
from pyro_cookbook.data.shards.shuffling import pools


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "rows")
    return tmp_path / "rows"


def epoch_of(rows: Shards, size: int = 8, *, seed: int = 0, epoch: int = 0, start: int = 0):
    return [batch[0] for batch in rows.batches(size, seed=seed, epoch=epoch, start=start)]


def numbers(batches) -> list[int]:
    return torch.cat(batches)[:, 0].int().tolist() if batches else []


@pytest.mark.parametrize("buffer", [1, 7, 25, 60, 1000])
@pytest.mark.parametrize("size", [1, 8, 103, 500])
def test_every_row_comes_once_and_the_last_batch_is_ragged(folder, buffer, size):
    rows = Shards(folder, buffer=buffer, held_out=0.04)
    batches = epoch_of(rows, size)
    held = rows.held_out()[0][:, 0].int().tolist()
    assert len(held) == 4
    assert sorted(numbers(batches) + held) == list(range(103))
    assert [len(one) for one in batches[:-1]] == [size] * (len(batches) - 1)
    assert sum(map(len, batches)) == len(rows) == 99
    assert 1 <= len(batches[-1]) <= size


def test_rows_are_those_of_the_files(tmp_path):
    whole = write_shards(tmp_path / "rows")
    rows = Shards(tmp_path / "rows", ["c", "a"], dtype=torch.float64)
    found = torch.cat([*epoch_of(rows), *rows.held_out()]).numpy()
    assert np.array_equal(found[np.argsort(found[:, 1])], whole[:, [2, 0]])


def test_order_differs_by_seed_and_epoch_and_is_the_same_for_the_same(folder):
    rows = Shards(folder, buffer=30)
    orders = [numbers(epoch_of(rows, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)]
    assert len({tuple(one) for one in orders}) == 4
    assert numbers(epoch_of(Shards(folder, buffer=30), seed=1, epoch=1)) == orders[3]


def test_the_buffer_mixes_row_groups_of_all_shards(folder):
    order = np.array(numbers(epoch_of(Shards(folder, buffer=1000), 103)))
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.3
    # One row group at a time: within it shuffled, never across.
    near = np.array(numbers(epoch_of(Shards(folder, buffer=1), 103)))
    jumps = np.abs(np.diff(near)) > 9
    assert 8 <= jumps.sum() <= 12
    assert (np.diff(near) != 1).mean() > 0.5


@pytest.mark.parametrize("buffer", [1, 25, 1000])
def test_an_epoch_is_entered_anywhere(folder, buffer):
    rows = Shards(folder, buffer=buffer)
    whole = epoch_of(rows, seed=3, epoch=2)
    for taken in range(len(whole) + 1):
        rest = epoch_of(rows, seed=3, epoch=2, start=8 * taken)
        assert len(rest) == len(whole) - taken
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[taken:], strict=True))


def test_entering_reads_what_is_needed_and_no_more(folder, monkeypatch):
    read = []
    monkeypatch.setattr(shards, "read_group", lambda *a: read.append(a) or reading.read_group(*a))
    rows = Shards(folder, buffer=10)
    read.clear()
    assert len(epoch_of(rows, start=80)) == 3
    assert len(read) <= 4  # of twelve
    assert [len(one) for one in pools([10] * 12, 25, 0, 0)] == [3] * 4


def test_rows_are_counted_in_the_footers(folder, monkeypatch):
    held = folder.parent / "held"
    write_shards(held, (7,), seed=1)
    monkeypatch.setattr(shards, "read_group", None)
    rows = Shards(folder, held_out=held)
    assert (len(rows), rows.num_shards, len(rows.held_out()[0])) == (103, 3, 7)


def test_at_most_so_many_rows_are_held_out(tmp_path, monkeypatch):
    write_shards(tmp_path / "rows", (300, 300), row_group_size=50)
    monkeypatch.setattr(shards, "MOST_HELD_OUT", 20)
    rows = Shards(tmp_path / "rows", held_out=0.5)
    held = set(rows.held_out()[0][:, 0].int().tolist())
    assert (len(rows), len(held)) == (580, 20)
    assert Shards(tmp_path / "rows", held_out=0.5, seed=1).fingerprint != rows.fingerprint
    drawn = numbers(rows.sample(580, 0))
    assert set(drawn) == set(range(600)) - held
    some = numbers(rows.sample(100, 0))
    assert some == sorted(set(some))
    assert len(some) == 100
    assert not held & set(some)


def test_an_outcome_is_an_argument_of_its_own(folder):
    rows = Shards(folder, outcome="b", dtype=torch.float64)
    x, y = next(rows.batches(5, seed=0, epoch=0))
    v = next(Shards(folder, dtype=torch.float64).batches(5, seed=0, epoch=0))[0]
    assert torch.equal(x, v[:, [0, 2]])
    assert torch.equal(y, v[:, 1])


def test_moments_are_those_of_all_rows(tmp_path):
    write_shards(tmp_path / "rows", (70, 50))
    for path in sorted((tmp_path / "rows").iterdir()):
        frame = pd.read_parquet(path)
        (frame.assign(a=frame.a % 3, b=1e8 + frame.b)).to_parquet(path, row_group_size=9)
    rows = Shards(tmp_path / "rows", dtype=torch.float64)
    whole = torch.cat(epoch_of(rows)).numpy()
    found = rows.moments()
    assert found.num_rows == len(whole) == 114
    np.testing.assert_allclose(found.loc, whole.mean(0), rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(found.scale, whole.std(0), rtol=1e-7)  # 1e8: eight digits are gone
    assert np.array_equal(found.smallest, whole.min(0))
    assert np.array_equal(found.largest, whole.max(0))
    assert not found.whole
    assert Shards(tmp_path / "rows", ["a"]).moments().whole
    scaled = torch.cat(epoch_of(rows.scaled(found.loc, found.scale)))
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(0, correction=0), 1, rtol=1e-6)


# --- refusals ----------------------------------------------------------------------------------


def rewritten(folder, shard: int, change):
    path = folder / f"part-{shard}.parquet"
    change(pd.read_parquet(path)).to_parquet(path, row_group_size=10)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.rename(columns={"b": "bb"}), "no column 'b'; there are a, bb, c"),
        (lambda f: f.assign(b=f.b.astype("float32")), "column 'b' is float, expected double as in"),
        (lambda f: f.assign(b="x"), "column 'b' is (large_)?string, expected numbers; name the"),
        (lambda f: f.assign(b=pd.Categorical(["x"] * len(f))), "column 'b' is categories, expec"),
        (lambda f: f.assign(d=1.0), "column 'd' is not in part-0.parquet"),
    ],
)
def test_a_shard_with_other_columns_is_named(folder, change, told):
    rewritten(folder, 2, change)
    with pytest.raises(InputError, match=rf"part-2\.parquet: {told}"):
        Shards(folder)


def test_columns_by_name_may_leave_others_out(folder):
    rewritten(folder, 2, lambda f: f.assign(d=1.0))
    assert Shards(folder, ["a", "c"]).columns == ("a", "c")
    with pytest.raises(InputError, match=r"part-0\.parquet: no column 'd'"):
        Shards(folder, ["a", "d"])


@pytest.mark.parametrize(("value", "told"), [(None, "missing"), (np.inf, "not finite")])
def test_an_entry_that_is_no_number_is_found(folder, value, told):
    rewritten(folder, 1, lambda f: f.assign(b=[*f.b[:12], value, *f.b[13:]]))
    rows = Shards(folder, held_out=0.01)
    where = r"in row 12 \(from 0; row 2 of row group 1\)"
    with pytest.raises(InputError, match=rf"part-1.*column 'b' is {told}.* {where}"):
        epoch_of(rows)


def test_what_is_no_folder_of_shards_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Shards(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected a folder of Parquet files, found none in it$"):
        Shards(tmp_path / "empty")
    with pytest.raises(InputError, match="found none in it; those in folders of it are not read"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: b[:-20], "cut off, or not written to its end: it ends in b'"),
        (lambda b: b[:100], "cut off, or not written to its end: it ends in b'"),
        (lambda b: b[:7], "no Parquet file: 7 bytes, that begin b'PAR1'"),
        (lambda b: b"", "no Parquet file: 0 bytes, that begin b''"),
        (lambda b: b"a,b\n1,2\n" * 9, r"no Parquet file: 72 bytes, that begin b'a,b\\n'"),
        (lambda b: b[:-8] + b"\xff\xff\xff\x7fPAR1", "not a readable Parquet file: "),
    ],
)
def test_a_file_that_is_no_whole_parquet_file_is_named(folder, change, told):
    path = folder / "part-1.parquet"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"part-1\.parquet: {told}") as raised:
        Shards(folder)
    assert "\n" not in str(raised.value)


def test_a_row_group_that_is_damaged_is_named(folder):
    rows, path = Shards(folder, held_out=0.01), folder / "part-0.parquet"
    begin = parquet.read_metadata(path).row_group(2).column(0).dictionary_page_offset
    content = path.read_bytes()
    path.write_bytes(content[:begin] + bytes(400) + content[begin + 400 :])
    with pytest.raises(InputError, match=r"part-0\.parquet: row group 2 is not readable: "):
        epoch_of(rows)


def test_out_of_memory_is_no_fault_of_the_file(folder, monkeypatch):
    class Full(parquet.ParquetFile):
        def read_row_group(self, *_, **__):
            raise pa.ArrowMemoryError("malloc of size 1447296 failed")

    rows = Shards(folder)
    monkeypatch.setattr(reading.parquet, "ParquetFile", Full)
    with pytest.raises(MemoryError, match="malloc of size"):
        epoch_of(rows)


def test_columns_named_twice_are_refused(folder):
    with pytest.raises(InputError, match="columns: 'b' is named twice"):
        Shards(folder, ["b", "a", "b"])


def test_what_there_is_is_told_in_the_right_number(folder, tmp_path):
    assert Shards(folder).told == "98 rows and 3 columns in 3 shards of rows; 5 more rows held out"
    write_shards(tmp_path / "two", (2,), columns=["a"])
    told = "1 row and 1 column in 1 shard of two; 1 more row held out"
    assert Shards(tmp_path / "two").told == told


def test_moments_are_read_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(shards, "read_group", lambda *a: read.append(a) or reading.read_group(*a))
    rows = Shards(folder)
    once = rows.moments()
    num = len(read)
    assert num == 11  # each once
    assert rows.moments() is once
    assert len(read) == num


def test_a_shard_that_has_changed_is_noticed(folder):
    rows = Shards(folder, held_out=0.01)
    write_shards(folder, (40, 25, 31), row_group_size=9)
    with pytest.raises(InputError, match="changed since it was opened"):
        epoch_of(rows)


@pytest.mark.parametrize("given", [{"held_out": 0.0}, {"held_out": 1}, {"buffer": 0}, {"parts": 0}])
def test_numbers_out_of_range_are_refused(folder, given):
    with pytest.raises(InputError, match=f"{next(iter(given))}: got"):
        Shards(folder, **given)


# --- memory ------------------------------------------------------------------------------------

_PEAK = """
import resource, sys, torch
from pyro_cookbook.data import Shards
rows = Shards(sys.argv[1], buffer=10_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(len(v) for (v,) in rows.batches(100, seed=0, epoch=0))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def test_memory_is_flat_in_the_number_of_shards(tmp_path):
    """Twenty shards of 16 MB, all the same file: what is held is two buffers of 1.6 MB."""
    rows = np.random.default_rng(0).normal(size=(50_000, 40)).astype("float32")
    folder = tmp_path / "rows"
    folder.mkdir()
    frame = pd.DataFrame(rows[:, :], columns=[f"c{i}" for i in range(40)])
    frame.to_parquet(folder / "0.parquet", row_group_size=5000)
    for i in range(1, 20):
        os.link(folder / "0.parquet", folder / f"{i}.parquet")
    told = subprocess.run(
        [sys.executable, "-c", _PEAK, str(folder)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(told[0]) == 1_000_000 - 1000
    size = 20 * rows.nbytes / 2**20
    assert size > 150
    assert float(told[1]) < size / 10
