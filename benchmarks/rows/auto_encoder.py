"""Epochs of a variational auto-encoder: `fit` beside hand-written PyTorch and Pyro's example.

A network of 784-400-20-400-784 with softplus between, of binary images of 28 × 28 that are drawn
from a network of the same kind and a fixed seed, on one draw of h a row. All sides have the same
optimiser (Adam, rate 0.001), batches from an in-memory tensor, and no data loader. The hand-written
loop has the KL divergence in closed form and torch's fused Adam; Pyro's side is its example
(`examples/vae`): `pyro.module`, `SVI.step`, `pyro.optim.Adam`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

from benchmarks.harness.row import Measured, Row

PIXELS, HIDDEN, LATENTS, LR = 784, 400, 20, 1e-3
# Steps before those that count: ours makes a graph at the second, and compares it at first.
WARM_UP = 156
# Multiplications and additions of a row: forward 2 per weight, backward 4, but for the first
# layer, whose input has no gradient: 2.
WEIGHTS = PIXELS * HIDDEN + HIDDEN * 2 * LATENTS + LATENTS * HIDDEN + HIDDEN * PIXELS
FLOPS_OF_ROW = 6 * WEIGHTS - 2 * PIXELS * HIDDEN
HAND, EXAMPLE = "hand-written PyTorch, fused Adam", "Pyro's example: SVI.step, pyro.module"

# Held-out nats a row, which a constant rate reaches after seven or eight epochs.
UNTIL = -277.0

Train = Callable[[int], None]  # so many epochs
Score = Callable[[Any], float]  # of held-out rows, nats a row


def images(num_rows: int) -> Any:
    """Binary images, shape (num_rows, 784): some strokes lit by few latents, with noise."""
    import torch

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    h = torch.randn(num_rows, LATENTS, generator=rng)
    spots = torch.randn(LATENTS, 49, generator=rng).reshape(LATENTS, 1, 7, 7)
    fields = torch.nn.functional.interpolate(spots, size=28, mode="bicubic").reshape(LATENTS, -1)
    return (torch.rand(num_rows, PIXELS, generator=rng) < torch.sigmoid(h @ fields - 1.5)).float()


def batches(v: Any, size: int) -> Iterator[Any]:
    """One epoch: all rows once, in a random order, the last batch ragged."""
    import torch

    for rows in torch.randperm(len(v)).split(size):
        yield v[rows]


def network() -> tuple[Any, Any]:
    """Encoder and decoder at torch's own random start."""
    from torch import nn

    encoder = nn.Sequential(
        nn.Linear(PIXELS, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, 2 * LATENTS)
    )
    return encoder, nn.Sequential(
        nn.Linear(LATENTS, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, PIXELS)
    )


def held_out(encoder: Any, decoder: Any, v: Any) -> float:
    """Bound of rows, nats a row: eight draws each, the KL divergence in closed form."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        loc, log_scale = encoder(v).chunk(2, -1)
        kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 2 * log_scale - 1).sum()
        total = 0.0
        for _ in range(8):
            h = loc + log_scale.exp() * torch.randn_like(loc)
            total += float(cross_entropy(decoder(h), v, reduction="sum"))
        return -(total / 8 + float(kl)) / len(v)


def run(size: Mapping[str, Any], make: Callable[[Any, int], tuple[Train, Score]]) -> Measured:
    """Time epochs: so many, after some uncounted ones, or until held-out rows have a bound."""
    v = images(size["rows"] + size["held_out"])
    training, rest = v[: size["rows"]], v[size["rows"] :]
    train, score = make(training, size["batch"])
    seconds, epochs, bound = 0.0, 0, -float("inf")
    if "until" not in size:  # until there is a graph
        train(-(-size["warm_up"] * size["batch"] // size["rows"]))
    while epochs < size["epochs"] and bound < size.get("until", 0.0):
        started = perf_counter()
        train(1)
        seconds += perf_counter() - started
        epochs += 1
        if "until" in size or epochs == size["epochs"]:
            bound = score(rest)
    flops = float(FLOPS_OF_ROW * size["rows"] * epochs)
    quality = {"elbo": bound, "epochs": float(epochs), "until": size.get("until", 0.0)}
    return Measured(seconds, quality, flops=flops)


def programs() -> tuple[Any, Any]:
    """Our model and guide, of the same network."""
    import torch

    from guides.variational_autoencoder import VariationalAutoencoderAmortized
    from models.variational_autoencoder import VariationalAutoencoder

    torch.manual_seed(0)
    model = VariationalAutoencoder(PIXELS, LATENTS, (HIDDEN,), likelihood="bernoulli")
    return model, VariationalAutoencoderAmortized(PIXELS, LATENTS, (HIDDEN,))


def our_epochs(size: Mapping[str, Any]) -> Measured:
    """Steps of `fit`'s stochastic engine, without what `fit` does before and after them."""
    import pyro
    from pyro.infer import Trace_ELBO

    from pyro_cookbook.engines.choosing import Stochastic
    from pyro_cookbook.engines.svi import SVI
    from pyro_cookbook.programs.program import Program
    from pyro_cookbook.programs.state.isolation import isolated

    def make(v: Any, batch: int) -> tuple[Train, Score]:
        model, guide = programs()
        program = Program(model, (v,))
        options = Stochastic(Trace_ELBO(), LR, 10**9, 1.0, batch_size=batch)
        steps = SVI(program, program.of(guide), options)

        def train(epochs: int) -> None:
            with pyro.validation_enabled(False):
                for _ in range(epochs * -(-len(v) // batch)):
                    steps.step()
            assert not steps.estimates.obstacle, steps.estimates.obstacle

        steps.prepare()
        return train, lambda rest: held_out(guide.encoder, model.decoder, rest)

    with isolated(0):
        return run(size, make)


def by_hand(size: Mapping[str, Any]) -> Measured:
    def make(v: Any, batch: int) -> tuple[Train, Score]:
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        torch.manual_seed(0)
        encoder, decoder = network()
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)

        def train(epochs: int) -> None:
            for _ in range(epochs):
                for rows in batches(v, batch):
                    loc, log_scale = encoder(rows).chunk(2, -1)
                    scale = log_scale.exp()
                    h = loc + scale * torch.randn_like(scale)
                    kl = 0.5 * (loc**2 + scale**2 - 2 * log_scale - 1).sum()
                    loss = (cross_entropy(decoder(h), rows, reduction="sum") + kl) / len(rows)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

        return train, lambda rest: held_out(encoder, decoder, rest)

    return run(size, make)


def by_example(size: Mapping[str, Any]) -> Measured:
    def make(v: Any, batch: int) -> tuple[Train, Score]:
        import pyro.distributions as dist
        import torch
        from pyro.infer import SVI, Trace_ELBO

        torch.manual_seed(0)
        encoder, decoder = network()

        def model(rows: Any) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(rows)):
                loc = rows.new_zeros(len(rows), LATENTS)
                h = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
                pyro.sample("obs", dist.Bernoulli(logits=decoder(h)).to_event(1), obs=rows)

        def guide(rows: Any) -> None:
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(rows)):
                loc, log_scale = encoder(rows).chunk(2, -1)
                pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))

        svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), loss=Trace_ELBO())

        def train(epochs: int) -> None:
            for _ in range(epochs):
                for rows in batches(v, batch):
                    svi.step(rows)

        return train, lambda rest: held_out(encoder, decoder, rest)

    import pyro

    with pyro.get_param_store().scope():  # networks of `pyro.module` are of the whole process
        return run(size, make)


