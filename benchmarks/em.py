"""EM for a Gaussian mixture: seconds and memory beside scikit-learn, from the same start.

``python benchmarks/em.py`` prints one table. Every cell is a process of its own, so that the peak
memory is its own too; the median of three runs counts.
"""

import resource
import subprocess
import sys
import time
import warnings
from statistics import median

import numpy as np

SIZES = [(20_000, 10, 8), (200_000, 10, 8), (200_000, 20, 16)]
ITERATIONS = 10
RUNS = 3


def rows(num_rows: int, num_features: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=4, size=(12, num_features))
    return centres[rng.integers(12, size=num_rows)] + rng.normal(size=(num_rows, num_features))


def measure(peer: str, num_rows: int, num_features: int, num_components: int) -> str:
    """Run ten iterations; give seconds, megabytes above the data, and the final bound a row."""
    import torch

    from pyro_cookbook.algorithms.gaussian_mixture import em as gaussian_mixture

    x = rows(num_rows, num_features)
    v = torch.as_tensor(x)
    start = gaussian_mixture.random_start(v, num_components)
    gaussian_mixture.em(v[:1000], num_components, start=start, max_iterations=2)  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    if peer == "cookbook":
        result = gaussian_mixture.em(
            v, num_components, start=start, max_iterations=ITERATIONS, tol=0
        )
        bound = result.elbo[-1] / num_rows
    else:
        from sklearn.mixture import GaussianMixture

        covariance = (start.scale_tril @ start.scale_tril.mT).numpy()
        peer_model = GaussianMixture(
            num_components,
            tol=0,
            max_iter=ITERATIONS,
            weights_init=start.weights.numpy(),
            means_init=start.loc.numpy(),
            precisions_init=np.linalg.inv(covariance),
        )
        warnings.simplefilter("ignore")  # it has not converged: ten iterations were asked for
        bound = peer_model.fit(x).lower_bounds_[-1]
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"{seconds} {memory / 1024} {bound}"


def main() -> None:
    print(f"{ITERATIONS} iterations of EM, full covariances, float64, median of {RUNS}")
    print(f"{'n':>8} {'D':>3} {'K':>3}  {'peer':12} {'seconds':>8} {'MB':>7}  bound per row")
    for size in SIZES:
        for peer in ("cookbook", "scikit-learn"):
            command = [sys.executable, __file__, peer, *map(str, size)]
            outputs = [
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                for _ in range(RUNS)
            ]
            seconds, memory, bound = (median(float(o[i]) for o in outputs) for i in range(3))
            n, d, k = size
            print(f"{n:8d} {d:3d} {k:3d}  {peer:12} {seconds:8.2f} {memory:7.0f}  {bound:.10f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(sys.argv[1], *map(int, sys.argv[2:])))
    else:
        main()
