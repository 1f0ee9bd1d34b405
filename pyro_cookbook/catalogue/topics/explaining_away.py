"""Topic 4c, first model: two causes of one sum."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from guides import explaining_away as guides
from models.explaining_away import ExplainingAway
from pyro_cookbook.algorithms import explaining_away
from pyro_cookbook.catalogue.answers import explaining_away as answers
from pyro_cookbook.catalogue.checks import one_column
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import sum_of_rows, vectorised_bound
from pyro_cookbook.programs.state.holding import hold


def _model(v: Tensor, size: int) -> Any:
    """Causes of unequal strength, of the length that the rows' variance asks for."""
    strength = torch.linspace(1.5, 1.0, size)
    length = (v.square().mean() - 1).clamp_min(0.1).sqrt()
    return hold(ExplainingAway(size), {"w": (length * strength / strength.norm()).to(v)})


def _per_row(guide: Any, v: Tensor, size: int, seed: int) -> Prepared:
    return Prepared(
        _model(v, size), guide(len(v), size), (v,), options={"elbo": vectorised_bound()}
    )


def _encoder(v: Tensor, size: int, seed: int) -> Prepared:
    torch.manual_seed(seed)
    guide = guides.ExplainingAwayAmortized(size)
    return Prepared(_model(v, size), guide, (v,), options={"elbo": vectorised_bound()})


def _log_evidence(model: Any, v: Tensor) -> Tensor:
    return explaining_away.log_evidence(model.w, v)


RECIPE = Recipe(
    name="04c_explaining_away",
    title="Continuous latents: explaining away",
    model="explaining away",
    topic="19.4.3",
    learn="what mean field leaves out when causes compete",
    data="two_causes",
    size=2,
    size_name="causes",
    guides={
        "map": GuideEntry("a point for each row", partial(_per_row, guides.ExplainingAwayMAP)),
        "mean_field": GuideEntry(
            "independent normals for each row", partial(_per_row, guides.ExplainingAwayMeanField)
        ),
        "full_rank": GuideEntry(
            "a full Gaussian for each row; exact here",
            partial(_per_row, guides.ExplainingAwayFullRank),
        ),
        "amortized": GuideEntry("a linear encoder; exact here", _encoder),
    },
    default="amortized",
    because="the exact posterior is in its family, for rows never seen as well",
    log_evidence=sum_of_rows(_log_evidence),
    dims={"h": ("cause",), "v": ("feature",), "w": ("cause",), "h_loc": ("cause",)},
    estimates=answers.estimates,
    apply=answers.apply,
    standardised=False,
    check=one_column,
    max_size=lambda v: 10,
    notebook="04c_continuous_latents",
)
