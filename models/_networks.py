"""Networks that models and guides share."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(num_inputs: int, hidden: Sequence[int], num_outputs: int) -> nn.Sequential:
    """Build a multilayer perceptron with softplus units; without `hidden` it is linear.

    Parameters
    ----------
    num_inputs, num_outputs : int
        Widths of the first and the last layer.
    hidden : sequence of int
        Widths of the layers between.

    Returns
    -------
    torch.nn.Sequential
        Maps shape (..., num_inputs) to (..., num_outputs), real.
    """
    widths = [num_inputs, *hidden]
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.Softplus()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))
