"""Scikit-learn's digits, with one split for all comparisons."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NUM_TRAINING, NUM_VALIDATION = 1000, 350
NUM_LEVELS = 17  # grey levels 0 … 16


class Digits(NamedTuple):
    """Some of the images.

    Attributes
    ----------
    v : Tensor
        Grey levels, whole numbers from 0 to 16, shape (n, 64): 8 × 8 pixels, row by row. Float64.
    labels : Tensor
        The digit, 0 to 9, shape (n,).
    """

    v: Tensor
    labels: Tensor


class Split(NamedTuple):
    """1000 images to train on, 350 to stop and choose by, 447 to judge by."""

    training: Digits
    validation: Digits
    test: Digits


def load_split() -> Split:
    """Split the 1797 digits at random, always in the same way.

    The order is ``numpy.random.default_rng(0).permutation(1797)``: the first 1000 rows are for
    training, the next 350 for validation, the last 447 for the test.

    References
    ----------
    Alpaydin and Kaynak (1998), *Optical recognition of handwritten digits*, UCI repository, CC BY
    4.0: its test part, as it ships with scikit-learn.
    """
    from sklearn import datasets  # late: a second

    bunch = datasets.load_digits()
    v, labels = torch.as_tensor(bunch.data), torch.as_tensor(bunch.target)
    order = torch.as_tensor(np.random.default_rng(0).permutation(len(v)))
    parts = order.tensor_split((NUM_TRAINING, NUM_TRAINING + NUM_VALIDATION))
    return Split(*(Digits(v[rows], labels[rows]) for rows in parts))
