"""Names of dimensions: plates, event dimensions, rows; and the tree they make."""

from collections.abc import Mapping, Sequence
from typing import Any

import arviz as az
import xarray as xr
from torch import Tensor

from pyro_cookbook.programs.program import Site

Values = Mapping[str, Tensor]
Dims = Mapping[str, Sequence[str]]
Coords = Mapping[str, Any]


class Layout:
    """Names the dimensions of every variable and builds the tree."""

    def __init__(
        self, coords: Coords, dims: Dims, sample_dims: tuple[str, ...], num_chains: int = 1
    ) -> None:
        if sample_dims not in {("sample",), ("chain", "draw")}:
            raise ValueError(
                f"sample_dims: got {sample_dims}, expected ('sample',) or ('chain', 'draw')"
            )
        self.coords, self.dims, self.sample_dims = coords, dims, sample_dims
        self.num_chains = num_chains

    def tree(
        self, groups: Mapping[str, Values], sites: Mapping[str, Site], theta: Values
    ) -> xr.DataTree:
        """Build the tree of groups, each a mapping of variables to values."""
        rows = {
            site.shape[i]: name
            for site in sites.values()
            if site.is_data
            for i, name in enumerate(site.plates)
            if name
        }
        arrays: dict[str, dict[str, Any]] = {}
        dims: dict[str, list[str]] = {}
        for group, values in groups.items():
            if not values:
                continue
            has_draws = not group.endswith("_data")
            arrays[group] = {}
            for name, value in values.items():
                array = value.detach().cpu().numpy()
                if has_draws and self.sample_dims == ("chain", "draw"):
                    array = array.reshape(self.num_chains, -1, *array.shape[1:])
                arrays[group][name] = array
                event_shape = array.shape[len(self.sample_dims) if has_draws else 0 :]
                if name not in dims or group == "posterior":
                    dims[name] = self._dims(name, sites.get(name), event_shape, rows)
        used = {dim for names in dims.values() for dim in names}
        coords = {name: value for name, value in self.coords.items() if name in used}
        tree = az.from_dict(
            arrays,
            sample_dims=list(self.sample_dims),
            dims=dims,
            pred_dims=dims,  # ArviZ reads the groups called predictions by these two
            coords=coords,
            pred_coords=coords,
        )
        if theta:
            tree["theta"] = self.constants(theta)
        return tree

    def constants(self, values: Values) -> xr.DataTree:
        """Lay out values that have neither draws nor plates; names given count from the last."""
        arrays = {name: value.detach().cpu().numpy() for name, value in values.items()}
        dims: dict[Any, Any] = {}
        for name, array in arrays.items():
            given = list(self.dims.get(name, ()))[-array.ndim :] if array.ndim else []
            dims[name] = [f"{name}_dim_{i}" for i in range(array.ndim - len(given))] + given
        used = {dim for names in dims.values() for dim in names}
        coords = {name: value for name, value in self.coords.items() if name in used}
        return xr.DataTree(az.dict_to_dataset(arrays, sample_dims=[], dims=dims, coords=coords))

    def _dims(
        self, name: str, site: Site | None, shape: tuple[int, ...], rows: Mapping[int, str]
    ) -> list[str]:
        given = list(self.dims.get(name, ()))
        if len(given) == len(shape):
            return given
        if site is not None:
            plates = list(site.plates)
        else:  # an argument: its first dimension is the plate of as many rows
            plates = [rows[shape[0]]] if shape and shape[0] in rows else []
        names = [plate or f"{name}_dim_{i}" for i, plate in enumerate(plates)]
        events = len(shape) - len(names)
        if given and len(given) != events:
            raise ValueError(
                f"dims: {name!r} has shape {tuple(shape)} after {names or 'no plates'}; got"
                f" {len(given)} names ({', '.join(given)}), expected {events} or {len(shape)}"
            )
        return names + (given or [f"{name}_dim_{i + len(names)}" for i in range(events)])
