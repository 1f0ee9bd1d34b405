"""A fit's tree for ArviZ, in the units of the table."""

import numpy as np
import xarray as xr

from pyro_cookbook.formulas.design import Design
from pyro_cookbook.formulas.units import in_units


def tree_in_units(tree: xr.DataTree, design: Design) -> xr.DataTree:
    """Give what `to_datatree` has laid out the units of the table.

    Latents and outcomes, those of the prior too, and the density of outcomes; what the model was
    called with stays as it is.
    """
    for group in ("posterior", "prior"):
        if group in tree:
            tree[group] = xr.DataTree(_set_in_units(tree[group].to_dataset(), design))
    for group in ("posterior_predictive", "prior_predictive", "observed_data"):
        if group in tree:
            found = tree[group].to_dataset()
            tree[group] = xr.DataTree(found.assign(y=design.y_loc + design.y_scale * found["y"]))
    if "log_likelihood" in tree:
        density = tree["log_likelihood"].to_dataset()
        tree["log_likelihood"] = xr.DataTree(density - np.log(design.y_scale))
    return tree


def _set_in_units(sites: xr.Dataset, design: Design) -> xr.Dataset:
    """Replace the sites of the model by those in the table's units, which keep their dimensions."""
    arrays = {str(name): value for name, value in sites.data_vars.items()}
    found = in_units({name: value.to_numpy() for name, value in arrays.items()}, design)
    made = {name: arrays[name].copy(data=value) for name, value in found.items()}
    return sites.drop_vars(list(arrays)).assign(made)
