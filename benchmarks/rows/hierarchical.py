"""A hierarchical model of many groups, from a cold start to a verdict on its mean-field guide.

y_gj ~ N(μ + τ θ_g, 1), θ_g ~ N(0, 1), μ ~ N(0, 5²), τ ~ HalfNormal(2): non-centred, five
observations a group. Ours fits and judges; the peer fits to the same bound and computes the Pareto
k-hat of its draws, which is what its documentation offers as a diagnostic.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness.row import Measured, Row

# Nats a group by which bounds may differ: the peer's is noisy in steps of one draw.
TOLERANCE = 0.005
EACH = 5


def _data(groups: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centre = 1.0 + 0.7 * rng.standard_normal((groups, 1))
    return (centre + rng.standard_normal((groups, EACH))).astype(np.float32)


def ours(size: Mapping[str, Any]) -> Measured:
    """Fit mean field, and ask for the verdict."""
    y = _data(size["groups"])
    began = time.perf_counter()
    import pyro
    import pyro.distributions as dist
    import torch

    import pyro_cookbook as pc

    def model(y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfNormal(2.0))
        with pyro.plate("group", len(y), dim=-2):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
            with pyro.plate("each", y.shape[1], dim=-1):
                pyro.sample("y", dist.Normal(mu + tau * theta, 1.0), obs=y)

    fit = pc.fit(model, "mean_field", torch.from_numpy(y), progress=False)
    diagnosis = pc.diagnose(fit, progress=False)
    seconds = time.perf_counter() - began
    quality = {"elbo": diagnosis.elbo.value, "khat": diagnosis.khat, "groups": len(y)}
    return Measured(seconds, quality)


def numpyro(size: Mapping[str, Any]) -> Measured:
    """AutoNormal by Adam, its steps chosen to reach our bound, and PSIS of its draws."""
    y = _data(size["groups"])
    began = time.perf_counter()
    import jax
    import numpyro
    import numpyro.distributions as dist
    from arviz_stats.base import array_stats
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.infer.util import log_density

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfNormal(2.0))
        with numpyro.plate("group", len(y), dim=-2):
            theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
            with numpyro.plate("each", y.shape[1], dim=-1):
                numpyro.sample("y", dist.Normal(mu + tau * theta, 1.0), obs=y)

    guide = AutoNormal(model)
    # Adam's rate falls from 0.05 to 0.001: a constant one needs more steps to the same bound.
    adam = numpyro.optim.Adam(lambda step: 0.05 * 0.02 ** (step / size["steps"]))
    found = SVI(model, guide, adam, Trace_ELBO()).run(
        jax.random.PRNGKey(0), size["steps"], y, progress_bar=False
    )

    def weight(key: Any) -> Any:
        seeded = numpyro.handlers.seed(guide, key)
        log_q, trace = log_density(seeded, (y,), {}, found.params)
        values = {n: s["value"] for n, s in trace.items() if s["type"] == "sample"}
        return log_density(model, (y,), {}, values)[0] - log_q

    keys = jax.random.split(jax.random.PRNGKey(1), size["draws"])
    weights = np.asarray(jax.lax.map(jax.jit(weight), keys, batch_size=100), np.float64)
    khat = float(array_stats.psislw(-weights)[1])
    seconds = time.perf_counter() - began
    quality = {"elbo": float(weights.mean()), "khat": khat, "groups": len(y)}
    return Measured(seconds, quality)


def same(runs: Mapping[str, Sequence[Measured]]) -> str:
    """Both bounds within so many nats a group of the better one."""
    bounds = {side: max(run.quality["elbo"] for run in some) for side, some in runs.items()}
    groups = runs["ours"][0].quality["groups"]
    best = max(bounds.values())
    for side, bound in bounds.items():
        assert bound >= best - TOLERANCE * groups - 0.5, f"{side}: {bound:.2f}, best {best:.2f}"
    told = ", ".join(f"{side} {bound:.1f}" for side, bound in bounds.items())
    khats = ", ".join(f"{side} {some[0].quality['khat']:.2f}" for side, some in runs.items())
    return f"ELBO: {told}; k-hat: {khats}"


ROWS = tuple(
    Row(
        name=f"hierarchical_{groups}",
        work=f"hierarchical model of {groups + 2:,} latents, mean field, to a verdict; cold",
        peer="NumPyro AutoNormal, Adam, PSIS of its draws",
        sides={"ours": ours, "NumPyro": numpyro},
        full={"groups": groups, "steps": 3000, "draws": 4000},
        tiny={"groups": 20, "steps": 1500, "draws": 500},
        same=same,
        target=3.0,
        cold=True,
        note="ours runs 64 Markov chains from the guide's draws too; the peer, weights alone",
    )
    for groups in (1_000, 10_000)
)
