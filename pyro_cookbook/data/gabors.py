"""Gabor functions fitted to atoms: is a picture of an atom localised, and has it a direction?"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.NDArray[np.float64]

# Frequencies of the Fourier transform that the start is read from, a side.
_GRID = 32
# Half a cycle a pixel both ways: the finest wave, along the diagonal.
_HIGHEST = 0.5**0.5


class Gabors(NamedTuple):
    """The best Gabor function for each of K atoms, a number for each atom in every field.

    A Gabor function is a wave under a bell: exp(−ξ²/2σ² − η²/2τ²) cos(2π f ξ + φ), ξ and η the
    distances from its centre along and across the wave, in pixels.

    Attributes
    ----------
    r2 : array
        Share of the atom's energy that the function accounts for, 0 to 1.
    row, column : array
        The centre, in pixels from the middle of the upper left one.
    along, across : array
        σ and τ, in pixels.
    frequency : array
        f, in cycles a pixel, 0 to √½.
    angle : array
        Direction of the wave, in degrees from the horizontal, 0 to 180.
    picture : array
        The function itself, shape (K, size, size), in the units of the atom.
    """

    r2: Array
    row: Array
    column: Array
    along: Array
    across: Array
    frequency: Array
    angle: Array
    picture: Array


def fit_gabors(atoms: Tensor) -> Gabors:
    """Fit a Gabor function to each atom by least squares.

    Parameters
    ----------
    atoms : Tensor
        Shape (size², K): square pictures, row by row, in the columns.

    Returns
    -------
    Gabors

    Raises
    ------
    ValueError
        If the atoms are not square.

    Notes
    -----
    Amplitude and phase enter linearly and are solved for, so six numbers are searched. The search
    starts from the peak of the atom's spectrum and from half its frequency. A local search can miss
    a better fit: R² is a lower bound.
    """
    size = round(len(atoms) ** 0.5)
    if size**2 != len(atoms):
        raise ValueError(f"atoms: got {len(atoms)} pixels, expected a square number")
    pictures = atoms.detach().double().cpu().numpy().T.reshape(-1, size, size)
    fits = [_fit(picture) for picture in pictures]
    columns = np.array([fit[0] for fit in fits]).reshape(-1, 7).T
    functions = np.array([fit[1] for fit in fits]).reshape(pictures.shape)
    return Gabors._make([*columns, functions])


def _fit(picture: Array) -> tuple[list[float], Array]:
    size = len(picture)
    energy = float((picture**2).sum())
    if energy == 0:
        return [0.0] * 7, picture
    low, high = (
        [-0.5, -0.5, 0.5, 0.5, 0.0, -np.inf],
        [size - 0.5] * 2 + [size] * 2 + [_HIGHEST, np.inf],
    )

    from scipy.optimize import least_squares  # late: few readers look for edges

    def residual(x: Array) -> Array:
        return (picture - _best(x, picture)).ravel()

    found = min(
        (
            least_squares(
                residual, np.clip(x, low, high), bounds=(low, high), max_nfev=60, ftol=1e-6
            )
            for x in _starts(picture)
        ),
        key=lambda one: float(one.cost),
    )
    row, column, along, across, frequency, angle = found.x
    numbers = [1 - 2 * found.cost / energy, row, column, along, across, frequency]
    return [*numbers, float(np.degrees(angle) % 180)], _best(found.x, picture)


def _starts(picture: Array) -> list[Array]:
    """Centre and spread of the energy, and the direction of the strongest wave."""
    size = len(picture)
    weight = picture**2 / (picture**2).sum()
    rows, columns = np.mgrid[:size, :size]
    row, column = (weight * rows).sum(), (weight * columns).sum()
    spread = np.sqrt((weight * ((rows - row) ** 2 + (columns - column) ** 2)).sum() / 2)
    power = np.abs(np.fft.fft2(picture, (_GRID, _GRID)))
    i, j = np.unravel_index(int(power.argmax()), power.shape)
    fy, fx = np.fft.fftfreq(_GRID)[[i, j]]
    width = float(np.clip(spread, 0.6, size / 2))
    common = [row, column, width, width]
    angle = np.arctan2(fy, fx)
    return [np.array([*common, share * np.hypot(fx, fy), angle]) for share in (1.0, 0.5)]


def _best(x: Array, picture: Array) -> Array:
    """Return the Gabor function of these numbers, of the best amplitude and phase."""
    row, column, along, across, frequency, angle = x
    rows, columns = np.mgrid[: len(picture), : len(picture)]
    xi = (columns - column) * np.cos(angle) + (rows - row) * np.sin(angle)
    eta = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    bell = np.exp(-0.5 * ((xi / along) ** 2 + (eta / across) ** 2))
    wave = 2 * np.pi * frequency * xi
    basis = np.stack([(bell * np.cos(wave)).ravel(), (bell * np.sin(wave)).ravel()])
    # A tiny ridge: without a wave the second function is 0.
    weights = np.linalg.solve(basis @ basis.T + 1e-12 * np.eye(2), basis @ picture.ravel())
    fitted: Array = (weights @ basis).reshape(picture.shape)
    return fitted
