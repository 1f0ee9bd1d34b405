"""EM beside other work: what it costs that OpenMP's idle threads spin while they wait.

``python benchmarks/contention.py > benchmarks/contention.md`` fits a Gaussian mixture (200,000 rows
of 16 columns, 10 components, 10 iterations, full covariances, float64) by our EM and by
scikit-learn's, from the same start, alone and with two busy processes beside, in one thread and in
two. It is meant for a machine of two cores. Settings:

- ``package``: ``pyro_cookbook`` is imported before torch and sets ``OMP_WAIT_POLICY=PASSIVE``.
- ``torch first``: torch is imported before it, and the package computes in one thread.
- ``spinning``: libgomp's default, ``GOMP_SPINCOUNT=300000``, set by hand, which the package obeys.

Every cell is a process of its own: a warm-up on 1,000 rows, then the median of five runs, or of as
many as have ended when the process is two minutes old. The load of the machine is told in each
line: where other work goes on, "alone" is not alone.
"""

import importlib
import os
import platform
import subprocess
import sys
import time
import warnings
from statistics import median

import numpy as np

NUM_ROWS, NUM_FEATURES, NUM_COMPONENTS, ITERATIONS = 200_000, 16, 10, 10
RUNS, LIMIT = 5, 120
SETTINGS = {
    "package": {},
    "torch first": {},
    "spinning": {"GOMP_SPINCOUNT": "300000"},
}
CELLS = [
    ("cookbook", "package", 1),
    ("cookbook", "package", 2),
    ("cookbook", "torch first", 2),
    ("cookbook", "spinning", 1),
    ("cookbook", "spinning", 2),
    ("scikit-learn", "package", 1),
    ("scikit-learn", "package", 2),
    ("scikit-learn", "spinning", 2),
]
# Ends by itself, should this process be killed before it can end it.
BUSY = f"import time; end = time.time() + {2 * LIMIT}\nwhile time.time() < end: pass"


def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=4, size=(12, NUM_FEATURES))
    return centres[rng.integers(12, size=NUM_ROWS)] + rng.normal(size=(NUM_ROWS, NUM_FEATURES))


def measure(peer: str, setting: str, threads: int) -> None:
    """Print the seconds of every run, and the bound a row: the work done must be the same."""
    order = ["pyro_cookbook", "torch"]
    for name in reversed(order) if setting == "torch first" else order:
        importlib.import_module(name)
    import torch
    from threadpoolctl import threadpool_limits

    from pyro_cookbook.algorithms.gaussian_mixture import em

    torch.set_num_threads(threads)
    x = rows()
    v = torch.as_tensor(x)
    start = em.random_start(v, NUM_COMPONENTS)
    if peer == "cookbook":

        def fit(num_rows: int) -> float:
            options = {"start": start, "max_iterations": ITERATIONS, "tol": 0}
            return em.em(v[:num_rows], NUM_COMPONENTS, **options).elbo[-1] / num_rows
    else:
        from sklearn.mixture import GaussianMixture

        warnings.simplefilter("ignore")  # it has not converged: ten iterations were asked for
        covariance = (start.scale_tril @ start.scale_tril.mT).numpy()

        def fit(num_rows: int) -> float:
            model = GaussianMixture(
                NUM_COMPONENTS,
                tol=0,
                max_iter=ITERATIONS,
                weights_init=start.weights.numpy(),
                means_init=start.loc.numpy(),
                precisions_init=np.linalg.inv(covariance),
            )
            return model.fit(x[:num_rows]).lower_bounds_[-1]

    with threadpool_limits(threads):
        fit(1000)
        for _ in range(RUNS):
            before = time.perf_counter()
            bound = fit(NUM_ROWS)
            print(time.perf_counter() - before, bound, flush=True)


def cell(peer: str, setting: str, threads: int, num_busy: int) -> tuple[str, str]:
    """Seconds of the runs, as the table shows them, and the bound a row."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"}
    }
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(num_busy)]
    try:
        done = subprocess.run(
            [sys.executable, __file__, peer, setting, str(threads)],
            env=environment | SETTINGS[setting],
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT,
        )
        lines = done.stdout.splitlines()
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").decode().splitlines()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    if not lines:
        return f"above {LIMIT}", ""
    seconds = [float(line.split()[0]) for line in lines]
    shown = f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}, {len(lines)})"
    return shown, f"{float(lines[-1].split()[1]):.6f}"


def main() -> None:
    import torch

    print("# EM beside other work\n")
    print(__doc__.partition("\n\n")[2])
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch"
        f" {torch.__version__}. Seconds: median (smallest to largest, runs). Load: over the minute"
        " before the cells of a line.\n"
    )
    print("| peer | setting | threads | load | alone, s | two busy beside, s | bound a row |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for peer, setting, threads in CELLS:
        load = os.getloadavg()[0]
        (alone, bound), (beside, _) = (cell(peer, setting, threads, n) for n in (0, 2))
        print(
            f"| {peer} | {setting} | {threads} | {load:.1f} | {alone} | {beside} | {bound} |",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
