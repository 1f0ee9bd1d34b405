"""Fit any Pyro model, look at it through ArviZ, and be told whether the numbers may be used."""

import importlib
from typing import TYPE_CHECKING, Any

import pyro

pyro.settings.set(module_local_params=True)

if TYPE_CHECKING:
    from pyro_cookbook.calibrating import Calibration, calibrate
    from pyro_cookbook.comparing import Comparison, compare
    from pyro_cookbook.datatree import from_pyro_mcmc, from_pyro_svi, to_datatree
    from pyro_cookbook.diagnosis import Diagnosis, diagnose
    from pyro_cookbook.fitting import as_fit, fit
    from pyro_cookbook.predicting import predict
    from pyro_cookbook.responding import linear_response
    from pyro_cookbook.result import Estimate, Fit, Mode, Restart
    from pyro_cookbook.sampling import sample
    from pyro_cookbook.storage import load, save
    from pyro_cookbook.svi import NonFiniteELBO

# Name → the file it lives in. Files are read when a name is first used: a fit needs neither ArviZ
# nor pandas, which take longer to import than most models take to fit.
_HOMES = {
    "Calibration": "calibrating",
    "Comparison": "comparing",
    "Diagnosis": "diagnosis",
    "Estimate": "result",
    "Fit": "result",
    "Mode": "result",
    "NonFiniteELBO": "svi",
    "Restart": "result",
    "as_fit": "fitting",
    "calibrate": "calibrating",
    "compare": "comparing",
    "diagnose": "diagnosis",
    "fit": "fitting",
    "from_pyro_mcmc": "datatree",
    "from_pyro_svi": "datatree",
    "linear_response": "responding",
    "load": "storage",
    "predict": "predicting",
    "sample": "sampling",
    "save": "storage",
    "to_datatree": "datatree",
}

__all__ = [
    "Calibration",
    "Comparison",
    "Diagnosis",
    "Estimate",
    "Fit",
    "Mode",
    "NonFiniteELBO",
    "Restart",
    "as_fit",
    "calibrate",
    "compare",
    "diagnose",
    "fit",
    "from_pyro_mcmc",
    "from_pyro_svi",
    "linear_response",
    "load",
    "predict",
    "sample",
    "save",
    "to_datatree",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
