"""Names of dimensions: plates, event dimensions, rows of arguments; and the tree they make."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from arviz_base import dict_to_dataset
from torch import Tensor

from pyro_cookbook.posterior.on_disk import Filled
from pyro_cookbook.programs.arguments import holders, named_arguments
from pyro_cookbook.programs.checks import dimension_name, tree_name
from pyro_cookbook.programs.observing import GIVEN
from pyro_cookbook.programs.program import Program, Site

Array = npt.NDArray[Any]
Values = Mapping[str, Tensor]
Dims = Mapping[str, Sequence[str]]
Coords = Mapping[str, Any]

# A guide's draws are laid out as one chain: ArviZ looks for these two unless it is told otherwise.
CHAINS, INDEPENDENT = ("chain", "draw"), ("sample",)


@dataclass
class Group:
    """Variables that have the same draws, filled a chunk at a time.

    Attributes
    ----------
    draws : array of int, shape (m,), or None
        Which draws of the posterior they are, chain by chain; None for data, which have none.
    values : dict of str to array
        Variable → values, shape (m, ...), in the dtype that they were computed in; large ones
        are in temporary files (`on_disk.ON_DISK`).
    """

    draws: Array | None = None
    values: dict[str, Array] = field(default_factory=dict)
    _filled: dict[str, Filled] = field(default_factory=dict)

    def write(self, at: slice, values: Values) -> None:
        """Copy a chunk's values to their places."""
        for name, value in values.items():
            array = value.detach().cpu().numpy()
            if name not in self._filled:
                num_draws = 0 if self.draws is None else len(self.draws)
                self._filled[name] = Filled((num_draws, *array.shape[1:]), array.dtype)
                self.values[name] = self._filled[name].array
            self._filled[name].write(at, array)


def data(values: Values) -> Group:
    """Make a group of values that have no draws."""
    return Group(values={name: value.detach().cpu().numpy() for name, value in values.items()})


