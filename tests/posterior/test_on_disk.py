"""Large variables of a tree lie in temporary files, and are the same arrays to all who use them."""

import errno
import mmap
import subprocess
import sys

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import pyro_cookbook as pc
from pyro_cookbook.posterior import on_disk
from pyro_cookbook.posterior.on_disk import Filled

Y = torch.linspace(-1.0, 1.0, 50)


def model(y=None):
    centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 50):
        pyro.sample("y", dist.Normal(centre, 0.5), obs=y)


def guide(y=None):
    pyro.sample("centre", dist.Normal(0.0, 0.07))


@pytest.fixture(scope="module")
def fit():
    return pc.as_fit(model, guide, Y)


def is_mapped(array):
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("function", [pc.to_datatree, pc.predict])
def test_a_tree_on_disk_is_the_tree_in_memory(fit, function, monkeypatch):
    kept = function(fit, num_draws=40)
    monkeypatch.setattr(on_disk, "ON_DISK", 40 * 4)
    mapped = function(fit, num_draws=40)
    xr.testing.assert_equal(kept, mapped)
    name = "posterior_predictive" if function is pc.to_datatree else "predictions"
    assert is_mapped(mapped[name].y.values)
    assert not is_mapped(kept[name].y.values)
    assert not is_mapped(mapped.posterior.centre.values)  # as large as may be kept in memory


def test_arviz_and_files_take_a_tree_on_disk(fit, monkeypatch, tmp_path):
    kept = pc.to_datatree(fit, num_draws=200)
    monkeypatch.setattr(on_disk, "ON_DISK", 0)
    mapped = pc.to_datatree(fit, num_draws=200)
    assert is_mapped(mapped.log_likelihood.y.values)
    assert az.loo(mapped).elpd == az.loo(kept).elpd
    mapped.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as back:
        np.testing.assert_array_equal(back.log_likelihood.y.values, kept.log_likelihood.y.values)


def test_an_entry_may_be_changed(monkeypatch):
    monkeypatch.setattr(on_disk, "ON_DISK", 0)
    filled = Filled((4, 3), np.dtype(np.float32))
    for start in (2, 0):  # any order; in another dtype, and not contiguous
        filled.write(slice(start, start + 2), np.arange(6.0).reshape(3, 2).T + start)
    expected = [[0, 2, 4], [1, 3, 5], [2, 4, 6], [3, 5, 7]]
    np.testing.assert_array_equal(filled.array, expected)
    filled.array[0, 0] = 9
    assert filled.array.tolist()[0] == [9, 2, 4]


def test_a_full_disk_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(on_disk, "ON_DISK", 0)
    filled = Filled((4, 3), np.dtype(float))

    class Full:
        def seek(self, place): ...
        def close(self): ...
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    filled._file.close()
    filled._file = Full()
    with pytest.raises(OSError, match=r"^no space for .* GiB of draws in .*TMPDIR") as caught:
        filled.write(slice(0, 4), np.zeros((4, 3)))
    assert "\n" not in str(caught.value)


SCRIPT = '''
import pathlib, resource
import numpy as np
from pyro_cookbook.posterior import on_disk

def peak():
    """Of this process: Linux's `ru_maxrss` begins with that of the process that started it."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

on_disk.ON_DISK = {limit}
draws, before = np.ones((1, 2**20)), peak()
filled = on_disk.Filled((32, 2**20), draws.dtype)
for s in range(32):
    filled.write(slice(s, s + 1), draws)
print(filled.array.nbytes, peak() - before)
assert filled.array[::31].sum() == 2**21
'''


def test_memory_does_not_hold_what_is_on_disk():
    told = {}
    for limit in (on_disk.ON_DISK, 2**40):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(limit=limit)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        size, told[limit] = map(int, done.stdout.split())
    assert size == 2**28
    assert told[on_disk.ON_DISK] < size / 8  # four draws
    assert told[2**40] > size / 2  # what the file spares
