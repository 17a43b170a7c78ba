"""Multiply-adds of a network for one image, counted by torch's own counter of floating-point operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from akdtune import networks

if TYPE_CHECKING:
    from akdtune.data import InputSpec


def network_macs(network: str | Mapping[str, Any], inputs: InputSpec) -> int:
    """Multiply-adds of convolutions, linear layers and attention in one forward pass of one image.

    What papers list as a network's FLOPs; BatchNorm, activations and pooling are left out, as there.

    Args:
        network: name, or mapping with a name and settings.
        inputs: what the study's networks are built for.
    """
    named = network if isinstance(network, str) else dict(network)
    built = networks.build(named, inputs, 0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(torch.zeros(1, inputs.channels, inputs.size, inputs.size))
    return int(counter.get_total_flops()) // 2
