"""Rows that the teacher is sure of.

Shapes: B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator
from typing_extensions import override

from akdtune.registry import ComponentSettings, register
from akdtune.selections import SHARE, Selected, Selection, kept_of, log_probabilities, top_rows
from akdtune.signals import Batch, Signals


class ConfidenceSettings(ComponentSettings):
    """Settings of `confidence`: a share or a threshold."""

    share: float | None = Field(
        None, gt=0, le=1, description=f"of the rows of a batch that are kept, at least one; {SHARE} without a threshold"
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="least probability of the teacher's most likely class; instead of share"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("share") is not None or values.get("threshold") is not None:
            return values
        return {**values, "share": SHARE}

    @model_validator(mode="after")
    def _one_of_both(self) -> ConfidenceSettings:
        if self.share is not None and self.threshold is not None:
            raise ValueError("share and threshold both say which rows are kept: give one of them")
        return self


@register("confidence")
class Confidence(Selection):
    """The rows for which the teacher's largest probability is highest: a share of each batch, or all above a threshold.

    The probabilities are those of temperature 1. With a threshold the number of rows differs from batch to batch; a
    batch without any costs the student's cross-entropy alone.

    Differs: from FixMatch, which takes the most likely class of such rows for a label; here they are distilled as by
        the method.

    Example:
        >>> confidence = Confidence.alone(threshold=0.9)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> rows = confidence.select(student, teacher, Batch.of(torch.arange(8))).rows_R
    """

    source = "Sohn et al. (FixMatch), NeurIPS 2020, arXiv 2001.07685 (the threshold)"
    Settings = ConfidenceSettings
    needs_teacher = True

    def __init__(self, settings: ConfidenceSettings) -> None:
        super().__init__(settings)
        self.share, self.threshold = settings.share, settings.threshold
        self.capturable = settings.threshold is None

    @override
    def select(self, student: Signals, teacher: Signals | None, batch: Batch) -> Selected:
        """Where the teacher is surest."""
        assert teacher is not None, "refused where there is no teacher"
        surest_B = log_probabilities(teacher.logits_BK).max(dim=-1).values.exp()
        if self.threshold is not None:
            return Selected((surest_B >= self.threshold).nonzero().squeeze(1))
        assert self.share is not None
        return Selected(top_rows(surest_B, kept_of(self.share, len(surest_B))))
