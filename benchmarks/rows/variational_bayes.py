"""The variational Bayes mixture to convergence, beside scikit-learn's: same priors, same start.

Both begin with every row at the nearest of K rows and sweep until the bound rises by less than one
part in 10⁹. What they end at is judged by one bound, ours.
"""

import warnings
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from benchmarks.harness.row import Measured, Row

TOL = 1e-9
# scikit-learn stops by nats, ours by a part of the bound: about so many nats a row.
FULL = {"rows": 50_000, "columns": 10, "components": 12, "nats": 16.2}
TINY = {"rows": 1_000, "columns": 3, "components": 4, "nats": 5.4}


def data(size: Mapping[str, Any]) -> tuple[Any, Any]:
    """Rows from eight normal groups that overlap, and the nearest of K rows to each, one-hot."""
    import numpy as np

    rng = np.random.default_rng(0)
    num_rows, num_features = size["rows"], size["columns"]
    centres = rng.normal(scale=1.5, size=(8, num_features))
    v = rng.normal(size=(num_rows, num_features))
    v += centres[rng.integers(8, size=num_rows)]
    seeds = v[rng.choice(num_rows, size["components"], replace=False)]
    nearest = ((seeds**2).sum(1) - 2 * v @ seeds.T).argmin(1)
    return v, np.eye(size["components"])[nearest]


def prior_of(size: Mapping[str, Any], v: Any) -> Any:
    """A weak prior: of weights, means and covariances about that of all rows."""
    import numpy as np
    import torch

    from models.gaussian_mixture import MixturePrior

    scale = torch.as_tensor(np.linalg.inv(np.cov(v.T)))
    return MixturePrior(
        concentration=torch.full((size["components"],), 1 / size["components"]).double(),
        loc=torch.as_tensor(v.mean(0)),
        mean_precision=torch.tensor(1.0).double(),
        df=torch.tensor(size["columns"] + 2.0).double(),
        precision_tril=torch.linalg.cholesky(scale),
    )


def ours(size: Mapping[str, Any]) -> Measured:
    import pyro_cookbook  # noqa: F401 - before torch, as anyone would who uses it

    # isort: split
    import torch

    from benchmarks.harness.memory import above
    from pyro_cookbook.algorithms.gaussian_mixture.variational_bayes import fit_variational_mixture

    x, start = data(size)
    v, weight, prior = torch.as_tensor(x), torch.as_tensor(start), prior_of(size, x)
    fit_variational_mixture(v[:500], prior, start=weight[:500], max_iterations=2)  # warm up
    began = perf_counter()
    found, memory = above(lambda: fit_variational_mixture(v, prior, start=weight, tol=TOL))
    seconds = perf_counter() - began
    assert found.converged
    return measured(size, seconds, found.elbo[-1], len(found.elbo), memory)


def scikit_learn(size: Mapping[str, Any]) -> Measured:
    import numpy as np
    from sklearn.mixture import BayesianGaussianMixture

    from benchmarks.harness.memory import above

    x, start = data(size)

    class FromStart(BayesianGaussianMixture):  # the start is no argument of it
        def _initialize_parameters(self, X: Any, *args: Any, **kwargs: Any) -> None:
            self._initialize(X, start[: len(X)])

    def fit(num_rows: int, max_iter: int) -> Any:
        return FromStart(
            n_components=size["components"],
            tol=TOL * num_rows * size["nats"],
            reg_covar=0,
            max_iter=max_iter,
            weight_concentration_prior_type="dirichlet_distribution",
            weight_concentration_prior=1 / size["components"],
            mean_precision_prior=1.0,
            mean_prior=x.mean(0),
            degrees_of_freedom_prior=size["columns"] + 2.0,
            covariance_prior=np.cov(x.T),
        ).fit(x[:num_rows])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        fit(500, 5)  # warm up
    began = perf_counter()
    model, memory = above(lambda: fit(len(x), 5000))
    seconds = perf_counter() - began
    assert model.converged_
    return measured(size, seconds, bound(size, x, model), model.n_iter_, memory)


def bound(size: Mapping[str, Any], x: Any, model: Any) -> float:
    """Our bound of the peer's posterior, in nats: its own leaves constants out."""
    import numpy as np
    import torch

    from pyro_cookbook.algorithms.gaussian_mixture import variational_bayes as vb

    scale = np.linalg.inv(model.covariances_ * model.degrees_of_freedom_[:, None, None])
    q = vb.MixturePosterior(
        *map(
            torch.as_tensor,
            (
                model.weight_concentration_,
                model.means_,
                model.mean_precision_,
                model.degrees_of_freedom_,
                np.linalg.cholesky(scale),
            ),
        )
    )
    norm = vb.expectation(q, torch.as_tensor(x))[1]
    return float(norm - vb.kl_to_prior(q, prior_of(size, x)))


def measured(
    size: Mapping[str, Any], seconds: float, bound: float, sweeps: int, memory: float
) -> Measured:
    """Count what a sweep needs at least: a triangle for whitening, a triangle of moments."""
    num_rows, num_features = size["rows"], size["columns"]
    # N K D (D + 1) / 2 multiplications and additions, twice.
    flops = 2 * num_rows * size["components"] * num_features * (num_features + 1)
    quality = {"bound a row": bound / num_rows, "sweeps": float(sweeps)}
    return Measured(seconds, quality, sweeps * flops, memory=memory)


def same(runs: Mapping[str, Sequence[Measured]]) -> str:
    """Every run of every side ended at one bound."""
    bounds = [run.quality["bound a row"] for many in runs.values() for run in many]
    apart = (max(bounds) - min(bounds)) / abs(max(bounds))
    assert apart < 100 * TOL, f"bounds are {apart:.1e} apart, expected less than {100 * TOL:.0e}"
    sweeps = ", ".join(f"{side} {many[0].quality['sweeps']:.0f}" for side, many in runs.items())
    return f"bounds a row, {bounds[0]:.6f} nats, equal to {apart:.0e}; sweeps: {sweeps}"


ROWS = (
    Row(
        name="variational_bayes",
        work="variational Bayes mixture, 50,000 × 10, 12 components, same priors and start, until"
        " the bound rises by less than 1e-9 of itself",
        peer="scikit-learn BayesianGaussianMixture",
        sides={"ours": ours, "scikit-learn": scikit_learn},
        full=FULL,
        tiny=TINY,
        same=same,
        target=2.5,
    ),
)
