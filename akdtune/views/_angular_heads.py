"""The view heads of Angular-KD, all of them at once: dropout, linear map, batch norm, linear classifier.

Shapes: B batch, V views, C feature width, K classes.

References: arXiv 2510.22480; initialisation as in the released code (models/teacher_aug.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from akdtune.errors import AkdtuneError
from akdtune.signals import Views

NORM_MOMENTUM = 0.1
NORM_EPSILON = 1e-5


class ViewHeads(nn.Module):
    """V heads that each map the teacher's pooled feature to a view feature and view logits.

    view feature = batch norm(dropout_v(feature) W_v + b_v), view logits = feature_v U_v + c_v. All heads run as one
    batched product; one batch norm sees them as V * C channels.

    Args:
        dropout_V: dropout rate of each head; their number is the number of heads.
        orthogonal: column r of W_i is orthogonal to column r of every other head's (columns within one head are not
            orthogonal to each other); else columns are drawn independently, of length 1 as well.
        norm_init: `standard`: scale 1, shift 0; `released`: one scale and one shift per head, both drawn from
            N(1 - 0.1 i, 0.1 + 0.1 i) for head i (counted from 0, the sixth head's numbers from there on).
        generator: source of the initial weights (CPU).
    """

    running_mean_VC: Tensor
    running_var_VC: Tensor
    keep_V: Tensor

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        dropout_V: Sequence[float],
        orthogonal: bool,
        norm_init: Literal["standard", "released"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        views = len(dropout_V)
        if orthogonal and views > feature_dim:
            raise AkdtuneError(
                f"views.num_views: {views} views cannot be orthogonal in {feature_dim} dimensions (the teacher's pooled"
                f" feature); use at most {feature_dim}, or heads_orthogonal: false"
            )
        # both maps are stored input-first, the layout in which a batched product gives their gradient without a copy
        self.weight_VCC = nn.Parameter(_weights_VCC(views, feature_dim, orthogonal, generator))
        bound = feature_dim**-0.5  # torch's default bias of a linear layer
        self.bias_VC = nn.Parameter(torch.empty(views, feature_dim).uniform_(-bound, bound, generator=generator))
        scale_V, shift_V = _norm_V(views, norm_init, generator)
        self.norm_scale_VC = nn.Parameter(scale_V[:, None].repeat(1, feature_dim))
        self.norm_shift_VC = nn.Parameter(shift_V[:, None].repeat(1, feature_dim))
        self.register_buffer("running_mean_VC", torch.zeros(views, feature_dim))
        self.register_buffer("running_var_VC", torch.ones(views, feature_dim))
        xavier = (6 / (feature_dim + num_classes)) ** 0.5
        classifier_VCK = torch.empty(views, feature_dim, num_classes).uniform_(-xavier, xavier, generator=generator)
        self.classifier_VCK = nn.Parameter(classifier_VCK)
        self.classifier_bias_VK = nn.Parameter(torch.zeros(views, num_classes))
        self.register_buffer("keep_V", 1 - torch.tensor(list(dropout_V)), persistent=False)

    def forward(self, pooled_BC: Tensor, train: bool, generator: torch.Generator | None = None) -> Views:
        """The views of a batch of teacher features.

        Args:
            pooled_BC: pooled features of the teacher.
            train: dropout and batch statistics (running statistics move), else neither.
            generator: source of the dropout masks; needed when `train`.
        """
        batch, width = pooled_BC.shape
        views = len(self.keep_V)
        if train:
            input_VBC = self.dropped_VBC(pooled_BC, generator)
            mixed_VBC = torch.baddbmm(self.bias_VC.unsqueeze(1), input_VBC, self.weight_VCC)
            mixed_BX = mixed_VBC.transpose(0, 1).reshape(batch, views * width)  # X = V * C channels
        else:  # all heads see the same input: one product, in the layout that batch norm wants
            weight_CX = self.weight_VCC.transpose(0, 1).reshape(width, views * width)
            mixed_BX = torch.addmm(self.bias_VC.view(-1), pooled_BC, weight_CX)
        pooled_BX = functional.batch_norm(
            mixed_BX,
            self.running_mean_VC.view(-1),
            self.running_var_VC.view(-1),
            self.norm_scale_VC.view(-1),
            self.norm_shift_VC.view(-1),
            training=train,
            momentum=NORM_MOMENTUM,
            eps=NORM_EPSILON,
        )
        pooled_BVC = pooled_BX.view(batch, views, width)
        pooled_VBC = pooled_BVC.transpose(0, 1)
        logits_VBK = torch.baddbmm(self.classifier_bias_VK.unsqueeze(1), pooled_VBC, self.classifier_VCK)
        return Views(logits_VBK.transpose(0, 1), pooled_BVC)

    def dropped_VBC(self, pooled_BC: Tensor, generator: torch.Generator | None) -> Tensor:
        """The pooled feature under each head's own dropout."""
        keep_V11 = self.keep_V[:, None, None].to(pooled_BC.dtype)
        draws_VBC = torch.rand(
            (len(keep_V11), *pooled_BC.shape), generator=generator, device=pooled_BC.device, dtype=pooled_BC.dtype
        )
        return draws_VBC.lt_(keep_V11).div_(keep_V11).mul_(pooled_BC)


def _weights_VCC(views: int, width: int, orthogonal: bool, generator: torch.Generator) -> Tensor:
    """For each output channel V vectors of length 1 over the inputs, orthogonal to each other or independent."""
    normal_CCV = torch.randn(width, width, views, generator=generator)  # output channel, input, view
    vectors_CCV = torch.linalg.qr(normal_CCV).Q if orthogonal else functional.normalize(normal_CCV, dim=1)
    return vectors_CCV.permute(2, 1, 0).contiguous()


def _norm_V(views: int, init: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if init == "standard":
        return torch.ones(views), torch.zeros(views)
    head_V = torch.arange(views).clamp_max(5)
    mean_V, deviation_V = 1.0 - 0.1 * head_V, 0.1 + 0.1 * head_V
    scale_V = mean_V + deviation_V * torch.randn(views, generator=generator)
    return scale_V, mean_V + deviation_V * torch.randn(views, generator=generator)
