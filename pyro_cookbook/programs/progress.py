"""Whether to show a progress bar."""

import sys


def shown(progress: bool | None) -> bool:
    """Say whether to show a bar: if asked; by default on a terminal and in a notebook."""
    if progress is not None:
        return progress
    if sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
