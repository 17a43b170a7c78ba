"""The same step rounded differently: the student sees the rows of each batch in another order.

What it says is put back in the order of the batch before views, methods and losses see it, so that noise, negatives and
memory banks stay with their images. In exact arithmetic nothing changes; sums over the batch (batch normalisation,
gradients of weights) are rounded differently, from the first step on.

Shapes: B batch (images, windows of tokens, or nodes that are asked about), R rows, L tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from akdtune.randomness import derived_seed
from akdtune.signals import Inputs, Nodes, Signals, Tokens

Forward = Callable[[Inputs, bool], Signals]
"""A network's answer to its inputs, with its maps where asked."""


class InOtherOrder:
    """A network that sees the rows of each batch in another order and answers in theirs.

    Args:
        forward: the network, which must treat every row alike: one that draws random numbers for each row does not.
        rounding: which order; a fixed one for each number of rows.
    """

    def __init__(self, forward: Forward, rounding: int) -> None:
        self._forward, self._rounding = forward, rounding
        self._orders: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, inputs: Inputs, maps: bool) -> Signals:
        """What the network says about a batch, row by row in its order."""
        if isinstance(inputs, Nodes):
            order_B, back_B = self._order(len(inputs), inputs.rows_R.device)
            return self._forward(replace(inputs, rows_R=inputs.rows_R[order_B]), maps).rows(back_B)
        if isinstance(inputs, Tokens):
            order_B, _ = self._order(len(inputs), inputs.ids_BL.device)
            rows_BL = inputs.rows_BL
            row_BL = (rows_BL.flatten().cumsum(0) - 1).view_as(rows_BL)
            back_R = row_BL[order_B][rows_BL[order_B]].argsort()
            return self._forward(Tokens(inputs.ids_BL[order_B], rows_BL[order_B]), maps).rows(back_R)
        order_B, back_B = self._order(len(inputs), inputs.device)
        return self._forward(inputs[order_B], maps).rows(back_B)

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
