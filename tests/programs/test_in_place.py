"""Data that a run changes or uses up: refused at the first run, and untouched by it."""

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor, nn

from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.in_place import (
    copy_data,
    refuse_in_place,
    refuse_iterators,
)

Pair = namedtuple("Pair", ["x", "y"])


@dataclasses.dataclass(frozen=True)
class Table:
    x: Tensor
    notes: list[str]


def standardising(y: Tensor) -> None:
    """Standardise in place, as many a script does."""
    y -= y.mean()
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(h, 1.0), obs=y)


def first_run(function, *args, role="model", **kwargs):
    program = Program(function, args, kwargs)
    trial = copy_data(program)
    nodes = trial.nodes
    refuse_in_place(program, trial, role=role)
    return nodes


def test_a_model_that_changes_its_data_is_refused_and_the_data_are_as_they_were():
    y = torch.tensor([1.0, 2.0, 6.0])
    message = (
        r"^model: it changes its argument 'y' in place \(first at entry \[0\]\); work on a copy:"
        r" y = y\.clone\(\)$"
    )
    with pytest.raises(ValueError, match=message):
        first_run(standardising, y)
    assert y.tolist() == [1.0, 2.0, 6.0]


def test_a_guide_is_called_a_guide():
    with pytest.raises(ValueError, match=r"^guide: it changes its argument 'y'"):
        first_run(standardising, torch.arange(3.0), role="guide")


def test_a_model_that_changes_nothing_gives_its_run():
    y = torch.tensor([1.0, torch.nan, 3.0])

    def model(y):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)), poutine.mask(mask=~y.isnan()):
            pyro.sample("y", dist.Normal(h, 1.0), obs=y.nan_to_num())

    nodes = first_run(model, y=y)
    assert list(nodes) == ["h", "y"]


def run(program, *args, **kwargs):
    return program(*args, **kwargs)


def set_entry(data):
    data[1] = 7.0


