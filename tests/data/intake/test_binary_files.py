"""Tables in binary files and folders: read by what is in them, or refused in one line."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from PIL import Image

from pyro_cookbook import data

FRAME = pd.DataFrame({"a": [1.5, 2.0, 4.0], "b": ["x", "y", "x"]})
VALUES = np.array([[1.5, 2.0], [2.0, 5.0], [4.0, 3.0]])
DATASET = xr.Dataset({"b": ("row", VALUES[:, 0]), "a": ("row", VALUES[:, 1])})
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 3, 2), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_stream(path):
    table = pa.Table.from_pandas(FRAME)
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


FRAMES = {
    "t.parquet": FRAME.to_parquet,
    "t.pq": FRAME.to_parquet,
    "t.csv": FRAME.to_parquet,  # what is in it counts
    "t.feather": FRAME.to_feather,
    "t.arrow": FRAME.to_feather,
    "u.arrow": write_stream,
    "t.parquet.gz": lambda path: Path(path).write_bytes(gzip.compress(FRAME.to_parquet())),
}
ARRAYS = {
    "t.npy": lambda path: np.save(path, VALUES),
    "f.npy": lambda path: np.save(path, np.asfortranarray(VALUES)),
    "t.npz": lambda path: np.savez(path, VALUES),
    "c.npz": lambda path: np.savez_compressed(path, VALUES),
}
DATASETS = {
    "t.nc": lambda path: DATASET.to_netcdf(path, engine="h5netcdf"),
    "old.nc": lambda path: DATASET.to_netcdf(path, engine="scipy"),
    "t.zarr": lambda path: DATASET.to_zarr(path, zarr_format=2, consolidated=False),
    "new.zarr": lambda path: DATASET.to_zarr(path, zarr_format=3, consolidated=False),
}


@pytest.mark.parametrize("path", FRAMES)
def test_frames_come_back(path):
    FRAMES[path](path)
    table = data.read(path)
    assert table.columns == ("a", "b[y]")
    assert table.raw.tolist() == [[1.5, 0], [2, 1], [4, 0]]
    assert table.name == path[0]
    assert data.read(path, ["a"]).raw.flatten().tolist() == [1.5, 2, 4]


@pytest.mark.parametrize("path", ARRAYS)
def test_arrays_come_back(path):
    ARRAYS[path](path)
    table = data.read(path)
    assert table.columns == ("column 1", "column 2")
    np.testing.assert_array_equal(table.raw, VALUES)


@pytest.mark.parametrize("path", DATASETS)
def test_labelled_arrays_come_back(path):
    DATASETS[path](path)
    table = data.read(path)
    assert sorted(table.columns) == ["a", "b"]
    np.testing.assert_array_equal(table.raw[:, table.columns.index("b")], VALUES[:, 0])


def test_several_arrays_of_one_length_are_columns():
    np.savez("t.npz", x=VALUES[:, 0], y=VALUES[:, 1])
    assert data.read("t.npz").columns == ("x", "y")


def test_files_of_a_folder_lie_one_below_the_other(tmp_path):
    (tmp_path / "d").mkdir()
    FRAME.to_parquet("d/0.parquet")
    FRAME[["b", "a"]].assign(a=[5.0, 6.0, np.nan]).to_parquet("d/1.parquet")
    with pytest.raises(data.InputError, match=r"^d: row 2 of 1\.parquet, column 'a': got nan"):
        data.read("d")
    table = data.read("d", missing="drop")
    assert table.raw[:, 0].tolist() == [1.5, 2, 4, 5, 6]
    assert table.rows.tolist() == [0, 1, 2, 3, 4]
    assert table.understood.lines[1] == (
        "Parquet, 2 files one below the other: 0.parquet, 1.parquet"
    )


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (FRAME.assign(a=["1", "2", "3"]), "d/1.parquet: column 'a' holds large_string, in 0.parquet"
         " double"),
        (FRAME[["b"]], "d/1.parquet: no column 'a', which 0.parquet has"),
        (FRAME.assign(c=1), "d/1.parquet: column 'c', which 0.parquet has not"),
    ],
)  # fmt: skip
def test_files_of_a_folder_have_one_schema(other, told, tmp_path):
    (tmp_path / "d").mkdir()
    FRAME.to_parquet("d/0.parquet")
    other.to_parquet("d/1.parquet")
    assert refusal("d") == told


def test_a_picture_is_a_row_of_brightness(tmp_path):
    (tmp_path / "p").mkdir()
    blank = PICTURES.copy()
    blank[:, 0, 1] = 7
    for i, pixels in enumerate(blank):
        Image.fromarray(pixels).save(f"p/{i}.png")
    table = data.read("p")
    assert table.columns == ("0, 0", "1, 0", "1, 1", "2, 0", "2, 1")
    expected = np.delete(blank.reshape(4, 6), 1, axis=1) / 255
    np.testing.assert_array_equal(table.raw, expected)
    assert table.understood.lines[1:3] == (
        "4 pictures of 2 × 3 pixels, one a row: 0.png, 1.png, 2.png, … (4 in all); brightness from"
        " 0 (black) to 1 (white)",
        "the same in all rows: 1 columns, left out",
    )
    (tmp_path / "q").mkdir()
    Image.fromarray(blank[2]).convert("RGB").save("q/0.png")
    np.testing.assert_array_equal(table.schema.apply("q").v[0], table.v[2])


def refusal(path, **options):
    with pytest.raises(data.InputError) as caught:
        data.read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npy(array, cut=None):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()[:cut]


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def archive(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("__", "."), content)
    return stream.getvalue()


HUGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2), }\n"
GZIP = gzip.compress(b"a,b\n1,2\n")


# Path, content, and what is said after the path; an end of ": " has more after it.
DAMAGED = [
    ("t.parquet", b"no parquet", "not a readable table: it is no Parquet file"),
    ("t.pq", b"", "it is empty, expected a header and rows"),
    ("t.parquet", FRAME.to_parquet()[:300], "not a readable table: Parquet magic bytes"
     " not found in footer. Either the file is corrupted or this is not a parquet file"),
    ("t.arrow", b"ARROW1\0\0", "not a readable table: "),
    ("t.npy", b"no array", "not a readable table: it is no NumPy array"),
    ("t.npy", npy(VALUES, -8), "damaged: its header speaks of 48 bytes, there are 40"),
    ("t.npy", b"\x93NUMPY\x01\0" + len(HUGE).to_bytes(2, "little") + HUGE + b"0" * 80,
     "damaged: its header speaks of 16,000,000,000,000 bytes, there are 80"),
    ("t.npy", npy(np.array([{"a": 1}], dtype=object)), "an array of Python objects, which would"
     " run code when it is read; save numbers"),
    ("t.npz", npz(x=np.array([print], dtype=object)), "an array of Python objects, which would"
     " run code when it is read; save numbers"),
    ("t.npy", npy(np.zeros((2, 2, 2))), "got an array of shape (2, 2, 2), expected rows and"
     " columns: (n, D)"),
    ("t.npz", npz(x=VALUES, y=VALUES[:, 0]), "expected one array, or columns of one length; got"
     " x (3, 2), y (3,)"),
    ("t.nc", b"no data", "not a readable table: it is no NetCDF file"),
    ("t.csv.gz", b"a,b\n1,2\n", "not compressed as its name says, or damaged"),
    ("t.csv.gz", GZIP[:-9], "damaged gzip file: Compressed file ended before the end-of-stream"
     " marker was reached"),
    ("t.csv.gz", GZIP[:12] + b"\xff" + GZIP[13:], "damaged gzip file: "),
    ("t.zip", archive(a__csv="a\n1\n2", b__csv="a\n1\n2"), "the zip archive has 2 files: a.csv,"
     " b.csv; expected 1"),
    ("t.zip", archive(), "the zip archive has 0 files; expected 1"),
    ("t.zip", archive(a__csv="a\n1\n2")[:40], "damaged zip file: File is not a zip file"),
    ("t.png", b"", "a picture is no table; give a folder of pictures, one a row"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "content", "told"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_file_that_is_no_table_is_refused(path, content, told, tmp_path):
    (tmp_path / path).write_bytes(content)
    found = refusal(path)
    assert found == f"{path}: {told}" if not told.endswith(": ") else told in found


def test_a_workbook_is_refused_with_what_to_do(tmp_path):
    with zipfile.ZipFile("t.xlsx", "w") as file:
        file.writestr("[Content_Types].xml", "")
        file.writestr("xl/workbook.xml", "")
    assert refusal("t.xlsx").startswith("t.xlsx: it is an Excel workbook")
    assert refusal("t.xlsx").endswith("as CSV")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "the folder has no files"),
        ({"a.csv": b"", "b.parquet": b""}, "a folder of .csv, .parquet; expected pictures, Parquet"
         " files or Arrow files, all alike"),
        ({"a.png": b"no picture"}, "not a readable picture"),
        ({"zarr.json": b"{"}, "not a readable Zarr store: "),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_table_is_refused(files, told, tmp_path):
    (tmp_path / "d").mkdir()
    for name, content in files.items():
        (tmp_path / "d" / name).write_bytes(content)
    assert told in refusal("d")


def test_pictures_have_one_size_and_are_not_huge(tmp_path):
    (tmp_path / "p").mkdir()
    Image.fromarray(PICTURES[0]).save("p/0.png")
    Image.fromarray(PICTURES[1].T).save("p/1.png")
    assert refusal("p") == "p/1.png: 3 × 2 pixels, expected 2 × 3 like 0.png"
    Image.new("L", (3000, 3000)).save("p/1.png")
    assert refusal("p").startswith("p/1.png: 3000 × 3000 pixels, expected 65,536 at most")
    Image.fromarray(PICTURES[0]).save("p/1.png")
    assert refusal("p") == "p: its 2 rows are all the same"


def test_options_of_text_are_refused_for_what_is_none():
    np.save("t.npy", VALUES)
    assert refusal("t.npy", separator=";") == (
        "t.npy: separator, decimal, encoding and header are for text; it is a NumPy array"
    )
