"""Whether to show a progress bar."""

import os
import sys


def shown(progress: bool | None) -> bool:
    """Whether a progress bar is to be shown.

    Parameters
    ----------
    progress : bool or None
        What the caller asks for. None: only where somebody watches, at a terminal or in a
        notebook, and tqdm's own ``TQDM_DISABLE`` is not set.
    """
    if progress is not None:
        return progress
    if os.environ.get("TQDM_DISABLE", "") not in {"", "0"}:
        return False
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    """Whether an IPython kernel runs: its standard error is no terminal, and is watched."""
    ipython = sys.modules.get("IPython")  # where a kernel runs, it has been imported
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
