"""Files that are written whole or not at all."""

import os
import secrets
from pathlib import Path


def write_bytes(content: bytes, path: Path) -> None:
    """Write to a neighbouring file and rename: an interruption leaves the old file or the new.

    The neighbour's name is its own, so that two processes may write the same file: the later wins.

    Raises
    ------
    OSError
        Naming the file, if the disk is full or the place cannot be written to; nothing is left
        behind.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may tell only now
        part.replace(path)
    except OSError as error:
        raise type(error)(f"{path}: not written: {error.strerror or error}") from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
