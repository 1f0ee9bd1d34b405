"""Four posteriors on which samplers are compared, of the sizes that are usual in that literature.

The models are those of the Inference Gym (Sountsov, Radul and contributors, 2020) in Pyro's words;
the data are simulated here, so that nothing has to be shipped, but for twenty numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """A model, its data, and how long NUTS runs.

    Attributes
    ----------
    model : callable
    data : callable
        Gives the model's arguments, float64 or int64.
    draws : int
        Of one chain of NUTS, after its warm-up.
    """

    model: Callable[..., Any]
    data: Callable[[], tuple[Tensor, ...]]
    draws: int


def bridge_data() -> tuple[Tensor, ...]:
    """Thirty steps of sd 0.1, seen with an error of 0.15; the ten in the middle are not seen.

    The twenty numbers of the Inference Gym, on which counts are published: with other draws the
    innovations may be taken for nothing, and that funnel is another posterior.
    """
    first = [0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845,
             -0.1484156, -0.3250906, -0.22957903, -0.44110894, -0.09830782]  # fmt: skip
    last = [-0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566,
            -0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789]  # fmt: skip
    return torch.tensor(np.r_[0:10, 20:30]), torch.tensor(first + last, dtype=torch.float64)


def brownian_bridge(seen, y):
    """Random walk with unknown scales: 32 latents."""
    innovation = pyro.sample("innovation", dist.LogNormal(0.0, 2.0))
    error = pyro.sample("error", dist.LogNormal(0.0, 2.0))
    step = pyro.sample("step", dist.Normal(0.0, innovation).expand([30]).to_event(1))
    x = pyro.deterministic("x", step.cumsum(-1))
    pyro.sample("y", dist.Normal(x[..., seen], error).to_event(1), obs=y)


def credit_data() -> tuple[Tensor, ...]:
    """1,000 rows of 24 columns, correlated by pairs, of which six matter; and a constant."""
    rng = np.random.default_rng(902)
    common = np.repeat(rng.normal(size=(1000, 12)), 2, axis=1)
    X = np.c_[np.ones(1000), 0.7 * common + 0.7 * rng.normal(size=(1000, 24))]
    w = np.zeros(25)
    w[[0, 1, 4, 9, 10, 15, 20]] = [-0.8, 0.7, -0.5, 0.9, -0.4, 0.6, 0.3]
    y = rng.random(1000) < 1 / (1 + np.exp(-X @ w))
    return torch.tensor(X), torch.tensor(y * 1.0)


def sparse_logistic(X, y):
    """Logistic regression whose weights have scales of their own: 51 latents."""
    overall = pyro.sample("overall", dist.Gamma(0.5, 0.5))
    local = pyro.sample("local", dist.Gamma(0.5, 0.5).expand([25]).to_event(1))
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([25]).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=X @ (z * local * overall)).to_event(1), obs=y)


def answers_data() -> tuple[Tensor, ...]:
    """30,105 answers of 400 students to 100 questions."""
    rng = np.random.default_rng(903)
    student, question = np.divmod(rng.permutation(400 * 100)[:30_105], 100)
    ability, difficulty = 0.75 + rng.normal(size=400), rng.normal(size=100)
    right = rng.random(30_105) < 1 / (1 + np.exp(difficulty[question] - ability[student]))
    return torch.tensor(student), torch.tensor(question), torch.tensor(right * 1.0)


def item_response(student, question, right):
    """One-parameter logistic item responses: 501 latents."""
    mean = pyro.sample("mean", dist.Normal(0.75, 1.0))
    ability = pyro.sample("ability", dist.Normal(0.0, 1.0).expand([400]).to_event(1))
    difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0).expand([100]).to_event(1))
    logits = mean + ability[student] - difficulty[question]
    pyro.sample("right", dist.Bernoulli(logits=logits).to_event(1), obs=right)


def returns_data() -> tuple[Tensor, ...]:
    """2,516 days of returns, in per cent."""
    rng = np.random.default_rng(904)
    h, y = 0.0, []
    for _ in range(2516):
        h = 0.97 * h + 0.2 * rng.normal()
        y.append(rng.normal(scale=np.exp(h / 2)))
    return (torch.tensor(np.array(y)),)


def stochastic_volatility(y):
    """Log volatilities that are an autoregression: 2,519 latents."""
    level = pyro.sample("level", dist.Cauchy(0.0, 5.0))
    persistence = pyro.sample("persistence", dist.Beta(20.0, 1.5))
    shock = pyro.sample("shock", dist.HalfCauchy(2.0))
    h = pyro.sample(
        "h", dist.ImproperUniform(dist.constraints.real_vector, torch.Size(), torch.Size([len(y)]))
    )
    phi = 2 * persistence - 1
    first = dist.Normal(0.0, shock / (1 - phi**2).sqrt()).log_prob(h[..., 0])
    rest = dist.Normal(phi * h[..., :-1], shock).log_prob(h[..., 1:]).sum(-1)
    pyro.factor("autoregression", first + rest)
    pyro.sample("y", dist.Normal(0.0, ((level + h) / 2).exp()).to_event(1), obs=y)


POSTERIORS = {
    "brownian_bridge": Posterior(brownian_bridge, bridge_data, 6_000),
    "sparse_logistic": Posterior(sparse_logistic, credit_data, 4_000),
    "item_response": Posterior(item_response, answers_data, 5_000),
    "stochastic_volatility": Posterior(stochastic_volatility, returns_data, 8_000),
}
