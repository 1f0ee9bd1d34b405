"""A run's folder: written whole or not at all, told from others, and checked when it is read."""

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pyro_cookbook.data import InputError

RECORD = "run.json"
# The files of a run, besides its record.
STATE, DRAWS, SUMMARY, REPORT, DATA = (
    "state.safetensors", "fit.nc", "summary.csv", "report.html", "data.parquet",
)  # fmt: skip
# A record is some kilobytes; one of wide tables with many words, a few megabytes.
_LARGEST_RECORD = 50_000_000
_ATTEMPTS = 50  # to put a folder in its place while others do so


class Data(BaseModel):
    """Where the rows came from, and the digest of what was understood."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    source: str
    bundled: bool
    digest: str
    rows: int
    columns: int
    understood: tuple[str, ...]


class Record(BaseModel):
    """What ``run.json`` says: all that it takes to make the run again, and what came out.

    Attributes
    ----------
    format : int
        Of this record.
    kind : "recipe", "regression" or "model"
    what : str
        The recipe's name, or ``file.py:function`` of a reader's own model.
    guide : str
        Of the recipe; of a model, the rung that answered.
    options : dict
        As they were asked for, by name.
    seed, draws : int
    budget : float or None
        Seconds, of what `infer` answers.
    command : str
        That made it.
    data : Data
    schema_ : dict
        How columns of a table become those of the fit: `pyro_cookbook.data.Schema`; of a model or
        a formula, its columns, with their words.
    versions : dict of str to str
    verdict : str
    reasons, advice : tuple of str
    elbo, elbo_se : float
        In nats; None where it is not finite.
    seconds : float
    files : dict of str to str
        Name of each file → its SHA-256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1] = 1
    kind: Literal["recipe", "regression", "model"]
    what: str
    guide: str
    options: dict[str, Any]
    seed: int
    draws: int
    budget: float | None
    command: str
    data: Data
    schema_: dict[str, Any]
    versions: dict[str, str]
    verdict: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    elbo: float | None
    elbo_se: float | None
    seconds: float
    files: dict[str, str]

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for: a run that asks for the same may take its place."""
        return asked(self.what, self.options, self.seed, self.draws, self.data.digest)

    def told(self) -> str:
        """Name the run in half a line."""
        return f"{self.what} ({self.guide}) on {self.data.name!r}, seed {self.seed}"


def asked(
    what: str, options: Mapping[str, Any], seed: int, draws: int, data: str
) -> dict[str, Any]:
    """Collect what decides a run's numbers; `data` is the digest of the rows."""
    return {"what": what, "options": dict(options), "seed": seed, "draws": draws, "data": data}


def write_run(
    folder: Path, files: Mapping[str, bytes], record: Record, *, overwrite: bool = False
) -> None:
    """Write a run's folder beside its place and put it there by renaming.

    Parameters
    ----------
    folder : Path
    files : mapping of str to bytes
        Name → content.
    record : Record
        Its ``files`` are filled in.
    overwrite : bool, default False
        Whether another run may be replaced; the same run always is.

    Raises
    ------
    InputError
        As `refuse_if_taken`.
    OSError
        Naming the folder, if the disk is full or the place cannot be written to; nothing is left
        behind.
    """
    record = record.model_copy(
        update={"files": {name: sha256(content) for name, content in files.items()}}
    )
    refuse_if_taken(folder, record.asked, overwrite=overwrite)
    mark = f".{folder.name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    part, old = (folder.with_name(f"{mark}.{kind}") for kind in ("part", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        part.mkdir()
        for name, content in files.items():
            _write(part / name, content)
        _write(part / RECORD, record.model_dump_json(indent=1).encode())  # last: now it is whole
        _put_in_place(part, folder, old)
    except OSError as error:
        raise type(error)(f"{folder}: not written: {error.strerror or error}") from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a full disk may tell only now


def _put_in_place(part: Path, folder: Path, old: Path) -> None:
    """Rename, the old run out of the way first; other processes may be doing the same."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # another process has taken it away
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(old, ignore_errors=True)  # another run has come in between, and is newer
        else:
            return
    raise OSError(f"{folder}: other runs keep writing it")


def refuse_if_taken(folder: Path, wanted: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a place that cannot be written to, or has another run than one that `asked` the same.

    Raises
    ------
    InputError
        Saying what is there.
    """
    recover(folder)
    absolute = folder.absolute()
    nearest = next(place for place in (absolute, *absolute.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        raise InputError(f"--out: {nearest} cannot be written to")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--out: {folder} is a file, expected a folder")
    if not (folder / RECORD).exists():
        there = sorted(path.name for path in folder.iterdir())
        if there:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise InputError(
                f"--out: {folder} has files that are no run's ({there[0]}{more}); expected a new"
                " folder"
            )
        return
    if overwrite:
        return
    there_is = read_record(folder)
    if there_is.asked != wanted:
        raise InputError(
            f"--out: {folder} has another run, of {there_is.told()}"
            f"{_apart(there_is.options, wanted['options'])}; choose another folder, or --overwrite"
        )


def _apart(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Name the first option that differs; "" if none does."""
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            return f", {name} {there.get(name, 'not given')} (now {here.get(name, 'not given')})"
    return ""


def read_record(folder: Path) -> Record:
    """Read what a run says of itself.

    Raises
    ------
    FileNotFoundError, InputError
        In one line, if there is no such folder, it is no run's, or its record is damaged.
    """
    recover(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    path = folder / RECORD
    if not path.is_file():
        raise InputError(f"{folder}: no run's folder: it has no {RECORD}")
    if path.stat().st_size > _LARGEST_RECORD:
        raise InputError(f"{path}: damaged: larger than a record can be")
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: damaged, or of another release: {where}: {first['msg']}") from (
            error
        )


def checked(folder: Path, record: Record, name: str) -> Path:
    """Give the path of a run's file, once it is seen to be as it was written.

    Raises
    ------
    InputError
        If it is missing or has changed.
    """
    path = folder / name
    if name not in record.files or not path.is_file():
        raise InputError(f"{path}: missing from the run's folder")
    if sha256(path.read_bytes()) != record.files[name]:
        raise InputError(
            f"{path}: changed since the run (its SHA-256 is not the one in {RECORD}); run again"
        )
    return path


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def recover(folder: Path) -> None:
    """Put a run in its place whose process ended between the two renamings."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for kind in ("part", "old"):
        for left in _leftovers(folder, kind):
            if (left / RECORD).is_file():
                left.rename(folder)
                return


def _sweep(folder: Path) -> None:
    """Remove what ended processes have left beside a folder."""
    for kind in ("part", "old"):
        for left in _leftovers(folder, kind):
            shutil.rmtree(left, ignore_errors=True)


def _leftovers(folder: Path, kind: str) -> list[Path]:
    """Give the unfinished folders of processes of this machine that have ended."""
    host = socket.gethostname()
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.{re.escape(host)}-(\d+)-[0-9a-f]+\.{kind}")
    found = []
    for path in folder.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not _runs(int(match[1])):
            found.append(path)
    return sorted(found)


def _runs(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
