"""Topic 4c, third model: eight schools, centred and non-centred."""

from functools import partial
from typing import Any

from pyro.infer import Trace_ELBO
from torch import Tensor

from guides import eight_schools as guides
from models.eight_schools import eight_schools_centred, eight_schools_noncentred
from pyro_cookbook.catalogue.entries import GuideEntry, Prepared, Recipe


def _prepare(model: Any, site: str, guide: Any, v: Tensor, size: int, seed: int) -> Prepared:
    if v.shape[1] != 2 or not (v[:, 0] > 0).all():
        raise ValueError(
            "--data: expected two columns, the standard error (positive) and the effect of each"
            f" school; got {v.shape[1]} columns, the smallest entry of the first {v[:, 0].min():g}"
        )
    elbo = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)
    sigma, effect = v.unbind(1)
    return Prepared(model, guide(len(v), site), (sigma, effect), options={"elbo": elbo})


_centred = partial(_prepare, eight_schools_centred, "theta")
_noncentred = partial(_prepare, eight_schools_noncentred, "eta")

RECIPE = Recipe(
    name="04c_eight_schools",
    title="Continuous latents: eight schools",
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
    log_evidence=lambda fit: None,
    dims={},
    site="theta",
    standardised=False,
    notebook="04c_continuous_latents",
)
