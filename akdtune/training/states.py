"""What a trial's state is made of: deep copies of it, and optimisers that lie in memory as their parameters do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def copied(node: Any) -> Any:
    """A deep copy of a tree of plain containers, tensors and numbers."""
    if isinstance(node, Tensor):
        return node.detach().clone()
    if isinstance(node, Mapping):
        return {key: copied(item) for key, item in node.items()}
    return [copied(item) for item in node] if isinstance(node, list) else node


@torch.no_grad()
def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Momenta as their parameters lie in memory: a fused step goes through both side by side, and a checkpoint of an
    earlier version may hold them otherwise."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
