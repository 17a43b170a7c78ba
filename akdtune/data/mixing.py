"""Mixup and CutMix: one draw of share and partners for each batch, from the counter-based generator.

Shapes: B batch, C channels, H, W height and width (always equal).

References:
    Mixup: Zhang et al., ICLR 2018, arXiv 1710.09412. CutMix: Yun et al., ICCV 2019, arXiv 1905.04899.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from akdtune.randomness import Draw, Stream, below, random_order, unit
from akdtune.settings.data import Augmentation


@dataclass(frozen=True)
class Mix:
    """How the images of one batch are mixed.

    Attributes:
        partner_B: index within the batch of the other image, int64 on the CPU.
        share: of the own image, 0.5..1.
        box: CutMix's part of the image as top, bottom, left, right in pixels; None for Mixup.
        box_is_own: whether the own image is what the box shows.
    """

    partner_B: Tensor
    share: float
    box: tuple[int, int, int, int] | None = None
    box_is_own: bool = False

    def mixed(self, images_BCHW: Tensor) -> Tensor:
        """The images, each mixed with its partner."""
        partners_BCHW = images_BCHW[self.partner_B.to(images_BCHW.device, non_blocking=True)]
        if self.box is None:
            return images_BCHW * self.share + partners_BCHW * (1 - self.share)
        top, bottom, left, right = self.box
        outer, inner = (partners_BCHW, images_BCHW) if self.box_is_own else (images_BCHW, partners_BCHW)
        whole = outer.clone()
        whole[:, :, top:bottom, left:right] = inner[:, :, top:bottom, left:right]
        return whole


def draw_mix(draw: Draw, batch_index: int, batch_size: int, augmentation: Augmentation, size: int) -> Mix | None:
    """The mix of one batch of an epoch; None where nothing is mixed.

    With both alphas set, each batch draws one of the two, equally likely. Differs: the own image is always the one
    with the larger share (the roles are swapped otherwise), which leaves the pairs' distribution as it is.

    Args:
        draw: seed and epoch.
        batch_index: number of the batch within the epoch.
        batch_size: B.
        augmentation: both alphas.
        size: height = width of the images in pixels.
    """
    if not augmentation.mixes:
        return None
    rows = np.arange(batch_size, dtype=np.int64) + (batch_index << 32)
    partner_B = torch.from_numpy(random_order(draw.order_seed, draw.epoch, rows, Stream.PARTNER))
    words = draw.words(rows[:1], Stream.MIX)[:, 0]
    either = augmentation.mixup > 0 and augmentation.cutmix > 0
    cuts = bool(words[0] >> np.uint64(31)) if either else augmentation.cutmix > 0
    share = _beta(augmentation.cutmix if cuts else augmentation.mixup, float(unit(words[1:2])[0]))
    if not cuts:
        return Mix(partner_B, max(share, 1 - share))
    half = (1 - share) ** 0.5 * size / 2
    centre_y, centre_x = below(words[2:], size).tolist()
    top, bottom, left, right = (
        int(min(max(edge, 0), size)) for edge in (centre_y - half, centre_y + half, centre_x - half, centre_x + half)
    )
    covered = (bottom - top) * (right - left) / size**2
    return Mix(partner_B, max(covered, 1 - covered), (top, bottom, left, right), box_is_own=covered > 0.5)


def _beta(alpha: float, probability: float) -> float:
    """Quantile of the beta distribution with both parameters `alpha`."""
    from scipy.special import betaincinv  # late: commands that only list trials do not wait for it

    return float(betaincinv(alpha, alpha, probability))
