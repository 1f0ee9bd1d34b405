"""How time and memory grow with the rows: from ten thousand to a million.

    python -m benchmarks.growth [--tiny] [--works NAME …] [--sizes N …] [--seconds S] [--out FILE]

Every cell runs in a process of its own, warmed up on a few rows. Time should be proportional to the
rows, a slope of 1 in logarithms; peak memory is told above that before the work, data included.
Writes growth.md beside this file; works that are not asked for keep their lines in it. A work that
would take more than S seconds at its next size, by its last, goes no further. Memory is Linux's:
elsewhere it is told as nan.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SIZES = (10_000, 32_000, 100_000, 320_000, 1_000_000)
TINY = (200, 400)
WARM_UP = 2000
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Work = Callable[[], object]
NOTES = """\
A work stops where its next size would take more than the seconds that it was given. The codes of
FISTA are themselves n × 128 numbers. What does not grow with the rows (traces, checks, pieces of
the least size) hides the slope of `diagnose` and of the epoch at small n; and at 10,000 rows
`diagnose` runs short chains, which it cannot afford from 32,000 on.
"""


def em(n: int) -> Work:
    """Ten iterations, 8 features, 5 components, full covariances."""
    import torch

    from pyro_cookbook.algorithms.gaussian_mixture import em as algorithm

    random = torch.Generator().manual_seed(0)
    v = torch.randn(n, 8, generator=random, dtype=torch.float64)
    v += 3 * torch.randint(0, 5, (n, 1), generator=random)
    start = algorithm.random_start(v[:WARM_UP], 5, seed=0)
    return lambda: algorithm.em(v, 5, start=start, max_iterations=10, tol=1e-30)


def fista(n: int) -> Work:
    """Fifty iterations, 64 features, 128 atoms."""
    import torch

    from pyro_cookbook.algorithms.sparse_coding import fista as algorithm

    theta, v = _codes(n, 128)
    return lambda: algorithm.fista(
        algorithm.SparseCodingParameters(theta["W"], theta["b"], *map(torch.tensor, (0.2, 0.2))),
        v, tol=1e-30, max_iterations=50,
    )  # fmt: skip


def fixed_point(n: int) -> Work:
    """Ten sweeps over 64 binary units, 64 features."""
    import torch

    from pyro_cookbook.algorithms.binary_sparse_coding import mean_field

    theta, v = _codes(n, 64)
    parameters = mean_field.SparseCodingParameters(
        theta["W"], torch.full((64,), -2.0), torch.tensor(0.5)
    )
    return lambda: mean_field.coordinate_ascent(
        parameters, v, max_sweeps=10, tol=1e-30, keep_elbo=False
    )


def vae(n: int) -> Work:
    """One epoch of batches of 256, 64 features, 8 latents."""
    import torch

    import pyro_cookbook as pc
    from guides.variational_autoencoder import VariationalAutoencoderAmortized
    from models.variational_autoencoder import VariationalAutoencoder

    v = torch.rand(n, 64, generator=torch.Generator().manual_seed(0)).round()
    model = VariationalAutoencoder(64, 8)
    guide = VariationalAutoencoderAmortized(64, 8)
    batch = min(256, n)
    return lambda: pc.fit(
        model, guide, v, batch_size=batch, max_steps=-(-n // batch), progress=False
    )


def diagnose(n: int) -> Work:
    """A verdict from 200 draws on the exact guide of a linear regression, 4 coefficients."""
    import pyro_cookbook as pc

    fit = _regression(n)
    return lambda: pc.diagnose(fit, num_draws=200, progress=False)


def to_datatree(n: int) -> Work:
    """Fifty draws of the same, all of them kept."""
    import pyro_cookbook as pc

    fit = _regression(n)
    return lambda: pc.to_datatree(fit, num_draws=50, max_gib=16)


WORKS = {work.__name__: work for work in (em, fista, fixed_point, vae, diagnose, to_datatree)}


def _codes(n: int, num_atoms: int) -> tuple[dict[str, Any], Any]:
    """Rows of a few atoms of 64 features each, and what made them."""
    import torch

    random = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(64, num_atoms, generator=random), dim=0)
    v = torch.randn(n, 64, generator=random).mul_(0.1)
    for _ in range(3):
        v += W.T[torch.randint(0, num_atoms, (n,), generator=random)]
    return {"W": W, "b": torch.zeros(64)}, v


def _regression(n: int) -> Any:
    """A fit that needs no fitting: coefficients ~ N(0, I), noise of sd 1, the posterior known."""
    import pyro
    import pyro.distributions as dist
    import torch

    import pyro_cookbook as pc

    random = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=random)
    y = x.sum(1) + torch.randn(n, generator=random)
    precision = torch.eye(4) + x.T @ x
    loc = torch.linalg.solve(precision, x.T @ y)

    def model(x: Any, y: Any) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    def guide(x: Any, y: Any) -> None:
        pyro.sample("w", dist.MultivariateNormal(loc, precision_matrix=precision))

    return pc.as_fit(model, guide, x, y)


def measure(name: str, n: int) -> dict[str, float]:
    """Run one cell here: seconds, seconds of the processor, and MB at the peak above before."""
    import torch

    torch.set_num_threads(1)
    WORKS[name](min(n, WARM_UP))()
    work = WORKS[name](n)
    if REFERENCES.exists():
        REFERENCES.write_text("5")  # the peak begins anew
    before, began, own = _status("VmRSS"), time.perf_counter(), time.process_time()
    work()
    seconds, own = time.perf_counter() - began, time.process_time() - own
    return {"seconds": seconds, "processor": own, "memory": _status("VmHWM") - before}


def _status(field: str) -> float:
    """Memory of this process, in MB."""
    if not STATUS.exists():
        return float("nan")
    return int(STATUS.read_text().partition(f"{field}:")[2].split()[0]) / 1000


def cell(name: str, n: int) -> dict[str, float]:
    """Run one cell in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", "--one", name, str(n)],
        check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Least squares through log seconds over log n; nan of fewer than two."""
    import numpy as np

    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def grow(name: str, sizes: Sequence[int], most: float) -> list[dict[str, float]]:
    """Measure one work at every size that it can be expected to end at in time."""
    cells: list[dict[str, float]] = []
    for n in sizes:
        if cells and cells[-1]["seconds"] * n / cells[-1]["n"] > most:
            break
        cells.append({"n": n, **cell(name, n)})
    return cells


def table(found: dict[str, list[dict[str, float]]], before: str = "") -> str:
    """Write every cell in Markdown, and the slope of each work; others' lines are kept."""
    lines = [
        "# Growth",
        "",
        "Written by `python -m benchmarks.growth`: every cell in a process of its own, one thread.",
        "The slope is of log processor seconds over log n, all sizes together; the local slope",
        "is from the size before. Peak memory is above that before the work, data included.",
        "",
        "| work | n | seconds | of the processor | local slope | slope | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    blocks = kept(before) | {name: rows(name, cells) for name, cells in found.items()}
    lines += [line for block in blocks.values() for line in block]
    works = [f"- {name}: {' '.join(str(WORKS[name].__doc__).split())}" for name in blocks]
    return "\n".join([*lines, "", *works, "", NOTES])


def rows(name: str, cells: list[dict[str, float]]) -> list[str]:
    """Write the lines of one work."""
    lines = []
    sizes, own = [int(c["n"]) for c in cells], [c["processor"] for c in cells]
    whole = slope(sizes, own)
    for i, one in enumerate(cells):
        local = f"{slope(sizes[i - 1 : i + 1], own[i - 1 : i + 1]):.2f}" if i else ""
        last = f"{whole:.2f}" if i == len(cells) - 1 else ""
        lines.append(
            f"| {name if not i else ''} | {sizes[i]:,} | {one['seconds']:.2f} | {own[i]:.2f} |"
            f" {local} | {last} | {one['memory']:.0f} |"
        )
    return lines


def kept(before: str) -> dict[str, list[str]]:
    """Find the lines of each work in a table: the first names it, the others leave it out."""
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in before.splitlines():
        first = line.split("|")[1].strip() if line.startswith("| ") else None
        name = first or name if first is not None else ""
        if name in WORKS:
            blocks.setdefault(name, []).append(line)
    return blocks


def main(argv: Sequence[str] | None = None) -> dict[str, list[dict[str, float]]]:
    """Measure what is asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a few hundred rows, in this process")
    parser.add_argument("--works", nargs="*", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--sizes", nargs="*", type=int)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.one:
        print(json.dumps(measure(asked.one[0], int(asked.one[1]))))
        return {}
    sizes = asked.sizes or (TINY if asked.tiny else SIZES)
    if asked.tiny:
        found = {w: [{"n": n, **measure(w, n)} for n in sizes] for w in asked.works}
    else:
        found = {w: grow(w, sizes, asked.seconds) for w in asked.works}
    text = table(found, asked.out.read_text("utf-8") if asked.out.exists() else "")
    asked.out.write_text(text, "utf-8")
    print(text)
    return found


if __name__ == "__main__":
    main()
