"""Layers of views whose first weights are drawn from the trial's own generator."""

from __future__ import annotations

import torch
from torch import nn


def drawn_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initial weights, drawn from a generator of the trial's own."""
    with torch.random.fork_rng(devices=[]):  # torch's own draws are overwritten; its skip_init loads sympy
        layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
