"""Draws of a standardised model in the units of the table."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pyro_cookbook.fits.refined import RefinedDraws
from pyro_cookbook.fits.result import Fit
from pyro_cookbook.formulas.design import Design
from pyro_cookbook.formulas.families import Array
from pyro_cookbook.posterior.resampling import resample
from pyro_cookbook.programs.drawing import draw
from pyro_cookbook.programs.state.isolation import isolated


def latent_draws(
    fit: Fit, design: Design, *, num_draws: int, seed: int, reweight: bool
) -> dict[str, Array]:
    """Draw the latents of a fitted regression, with effects and cutpoints, in the model's units.

    No row is looked at, so that many draws of a large table cost little.

    Returns
    -------
    dict of str to array
        Site → draws, shape (S, ...); all that chains have kept, where the fit is refined.
    """
    if isinstance(fit.guide, RefinedDraws):
        found: Mapping[str, Tensor] = fit.guide.latents
    elif reweight:
        found = resample(fit, num_draws, seed)
    else:
        with isolated(seed, fit.param_state), torch.no_grad():
            found = draw(fit.programs.guide, num_draws).values
    drawn = {name: value.detach().double().numpy() for name, value in found.items()}
    if design.kinds:
        drawn["effect"] = _effects(drawn, fit.kwargs["centring"].numpy(), design)
    if "share" in drawn:
        below = drawn["share"].cumsum(-1)[..., :-1]
        above = drawn["share"][..., ::-1].cumsum(-1)[..., ::-1][..., 1:]
        drawn["cutpoint"] = np.log(below) - np.log(above)
    return drawn


def _effects(drawn: Mapping[str, Array], centring: Array, design: Design) -> Array:
    """Effects u = w τ^(1 − c), or τ times the standard draws that a non-centred fit has."""
    scale = drawn["group_scale"][..., design.kind]
    if "deviation_decentered" in drawn:
        return drawn["deviation_decentered"] * scale
    return drawn["deviation"] * scale ** (1 - centring[design.kind])


def in_units(drawn: Mapping[str, Array], design: Design) -> dict[str, Array]:
    """Give draws the units of the table.

    Parameters
    ----------
    drawn : mapping of str to array
        Site → draws in the model's units, shape (..., of the site).
    design : Design

    Returns
    -------
    dict of str to array
        Those of ``intercept``, ``coefficient``, ``group_scale``, ``effect``, ``scale``,
        ``degrees_of_freedom``, ``dispersion``, ``share`` and ``cutpoint`` that there are. The
        intercept is that at 0 of all columns, and effects of groups with a slope beside an
        intercept are those at the mean of the slope's variable.
    """
    found: dict[str, Array] = {}
    shift: Array | float = 0.0
    if "coefficient" in drawn:
        found["coefficient"] = drawn["coefficient"] * (design.y_scale / design.scale)
        shift = (found["coefficient"] * design.loc).sum(-1)
    if "intercept" in drawn:
        at_means = design.y_loc + design.y_scale * drawn["intercept"] + design.centre
        found = {"intercept": at_means - shift, **found}
    if "cutpoint" in drawn:
        found["cutpoint"] = drawn["cutpoint"] + np.asarray(shift)[..., None]
    if "group_scale" in drawn:
        found["group_scale"] = drawn["group_scale"] * (design.y_scale / design.z_scale)
    if "effect" in drawn:
        found["effect"] = drawn["effect"] * (design.y_scale / design.z_scale)[design.kind]
    if "scale" in drawn:
        found["scale"] = drawn["scale"] * design.y_scale
    for name in ("degrees_of_freedom", "dispersion", "share"):
        if name in drawn:
            found[name] = drawn[name]
    return found
