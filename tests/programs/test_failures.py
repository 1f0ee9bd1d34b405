"""What is wrong with a model or data ends in one line, or in a verdict with its reason."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import pyro_cookbook as pc

X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(60, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([1.0, -2.0]) + 0.5 * NOISE
ONE = torch.tensor(1.0)
SEPARATED = (X[:, 0] > 0).float()


def flat(size):
    return dist.ImproperUniform(constraints.real, (), (size,))


def regression(X, y=None, prior=None):
    b = pyro.sample("b", prior or dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(5.0))
    with pyro.plate("row", len(X), dim=-1):
        pyro.sample("y", dist.Normal(X @ b, scale), obs=y)


def flat_regression(X, y=None):
    regression(X, y, flat(X.shape[1]))


def logistic(X, y=None, prior=None):
    b = pyro.sample("b", prior or dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    with pyro.plate("row", len(X), dim=-1):
        pyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def flat_logistic(X, y=None):
    logistic(X, y, flat(X.shape[1]))


def nowhere(v=None):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.factor("barrier", h * 0 - torch.inf)
    pyro.sample("v", dist.Normal(h, 1.0), obs=v)


def half_nan(v=None):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.Normal((h + 1.5).log(), 1.0), obs=v)


def walled(v=None):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.factor("wall", torch.where(h > -0.5, 0.0, -torch.inf))
    pyro.sample("v", dist.Normal(h, 1.0), obs=v)


def discrete(v=None):
    z = pyro.sample("z", dist.Bernoulli(0.3))
    pyro.sample("v", dist.Normal(z, 1.0), obs=v)


def simple(v=None):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.Normal(h, 1.0), obs=v)


def three_means(v=None):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.Normal(h.expand(3), 1.0), obs=v)


def counts(v=None):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    pyro.sample("v", dist.Poisson(rate), obs=v)


def only_their_sum(v=None):
    a, b = pyro.sample("a", flat(1)), pyro.sample("b", flat(1))
    pyro.sample("v", dist.Normal(a + b, 1.0).to_event(1), obs=v)


def improper_scale(v=None):
    scale = pyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
    pyro.sample("v", dist.Normal(0.0, scale + 1.0), obs=v)


def no_spread(v=None):
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("group", 8, dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("v", dist.Normal(theta, 1.0), obs=v)


def with_param(v=None):
    loc = pyro.param("loc", torch.tensor(0.0))
    h = pyro.sample("h", dist.Normal(loc, 1.0))
    pyro.sample("v", dist.Normal(h, 1.0), obs=v)


def random_outside(v=None):
    h = pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.Normal(h + torch.randn(()), 1.0), obs=v)


def moving_support(v=None):
    high = pyro.sample("high", dist.Gamma(2.0, 1.0))
    low = pyro.sample("low", dist.Uniform(0.0, high))
    pyro.sample("v", dist.Normal(low, 1.0), obs=v)


def guide_of_another(v=None):
    pyro.sample("other", dist.Normal(0.0, 1.0))


def guide_with_more(v=None):
    pyro.sample("h", dist.Normal(0.0, 1.0))
    pyro.sample("other", dist.Normal(0.0, 1.0))


def with_nan(value, row):
    value = value.clone()
    value[row] = torch.nan
    return value


TWICE = torch.cat([X, X[:, :1]], dim=1)
ZEROS = torch.cat([X, torch.zeros(60, 1)], dim=1)

REFUSED = {
    "no finite density at the start": (
        nowhere, "auto", (ONE,), "not finite at any of .* starting points.*site 'barrier'"),
    "a discrete latent": (discrete, "auto", (ONE,), "site 'z' is discrete.*sum it out"),
    "a guide without a site": (
        simple, guide_of_another, (ONE,), "^guide: it has no latent site 'h'"),
    "a guide with one more": (
        simple, guide_with_more, (ONE,), "^model: it has no latent site 'other'"),
    "too few observations": (
        regression, "auto", (X, Y[:50]), r"site 'y': observations of shape \(50,\) do not fit"),
    "columns for rows": (regression, "auto", (X.T, Y), r"site 'y': .*batch shape \(2,\)"),
    "a matrix that does not fit": (
        lambda X, y=None: logistic(X, y, flat(5)), "auto", (X, SEPARATED),
        r"does not run on these data \(RuntimeError: .*got X: Tensor \(60, 2\) of float32, y"),
    "a column against a row": (
        three_means, "auto", (torch.randn(5, 1),), "would be counted 15 times"),
    "a negative count": (
        counts, "auto", (torch.tensor([1.0, -1.0]),), r"observation \[1\] \(-1\) is outside"),
    "a missing observation": (
        regression, "auto", (X, with_nan(Y, 7)), r"observation \[7\] is missing \(nan\); leave"),
    "a missing predictor": (
        regression, "auto", (with_nan(X, 7), Y), "not finite at any.*site 'y'"),
    "collinear columns, flat priors": (
        flat_regression, "auto", (TWICE, Y), r"improper.*does not fall along.*'b\[\d\]'"),
    "the same by Laplace": (flat_regression, "laplace", (TWICE, Y), "improper"),
    "a column of zeros, flat priors": (flat_regression, "auto", (ZEROS, Y), r"improper.*'b\[2\]'"),
    "separation, flat priors": (flat_logistic, "auto", (X, SEPARATED), "improper.*separates"),
    "one row, flat priors": (flat_regression, "auto", (X[:1], Y[:1]), "improper"),
    "an improper posterior": (only_their_sum, "auto", (ONE[None],), "improper.*'[ab]"),
    "a call of pyro.param": (with_param, "auto", (ONE,), r"calls pyro.param\('loc'\)"),
    "a random number outside the sites": (
        random_outside, "auto", (ONE,), "random number is drawn outside pyro.sample"),
    "a support that moves": (
        moving_support, "auto", (ONE,), "support of site 'low' depends on another latent"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_is_refused_in_one_line(case):
    model, guide, data, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        pc.fit(model, guide, *data)
    assert "\n" not in str(caught.value)


UNRELIABLE = {
    "NaN in the middle": (half_nan, "auto", (ONE,), "not finite at some draws"),
    "a wall in the middle": (walled, "auto", (ONE,), "not finite at some draws"),
    "an improper scale": (improper_scale, "auto", (ONE,), "not converged"),
    "a mode on the boundary": (no_spread, "map", (torch.zeros(8),), "not converged.*'tau'"),
    "a scale near its boundary": (no_spread, "auto", (torch.zeros(8),), "'tau'"),
}


@pytest.mark.parametrize("case", UNRELIABLE)
def test_what_can_be_fitted_only_in_part_is_called_unreliable_and_why(case):
    model, guide, data, reason = UNRELIABLE[case]
    diagnosis = pc.diagnose(pc.fit(model, guide, *data))
    assert diagnosis.verdict == "unreliable"
    assert re.search(reason, " ".join(diagnosis.reasons))


HARMLESS = {
    "collinear columns, proper priors": (regression, (TWICE, Y)),
    "a constant column": (regression, (torch.cat([X, torch.ones(60, 1)], dim=1), Y)),
    "separation, proper priors": (logistic, (X, SEPARATED)),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_only_looks_dangerous_is_fitted(case):
    model, data = HARMLESS[case]
    fit = pc.fit(model, "auto", *data)
    assert fit.converged
    assert pc.diagnose(fit).verdict.startswith("reliable")


def test_one_row_ends_in_a_verdict():
    fit = pc.fit(regression, "auto", X[:1], Y[:1])
    diagnosis = pc.diagnose(fit)
    assert diagnosis.verdict in {"reliable", "reliable after reweighting", "unreliable"}
    # One row says next to nothing: the weights keep their priors, but for the one combination.
    if diagnosis.verdict == "reliable":
        assert diagnosis.table.loc["b[0]", "sd"] > 3


def test_a_million_rows_are_fitted():
    torch.manual_seed(0)
    rows = torch.randn(1_000_000, 1)
    observed = 0.3 * rows[:, 0] + torch.randn(1_000_000)

    def mean(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x), dim=-1):
            pyro.sample("y", dist.Normal(slope * x[:, 0], 1.0), obs=y)

    fit = pc.fit(mean, "full_rank", rows, observed)
    precision = 1 + float((rows.double() ** 2).sum())
    exact = float((rows[:, 0].double() * observed.double()).sum()) / precision
    # In single precision the location itself is rounded at 3e-8, a ten-thousandth of its sd.
    assert fit.guide.loc.item() == pytest.approx(exact, abs=0.01 * precision**-0.5)
    assert fit.guide.scale.item() == pytest.approx(precision**-0.5, rel=0.01)
