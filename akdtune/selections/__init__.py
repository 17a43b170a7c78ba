"""Selections: which rows of a batch are distilled; one file each, registered under the file's name.

A selection reads what student and teacher say about a batch and returns the places of the rows that methods are given.
The student's cross-entropy and the views see all rows. The mean of a method's terms over the kept rows is multiplied by
kept / all, so that its gradient is that of the sum over the kept rows divided by the number of all rows, as in AdaSPEC
(Hu, Guo, Feng, Zhao, 2025, arXiv 2510.19779): a row that is kept pulls as hard as without a selection.

Shapes: B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from akdtune.columns import Column
from akdtune.registry import Component, ComponentSettings, Kind, settings_given
from akdtune.signals import Batch, Signals, Terms

SHARE = 0.4
"""Of the rows of a batch, the default; AdaSPEC's k."""

SELECTED = "selected_train"
"""The column that every selection has."""


class ShareSettings(ComponentSettings):
    """Settings of a selection that keeps a share of each batch."""

    share: float = Field(SHARE, gt=0, le=1, description="of the rows of a batch that are kept, at least one")


@dataclass(frozen=True)
class Selected:
    """What a selection makes of one batch.

    Attributes:
        rows_R: places of the kept rows, ascending, int64.
        measured: scalars for the epoch's row, by column.
    """

    rows_R: Tensor
    measured: Terms = field(default_factory=dict)


class Selection(Component):
    """Contract of a selection.

    Class attributes:
        needs_teacher: whether it reads what the teacher says.
        needs_others: whether it reads further teachers (`teacher.others`).
        reads_labels: whether it reads labels; rows without one are then never kept.
        selects: whether it ever leaves a row out.
        columns: what it measures.
    Attributes:
        capturable: whether a training step with it can be recorded as a CUDA graph, which needs the same number of kept
            rows in every batch of one size.
    """

    kind: ClassVar[Kind] = "selections"
    needs_teacher: ClassVar[bool] = False
    needs_others: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    selects: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column(SELECTED, "share", "rows of training batches that are distilled", section="loss"),
    )
    capturable: bool = True

    def __init__(self, settings: ComponentSettings) -> None:
        self.settings = settings

    @classmethod
    def alone(cls, **settings: Any) -> Self:
        """This selection without a trial, for a notebook.

        Args:
            settings: its own, as in a study's `selection:`; what is not given has its default.

        Raises:
            AkdtuneError: for settings that it does not take.
        """
        return cls(settings_given(cls, settings))

    @classmethod
    def share_of(cls, settings: ComponentSettings) -> float | None:
        """The share of each batch that is kept; None where it differs from batch to batch."""
        share = getattr(settings, "share", None)
        return None if share is None else float(share)

    @classmethod
    def inside(cls, settings: ComponentSettings) -> Mapping[str, Any] | None:
        """The selection that it asks itself, as a setting; None for none."""
        return None

    def select(self, student: Signals, teacher: Signals | None, batch: Batch) -> Selected:
        """The rows that are distilled.

        Args:
            student: what the student says, without a gradient.
            teacher: what the plain teacher says; None where nobody asked it.
            batch: with the selection's own generator.
        """
        raise NotImplementedError


def kept_of(share: float, rows: int) -> int:
    """How many of some rows are kept: the share, rounded, and at least one."""
    return max(1, round(share * rows))


def top_rows(scores_B: Tensor, kept: int) -> Tensor:
    """Places of the highest scores, ascending; of equal ones the first."""
    return scores_B.argsort(descending=True, stable=True)[:kept].sort().values


def log_probabilities(logits_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """Log of the softmax at a temperature, in single precision."""
    return torch.log_softmax(logits_BK.float() / temperature, dim=-1)
