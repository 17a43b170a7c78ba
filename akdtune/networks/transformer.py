"""A small decoder-only transformer over windows of tokens: quick to train on a CPU."""

# Shapes: B windows, L tokens of a window, H heads, D features of a head, C feature width, R rows, K tokens known.

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt, StrictBool, model_validator
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from akdtune.networks import Network
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Signals, Takes, Tokens, TokenSpec

INIT_STD = 0.02
"""Standard deviation of weights at the start, as in GPT-2."""


class TransformerSettings(ComponentSettings):
    """Width and depth of a decoder."""

    width: PositiveInt = Field(64, le=65536, description="features of a token between layers; a multiple of heads")
    layers: PositiveInt = Field(2, le=1024, description="blocks of attention and two-layer perceptron")
    heads: PositiveInt = Field(2, le=1024, description="attention heads of a block")
    dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings and of what each half of a block adds")
    tied: StrictBool = Field(False, description="the last layer's weights are the token embeddings")

    @model_validator(mode="after")
    def _divisible(self) -> TransformerSettings:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self


@register("transformer")
class Transformer(Network):
    """Token and position embeddings, causal blocks with the norm before each half, a last norm, a linear layer.

    A position sees itself and what stands before it in its window, nothing of other windows. The pooled feature is the
    last hidden state of a row, after the last norm: logits are the last layer's product with it.

    Differs: GPT-2's layout (pre-norm, learned positions, GELU of tanh form, residual weights begun smaller by the root
        of twice the layers) with a bias in the last layer and, unless `tied`, weights of its own there.
    """

    source = "Radford et al., Language Models are Unsupervised Multitask Learners, 2019; Vaswani et al., NeurIPS 2017"
    takes: ClassVar[Takes] = "tokens"
    offers = frozenset()
    Settings = TransformerSettings

    def __init__(self, settings: TransformerSettings, inputs: TokenSpec) -> None:
        super().__init__(settings, inputs)
        width = settings.width
        self.tokens = nn.Embedding(inputs.vocabulary, width)
        self.positions = nn.Embedding(inputs.length, width)
        self.drop = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(_Block(width, settings.heads, settings.dropout) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, inputs.vocabulary)
        self.pooled_dim = width
        self.apply(_begin)
        for name, parameter in self.named_parameters():
            if name.endswith("_out.weight"):
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * settings.layers))
        if settings.tied:
            self.head.weight = self.tokens.weight

    @override
    def forward(self, inputs: Tokens, stages: bool = False) -> Signals:
        """Logits [R, K] and last hidden states [R, C] of the rows; there are no maps."""
        place_L = torch.arange(inputs.ids_BL.shape[1], device=inputs.ids_BL.device)
        hidden_BLC = self.drop(self.tokens(inputs.ids_BL) + self.positions(place_L))
        for block in self.blocks:
            hidden_BLC = block(hidden_BLC)
        hidden_RC = self.norm(hidden_BLC[inputs.rows_BL])
        return Signals(self.head(hidden_RC), hidden_RC)

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        return self.head.weight, self.head.bias


class _Block(nn.Module):
    """Attention to what stands before, then a perceptron of four times the width, each added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    @override
    def forward(self, hidden_BLC: Tensor) -> Tensor:
        hidden_BLC = hidden_BLC + self.drop(self._attended(self.before_attention(hidden_BLC)))
        inner = functional.gelu(self.mlp_in(self.before_mlp(hidden_BLC)), approximate="tanh")
        after_BLC: Tensor = hidden_BLC + self.drop(self.mlp_out(inner))
        return after_BLC

    def _attended(self, normed_BLC: Tensor) -> Tensor:
        batch, length, width = normed_BLC.shape
        parts = self.qkv(normed_BLC).view(batch, length, 3, self.heads, width // self.heads)
        query_BHLD, key_BHLD, value_BHLD = parts.permute(2, 0, 3, 1, 4)
        attended_BHLD = functional.scaled_dot_product_attention(query_BHLD, key_BHLD, value_BHLD, is_causal=True)
        made_BLC: Tensor = self.attention_out(attended_BHLD.transpose(1, 2).reshape(batch, length, width))
        return made_BLC


def _begin(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
