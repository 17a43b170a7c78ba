"""The ImageNet residual networks in their CIFAR form: a 3x3 stem without pooling, four stages, published keys.

References:
    He et al., CVPR 2016, arXiv 1512.03385, table 1, with the stem of small images used by RepDistiller
    (arXiv 1910.10699) and mdistiller, whose checkpoints load here.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from akdtune.networks._pooled import Norms, PooledNetwork, affine, define, halved, kaiming_fan_out
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec

PLANES = (64, 128, 256, 512)


class Block(nn.Module):
    """A residual block of two 3x3 convolutions, or with a bottleneck of 1x1, 3x3 and 1x1; the 3x3 one has the stride.

    Args:
        before: channels of the map that comes in.
        planes: channels inside; a bottleneck returns four times as many.
        stride: 1 or 2.
        bottleneck: which of the two kinds.
    """

    def __init__(self, before: int, planes: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        after = 4 * planes if bottleneck else planes
        layers = [(before, planes, 3, stride), (planes, planes, 3, 1)]
        if bottleneck:
            layers = [(before, planes, 1, 1), (planes, planes, 3, stride), (planes, after, 1, 1)]
        self.depth = len(layers)
        for number, (inside, outside, kernel, step) in enumerate(layers, start=1):
            conv = nn.Conv2d(inside, outside, kernel, stride=step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(outside))
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output before its last ReLU, and after."""
        inner_BCHW = map_BCHW
        for number in range(1, self.depth + 1):
            if number > 1:
                inner_BCHW = nn.functional.relu(inner_BCHW, inplace=True)
            inner_BCHW = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(inner_BCHW))
        preact_BCHW = inner_BCHW + self.shortcut(map_BCHW)
        return preact_BCHW, nn.functional.relu(preact_BCHW)

    def last_norm(self) -> nn.Module:
        """The BatchNorm before the shortcut is added."""
        return self.get_submodule(f"bn{self.depth}")


class FourStageResNet(PooledNetwork):
    """A 3x3 stem of 64 channels, four stages from full to an eighth of the size, global average, linear layer.

    Stage maps are those of the stem and of each stage's last block; any image size.

    Differs: the stem's pre-ReLU map is the one that goes into its ReLU (published: the one that comes out, twice).
    """

    source = "He et al., CVPR 2016, arXiv 1512.03385, as in RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699)"
    last_layer = "linear"
    blocks: ClassVar[tuple[int, int, int, int]]
    """Blocks in each stage."""
    bottleneck: ClassVar[bool]
    """Whether blocks are bottlenecks."""

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        self.conv1 = nn.Conv2d(inputs.channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = [64]
        for number, (planes, blocks) in enumerate(zip(PLANES, self.blocks, strict=True), start=1):
            after = 4 * planes if self.bottleneck else planes
            first = Block(widths[-1], planes, 1 if number == 1 else 2, self.bottleneck)
            rest = (Block(after, planes, 1, self.bottleneck) for _ in range(blocks - 1))
            self.add_module(f"layer{number}", nn.ModuleList([first, *rest]))
            widths.append(after)
        self.linear = nn.Linear(widths[-1], inputs.num_classes)
        self.pooled_dim = widths[-1]
        sizes = [halved(inputs.size, times) for times in (0, 0, 1, 2, 3)]
        self.stage_shapes = tuple((width, size, size) for width, size in zip(widths, sizes, strict=True))
        self.last_map_shape = self.stage_shapes[-1]
        kaiming_fan_out(self)

    @override
    def stage(self, index: int, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The stem, or the last block's output of a stage."""
        if index == 0:
            preact_BCHW = self.bn1(self.conv1(map_BCHW))
            return preact_BCHW, nn.functional.relu(preact_BCHW)
        for block in self._layer(index):
            preact_BCHW, map_BCHW = block(map_BCHW)
        return preact_BCHW, map_BCHW

    @override
    def stage_norms(self) -> Norms:
        """The last BatchNorm of each stage's last block."""
        return affine(self._layer(number)[-1].last_norm() for number in (1, 2, 3, 4))

    def _layer(self, number: int) -> list[Block]:
        return [block for block in self.get_submodule(f"layer{number}").children() if isinstance(block, Block)]


def _member(depth: int, parameters: int, blocks: tuple[int, int, int, int], bottleneck: bool) -> type[FourStageResNet]:
    kind = "bottlenecks" if bottleneck else "basic blocks"
    doc = f"ResNet-{depth} in its form for small images, four stages of {kind}"
    return define(FourStageResNet, f"ResNet{depth}", parameters, doc, blocks=blocks, bottleneck=bottleneck)


FAMILY = [
    _member(18, 11_220_132, (2, 2, 2, 2), bottleneck=False),
    _member(34, 21_328_292, (3, 4, 6, 3), bottleneck=False),
    _member(50, 23_705_252, (3, 4, 6, 3), bottleneck=True),
]
