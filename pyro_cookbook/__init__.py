"""Fit any Pyro model, look at it through ArviZ, and be told whether the numbers may be used."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# Read once, when torch loads its OpenMP: threads that spin while they wait collapse beside others.
# Where torch is here already, `programs.state.isolation` computes in one thread.
if {"sklearn", "torch"}.isdisjoint(sys.modules):
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from pyro_cookbook.engines.svi import NonFiniteELBO
    from pyro_cookbook.fits.fitting import as_fit, fit
    from pyro_cookbook.fits.keeping.storage import load, save
    from pyro_cookbook.fits.linear_response import linear_response
    from pyro_cookbook.fits.result import Estimate, Fit, Mode, Refinement, Restart
    from pyro_cookbook.formulas.regression import Regression, regression
    from pyro_cookbook.posterior.datatree import to_datatree
    from pyro_cookbook.posterior.from_pyro import from_pyro_mcmc, from_pyro_svi
    from pyro_cookbook.posterior.nuts import sample
    from pyro_cookbook.posterior.prediction import predict
    from pyro_cookbook.posterior.refining.refine import refine
    from pyro_cookbook.programs.spreading import spread
    from pyro_cookbook.programs.state.holding import hold
    from pyro_cookbook.verdict.calibration import Calibration, calibrate
    from pyro_cookbook.verdict.comparison import Comparison, compare
    from pyro_cookbook.verdict.diagnosis import Diagnosis, diagnose
    from pyro_cookbook.verdict.inference import Answer, infer

# Name → the file it lives in. Files are read when a name is first used: a fit needs neither ArviZ
# nor pandas, which take longer to import than most models take to fit.
_HOMES = {
    "Answer": "verdict.inference",
    "Calibration": "verdict.calibration",
    "Comparison": "verdict.comparison",
    "Diagnosis": "verdict.diagnosis",
    "Estimate": "fits.result",
    "Fit": "fits.result",
    "Mode": "fits.result",
    "NonFiniteELBO": "engines.svi",
    "Refinement": "fits.result",
    "Regression": "formulas.regression",
    "Restart": "fits.result",
    "as_fit": "fits.fitting",
    "calibrate": "verdict.calibration",
    "compare": "verdict.comparison",
    "diagnose": "verdict.diagnosis",
    "fit": "fits.fitting",
    "from_pyro_mcmc": "posterior.from_pyro",
    "from_pyro_svi": "posterior.from_pyro",
    "hold": "programs.state.holding",
    "infer": "verdict.inference",
    "linear_response": "fits.linear_response",
    "load": "fits.keeping.storage",
    "predict": "posterior.prediction",
    "refine": "posterior.refining.refine",
    "regression": "formulas.regression",
    "sample": "posterior.nuts",
    "save": "fits.keeping.storage",
    "spread": "programs.spreading",
    "to_datatree": "posterior.datatree",
}

__all__ = [
    "Answer",
    "Calibration",
    "Comparison",
    "Diagnosis",
    "Estimate",
    "Fit",
    "Mode",
    "NonFiniteELBO",
    "Refinement",
    "Regression",
    "Restart",
    "as_fit",
    "calibrate",
    "compare",
    "diagnose",
    "fit",
    "from_pyro_mcmc",
    "from_pyro_svi",
    "hold",
    "infer",
    "linear_response",
    "load",
    "predict",
    "refine",
    "regression",
    "sample",
    "save",
    "spread",
    "to_datatree",
]


def __getattr__(name: str) -> Any:
    if name == "estimators":  # a room of its own, and scikit-learn with it
        return importlib.import_module(f"{__name__}.estimators")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
