"""What the students of a study answered on each image, as their trials left it, and how far two of them agree."""

# Shapes: N images, S seeds.

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.processors import available_cpus
from akdtune.records.damage import file_trouble
from akdtune.records.files import read_table, trial_directory
from akdtune.records.number_lists import read_lists
from akdtune.records.recorded_files import GROUP, TOP_CLASSES, TOP_LOG_P, VALUE
from akdtune.records.trial_directory import TrialDirectory
from akdtune.reports.ablation.measured import MeasuredCell
from akdtune.statistics.resampling import Floats

Bools: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]


class Stored(NamedTuple):
    """One trial's predictions, in the order of the images' ids.

    Attributes:
        ids_N: of the images, ascending.
        values_N: what each contributes to the metric, whose value is their mean; of accuracy whether it is right.
        groups_N: which are drawn together where others are drawn; None: each alone.
        answers_N: the class of the largest logit.
        outputs: digest of all logits as they are stored.
    """

    ids_N: Integers
    values_N: Bools | Floats
    groups_N: Integers | None
    answers_N: Integers
    outputs: bytes


class Pair(NamedTuple):
    """Two cells on the same images, over common seeds in one order.

    Attributes:
        cell_SN, reference_SN: what each image contributes to the metric, by seed.
        groups_N: of the images; None: each is its own.
    """

    cell_SN: Bools | Floats
    reference_SN: Bools | Floats
    groups_N: Integers | None


@dataclass(frozen=True)
class Agreement:
    """How far two cells answer alike, over their common seeds.

    Attributes:
        images: that every trial was judged by.
        answers: answers compared: images times seeds.
        differing: of them, how many differ.
        same_outputs: whether all logits are equal, to the last digit stored.
    """

    images: int
    answers: int
    differing: int
    same_outputs: bool


class StoredPredictions:
    """The predictions that the trials of a study left; each file is read once.

    Args:
        run: the study directory.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._held: dict[str, Stored | None] = {}

    def pair(self, cell: MeasuredCell, reference: MeasuredCell) -> Pair | str:
        """What both cells' images contribute to the metric; or why nothing can be compared."""
        sides = self._sides(cell, reference)
        if isinstance(sides, str):
            return sides
        stacked: list[Any] = [np.stack([held.values_N for held in side]) for side in sides]
        return Pair(stacked[0], stacked[1], sides[0][0].groups_N)

    def agreement(self, cell: MeasuredCell, reference: MeasuredCell) -> Agreement | None:
        """How far both cells answer alike over their common seeds; None without comparable predictions."""
        sides = self._sides(cell, reference)
        return None if isinstance(sides, str) else agreement(*sides)

    def of(self, trial_id: str) -> Stored | None:
        """What a trial left; None where it left nothing, or nothing whole, which a warning says."""
        if trial_id not in self._held:
            self._held[trial_id] = _of_trial(TrialDirectory(trial_directory(self._run, trial_id)))
        return self._held[trial_id]

    def _read_at_once(self, trial_ids: Sequence[str]) -> None:
        """Reads what some trials left, a file a processor."""
        missing = [trial_id for trial_id in dict.fromkeys(trial_ids) if trial_id not in self._held]
        if len(missing) > 1:
            with ThreadPoolExecutor(available_cpus()) as readers:
                list(readers.map(self.of, missing))

    def _sides(self, cell: MeasuredCell, reference: MeasuredCell) -> tuple[list[Stored], list[Stored]] | str:
        seeds = sorted(cell.values.keys() & reference.values.keys())
        if not seeds:
            return "no common seed"
        self._read_at_once([side.trials[seed] for side in (cell, reference) for seed in seeds])
        sides: tuple[list[Stored], list[Stored]] = ([], [])
        for of_side, side in zip(sides, (cell, reference), strict=True):
            for seed in seeds:
                held = self.of(side.trials[seed])
                if held is None:
                    return f"trial {side.trials[seed]} left no predictions"
                if not _is_mean_of(side.values[seed], held.values_N):
                    return f"the predictions of trial {side.trials[seed]} are not those of its accuracy"
                of_side.append(held)
        if not all(np.array_equal(held.ids_N, sides[0][0].ids_N) for side in sides for held in side):
            return "the trials were judged by different images"
        return sides


def _is_mean_of(value: float, values_N: Bools | Floats) -> bool:
    """Whether a trial's value is what its images say: an accuracy within one image and a half, else by rounding."""
    if values_N.dtype == np.bool_:
        return bool(abs(100 * values_N.mean() - value) * len(values_N) <= 150)
    return bool(np.isclose(values_N.mean(), value, rtol=1e-4, atol=1e-6))


def agreement(firsts: Sequence[Stored], seconds: Sequence[Stored]) -> Agreement:
    """How far pairs of trials answer alike; every one must hold the same images.

    Args:
        firsts: of one side.
        seconds: of the other, in the same order.
    """
    pairs = list(zip(firsts, seconds, strict=True))
    return Agreement(
        images=len(firsts[0].ids_N),
        answers=sum(len(first.ids_N) for first in firsts),
        differing=sum(int((first.answers_N != second.answers_N).sum()) for first, second in pairs),
        same_outputs=all(first.outputs == second.outputs for first, second in pairs),
    )


def _of_trial(trial: TrialDirectory) -> Stored | None:
    if not trial.predictions.exists():
        return None
    try:
        if why := file_trouble(trial, trial.predictions.name):
            raise StudyError(f"{trial.predictions}: {why}")
        return _read(trial.predictions)
    except (StudyError, KeyError, ValueError, pa.ArrowException) as error:
        said = str(error) if isinstance(error, StudyError) else f"{trial.predictions}: holds no predictions ({error})"
        warnings.warn(f"{said}; left out, `akdtune run` mends it", AkdtuneWarning, stacklevel=4)
        return None


def _read(path: Path) -> Stored:
    table = read_table(path)
    ids_N = np.asarray(table["sample_id"].to_numpy(), np.int64)
    labels_N = np.asarray(table["label"].to_numpy(), np.int64)
    order = np.argsort(ids_N, kind="stable")
    if TOP_CLASSES in table.column_names:
        outputs_NX = np.ascontiguousarray(read_lists(table, TOP_LOG_P)[order])
        answers_N = read_lists(table, TOP_CLASSES)[order, 0].astype(np.int64)
    else:
        outputs_NX = np.ascontiguousarray(read_lists(table, "logits")[order])
        answers_N = outputs_NX.argmax(1)
    digest = hashlib.sha256(outputs_NX.tobytes()).digest()
    values_N: Bools | Floats = answers_N == labels_N[order]
    groups_N: Integers | None = None
    if VALUE in table.column_names:
        values_N = np.asarray(table[VALUE].to_numpy(), np.float64)[order]
    if GROUP in table.column_names:
        groups_N = np.asarray(table[GROUP].to_numpy(), np.int64)[order]
    return Stored(ids_N[order], values_N, groups_N, answers_N, digest)
