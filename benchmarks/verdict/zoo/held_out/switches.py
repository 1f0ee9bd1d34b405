"""Discrete latents: mixtures, switches, hidden states and annotators; changes summed by hand."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform
from scipy import special, stats
from sklearn.datasets import load_iris
from torch import Tensor

from ..entry import Entry, Moments, arrays, tensors
from ..exact import gaussian_posterior, log_space, mix, on_grid, split


def petal_data() -> tuple[Tensor, ...]:
    """Lengths of 150 petals of three species, of which one is apart, cm."""
    return tensors(load_iris().data[:, 2])


def _petal_parameters():
    weight = pyro.sample("weight", dist.Dirichlet(torch.ones(2)))
    base = dist.Normal(torch.tensor([2.0, 1.0]), 1.0).to_event(1)
    mean = pyro.sample("mean", dist.TransformedDistribution(base, OrderedTransform()))
    sd = pyro.sample("sd", dist.HalfNormal(1.0).expand([2]).to_event(1))
    return weight, mean, sd


def petals(y):
    weight, mean, sd = _petal_parameters()
    with pyro.plate("flower", len(y)):
        z = pyro.sample("z", dist.Categorical(weight), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(mean[z], sd[z]), obs=y)


def petals_summed(y):
    weight, mean, sd = _petal_parameters()
    rows = weight.log() + dist.Normal(mean, sd).log_prob(y[:, None])
    pyro.factor("y", torch.logsumexp(rows, dim=-1).sum())


def bands_data() -> tuple[Tensor, ...]:
    """Simulated: three bands, each with its own known width."""
    rng = np.random.default_rng(3201)
    z = rng.choice(3, size=120, p=[0.3, 0.45, 0.25])
    width = np.array([0.9, 0.6, 1.2])
    return tensors(rng.normal(np.array([-2.6, 0.2, 3.1])[z], width[z]), width)


def _band_parameters():
    weight = pyro.sample("weight", dist.Dirichlet(torch.full((3,), 2.0)))
    centre = pyro.sample("centre", dist.Normal(torch.tensor([-3.0, 0.0, 3.0]), 0.6).to_event(1))
    return weight, centre


def bands(y, width):
    weight, centre = _band_parameters()
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weight))
        pyro.sample("y", dist.Normal(centre[z], width[z]), obs=y)


def bands_summed(y, width):
    weight, centre = _band_parameters()
    rows = weight.log() + dist.Normal(centre, width).log_prob(y[:, None])
    pyro.factor("y", torch.logsumexp(rows, dim=-1).sum())


def catch_data() -> tuple[Tensor, ...]:
    """Simulated: fish caught by 80 parties, of which some did not fish."""
    rng = np.random.default_rng(3202)
    return tensors(rng.binomial(1, 0.65, 80) * rng.poisson(1.6, 80) * 1.0)


def catches(y):
    """Who does not fish may still catch one in a million."""
    idle = pyro.sample("idle", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("party", len(y)):
        at_rest = pyro.sample("at_rest", dist.Bernoulli(idle), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Poisson(rate * (1 - at_rest) + 1e-6), obs=y)


def catches_exact() -> Moments:
    """With idle = 1 / (1 + exp(-u))."""
    (y,) = arrays(catch_data)
    u, rate = np.meshgrid(np.linspace(-18, 3, 421), log_space(0.4, 5, 201), indexing="ij")
    idle = special.expit(u)
    log_p = stats.gamma.logpdf(rate, 2) + np.log(rate * idle * (1 - idle))
    for value, number in zip(*np.unique(y, return_counts=True), strict=True):
        rest, fish = stats.poisson.pmf(value, 1e-6), stats.poisson.pmf(value, rate + 1e-6)
        log_p += number * np.log(idle * rest + (1 - idle) * fish)
    return on_grid(log_p, idle=idle, rate=rate)


def points_data() -> tuple[Tensor, ...]:
    """x, y and errors of y: Hogg et al. (2010), table 1, doi:10.48550/arXiv.1008.4686."""
    x = [201.0, 244, 47, 287, 203, 58, 210, 202, 198, 158]
    x += [165, 201, 157, 131, 166, 160, 186, 125, 218, 146]
    y = [592.0, 401, 583, 402, 495, 173, 479, 504, 510, 416]
    y += [393, 442, 317, 311, 400, 337, 423, 334, 533, 344]
    error = [61.0, 25, 38, 15, 21, 15, 27, 14, 30, 16, 14, 25, 52, 16, 34, 31, 42, 26, 16, 22]
    return tensors(x, y, error)


def good_points_data() -> tuple[Tensor, ...]:
    """All but the first four, which are far from the line."""
    x, y, error = points_data()
    return x[4:], y[4:], error[4:]


def line(x, y, error):
    intercept = pyro.sample("intercept", dist.Normal(0.0, 200.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    with pyro.plate("point", len(x)):
        pyro.sample("y", dist.Normal(intercept + slope * x, error), obs=y)


def line_exact() -> Moments:
    x, y, error = arrays(good_points_data)
    _, mean, sd = gaussian_posterior(np.c_[np.ones(16), x], y, error, np.r_[200.0, 5.0])
    return split((mean, sd), intercept=0, slope=0)


def _line_parameters():
    intercept = pyro.sample("intercept", dist.Normal(0.0, 200.0))
    slope = pyro.sample("slope", dist.Normal(2.0, 1.0))
    share = pyro.sample("share", dist.Beta(2.0, 8.0))
    spread = pyro.sample("spread", dist.LogNormal(5.0, 0.5))
    return intercept, slope, share, spread


def bad_points(x, y, error):
    intercept, slope, share, spread = _line_parameters()
    with pyro.plate("point", len(x)):
        bad = pyro.sample("bad", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        scale = torch.sqrt(error**2 + bad * spread**2)
        pyro.sample("y", dist.Normal(intercept + slope * x, scale), obs=y)


def bad_points_summed(x, y, error):
    intercept, slope, share, spread = _line_parameters()
    loc, wide = intercept + slope * x, torch.sqrt(error**2 + spread**2)
    good = torch.log1p(-share) + dist.Normal(loc, error).log_prob(y)
    bad = share.log() + dist.Normal(loc, wide).log_prob(y)
    pyro.factor("y", torch.logaddexp(good, bad).sum())


def outbreak_data() -> tuple[Tensor, ...]:
    """Simulated: cases in 40 weeks, calm or not."""
    rng, state, y = np.random.default_rng(3203), 0, []
    for _ in range(40):
        state = state if rng.random() < 0.85 else 1 - state
        y.append(rng.poisson([2.0, 9.0][state]) * 1.0)
    return tensors(np.array(y))


def _outbreak_parameters():
    prior = dist.Dirichlet(torch.tensor([[8.0, 2.0], [2.0, 8.0]]))
    transition = pyro.sample("transition", prior.to_event(1))
    rate = pyro.sample("rate", dist.Gamma(torch.tensor([4.0, 20.0]), 2.0).to_event(1))
    return transition, rate


def outbreaks(y):
    """Every week is calm (0) or not; the week before the first was calm."""
    transition, rate = _outbreak_parameters()
    z = 0
    for t in pyro.markov(range(len(y))):
        law = dist.Categorical(transition[z])
        z = pyro.sample(f"z_{t}", law, infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Poisson(rate[z]), obs=y[t])


def outbreaks_summed(y):
    transition, rate = _outbreak_parameters()
    emission = dist.Poisson(rate).log_prob(y[:, None])
    alpha = transition[0].log() + emission[0]
    for t in range(1, len(y)):
        alpha = torch.logsumexp(alpha[:, None] + transition.log(), dim=0) + emission[t]
    pyro.factor("y", torch.logsumexp(alpha, dim=0))


def labels_data() -> tuple[Tensor, ...]:
    """Simulated: 60 pictures, labelled 0 or 1 by four people of whom some are careless."""
    rng = np.random.default_rng(3204)
    z = rng.binomial(1, 0.4, 60)[:, None]
    p = np.where(z == 1, [0.9, 0.8, 0.7, 0.85], [0.05, 0.15, 0.25, 0.3])
    return tensors(rng.binomial(1, p) * 1.0)


def annotators(label):
    """Dawid and Skene (1979), doi:10.2307/2346806."""
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    person = pyro.plate("person", 4, dim=-1)
    with person:
        right_1 = pyro.sample("right_1", dist.Beta(8.0, 2.0))
        right_0 = pyro.sample("right_0", dist.Beta(8.0, 2.0))
    with pyro.plate("picture", len(label), dim=-2):
        z = pyro.sample("z", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        with person:
            p = z * right_1 + (1 - z) * (1 - right_0)
            pyro.sample("label", dist.Bernoulli(p), obs=label)


def annotators_summed(label):
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("person", 4):
        right_1 = pyro.sample("right_1", dist.Beta(8.0, 2.0))
        right_0 = pyro.sample("right_0", dist.Beta(8.0, 2.0))
    one = share.log() + dist.Bernoulli(right_1).log_prob(label).sum(-1)
    none = torch.log1p(-share) + dist.Bernoulli(1 - right_0).log_prob(label).sum(-1)
    pyro.factor("label", torch.logaddexp(one, none).sum())


def conflict_data() -> tuple[Tensor, ...]:
    """Four answers of 216 people: Goodman (1974), doi:10.1093/biomet/61.2.215."""
    number = [20, 2, 9, 2, 6, 1, 4, 1, 38, 7, 24, 6, 25, 6, 23, 42]
    return tensors(np.repeat(np.array(list(np.ndindex(2, 2, 2, 2))) * 1.0, number, axis=0))


def _class_parameters():
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
    prior = dist.Beta(torch.tensor([[2.0], [4.0]]), torch.tensor([[4.0], [2.0]]))
    return share, pyro.sample("p", prior.expand([2, 4]).to_event(2))


def latent_class(answer):
    share, p = _class_parameters()
    with pyro.plate("people", len(answer)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("answer", dist.Bernoulli(p[z]).to_event(1), obs=answer)


def latent_class_summed(answer):
    share, p = _class_parameters()
    rows = share.log() + dist.Bernoulli(p).log_prob(answer[:, None, :]).sum(-1)
    pyro.factor("answer", torch.logsumexp(rows, dim=-1).sum())


def tones_data() -> tuple[Tensor, ...]:
    """Simulated: some rows keep to one line and the others to another."""
    rng = np.random.default_rng(3205)
    x, first = rng.uniform(0, 3, 90), rng.random(90) < 0.6
    return tensors(x, np.where(first, 0.3 + 1.1 * x, 2.0) + rng.normal(scale=0.4, size=90))


def _tone_parameters():
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    a = pyro.sample("a", dist.Normal(torch.tensor([0.0, 2.0]), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(torch.tensor([1.0, 0.0]), 0.2).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    return share, a, b, sigma


def two_lines(x, y):
    share, a, b, sigma = _tone_parameters()
    with pyro.plate("row", len(y)):
        flat = pyro.sample("flat", dist.Bernoulli(share)).long()
        pyro.sample("y", dist.Normal(a[flat] + b[flat] * x, sigma), obs=y)


def two_lines_summed(x, y):
    share, a, b, sigma = _tone_parameters()
    weight = torch.stack([1 - share, share]).log()
    rows = weight + dist.Normal(a + b * x[:, None], sigma).log_prob(y[:, None])
    pyro.factor("y", torch.logsumexp(rows, dim=-1).sum())


def shift_data() -> tuple[Tensor, ...]:
    """Simulated: the mean of 40 measurements rises once."""
    rng = np.random.default_rng(3206)
    return tensors(np.where(np.arange(40) < 24, 3.0, 4.3) + rng.normal(size=40))


def mean_shift(y):
    """The last row before the change is any but the 40th, and summed out by hand."""
    mean = pyro.sample("mean", dist.Normal(3.0, 3.0).expand([2]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    rows = dist.Normal(mean, sigma).log_prob(y[:, None])
    before, after = rows[:, 0].cumsum(0), rows[:, 1].flip(0).cumsum(0).flip(0)
    pyro.factor("y", torch.logsumexp(before[:-1] + after[1:], dim=0) - np.log(39))


def mean_shift_exact() -> Moments:
    """A Gaussian for each place of the change and each sigma."""
    (y,) = arrays(shift_data)
    sigma, late = log_space(0.6, 4.0, 81), np.arange(40) >= np.arange(1, 40)[:, None]
    parts = [gaussian_posterior(np.c_[~k, k] * 1.0, y, s, 3.0, 3.0) for s in sigma for k in late]
    evidences, means, sds = map(np.array, zip(*parts, strict=True))
    log_prior = stats.halfnorm.logpdf(sigma, scale=2) + np.log(sigma)
    weights = special.softmax(evidences + np.repeat(log_prior, 39))
    return {"sigma": mix(weights, np.repeat(sigma, 39)), "mean": mix(weights, means, sds)}


ENTRIES = [
    Entry("petals_two_kinds", "mixture", petals, petal_data, None, petals_summed),
    Entry("three_bands", "mixture", bands, bands_data, None, bands_summed),
    Entry("idle_parties", "mixture", catches, catch_data, catches_exact),
    Entry("line_known_errors", "linear", line, good_points_data, line_exact),
    Entry("line_bad_points", "mixture", bad_points, points_data, None, bad_points_summed),
    Entry("outbreak_states", "mixture", outbreaks, outbreak_data, None, outbreaks_summed),
    Entry("annotators", "mixture", annotators, labels_data, None, annotators_summed),
    Entry(
        "role_conflict_classes", "mixture", latent_class, conflict_data, None, latent_class_summed
    ),
    Entry("two_lines", "mixture", two_lines, tones_data, None, two_lines_summed),
    Entry("mean_shift", "time series", mean_shift, shift_data, mean_shift_exact),
]
