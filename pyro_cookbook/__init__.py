"""Fit any Pyro model, look at it through ArviZ, and be told whether the numbers may be used."""

import pyro

pyro.settings.set(module_local_params=True)

from pyro_cookbook.datatree import from_pyro_mcmc, from_pyro_svi, to_datatree  # noqa: E402
from pyro_cookbook.diagnosis import Diagnosis, diagnose  # noqa: E402
from pyro_cookbook.fitting import as_fit, fit  # noqa: E402
from pyro_cookbook.linear_response import linear_response  # noqa: E402
from pyro_cookbook.predicting import predict  # noqa: E402
from pyro_cookbook.result import Estimate, Fit, Restart  # noqa: E402
from pyro_cookbook.sampling import sample  # noqa: E402
from pyro_cookbook.storage import load, save  # noqa: E402
from pyro_cookbook.svi import NonFiniteELBO  # noqa: E402

__all__ = [
    "Diagnosis",
    "Estimate",
    "Fit",
    "NonFiniteELBO",
    "Restart",
    "as_fit",
    "diagnose",
    "fit",
    "from_pyro_mcmc",
    "from_pyro_svi",
    "load",
    "predict",
    "save",
    "to_datatree",
]
