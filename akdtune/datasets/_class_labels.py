"""Labels as they stand in files, whole numbers or names, to classes 0..K-1: one sorted map for the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.data.store import Labels
from akdtune.errors import DataError, nearest

_SHOWN = 12
"""Labels that a message lists in full."""

Label = int | str
"""A label as it stands in a file."""


@dataclass(frozen=True)
class FileLabels:
    """The labels of one file, by row; all whole numbers or all names."""

    file: Path
    values: Sequence[Label]


@dataclass(frozen=True)
class Classes:
    """What the classes 0..K-1 are called in the files.

    Attributes:
        names: the labels in order; None where they are 0..K-1 themselves.
        count: K.
    """

    names: tuple[Label, ...] | None
    count: int

    @classmethod
    def of(cls, train: Sequence[FileLabels], num_classes: int | None) -> Classes:
        """The classes that training labels name.

        Labels 0..K-1 stay as they are, and so do all below `num_classes` where it is set: then some classes may have
        no image. Others (1..K, with gaps, names) become their places among all that occur, sorted.

        Raises:
            DataError: for labels of two kinds, a number below 0, or another number of labels than `num_classes`.
        """
        _refuse_two_kinds(train)
        for labels in train:
            _refuse_negative(labels)
        found: list[Any] = list(set[Label]().union(*(labels.values for labels in train)))
        names: tuple[Label, ...] = tuple(sorted(found))
        if num_classes is not None:
            if not isinstance(names[0], str) and int(names[-1]) < num_classes:
                return cls(None, num_classes)
            if len(names) != num_classes:
                raise DataError(_wrong_count(train, names, num_classes))
        elif names == tuple(range(len(names))):
            return cls(None, len(names))
        return cls(names, len(names))

    def numbers(self, files: Sequence[FileLabels]) -> Labels:
        """Classes of all rows of some files, int64.

        Raises:
            DataError: naming the first row whose label no training image has.
        """
        known: Sequence[Label] = range(self.count) if self.names is None else self.names
        places = {name: number for number, name in enumerate(known)}
        numbers = []
        for labels in files:
            _refuse_negative(labels)
            for row, value in enumerate(labels.values):
                if (number := places.get(value)) is None:
                    raise DataError(f"{labels.file}: row {row}: {self._unknown(value)}")
                numbers.append(number)
        return np.asarray(numbers, dtype=np.int64)

    def sentences(self, column: str) -> list[str]:
        """What to say where whole numbers are not the classes themselves."""
        if self.names is None or isinstance(self.names[0], str):
            return []
        return [
            f"the labels in '{column}' are {listed(self.names)}: they become classes 0..{self.count - 1} in this "
            "order, so that no class is without training images"
        ]

    def _unknown(self, value: Label) -> str:
        if self.names is None:
            return f"label {value!r} is out of range (allowed: 0..{self.count - 1})"
        close = nearest(str(value), map(str, self.names))
        hint = f"; did you mean '{close}'?" if close and isinstance(value, str) else ""
        return f"label {value!r} has no training image{hint} (allowed: {listed(self.names)})"


def listed(names: Sequence[Label]) -> str:
    """Names in a row, the middle left out where there are many."""
    shown = [str(name) for name in names]
    return ", ".join(shown if len(shown) <= _SHOWN else [*shown[: _SHOWN - 2], "...", shown[-1]])


def _wrong_count(train: Sequence[FileLabels], names: Sequence[Label], num_classes: int) -> str:
    """Which label is too large for the number of classes, or that there are too many or too few names."""
    if isinstance(names[0], str):
        return (
            f"{train[0].file}: data.num_classes is {num_classes}, but {len(names)} different labels occur "
            f"({listed(names)}); leave it out"
        )
    for labels in train:
        for row, value in enumerate(labels.values):
            if int(value) >= num_classes:
                return (
                    f"{labels.file}: row {row}: label {value} is out of range (allowed: 0..{num_classes - 1}; without "
                    "data.num_classes the labels that occur are the classes)"
                )
    raise AssertionError("called where a label is too large")


def _refuse_two_kinds(files: Sequence[FileLabels]) -> None:
    first = next(labels for labels in files if len(labels.values))
    for labels in files:
        if len(labels.values) and isinstance(labels.values[0], str) is not isinstance(first.values[0], str):
            kinds = ("names", "whole numbers") if isinstance(labels.values[0], str) else ("whole numbers", "names")
            raise DataError(f"{labels.file}: labels are {kinds[0]} here, but {kinds[1]} in {first.file}")


def _refuse_negative(labels: FileLabels) -> None:
    if not len(labels.values) or isinstance(labels.values[0], str) or min(map(int, labels.values)) >= 0:
        return
    row = next(row for row, value in enumerate(labels.values) if int(value) < 0)
    raise DataError(f"{labels.file}: row {row}: label {labels.values[row]} is out of range (allowed: 0 and above)")
