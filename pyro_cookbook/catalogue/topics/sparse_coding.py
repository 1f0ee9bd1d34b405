"""Topic 3: sparse coding, with a dictionary learned online and held."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from guides import sparse_coding as guides
from pyro_cookbook.algorithms.sparse_coding import fista
from pyro_cookbook.catalogue.answers import sparse_coding as answers
from pyro_cookbook.catalogue.dictionaries import Options, learned_model
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.notes import units_of_noise


def _by_fista(v: Tensor, size: int, seed: int, **prior: float) -> Prepared:
    model = learned_model(v, size, seed, **prior)
    codes = fista.fista(model, v, tol=1e-6)
    guide: Any = guides.SparseCodingMAP(len(v), size).to(v)
    guide.h_loc = codes.h
    constant = len(v) * fista.log_normaliser(model)
    return Prepared(
        model,
        guide,
        (v,),
        losses=[value - constant for value in codes.trace],
        reason=f"FISTA, {len(codes.trace)} iterations, gap {float(codes.gap.sum()):.1g} nats",
        converged=codes.converged,
    )


def _by_svi(guide: Any, v: Tensor, size: int, seed: int, **prior: float) -> Prepared:
    model = learned_model(v, size, seed, **prior)
    torch.manual_seed(seed)
    return Prepared(model, guide(v, size), (v,), options={"lr": 0.03, "tol": 20.0})


def _per_row(guide: Any, v: Tensor, size: int) -> Any:
    return guide(len(v), size)


def _encoder(v: Tensor, size: int) -> Any:
    return guides.SparseCodingAmortized(v.shape[1], size)


RECIPE = Recipe(
    name="03_sparse_coding",
    title="MAP inference and sparse coding",
    model="sparse coding",
    topic="19.3",
    learn="a delta for q, exact zeros, and dictionaries of edges",
    data="patches",
    size=36,
    size_name="atoms",
    guides={
        "map": GuideEntry("a point for each row, by FISTA: exact zeros", _by_fista),
        "mean_field": GuideEntry(
            "independent Laplaces for each row",
            partial(_by_svi, partial(_per_row, guides.SparseCodingMeanField)),
        ),
        "gaussian": GuideEntry(
            "independent normals for each row",
            partial(_by_svi, partial(_per_row, guides.SparseCodingGaussian)),
        ),
        "amortized": GuideEntry("a network from the row to its code", partial(_by_svi, _encoder)),
    },
    default="gaussian",
    because="its bound is the highest of those with a spread",
    log_evidence=lambda fit: None,  # an integral over every code
    dims={"h": ("atom",), "v": ("feature",), "W": ("feature", "atom"), "b": ("feature",)},
    estimates=answers.estimates,
    apply=answers.apply,
    standardised=False,
    max_size=len,
    options=Options,
    notes=units_of_noise,
)
