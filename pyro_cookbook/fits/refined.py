"""Draws of chains in the place of a guide."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

# The site that picks one of the draws.
PICKED = "refined_draw"


@dataclass(frozen=True)
class Refinement:
    """What `refine` has done, and whether its chains agree.

    Attributes
    ----------
    accepted : bool
        Whether the draws may be used.
    reasons : tuple of str
        What was measured, against which limit.
    num_chains, num_superchains, num_draws : int
        Chains; groups of them with one start; draws kept of each chain.
    acceptance : float
        Harmonic mean over chains of the probability of acceptance.
    rhat : float
        Largest nested R-hat of a scalar.
    ess : float
        Smallest effective sample size, of means and of squares.
    gradients : int
        Gradients of the log density, all chains together, warm-up included.
    seconds : float

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("row", len(y)):
    ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> fit = pc.refine(pc.fit(model, "laplace", torch.tensor([1.0, 2.0, 3.0])))
    >>> fit.refinements[-1].accepted
    True
    """

    accepted: bool
    reasons: tuple[str, ...]
    num_chains: int
    num_superchains: int
    num_draws: int
    acceptance: float
    rhat: float
    ess: float
    gradients: int
    seconds: float


class RefinedDraws(nn.Module):
    """A guide that gives back draws: one of them, chosen evenly, at each run.

    Attributes
    ----------
    sizes : list of str
        A line "name size size …" for each latent: the shape of one draw.
    num_chains, num_draws : int

    Notes
    -----
    It has no density: its log density is that of the choice. It stands where a fit's guide stands,
    so that all that runs guides takes draws of chains.
    """

    diverging: Tensor

    def __init__(self, sizes: tuple[str, ...], num_chains: int, num_draws: int) -> None:
        super().__init__()
        self.sizes, self.num_chains, self.num_draws = list(sizes), num_chains, num_draws
        for i, line in enumerate(sizes):
            shape = [int(size) for size in line.split("\t")[1:]]
            self.register_buffer(f"draws_{i}", torch.zeros(num_chains * num_draws, *shape))
        self.register_buffer("diverging", torch.zeros(num_chains, num_draws, dtype=torch.bool))

    @classmethod
    def of(cls, latents: dict[str, Tensor], diverging: Tensor) -> "RefinedDraws":
        """Keep draws, shape (chains · draws, ...) each, chain by chain."""
        sizes = tuple("\t".join([n, *map(str, v.shape[1:])]) for n, v in latents.items())
        guide = cls(sizes, *diverging.shape)
        for i, value in enumerate(latents.values()):
            setattr(guide, f"draws_{i}", value.detach())
        guide.diverging = diverging
        return guide

    @property
    def latents(self) -> dict[str, Tensor]:
        """The draws: site → values, shape (chains · draws, ...), chain by chain."""
        names = [line.split("\t")[0] for line in self.sizes]
        return {name: getattr(self, f"draws_{i}") for i, name in enumerate(names)}

    def forward(self, *_: object, **__: object) -> dict[str, Tensor]:
        """Choose a draw."""
        # Not a Categorical, which computes with all draws for each that is chosen.
        number = self.num_chains * self.num_draws
        evenly = dist.Uniform(self.diverging.new_zeros((), dtype=torch.float64), float(number))
        place = pyro.sample(PICKED, evenly, infer={"is_auxiliary": True})
        which = place.long().clamp(max=number - 1)
        return {
            name: pyro.sample(name, dist.Delta(value[which], event_dim=value.dim() - 1))
            for name, value in self.latents.items()
        }
