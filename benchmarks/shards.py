"""Past one process and past memory: three demonstrations, each by the commands that are shown.

    python benchmarks/shards.py [--tiny]

(a) two processes under torchrun end where one does; (b) a fit to ten times the memory that it is
allowed; (c) a fit that is killed by SIGKILL goes on bit for bit. Writes shards.md beside this file.
"""

import argparse
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

PLACE = Path(__file__).with_suffix(".md")
WIDE = 64  # columns of (b), float32
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def write_shards(folder: Path, shards: int, rows: int, columns: int, *, group: int) -> None:
    """Write rows of a few latents through a bend and with noise, float32, uncompressed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(3, columns))
    names = [f"c{i}" for i in range(columns)]
    for shard in range(shards):
        h = np.tanh(2 * rng.normal(size=(rows, 3)))
        v = (h @ loadings + 0.3 * rng.normal(size=(rows, columns))).astype(np.float32)
        table = pa.table(dict(zip(names, v.T, strict=True)))
        where = folder / f"part-{shard:03d}.parquet"
        parquet.write_table(table, where, row_group_size=group, compression="none")


def typed(command: str, **more: str) -> tuple[str, float, int]:
    """Run what a user would type; give what it printed, seconds, and how it ended."""
    started = time.perf_counter()
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    environment = {**os.environ, **ENVIRONMENT, **more}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    printed = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return printed, time.perf_counter() - started, done.returncode


def shown(command: str, printed: str, *, keep: tuple[str, ...] = ()) -> str:
    """Show a command and those of its lines that begin so; all, where none are named."""
    lines = [one.rstrip() for one in printed.splitlines()]
    lines = [one for one in lines if not keep or one.strip().startswith(keep)]
    return "\n".join(["```", f"$ {command}", *lines, "```"])


def compare(one: Path, other: Path) -> str:
    """Compare two runs' fits: parameters, losses and the bound."""
    import torch

    import pyro_cookbook as pc

    fits = [pc.load(folder / "state.safetensors") for folder in (one, other)]
    states = [
        {f"{role}.{k}": v for role in ("model", "guide") for k, v in vars_of(fit, role).items()}
        for fit in fits
    ]
    states[0]["losses"], states[1]["losses"] = (torch.tensor(fit.losses) for fit in fits)
    apart = max(float((states[0][k] - v).abs().div(v.abs().clamp(min=1e-3)).max())
                for k, v in states[1].items())  # fmt: skip
    same = all(torch.equal(states[0][k], v) for k, v in states[1].items())
    return (
        f"{len(states[0]['losses'])} losses and {sum(v.numel() for v in states[0].values()):,}"
        f" numbers in all, {'equal bit for bit' if same else f'apart by {apart:.1g} at most'};"
        f" ELBO on the rows held out {fits[0].elbo} and {fits[1].elbo} nats"
    )


def vars_of(fit: object, role: str) -> dict:
    """Give the state of a fit's model or guide."""
    return getattr(fit, role).state_dict()


# --- (a) and (c): the command line -------------------------------------------------------------

KEEP = (*"123456789", "bound", "Verdict", "ELBO", "evidence", "k-hat")


def two_processes(place: Path, options: str) -> list[str]:
    """Fit by one process in two parts, and by two."""
    one = f"pyro-cookbook fit 05c --data rows {options} --parts 2 --out one"
    two = f"torchrun --nproc-per-node 2 -m pyro_cookbook fit 05c --data rows {options} --out two"
    text = ["## (a) Two processes end where one does", ""]
    for command in (one, two):
        printed, seconds, code = typed(command)
        assert code == 0, printed
        text += [shown(command, printed, keep=KEEP), "", f"{seconds:.0f} s.", ""]
    return [*text, f"The two fits: {compare(place / 'one', place / 'two')}.", ""]


def killed_and_resumed(place: Path, options: str) -> list[str]:
    """Kill a fit once it has written a checkpoint, and type the same command again."""
    command = f"pyro-cookbook fit 05c --data rows {options} --parts 2 --out again"
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    child = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    unfinished = place / "again.unfinished"
    while not list(unfinished.glob("*.safetensors")):
        assert child.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
    time.sleep(0.5)  # some steps more, which are lost
    child.send_signal(signal.SIGKILL)
    code = child.wait()
    kept = [path.name for path in unfinished.iterdir()]
    printed, seconds, ended = typed(command)
    assert ended == 0, printed
    return [
        "## (c) Killed, and resumed bit for bit", "",
        f"The command of (a) for one process was killed by `kill -9` (it ended with {code}) and had"
        f" left `{kept[0]}` in `again.unfinished`. Typed again, it went on from there:", "",
        shown(command, printed, keep=KEEP), "", f"{seconds:.0f} s.", "",
        f"Beside the fit of (a) that nothing interrupted:"
        f" {compare(place / 'one', place / 'again')}.", "",
    ]  # fmt: skip


# --- (b): a limit on memory --------------------------------------------------------------------


