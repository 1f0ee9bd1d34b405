"""Every test runs seeded, on one thread, and must leave Pyro's and torch's state as it was."""

from collections.abc import Iterator

import pyro_cookbook  # noqa: F401 - before torch: it says how torch's idle threads are to wait

# isort: split
import pyro
import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from torch import Tensor

# Tests of models and guides run them by Pyro alone: parameters stay in the module that owns them.
# In one store for all, a second guide of a class would start at what the first has learnt.
pyro.settings.set(module_local_params=True)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded_and_global_state_left_alone() -> Iterator[None]:
    def state() -> tuple[object, ...]:
        return list(pyro.get_param_store().keys()), torch.get_default_dtype(), pyro.settings.get()

    pyro.set_rng_seed(0)
    before = _, dtype, settings = state()
    yield
    after = state()
    pyro.clear_param_store()  # one test's failure is not the next one's
    torch.set_default_dtype(dtype)
    pyro.settings.set(**settings)
    assert after == before


@pytest.fixture(scope="session")
def wine() -> Tensor:
    """178 rows of 13 chemical measurements, each of mean 0 and standard deviation 1."""
    rows = torch.tensor(load_wine().data)
    return (rows - rows.mean(0)) / rows.std(0, correction=0)


@pytest.fixture(scope="session")
def iris() -> Tensor:
    """150 flowers, 4 lengths in centimetres."""
    return torch.tensor(load_iris().data)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the notebooks, a minute each: what is short fills the end, on every worker."""
    items.sort(key=lambda item: "committed_notebook_is_what" not in item.nodeid)
