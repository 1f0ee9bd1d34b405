"""The harness: what it measures, what it catches, what it keeps. No timing: the clocks are ours."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import command, finding, limits, machine, memory, results, running, table
from benchmarks.harness.child import in_one_line
from benchmarks.harness.row import LOWER_BOUND, Measured, Row

LIMITS = {"float64": 50.0, "float32": 100.0, "copy": 20.0}
WHERE = {"load": 0.5, "limits": LIMITS, "machine": "a machine", "versions": "Python 3"}
# A file of rows as a colleague writes it: its sides need no package, and say what is asked of them.
TOYS = """
import os
import time

from benchmarks.harness.row import Measured, Row


def side(name, answer):
    def work(size):
        if size.get("raises") == name:
            raise TypeError("no such | thing\\nand more")
        if size.get("dies") == name:
            os._exit(7)
        time.sleep(size.get("sleep", {}).get(name, 0))
        if log := os.environ.get("TOY_LOG"):
            with open(log, "a") as file:
                threads = os.environ.get("OMP_NUM_THREADS", "default")
                file.write(f"{name} {os.getpid()} {threads} {os.environ.get('OMP_WAIT_POLICY')}\\n")
        return Measured(1e-9, {"answer": answer})
    return work


def same(runs):
    answers = {run.quality["answer"] for many in runs.values() for run in many}
    assert len(answers) == 1, f"answers differ: {sorted(answers)}"
    return f"all gave {answers.pop():g}"


def row(name, theirs=1.0, **changes):
    size = changes.pop("size", {})
    return Row(name=name, work="toys", peer="a peer", full=size, tiny=size, same=same, target=2.0,
               sides={"ours": side("ours", 1.0), "theirs": side("theirs", theirs)}, **changes)


ROWS = (row("good"), row("wrong", theirs=2.0), row("raising", size={"raises": "theirs"}),
        row("dying", size={"dies": "ours"}), row("free", threads=0), row("light", of="memory"),
        row("cold", cold=True), row("hanging", size={"sleep": {"ours": 60}}))