def limited(folder: Path, allowed: float, *, stream: bool) -> None:
    """Fit under a limit of the address space: what a fit to few rows has mapped, and `allowed` MiB.

    The most that torch, Arrow and a fit of the same kind to few rows have mapped, its looks at the
    bound among it, is found in ``/proc``; the limit is what ``ulimit -v`` sets.
    """
    import torch

    import pyro_cookbook as pc
    from guides.variational_autoencoder import VariationalAutoencoderAmortized
    from models.variational_autoencoder import VariationalAutoencoder
    from pyro_cookbook.data import Shards

    def fit(rows: object, steps: int) -> pc.Fit:
        torch.manual_seed(0)
        model = VariationalAutoencoder(WIDE, 3, (32,))
        guide = VariationalAutoencoderAmortized(WIDE, 3, (32,))
        return pc.fit(
            model, guide, rows, batch_size=1024, max_steps=steps, lr=0.01, tol=1.0, progress=False
        )

    def opened(place: Path, held_out: float = 2e-5) -> Shards:
        return Shards(place, buffer=4096, held_out=held_out)

    fit(opened(folder.with_name("few")), 600)
    status = Path("/proc/self/status").read_text()
    used = int(status.split("VmPeak:")[1].split()[0]) * 2**10
    limit = used + int(allowed * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    rows = opened(folder)
    print(f"mapped by a fit to few rows: {used / 2**20:,.0f} MiB; ulimit -v {limit // 2**10}:"
          f" that and {allowed:g} MiB")  # fmt: skip
    if not stream:
        try:
            whole = torch.cat([v for (v,) in rows.batches(8192, seed=0, epoch=0)])
        except (MemoryError, RuntimeError) as error:
            print(f"all rows as one tensor: {str(error).splitlines()[0][:90]}")
        else:
            print(f"all rows as one tensor: {tuple(whole.shape)} had room")
        return
    started, used_before = time.perf_counter(), time.process_time()
    found = fit(rows, -(-len(rows) // 1024))  # every row once
    seconds, fitting = time.perf_counter() - started, time.process_time() - used_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before
    size = 4 * WIDE * len(rows) / 2**20
    print(f"{rows.told}: {size:,.0f} MiB as float32, {size / allowed:.1f} times what is allowed")
    first, last = found.losses[0] / len(rows), found.losses[-1] / len(rows)
    held = -found.elbo.value / len(found.args[0])
    assert len(found.losses) == -(-len(rows) // 1024)
    print(f"{len(found.losses)} steps, every row once, {seconds:.0f} s; −ELBO a row {first:.1f} at"
          f" first, {last:.1f} at last; {held:.1f} on the rows held out")  # fmt: skip
    print(f"peak of resident memory: {before + peak:.0f} MiB, {peak:.0f} more than with few rows")
    used_before = time.process_time()
    count = sum(len(v) for (v,) in rows.batches(1024, seed=0, epoch=0))
    reading = time.process_time() - used_before
    print(f"{count:,} rows read and shuffled, and nothing else: {reading:.1f} s of a core, of"
          f" {fitting:.1f} s that the fit took")  # fmt: skip


def past_memory(place: Path, *, tiny: bool) -> list[str]:
    """Fit to ten times the memory that is allowed."""
    allowed, shards = 64, 2 if tiny else 20
    each = 10 * allowed * 2**20 // (4 * WIDE) // 20 + 1000
    write_shards(place / "large", shards, each, WIDE, group=4096)
    write_shards(place / "few", 2, 20_000, WIDE, group=4096)
    script = Path(__file__).resolve()
    text = [
        "## (b) Ten times the memory allowed", "",
        "The address space is limited to the most that torch, Arrow and a fit to few rows have"
        " mapped, and 64 MiB. Few rows are held out: draws of all of them for"
        " the last bound take memory of their own, which the rows that are fitted do not change.",
        "",
    ]  # fmt: skip
    for how in ("memory", "shards"):
        command = f"python benchmarks/shards.py --limited large --how {how} --allowed {allowed}"
        printed, _, code = typed(
            command.replace("benchmarks/shards.py", str(script)),
            ARROW_DEFAULT_MEMORY_POOL="system", MALLOC_ARENA_MAX="1",
        )  # fmt: skip
        assert code == 0, printed
        text += [shown(command, printed), ""]
    return [
        *text,
        "A mini-batch has rows of every row group in the buffer, in an order that depends on seed"
        " and epoch alone. So each process of several reads all row groups and computes its own"
        " parts of each mini-batch: the seconds of reading are each process's, the others are"
        " shared. To read a share only, processes would have to shuffle their own row groups, and"
        " the mini-batches, so the numbers of a fit, would depend on how many processes there are.",
        "",
    ]


def main() -> None:
    """Run the three and write the page; or, as a child, one fit under a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small, for a test")
    parser.add_argument("--limited", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--how", default="shards", help=argparse.SUPPRESS)
    parser.add_argument("--allowed", type=float, default=64.0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.limited is not None:
        limited(asked.limited, asked.allowed, stream=asked.how == "shards")
        return
    steps = 600 if asked.tiny else 700
    options = f"--batch-size 512 --held-out 0.002 --max-steps {steps} --latents 3 --draws 20"
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        place = Path(name)
        write_shards(place / "rows", 4, 5000, 8, group=1000)
        text = [*two_processes(place, options), *past_memory(place, tiny=asked.tiny)]
        text += killed_and_resumed(place, options)
    head = [
        "# Past one process and past memory", "",
        f"By `python benchmarks/shards.py`, {time.strftime('%d %B %Y')}: {os.cpu_count()} cores of"
        f" {platform.machine()}, Python {platform.python_version()}, torch {version('torch')},"
        f" pyarrow {version('pyarrow')}; one thread a process. `rows` has 20,000 rows of 8 columns"
        " in 4 Parquet files; of what is printed, the lines that matter. Seconds are from the start"
        " of the process to the report, verdict included, on a machine that others were using.", "",
    ]  # fmt: skip
    page = "\n".join([*head, *text]).rstrip() + "\n"
    if asked.tiny:
        print(page)
    else:
        PLACE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
