"""The table, in Markdown, from the records alone."""

from collections.abc import Mapping

from benchmarks.harness.results import (
    Record,
    Spread,
    achieved,
    hits,
    lines,
    ratio,
    spread,
    values,
)

INTRODUCTION = """\
Written by `make bench`, which runs every side of every row each time in a process of its own, the
sides in turn, each first every other time. A cell is the median (smallest to largest) of the runs;
cold rows count the whole process, imports and compilation included, the others the work alone.
"Times" is the peer's median over ours; of a row of memory, that of the peaks above the data. A
target below 1 allows ours to be slower by that much. Both sides have equally many threads."""
EMPTY = "–"


def markdown(records: Mapping[str, Record], *, figure: str = "") -> str:
    """Render all records."""
    sets = {
        key: chr(ord("A") + i) for i, key in enumerate(dict.fromkeys(map(_where, records.values())))
    }
    tiny = any(found["size"] == "tiny" for found in records.values())
    reached = sum(map(hits, records.values()))
    parts = [
        "# Faster than what one would use instead?",
        INTRODUCTION,
        "**Tiny sizes, which say nothing of speed: only that both sides agree.**" if tiny else "",
        f"{reached} of {len(records)} targets are reached.",
        f"![Times faster than the peer, with targets]({figure})" if figure else "",
        _ratios(records),
        "## The same problem to the same quality, and the distance to the machine's limits",
        "Achieved by ours: the least operations and bytes that the work needs, over its seconds,"
        " and as a share of a measured matmul (in the row's precision) and a measured copy on as"
        " many threads. Load: processes that wanted a processor in the minute before the row.",
        _checks(records, sets),
        _notes(records),
        "## Measured on",
        "\n".join(f"- {sets[key]}: {_told(key)}" for key in sets),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ratios(records: Mapping[str, Record]) -> str:
    """Give the first table: a line for each peer."""
    told = [
        "| row | work | peer | threads | ours | peer's | times | target | |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, found, side in lines(records):
        own = side == found["peer_side"]
        target = f"≥ {found['target']:.2g}" if own else EMPTY
        if found["error"]:
            cells = [EMPTY, EMPTY, EMPTY, target, f"**failed**: {escaped(found['error'])}"]
        else:
            times, least = ratio(found, side), "≥ " if own and found["lower_bound"] else ""
            verdict = ("hit" if hits(found) else "**missed**") if own else ""
            cells = [
                cell(spread(values(found, "ours")), found["of"]),
                least + cell(spread(values(found, side)), found["of"]),
                f"{least}**{times.median:.3g}** ({times.least:.3g} to {times.most:.3g})",
                target,
                verdict,
            ]
        threads = str(found["threads"] or "default")
        beside = f", {found['busy']} busy processes beside" if found["busy"] else ""
        work = found["work"] + beside + (", cold process" if found["cold"] else "")
        peer = found["peer"] if own else side
        told.append(f"| {' | '.join([name, escaped(work), escaped(peer), threads, *cells])} |")
    return "\n".join(told)


def _checks(records: Mapping[str, Record], sets: Mapping[tuple, str]) -> str:
    """Give the second: what both sides reached, runs, load, and achieved rates."""
    told = [
        "| row | both sides reached | runs | load | achieved by ours | on |",
        "|---|---|--:|--:|---|---|",
    ]
    for name, found in records.items():
        rates, runs = EMPTY, EMPTY
        if not found["error"]:
            runs = str(len(found["runs"]["ours"]))
            rates = "; ".join(
                f"{rate:.3g} {unit}, {share:.0%}" for unit, (rate, share) in achieved(found).items()
            )
        cells = [
            name,
            escaped(found["same"]) or EMPTY,
            runs,
            f"{found['load']:.1f}",
            rates or EMPTY,
            sets[_where(found)],
        ]
        told.append(f"| {' | '.join(cells)} |")
    return "\n".join(told)


def _notes(records: Mapping[str, Record]) -> str:
    return "\n".join(
        f"- {name}: {found['note']}" for name, found in records.items() if found["note"]
    )


def _where(found: Record) -> tuple:
    """Machine, versions, threads and limits of a record: what rows of one run share."""
    limits = tuple((name, round(rate, 1)) for name, rate in found["limits"].items())
    return found["machine"], found["versions"], found["threads"], limits


def _told(key: tuple) -> str:
    machine, versions, threads, limits = key
    rates = ", ".join(
        f"copy {rate:.1f} GB/s" if name == "copy" else f"matmul {name} {rate:.1f} GFLOP/s"
        for name, rate in limits
    )
    return (
        f"{machine}; {versions}; {rates or 'limits not measured'}, threads: {threads or 'default'}."
    )


def cell(found: Spread, of: str) -> str:
    """Give median (smallest to largest), in seconds or MB.

    >>> from benchmarks.harness.results import Spread
    >>> from benchmarks.harness.table import cell
    >>> cell(Spread(0.012345, 0.011, 0.02), "seconds")
    '12.3 ms (11 to 20)'
    """
    scale, unit = (1e3, "ms") if found.median < 0.1 else (1.0, "s")
    if found.median < 1e-4:
        scale, unit = 1e6, "µs"
    if of == "memory":
        scale, unit = 1.0, "MB"
    a, b, c = (f"{scale * number:.3g}" for number in (found.median, found.least, found.most))
    return f"{a} {unit} ({b} to {c})"


def escaped(text: str) -> str:
    """One line, with no bar that would end a cell.

    >>> from benchmarks.harness.table import escaped
    >>> escaped("a | b")
    'a \\\\| b'
    """
    return " ".join(text.split()).replace("|", "\\|")
