"""Pickled arrays, sparse matrices and dictionaries of others, read without running anything that they name.

A pickle can name any function to be called. Here it may name those that arrays, lists and dictionaries are made of, and
nothing else; a sparse matrix comes back as its plain parts, which are checked before they are used.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from akdtune.errors import DataError

_MODULES_OF_ARRAYS = {"numpy.core.multiarray", "numpy._core.multiarray"}
_MATRICES = {"scipy.sparse.csr", "scipy.sparse._csr"}


_WIDEST = 1_000_000
"""Columns that a matrix may have: a damaged file shall not ask for all memory."""


class Rows:
    """A sparse matrix by rows, as stored: what scipy's csr_matrix keeps in its attributes."""


def dense(matrix: Rows, file: Path) -> npt.NDArray[np.float32]:
    """A sparse matrix as a whole one, float32.

    Raises:
        DataError: naming the file, where its parts do not fit each other.
    """
    held = vars(matrix)
    data, columns, starts = (_vector(held.get(name), kinds) for name, kinds in _PARTS.items())
    shape: Any = held.get("_shape", held.get("shape"))
    if data is None or columns is None or starts is None or not _is_shape(shape):
        raise DataError(f"{file}: must hold a sparse matrix by rows, and parts of it are missing")
    height, width = shape
    counts = np.diff(starts)
    fits = len(counts) == height and (counts >= 0).all() and counts.sum() == len(data) == len(columns)
    if not fits or (len(columns) and not 0 <= columns.min() <= columns.max() < width):
        raise DataError(f"{file}: the parts of its sparse matrix do not fit each other")
    whole = np.zeros((height, width), np.float32)
    np.add.at(whole, (np.repeat(np.arange(height), counts), columns), data.astype(np.float32))
    return whole


_PARTS = {"data": "iuf", "indices": "iu", "indptr": "iu"}


def _vector(part: Any, kinds: str) -> npt.NDArray[Any] | None:
    return part if isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind in kinds else None


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and [type(side) for side in shape] == [int, int] and 0 < shape[1] <= _WIDEST


def _no_bytes() -> bytes:
    """The bytes of an empty array."""
    return b""


_BUILT_IN: dict[str, Any] = {"list": list, "object": object, "bytes": _no_bytes}


class _Reader(pickle.Unpickler):
    """An unpickler that knows arrays, lists and dictionaries."""

    @override
    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES_OF_ARRAYS and name == "_reconstruct":
            return _empty_array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in _MATRICES and name == "csr_matrix":
            return Rows
        if (module, name) == ("collections", "defaultdict"):
            return defaultdict
        if module in ("builtins", "__builtin__") and name in _BUILT_IN:
            return _BUILT_IN[name]
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":
            return _reconstructed
        if (module, name) == ("_codecs", "encode"):
            return _bytes
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither array, list nor dictionary")


def _empty_array(kind: Any, shape: Any, code: Any) -> npt.NDArray[Any]:
    """As numpy makes the array that its stored state then fills."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"it makes an array of {kind!r}")
    return np.empty(0, np.int8)


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    """As `copyreg` makes an object of a plain class."""
    if kind is not Rows or base is not object:
        raise pickle.UnpicklingError(f"it makes an object of {kind!r}")
    return Rows()


def _bytes(text: str, encoding: str) -> bytes:
    """As `_codecs.encode` gives the bytes of an array that an old protocol wrote as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes in {encoding!r}")
    return text.encode("latin1")


def read_pickled(file: Path) -> Any:
    """What a file holds.

    Raises:
        DataError: naming the file, where it holds anything else or is damaged.
    """
    try:
        with file.open("rb") as opened:
            return _Reader(opened, encoding="latin1").load()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise DataError(f"{file}: is no pickle of arrays ({error})") from error
