"""Differential equations by hand-written Runge–Kutta, and curves with a closed form."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .entry import Entry, tensors


def rk4(field: Callable[[Tensor], Tensor], z: Tensor, num: int, substeps: int, dt: float) -> Tensor:
    """States at 0, dt, 2 dt, …: `num` of them, each reached in `substeps` Runge–Kutta steps."""
    h, path = dt / substeps, [z]
    for _ in range(num - 1):
        for _ in range(substeps):
            k1 = field(z)
            k2 = field(z + h / 2 * k1)
            k3 = field(z + h / 2 * k2)
            k4 = field(z + h * k3)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(z)
    return torch.stack(path)


def lynx_data() -> tuple[Tensor, ...]:
    """Pelts (thousands) of hares and lynxes, 1900 to 1920: Hewitt (1921)."""
    hare = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1]
    hare += [40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
    lynx = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4]
    lynx += [8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
    return tensors(np.array([hare, lynx], float).T)


def lotka_volterra(pelts):
    """Solved for the logarithms, so that no population turns negative."""
    growth = pyro.sample("growth", dist.LogNormal(-0.5, 0.5).expand([2]).to_event(1))
    contact = pyro.sample("contact", dist.LogNormal(-3.5, 0.5).expand([2]).to_event(1))
    start = pyro.sample("start", dist.LogNormal(2.5, 1.0).expand([2]).to_event(1))
    sigma = pyro.sample("sigma", dist.LogNormal(-1.0, 0.5).expand([2]).to_event(1))
    sign = torch.tensor([1.0, -1.0])

    def field(log_z):
        return sign * (growth - contact * log_z.clamp(max=10.0).exp().flip(-1))

    log_z = rk4(field, start.log(), len(pelts), 2, 1.0)
    with pyro.plate("year", len(pelts)):
        pyro.sample("pelts", dist.LogNormal(log_z, sigma).to_event(1), obs=pelts)


def influenza_data() -> tuple[Tensor, ...]:
    """Boys in bed, of 763 at a boarding school: British Medical Journal (1978) 1, 587."""
    return tensors(np.array([3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4]) * 1.0)


def sir(in_bed):
    beta = pyro.sample("beta", dist.LogNormal(0.5, 0.5))
    gamma = pyro.sample("gamma", dist.LogNormal(-0.7, 0.5))
    size = pyro.sample("size", dist.LogNormal(2.0, 1.0))

    infection = beta / 763.0 * torch.tensor([-1.0, 1.0])
    recovery = gamma * torch.tensor([0.0, -1.0])

    def field(z):
        return infection * z.prod(-1) + recovery * z

    path = rk4(field, torch.tensor([762.0, 1.0]), len(in_bed) + 1, 2, 1.0)
    infected = path[1:, 1].clamp(min=1e-6)
    logits = infected.log() - size.log()
    with pyro.plate("day", len(in_bed)):
        pyro.sample("in_bed", dist.NegativeBinomial(size, logits=logits), obs=in_bed)


def growth_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(401)
    t = np.linspace(0, 10, 25)
    return tensors(t, 50 / (1 + 9 * np.exp(-0.8 * t)) * np.exp(rng.normal(scale=0.1, size=25)))


def logistic_growth(t, y):
    capacity = pyro.sample("capacity", dist.LogNormal(4.0, 1.0))
    start = pyro.sample("start", dist.LogNormal(1.0, 1.0))
    rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    loc = capacity / (1 + (capacity / start - 1) * torch.exp(-rate * t))
    with pyro.plate("row", len(t)):
        pyro.sample("y", dist.LogNormal(loc.clamp(min=1e-6).log(), sigma), obs=y)


def puromycin_data() -> tuple[Tensor, ...]:
    """Concentration and velocity, treated cells: Bates and Watts (1988), table A1.3."""
    concentration = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.1], 2)
    return tensors(concentration, [76.0, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200])


def michaelis_menten(concentration, velocity):
    top = pyro.sample("top", dist.Normal(200.0, 100.0))
    half = pyro.sample("half", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(50.0))
    with pyro.plate("row", len(velocity)):
        loc = top * concentration / (half + concentration)
        pyro.sample("velocity", dist.Normal(loc, sigma), obs=velocity)


def dose_data() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(402)
    t = np.array([0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 12, 24])
    curve = 10 * 1.5 / (1.5 - 0.15) * (np.exp(-0.15 * t) - np.exp(-1.5 * t))
    return tensors(t, curve * np.exp(rng.normal(scale=0.15, size=len(t))))


def one_compartment(t, concentration):
    """Absorption is faster than elimination by construction: no flip-flop."""
    volume = pyro.sample("volume", dist.LogNormal(0.0, 1.0))
    out = pyro.sample("out", dist.LogNormal(-1.5, 1.0))
    faster = pyro.sample("faster", dist.LogNormal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(0.5))
    rise = 10.0 / volume * (out + faster) / faster
    loc = rise.log() - out * t + torch.log(-torch.expm1(-faster * t))
    with pyro.plate("time", len(t)):
        pyro.sample("concentration", dist.LogNormal(loc, sigma), obs=concentration)


ENTRIES = [
    Entry("lotka_volterra", "ode", lotka_volterra, lynx_data),
    Entry("sir_influenza", "ode", sir, influenza_data),
    Entry("logistic_growth", "ode", logistic_growth, growth_data),
    Entry("michaelis_menten", "ode", michaelis_menten, puromycin_data),
    Entry("one_compartment", "ode", one_compartment, dose_data),
]
