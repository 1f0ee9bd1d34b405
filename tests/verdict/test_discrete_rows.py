"""Verdicts on rows of several bits: their states are enumerated, whatever the weights say."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from build import build

import pyro_cookbook as pc
from guides.binary_sparse_coding import BinarySparseCodingMeanField
from models.binary_sparse_coding import BinarySparseCoding
from pyro_cookbook.algorithms.binary_sparse_coding import mean_field as closed
from pyro_cookbook.posterior.importance import weigh
from pyro_cookbook.posterior.pareto import smooth

ORTHOGONAL = torch.eye(4, dtype=torch.float64)[:, :3]
# Units 0 and 1 explain the first pixel equally well: either, but not both.
RIVALS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def model_of(W):
    b = torch.tensor([-1.0, -1.0, 0.5], dtype=torch.float64)
    model = build(BinarySparseCoding(*W.shape), W=W, b=b, scale=torch.tensor(0.35))
    return model.requires_grad_(False)


def fitted(model, v, logits):
    guide = build(BinarySparseCodingMeanField(*logits.shape), h_logits=logits)
    return pc.as_fit(model, guide, v)


def test_a_posterior_that_factorises_is_reliable():
    model, v = model_of(ORTHOGONAL), torch.rand(6, 4, dtype=torch.float64)
    diagnosis = pc.diagnose(fitted(model, v, closed.drive(model, v)))
    assert diagnosis.verdict == "reliable"
    assert "within 0.0" in diagnosis.reasons[0]


def test_a_guide_that_picks_one_of_two_explanations_is_not():
    """Nearly all draws and weights are the same: k-hat has nothing to see."""
    model, v = model_of(RIVALS), torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(5, 2)
    logits = torch.tensor([[12.0, -12.0, -3.58]], dtype=torch.float64).expand(5, 3)
    assert closed.posterior_marginals(model, v)[0, 0] == pytest.approx(0.5, abs=0.01)
    diagnosis = pc.diagnose(fitted(model, v, logits))
    assert diagnosis.verdict == "unreliable"
    assert "within 0.5" in diagnosis.reasons[0]


def test_reweighted_rows_have_the_exact_marginals():
    model, v = model_of(RIVALS), torch.rand(6, 2, dtype=torch.float64)
    wide = torch.zeros(6, 3, dtype=torch.float64)
    tree = pc.to_datatree(fitted(model, v, wide), num_draws=4000, reweight=True)
    drawn = tree["posterior"]["h"].mean(("chain", "draw")).to_numpy()
    exact = closed.posterior_marginals(model, v).numpy()
    assert np.abs(drawn - exact).max() < 5 * 0.5 / 4000**0.5
    assert np.abs(0.5 - exact).max() > 0.3  # the guide's own are far off


def test_two_distinct_weights_have_a_finite_tail():
    weights = np.where(np.random.default_rng(0).random(4000) < 0.98, 0.0, 3.0)
    smoothed, khat = smooth(weights)
    assert khat == 0
    np.testing.assert_allclose(smoothed, np.exp(weights) / np.exp(weights).sum())


P = torch.tensor([0.3, 0.7], dtype=torch.float64)
M = torch.tensor([-1.0, 1.0], dtype=torch.float64)
GRID = torch.linspace(-3, 3, 20, dtype=torch.float64).reshape(4, 5)


def rated(y, shift=False):
    """A label for each item and rater, perhaps with a shift that all share."""
    a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0)) if shift else 0.0
    with pyro.plate("item", 4, dim=-2), pyro.plate("rater", 5, dim=-1):
        h = pyro.sample("h", dist.Categorical(P))
        pyro.sample("y", dist.Normal(M[h] + a, 1.0), obs=y)


def labels(sharpness):
    def guide(y, shift=False):
        if shift:
            pyro.sample("a", dist.Normal(y.new_zeros(()), 0.7))
        logits = sharpness * (P.log() - (y[..., None] - M) ** 2 / 2)
        with pyro.plate("item", 4, dim=-2), pyro.plate("rater", 5, dim=-1):
            pyro.sample("h", dist.Categorical(logits=logits))

    return guide


def exact():
    return torch.softmax(P.log() - (GRID[..., None] - M) ** 2 / 2, -1)[..., 1]


def test_a_latent_in_two_plates_is_enumerated_cell_by_cell():
    """It was a ValueError of a matrix product."""
    right = pc.diagnose(pc.as_fit(rated, labels(1.0), GRID))
    assert right.verdict == "reliable"
    assert "'item × rater'" in right.reasons[0]
    evidence = (P.log() + dist.Normal(M, 1.0).log_prob(GRID[..., None])).logsumexp(-1).sum()
    assert right.evidence.value == pytest.approx(float(evidence), abs=1e-9)
    # A guide that is sure of the wrong labels has weights that are nearly equal.
    wrong = pc.diagnose(pc.as_fit(rated, labels(-30.0), GRID))
    assert wrong.verdict == "unreliable"
    assert len(wrong.bad_rows) == 20


def test_cells_are_drawn_from_their_exact_probabilities():
    tree = pc.to_datatree(
        pc.as_fit(rated, labels(-1.0), GRID), num_draws=4000, reweight=True, sample_dims=["sample"]
    )
    drawn = tree["posterior"]["h"].mean("sample").transpose("item", "rater").to_numpy()
    assert np.abs(drawn - exact().numpy()).max() < 5 * 0.5 / 4000**0.5


def test_cells_under_a_global_latent_are_too():
    fit = pc.as_fit(rated, labels(-1.0), GRID, shift=True)
    diagnosis = pc.diagnose(fit)
    assert diagnosis.verdict in {"reliable after reweighting", "unreliable"}
    tree = pc.to_datatree(fit, num_draws=2000, reweight=True, sample_dims=["sample"])
    a = tree["posterior"]["a"].to_numpy()[:, None, None]
    log_odds = np.log(0.7 / 0.3) + 2 * (GRID.numpy() - a)
    given = 1 / (1 + np.exp(-log_odds))
    drawn = tree["posterior"]["h"].transpose("sample", "item", "rater").to_numpy()
    assert np.abs((drawn - given).mean(0)).max() < 5 * 0.5 / 2000**0.5


def test_a_latent_that_several_data_of_a_row_depend_on_together_is_not_enumerated_by_cell():
    def model(y):
        with pyro.plate("item", 4, dim=-2):
            with pyro.plate("rater", 5, dim=-1):
                h = pyro.sample("h", dist.Bernoulli(P[1]))
            pyro.sample("y", dist.Normal(h.sum(-1, keepdim=True), 1.0), obs=y)

    def guide(y):
        with pyro.plate("item", 4, dim=-2), pyro.plate("rater", 5, dim=-1):
            pyro.sample("h", dist.Bernoulli(P[1].expand(4, 5)))

    diagnosis = pc.diagnose(pc.as_fit(model, guide, GRID[:, :1]))
    assert "k-hat of the worst 'item'" in " ".join(diagnosis.reasons)


def test_a_latent_in_a_batch_dimension_without_a_plate_is_not_either():
    def model(y):
        with pyro.plate("row", 5, dim=-1):
            h = pyro.sample("h", dist.Bernoulli(P[1].expand(3, 5)))
            pyro.sample("y", dist.Normal(h.sum(-2), 1.0), obs=y)

    def guide(y):
        with pyro.plate("row", 5, dim=-1):
            pyro.sample("h", dist.Bernoulli(P[1].expand(3, 5)))

    diagnosis = pc.diagnose(pc.as_fit(model, guide, GRID[0]))
    assert "k-hat of the worst 'row'" in " ".join(diagnosis.reasons)


def clusters(v, gap):
    """Two clusters that are known, of rows that are known to be in one of them."""
    with pyro.plate("row", len(v), dim=-1):
        h = pyro.sample("h", dist.Categorical(torch.ones(2, dtype=v.dtype)))
        pyro.sample("v", dist.Normal((2.0 * h - 1.0) * gap / 2, 1.0), obs=v)


def exact_guide(v, gap):
    with pyro.plate("row", len(v), dim=-1):
        pyro.sample("h", dist.Bernoulli(logits=gap * v).to_event(0))


def likeliest(v, gap):
    with pyro.plate("row", len(v), dim=-1):
        pyro.sample("h", dist.Delta((v > 0).to(v.dtype)))


@pytest.mark.parametrize(
    ("gap", "guide", "verdict"),
    [
        (40.0, exact_guide, "reliable"),
        (40.0, likeliest, "reliable"),  # nobody could tell it from the posterior
        (2.0, exact_guide, "reliable"),
        (2.0, likeliest, "unreliable"),
        (6.0, likeliest, "unreliable"),  # one row of six is in doubt
    ],
)
def test_certainty_is_no_point(gap, guide, verdict):
    """Of clusters far apart every draw of the labels is the same, as it should be."""
    centres = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], dtype=torch.float64) * gap / 2
    v = centres + torch.tensor([0.0, 0.5, -0.5, 0.0, 0.5, -0.5], dtype=torch.float64)
    if gap == 6.0:
        v[5] = 0.3
    found = pc.diagnose(pc.as_fit(clusters, guide, v, gap))
    assert found.verdict == verdict, found


def mostly_exact(v, gap):
    """The exact guide, but for row 7."""
    logits = gap * v
    logits = torch.where(torch.arange(len(v)) == 7, logits + 0.8, logits)
    with pyro.plate("row", len(v), dim=-1):
        pyro.sample("h", dist.Bernoulli(logits=logits).to_event(0))


def test_few_draws_of_many_rows_refuse_no_exact_guide_and_find_the_row_that_is_wrong():
    """Frequencies of so few draws are off by 0.1 in the worst of so many rows."""
    v = torch.linspace(-0.5, 0.5, 3000, dtype=torch.float64)
    right = pc.diagnose(pc.as_fit(clusters, exact_guide, v, 1.0), num_draws=200)
    assert right.verdict == "reliable"
    assert "within 0.000 of the exact ones" in right.reasons[0]
    wrong = pc.diagnose(pc.as_fit(clusters, mostly_exact, v, 1.0), num_draws=200)
    assert wrong.verdict == "reliable after reweighting"
    assert wrong.bad_rows == (7,)


def crowd(v):
    """Rows of two clusters whose distance is not known."""
    gap = pyro.sample("gap", dist.Normal(v.new_tensor(2.0), 1.0))
    with pyro.plate("row", len(v), dim=-1):
        h = pyro.sample("h", dist.Categorical(torch.ones(3, dtype=v.dtype)))
        pyro.sample("v", dist.Normal((h - 1.0) * gap, 1.0), obs=v)


def crowded(narrow=False, noisy=False):
    """Guide of `crowd`: the exact labels given the distance, or with what hides them."""

    def guide(v):
        gap = pyro.sample("gap", dist.Normal(v.new_tensor(2.0), 0.05))
        with pyro.plate("row", len(v), dim=-1):
            at = v
            if noisy:  # a latent of the guide's own: its labels have no density by themselves
                infer = {"is_auxiliary": True}
                at = v + pyro.sample("u", dist.Normal(0.0 * v, 1e-3), infer=infer)
            label = torch.arange(3.0, dtype=v.dtype) - 1
            logits = -((at[..., None] - label * gap[..., None, None]) ** 2) / 2
            if narrow:  # never the third
                pyro.sample("h", dist.Categorical(logits=logits[..., :2]))
            else:
                pyro.sample("h", dist.Categorical(logits=logits))

    return guide


@pytest.mark.parametrize(
    ("guide", "given"), [(crowded(), True), (crowded(noisy=True), False)], ids=["plain", "noisy"]
)
def test_the_guides_own_probabilities_are_taken_where_it_has_them(guide, given):
    torch.manual_seed(0)
    v = 1.5 * torch.randn(400, dtype=torch.float64)
    weights = weigh(pc.as_fit(crowd, guide, v), 500, sum_rows_out=True)
    assert (weights.states is not None and weights.states.guide is not None) == given
    if given:
        gaps = weights.draws.values["gap"]
        label = torch.arange(3.0, dtype=v.dtype) - 1
        logits = -((v[:, None] - label * gaps[:, None, None]) ** 2) / 2
        exact = torch.softmax(logits, -1).mean(0).numpy()
        np.testing.assert_allclose(weights.states.guide, exact, rtol=1e-10, atol=1e-14)


def test_a_state_that_the_guide_does_not_have_has_no_probability():
    torch.manual_seed(0)
    v = 1.5 * torch.randn(50, dtype=torch.float64)
    weights = weigh(pc.as_fit(crowd, crowded(narrow=True), v), 500)
    assert not weights.states.guide[:, 2].any()
    np.testing.assert_allclose(weights.states.guide.sum(1), 1.0)
    assert pc.diagnose(pc.as_fit(crowd, crowded(narrow=True), v)).verdict == "unreliable"
