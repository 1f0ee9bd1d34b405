"""What all estimators share: rows checked, a seed, and a verdict for whoever asks."""

import sys
import warnings
from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_cookbook.fits.result import Fit
from pyro_cookbook.verdict.diagnosis import Diagnosis, diagnose

Array = npt.NDArray[np.float64]

# Computed when first asked for, and hidden from `dir` until then: scikit-learn's HTML picture of an
# estimator reads every attribute that `dir` lists, and a diagnosis takes seconds.
_ON_DEMAND = {"fit_": "_fit_result", "diagnosis_": "_diagnosis", "verdict_": "_diagnosis"}


class Judged(ABC, BaseEstimator):  # type: ignore[misc]
    """An estimator whose fit can be judged.

    Attributes
    ----------
    fit_ : Fit
        Model, guide and standardised data, as `pyro_cookbook.fit` returns them; made when first
        asked for. A pickle leaves it out, and makes it again.
    diagnosis_ : Diagnosis
        `pyro_cookbook.diagnose` of it; computed when first asked for, in seconds.
    verdict_ : str
        Of the diagnosis.
    """

    random_state: Any
    device: Any
    verbose: Any

    @property
    def fit_(self) -> Fit:
        """The fit, with model, guide and standardised data."""
        check_is_fitted(self)
        if self.__dict__.get("_fit_result") is None:
            self._fit_result = self._make_fit()
        return self._fit_result

    @property
    def diagnosis_(self) -> Diagnosis:
        """Why the numbers may or may not be used."""
        check_is_fitted(self)
        if self.__dict__.get("_diagnosis") is None:
            self._diagnosis = diagnose(self.fit_, progress=bool(self.verbose))
        return self._diagnosis

    @property
    def verdict_(self) -> str:
        """Whether the numbers may be used, in a word or two."""
        return self.diagnosis_.verdict

    @abstractmethod
    def _make_fit(self) -> Fit:
        """Make the fit that the verdict is about, from what `fit` has kept."""

    def _begin(self) -> int:
        """Forget an earlier fit, and give the seed of this one."""
        for name in list(self.__dict__):
            if name.endswith("_") or name in {"_ended", *_ON_DEMAND.values()}:
                del self.__dict__[name]
        return seed_of(self.random_state)

    def _end(self, converged: bool, how: str) -> Self:
        """Say how it ended: a line if verbose, a warning if it has not converged."""
        self._ended = True
        if self.verbose:
            sys.stdout.write(f"{type(self).__name__}: {how}\n")
        if not converged:
            warnings.warn(
                f"{type(self).__name__} has not converged: {how}; raise max_iter",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _rows(self, X: Any, *, reset: bool = False, least: int = 1) -> npt.NDArray[Any]:
        """Check rows: a finite float array of shape (n, D); as at the fit, unless `reset`."""
        if not reset:
            check_is_fitted(self)
        rows: npt.NDArray[Any] = validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=least
        )
        return rows

    def _names(self) -> list[str]:
        """Names of the columns; x0, x1, … where they have none, as scikit-learn has it."""
        given = getattr(self, "feature_names_in_", None)
        if given is not None:
            return [str(name) for name in given]
        return [f"x{d}" for d in range(self.n_features_in_)]

    def _tensor(self, values: Any) -> Tensor:
        """Move numbers to the device they are computed on, in double precision."""
        return torch.as_tensor(np.asarray(values, dtype=np.float64), device=self.device or "cpu")

    def __sklearn_is_fitted__(self) -> bool:
        """Whether the last fit came to its end: one that failed leaves nothing to predict with."""
        return bool(self.__dict__.get("_ended"))

    def __dir__(self) -> list[str]:
        """List what there is, as scikit-learn does, without computing what is not there yet."""
        hidden = {name for name, made in _ON_DEMAND.items() if self.__dict__.get(made) is None}
        return [name for name in object.__dir__(self) if name not in hidden and hasattr(self, name)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fit out: its modules cannot be pickled, and it can be made again."""
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_fit_result", None)
        return state


def seed_of(random_state: Any) -> int:
    """Turn a random state into a seed.

    Parameters
    ----------
    random_state : int, numpy.random.RandomState or None
        None takes fresh entropy from the system: NumPy's global stream stays as it is.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] % 2**31)
    if isinstance(random_state, int | np.integer):
        check_random_state(random_state)  # refuses what is no seed, in scikit-learn's words
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def on_device[T](theta: T, device: Any) -> T:
    """Copy a dataclass with its tensors on a device; None is the processor."""
    moved: dict[str, Any] = {
        field.name: getattr(theta, field.name).to(device or "cpu")
        for field in fields(theta)  # type: ignore[arg-type]
        if isinstance(getattr(theta, field.name), Tensor)
    }
    copy: T = replace(theta, **moved)  # type: ignore[type-var]
    return copy


def as_array(values: Tensor) -> Array:
    """Bring a tensor back, as an array of doubles."""
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)


def of_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse an option that is none of the choices.

    Raises
    ------
    ValueError
        Naming the option.
    """
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")
