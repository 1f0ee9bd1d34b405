"""Files of tensors and plain values: written whole or not at all, read without running code."""

import os
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


def write(content: dict[str, Any], path: Path) -> None:
    """Write to a neighbouring file and rename: an interruption leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(content, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path, kind: str) -> dict[str, Any]:
    """Read a file of tensors and plain values.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not a file of that kind, is damaged, or asks for code to be run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a strange pickle torch warns before it refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable {kind} file (damaged, or not ours)") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{path}: expected a {kind} file, got something else")
    return content


class Checkpoint:
    """The states of all starts of one fit, in one file; without a path it does nothing.

    Parameters
    ----------
    path : path or None
        Resumed from if the file exists.
    settings : dict
        What must be equal for the saved states to continue this very fit.

    Raises
    ------
    ValueError
        If the file belongs to a fit with other settings, naming the first that differs.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = Path(path) if path is not None else None
        self.settings = settings
        self.starts: dict[int, Any] = {}
        if self.path is not None and self.path.exists():
            content = read(self.path, "checkpoint")
            for name, value in settings.items():
                if content["settings"].get(name) != value:
                    raise ValueError(
                        f"checkpoint: {self.path} was written with {name}="
                        f"{content['settings'].get(name)!r}, got {value!r}"
                    )
            self.starts = content["starts"]

    def save(self, start: int, state: dict[str, Any]) -> None:
        """Record the state of one start and write the file."""
        if self.path is not None:
            self.starts[start] = state
            content = {"kind": "checkpoint", "settings": self.settings, "starts": self.starts}
            write(content, self.path)