class Layout:
    """Names the dimensions of every variable and builds the tree.

    Parameters
    ----------
    sites : mapping of str to Site
        The model's, on the data that the tree is about.
    coords, dims : mapping
        As for `to_datatree`.
    sample_dims : sequence of str
        Names of the draws' dimensions.
    num_chains : int, default 1
    data_sites : collection of str, optional
        The sites that are data. Default: those observed.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        coords: Coords | None,
        dims: Dims | None,
        sample_dims: Sequence[str],
        num_chains: int = 1,
        data_sites: Collection[str] | None = None,
    ) -> None:
        if tuple(sample_dims) not in {CHAINS, INDEPENDENT}:
            raise ValueError(
                f"sample_dims: got {tuple(sample_dims)}, expected {CHAINS} or {INDEPENDENT}"
            )
        self.sites, self.num_chains = sites, num_chains
        self.coords, self.dims = coords or {}, dims or {}
        self.sample_dims = list(sample_dims)
        if data_sites is None:
            data_sites = [name for name, site in sites.items() if site.is_data]
        self._rows = _row_plates(sites, data_sites)

    def tree(self, groups: Mapping[str, Group], theta: Values | None = None) -> xr.DataTree:
        """Build the tree; groups without variables are left out."""
        datasets = {
            name: self._dataset(group, is_density=name == "log_likelihood")
            for name, group in groups.items()
            if group.values
        }
        if theta:
            datasets["theta"] = self._constants(theta)
        return xr.DataTree.from_dict(datasets)

    def _dataset(self, group: Group, is_density: bool) -> xr.Dataset:
        arrays: dict[str, Array] = {}
        dims: dict[Any, Any] = {}
        for site, value in group.values.items():
            name, array = tree_name(site), value
            first = 0 if group.draws is None else 1
            names = self._names(site, array.shape[first:], is_density)
            # Rows that share a summed-out latent have one density: no dimension of their own.
            named = [n for n, dim in zip(array.shape[first:], names, strict=True) if dim]
            array = array.reshape((*array.shape[:first], *named))
            if group.draws is not None and len(self.sample_dims) > 1:
                array = array.reshape(self.num_chains, -1, *array.shape[1:])
            arrays[name], dims[name] = array, [dim for dim in names if dim]
        coords: dict[str, Any] = self._coords(arrays, dims)
        sample_dims: list[str] = []
        if group.draws is not None:
            sample_dims = self.sample_dims
            coords[sample_dims[-1]] = group.draws[: len(group.draws) // self.num_chains]
        made: xr.Dataset = dict_to_dataset(
            arrays, sample_dims=sample_dims, dims=dims, coords=coords,
            check_conventions=False,  # refined fits have more chains than draws
        )  # fmt: skip
        return made

    def _constants(self, values: Values) -> xr.Dataset:
        """Lay out values that have neither draws nor plates; names given count from the last."""
        arrays = {tree_name(name): value.detach().cpu().numpy() for name, value in values.items()}
        dims: dict[Any, Any] = {}
        for name, array in arrays.items():
            given = list(self.dims.get(name, ()))[-array.ndim :] if array.ndim else []
            dims[name] = [f"{name}_dim_{i}" for i in range(array.ndim - len(given))] + given
        made: xr.Dataset = dict_to_dataset(
            arrays, sample_dims=[], dims=dims, coords=self._coords(arrays, dims)
        )
        return made

    def _coords(self, arrays: Mapping[str, Array], dims: Mapping[str, list[str]]) -> dict[str, Any]:
        """Labels of the dimensions that these variables have."""
        coords: dict[str, Any] = {}
        for name, names in dims.items():
            for dim, size in zip(reversed(names), reversed(arrays[name].shape), strict=False):
                if dim in self.coords:
                    coords[dim] = self.coords[dim]
                    if len(coords[dim]) != size:
                        raise ValueError(
                            f"coords: got {len(coords[dim])} labels for {dim!r}, expected {size}"
                        )
        return coords

    def _names(self, name: str, shape: tuple[int, ...], is_density: bool) -> list[str]:
        """Name the dimensions of one variable; "" for rows that have one density together."""
        site = self.sites.get(name)
        if not is_density or site is None:
            return self._all_names(name, site, shape)
        names = self._all_names(name, site, site.shape)[: len(shape)]
        return [
            dim if size == of_site else ""
            for dim, size, of_site in zip(names, shape, site.shape, strict=False)
        ]

    def _all_names(self, name: str, site: Site | None, shape: tuple[int, ...]) -> list[str]:
        given = list(self.dims.get(name, ()))
        if len(given) == len(shape):
            return given
        if site is not None:  # a site without data may be of fewer dimensions than with them
            inside = len(shape) >= len(site.plates)
            plates = [dimension_name(plate) for plate in site.plates if inside]
        else:  # an argument
            plates = [self._rows[shape[0]]] if shape and shape[0] in self._rows else []
        own = tree_name(name)
        names = [plate or f"{own}_dim_{i}" for i, plate in enumerate(plates)]
        events = len(shape) - len(names)
        if given and len(given) != events:
            raise ValueError(
                f"dims: {name!r} has shape {tuple(shape)} after {names or 'no plates'}; got"
                f" {len(given)} names ({', '.join(given)}), expected {events} or {len(shape)}"
            )
        return names + (given or [f"{own}_dim_{i + len(names)}" for i in range(events)])


def _row_plates(sites: Mapping[str, Site], data_sites: Collection[str]) -> dict[int, str]:
    """Size → the plate round the data that alone has it: arguments of as many rows belong to it.

    A size that another plate or another dimension of a site has as well says nothing; computed
    values, which take their size from others, do not count.
    """
    plates: dict[str, int] = {}
    others: set[int] = set()
    for site in sites.values():
        if site.deterministic:
            continue
        named = len(site.plates)
        plates |= {plate: site.shape[i] for i, plate in enumerate(site.plates) if plate}
        others |= {site.shape[i] for i, plate in enumerate(site.plates) if not plate}
        others |= set(site.shape[named:])
    sizes = list(plates.values())
    around = {plate for name in data_sites if name in sites for plate in sites[name].plates}
    return {
        size: dimension_name(plate)
        for plate, size in plates.items()
        if plate in around and sizes.count(size) == 1 and size not in others
    }


def constants(program: Program) -> dict[str, Tensor]:
    """Collect tensor and number arguments that are not observed, under their names."""
    holding = holders(program)
    # What no argument holds as it is may be held by a part of one: the entry of a mapping.
    parts = [program.nodes[site] for site, name in holding.items() if name is None]
    given = [node["infer"].get(GIVEN, node["value"]) for node in parts]
    found: dict[str, Tensor] = {}

    def add(name: str, value: Any) -> None:
        if hasattr(value, "_asdict"):
            value = value._asdict()
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}_{key}", item)
        elif any(value is one for one in given):
            return
        elif isinstance(value, (Tensor, np.ndarray, int, float)):
            found[name] = torch.as_tensor(value)

    for name, value in named_arguments(program).items():
        if name not in holding.values():
            add(name, value)
    return found
