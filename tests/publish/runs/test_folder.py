"""A run's folder: whole or not there, whatever ends the writing; told from others; checked."""

import json
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pyro_cookbook.data import InputError
from pyro_cookbook.publish.runs import folder as runs
from pyro_cookbook.publish.runs.folder import (
    RECORD,
    Data,
    Record,
    checked,
    read_record,
    refuse_if_taken,
    write_run,
)

HERE = Path(__file__).parent


def record(**changes):
    rows = Data(
        name="mine", source="mine.csv", bundled=False, digest="d", rows=3, columns=2, understood=()
    )
    return Record(
        **{
            "kind": "recipe", "what": "02_expectation_maximisation", "guide": "exact",
            "options": {"size": 2}, "seed": 0, "draws": 10, "budget": None, "command": "fit",
            "data": rows, "schema_": {}, "versions": {}, "verdict": "reliable", "reasons": (),
            "advice": (), "elbo": -1.0, "elbo_se": 0.0, "seconds": 1.0, "files": {}, **changes,
        }
    )  # fmt: skip


FILES = {"a.bin": b"a" * 100, "b.bin": b"b" * 100_000}


def test_what_was_written_is_read(tmp_path):
    place = tmp_path / "new" / "run"
    write_run(place, FILES, record())
    found = read_record(place)
    assert found.asked == record().asked
    assert found.verdict == "reliable"
    assert {path.name for path in place.iterdir()} == {*FILES, RECORD}
    assert all(checked(place, found, name).read_bytes() == FILES[name] for name in FILES)
    assert [path.name for path in place.parent.iterdir()] == ["run"]


def test_the_same_run_is_replaced_whole_and_another_is_refused(tmp_path):
    place = tmp_path / "run"
    write_run(place, FILES, record())
    write_run(place, {"c.bin": b"new"}, record(verdict="unreliable"))
    assert {path.name for path in place.iterdir()} == {"c.bin", RECORD}
    for change in ({"seed": 1}, {"options": {"size": 3}}, {"what": "01"}, {"draws": 20}):
        with pytest.raises(InputError, match=r"^--out: .*run has another run, of 02_exp.* --overw"):
            write_run(place, FILES, record(**change))
    assert {path.name for path in place.iterdir()} == {"c.bin", RECORD}
    write_run(place, FILES, record(seed=1), overwrite=True)
    assert read_record(place).seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"has files that are no run's \(chapter\.tex\)"):
            write_run(tmp_path / "thesis", FILES, record(), overwrite=overwrite)
        with pytest.raises(InputError, match="file is a file, expected a folder"):
            refuse_if_taken(tmp_path / "file", record().asked, overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "empty", FILES, record())
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine"


def test_a_place_that_cannot_be_written_to_is_refused_before_a_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(InputError, match=f"^--out: {tmp_path} cannot be written to"):
        refuse_if_taken(tmp_path / "new" / "run", record().asked, overwrite=False)


def test_a_full_disk_leaves_the_old_run(tmp_path):
    place = tmp_path / "run"
    write_run(place, {"a.bin": b"old"}, record())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=f"^{place}: not written: File too large"):
            write_run(place, FILES, record())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (place / "a.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_failed_renaming_leaves_the_old_run(step, tmp_path, monkeypatch):
    place = tmp_path / "run"
    write_run(place, {"a.bin": b"old"}, record())
    rename, calls = runs.Path.rename, []

    def failing(self, target):
        calls.append(self)
        if len(calls) == step:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(runs.Path, "rename", failing)
    with pytest.raises(OSError, match="not written: Permission denied"):
        write_run(place, FILES, record())
    assert (place / "a.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from pyro_cookbook.publish.runs import folder
    from test_folder import record
    place, step = Path({place!r}), {step}
    calls, write, rename = [], folder._write, Path.rename

    def counting(inner):
        def outer(*args):
            calls.append(inner)
            if len(calls) > step:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(*args)
        return outer

    folder._write, Path.rename = counting(write), counting(rename)
    folder.write_run(place, {{"a.bin": b"new", "c.bin": b"c" * 1000}}, record())
"""


@pytest.mark.parametrize("step", range(6))
def test_a_process_that_is_killed_leaves_the_old_run_or_the_new(step, tmp_path):
    """Before the first file, after each, between the renamings, and after them."""
    place = tmp_path / "run"
    write_run(place, {"a.bin": b"old"}, record())
    code = textwrap.dedent(KILLED.format(place=str(place), step=step, tests=str(HERE)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == (-signal.SIGKILL if step < 5 else 0), done.stderr.decode()
    found = read_record(place)
    content = checked(place, found, "a.bin").read_bytes()
    assert content == (b"old" if step < 4 else b"new")
    assert {path.name for path in place.iterdir()} == {*found.files, RECORD}
    write_run(place, FILES, record())  # and what was left is swept away
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_living_process_is_writing_is_not_swept_away(tmp_path):
    code = "import time; print('up', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline()
        host = runs.socket.gethostname()
        (tmp_path / f".run.{host}-{other.pid}-0abc.part").mkdir()
        write_run(tmp_path / "run", FILES, record())
        assert (tmp_path / f".run.{host}-{other.pid}-0abc.part").exists()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    write_run(tmp_path / "run", FILES, record())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_runs_written_at_once_leave_one_of_them_whole(tmp_path):
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(HERE)!r})
        from pathlib import Path
        from pyro_cookbook.publish.runs.folder import write_run
        from test_folder import record
        for k in range(20):
            files = {{name: sys.argv[1].encode() * 1000 for name in "abcdef"}}
            write_run(Path({str(tmp_path / "run")!r}), files, record())
    """)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(k)]) for k in range(3)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        time.sleep(0.01)
        seen += (tmp_path / "run").exists()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    found = read_record(tmp_path / "run")
    contents = {checked(tmp_path / "run", found, name).read_bytes() for name in "abcdef"}
    assert len(contents) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: "", "damaged, or of another release: the file: Invalid JSON"),
        (lambda text: text[:200], "damaged, or of another release: the file: Invalid JSON"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "another release: format: "),
        (lambda text: text.replace('"seed": 0', '"seed": "x"'), "another release: seed: "),
        (lambda text: text.replace('"seed": 0,', ""), "another release: seed: Field required"),
        (lambda text: text.replace("{", '{"more": 1,', 1), "another release: more: Extra inputs"),
        (lambda text: "[1]", "damaged, or of another release"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(change, told, tmp_path):
    place = tmp_path / "run"
    write_run(place, FILES, record())
    text = (place / RECORD).read_text("utf-8")
    (place / RECORD).write_text(change(text), "utf-8")
    with pytest.raises(InputError, match=f"^{place / RECORD}: ") as caught:
        read_record(place)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_tampered_with_is_refused(tmp_path):
    place = tmp_path / "run"
    write_run(place, FILES, record())
    found = read_record(place)
    (place / "a.bin").write_bytes(b"b" + FILES["a.bin"][1:])
    with pytest.raises(InputError, match=r"a\.bin: changed since the run \(its SHA-256"):
        checked(place, found, "a.bin")
    (place / "b.bin").unlink()
    with pytest.raises(InputError, match=r"b\.bin: missing from the run's folder"):
        checked(place, found, "b.bin")
    with pytest.raises(InputError, match=r"passwd: missing from the run's folder"):
        checked(place, found, "../../../../etc/passwd")


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        read_record(tmp_path / "none")
    with pytest.raises(InputError, match=r"no run's folder: it has no run\.json"):
        read_record(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps({"a": "b" * 100}))
    with pytest.raises(InputError, match="damaged, or of another release"):
        read_record(tmp_path)
