"""The digits' split: its parts, and that it stays what it is."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from pyro_cookbook.data.digits import NUM_LEVELS, load_split


def test_the_split_has_every_row_once_and_its_label():
    split = load_split()
    assert [len(part.v) for part in split] == [1000, 350, 447]
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(torch.cat([part.v for part in split]), bunch.data[order])
    np.testing.assert_array_equal(torch.cat([part.labels for part in split]), bunch.target[order])
    assert (split.training.v.min(), split.training.v.max()) == (0, NUM_LEVELS - 1)
    assert all(part.labels.unique().numel() == 10 for part in split)
