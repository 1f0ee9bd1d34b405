"""Eight real tables from their files to a report, by one command each.

    python benchmarks/tables.py [--keep FOLDER]

Writes the files as people have them (from packages that are installed), types the commands, and
writes tables.md beside this file: seconds from the start of the process to the report, and the
verdict. With --keep the run folders stay, to be looked at.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import statsmodels.api as sm
import xarray as xr
from matplotlib import image
from PIL import Image
from sklearn.datasets import load_sample_image

from pyro_cookbook.publish.runs.folder import read_record

SAMPLES = Path(mpl.get_data_path()) / "sample_data"
MODEL = """\
import pyro
import pyro.distributions as dist


def model(year, volume=None):
    early = pyro.sample("early", dist.Normal(1000.0, 300.0))
    change = pyro.sample("change", dist.Normal(0.0, 300.0))
    noise = pyro.sample("noise", dist.HalfNormal(300.0))
    mean = early + change * (year > 1898)
    with pyro.plate("row", len(year)):
        pyro.sample("volume", dist.Normal(mean, noise), obs=volume)
"""


def statsmodels(name: str) -> pd.DataFrame:
    return getattr(sm.datasets, name).load_pandas().data


def write_files(place: Path) -> None:
    """Write each table in a form of its own."""
    fair = statsmodels("fair").assign(affair=lambda t: np.where(t.affairs > 0, "yes", "no"))
    fair.drop(columns="affairs").to_csv(
        place / "fair.csv", sep=";", decimal=",", index=False, encoding="cp1252"
    )
    births = statsmodels("fertility").drop(columns=["Indicator Name", "Indicator Code"])
    births = births.rename(columns={"Country Name": "country", "Country Code": "code"})
    births[["country", "code", "1960", "1980", "2000", "2010"]].to_csv(
        place / "births.csv.gz", index=True, na_rep=".."
    )
    colours = load_sample_image("flower.jpg").reshape(-1, 3)[::2][:100_000]
    pd.DataFrame(colours, columns=["red", "green", "blue"]).to_csv(place / "colours.csv")
    wide = births.dropna(axis=1, how="all").dropna().set_index("code").drop(columns="country").T
    wide.to_csv(place / "countries.tsv", sep="\t", index_label="year")
    statsmodels("grunfeld").to_parquet(place / "firms.parquet")
    xr.Dataset.from_dataframe(statsmodels("sunspots").set_index("YEAR")).to_netcdf(
        place / "sunspots.nc"
    )
    (place / "pictures").mkdir()
    hopper = image.imread(SAMPLES / "grace_hopper.jpg")
    Image.fromarray(hopper).save(place / "pictures" / "hopper.png")
    np.save(
        place / "fault.npy", np.load(SAMPLES / "jacksboro_fault_dem.npz")["elevation"][::8, ::40]
    )
    statsmodels("nile").to_csv(place / "nile.csv", index=False)
    (place / "nile_model.py").write_text(MODEL, "utf-8")


INTRODUCTION = """\
From packages that are installed: statsmodels (Fair's affairs, fertility of countries, Grunfeld's
firms, sunspots, the Nile), scikit-learn (colours of a photograph), matplotlib (a photograph,
elevations). Written as people have them: a semicolon and decimal commas in Windows' encoding;
words, missing entries and row numbers, compressed; 100,000 rows; 192 columns; Parquet; NetCDF; a
folder of pictures; an array. Seconds from the start of the process to its end, the report written;
{machine}, {cores} cores. Written by `tables.py`."""

COMMANDS = (
    "fit 04c_log --data fair.csv --outcome affair",
    "fit 02 --data births.csv.gz --exclude country,code --missing drop --components 2",
    "fit 02 --data colours.csv --components 4",
    "fit 01 --data countries.tsv --exclude year --factors 2 --guide full_rank",
    "fit regression --data firms.parquet --formula 'invest ~ value + capital + (1 | firm)'",
    "fit 04b --data sunspots.nc --columns SUNACTIVITY",
    "fit 03 --data pictures --patches 8 --atoms 36 --guide map --scale 0.05 --rate 20",
    "infer nile_model.py:model --data nile.csv",
    "fit 01 --data fault.npy --factors 3 --guide full_rank",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = chosen.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        write_files(place)
        rows = []
        for k, command in enumerate(COMMANDS):
            words = [sys.executable, "-m", "pyro_cookbook", *shlex.split(command)]
            started = time.perf_counter()
            done = subprocess.run(
                [*words, "--out", f"run{k}"],
                cwd=place,
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"TQDM_DISABLE": "1"},
            )
            seconds = time.perf_counter() - started
            if done.returncode:
                rows.append(
                    f"| `pyro-cookbook {command}` | | | {seconds:.0f} | {done.stderr.strip()} |"
                )
            else:
                record = read_record(place / f"run{k}")
                told = record.data
                rows.append(
                    f"| `pyro-cookbook {command}` | {told.rows:,} | {told.columns} |"
                    f" {seconds:.0f} | {record.verdict} |"
                )
            print(rows[-1], flush=True)
    lines = [
        "# Real tables, from the file to the report",
        "",
        INTRODUCTION.format(machine=platform.machine(), cores=os.cpu_count()),
        "",
        "| command | rows | columns | seconds | verdict |",
        "|---|--:|--:|--:|---|",
        *rows,
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