def told(runs: Mapping[str, Sequence[Measured]]) -> str:
    sides = ((side, many[0].quality) for side, many in runs.items())
    return ", ".join(f"{side} {q['elbo']:.1f} ({q['epochs']:.0f} epochs)" for side, q in sides)


def same_epochs(runs: Mapping[str, Sequence[Measured]]) -> str:
    """After as many epochs the held-out bounds are within 6% of each other.

    Weights begin by other numbers, and after a few epochs it shows; how long the way to one bound
    is, `same_bound` says.
    """
    every = [run.quality["elbo"] for many in runs.values() for run in many]
    assert (max(every) - min(every)) / abs(max(every)) < 0.06, told(runs)
    return "held-out nats a row: " + told(runs)


def same_bound(runs: Mapping[str, Sequence[Measured]]) -> str:
    """All have reached the bound."""
    every = [run.quality for many in runs.values() for run in many]
    until = max(found["until"] for found in every)
    assert all(found["elbo"] >= until for found in every), told(runs)
    return f"held-out nats a row, at least {until:g}: " + told(runs)


def epoch(batch: int, peer: str, side: Any, name: str, target: float) -> Row:
    size = {"rows": 10_000, "held_out": 1000, "batch": batch, "epochs": 3, "warm_up": WARM_UP}
    return Row(
        name=f"auto_encoder_{batch}_{name}",
        work=f"3 epochs of 10,000 binary images 28 × 28, 784-400-20, batch {batch}",
        peer=peer,
        sides={"ours": our_epochs, peer: side},
        full=size,
        tiny={**size, "rows": 5 * batch + 10, "held_out": 100, "epochs": 1, "warm_up": 1},
        same=same_epochs,
        target=target,
    )


def to_bound(peer: str, side: Any, name: str, target: float) -> Row:
    size = {"rows": 10_000, "held_out": 1000, "batch": 64, "epochs": 30, "until": UNTIL}
    return Row(
        name=f"auto_encoder_bound_{name}",
        work="epochs of 10,000 binary images 28 × 28, 784-400-20, batch 64, until 1,000 others"
        f" have {UNTIL:g} nats each",
        peer=peer,
        sides={"ours": our_epochs, peer: side},
        full=size,
        tiny={**size, "rows": 320, "held_out": 100, "until": -520.0},
        same=same_bound,
        target=target,
        note="the graph of a step and its checks are counted",
    )


ROWS = (
    *(epoch(batch, HAND, by_hand, "torch", 1 / 1.1) for batch in (64, 256)),
    *(epoch(batch, EXAMPLE, by_example, "example", 1.3) for batch in (64, 256)),
    to_bound(HAND, by_hand, "torch", 1 / 1.1),
    to_bound(EXAMPLE, by_example, "example", 1.3),
)
