"""Tables in memory: frames, arrays, tensors, labelled arrays, sparse matrices, dicts of columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from pyro_cookbook.data.errors import InputError, listed, one_line
from pyro_cookbook.data.intake.places import Raw, Rows, check_names

_MOST_DENSE = 1 << 31  # entries that a sparse matrix may have when it is written out: 16 GB


def read_memory(value: Any, name: str | None) -> Raw:
    """Take a table that is in memory.

    Parameters
    ----------
    value : object
        A pandas DataFrame or Series; anything with ``__arrow_c_stream__`` (polars, pyarrow,
        DuckDB) or the dataframe protocol; a NumPy array, masked or with fields; a tensor; an xarray
        Dataset or DataArray; a SciPy sparse matrix; an AnnData; or a mapping of names to columns.
    name : str, optional
        What to call it. Default: "data".

    Raises
    ------
    InputError
        If it is none of these, or has not rows and columns.
    """
    name = name or "data"
    frame, line = _frame(value, name)
    if isinstance(frame.columns, pd.MultiIndex):
        raise InputError(
            f"{name}: its columns have {frame.columns.nlevels} levels of names, expected one"
        )
    said = [line]
    index: Any = frame.index
    if not isinstance(index, pd.RangeIndex) and (index.name is not None or index.dtype.kind != "i"):
        said.append("the index of the frame is no column: left out")
    names = [str(one) for one in frame.columns]
    check_names(names, name)
    frame = frame.set_axis(pd.Index(names, dtype=object), axis=1).reset_index(drop=True)
    return Raw(frame, name, name, Rows(frame), tuple(said))


def _frame(value: Any, name: str) -> tuple[pd.DataFrame, str]:
    """Make a pandas frame of a value, and say what the value was."""
    kind = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
    if isinstance(value, pd.DataFrame):
        return value, kind
    if isinstance(value, pd.Series):
        return value.to_frame(_or(value.name, "value")), kind
    if isinstance(value, torch.Tensor):
        return _of_array(_of_tensor(value), name), kind
    if isinstance(value, np.ndarray):
        return _of_array(value, name), kind
    if all(hasattr(value, one) for one in ("X", "var_names", "obs_names")):
        return _of_anndata(value, name), kind
    if hasattr(value, "data_vars") or (hasattr(value, "dims") and hasattr(value, "coords")):
        return of_xarray(value, name), kind
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        return pd.DataFrame(_dense(value, name), columns=_numbered(value.shape[1])), kind
    if hasattr(value, "__arrow_c_stream__"):
        return _of_arrow(value, name), kind
    if hasattr(value, "__dataframe__"):
        return _of_protocol(value, name), kind
    if isinstance(value, Mapping):
        return _of_mapping(value, name), f"{type(value).__name__} of columns"
    raise InputError(
        f"{name}: got {_described(value)}, expected a path, a frame, an array, a tensor or a dict"
        " of columns"
    )


def _described(value: Any) -> str:
    kind = type(value).__name__
    return f"a {kind}" if value is not None else "None"


def _or(given: Any, otherwise: str) -> str:
    return otherwise if given is None else str(given)


def _numbered(count: int) -> list[str]:
    return [f"column {i + 1}" for i in range(count)]


def _of_tensor(value: torch.Tensor) -> npt.NDArray[Any]:
    value = value.detach()
    if value.layout != torch.strided:
        value = value.to_dense()
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.cpu().resolve_conj().resolve_neg().numpy()


def _of_array(array: npt.NDArray[Any], name: str) -> pd.DataFrame:
    """Take rows and columns of an array; one of fields has names."""
    if array.dtype.names:
        if array.ndim != 1:
            raise InputError(
                f"{name}: got an array of fields of shape {array.shape}, expected (n,)"
            )
        return pd.DataFrame({field: _unmasked(array[field]) for field in array.dtype.names})
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise InputError(
            f"{name}: got an array of shape {array.shape}, expected rows and columns: (n, D)"
        )
    columns = [_unmasked(column) for column in array.T]
    frame = pd.DataFrame(dict(enumerate(columns)), index=range(len(array)))
    return frame.set_axis(_numbered(array.shape[1]), axis=1)


def _unmasked(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make masked entries missing, and bring foreign byte orders home."""
    if np.ma.isMaskedArray(column):
        masked: Any = column
        whole = masked.astype(object if masked.dtype.kind in "OSU" else float)
        column = whole.filled(None if whole.dtype == object else np.nan)
    if column.dtype.kind == "S":
        column = column.astype("U")
    if column.dtype.kind == "U":
        return column.astype(object)
    if column.ndim > 1:
        raise InputError(f"a field of an array has shape {column.shape}, expected (n,)")
    native = column.dtype.newbyteorder("=")
    return column.astype(native if native.itemsize <= 8 or native.kind != "f" else np.float64)


def _of_anndata(value: Any, name: str) -> pd.DataFrame:
    """Take the matrix X of an AnnData, cells as rows and genes as columns."""
    matrix = value.X
    if matrix is None:
        raise InputError(f"{name}: the AnnData has no matrix X")
    array = _dense(matrix, name) if hasattr(matrix, "toarray") else np.asarray(matrix)
    frame = pd.DataFrame(array, columns=[str(one) for one in value.var_names])
    return frame.set_index(pd.Index([str(one) for one in value.obs_names]))


