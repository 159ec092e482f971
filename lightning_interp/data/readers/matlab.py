"""Structures in MATLAB files, of both formats, as plain dictionaries, lists, text and arrays."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_interp._extras import require
from lightning_interp.errors import DatasetError

_HDF5 = b"MATLAB 7.3"


def read_matlab(path: Path, name: str) -> Any:
    """One variable of a MATLAB file of format 5 (SciPy) or 7.3 (HDF5, h5py).

    Args:
        path: The file.
        name: The variable.

    Returns:
        Of a structure a dict, of an array of them or a cell array a list, of text a str, of numbers an array without
        its axes of length 1 (a number alone is one of shape ``()``), of anything empty an empty array.

    Raises:
        DatasetError: If the file cannot be read or has no such variable.
        MissingExtraError: If the library for its format is not installed.
    """
    try:
        with path.open("rb") as handle:
            hdf5 = handle.read(len(_HDF5)) == _HDF5
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    library = require("h5py" if hdf5 else "scipy.io")
    try:
        if hdf5:
            with library.File(path, "r") as file:
                return _value(file[name], file)
        return _plain(library.loadmat(path, variable_names=[name], simplify_cells=True)[name])
    except Exception as error:  # both libraries raise nearly every class on hostile bytes
        raise DatasetError(f"{path}: variable {name!r} is not readable: {type(error).__name__}: {error}") from error


def records(value: Any) -> list[dict[str, Any]]:
    """The structures in a value of :func:`read_matlab`: MATLAB does not tell one from an array of one, nor none."""
    found = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [each for each in found if isinstance(each, dict)]


def _plain(value: Any) -> Any:
    """SciPy's simplified value with every array of objects as a list and every number as an array."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [_plain(each) for each in value]
    return value if isinstance(value, str) else np.asarray(value)


def _value(item: Any, file: Any) -> Any:
    """The value of an HDF5 group (a structure or an array of them) or data set as MATLAB 7.3 stores them."""
    if hasattr(item, "keys"):
        fields = {key: item[key] for key in item}
        # The fields of an array of structures are arrays of references without a class of their own.
        if fields and all(_refers(each) and "MATLAB_class" not in each.attrs for each in fields.values()):
            columns = {key: [_value(file[each], file) for each in column[()].T.flat] for key, column in fields.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {key: _value(each, file) for key, each in fields.items()}
    if item.attrs.get("MATLAB_empty", 0):
        return np.zeros(0)
    if _refers(item):
        return [_value(file[each], file) for each in item[()].T.flat]
    numbers: NDArray[Any] = item[()].T
    return "".join(map(chr, numbers.flat)) if item.attrs.get("MATLAB_class") == b"char" else numbers.squeeze()


def _refers(item: Any) -> bool:
    return not hasattr(item, "keys") and item.dtype.kind == "O"
