"""What trials keep of networks besides rows and state (`record`): names, form and writing of the files.

Per trial, in its directory: `predictions.parquet`, `features.parquet`, `attention.parquet`,
`predictions-augmented.parquet`. Per study and split, under `predictions/`: the same of its teachers, written by the
first trial that ends. Reading: `akdtune.records.recorded`.
"""

# Shapes: N images, K classes, J answers, H, W of a map.

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from akdtune.records.files import write_table
from akdtune.records.number_lists import in_half, list_column, scores_in_half

SplitName = Literal["validation", "test"]
"""The images that a trial is judged by."""

FOLDER = "predictions"
"""Of a study: what its teachers say about judged images."""

PREDICTIONS = "predictions.parquet"
FEATURES = "features.parquet"
ATTENTION = "attention.parquet"
AUGMENTED = "predictions-augmented.parquet"
VALUE, GROUP = "value", "group"
"""Columns of predictions whose rows count otherwise than right or wrong, or are not independent of each other."""

LOG_P_LABEL, TOP_CLASSES, TOP_LOG_P = "log_p_label", "top_ids", "top_log_p"
"""Columns of predictions in place of logits that would be too many; a teacher's end in its number: `top_ids_0`."""

OF_TRIAL = (PREDICTIONS, FEATURES, ATTENTION, AUGMENTED)
"""Files of a trial that has ended, of which all but the first are kept where `record` asks for them."""

VIEWS_KEPT, IMAGE_SIZE, AUGMENTATION = b"akdtune.views", b"akdtune.image_size", b"akdtune.augmentation"
HEIGHT, WIDTH = b"akdtune.height", b"akdtune.width"

FilePath: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = npt.NDArray[np.floating[Any]]
Integers: TypeAlias = npt.NDArray[np.int64]


class Maps(NamedTuple):
    """Attention maps of a network at its own size, not scaled: the last map under its classifier as 1x1 convolution.

    Attributes:
        sum_NHW: summed over all classes.
        predicted_NHW: of the class that the network predicts.
    """

    sum_NHW: Array
    predicted_NHW: Array


def teacher_logits_file(run: FilePath, split: SplitName) -> Path:
    """Logits of the study's teachers on a split."""
    return Path(run) / FOLDER / f"teacher-{split}.parquet"


def teacher_features_file(run: FilePath, split: SplitName) -> Path:
    """Pooled features of the study's teachers on the first images of a split."""
    return Path(run) / FOLDER / f"teacher-features{_behind(split)}.parquet"


def teacher_attention_file(run: FilePath, split: SplitName) -> Path:
    """Attention maps of the study's teachers on the first images of a split."""
    return Path(run) / FOLDER / f"teacher-attention{_behind(split)}.parquet"


def teacher_augmented_file(run: FilePath, augmentation: str, split: SplitName) -> Path:
    """Logits of the study's teachers on a split under an augmentation."""
    return Path(run) / FOLDER / f"teacher-augmented-{augmentation}{_behind(split)}.parquet"


def _behind(split: SplitName) -> str:
    """What tells files about validation images from those about the test set."""
    return "" if split == "test" else f"-{split}"


def teacher_files(run: FilePath, split: SplitName) -> list[Path]:
    """What a study holds of its teachers on a split."""
    named = sorted((Path(run) / FOLDER).glob("teacher-*.parquet"))
    whole = (path for path in named if "." not in path.stem)  # what was put aside is called so
    return [path for path in whole if path.stem.endswith("-validation") == (split == "validation")]


# ------------------------------------------------------------------------------------------------------------ writing


