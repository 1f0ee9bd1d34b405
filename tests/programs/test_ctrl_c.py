"""Ctrl-C is heeded, also where Python drops the exception."""

import signal

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_cookbook as pc
from pyro_cookbook.programs.state.interruption import heed, heeding_interrupts
from pyro_cookbook.programs.state.isolation import isolated

dropped = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Pressing:
    """Presses Ctrl-C while it is destroyed: Python drops what is raised there."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        for _ in range(100):  # the handler runs between two steps of the interpreter
            pass


@pytest.fixture(autouse=True)
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press():
    thing = Pressing()
    del thing


@dropped
def test_without_it_the_key_is_lost():
    press()  # raises nothing: what the rest of the file is there for


reached: list[int] = []


def blocked(block, *work):
    """Do pieces of work in a block, and note each that is finished."""
    with block():
        for number, piece in enumerate(work, 1):
            piece()
            reached.append(number)


@dropped
@pytest.mark.parametrize("block", [heeding_interrupts, lambda: isolated(0)])
def test_a_dropped_interrupt_is_raised_at_the_end_of_the_block(block):
    reached.clear()
    with pytest.raises(KeyboardInterrupt):
        blocked(block, press)
    assert reached == [1]
    heed()  # and it is forgotten


@dropped
def test_an_inner_block_leaves_it_to_the_outermost():
    reached.clear()
    with pytest.raises(KeyboardInterrupt):
        blocked(lambda: isolated(0), lambda: blocked(lambda: isolated(1), press), int)
    assert reached == [1, 1, 2]


def test_an_interrupt_that_arrives_is_raised_at_once():
    reached.clear()
    with pytest.raises(KeyboardInterrupt):
        blocked(lambda: isolated(0), int, lambda: signal.raise_signal(signal.SIGINT), int)
    assert reached == [1]


def test_a_handler_of_the_callers_own_is_left_alone():
    seen = []
    own = lambda *_: seen.append(1)  # noqa: E731
    signal.signal(signal.SIGINT, own)
    with isolated(0):
        assert signal.getsignal(signal.SIGINT) is own
        signal.raise_signal(signal.SIGINT)
    assert seen == [1]
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dropped
def test_a_fit_stops_at_the_next_step():
    runs = 0

    def model(y):
        nonlocal runs
        runs += 1
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    def guide(y):
        loc = pyro.param("loc_at", torch.tensor(0.0))
        pyro.sample("loc", dist.Normal(loc, 1.0))
        if runs > 20:
            press()

    with pytest.raises(KeyboardInterrupt):
        pc.fit(model, guide, torch.ones(5), max_steps=100_000)
    assert runs < 30
