"""Whose labels who was told."""

from __future__ import annotations

from torch import Tensor

from akdtune.data.row_sets import RowSplit
from akdtune.signals import UNLABELLED


def untaught_rows(train: RowSplit) -> Tensor | None:
    """Labelled rows whose label no teacher is told, bool [N]; None where teachers are told all."""
    if not train.some_unlabelled:
        return None
    return (train.training_labels_N != UNLABELLED) & (train.teacher_labels_N == UNLABELLED)
