"""Whether compacted rows are a trial's own: column by column, to the last bit."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from akdtune.verification.compacted import _are_alike

OWN = {"epoch": [1, 2, 3], "val_accuracy": [50.0, None, math.nan], "loss.kd": [0.0, 1.5, -math.inf], "arm": ["a"] * 3}


def test_the_same_rows_are_alike_also_beside_columns_of_other_trials() -> None:
    own = pa.table(OWN)
    assert _are_alike(own, own)
    assert _are_alike(own, own.append_column("loss.crd", pa.nulls(3, pa.float64())))
    assert _are_alike(own.append_column("loss.crd", pa.nulls(3)), own.append_column("loss.crd", pa.nulls(3)))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("loss.kd", [-0.0, 1.5, -math.inf]),
        ("loss.kd", [0.0, math.nextafter(1.5, 2), -math.inf]),
        ("val_accuracy", [50.0, 0.0, math.nan]),
        ("val_accuracy", [50.0, math.nan, None]),
        ("val_accuracy", [None, None, None]),
        ("epoch", [1, 2, 4]),
        ("epoch", [1.0, 2.0, 3.0]),
        ("arm", ["a", "a", "b"]),
    ],
    ids=str,
)
def test_one_value_that_differs_is_found(column: str, values: list[object]) -> None:
    assert not _are_alike(pa.table(OWN), pa.table(OWN | {column: values}))
    assert not _are_alike(pa.table(OWN | {column: values}), pa.table(OWN))


def test_rows_and_columns_that_are_missing_are_found() -> None:
    own = pa.table(OWN)
    assert not _are_alike(own, own.slice(0, 2))
    assert not _are_alike(own, own.drop_columns(["loss.kd"]))
    assert not _are_alike(own.drop_columns(["loss.kd"]), own)