def objects(*items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


# What makes the data, what changes them, the first entry that differs, and the copy to work on.
CHANGES = {
    "tensor": (lambda: torch.zeros(2, 3), lambda d: d[1, 2].fill_(5.0), "[1, 2]", "data.clone()"),
    "scalar": (lambda: torch.tensor(1.0), lambda d: d.add_(1), "", "data.clone()"),
    "to nan": (lambda: torch.zeros(3), lambda d: d[1].fill_(torch.nan), "[1]", "data.clone()"),
    "from nan": (lambda: torch.zeros(3) / 0, set_entry, "[1]", "data.clone()"),
    "integers": (lambda: torch.arange(3), set_entry, "[1]", "data.clone()"),
    "bools": (lambda: torch.zeros(3) > 0, set_entry, "[1]", "data.clone()"),
    "half": (lambda: torch.zeros(3).bfloat16(), set_entry, "[1]", "data.clone()"),
    "shape": (lambda: torch.zeros(3), lambda d: d.unsqueeze_(0), "", "data.clone()"),
    "size": (lambda: torch.zeros(3), lambda d: d.resize_(2), "", "data.clone()"),
    "sparse": (lambda: torch.eye(3).to_sparse(), lambda d: d.mul_(2), "[0, 0]", "data.clone()"),
    "view": (
        lambda: torch.zeros(4), lambda d: d.reshape(2, 2)[1].fill_(1.0), "[2]", "data.clone()"
    ),
    "array": (lambda: np.zeros(3), set_entry, "[1]", "data.copy()"),
    "array as tensor": (
        lambda: np.zeros(3), lambda d: torch.from_numpy(d).add_(1), "[0]", "data.copy()"
    ),
    "strings": (lambda: np.array(["a", "b"]), lambda d: d.put(1, "c"), "[1]", "data.copy()"),
    "dates": (
        lambda: np.array(["2000-01-01", "NaT"], "M8[D]"), lambda d: d.put(0, "NaT"), "[0]",
        "data.copy()",
    ),
    "records": (
        lambda: np.zeros(2, [("a", float)]), lambda d: d["a"].put(1, 3), "[1]", "data.copy()"
    ),
    "objects": (
        lambda: objects(torch.zeros(1), None), lambda d: d[0].add_(1), "[0][0]", "data.copy()"
    ),
    "list": (lambda: [1.0, 2.0], set_entry, "[1]", "copy.deepcopy(data)"),
    "longer list": (lambda: [1.0, 2.0], lambda d: d.append(3), "[2]", "copy.deepcopy(data)"),
    "shorter list": (lambda: [1.0, 2.0], lambda d: d.pop(), "[1]", "copy.deepcopy(data)"),
    "sorted list": (lambda: [2, 1], lambda d: d.sort(), "[0]", "copy.deepcopy(data)"),
    "dict": (lambda: {"a": 1}, lambda d: d.update(a=2), "['a']", "copy.deepcopy(data)"),
    "new key": (lambda: {"a": 1}, lambda d: d.update(b=2), "['b']", "copy.deepcopy(data)"),
    "lost key": (lambda: {"a": 1}, lambda d: d.pop("a"), "['a']", "copy.deepcopy(data)"),
    "default key": (lambda: defaultdict(float), lambda d: d["a"], "['a']", "copy.deepcopy(data)"),
    "emptied": (lambda: [[1], 2], lambda d: d[0].clear(), "[0][0]", "copy.deepcopy(data)"),
    "set": (lambda: {1, 2}, lambda d: d.add(3), "", "copy.deepcopy(data)"),
    "bytes": (lambda: bytearray(b"ab"), lambda d: d.append(1), "", "copy.deepcopy(data)"),
    "nest": (
        lambda: {"v": [torch.zeros(2), {"w": np.zeros(2)}]},
        lambda d: d["v"][1]["w"].fill(1), "['v'][1]['w'][0]", "copy.deepcopy(data)",
    ),
    "pair": (
        lambda: Pair(torch.zeros(2), 1), lambda d: d.x.add_(1), "[0][0]", "copy.deepcopy(data)"
    ),
    "dataclass": (
        lambda: Table(torch.zeros(2), []), lambda d: d.x.add_(1), ".x[0]", "copy.deepcopy(data)"
    ),
    "notes": (
        lambda: Table(torch.zeros(2), []), lambda d: d.notes.append(""), ".notes[0]",
        "copy.deepcopy(data)",
    ),
    "frame": (
        lambda: pd.DataFrame({"a": [1.0, 2.0]}), lambda d: d.insert(0, "b", 0), "", "data.copy()"
    ),
    "series": (lambda: pd.Series([1.0, 2.0]), lambda d: d.pop(0), "", "data.copy()"),
    "xarray": (
        lambda: xr.DataArray([1.0, 2.0]), lambda d: d.values.fill(0), "", "data.copy()"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_every_kind_of_argument_is_watched_and_kept(case):
    make, how, where, remedy = CHANGES[case]
    data = make()

    def program(data):
        how(data)

    with pytest.raises(ValueError, match="changes its argument") as caught:
        first_run(program, data)
    at = f" (first at entry {where})" if where else ""
    assert str(caught.value) == (
        f"model: it changes its argument 'data' in place{at}; work on a copy: data = {remedy}"
    )
    assert repr(data) == repr(make())
    how(data)  # on the data themselves it would have told
    assert repr(data) != repr(make())


UNTOUCHED = {
    "tensor": torch.tensor([1.0, torch.nan]),
    "complex": torch.tensor([1j, torch.nan]),
    "gradient": torch.ones(2, requires_grad=True),
    "inside a graph": torch.ones(2, requires_grad=True) * 2,
    "expanded": torch.ones(1).expand(3),
    "array": np.array([1.0, np.nan]),
    "dates": np.array(["2000-01-01", "NaT"], "M8[D]"),
    "objects": objects(None, np.nan, "a", torch.zeros(2)),
    "scalars": [1, 2.0, np.nan, None, "a", True, 1j, np.float64(2)],
    "nest": {"v": [torch.zeros(2), {"w": (np.zeros(2), Pair(1, 2))}]},
    "ordered": OrderedDict(b=1, a=2),
    "dataclass": Table(torch.zeros(2), ["a"]),
    "frame": pd.DataFrame({"a": [1.0, np.nan], "b": ["x", "y"]}),
    "series": pd.Series([1.0, np.nan]),
    "xarray": xr.Dataset({"a": ("x", [1.0, np.nan])}),
    "function": np.mean,
    "module": nn.Linear(2, 2),
    "size": torch.Size([2, 3]),
    "nothing": None,
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_what_is_left_alone_passes(case):
    data, seen = UNTOUCHED[case], []
    first_run(seen.append, data)
    assert type(seen[0]) is type(data)


def test_the_program_sees_values_structure_and_gradients_as_they_are():
    x = torch.arange(3.0, requires_grad=True)
    table = Table(x, ["a"])
    program = Program(standardising, (x, x, Pair(x, 1)), {"table": table, "d": {"x": x}})
    copied = copy_data(program)
    (own, again, pair), options = copied.args, copied.kwargs
    assert own is again is pair.x is options["table"].x is options["d"]["x"]
    assert own is not x
    assert own.equal(x)
    assert own.requires_grad
    assert own.is_leaf
    assert isinstance(pair, Pair)
    assert options["table"] is not table
    assert options["table"].notes is not table.notes
    assert table.x is x


# --- iterators ---------------------------------------------------------------------------------


def generator():
    yield torch.zeros(3)


class Stream:
    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


@pytest.mark.parametrize(
    ("data", "where", "kind"),
    [
        (generator(), "y", "generator"),
        (iter([1.0]), "y", "list_iterator"),
        (map(float, [1]), "y", "map"),
        (filter(None, [1]), "y", "filter"),
        (zip([1], [2], strict=True), "y", "zip"),
        (enumerate([1]), "y", "enumerate"),
        (reversed([1, 2]), "y", "list_reverseiterator"),
        ({"a": 1}.keys(), "y", "dict_keys"),
        ({"a": 1}.values(), "y", "dict_values"),
        ({"a": 1}.items(), "y", "dict_items"),
        (Stream(), "y", "Stream"),
        (pd.DataFrame({"a": [1]}).iterrows(), "y", "generator"),
        ([torch.zeros(2), iter([1.0])], "y[1]", "list_iterator"),
        ({"a": (1, generator())}, "y['a'][1]", "generator"),
        (Table(generator(), []), "y.x", "generator"),
    ],
)  # fmt: skip
def test_an_iterator_among_the_data_is_refused_by_name(data, where, kind):
    def model(y):
        raise AssertionError("it has run")

    for args, kwargs in [((data,), {}), ((), {"y": data})]:
        with pytest.raises(ValueError, match="which the first run may use up") as caught:
            refuse_iterators(Program(model, args, kwargs))
        message = str(caught.value)
        assert message.startswith(f"{where}: got a {kind}, ")
        assert message.endswith(f"list({where})")


def test_an_open_file_is_refused(tmp_path):
    (tmp_path / "y.csv").write_text("1\n", "utf-8")
    with (
        (tmp_path / "y.csv").open(encoding="utf-8") as file,
        pytest.raises(ValueError, match=r"^data\[0\]: got a TextIOWrapper"),
    ):
        refuse_iterators(Program(lambda *data: None, (file,)))


@pytest.mark.parametrize("case", UNTOUCHED)
def test_data_that_can_be_read_again_pass(case):
    refuse_iterators(Program(standardising, (UNTOUCHED[case],)))


def test_ranges_and_loaders_can_be_read_again():
    loader = torch.utils.data.DataLoader(torch.arange(3))
    refuse_iterators(Program(standardising, (range(3),)))
    refuse_iterators(Program(standardising, (loader,)))


def test_a_change_of_the_dtype_alone_is_a_change():
    def model(y):
        y.data = y.data.double()

    program = Program(model, (torch.ones(3),))
    trial = copy_data(program)
    trial()
    with pytest.raises(ValueError, match=r"changes its argument 'y' in place; .* y\.clone\(\)"):
        refuse_in_place(program, trial)
