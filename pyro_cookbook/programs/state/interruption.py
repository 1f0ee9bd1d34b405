"""Ctrl-C that is not lost.

Python drops an exception that is raised while it destroys an object, and says so on standard error
only. A fit destroys thousands of objects a second, so that one press of Ctrl-C in some is lost.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_pressed = threading.Event()


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Remember Ctrl-C in a block, and raise it at the end if it was dropped meanwhile.

    Only in the main thread, which alone has signals, and only where nobody else handles them.

    Raises
    ------
    KeyboardInterrupt
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _pressed.clear()
    signal.signal(signal.SIGINT, _note)
    try:
        yield
        heed()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _pressed.clear()


def heed() -> None:
    """Raise an interrupt that was dropped; long loops ask at every step."""
    if _pressed.is_set():
        raise KeyboardInterrupt


def _note(signum: int, frame: FrameType | None) -> None:
    _pressed.set()
    signal.default_int_handler(signum, frame)
