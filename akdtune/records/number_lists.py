"""Columns of Parquet files that hold a list of numbers a row: logits, features, maps."""

# Shapes: N rows, K numbers a row.

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats: TypeAlias = npt.NDArray[np.float32]
Halves: TypeAlias = npt.NDArray[np.float16]

LARGEST_HALF = float(np.finfo(np.float16).max)


def in_half(values_NK: npt.NDArray[np.floating[Any]]) -> Halves:
    """Numbers in float16; what is too large for it becomes its largest."""
    with np.errstate(under="ignore"):
        halves_NK: Halves = np.clip(values_NK, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
    return halves_NK


def scores_in_half(scores_NK: npt.NDArray[np.floating[Any]]) -> Halves:
    """Scores of classes in float16, of which the same one is the first of the largest.

    Rounding may make others equal to the largest: they go down by one step, at most a thousandth of it.
    """
    halves_NK = in_half(scores_NK)
    rows_N, answers_N = np.arange(len(halves_NK)), scores_NK.argmax(axis=1) if scores_NK.size else np.zeros(0, int)
    largest_N1 = halves_NK[rows_N, answers_N][:, None]
    ties_NK = halves_NK >= largest_N1
    ties_NK[rows_N, answers_N] = False
    return np.where(ties_NK, np.nextafter(largest_N1, np.float16(-np.inf)), halves_NK)


def list_column(values_NK: npt.NDArray[Any]) -> pa.Array:
    """A column of as many lists as there are rows, of the array's own type."""
    offsets_N = (np.arange(len(values_NK) + 1) * values_NK.shape[1]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets_N), pa.array(np.ascontiguousarray(values_NK).ravel()))


def read_lists(table: pa.Table, name: str) -> Floats:
    """A column of lists of one length as an array in float32, whatever it is stored in.

    Raises:
        KeyError: for a column that is not there.
        ValueError: for lists of several lengths.
    """
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[name].chunks]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if not table.num_rows:
        return np.zeros((0, 0), np.float32)
    return np.asarray(flat.reshape(table.num_rows, -1), np.float32)