def write_trial_logits(
    path: FilePath,
    sample_ids_N: Integers,
    labels_N: Integers,
    logits_NK: Array,
    *,
    half: bool = False,
    views: Sequence[Array] | None = None,
    answers_NJK: Array | None = None,
    augmentation: str | None = None,
    values_N: Array | None = None,
    groups_N: Integers | None = None,
) -> None:
    """Writes a student's logits: `sample_id`, `label`, `logits`, and where given `value`, `group`, `view_1`, ... and
    `answers`.

    Args:
        path: the file, replaced as a whole.
        sample_ids_N: global ids of the images.
        labels_N: their true classes.
        logits_NK: float32, one row per image.
        half: keeps the logits in float16; see `scores_in_half`.
        views: log-probabilities [N, K] of each view at temperature 1; None: not asked for.
        answers_NJK: logits of every answer of a network that gives several.
        augmentation: what the images went through, for logits on augmented ones.
        values_N: what each row contributes to the study's metric, whose value is their mean; None where that follows
            from logits and label: 100 or 0, whether the largest logit is the label's.
        groups_N: what rows are drawn together where others are drawn, such as the tokens of a text; None: each alone.

    Raises:
        StudyError: when the file cannot be written.
    """
    logits_NK = scores_in_half(logits_NK) if half else logits_NK.astype(np.float32)
    columns = {"logits": logits_NK}
    columns |= {f"view_{index}": scores_in_half(view_NK) for index, view_NK in enumerate(views or (), start=1)}
    if answers_NJK is not None:
        columns["answers"] = in_half(answers_NJK.reshape(len(answers_NJK), -1))
    about = {} if views is None else {VIEWS_KEPT: str(len(views))}
    about |= {} if augmentation is None else {AUGMENTATION: augmentation}
    of_rows: dict[str, pa.Array] = {} if values_N is None else {VALUE: pa.array(values_N, pa.float32())}
    of_rows |= {} if groups_N is None else {GROUP: pa.array(groups_N, pa.int64())}
    _write(path, sample_ids_N, labels_N, columns, about, of_rows=of_rows)


class TopClasses(NamedTuple):
    """What is kept of predictions whose logits would be too many.

    Attributes:
        log_p_label_N: log-probability of each row's label.
        classes_NT: its likeliest classes, the likeliest first, int32.
        log_p_NT: their log-probabilities.
    """

    log_p_label_N: Array
    classes_NT: npt.NDArray[np.int32]
    log_p_NT: Array


def write_trial_tops(
    path: FilePath,
    sample_ids_N: Integers,
    labels_N: Integers,
    tops: TopClasses,
    *,
    half: bool = False,
    values_N: Array | None = None,
    groups_N: Integers | None = None,
) -> None:
    """Writes a student's likeliest classes in place of logits: `sample_id`, `label`, where given `value` and `group`,
    then `log_p_label`, `top_ids` and `top_log_p`.

    Args:
        path: the file, replaced as a whole.
        sample_ids_N: global ids of the rows.
        labels_N: their true classes.
        tops: of the student.
        half: keeps the log-probabilities in float16.
        values_N: as of `write_trial_logits`.
        groups_N: as there.

    Raises:
        StudyError: when the file cannot be written.
    """
    of_rows: dict[str, pa.Array] = {} if values_N is None else {VALUE: pa.array(values_N, pa.float32())}
    of_rows |= {} if groups_N is None else {GROUP: pa.array(groups_N, pa.int64())}
    numbers, lists = _tops(tops, "", half)
    _write(path, sample_ids_N, labels_N, lists, of_rows={**of_rows, **numbers})


def write_teacher_tops(path: FilePath, sample_ids_N: Integers, labels_N: Integers, tops: Sequence[TopClasses]) -> None:
    """Writes the likeliest classes of every teacher, the main one first, in float16.

    Raises:
        StudyError: when the file cannot be written.
    """
    parts = [_tops(of, f"_{index}", half=True) for index, of in enumerate(tops)]
    numbers = {name: column for of_rows, _ in parts for name, column in of_rows.items()}
    lists = {name: values_NT for _, of_lists in parts for name, values_NT in of_lists.items()}
    _write(path, sample_ids_N, labels_N, lists, of_rows=numbers)


