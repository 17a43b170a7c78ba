"""Multiply-adds of a network for one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from akdtune import networks

if TYPE_CHECKING:
    from akdtune.data import InputSpec


def network_macs(network: str | Mapping[str, Any], inputs: InputSpec) -> int:
    """Multiply-adds of all convolutions and linear layers in one forward pass of one image.

    What papers list as a network's FLOPs: BatchNorm, activations, pooling and biases are left out, as there; products
    within an attention are, too. Counted by hooks, because torch's own counter takes seconds to load its compiler.

    Args:
        network: name, or mapping with a name and settings.
        inputs: what the study's networks are built for.
    """
    built = networks.build(network if isinstance(network, str) else dict(network), inputs, 0).eval()
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, made: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        positions = made.shape[2:] if isinstance(layer, nn.Conv2d) else made.shape[1:-1]
        counts.append(weight.numel() * positions.numel())

    for layer in built.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        built(torch.zeros(1, inputs.channels, inputs.size, inputs.size))
    return sum(counts)
