"""Every column that a study's tables can have, as the code that makes it declares it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from akdtune.columns import Column, joined
from akdtune.records import tables
from akdtune.records.files import ROW_COLUMNS
from akdtune.registry import lookup, names


def declared() -> tuple[Column, ...]:
    """What `trials.parquet` and `epochs.parquet` can hold: those of all trials, then of all that is registered.

    Raises:
        AkdtuneError: when two components declare one column in two ways.
    """
    from akdtune.teacher.frozen import CACHE_COLUMNS  # late, as it loads torch
    from akdtune.training.evaluation import held_out_columns  # late, as it loads torch
    from akdtune.training.recording import RECORDED_COLUMNS  # late, as it loads torch
    from akdtune.training.trial import TRAINING_COLUMNS  # late, as it loads torch

    components = [
        *(lookup("views", name) for name in names("views")),
        *(lookup("methods", n) for n in names("methods")),
        *(lookup("selections", name) for name in names("selections")),
    ]
    return joined(
        ROW_COLUMNS,
        tables.WHOLE_TRIAL_COLUMNS,
        tables.LATER_TRIAL_COLUMNS,
        TRAINING_COLUMNS,
        *_in_the_words_of_images([held_out_columns(lookup("tasks", name)) for name in ["image", *names("tasks")]]),
        CACHE_COLUMNS,
        RECORDED_COLUMNS,
        *(component.columns for component in components),
    )


def _in_the_words_of_images(of_tasks: Sequence[Sequence[Column]]) -> Iterator[Sequence[Column]]:
    """Columns of tasks, the sentences of those that several have as the first has them: rows are images there."""
    known: dict[str, str] = {}
    for columns in of_tasks:
        for column in columns:
            known.setdefault(column.name, column.sentence)
        yield [replace(column, sentence=known[column.name]) for column in columns]
