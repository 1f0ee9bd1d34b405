"""Topic 5c: the variational auto-encoder, its decoder learned with the encoder."""

from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from guides import variational_autoencoder as guides
from models.variational_autoencoder import VariationalAutoencoder
from pyro_cookbook.algorithms.variational_autoencoder.refinement import refine
from pyro_cookbook.catalogue.answers import variational_autoencoder as answers
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.data import Shards

_HIDDEN, _BATCH, _NUM_STEPS = (64,), 200, 6000
# Whole numbers up to this are counts; above, a column is as good as real.
_MAX_COUNT = 255
_NUM_REFINEMENTS, _NUM_DRAWS = 40, 2


def likelihood_for(v: Tensor) -> tuple[str, int]:
    """Choose a likelihood by what the columns hold, and its total count.

    Returns
    -------
    likelihood : str
        "bernoulli" for 0 and 1, "beta_binomial" for whole numbers from 0 to at most 255, else
        "gaussian".
    total_count : int
        The largest value of the whole numbers; else 1.
    """
    return _likelihood(float(v.min()), float(v.max()), whole=bool((v == v.round()).all()))


def _likelihood(smallest: float, largest: float, *, whole: bool) -> tuple[str, int]:
    if not whole or smallest < 0 or not 1 <= largest <= _MAX_COUNT:
        return "gaussian", 1
    return ("bernoulli", 1) if largest == 1 else ("beta_binomial", int(largest))


def _encoder(v: Tensor, size: int, seed: int) -> Prepared:
    likelihood, total_count = likelihood_for(v)
    if likelihood == "gaussian":
        v = (v - v.mean(0)) / v.std(0, correction=0)
    return _networks(v, v.shape[1], size, seed, likelihood, total_count)


def _of_shards(shards: Shards, size: int, seed: int) -> Prepared:
    found = shards.moments()
    smallest, largest = float(found.smallest.min()), float(found.largest.max())
    likelihood, total_count = _likelihood(smallest, largest, whole=found.whole)
    rows = shards.scaled(found.loc, found.scale) if likelihood == "gaussian" else shards
    return _networks(rows, len(shards.columns), size, seed, likelihood, total_count)


def _networks(
    rows: Tensor | Shards, num_features: int, size: int, seed: int, likelihood: str,
    total_count: int,
) -> Prepared:  # fmt: skip
    torch.manual_seed(seed)
    model = VariationalAutoencoder(
        num_features, size, _HIDDEN, likelihood=likelihood, total_count=total_count
    )
    guide = guides.VariationalAutoencoderAmortized(num_features, size, _HIDDEN, float(total_count))
    options = {
        "elbo": Trace_ELBO(),
        "batch_size": min(_BATCH, len(rows)),
        "lr": 0.02,
        "max_steps": _NUM_STEPS,
        "tol": 1.0 * len(rows),  # a nat a row: θ goes on improving slowly
    }
    return Prepared(model, guide, (rows,), options=options)


def _mean_field(v: Tensor, size: int, seed: int) -> Prepared:
    """Train as the amortized guide does, hold θ, and refine every row from the encoder."""
    fit = _encoder(v, size, seed).fit(seed=seed)
    model: Any = fit.model
    encoder: Any = fit.guide
    model.requires_grad_(False)
    rows = fit.args[0]
    with torch.no_grad():
        loc, scale = encoder.encode(rows)
    found = refine(
        model, rows, loc, scale, num_steps=_NUM_REFINEMENTS, num_draws=_NUM_DRAWS, seed=seed
    )
    guide: Any = guides.VariationalAutoencoderMeanField(len(v), size).to(v)
    guide.h_loc, guide.h_scale = found.loc, found.scale
    return Prepared(
        fit.model,
        guide,
        (rows,),
        losses=[-len(v) * value for value in found.elbo],
        reason=f"{_NUM_REFINEMENTS} steps of refinement from the encoder, row by row",
        converged=fit.converged,
    )


RECIPE = Recipe(
    name="05c_variational_autoencoder",
    title="Amortised inference: the variational auto-encoder",
    model="variational auto-encoder",
    topic="19.5",
    learn="one network infers for every row; what that costs, and when latents collapse",
    data="digits",
    size=2,
    size_name="latents",
    guides={
        "mean_field": GuideEntry(
            "the encoder's normals, refined row by row, the decoder held", _mean_field
        ),
        "amortized": GuideEntry(
            "an encoder, trained with the decoder in mini-batches", _encoder, of_shards=_of_shards
        ),
    },
    default="amortized",
    because="it learns the decoder too, and serves rows never seen; refine where rows matter",
    log_evidence=lambda fit: None,
    dims={"h": ("latent",), "v": ("feature",), "h_loc": ("latent",), "h_scale": ("latent",)},
    estimates=answers.estimates,
    apply=answers.apply,
    standardised=False,
)
