"""Topic 5b: networks that learn to find sparse codes, for a dictionary learned and held."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from guides import learned_codes as guides
from pyro_cookbook.catalogue.answers import sparse_coding as answers
from pyro_cookbook.catalogue.dictionaries import Options, learned_model
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.notes import units_of_noise

_NUM_LAYERS = 4


def _shallow(v: Tensor, size: int, seed: int, **prior: float) -> Prepared:
    model = learned_model(v, size, seed, **prior)
    torch.manual_seed(seed)
    guide = guides.SparseCodingPSD(v.shape[1], size)
    return Prepared(model, guide, (v,), options={"lr": 0.03, "tol": 5.0})


def _unrolled(guide: Any, lr: float, v: Tensor, size: int, seed: int, **prior: float) -> Prepared:
    model = learned_model(v, size, seed, **prior)
    started = guide(v.shape[1], size, _NUM_LAYERS).to(v).start_at(model)
    return Prepared(model, started, (v,), options={"lr": lr, "tol": 0.5})


RECIPE = Recipe(
    name="05b_learned_codes",
    title="Learned inference: sparse codes in a few layers",
    model="sparse coding",
    topic="19.5.2",
    learn="what a network that has learned to infer is worth in iterations",
    data="patches",
    size=36,
    size_name="atoms",
    guides={
        "psd": GuideEntry("a point from one shallow layer: no exact zeros", _shallow),
        "lista": GuideEntry(
            f"a point from {_NUM_LAYERS} learned layers of soft thresholding",
            partial(_unrolled, guides.SparseCodingLISTA, 0.003),
        ),
        "learned_steps": GuideEntry(
            f"a point from {_NUM_LAYERS} iterations of FISTA with learned steps",
            partial(_unrolled, guides.SparseCodingLearnedSteps, 0.03),
        ),
    },
    default="learned_steps",
    because="its few numbers serve rows that it has not seen",
    log_evidence=lambda fit: None,  # an integral over every code
    dims={"h": ("atom",), "v": ("feature",), "W": ("feature", "atom"), "b": ("feature",)},
    estimates=answers.estimates,
    apply=answers.apply_encoder,
    standardised=False,
    max_size=len,
    options=Options,
    notes=units_of_noise,
)
