"""Wide residual networks for small images, with the published state-dict keys.

References:
    Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146; keys, stages and initialisation as in RepDistiller
    (arXiv 1910.10699) and mdistiller, whose checkpoints load here.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from akdtune.networks._pooled import Norms, PooledNetwork, affine, define, halved, kaiming_fan_out
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec, Signals


class Block(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution, twice, and a shortcut; a 1x1 convolution where the widths differ."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if before != after:
            self.convShortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What went into the first ReLU, and the block's output, which no ReLU follows."""
        normed_BCHW = self.bn1(map_BCHW)
        active_BCHW = nn.functional.relu(normed_BCHW)
        inner_BCHW = nn.functional.relu(self.bn2(self.conv1(active_BCHW)), inplace=True)
        # Pre-activation is shared by both branches where the widths differ; else the shortcut takes the raw map.
        shortcut_BCHW = map_BCHW if self.convShortcut is None else self.convShortcut(active_BCHW)
        return normed_BCHW, self.conv2(inner_BCHW) + shortcut_BCHW


class Stage(nn.Module):
    """Blocks in a row, under the published name `layer`."""

    def __init__(self, before: int, after: int, stride: int, blocks: int) -> None:
        super().__init__()
        first = Block(before, after, stride)
        self.layer = nn.ModuleList([first, *(Block(after, after, 1) for _ in range(blocks - 1))])

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What went into the first block's first ReLU, and the last block's output."""
        entered_BCHW, map_BCHW = self.layer[0](map_BCHW)
        for block in self.layer[1:]:
            _, map_BCHW = block(map_BCHW)
        return entered_BCHW, map_BCHW


class WideResNet(PooledNetwork):
    """Pre-activation blocks in three stages at full, half and quarter size, then BatchNorm, ReLU, mean, linear layer.

    As published, for want of a ReLU at the end of a stage: `stages` are the raw sums that stages end in, and the stem's
    convolution, so they are signed; `preact_stages` are the BatchNorm of that sum which the next block begins with
    (the last: the final BatchNorm), and again the stem's convolution. `last_map` is the ReLU of the final BatchNorm.
    Any image size; no dropout.

    Differs: each of these BatchNorms runs once for a batch, while mdistiller's forward runs it a second time for
    `preact_feats` and so updates its running statistics twice in training.
    """

    source = "Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146"
    depth: ClassVar[int]
    """6 * blocks in a stage + 4."""
    factor: ClassVar[int]
    """Stage widths are 16, 32 and 64 times this."""

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        widths = (16, 16 * self.factor, 32 * self.factor, 64 * self.factor)
        blocks = (self.depth - 4) // 6
        self.conv1 = nn.Conv2d(inputs.channels, widths[0], 3, padding=1, bias=False)
        self.block1 = Stage(widths[0], widths[1], 1, blocks)
        self.block2 = Stage(widths[1], widths[2], 2, blocks)
        self.block3 = Stage(widths[2], widths[3], 2, blocks)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], inputs.num_classes)
        self.pooled_dim = widths[3]
        sizes = [halved(inputs.size, times) for times in (0, 0, 1, 2)]
        self.stage_shapes = tuple((width, size, size) for width, size in zip(widths, sizes, strict=True))
        self.last_map_shape = self.stage_shapes[-1]
        kaiming_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    @override
    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        """Logits and pooled feature; the maps of stem and stages when asked."""
        stem_BCHW = self.conv1(images_BCHW)
        _, first_BCHW = self.block1(stem_BCHW)
        first_normed_BCHW, second_BCHW = self.block2(first_BCHW)
        second_normed_BCHW, third_BCHW = self.block3(second_BCHW)
        third_normed_BCHW = self.bn1(third_BCHW)
        last_BCHW = nn.functional.relu(third_normed_BCHW)
        if not stages:
            return self.answer(last_BCHW, (), ())
        after = [stem_BCHW, first_BCHW, second_BCHW, third_BCHW]
        before = [stem_BCHW, first_normed_BCHW, second_normed_BCHW, third_normed_BCHW]
        return self.answer(last_BCHW, after, before)

    @override
    def stage_norms(self) -> Norms:
        """The BatchNorm that follows each stage."""
        return affine([*(stage.layer[0].get_submodule("bn1") for stage in (self.block2, self.block3)), self.bn1])


def _member(depth: int, factor: int, parameters: int) -> type[WideResNet]:
    widths = f"{16 * factor}, {32 * factor} and {64 * factor}"
    doc = f"Wide ResNet with {depth} weighted layers and stages of {widths} channels"
    return define(WideResNet, f"wrn_{depth}_{factor}", parameters, doc, depth=depth, factor=factor)


FAMILY = [
    _member(16, 1, 180_916),
    _member(16, 2, 703_284),
    _member(40, 1, 569_780),
    _member(40, 2, 2_255_156),
]
