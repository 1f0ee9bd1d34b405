"""Generative stories p(v, h; θ), one topic a file.

Importing this package sets Pyro's ``module_local_params``: parameters live in the module that owns
them, never in the global store, where one fit would overwrite another's.
"""

import pyro

pyro.settings.set(module_local_params=True)