def _dense(matrix: Any, name: str) -> npt.NDArray[Any]:
    if len(matrix.shape) != 2:
        raise InputError(f"{name}: got a sparse array of shape {matrix.shape}, expected (n, D)")
    if matrix.shape[0] * matrix.shape[1] > _MOST_DENSE:
        raise InputError(
            f"{name}: a sparse matrix of {matrix.shape[0]:,} × {matrix.shape[1]:,} entries is too"
            " large to write out; choose columns first"
        )
    return np.asarray(matrix.toarray())


def _of_arrow(value: Any, name: str) -> pd.DataFrame:
    """Take a table that speaks Arrow; a single column of one, too."""
    try:
        return arrow_frame(pa.table(value), name)
    except (pa.ArrowInvalid, TypeError, ValueError) as first:
        if isinstance(first, InputError):
            raise
        try:
            column: Any = pa.chunked_array(value)
        except (pa.ArrowInvalid, TypeError, ValueError):  # no column either
            raise InputError(f"{name}: not a readable table: {one_line(first)}") from None
        label = _or(getattr(value, "name", None) or None, "value")
        return arrow_frame(pa.table({label: column}), name)


def arrow_frame(table: "pa.Table", source: str) -> pd.DataFrame:
    """Make a frame of an Arrow table.

    Raises
    ------
    InputError
        If columns have one name, or hold what is no column of a table: lists, structures, maps.
    """
    check_names([str(one) for one in table.column_names], source)
    for field in table.schema:
        if pa.types.is_nested(field.type):
            raise InputError(
                f"{source}: column {field.name!r} holds {field.type}, expected numbers or words;"
                " leave it out (--exclude)"
            )
    frame: pd.DataFrame = table.to_pandas(date_as_object=True)
    return frame


def _of_protocol(value: Any, name: str) -> pd.DataFrame:
    from pyarrow import interchange

    try:
        return arrow_frame(interchange.from_dataframe(value), name)
    except (pa.ArrowInvalid, NotImplementedError, RuntimeError, TypeError) as error:
        raise InputError(f"{name}: not a readable table: {one_line(error)}") from error


def _of_mapping(value: Mapping[Any, Any], name: str) -> pd.DataFrame:
    """Take columns by name, all of one length."""
    columns: dict[str, Any] = {}
    check_names([str(key) for key in value], name)
    for key, given in value.items():
        columns[str(key)] = _column(given, str(key), name)
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = listed([f"{key!r}: {length}" for key, length in lengths.items()])
        raise InputError(f"{name}: columns of different lengths: {shown}")
    return pd.DataFrame(columns)


def _column(given: Any, key: str, name: str) -> Any:
    if isinstance(given, pd.Series | pd.Categorical | pd.Index):
        return pd.Series(given).reset_index(drop=True)
    if isinstance(given, torch.Tensor):
        given = _of_tensor(given)
    if hasattr(given, "__arrow_c_stream__"):
        return _of_arrow(given, name).iloc[:, 0]
    is_array = hasattr(given, "__array__") or isinstance(given, Sequence)
    if isinstance(given, str | bytes) or not is_array:
        raise InputError(f"{name}: column {key!r}: got {_described(given)}, expected a column")
    if isinstance(given, Sequence):
        return pd.Series(given, dtype=None if _is_plain(given) else object)
    array = np.asanyarray(given)
    if array.ndim != 1:
        raise InputError(f"{name}: column {key!r}: got shape {array.shape}, expected (n,)")
    return _unmasked(array)


def _is_plain(values: Sequence[Any]) -> bool:
    """Whether a list holds numbers of one kind, which pandas reads without changing them."""
    return bool(values) and all(type(one) in {int, float} for one in values)


def of_xarray(value: Any, name: str) -> pd.DataFrame:
    """Make a frame of labelled arrays.

    A DataArray has rows and columns as dimensions, in this order; a Dataset one dimension, the
    row's, or is a single variable of two.

    Raises
    ------
    InputError
        Naming the variables and their dimensions.
    """
    if not hasattr(value, "data_vars"):
        return _of_data_array(value, name)
    variables = dict(value.data_vars)
    if not variables:
        raise InputError(f"{name}: the dataset has no variables")
    dims = {str(key): tuple(map(str, one.dims)) for key, one in variables.items()}
    if len(variables) == 1:
        return _of_data_array(next(iter(variables.values())), name)
    if len(set(dims.values())) > 1 or len(next(iter(dims.values()))) != 1:
        shown = listed([f"{key} ({', '.join(one)})" for key, one in dims.items()])
        raise InputError(
            f"{name}: expected variables of one dimension, the rows, or a single one of two; got"
            f" {shown}"
        )
    return pd.DataFrame({str(key): _unmasked(one.values) for key, one in variables.items()})


def _of_data_array(array: Any, name: str) -> pd.DataFrame:
    if array.ndim == 1:
        return pd.DataFrame({_or(array.name, "value"): _unmasked(array.values)})
    if array.ndim != 2:
        dims = ", ".join(f"{dim}: {size}" for dim, size in array.sizes.items())
        called = f" {array.name!r}" if array.name is not None else ""
        raise InputError(
            f"{name}: variable{called} has {array.ndim} dimensions ({dims}), expected rows and"
            " columns"
        )
    frame = _of_array(array.values, name)
    dim = array.dims[1]
    if dim in array.coords:
        frame = frame.set_axis([str(one) for one in array.coords[dim].values], axis=1)
    return frame
