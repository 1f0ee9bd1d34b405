"""Topic 5a: a Helmholtz machine, learned by reweighted wake-sleep and held."""

from typing import Any

from torch import Tensor

from guides import sigmoid_belief_network as guides
from models.sigmoid_belief_network import SigmoidBeliefNetwork
from pyro_cookbook.algorithms.wake_sleep import enumeration
from pyro_cookbook.algorithms.wake_sleep.learning import Learnt, learn
from pyro_cookbook.catalogue.answers import sigmoid_belief_network as answers
from pyro_cookbook.catalogue.checks import zeros_and_ones
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import sum_of_rows
from pyro_cookbook.programs.state.holding import hold

_NUM_SEEDS, _NUM_PARTICLES, _NUM_STEPS = 4, 5, 1500
# Settled: from the last measurement but one to the last the bound moved by less, in nats a row.
_TOL = 0.05


def _learned(v: Tensor, size: int, seed: int) -> tuple[Any, Learnt, int]:
    """Hold the model at the best of several seeds: the guides differ, θ does not."""
    found = learn(
        v, size, "reweighted", num_particles=_NUM_PARTICLES, num_seeds=_NUM_SEEDS, seed=seed,
        num_steps=_NUM_STEPS,
    )  # fmt: skip
    best = int(found.log_evidence[-1].argmax())
    theta = {name: value[best] for name, value in found.theta._asdict().items()}
    return hold(SigmoidBeliefNetwork(v.shape[1], size), theta), found, best


def _point(v: Tensor, size: int, seed: int) -> Prepared:
    model, _, _ = _learned(v, size, seed)
    guide: Any = guides.SigmoidBeliefNetworkMAP(len(v), size).to(v)
    guide.e_step(model, v)
    return Prepared(model, guide, (v,), reason="iterated conditional modes")


def _by_row(v: Tensor, size: int, seed: int) -> Prepared:
    model, _, _ = _learned(v, size, seed)
    logits, elbo = enumeration.mean_field(model, v)
    guide: Any = guides.SigmoidBeliefNetworkMeanField(len(v), size).to(v)
    guide.h_logits = logits
    losses = [-value for value in elbo]
    return Prepared(
        model, guide, (v,), losses=losses, reason=f"coordinate ascent, {len(elbo) - 1} sweeps"
    )


def _network(v: Tensor, size: int, seed: int) -> Prepared:
    model, found, best = _learned(v, size, seed)
    guide: Any = guides.SigmoidBeliefNetworkAmortized(v.shape[1], size).to(v)
    weights = {"weight": found.phi.R[best], "bias": found.phi.r[best]}
    guide.encoder[0].load_state_dict(weights)
    bound = (found.log_evidence - found.reverse)[:, best]
    return Prepared(
        model,
        guide,
        (v,),
        losses=(-len(v) * bound).tolist(),
        reason=f"reweighted wake-sleep, {_NUM_PARTICLES} draws a row, {_NUM_STEPS} steps",
        converged=bool(abs(bound[-1] - bound[-2]) < _TOL),
    )


RECIPE = Recipe(
    name="05a_wake_sleep",
    title="Wake-sleep: the Helmholtz machine",
    model="sigmoid belief network",
    topic="19.5.1",
    learn="two divergences, dreams, and what more draws do to a guide",
    data="binary_bars",
    size=8,
    size_name="causes",
    guides={
        "map": GuideEntry("every cause on or off, by iterated conditional modes", _point),
        "mean_field": GuideEntry("independent causes, set row by row", _by_row),
        "amortized": GuideEntry("a recognition network, linear in the row", _network),
    },
    default="mean_field",
    because="of the three its bound is the nearest to the evidence",
    log_evidence=sum_of_rows(enumeration.log_evidence),
    dims={"h": ("cause",), "v": ("feature",), "W": ("feature", "cause"), "b": ("cause",),
          "c": ("feature",)},
    estimates=answers.estimates,
    apply=answers.apply,
    standardised=False,
    check=zeros_and_ones,
    max_size=lambda v: 12,  # every state is enumerated
)  # fmt: skip
