"""Patches of photographs: cut, whiten, put back together."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
# Weights of red, green and blue in the brightness that the eye sees (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


def photograph(name: str, shrink: int = 1) -> Tensor:
    """Load one of scikit-learn's two photographs in grey.

    Parameters
    ----------
    name : {"china.jpg", "flower.jpg"}
    shrink : int, default 1
        Average squares of this many pixels: the finest detail is the camera's and the
        compression's.

    Returns
    -------
    Tensor
        Brightness from 0 (black) to 1 (white), shape (height, width), float64.

    Raises
    ------
    ValueError
        For another name, or a `shrink` below 1.

    References
    ----------
    Photographs by KEES VD and Dario Scarpa, CC BY 2.0 (see scikit-learn's user guide).
    """
    if name not in PHOTOGRAPHS:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(PHOTOGRAPHS)}")
    if shrink < 1:
        raise ValueError(f"shrink: got {shrink}, expected 1 at least")
    from sklearn.datasets import (
        load_sample_image,
    )  # a second, which a table of patches does not need

    grey = torch.as_tensor(load_sample_image(name) @ np.array(_LUMA) / 255)
    return torch.nn.functional.avg_pool2d(grey[None], shrink)[0]


def random_patches(picture: Tensor, size: int, num_patches: int, *, seed: int = 0) -> Tensor:
    """Cut squares at random places, each as a row.

    Parameters
    ----------
    picture : Tensor
        Shape (height, width).
    size : int
        Side of a square in pixels.
    num_patches : int
    seed : int, default 0

    Returns
    -------
    Tensor
        Shape (num_patches, size²), places drawn with replacement.
    """
    places = _windows(picture, size, 1)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(places.shape[0] * places.shape[1], (num_patches,), generator=generator)
    rows, columns = chosen // places.shape[1], chosen % places.shape[1]
    return places[rows, columns].flatten(1)


def most_varied(patches: Tensor, share: float = 0.5) -> Tensor:
    """Keep the rows whose pixels vary most: sky and blurred background say little about atoms.

    Parameters
    ----------
    patches : Tensor
        Rows, shape (n, D).
    share : float, default 0.5
        Of the rows, above 0 and at most 1.

    Returns
    -------
    Tensor
        Shape (⌈share · n⌉, D), in their order.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: got {share}, expected above 0 and at most 1")
    num_kept = -int(-share * len(patches) // 1)
    kept = patches.std(1).topk(num_kept).indices.sort().values
    return patches[kept]


def all_patches(picture: Tensor, size: int, *, stride: int = 1) -> Tensor:
    """Cut every square, or every `stride`-th, row by row: shape (number of squares, size²)."""
    return _windows(picture, size, stride).flatten(0, 1).flatten(1).clone()


def average_patches(patches: Tensor, shape: tuple[int, int]) -> Tensor:
    """Undo `all_patches` with a stride of 1: every pixel is the mean over the squares that hold it.

    Parameters
    ----------
    patches : Tensor
        All squares of a picture, row by row, shape ((height − s + 1)(width − s + 1), s²).
    shape : (int, int)
        Height and width of the picture.

    Returns
    -------
    Tensor
        Shape `shape`.

    Raises
    ------
    ValueError
        If the number of squares is not that of the picture.
    """
    size = round(patches.shape[1] ** 0.5)
    expected = (shape[0] - size + 1) * (shape[1] - size + 1)
    if len(patches) != expected:
        raise ValueError(f"patches: got {len(patches)}, expected {expected} for shape {shape}")
    fold = torch.nn.functional.fold
    total = fold(patches.mT[None], shape, size)
    return (total / fold(torch.ones_like(patches).mT[None], shape, size))[0, 0]


def _windows(picture: Tensor, size: int, stride: int) -> Tensor:
    if not 1 <= size <= min(picture.shape):
        raise ValueError(f"size: got {size}, expected 1 to {min(picture.shape)} (the picture)")
    return picture.unfold(0, size, stride).unfold(1, size, stride)


@dataclass(frozen=True)
class Whitening:
    """A linear map that makes pixels uncorrelated and of equal variance, and changes them least.

    Directions of little variance are damped rather than blown up: with eigenvalues e of the
    patches' covariance the gain is 1 / √(e + floor · mean(e)).

    Attributes
    ----------
    loc : Tensor
        Mean of the patches, shape (D,).
    forward, backward : Tensor
        Symmetric, shape (D, D), inverse to each other on patches without their mean brightness.
    """

    loc: Tensor
    forward: Tensor
    backward: Tensor

    def whiten(self, patches: Tensor) -> Tensor:
        """Whiten rows of shape (n, D); the mean brightness of each patch is removed first."""
        return (patches - patches.mean(1, keepdim=True) - self.loc) @ self.forward

    def unwhiten(self, rows: Tensor) -> Tensor:
        """Undo `whiten`, but for the mean brightness of each patch, which is 0 here."""
        return rows @ self.backward + self.loc


def fit_whitening(patches: Tensor, *, floor: float = 0.4) -> Whitening:
    """Find the whitening (ZCA) of patches.

    Parameters
    ----------
    patches : Tensor
        Rows, shape (n, D).
    floor : float, default 0.4
        In units of the mean eigenvalue: directions of less variance are damped. The finest waves
        of a photograph are mostly noise, and at 0.01 they make most atoms.

    Raises
    ------
    ValueError
        If `floor` is not positive.

    References
    ----------
    Bell and Sejnowski (1997), doi:10.1016/S0042-6989(97)00121-1.
    """
    if not floor > 0:
        raise ValueError(f"floor: got {floor}, expected a positive number")
    rows = patches - patches.mean(1, keepdim=True)
    loc = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - loc).mT @ (rows - loc) / len(rows))
    scales = (values.clamp_min(0) + floor * values.mean()).sqrt()
    return Whitening(loc, vectors / scales @ vectors.mT, vectors * scales @ vectors.mT)


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for brightness from 0 to 1: −10 log₁₀ of the mean error²."""
    return float(-10 * torch.log10((picture - truth).square().mean()))


class PatchTable(NamedTuple):
    """Patches in the shape of scikit-learn's bundled tables.

    Attributes
    ----------
    data : pandas.DataFrame
    feature_names : list of str
        "row, column" of each pixel.
    target, target_names : list
        Empty: a patch has no class.
    """

    data: pd.DataFrame
    feature_names: list[str]
    target: list[int]
    target_names: list[str]


def load_patches(size: int = 6, num_patches: int = 64, seed: int = 0) -> PatchTable:
    """Load whitened patches of both photographs as a table, half of each, flat ones left out.

    Parameters
    ----------
    size : int, default 6
        Side in pixels.
    num_patches : int, default 64
    seed : int, default 0
    """
    each = -(-num_patches // len(PHOTOGRAPHS))
    # Whitened by many more patches than are kept, so that the few do not fit the map to themselves.
    many = [
        most_varied(random_patches(photograph(name, shrink=2), size, 5000, seed=seed))
        for name in PHOTOGRAPHS
    ]
    whitening = fit_whitening(torch.cat(many))
    rows = torch.stack([whitening.whiten(part[:each]) for part in many], dim=1).flatten(0, 1)
    names = [f"{row}, {column}" for row in range(size) for column in range(size)]
    return PatchTable(pd.DataFrame(rows[:num_patches].numpy(), columns=names), names, [], [])
