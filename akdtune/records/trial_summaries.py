"""What a trial's epochs come to: one row per trial, each column by its declaration."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from akdtune.columns import Column, Summary
from akdtune.metric import ACCURACY, Metric
from akdtune.records.files import EPOCH_COLUMNS, METRICS, TRIAL_COLUMNS, field_of

_BEFORE_DECLARATIONS: dict[str, Summary] = {
    "wall_time_s": "sum", "warmup_time_s": "sum", "images_per_s": "mean", "peak_memory_mib": "max",
}  # fmt: skip
"""How epochs become a trial's value where a file says nothing about its columns and it is not `last`."""

Floats: TypeAlias = npt.NDArray[np.float64]


def summary_schema(epochs: pa.Schema, metric: Metric = ACCURACY) -> pa.Schema:
    """A trial's columns that are made of its epochs: those of every study, then others of numbers by their summary.

    Args:
        epochs: columns of the epochs.
        metric: of the study; one that is not accuracy has its columns behind those of every study, measured or not.
    """
    known = {field.name: Column.of_metadata(field.name, field.metadata) for field in epochs}
    fields = [pa.field("trial_id", pa.string()), pa.field("epochs", pa.int64())]
    fields += [pa.field("val_accuracy_best", pa.float64())]
    fields += [field_of(name, pa.float64(), known.get(name)) for name in METRICS]
    taken = TRIAL_COLUMNS.keys() | EPOCH_COLUMNS.keys()
    if metric != ACCURACY:
        own = (metric.validation, metric.test)
        fields += [pa.field(metric.best, pa.float64(), metadata=best_of(metric).metadata())]
        fields += [field_of(name, pa.float64(), known.get(name)) for name in own]
        taken |= {*own, metric.best}
    for field in epochs:
        summary = summary_of(field)
        if field.name in taken or field.name.startswith("param.") or summary in ("none", "trial"):
            continue
        if is_numeric(field.type):
            kind = field.type if summary == "last" else pa.float64()
            fields.append(field_of(field.name, kind, known[field.name]))
    return pa.schema(fields)


def best_of(metric: Metric) -> Column:
    """What the column of a trial's highest epoch holds."""
    return Column(metric.best, "percent", f"highest {metric.validation} of all epochs", "trial")


def summary_of(field: pa.Field) -> Summary:
    """How the values of a column's epochs become a trial's, as its file says."""
    declared = Column.of_metadata(field.name, field.metadata)
    if declared is not None:
        return declared.summary
    return "none" if field.name.startswith("loss.") else _BEFORE_DECLARATIONS.get(field.name, "last")


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column holds numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def summary_rows(epochs: pa.Table, metric: Metric = ACCURACY) -> pa.Table:
    """One row per trial of a table that holds all rows of its trials: `summary_schema`."""
    schema = summary_schema(epochs.schema, metric)
    if not epochs.num_rows:
        return schema.empty_table()
    encoded = epochs["trial_id"].combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    epoch = _floats(epochs["epoch"])
    order = np.lexsort((_floats(epochs["attempt"]), epoch, codes))
    keep = np.ones(len(order), bool)  # of an epoch that two attempts ran, the later attempt's row
    keep[:-1] = (np.diff(codes[order]) != 0) | (np.diff(epoch[order]) != 0)
    order = order[keep]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    ends = np.append(starts[1:], len(order)) - 1
    bests = dict.fromkeys((ACCURACY, metric))
    lacking = [name for name in (metric.validation, metric.test) if name not in epochs.column_names]
    for name in lacking:
        epochs = epochs.append_column(name, pa.nulls(epochs.num_rows, pa.float64()))
    measured = [name for name in schema.names if name not in ("trial_id", "epochs", *(of.best for of in bests))]
    last = epochs.select([*measured, "epoch"]).take(pa.array(order[ends]))
    columns: dict[str, Any] = {"trial_id": encoded.dictionary, "epochs": last["epoch"]}
    for of in bests:
        best = _reduce(np.fmax, _floats(epochs[of.validation])[order], starts)
        columns[of.best] = pa.array(best, mask=np.isnan(best))
    for name in measured:
        summary = summary_of(epochs.schema.field(name))
        if summary == "last":
            columns[name] = last[name]
            continue
        values = _summarised(summary, _floats(epochs[name])[order], starts)
        if summary == "sum" and name in METRICS:
            values = np.nan_to_num(values)  # as in all studies so far: what was not written down took no time
        columns[name] = pa.array(values, mask=np.isnan(values))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _summarised(summary: Summary, values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """A value per trial out of those of its epochs, NaN where none is known."""
    if summary in ("max", "min"):
        return _reduce(np.fmax if summary == "max" else np.fmin, values, starts)
    if summary not in ("sum", "mean"):
        return np.full(len(starts), np.nan)
    known = _reduce(np.add, (~np.isnan(values)).astype(np.float64), starts)
    total = np.where(known > 0, _reduce(np.add, np.where(np.isnan(values), 0.0, values), starts), np.nan)
    return total if summary == "sum" else np.asarray(total / np.maximum(known, 1), np.float64)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), np.float64)


def _reduce(operation: np.ufunc, values: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """One value per run of `values`; each run begins at one of `starts`."""
    return np.asarray(operation.reduceat(values, starts), np.float64) if len(starts) else np.empty(0)
