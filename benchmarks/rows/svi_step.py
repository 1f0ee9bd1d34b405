"""Steps of SVI on a small model: `fit`'s stochastic engine beside two loops in plain Pyro.

Eight schools, non-centred, under independent normals (`AutoNormal`): one draw a step, Adam at one
first learning rate. Ours is the whole of `fit`: steps before there is a graph, the graph, its
checks, where the bound is compared, and the final bound. The loops do nothing but step.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from benchmarks.harness.row import Measured, Row

LR = 0.01


def problem() -> tuple[Any, tuple[Any, ...]]:
    """Model and data."""
    import pyro
    import pyro.distributions as dist
    import torch

    torch.set_num_threads(1)
    pyro.settings.set(module_local_params=True)

    def model(sd: Any, y: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", 8):
            unit = pyro.sample("unit", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * unit, sd), obs=y)

    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return model, (torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]), y)


def reached(model: Any, guide: Any, data: tuple[Any, ...], size: Any) -> dict[str, float]:
    """Bound of a fitted guide by 20,000 draws, in nats, and how near the sides' bounds must be."""
    import pyro
    import torch
    from pyro.infer import Trace_ELBO

    pyro.set_rng_seed(1)
    elbo = Trace_ELBO(num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad():
        return {"elbo": -elbo.loss(model, guide, *data), "within": size["within"]}


def ours(size: Mapping[str, Any]) -> Measured:
    import pyro_cookbook as pc

    model, data = problem()

    def fitted(steps: int) -> Any:
        return pc.fit(model, "mean_field", *data, engine="stochastic", lr=LR, max_steps=steps,
                      tol=1e-6, progress=False)  # fmt: skip

    fitted(200)  # imports
    started = perf_counter()
    fit = fitted(size["steps"])
    seconds = perf_counter() - started
    assert len(fit.losses) == size["steps"], fit.reason
    assert fit.why == "it was asked for", fit.why  # the steps are a graph's
    return Measured(seconds, reached(model, fit.guide, data, size))


def by_step(size: Mapping[str, Any]) -> Measured:
    import pyro
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoNormal

    model, data = problem()
    pyro.set_rng_seed(0)
    guide = AutoNormal(model, init_scale=0.1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), loss=Trace_ELBO())
    svi.step(*data)
    started = perf_counter()
    for _ in range(size["steps"]):
        svi.step(*data)
    return Measured(perf_counter() - started, reached(model, guide, data, size))


def by_module(size: Mapping[str, Any]) -> Measured:
    import pyro
    import torch
    from pyro.infer import Trace_ELBO
    from pyro.infer.autoguide import AutoNormal

    model, data = problem()
    pyro.set_rng_seed(0)
    guide = AutoNormal(model, init_scale=0.1)
    loss = Trace_ELBO()(model, guide)
    loss(*data)
    optimizer = torch.optim.Adam(loss.parameters(), lr=LR, fused=True)
    started = perf_counter()
    for _ in range(size["steps"]):
        optimizer.zero_grad()
        loss(*data).backward()
        optimizer.step()
    return Measured(perf_counter() - started, reached(model, guide, data, size))


def same(runs: Mapping[str, Sequence[Measured]]) -> str:
    """Both bounds are as near to each other as the loops' wandering at a constant rate allows."""
    bounds = {side: [run.quality["elbo"] for run in many] for side, many in runs.items()}
    every = [value for many in bounds.values() for value in many]
    within = min(run.quality["within"] for many in runs.values() for run in many)
    assert max(every) - min(every) < within, bounds
    return "bounds " + ", ".join(f"{side} {many[0]:.2f}" for side, many in bounds.items())


def row(name: str, peer: str, side: Any) -> Row:
    return Row(
        name=name,
        work="20,000 steps of SVI, eight schools (10 latents), AutoNormal, one draw a step",
        peer=peer,
        sides={"ours": ours, peer: side},
        full={"steps": 20_000, "within": 0.15},
        tiny={"steps": 700, "within": 2.0},  # the bound starts about 10 nats below
        same=same,
        target=5.0,
        note="ours is all of `fit`, the peer only steps",
    )


ROWS = (
    row("svi_step", "Pyro SVI.step, pyro.optim.Adam", by_step),
    row("svi_step_module", "Pyro Trace_ELBO module, fused torch Adam", by_module),
)
