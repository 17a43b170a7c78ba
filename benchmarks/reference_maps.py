"""Losses on stage maps as published, written plainly, for the reference step: at, fitnet, reviewkd, simkd.

Modules that train (regressor, fusions, projection) are copies of the trial's, so that both sides have the same weights;
formulas are written again. Maps of student and teacher have the same sizes here, as those of the measured pairs do.
"""

# Shapes: B batch, C channels, H, W.

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from akdtune.methods import Method
from akdtune.methods.reviewkd import AttentionFusion
from akdtune.signals import Signals

MAPS = ("at", "fitnet", "reviewkd", "simkd")


class PlainMaps(nn.Module):
    """The loss of one method on maps.

    Args:
        name: of the method.
        method: of the trial.
    """

    def __init__(self, name: str, method: Method) -> None:
        super().__init__()
        self.name, self.weight = name, method.weights(1)[name]
        trained = {"fitnet": "regressor", "reviewkd": "fusions", "simkd": "projection"}
        self.trained = copy.deepcopy(method.get_submodule(trained[name])) if name in trained else nn.Sequential()
        self.hint = getattr(method, "from_last", 0)
        self.classifier = (
            [getattr(method, key).clone() for key in ("classifier_KC", "bias_K")] if name == "simkd" else []
        )

    def forward(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
        """The student's logits (with simkd those of the teacher's classifier), and the unweighted loss."""
        if self.name == "simkd":
            assert student.last_map is not None
            projected_BCHW = self.trained(student.last_map)
            weight_KC, bias_K = self.classifier
            logits_BK = functional.linear(
                functional.adaptive_avg_pool2d(projected_BCHW, 1).flatten(1), weight_KC, bias_K
            )
            return logits_BK, functional.mse_loss(projected_BCHW, cast(Tensor, teacher.last_map))
        losses = {"at": self._at, "fitnet": self._fitnet, "reviewkd": self._reviewkd}
        return student.logits_BK, losses[self.name](student, teacher)

    def _at(self, student: Signals, teacher: Signals) -> Tensor:
        assert student.stages is not None and teacher.stages is not None
        maps = [
            [functional.normalize(map_BCHW.pow(2).mean(1).flatten(1)) for map_BCHW in of.stages[1:]]
            for of in (student, teacher)
            if of.stages is not None
        ]
        return torch.stack([(mine - its).pow(2).mean() for mine, its in zip(*maps, strict=True)]).sum()

    def _fitnet(self, student: Signals, teacher: Signals) -> Tensor:
        assert student.stages is not None and teacher.stages is not None
        return functional.mse_loss(self.trained(student.stages[self.hint]), teacher.stages[self.hint])

    def _reviewkd(self, student: Signals, teacher: Signals) -> Tensor:
        assert student.stages is not None and teacher.preact_stages is not None
        mine = [*student.stages[1:], student.pooled_BC[..., None, None]]
        its = [*teacher.preact_stages[1:], teacher.pooled_BC[..., None, None]]
        loss, fused_BCHW = torch.zeros(()), None
        fusions = [cast(AttentionFusion, fusion) for fusion in cast(nn.ModuleList, self.trained)]
        for map_BCHW, teacher_BCHW, fusion in list(zip(mine, its, fusions, strict=True))[::-1]:
            entered_BCHW = fusion.enter(map_BCHW)
            if fused_BCHW is not None:
                assert fusion.attend is not None
                deeper_BCHW = functional.interpolate(fused_BCHW, entered_BCHW.shape[-2:], mode="nearest")
                shares = fusion.attend(torch.cat([entered_BCHW, deeper_BCHW], dim=1))
                height, width = entered_BCHW.shape[-2:]
                entered_BCHW = entered_BCHW * shares[:, 0].view(-1, 1, height, width) + deeper_BCHW * shares[:, 1].view(
                    -1, 1, height, width
                )
            fused_BCHW = entered_BCHW
            loss = loss + self._context(fusion.leave(fused_BCHW), teacher_BCHW)
        return loss

    def _context(self, student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
        """`hcl` of the published code."""
        loss, count, total = functional.mse_loss(student_BCHW, teacher_BCHW), 1.0, 1.0
        for size in (4, 2, 1):
            if size >= student_BCHW.shape[2]:
                continue
            mine, its = (functional.adaptive_avg_pool2d(map_BCHW, size) for map_BCHW in (student_BCHW, teacher_BCHW))
            count /= 2.0
            loss = loss + functional.mse_loss(mine, its) * count
            total += count
        return loss / total
