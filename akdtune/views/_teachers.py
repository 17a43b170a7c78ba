"""Several teachers side by side: what all of them say, and the features of those that are equally wide.

Shapes: B batch, M members (the main teacher and further ones), K classes, C feature width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from akdtune.signals import Signals
from akdtune.views import ViewContext


def equally_wide(context: ViewContext) -> tuple[int, ...]:
    """The main teacher (0) and those further ones, counted from 1, whose features are as wide as its own."""
    others = enumerate(context.others_dims, start=1)
    return (0, *(index for index, width in others if width == context.teacher_dim))


def side_by_side(teacher: Signals, with_features: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits of every teacher, [B, M, K], and features of some of them, [B, len(with_features), C]."""
    all_of = (teacher, *teacher.others)
    pooled_BMC = torch.stack([all_of[index].pooled_BC for index in with_features], dim=1)
    return torch.stack([member.logits_BK for member in all_of], dim=1), pooled_BMC
