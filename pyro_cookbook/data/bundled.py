"""Tables that come with the cookbook: scikit-learn's, two photographs, and some made here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pyro_cookbook.data.bars import Bars, make_bars
from pyro_cookbook.data.errors import InputError
from pyro_cookbook.data.patches import load_patches
from pyro_cookbook.data.tables import Table, standardise

Loaded = tuple[pd.DataFrame, tuple[str, ...]]  # columns, and the class of each row


def _from_sklearn(name: str, **options: Any) -> Any:
    """Load one of scikit-learn's data sets; its import is a second that no other table needs."""
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(**options)


def _with_classes(name: str) -> Loaded:
    """Read one of scikit-learn's tables of measurements."""
    bunch = _from_sklearn(name)
    frame = pd.DataFrame(bunch.data, columns=list(bunch.feature_names))
    return frame, tuple(str(bunch.target_names[k]) for k in bunch.target)


def _patches() -> Loaded:
    table = load_patches()
    return table.data, ()


def _binary_bars() -> Loaded:
    bars = make_bars(scale=0.25)
    frame, labels = _images(bars)
    return (frame > 0.5).astype(float), labels


def _bars() -> Loaded:
    return _images(make_bars())


def _images(bars: Bars) -> Loaded:
    side = round(bars.v.shape[1] ** 0.5)
    names = [f"{row}, {column}" for row in range(side) for column in range(side)]
    return pd.DataFrame(bars.v.numpy(), columns=names), ()


def _breast_cancer() -> Loaded:
    bunch = _from_sklearn("breast_cancer", as_frame=True)
    frame = bunch.data.iloc[:, :10].rename(columns=lambda name: name.removeprefix("mean "))
    return frame.assign(malignant=1.0 - bunch.target), ()  # scikit-learn's 1 is benign


def _diabetes() -> Loaded:
    bunch = _from_sklearn("diabetes", as_frame=True, scaled=False)
    return bunch.frame, ()


def _digits() -> Loaded:
    bunch = _from_sklearn("digits", as_frame=True)
    inked = bunch.data.loc[:, bunch.data.max() > bunch.data.min()]  # three are blank in all images
    return inked, tuple(str(label) for label in bunch.target)


def _two_causes() -> Loaded:
    noise = np.random.default_rng(0).standard_normal((100, 3))
    return pd.DataFrame({"sum": noise @ np.array([1.5, 1.0, 1.0])}), ()


def _eight_schools() -> Loaded:
    return pd.DataFrame(
        {
            "sigma": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
            "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
        }
    ), ()


_BUNDLED: dict[str, tuple[Callable[[], Loaded], str]] = {
    "wine": (
        partial(_with_classes, "wine"),
        "178 wines of three cultivars, 13 chemical measurements (Forina et al., UCI repository,"
        " CC BY 4.0); ships with scikit-learn",
    ),
    "iris": (
        partial(_with_classes, "iris"),
        "150 flowers of three species, 4 measurements in cm (Fisher, 1936, public domain); ships"
        " with scikit-learn",
    ),
    "patches": (
        _patches,
        "whitened patches of two photographs by KEES VD and Dario Scarpa (CC BY 2.0), which ship"
        " with scikit-learn",
    ),
    "bars": (_bars, "images of 4 × 4 pixels, sums of bars with noise (simulated)"),
    "binary_bars": (
        _binary_bars,
        "images of 4 × 4 pixels, on or off: bars, with 2% of the pixels flipped (simulated)",
    ),
    "breast_cancer": (
        _breast_cancer,
        "569 tumours, ten measurements of cell nuclei and whether malignant (Wolberg, Street and"
        " Mangasarian, UCI repository, CC BY 4.0); ships with scikit-learn",
    ),
    "diabetes": (
        _diabetes,
        "442 patients with diabetes, ten measurements (age in years, sex 1 or 2, bmi in kg/m², bp"
        " in mmHg, six of blood serum) and the progress of the disease a year later (Efron, Hastie,"
        " Johnstone and Tibshirani, 2004); ships with scikit-learn",
    ),
    "digits": (
        _digits,
        "1797 handwritten digits, grey levels 0 to 16 of the 61 pixels of 64 that are not blank in"
        " all (Alpaydin and Kaynak, UCI repository, CC BY 4.0); ships with scikit-learn",
    ),
    "two_causes": (_two_causes, "100 sums of two hidden causes and noise (simulated)"),
    "eight_schools": (
        _eight_schools,
        "effects of coaching in eight schools, in points of a test, with their standard errors"
        " (Rubin, 1981, table 1; facts in the public domain)",
    ),
}


def load(name: str) -> Table:
    """Load a bundled table.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Raises
    ------
    InputError
        For any other name, listing those there are.
    """
    if name not in _BUNDLED:
        raise InputError(f"data: got {name!r}, expected one of {', '.join(_BUNDLED)}")
    loader, source = _BUNDLED[name]
    frame, labels = loader()
    return standardise(frame, name, labels, source)


NAMES = tuple(_BUNDLED)
