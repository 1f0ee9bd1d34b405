"""Odd shapes: twists, edges, cusps, shells, several modes, and mass where nobody looks."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import constraints

from ..entry import Entry, Moments, arrays, tensors
from ..exact import (
    conditionally_gaussian,
    gaussian_posterior,
    grid_weights,
    log_space,
    mix,
    on_grid,
)


def _rotation(seed: int, D: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


def twist_data() -> tuple[Tensor, ...]:
    return tensors(_rotation(3401, 4))


def twisted(Q):
    """Haario et al. (1999), doi:10.1007/s001800050022, with two twists, turned."""
    x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (4,)))
    u = x @ Q
    first = u[..., 1] - 0.3 * (u[..., 0] ** 2 - 2.25)
    second = u[..., 3] - 0.3 * u[..., 0] * u[..., 2]
    squares = (u[..., 0] / 1.5) ** 2 + first**2 + u[..., 2] ** 2 + second**2
    pyro.factor("density", -0.5 * squares)


def twisted_exact() -> Moments:
    """The columns of u are uncorrelated; Var(u²) = 2 sd⁴."""
    (Q,) = arrays(twist_data)
    variances = [2.25, 1 + 0.09 * 2 * 1.5**4, 1, 1 + 0.09 * 2.25]
    return {"x": (np.zeros(4), np.sqrt(Q**2 @ variances))}


def narrow_data() -> tuple[Tensor, ...]:
    """Thirty dimensions, no axis along a coordinate, sds from 0.001 to 1."""
    Q = _rotation(3402, 30)
    return tensors(np.linspace(-1, 1, 30), (Q * np.logspace(0, 6, 30)) @ Q.T)


def narrow(loc, precision):
    pyro.sample("x", dist.MultivariateNormal(loc, precision_matrix=precision))


def narrow_exact() -> Moments:
    Q = _rotation(3402, 30)
    return {"x": (np.linspace(-1, 1, 30), np.sqrt(Q**2 @ np.logspace(0, -6, 30)))}


def rare_data() -> tuple[Tensor, ...]:
    return tensors([1.0, 1.0, 2.0, 3.0, 5.0, 8.0], [2.0, 10.0, 0.5, 4.0, 1.0, 20.0])


def rare_counts(y, hours):
    """Flat in the logarithms of the rates."""
    with pyro.plate("place", len(y)):
        log_rate = pyro.sample("log_rate", dist.ImproperUniform(constraints.real, (), ()))
        pyro.sample("y", dist.Poisson(log_rate.exp() * hours), obs=y)


def rare_counts_exact() -> Moments:
    """The logarithm of a gamma variable."""
    y, hours = arrays(rare_data)
    return {"log_rate": (special.digamma(y) - np.log(hours), np.sqrt(special.polygamma(1, y)))}


def serial_data() -> tuple[Tensor, ...]:
    """Simulated: serial numbers (thousands) from three factories."""
    rng, factory = np.random.default_rng(3403), np.repeat(np.arange(3), [12, 8, 15])
    return tensors(factory, rng.uniform(0, np.array([4.0, 1.5, 9.0])[factory]))


def serial_numbers(factory, serial):
    """The prior is 1 / top, and no serial number is above the top."""
    largest = torch.stack([serial[factory == k].max() for k in range(3)])
    with pyro.plate("factory", 3):
        above = constraints.greater_than(largest)
        top = pyro.sample("top", dist.ImproperUniform(above, (), ()))
        pyro.factor("prior", -top.log())
    with pyro.plate("tank", len(serial)):
        pyro.sample("serial", dist.Uniform(0.0, top[factory]), obs=serial)


def serial_numbers_exact() -> Moments:
    """Pareto."""
    factory, serial = arrays(serial_data)
    largest = np.array([serial[factory == k].max() for k in range(3)])
    top = stats.pareto(np.bincount(factory), scale=largest)
    return {"top": (top.mean(), top.std())}


def student_data() -> tuple[Tensor, ...]:
    L = np.tril(0.4 * np.random.default_rng(3404).normal(size=(10, 10)), -1)
    return tensors(np.arange(10.0), L + np.diag(np.logspace(-1, 1, 10)))


def student(loc, L):
    pyro.sample("x", dist.MultivariateStudentT(8.0, loc, L))


def student_exact() -> Moments:
    loc, L = arrays(student_data)
    return {"x": (loc, np.sqrt(8 / 6 * np.sum(L**2, axis=1)))}


def hills_data() -> tuple[Tensor, ...]:
    """Two modes eight sds apart, with 70% and 30%."""
    C = np.array([[[1.0, 0.6], [0.6, 1.0]], [[1.0, -0.3], [-0.3, 0.5]]])
    return tensors([0.7, 0.3], [[0.0, 0.0], [8.0, 0.0]], C)


def hills(weight, loc, covariance):
    x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    hill = dist.MultivariateNormal(loc, covariance)
    pyro.factor("density", torch.logsumexp(weight.log() + hill.log_prob(x[..., None, :]), -1))


def hills_exact() -> Moments:
    weight, loc, covariance = arrays(hills_data)
    return {"x": mix(weight, loc, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)))}


def shells_data() -> tuple[Tensor, ...]:
    return tensors([2.0, 6.0], [0.6, 0.4])


def shells(radius, weight):
    """Shells of thickness 0.3 with about the given shares of the mass."""
    x = pyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (3,)))
    r = x.norm(dim=-1, keepdim=True)
    shell = (weight / radius**2).log() + dist.Normal(radius, 0.3).log_prob(r)
    pyro.factor("density", shell.logsumexp(-1))


def shells_exact() -> Moments:
    """By symmetry the variance of a coordinate is E[r²]/3."""
    radius, weight = arrays(shells_data)
    r = np.linspace(0, 10, 10_001)
    density = stats.norm.pdf(r[:, None], radius, 0.3) @ (weight / radius**2) * r**2
    weights = grid_weights(np.log(density + 1e-300))
    return {"x": (np.zeros(3), np.full(3, np.sqrt(weights @ r**2 / 3)))}


def needle_data() -> tuple[Tensor, ...]:
    """A unit Gaussian with 85%, and beside it 15% within an sd of 0.02."""
    return tensors([0.85, 0.15], [[0.0, 0.0], [1.2, -0.8]], [[1.0, 1.0], [0.02, 0.02]])


def lump_data() -> tuple[Tensor, ...]:
    """Five dimensions; seven sds from the centre lie 15%."""
    far = 7 * np.array([0.6, -0.4, 0.5, 0.2, -0.435889894354067])
    return tensors([0.85, 0.15], np.array([np.zeros(5), far]), np.array([np.ones(5)] * 2))


def two_lumps(weight, loc, scale):
    pyro.sample("x", dist.MixtureOfDiagNormals(loc, scale, weight.log()))


def needle_exact() -> Moments:
    return {"x": mix(*arrays(needle_data))}


def lump_exact() -> Moments:
    return {"x": mix(*arrays(lump_data))}


def gain_data() -> tuple[Tensor, ...]:
    """Simulated: two columns, and the same unknown gain on both their coefficients."""
    rng = np.random.default_rng(3405)
    X = rng.normal(size=(25, 2))
    return tensors(X, 1.2 * X @ [1.0, -0.7] + rng.normal(scale=0.5, size=25))


def gain(X, y):
    """(a, b) and (−a, −b) fit alike; the prior prefers a above 0."""
    a = pyro.sample("a", dist.Normal(0.5, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a * (X @ b), 0.5), obs=y)


def gain_exact() -> Moments:
    """b is Gaussian given a."""
    X, y = arrays(gain_data)
    a = np.linspace(-7, 7, 2801)
    log_prior = stats.norm.logpdf(a, 0.5)
    weights, b = conditionally_gaussian(
        log_prior, (gaussian_posterior(X * s, y, 0.5, 1.0) for s in a)
    )
    return {"a": mix(weights, a), "b": b}


def cusps_data() -> tuple[Tensor, ...]:
    return tensors(np.arange(12.0), np.logspace(-1, 1, 12))


def cusps(loc, scale):
    with pyro.plate("entry", len(loc)):
        pyro.sample("x", dist.Laplace(loc, scale))


def cusps_exact() -> Moments:
    loc, scale = arrays(cusps_data)
    return {"x": (loc, np.sqrt(2) * scale)}


def wedge_data() -> tuple[Tensor, ...]:
    return tensors([1.0, 0.5, 2.0, 1.0, 0.3, 1.5])


def wedge(scale):
    """Each is close below, or exponentially far above, four fifths of the one before."""
    x = torch.zeros(())
    for d in range(len(scale)):
        x = pyro.sample(f"x_{d}", dist.AsymmetricLaplace(0.8 * x, scale[d], 0.3))


def wedge_exact() -> Moments:
    """A step is the difference of two exponentials, of means scale / 0.3 and 0.3 scale."""
    (scale,) = arrays(wedge_data)
    out, mean, variance = {}, 0.0, 0.0
    for d, s in enumerate(scale):
        mean = 0.8 * mean + s * (1 / 0.3 - 0.3)
        variance = 0.64 * variance + s**2 * (1 / 0.09 + 0.09)
        out[f"x_{d}"] = (np.array(mean), np.sqrt(variance))
    return out


def species_data() -> tuple[Tensor, ...]:
    """Four species seen in a trap, the last never; the prior of the shares."""
    return tensors([12.0, 7.0, 3.0, 0.0], [2.0, 2.0, 1.5, 0.6])


def species(counts, prior):
    """The density is infinite where the last share is 0."""
    share = pyro.sample("share", dist.Dirichlet(prior))
    pyro.sample("counts", dist.Multinomial(22, share), obs=counts)


def species_exact() -> Moments:
    a = np.sum(arrays(species_data), axis=0)
    mean = a / a.sum()
    return {"share": (mean, np.sqrt(mean * (1 - mean) / (a.sum() + 1)))}


def traps_data() -> tuple[Tensor, ...]:
    """Simulated: animals caught on five nights, and how many different ones in all."""
    rng = np.random.default_rng(3406)
    caught = rng.random((120, 5)) < [0.1, 0.15, 0.08, 0.2, 0.12]
    return tensors(caught.sum(0) * 1.0, np.array(caught.any(1).sum() * 1.0))


def traps(caught, different):
    """Capture and recapture with a chance for each night, and as many animals as you like."""
    missed = pyro.sample("missed", dist.Exponential(0.01))
    number = pyro.deterministic("number", different + missed)
    with pyro.plate("night", len(caught)):
        p = pyro.sample("p", dist.Beta(1.0, 4.0))
        pyro.factor("caught", caught * p.log() + (number - caught) * torch.log1p(-p))
    pyro.factor("ways", torch.lgamma(number + 1) - torch.lgamma(missed + 1))


def traps_exact() -> Moments:
    """The chances are beta given the number."""
    caught, different = arrays(traps_data)
    missed = log_space(1e-6, 3e3, 2001)
    number = different + missed
    a, b = 1 + caught, 4 + number[:, None] - caught
    log_p = np.log(missed) - 0.01 * missed + special.gammaln(number + 1)
    log_p += special.betaln(a, b).sum(1) - special.gammaln(missed + 1)
    p = stats.beta(a, b)
    return {
        **on_grid(log_p, missed=missed, number=number),
        "p": mix(grid_weights(log_p), p.mean(), p.std()),
    }


ENTRIES = [
    Entry("twisted_4", "curved", twisted, twist_data, twisted_exact),
    Entry("narrow_30", "gaussian", narrow, narrow_data, narrow_exact),
    Entry("rare_counts_log", "glm", rare_counts, rare_data, rare_counts_exact),
    Entry("serial_numbers", "boundary", serial_numbers, serial_data, serial_numbers_exact),
    Entry("student_10", "heavy tail", student, student_data, student_exact),
    Entry("two_hills", "multimodal", hills, hills_data, hills_exact),
    Entry("two_shells", "multimodal", shells, shells_data, shells_exact),
    Entry("needle", "hidden mass", two_lumps, needle_data, needle_exact),
    Entry("far_lump", "hidden mass", two_lumps, lump_data, lump_exact),
    Entry("unknown_gain", "multimodal", gain, gain_data, gain_exact),
    Entry("cusps_12", "heavy tail", cusps, cusps_data, cusps_exact),
    Entry("wedge_6", "boundary", wedge, wedge_data, wedge_exact),
    Entry("species_never_seen", "boundary", species, species_data, species_exact),
    Entry("capture_recapture", "curved", traps, traps_data, traps_exact),
]
