"""The CIFAR residual networks of the distillation literature, with the published state-dict keys.

References:
    He et al., CVPR 2016, arXiv 1512.03385, section 4.2; the x4 variants and the 1x1 convolution shortcuts are those
    of RepDistiller (arXiv 1910.10699) and mdistiller, whose checkpoints load here.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from akdtune.networks import InputSpec, Network
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Signals


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


class ResNet(Network):
    """A 3x3 stem, three stages of basic blocks at full, half and quarter size, global average, linear layer.

    Class attributes:
        blocks: basic blocks in each stage.
        widths: channels of the stem and of the three stages.
    """

    blocks: ClassVar[int]
    widths: ClassVar[tuple[int, int, int, int]]

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        stem, *stages = self.widths
        self.conv1 = nn.Conv2d(inputs.channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = self._stage(stem, stages[0], stride=1)
        self.layer2 = self._stage(stages[0], stages[1], stride=2)
        self.layer3 = self._stage(stages[1], stages[2], stride=2)
        self.fc = nn.Linear(stages[2], inputs.num_classes)
        self.pooled_dim = stages[2]
        half = (inputs.size + 1) // 2
        sizes = (inputs.size, inputs.size, half, (half + 1) // 2)
        self.stage_shapes = tuple((width, size, size) for width, size in zip(self.widths, sizes, strict=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, before: int, after: int, stride: int) -> nn.ModuleList:
        first = BasicBlock(before, after, stride)
        return nn.ModuleList([first, *(BasicBlock(after, after, 1) for _ in range(self.blocks - 1))])

    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        """Logits and pooled feature; the maps of stem and stages, before and after ReLU, when asked."""
        preact_BCHW = self.bn1(self.conv1(images_BCHW))
        map_BCHW = nn.functional.relu(preact_BCHW)
        after, before = [map_BCHW], [preact_BCHW]
        for layer in (self.layer1, self.layer2, self.layer3):
            for block in layer:
                preact_BCHW, map_BCHW = block(map_BCHW)
            if stages:
                after.append(map_BCHW)
                before.append(preact_BCHW)
        pooled_BC = map_BCHW.mean(dim=(2, 3))
        maps = (tuple(after), tuple(before)) if stages else (None, None)
        return Signals(self.fc(pooled_BC), pooled_BC, *maps)

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K, C] and bias [K] of the last layer."""
        return self.fc.weight, self.fc.bias


def _define(depth: int, widths: tuple[int, int, int, int], suffix: str = "") -> type[ResNet]:
    """Registers one member of the family; depth = 6 * blocks + 2."""
    name = f"resnet{depth}{suffix}"
    doc = f"ResNet with {depth} weighted layers and stages of {widths[1]}, {widths[2]} and {widths[3]} channels."
    fields = {"blocks": (depth - 2) // 6, "widths": widths, "__doc__": doc, "__module__": __name__}
    return register(name)(type(f"ResNet{depth}{suffix}", (ResNet,), fields))


FAMILY = [_define(depth, (16, 16, 32, 64)) for depth in (8, 14, 20, 32, 44, 56, 110)]
WIDE_FAMILY = [_define(depth, (32, 64, 128, 256), "x4") for depth in (8, 32)]
