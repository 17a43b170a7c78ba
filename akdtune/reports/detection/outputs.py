"""What the networks of a detection said about its inputs: in memory, and as files that are kept.

Shapes: S students, K teachers, P inputs of a pool, D classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from akdtune.records.files import write_table

Kind: TypeAlias = Literal["real", "synthesised", "gaussian"]
KINDS: tuple[Kind, ...] = ("real", "synthesised", "gaussian")
"""Inputs, those that know most about the training images first."""

Group: TypeAlias = Literal["distilled", "control", "unknown"]
"""Students whose teacher is known, students that had none, and students whose teacher is asked for."""

Logits: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TeacherFacts:
    """A candidate.

    Attributes:
        name: among the candidates.
        network: its registered name.
        weights_hash: of its weights.
        accuracy: on the test images, percent; None where it is not known.
    """

    name: str
    network: str
    weights_hash: str
    accuracy: float | None = None


@dataclass(frozen=True)
class StudentFacts:
    """A student.

    Attributes:
        name: among the students.
        network: its registered name.
        weights_hash: of its weights.
        group: what is known of its teacher.
        teacher: the candidate that it was distilled from; of a control, the one that its study has; None: not known.
        run: name of its study; empty for a file.
        arm: of its trial.
        seed: of its trial.
    """

    name: str
    network: str
    weights_hash: str
    group: Group
    teacher: str | None
    run: str = ""
    arm: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Pool:
    """What all networks said about one kind of inputs.

    Attributes:
        kind: of inputs.
        students: names of those that were asked.
        students_SPD: their logits.
        teachers_GKPD: the candidates' logits on the same inputs; G is 1 where all students got the same inputs, else S.
        sample_ids_P: of real inputs in the data set; None for others.
    """

    kind: Kind
    students: tuple[str, ...]
    students_SPD: Logits
    teachers_GKPD: Logits
    sample_ids_P: npt.NDArray[np.int64] | None = None

    def teachers_of(self, place: int) -> Logits:
        """The candidates' logits [K, P, D] on the inputs of the student at this place."""
        logits_KPD: Logits = self.teachers_GKPD[place if len(self.teachers_GKPD) > 1 else 0]
        return logits_KPD

    @property
    def size(self) -> int:
        """P."""
        return int(self.students_SPD.shape[1])


@dataclass(frozen=True)
class Outputs:
    """Everything that a detection has asked.

    Attributes:
        teachers: the candidates, in the order of K.
        students: all that were asked anything.
        pools: by kind of inputs, in the order of `KINDS`.
        notes: what was left out and why, a sentence each.
        how: the settings of the inputs, as plain JSON.
    """

    teachers: tuple[TeacherFacts, ...]
    students: tuple[StudentFacts, ...]
    pools: tuple[Pool, ...]
    notes: tuple[str, ...]
    how: dict[str, int | float]


def write_outputs(folder: Path, outputs: Outputs) -> Path:
    """Writes `outputs.parquet`, a row for each network and input; returns its path.

    Columns: `inputs` (their kind), `inputs_of` (the student that they were synthesised from; null: all students' own),
    `role` (teacher or student), `name`, `input` (place in the pool), `sample_id` (of real ones), `logits`.

    Raises:
        StudyError: when it cannot be written.
    """
    tables = [
        table for pool in outputs.pools for table in _tables(pool, [teacher.name for teacher in outputs.teachers])
    ]
    path = folder / "outputs.parquet"
    write_table(path, pa.concat_tables(tables))
    return path


def _tables(pool: Pool, teachers: Sequence[str]) -> Iterator[pa.Table]:
    shared = pool.kind != "synthesised"
    of_pool = (None,) if shared else pool.students
    for inputs_of, logits_KPD in zip(of_pool, pool.teachers_GKPD, strict=True):
        for name, logits_PD in zip(teachers, logits_KPD, strict=True):
            yield _table(pool, inputs_of, "teacher", name, logits_PD)
    for name, logits_PD in zip(pool.students, pool.students_SPD, strict=True):
        yield _table(pool, None if shared else name, "student", name, logits_PD)


def _table(pool: Pool, inputs_of: str | None, role: str, name: str, logits_PD: Logits) -> pa.Table:
    count = len(logits_PD)
    flat = pa.array(np.ascontiguousarray(logits_PD).ravel(), pa.float32())
    logits = pa.FixedSizeListArray.from_arrays(flat, logits_PD.shape[1]).cast(pa.list_(pa.float32()))
    ids = pa.nulls(count, pa.int64()) if pool.sample_ids_P is None else pa.array(pool.sample_ids_P, pa.int64())
    texts = {"inputs": pool.kind, "inputs_of": inputs_of, "role": role, "name": name}
    columns = {key: pa.array([text] * count, pa.string()) for key, text in texts.items()}
    return pa.table({**columns, "input": pa.array(np.arange(count)), "sample_id": ids, "logits": logits})


def write_inputs(folder: Path, inputs: dict[str, npt.NDArray[np.float32]]) -> Path | None:
    """Writes `synthesised.parquet`, the inputs that were made from each student; None where there are none.

    Columns: `student`, `input`, `pixels`: the image as networks get it, normalised, flattened from [C, H, W].

    Raises:
        StudyError: when it cannot be written.
    """
    tables = []
    for name, images_PCHW in inputs.items():
        count = len(images_PCHW)
        flat = pa.array(np.ascontiguousarray(images_PCHW).ravel(), pa.float32())
        pixels = pa.FixedSizeListArray.from_arrays(flat, images_PCHW[0].size).cast(pa.list_(pa.float32()))
        columns = {"student": pa.array([name] * count, pa.string()), "input": pa.array(np.arange(count))}
        tables.append(pa.table({**columns, "pixels": pixels}))
    if not tables:
        return None
    path = folder / "synthesised.parquet"
    write_table(path, pa.concat_tables(tables))
    return path
