"""Many items over processes: the same numbers, one thread each, and errors that name the item."""

import os
import threading

import joblib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.programs.spreading import ItemFailed, is_spread, spread

Y = torch.linspace(-1.0, 2.0, 20)


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def numbers(item):
    """What a fit says, and what random streams, threads and types are like meanwhile."""
    fit = pc.fit(model, "mean_field", item * Y, seed=item)
    return [
        fit.elbo.value,
        *pc.to_datatree(fit, num_draws=5).posterior["mu"].values.ravel(),
        torch.rand(()).item(),
        np.random.rand(),  # noqa: NPY002 - the stream that Pyro seeds
        torch.get_num_threads(),
        torch.get_default_dtype() == torch.float64,
    ]


@pytest.fixture(scope="module")
def cluster():
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        ) as local,
        Client(local) as client,
    ):  # fmt: skip
        yield client


@pytest.fixture(scope="module")
def alone():
    return spread(numbers, [1, 2, 3], workers=1)


def test_two_workers_give_the_numbers_of_one(alone):
    assert len({tuple(row) for row in alone}) == 3
    assert [row[-2] for row in alone] == [1, 1, 1]
    assert spread(numbers, [1, 2, 3], workers=2) == alone


def test_so_does_a_cluster(alone, cluster):
    with joblib.parallel_config(backend="dask"):
        assert is_spread()
        assert spread(numbers, [1, 2, 3]) == alone
    assert not is_spread()


def test_workers_compute_in_the_callers_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        both = [spread(numbers, [1, 2], workers=workers) for workers in (1, 2)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert both[0] == both[1]
    assert both[0][0][-1]


def test_the_callers_streams_and_threads_are_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, threads = torch.rand(1), torch.get_num_threads()
    spread(torch.rand, [1, 2], workers=1)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
    assert torch.get_num_threads() == threads
    one, two = (spread(lambda _: torch.rand(()).item(), "a", workers=1, seed=s) for s in (0, 1))
    assert one != two


def test_items_are_told_in_order_as_they_come():
    told = []
    found = spread(lambda item: item * 2, range(5), workers=2, on_result=lambda *t: told.append(t))
    assert found == [0, 2, 4, 6, 8]
    assert told == [(i, 2 * i) for i in range(5)]
    assert spread(lambda item: item, []) == []


class Unsendable(Exception):
    """Cannot be made again from its arguments, as loading would."""

    def __init__(self, first, second):
        super().__init__(f"{first} and\n{second}")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_item(workers):
    def fails(item):
        if item["name"] == "bad":
            raise Unsendable("this", "that")
        return item

    items = [{"name": "good"}, {"name": "bad", "rows": "x" * 200}, {"name": "bad"}]
    with pytest.raises(ItemFailed) as caught:
        spread(fails, items, workers=workers)
    told = str(caught.value)
    assert told.startswith("items[1] = {'name': 'bad', 'rows': 'xxx")
    assert told.endswith("…: Unsendable: this and that")
    assert caught.value.index == 1
    assert caught.value.item is items[1]
    assert "in fails" in caught.value.traceback
    with pytest.raises(ValueError, match="workers"):
        spread(fails, items, workers=0)


def test_what_does_not_come_back_is_told_in_one_line():
    def failing(function):
        with pytest.raises(ItemFailed) as caught:
            spread(function, [1, 2], workers=2)
        return str(caught.value)

    told = failing(lambda item: threading.Lock())
    assert "it, or a later one, did not come back: TypeError: cannot pickle" in told
    told = failing(lambda item: os._exit(3))
    assert told.startswith("items[0] = 1: it, or a later one, did not come back: Terminated")
    assert "\n" not in told
    assert spread(lambda item: item, [1, 2], workers=2) == [1, 2]  # with other workers


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="function: got 3, expected a function of one item"):
        spread(3, [1])


def test_chains_run_where_joblib_says(cluster):
    fit = pc.fit(model, "full_rank", Y)
    options = {"num_draws": 20, "num_warmup": 20, "num_chains": 2, "progress": False}
    here = pc.sample(fit, processes=1, **options).posterior["mu"].values
    with joblib.parallel_config(backend="dask"):
        there = pc.sample(fit, **options).posterior["mu"].values
    np.testing.assert_array_equal(here, there)
    ran = cluster.run(lambda dask_worker: dask_worker.state.task_counter.current_count())
    assert len(ran) == 2
