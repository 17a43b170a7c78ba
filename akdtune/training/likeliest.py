"""What is kept of predictions whose logits would be too many: the label's log-probability and the likeliest classes.

Shapes: R rows, K classes, T likeliest classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from akdtune.data.row_sets import RowSplit
from akdtune.signals import Inputs, Signals

KEPT = 8
"""Of each row the likeliest classes are kept, this many where there are as many."""


@dataclass(frozen=True)
class Likeliest:
    """Of each row, on the CPU.

    Attributes:
        log_p_label_R: log-probability of the label, in nats.
        classes_RT: the likeliest classes, the likeliest first, int32.
        log_p_RT: their log-probabilities.
    """

    log_p_label_R: Tensor
    classes_RT: Tensor
    log_p_RT: Tensor

    @classmethod
    def of(cls, logits_RK: Tensor, labels_R: Tensor) -> Likeliest:
        """Out of all logits."""
        log_p_RK = torch.log_softmax(logits_RK, dim=-1)
        log_p_RT, classes_RT = log_p_RK.topk(min(KEPT, log_p_RK.shape[1]))
        log_p_label_R = log_p_RK.gather(1, labels_R[:, None]).squeeze(1)
        return cls(log_p_label_R.cpu(), classes_RT.int().cpu(), log_p_RT.cpu())

    @classmethod
    def joined(cls, parts: Sequence[Likeliest]) -> Likeliest:
        """Of parts, one behind the other."""
        return cls(
            torch.cat([part.log_p_label_R for part in parts]),
            torch.cat([part.classes_RT for part in parts]),
            torch.cat([part.log_p_RT for part in parts]),
        )


@torch.no_grad()
def likeliest_of(network: Callable[[Inputs], Signals], split: RowSplit) -> Likeliest:
    """What a network, in its present mode, says about a split, of which it is asked a part at a time."""
    with closing(split.plain_batches(split.at_once)) as batches:
        parts = [Likeliest.of(network(inputs).logits_BK, split.labels_N[rows_R]) for rows_R, inputs in batches]
    return Likeliest.joined(parts)