def _tops(tops: TopClasses, behind: str, half: bool) -> tuple[dict[str, pa.Array], dict[str, npt.NDArray[Any]]]:
    """Columns with one number a row, and those with several."""
    log_p_label_N, log_p_NT = (in_half(values) if half else values for values in (tops.log_p_label_N, tops.log_p_NT))
    return (
        {f"{LOG_P_LABEL}{behind}": pa.array(log_p_label_N)},
        {f"{TOP_CLASSES}{behind}": tops.classes_NT, f"{TOP_LOG_P}{behind}": log_p_NT},
    )


def write_teacher_logits(
    path: FilePath, sample_ids_N: Integers, labels_N: Integers, logits: Sequence[Array], augmentation: str | None = None
) -> None:
    """Writes the logits [N, K] of every teacher, the main one first, as `logits_0`, ... in float16.

    Raises:
        StudyError: when the file cannot be written.
    """
    columns = {f"logits_{index}": scores_in_half(logits_NK) for index, logits_NK in enumerate(logits)}
    _write(path, sample_ids_N, labels_N, columns, {} if augmentation is None else {AUGMENTATION: augmentation})


def write_features(path: FilePath, sample_ids_N: Integers, features: Mapping[str, Array]) -> None:
    """Writes pooled features [N, C] in float16.

    Args:
        path: the file, replaced as a whole.
        sample_ids_N: global ids of the images.
        features: by column: `student`, `view_1`, ...; of teachers `features_0`, ....

    Raises:
        StudyError: when the file cannot be written.
    """
    _write(path, sample_ids_N, None, {name: in_half(values_NC) for name, values_NC in features.items()})


def write_attention(path: FilePath, sample_ids_N: Integers, image_size: int, maps: Mapping[str, Maps]) -> None:
    """Writes attention maps in float16, two columns each, with height and width in their metadata.

    Args:
        path: the file, replaced as a whole.
        sample_ids_N: global ids of the images.
        image_size: height = width of the images in pixels, which the maps are scaled to when they are read.
        maps: by whose they are: `student`, `view_1`, ..., `teacher_0`, ....

    Raises:
        StudyError: when the file cannot be written.
    """
    columns: dict[str, Array] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for whose, of in maps.items():
        for kind, map_NHW in zip(Maps._fields, of, strict=True):
            name = map_column(whose, kind.removesuffix("_NHW"))
            columns[name] = in_half(map_NHW.reshape(len(map_NHW), -1))
            shapes[name] = (map_NHW.shape[1], map_NHW.shape[2])
    _write(path, sample_ids_N, None, columns, {IMAGE_SIZE: str(image_size)}, shapes)


def map_column(whose: str, kind: str) -> str:
    """The column of a map: `sum`, `view_1_sum`, `sum_0` of a teacher; kind is sum or predicted."""
    if whose == "student":
        return kind
    return f"{kind}_{whose.removeprefix('teacher_')}" if whose.startswith("teacher_") else f"{whose}_{kind}"


def _write(
    path: FilePath,
    sample_ids_N: Integers,
    labels_N: Integers | None,
    lists: Mapping[str, npt.NDArray[Any]],
    about: Mapping[bytes, str] | None = None,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    of_rows: Mapping[str, pa.Array] | None = None,
) -> None:
    whole = {"sample_id": sample_ids_N} | ({} if labels_N is None else {"label": labels_N})
    plain = {name: pa.array(values_N, pa.int64()) for name, values_N in whole.items()} | dict(of_rows or {})
    arrays = list(plain.values())
    fields = [pa.field(name, array.type) for name, array in plain.items()]
    for name, values_NX in lists.items():
        arrays.append(list_column(values_NX))
        sized = None if shapes is None else dict(zip((HEIGHT, WIDTH), map(str, shapes[name]), strict=True))
        fields.append(pa.field(name, arrays[-1].type, metadata=sized))
    write_table(path, pa.table(arrays, schema=pa.schema(fields, metadata=dict(about or {}) or None)))
