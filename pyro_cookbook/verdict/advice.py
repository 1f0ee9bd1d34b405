"""What to do when the verdict is no: which site, which reparametrisation, which family."""

import numpy as np
import numpy.typing as npt

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.fits.settings import MAX_FULL_RANK, is_named
from pyro_cookbook.programs.noncentring import candidates

Array = npt.NDArray[np.float64]

SAMPLE = "sample it with NUTS, started and scaled by this fit: pc.sample(fit)"
_STRONG = 0.5


def advise(fit: Fit, worst: str, unconstrained: Array | None, labels: list[str]) -> list[str]:
    """Name concrete steps, most promising first.

    Parameters
    ----------
    fit : Fit
    worst : str
        The site whose numbers are most wrong; "" if unknown.
    unconstrained : array, shape (S, D), or None
        Draws nearer to the posterior than the guide's, where there are any.
    labels : list of str
        Their entries' names.
    """
    if any(site.is_discrete for site in fit.programs.model.latents.values()):
        return [
            "sum the discrete sites out of the model and fit 'full_rank', or sample it with NUTS"
        ]
    steps = []
    splittable = candidates(fit.programs.model)
    if splittable:
        listed = ", ".join(repr(name) for name in splittable)
        steps.append(
            f"non-centre {listed}, whose location or scale is itself a latent: fit(...,"
            " noncentred=True) does it with pyro.infer.reparam.LocScaleReparam and keeps the better"
        )
    num_latents = fit.programs.model.num_latents
    narrow = fit.family in {"mean_field", "map", "laplace", "whitened_mean_field", "low_rank"}
    if narrow and num_latents <= MAX_FULL_RANK:
        steps.append(f"fit the richer family 'full_rank'{_why_full(fit, unconstrained, labels)}")
    elif fit.family == "full_rank" and num_latents <= MAX_FULL_RANK:
        skewed = f", {worst!r} most of all," if worst else ""
        steps.append(
            f"the posterior{skewed} is not Gaussian on the unconstrained scale: fit 'flow', or"
            " reparametrise"
        )
    elif not is_named(fit.family):
        steps.append("give the guide more capacity or fit 'full_rank'; try another start")
    steps.append(SAMPLE)
    return steps


def _why_full(fit: Fit, draws: Array | None, labels: list[str]) -> str:
    """Name the strongest correlation that a factorised family has left out."""
    if draws is None or draws.shape[1] < 2 or fit.family != "mean_field":
        return ""
    correlation: Array = np.asarray(np.corrcoef(draws.T))
    correlation = np.triu(correlation, k=1)
    i, j = np.unravel_index(np.abs(np.nan_to_num(correlation)).argmax(), correlation.shape)
    if abs(correlation[i, j]) < _STRONG:
        return ""
    return (
        f": {labels[int(i)]!r} and {labels[int(j)]!r} are correlated ({correlation[i, j]:+.2f}),"
        " which independent factors cannot follow"
    )
