"""The CIFAR residual networks with three stages, with the published state-dict keys.

References:
    He et al., CVPR 2016, arXiv 1512.03385, section 4.2; the x4 variants and the 1x1 convolution shortcuts are those
    of RepDistiller (arXiv 1910.10699) and mdistiller, whose checkpoints load here.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from akdtune.networks._pooled import Norms, PooledNetwork, affine, define, halved, kaiming_fan_out
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns its map before the last ReLU and after."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or before != after:
            shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output before its last ReLU, and after."""
        shortcut_BCHW = map_BCHW if self.downsample is None else self.downsample(map_BCHW)
        inner_BCHW = nn.functional.relu(self.bn1(self.conv1(map_BCHW)), inplace=True)
        preact_BCHW = self.bn2(self.conv2(inner_BCHW)) + shortcut_BCHW
        return preact_BCHW, nn.functional.relu(preact_BCHW)


class ResNet(PooledNetwork):
    """A 3x3 stem, three stages of basic blocks at full, half and quarter size, global average, linear layer.

    Stage maps are those of the stem and of each stage's last block; any image size.

    Differs: the stem's pre-ReLU map is the one that goes into its ReLU (published: the one that comes out, twice).
    """

    source = "He et al., CVPR 2016, arXiv 1512.03385, as in RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699)"
    blocks: ClassVar[int]
    """Basic blocks in each stage."""
    widths: ClassVar[tuple[int, int, int, int]]
    """Channels of the stem and of the three stages."""

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        stem, *stages = self.widths
        self.conv1 = nn.Conv2d(inputs.channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = self._layer(stem, stages[0], stride=1)
        self.layer2 = self._layer(stages[0], stages[1], stride=2)
        self.layer3 = self._layer(stages[1], stages[2], stride=2)
        self.fc = nn.Linear(stages[2], inputs.num_classes)
        self.pooled_dim = stages[2]
        sizes = [halved(inputs.size, times) for times in (0, 0, 1, 2)]
        self.stage_shapes = tuple((width, size, size) for width, size in zip(self.widths, sizes, strict=True))
        self.last_map_shape = self.stage_shapes[-1]
        kaiming_fan_out(self)

    def _layer(self, before: int, after: int, stride: int) -> nn.ModuleList:
        first = BasicBlock(before, after, stride)
        return nn.ModuleList([first, *(BasicBlock(after, after, 1) for _ in range(self.blocks - 1))])

    @override
    def stage(self, index: int, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The stem, or the last block's output of a stage."""
        if index == 0:
            preact_BCHW = self.bn1(self.conv1(map_BCHW))
            return preact_BCHW, nn.functional.relu(preact_BCHW)
        for block in (self.layer1, self.layer2, self.layer3)[index - 1]:
            preact_BCHW, map_BCHW = block(map_BCHW)
        return preact_BCHW, map_BCHW

    @override
    def stage_norms(self) -> Norms:
        """The second BatchNorm of each stage's last block."""
        return affine(layer[-1].get_submodule("bn2") for layer in (self.layer1, self.layer2, self.layer3))


def _member(depth: int, parameters: int, widths: tuple[int, int, int, int], suffix: str = "") -> type[ResNet]:
    """Registers one member of the family; depth = 6 * blocks + 2."""
    doc = f"ResNet with {depth} weighted layers and stages of {widths[1]}, {widths[2]} and {widths[3]} channels"
    return define(ResNet, f"resnet{depth}{suffix}", parameters, doc, blocks=(depth - 2) // 6, widths=widths)


NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)
FAMILY = [
    _member(8, 83_892, NARROW),
    _member(14, 181_108, NARROW),
    _member(20, 278_324, NARROW),
    _member(32, 472_756, NARROW),
    _member(44, 667_188, NARROW),
    _member(56, 861_620, NARROW),
    _member(110, 1_736_564, NARROW),
    _member(8, 1_233_540, WIDE, "x4"),
    _member(32, 7_433_860, WIDE, "x4"),
]
