"""Guides q(h | v), one file for each file of `models`; they meet at the names of the sites.

By Pyro's default a module's parameters are read from one global store, by name, where a second
guide of a class starts at what the first has learnt. In a loop of your own keep them apart with
``pyro.settings.set(module_local_params=True)``; `pyro_cookbook` does so wherever it runs a program.
"""

import os
import sys

# Read once, when torch loads its OpenMP: threads that spin while they wait collapse beside others.
if {"sklearn", "torch"}.isdisjoint(sys.modules):
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
