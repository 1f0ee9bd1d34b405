"""Topic 4c, third model: eight schools, centred and non-centred."""

from functools import partial
from typing import Any

from torch import Tensor

from guides import eight_schools as guides
from models.eight_schools import eight_schools_centred, eight_schools_noncentred
from pyro_cookbook.catalogue.answers import eight_schools as answers
from pyro_cookbook.catalogue.checks import estimates_with_errors
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe
from pyro_cookbook.catalogue.estimators import vectorised_bound
from pyro_cookbook.catalogue.notes import effects_within_prior
from pyro_cookbook.catalogue.options import options_of


def _prepare(
    model: Any, site: str, guide: Any, v: Tensor, size: int, seed: int, **prior: float
) -> Prepared:
    elbo = vectorised_bound(32)
    sigma, effect = v.unbind(1)
    return Prepared(model, guide(len(v), site), (sigma, effect), prior, {"elbo": elbo})


_centred = partial(_prepare, eight_schools_centred, "theta")
_noncentred = partial(_prepare, eight_schools_noncentred, "eta")

RECIPE = Recipe(
    name="04c_eight_schools",
    title="Continuous latents: eight schools",
    model="eight schools",
    topic="19.4.3",
    learn="a funnel, and the coordinates that undo it",
    data="eight_schools",
    size=0,
    size_name="",
    guides={
        "centred_mean_field": GuideEntry(
            "independent, in the funnel's coordinates",
            partial(_centred, guides.EightSchoolsMeanField),
        ),
        "centred_full_rank": GuideEntry(
            "a full Gaussian, in the funnel's coordinates",
            partial(_centred, guides.EightSchoolsFullRank),
        ),
        "map": GuideEntry("a point, non-centred", partial(_noncentred, guides.EightSchoolsMAP)),
        "mean_field": GuideEntry(
            "independent, non-centred", partial(_noncentred, guides.EightSchoolsMeanField)
        ),
        "full_rank": GuideEntry(
            "a full Gaussian, non-centred", partial(_noncentred, guides.EightSchoolsFullRank)
        ),
    },
    default="full_rank",
    because="non-centred there is no funnel, and it keeps the correlations",
    log_evidence=lambda fit: None,
    dims={},
    estimates=answers.estimates,
    apply=answers.apply,
    standardised=False,
    has_outcome=True,
    options=options_of(eight_schools_noncentred),
    check=estimates_with_errors,
    notes=effects_within_prior,
    notebook="04c_continuous_latents",
)
