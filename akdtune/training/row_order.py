"""The same step rounded differently: the student sees the rows of each batch in another order.

What it says is put back in the order of the batch before views, methods and losses see it, so that noise, negatives and
memory banks stay with their images. In exact arithmetic nothing changes; sums over the batch (batch normalisation,
gradients of weights) are rounded differently, from the first step on.

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from akdtune.randomness import derived_seed
from akdtune.signals import Signals

Forward = Callable[[Tensor, bool], Signals]
"""A network's answer to images [B, C, H, W], with its maps where asked."""


class InOtherOrder:
    """A network that sees the rows of each batch in another order and answers in theirs.

    Args:
        forward: the network, which must treat every row alike: one that draws random numbers for each row does not.
        rounding: which order; a fixed one for each number of rows.
    """

    def __init__(self, forward: Forward, rounding: int) -> None:
        self._forward, self._rounding = forward, rounding
        self._orders: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, images_BCHW: Tensor, maps: bool) -> Signals:
        """What the network says about a batch, row by row in its order."""
        order_B, back_B = self._order(len(images_BCHW), images_BCHW.device)
        return self._forward(images_BCHW[order_B], maps).rows(back_B)

    def _order(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The order [B] and the way back [B]; kept, as a recorded step must find them on its device."""
        key = size, device
        if key not in self._orders:
            generator = torch.Generator().manual_seed(derived_seed("rounding", self._rounding, size))
            order_B = torch.randperm(size, generator=generator)
            if bool((order_B == torch.arange(size)).all()):
                order_B = order_B.flip(0)
            self._orders[key] = order_B.to(device), order_B.argsort().to(device)
        return self._orders[key]