"""


@pytest.fixture
def toys(tmp_path, monkeypatch) -> dict[str, tuple[str, Row]]:
    """Rows of a file in a folder of its own, which child processes find as well."""
    import benchmarks.rows

    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "toys.py").write_text(TOYS)
    # The children's package: the same harness, other rows.
    package = tmp_path / "children" / "benchmarks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "harness").symlink_to(finding.ROOT / "benchmarks" / "harness")
    (package / "rows").symlink_to(tmp_path / "rows")
    monkeypatch.setattr(running, "ROOT", package.parent)
    monkeypatch.setattr(benchmarks.rows, "__path__", [str(tmp_path / "rows")])
    monkeypatch.delitem(sys.modules, "benchmarks.rows.toys", raising=False)
    yield finding.find(tmp_path / "rows")
    sys.modules.pop("benchmarks.rows.toys", None)


def ran(toys, name: str, runs: int = 1) -> tuple[dict, str]:
    return running.run_row(*toys[name], runs=runs, size="full", progress=lambda _: None)


def fake(ours, theirs, **changes) -> results.Record:
    """A record of runs with these seconds."""
    row = Row(
        name="r", work="work", peer="theirs", sides={"ours": print, "theirs": print}, full={},
        tiny={}, same=str, target=changes.pop("target", 2.0), of=changes.get("of", "seconds"),
    )  # fmt: skip
    counts = {"flops": changes.get("flops", 0.0), "bytes": changes.get("bytes", 0.0)}
    runs = {
        side: [{"seconds": s, "memory": 10 * s, "quality": {"a": 1.0}, **counts} for s in many]
        for side, many in {"ours": ours, "theirs": theirs}.items()
    }
    return results.record(
        row,
        "file",
        size="full",
        runs=runs,
        same=changes.get("same", "the same | bound"),
        circumstances=WHERE,
    )


# --- running --------------------------------------------------------------------------------------


def test_sides_run_in_turn_each_in_a_process_of_its_own(toys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    done, same = ran(toys, "good", runs=2)
    names, pids, threads, waiting = zip(
        *(line.split() for line in (tmp_path / "log").read_text().splitlines()), strict=True
    )
    assert names == ("ours", "theirs", "theirs", "ours")
    assert len({*pids, str(os.getpid())}) == 5
    assert set(threads) == {"1"}
    assert set(waiting) == {"None"}  # how threads wait is the library's choice, not the caller's
    assert {side: len(many) for side, many in done.items()} == {"ours": 2, "theirs": 2}
    assert same == "all gave 1"
    assert all(one["peak"] > 5 and one["processor"] > 0 for one in done["ours"])


def test_threads_are_the_rows_or_each_librarys_default():
    caller = {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "1", "HOME": "here"}
    caller["PYTHONDONTWRITEBYTECODE"] = "1"  # an installed package has its bytecode
    two, free = running.environment(2, caller), running.environment(0, caller)
    assert {two[name] for name in running.THREADS} == {"2"}
    assert not set(running.THREADS) & set(free)
    assert not {"GOMP_SPINCOUNT", "PYTHONDONTWRITEBYTECODE"} & set(two | free)
    assert two["HOME"] == free["HOME"] == "here"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wrong", "not the same: AssertionError: answers differ: [1.0, 2.0]"),
        ("raising", "theirs: TypeError: no such | thing"),
        ("dying", "ours: ended with 7"),
        ("light", "ours: gave no memory, which this row compares"),
    ],
)
def test_what_goes_wrong_is_caught_and_named(toys, name, told):
    with pytest.raises(running.SideError) as caught:
        ran(toys, name)
    assert str(caught.value) == told


def test_a_side_that_hangs_is_ended_with_all_that_it_started(toys, monkeypatch):
    monkeypatch.setattr(running, "LIMIT", 1)
    with pytest.raises(running.SideError, match=r"^ours: not done after 1 s$"):
        ran(toys, "hanging")


def test_a_cold_row_counts_the_whole_process(toys):
    done, _ = ran(toys, "cold")
    # The toy itself says a nanosecond; Python cannot start in one.
    assert min(one["seconds"] for many in done.values() for one in many) > 1e-9
    done, _ = ran(toys, "good")
    assert {one["seconds"] for many in done.values() for one in many} == {1e-9}


def test_busy_processes_compute_beside_and_end():
    with running.busy(2) as beside:
        assert [process.poll() for process in beside] == [None, None]
    assert [process.poll() for process in beside] == [-9, -9]


def test_errors_are_told_without_paths_of_the_machine():
    error = FileNotFoundError(f"{finding.ROOT}/benchmarks/x is missing\nand more")
    assert in_one_line(error) == "FileNotFoundError: benchmarks/x is missing"
    assert in_one_line(ValueError()) == "ValueError: no message"


# --- which rows -----------------------------------------------------------------------------------


def test_rows_are_chosen_by_their_name_or_their_files(toys):
    assert finding.choose(toys, []) == list(toys)
    assert finding.choose(toys, ["wrong", "good", "wrong"]) == ["wrong", "good"]
    assert finding.choose(toys, ["toys"]) == list(toys)
    with pytest.raises(finding.UnknownRowError, match="no row is called 'bad'; there are good, "):
        finding.choose(toys, ["bad"])


def test_the_peer_is_named_or_the_only_other_side():
    def row(peer: str, *sides: str) -> Row:
        return Row("r", "w", peer, dict.fromkeys(sides, print), {}, {}, str, 1.0)

    assert finding.peer_of(row("b", "ours", "a", "b")) == "b"
    assert finding.peer_of(row("a, by hand", "ours", "a")) == "a"
    with pytest.raises(ValueError, match="no side is called 'c'"):
        finding.peer_of(row("c", "ours", "a", "b"))
    with pytest.raises(ValueError, match="has no side 'ours'; it has a"):
        finding.peer_of(row("a", "a"))


# --- arithmetic -----------------------------------------------------------------------------------


def test_ratio_is_of_medians_and_its_spread_of_runs():
    found = fake([1.0, 2.0, 4.0], [6.0, 6.0, 30.0])
    assert results.ratio(found, "theirs") == results.Spread(3.0, 3.0, 7.5)
    assert results.hits(found)
    assert not results.hits(fake([1.0], [1.99]))


def test_a_row_of_memory_compares_memory():
    found = fake([1.0], [5.0], of="memory")
    assert results.values(found, "ours") == [10.0]
    assert results.ratio(found, "theirs").median == 5.0
    assert "10 MB (10 to 10)" in table.markdown({"r": found})


def test_achieved_rates_are_shares_of_the_limits_of_the_machine():
    found = fake([2.0], [4.0], flops=50e9, bytes=4e9)
    assert results.achieved(found) == {"GFLOP/s": (25.0, 0.5), "GB/s": (2.0, 0.1)}
    found["single"] = True
    assert results.achieved(found)["GFLOP/s"] == (25.0, 0.25)
    assert results.achieved(fake([2.0], [4.0])) == {}


def test_memory_counts_what_is_touched_and_given_back():
    def work() -> float:
        return float(np.ones(12_500_000).sum())  # 100 MB, freed when it returns

    given, rise = memory.above(work)
    assert given == 12_500_000
    # Pages of the allocator and of NumPy's own come and go beside it.
    assert 90 < rise < 130
    _, again = memory.above(work)  # what is past has no part in it
    assert 90 < again < 130
    _, nothing = memory.above(lambda: None)
    assert nothing < 10


def test_limits_are_rates_of_the_counted_work(monkeypatch):
    monkeypatch.setattr(limits, "_least", lambda work: work() is None or 0.5)
    found = limits.measure(size=100, megabytes=1)
    assert found == {
        "float64": pytest.approx(2 * 100**3 / 0.5 / 1e9),
        "float32": pytest.approx(2 * 100**3 / 0.5 / 1e9),
        "copy": pytest.approx(2e6 / 0.5 / 1e9),
    }


def test_machine_and_versions_name_neither_host_nor_path():
    told = f"{machine.machine()} {machine.versions()}"
    assert os.uname().nodename not in told
    assert str(Path.home()) not in told
    assert "torch " in told
    assert f"{os.cpu_count()} cores" in told


# --- table, figure, command -----------------------------------------------------------------------


def test_the_table_tells_medians_spread_targets_and_failures():
    records = {
        "fast": fake([1.0, 1.5, 2.0], [4.0, 4.5, 5.0]),
        "slow": fake([0.002], [0.003]),
        "short": fake([1.0], [9.0], same=f"short: {LOWER_BOUND}"),
    }
    records["bad"] = {**records["slow"], "error": "theirs: TypeError: a | b", "runs": {}}
    text = table.markdown(records, figure="f.png")
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    first = text.partition("## ")[0]
    assert "2 of 4 targets are reached" in text
    assert "1.5 s (1 to 2) | 4.5 s (4 to 5) | **3** (2.5 to 4) | ≥ 2 | hit |" in first
    assert "2 ms (2 to 2) | 3 ms (3 to 3) | **1.5** (1.5 to 1.5) | ≥ 2 | **missed** |" in first
    assert "≥ 9 s (9 to 9) | ≥ **9** (9 to 9)" in first
    assert "**failed**: theirs: TypeError: a \\| b |" in first
    assert "the same \\| bound" in rows["fast"]  # the last line of that name: the second table
    assert "matmul float64 50.0 GFLOP/s, matmul float32 100.0 GFLOP/s, copy 20.0 GB/s" in text
    for part in text.split("\n\n"):  # every line of a table has as many cells as its head
        lines = part.replace("\\|", "").splitlines()
        if lines[0].startswith("| "):
            assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_long_answers_are_not_kept_and_short_ones_are():
    row = fake([1.0], [1.0])["runs"]["ours"][0]
    assert row["quality"] == {"a": 1.0}
    many = {"ours": [{"seconds": 1.0, "quality": dict.fromkeys(map(str, range(50)), 1.0)}]}
    one = Row("r", "w", "p", {"ours": print, "p": print}, {"dtype": "float32"}, {}, str, 1.0)
    kept = results.record(one, "file", size="full", runs=many, circumstances=WHERE)
    assert kept["runs"] == {"ours": [{"seconds": 1.0}]}
    assert kept["single"]


def drawn_rows(png: Path) -> bool:
    return png.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def run_toys(toys, monkeypatch):
    """The command on the toys; limits and figure are tested by themselves."""
    monkeypatch.setattr(command, "find", lambda: toys)
    monkeypatch.setattr(running, "limits", lambda *_: LIMITS)
    return command.main


def test_a_failure_is_told_and_later_rows_run_and_the_code_is_one(run_toys, tmp_path, capsys):
    out = tmp_path / "T.md"
    assert run_toys(["raising", "good", "--runs", "1", "--out", str(out)]) == 1
    kept = json.loads((tmp_path / "T.json").read_text())
    assert list(kept) == ["good", "raising"]  # in the order of the table, not of the command
    assert kept["raising"]["error"] == "theirs: TypeError: no such | thing"
    assert kept["good"]["error"] == ""
    assert "**failed**: theirs: TypeError: no such \\| thing" in out.read_text()
    assert drawn_rows(tmp_path / "T.png")
    printed = capsys.readouterr()
    assert "[2/2" in printed.out
    assert "Traceback" in printed.err
    assert str(tmp_path) not in out.read_text()


def test_an_interrupted_run_keeps_what_it_has_and_rows_not_named(
    run_toys, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "write", written_without_figure)
    out = tmp_path / "T.md"
    arguments = ["--runs", "1", "--out", str(out)]
    assert run_toys(["free", *arguments]) == 0
    before = json.loads((tmp_path / "T.json").read_text())["free"]
    real = running.run_row

    def interrupted(file, row, **options):
        if row.name == "cold":
            raise KeyboardInterrupt
        return real(file, row, **options)

    monkeypatch.setattr(running, "run_row", interrupted)
    assert run_toys(["good", "cold", "wrong", *arguments]) == 130
    kept = json.loads((tmp_path / "T.json").read_text())
    assert list(kept) == ["good", "free"]
    assert kept["free"] == before
    assert "| good |" in out.read_text()
    assert "interrupted; T.md has the rows that were done" in capsys.readouterr().err


def test_a_row_that_is_gone_leaves_the_table(run_toys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "write", written_without_figure)
    results.save(tmp_path / "T.json", {"gone": fake([1.0], [2.0])})
    assert run_toys(["good", "--runs", "1", "--out", str(tmp_path / "T.md")]) == 0
    assert list(results.load(tmp_path / "T.json")) == ["good"]


def written_without_figure(records, out: Path) -> None:
    results.save(out.with_suffix(".json"), records)
    out.write_text(table.markdown(records), "utf-8")


def test_what_cannot_be_run_is_refused_in_one_line(run_toys, tmp_path, capsys):
    assert run_toys(["nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: no row is called 'nothing'; there are good,")
    for arguments, told in (
        (["--runs", "0"], "--runs: at least 1, got 0"),
        (["--out", str(tmp_path / "T.html")], "ends in .md; got T.html"),
    ):
        with pytest.raises(SystemExit) as stop:
            run_toys(arguments)
        assert stop.value.code == 2
        assert told in capsys.readouterr().err


def test_tiny_runs_do_not_touch_the_table():
    assert command.TINY_OUT != command.OUT
    assert command.TINY_OUT.parent.name == "results"  # which git does not keep


def test_measured_has_no_more_than_the_contract():
    assert Measured(1.0, {}) == Measured(1.0, {}, 0.0, 0.0, 0.0)
