"""The bound of a mini-batch is an unbiased estimate of the whole, and what is not is refused."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import build, exact_encoder
from oracles.programs import gaussian_elbo, mixture_log_evidence
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor

import pyro_cookbook as pc
from guides.factor_analysis import (
    FactorAnalysisAmortized,
    FactorAnalysisFullRank,
    FactorAnalysisMAP,
    FactorAnalysisMeanField,
)
from guides.gaussian_mixture import (
    BayesianGaussianMixtureMeanField,
    GaussianMixtureAmortized,
    GaussianMixtureExact,
    GaussianMixtureMAP,
)
from models.factor_analysis import FactorAnalysis
from models.gaussian_mixture import GaussianMixture
from pyro_cookbook.algorithms.factor_analysis import em, log_evidence
from pyro_cookbook.algorithms.gaussian_mixture.em import random_start
from pyro_cookbook.engines.batches import Batches, check_scale, count_rows, take_rows
from pyro_cookbook.programs.program import Program

Bound = Callable[..., float]  # of a model and a guide on (v, num_obs)


class UnscaledFactorAnalysis(FactorAnalysis):
    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> Tensor:
        return super().forward(v)


class UnscaledEncoder(FactorAnalysisAmortized):
    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        return super().forward(v)


class UnscaledMixture(GaussianMixture):
    def forward(self, v: Tensor | None = None, num_obs: int | None = None) -> Tensor:
        return super().forward(v)


class UnscaledExact(GaussianMixtureExact):
    def forward(self, v: Tensor, num_obs: int | None = None) -> dict[str, Tensor]:
        return super().forward(v)


def enumerated(model: Callable, guide: Callable, *data: Tensor | int) -> float:
    """The bound with h summed out: no draws, no noise."""
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    with torch.no_grad():
        return -elbo.loss(model, config_enumerate(guide), *data)


def sampled(model: Callable, guide: Callable, *data: Tensor | int) -> float:
    with torch.no_grad():
        return -Trace_ELBO().loss(model, guide, *data)


def mixture_programs(v: Tensor, model_class: type, guide_class: type) -> tuple[Callable, Callable]:
    theta = random_start(v, 3)
    guide = guide_class(v.shape[1], 3).double()
    if hasattr(guide, "e_step"):
        guide.e_step(random_start(v, 3, seed=1))
    return build(model_class(v.shape[1], 3), **vars(theta)), guide


def factor_programs(v: Tensor, model_class: type, guide_class: type) -> tuple[Callable, Callable]:
    return model_class(v.shape[1], 2).double(), guide_class(v.shape[1], 2).double()


FACTORS = factor_programs, gaussian_elbo
MIXTURE = mixture_programs, enumerated
POINTS = mixture_programs, sampled  # a point has no noise


def check_unbiased(model: Callable, guide: Callable, v: Tensor, bound: Bound) -> None:
    """Compare with the mean over all subsets of rows that can be a batch of 3, or the ragged last.

    Over all random partitions of 7 rows into 3 + 3 + 1, each subset of a size is as likely.
    """
    rows = v[[0, 20, 40, 60, 80, 100, 120]]
    whole = bound(model, guide, rows)
    for size in (3, 1):
        batches = [bound(model, guide, rows[list(s)], 7) for s in combinations(range(7), size)]
        assert np.std(batches) > 0.1
        assert np.mean(batches) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "model_class", "guide_class"),
    [
        (FACTORS, FactorAnalysis, FactorAnalysisAmortized),
        (MIXTURE, GaussianMixture, GaussianMixtureExact),
        (MIXTURE, GaussianMixture, GaussianMixtureAmortized),
        (POINTS, GaussianMixture, GaussianMixtureMAP),
    ],
)
def test_mean_over_all_mini_batches_is_the_bound(iris, kind, model_class, guide_class):
    make, bound = kind
    check_unbiased(*make(iris, model_class, guide_class), iris, bound)


@pytest.mark.parametrize(
    ("kind", "model_class", "guide_class"),
    [
        (FACTORS, UnscaledFactorAnalysis, FactorAnalysisAmortized),
        (FACTORS, FactorAnalysis, UnscaledEncoder),
        (FACTORS, UnscaledFactorAnalysis, UnscaledEncoder),
        (MIXTURE, UnscaledMixture, GaussianMixtureExact),
        (MIXTURE, GaussianMixture, UnscaledExact),
    ],
)
def test_wrong_scale_is_caught(iris, kind, model_class, guide_class):
    make, bound = kind
    with pytest.raises(AssertionError):
        check_unbiased(*make(iris, model_class, guide_class), iris, bound)


def partition_means(model: Callable, guide: Callable, v: Tensor, size: int) -> np.ndarray:
    """Mean of the sampled mini-batch bounds of each of 100 random partitions of the rows."""
    return np.array(
        [
            np.mean(
                [
                    sampled(model, guide, v[part], len(v))
                    for part in torch.randperm(len(v)).split(size)
                ]
            )
            for _ in range(100)
        ]
    )


@pytest.mark.parametrize("model_class", [FactorAnalysis, UnscaledFactorAnalysis])
def test_sampled_bounds_of_random_partitions_average_to_the_bound(wine, model_class):
    """178 rows in batches of 50: the last one has 28."""
    model, guide = factor_programs(wine, model_class, FactorAnalysisAmortized)
    whole = gaussian_elbo(model, guide, wine)
    means = partition_means(model, guide, wine, 50)
    se = np.std(means, ddof=1) / len(means) ** 0.5
    is_right = model_class is FactorAnalysis
    assert se < 0.01 * abs(whole)
    assert (abs(means.mean() - whole) < 4 * se) == is_right


def test_sampled_bounds_of_one_partition_add_up_to_the_evidence_at_the_posterior(wine, iris):
    """Each batch then gives n/m times its own evidence, whatever the draw."""
    factors, start = build(FactorAnalysis(13, 2)), random_start(iris, 3)
    mixture, exact = build(GaussianMixture(4, 3), **vars(start)), GaussianMixtureExact(4, 3)
    exact.e_step(start)
    with torch.no_grad():
        evidence = float(log_evidence(factors, wine).sum())
    for model, guide, v, expected in (
        (factors, exact_encoder(factors, wine), wine, evidence),
        (mixture, exact, iris, mixture_log_evidence(start, iris).sum()),
    ):
        parts = v[torch.randperm(len(v))].split(40)
        total = sum(len(part) / len(v) * sampled(model, guide, part, len(v)) for part in parts)
        assert total == pytest.approx(expected, rel=1e-12)


# --- what pc.fit makes of it -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_class", "guide_class", "message"),
    [
        (UnscaledFactorAnalysis, FactorAnalysisAmortized, "site 'h' of the model has scale 1 on"),
        (FactorAnalysis, UnscaledEncoder, "site 'h' of the guide has scale 1 on 50 of 178 rows"),
    ],
)
def test_fit_refuses_a_wrong_scale_and_names_the_site(wine, model_class, guide_class, message):
    model, guide = factor_programs(wine, model_class, guide_class)
    with pytest.raises(ValueError, match=message):
        pc.fit(model, guide, wine, batch_size=50, max_steps=60)


@pytest.mark.parametrize(
    "guide",
    [
        FactorAnalysisMAP(178, 2),
        FactorAnalysisMeanField(178, 2),
        FactorAnalysisFullRank(178, 2),
        BayesianGaussianMixtureMeanField(178, 13, 2),
    ],
    ids=lambda guide: type(guide).__name__,
)
def test_guides_with_a_factor_for_each_row_refuse_mini_batches(wine, guide):
    message = "one factor for each of 178 rows, got 50 rows of 178"
    with pytest.raises(ValueError, match=message):
        guide(wine[:50], 178)
    with pytest.raises(ValueError, match=message):
        pc.fit(FactorAnalysis(13, 2), guide, wine, batch_size=50)
    with pytest.raises(ValueError, match="got 178 rows of 500"):
        guide(wine, 500)


@pytest.mark.parametrize(
    "make",
    [FactorAnalysisAmortized, GaussianMixtureAmortized, GaussianMixtureExact, GaussianMixtureMAP],
)
def test_guides_of_v_take_any_rows(wine, make):
    guide = make(13, 2).double()
    assert [len(guide(wine[:m], 178)["h"]) for m in (50, 28, 1)] == [50, 28, 1]


def test_fit_by_mini_batches_reaches_the_maximum_of_the_likelihood(wine):
    best = em(wine, 2)[1][-1]
    model = FactorAnalysis(13, 2)
    fit = pc.fit(model, FactorAnalysisAmortized(13, 2), wine, batch_size=64, max_steps=1000)
    with torch.no_grad():
        reached, start = (float(log_evidence(m, wine).sum()) for m in (fit.model, model.double()))
    assert start < best - 100
    assert best - 1 < reached <= best
    assert reached - 3 < fit.elbo.value < reached + 4 * fit.elbo.se


# --- which rows --------------------------------------------------------------------------------


def rows_of(x: Tensor, y: Tensor | None = None, num_obs: int | None = None) -> None:
    """A model is not run to be cut into rows."""


def test_an_epoch_takes_every_row_once_and_the_next_in_another_order():
    numbers = torch.arange(10.0)
    batches = Batches(Program(rows_of, (numbers,)), 4)
    epochs = []
    for _ in range(3):
        taken = [batches.take() for _ in range(3)]
        assert [len(one.args[0]) for one in taken] == [4, 4, 2]  # the last one is ragged
        assert all(one.kwargs["num_obs"] == 10 for one in taken)
        epochs.append(torch.cat([one.args[0] for one in taken]))
    assert all(epoch.sort().values.equal(numbers) for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert not epochs[1].equal(epochs[2])


def test_a_rewound_epoch_begins_anew():
    batches = Batches(Program(rows_of, (torch.arange(10.0),)), 4)
    batches.take()
    batches.rewind()
    epoch = torch.cat([batches.take().args[0] for _ in range(3)])
    assert len(epoch.unique()) == 10


def test_rows_are_cut_from_positional_and_keyword_data_alike():
    x, y, shared = torch.arange(6.0), torch.arange(12.0).reshape(6, 2), torch.ones(5)
    whole = Program(rows_of, (x, shared), {"y": y, "level": 0.5})
    cut = take_rows(whole, torch.tensor([4, 1]), count_rows(whole))
    assert cut.args[0].equal(torch.tensor([4.0, 1.0]))
    assert cut.kwargs["y"].equal(y[[4, 1]])
    assert cut.args[1] is shared
    assert cut.kwargs["level"] == 0.5


def test_data_without_a_tensor_have_no_rows():
    with pytest.raises(ValueError, match="batch_size: the data hold no tensor to take rows from"):
        count_rows(Program(rows_of, (3,), {"level": 0.5}))


@pytest.mark.parametrize(("error", "refused"), [(0.0, False), (1e-8, False), (1e-3, True)])
def test_a_scale_has_to_be_right_to_a_millionth(error, refused):
    def model(y: Tensor, num_obs: int | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with (
            pyro.plate("row", num_obs or len(y), subsample_size=len(y), dim=-1),
            poutine.scale(scale=1 + error),
        ):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(y: Tensor, num_obs: int | None = None) -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    batch = Program(model, (torch.zeros(5, dtype=torch.float64),), {"num_obs": 20})
    if not refused:
        check_scale(batch, guide, 20)
        return
    with pytest.raises(ValueError, match=r"site 'y' of the model has scale 4\.004 on 5 of 20 rows"):
        check_scale(batch, guide, 20)


def test_an_observation_outside_of_every_plate_needs_the_scale_too():
    def model(y, num_obs=None):
        h = pyro.sample("h", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(h, 1.0).expand(y.shape).to_event(1), obs=y)

    def guide(y, num_obs=None):
        pyro.sample("h", dist.Normal(0.0, 1.0))

    program = take_rows(Program(model, (torch.zeros(6),)), torch.arange(3), 6)
    with pytest.raises(ValueError, match="site 'y' of the model has scale 1 on 3 of 6 rows"):
        check_scale(program, guide, 6)


@pytest.mark.parametrize("length", [5, 7])
def test_tensors_of_another_length_are_passed_on(length):
    other = torch.zeros(length)
    taken = take_rows(Program(None, (torch.zeros(6), other)), torch.arange(3), 6)
    assert taken.args[1] is other
    assert taken.args[0].shape == (3,)
