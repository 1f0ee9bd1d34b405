"""What learned inference of codes is measured by, and the codes that PSD trains its encoder on."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_cookbook.algorithms.sparse_coding.fista import Codes, SparseCodingParameters, fista


def iterations_worth(trace: Sequence[float], value: float) -> float:
    """Find after how many iterations a descent has come down to `value`.

    Parameters
    ----------
    trace : sequence of float
        What is minimised after 0, 1, 2, … iterations.
    value : float
        What another method has reached, on the same rows.

    Returns
    -------
    float
        0 if `value` is no lower than the start; between two iterations, interpolated linearly; ∞ if
        the trace does not come down to it.
    """
    if not trace or value >= trace[0]:
        return 0.0
    for t in range(1, len(trace)):
        if trace[t] <= value:
            return t - (value - trace[t]) / (trace[t - 1] - trace[t])
    return math.inf


def tethered(
    theta: SparseCodingParameters,
    v: Tensor,
    prediction: Tensor,
    weight: float,
    *,
    tol: float = 1e-4,
) -> Codes:
    """Minimise J(h) + α/2 ‖h − f‖² over the codes of all rows: PSD's inference.

    The tether is a second quadratic, so this is sparse coding of longer rows: below v − b stands
    √(α/β) f, and below W stands √(α/β) I.

    Parameters
    ----------
    theta : SparseCodingParameters
        Or any object with its attributes, such as the model.
    v : Tensor
        Rows, shape (n, D).
    prediction : Tensor
        f, the encoder's codes, shape (n, K).
    weight : float
        α, in units of one over the codes' square; positive.
    tol : float, default 1e-4
        As of `fista`.

    Returns
    -------
    Codes
        Their gap and trace are those of J + α/2 ‖h − f‖².

    Raises
    ------
    ValueError
        If `weight` is not positive.

    References
    ----------
    Kavukcuoglu, Ranzato and LeCun (2008), arXiv:1010.3467, equation 5.
    """
    if not weight > 0:
        raise ValueError(f"weight: got {weight}, expected a positive number")
    W, share = theta.W.detach(), theta.scale * math.sqrt(weight)
    longer = SparseCodingParameters(
        W=torch.cat([W, share * torch.eye(W.shape[1]).to(W)]),
        b=torch.cat([theta.b.detach(), W.new_zeros(W.shape[1])]),
        rate=theta.rate,
        scale=theta.scale,
    )
    prediction = prediction.detach()
    rows = torch.cat([v, share * prediction], dim=1)
    return fista(longer, rows, start=prediction, tol=tol)
