"""The figure: ratios on a log axis with their targets, from the records alone.

python -m benchmarks.harness.figure RESULTS.json OUT.png
"""

import sys
from pathlib import Path

from benchmarks.harness.finding import ROOT
from benchmarks.harness.results import Record, hits, lines, load, ratio

STYLE = ROOT / "recipes" / "cookbook.mplstyle"
HIT, MISSED, OTHER = "C0", "C1", "0.45"


def draw(records: dict[str, Record], out: Path) -> None:
    """Draw a line for each peer of each row; rows that failed are named and have no point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.style.use(STYLE)
    shown = list(lines(records))[::-1]  # the first on top
    _, axes = plt.subplots(figsize=(9.5, 1.9 + 0.34 * len(shown)))
    extent = [1.0]
    for y, (_, found, side) in enumerate(shown):
        own = side == found["peer_side"]
        if own:
            axes.plot([found["target"]] * 2, [y - 0.36, y + 0.36], color="0.1", lw=2.2, zorder=2)
            extent.append(found["target"])
        if found["error"]:
            axes.annotate("failed", (1, y), ha="center", va="center", color=MISSED)
            continue
        times = ratio(found, side)
        color = OTHER if not own else HIT if hits(found) else MISSED
        bound = own and found["lower_bound"]
        axes.plot([times.least, times.most], [y, y], color=color, lw=2, zorder=3)
        marker = ">" if bound else "o" if own and hits(found) else "X" if own else "D"
        axes.plot(times.median, y, marker, color=color, ms=8, zorder=4)
        axes.annotate(
            f"{'≥ ' if bound else ''}{times.median:.{1 if times.median < 10 else 0}f}",
            (max(times.most, times.median, found["target"] if own else 0), y),
            xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, color=color,
        )  # fmt: skip
        extent += [times.least, times.most]
    _scales(axes, extent, [f"{name}  beside {side}" for name, _, side in shown])
    _legend(axes)
    plt.savefig(out, dpi=110)
    plt.close()


def _scales(axes, extent: list[float], names: list[str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(extent) / 1.35, max(extent) * 1.9)
    ticks = [10.0**p * d for p in range(-3, 6) for d in (1, 2, 5)]
    if max(extent) / min(extent) > 300:  # too many to be read
        ticks = [10.0**p for p in range(-3, 6)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axes.axvline(1, color="0.6", lw=1, ls="--", zorder=1)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(False, axis="y")
    axes.set_xlabel("the peer's seconds (or peak memory) over ours, log scale")
    axes.set_title("How many times less ours needs than the peer", loc="left")


def _legend(axes) -> None:
    from matplotlib.lines import Line2D

    def point(marker: str, color: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=color, lw=2, ms=8, label=label)

    axes.figure.legend(
        handles=[
            point("o", HIT, "target reached"),
            point("X", MISSED, "missed"),
            point(">", HIT, "at least: the peer stops short"),
            point("D", OTHER, "another peer, no target"),
            Line2D([], [], color="0.1", lw=2.2, label="target (a point's bar: least to most run)"),
        ],
        loc="outside upper left", ncols=3, fontsize=8,
    )  # fmt: skip


if __name__ == "__main__":
    draw(load(Path(sys.argv[1])), Path(sys.argv[2]))
