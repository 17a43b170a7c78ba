"""MobileNetV2 at half width for small images, with the published state-dict keys.

References:
    Sandler et al., CVPR 2018, arXiv 1801.04381, table 2; strides, stages and initialisation as in RepDistiller
    (arXiv 1910.10699) and mdistiller, whose checkpoints load here.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from akdtune.networks._pooled import Norms, PooledNetwork, affine, define, halved, kaiming_fan_out, small_linear
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec

# Channels at full width, blocks, stride of the first block; one row a group of blocks.
GROUPS = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
STAGES = ((0, 2), (2, 3), (3, 5), (5, 7))
"""Groups of blocks of each stage after the stem, from and up to."""
LAST_WIDTH = 1280


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise and 1x1 projection without a ReLU; a shortcut where the shape stays the same."""

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.adds = stride == 1 and before == after
        self.conv = nn.Sequential(
            nn.Conv2d(before, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The block's output, which is not rectified."""
        out_BCHW: Tensor = self.conv(map_BCHW)
        return map_BCHW + out_BCHW if self.adds else out_BCHW


class HalfMobileNetV2(PooledNetwork):
    """A stem of stride 2, inverted residual blocks, a 1x1 convolution to 1280 channels, global average, linear layer.

    Stage maps are the stem and the linear bottlenecks that the second, third, fifth and seventh group of blocks end in.
    As these have no ReLU, they are signed, and the same in `stages` and `preact_stages`. `last_map` is the ReLU of the
    last 1x1 convolution. Any image size.

    Differs: offers `preact_stages` (mdistiller gives none), so OFD and ReviewKD, which fail there, work here.
    """

    source = (
        "Sandler et al., CVPR 2018, arXiv 1801.04381, as in RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699)"
    )
    last_layer = "classifier.0"
    factor: ClassVar[float]
    """Width of every layer but the last 1x1 convolution, against the paper's."""
    expansion: ClassVar[int]
    """Width inside a block against the width that comes in; 1 in the first block."""

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        before = int(32 * self.factor)
        widths, sizes = [before], [halved(inputs.size, 1)]
        self.conv1 = nn.Sequential(
            nn.Conv2d(inputs.channels, before, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(inplace=True),
        )
        groups = []
        for number, (full_width, blocks, stride) in enumerate(GROUPS):
            after = int(full_width * self.factor)
            group = [Bottleneck(before, after, stride, self.expansion if number > 0 else 1)]
            group += [Bottleneck(after, after, 1, self.expansion) for _ in range(blocks - 1)]
            groups.append(nn.Sequential(*group))
            before = after
            widths.append(after)
            sizes.append(halved(sizes[-1], stride - 1))
        self.blocks = nn.ModuleList(groups)
        self.conv2 = nn.Sequential(
            nn.Conv2d(before, LAST_WIDTH, 1, bias=False), nn.BatchNorm2d(LAST_WIDTH), nn.ReLU(inplace=True)
        )
        self._hold("classifier", nn.Sequential(nn.Linear(LAST_WIDTH, inputs.num_classes)))
        self.pooled_dim = LAST_WIDTH
        self.stage_shapes = tuple((widths[end], sizes[end], sizes[end]) for end in (0, *(end for _, end in STAGES)))
        self.last_map_shape = (LAST_WIDTH, sizes[-1], sizes[-1])
        kaiming_fan_out(self)
        small_linear(self._last_layer())

    @override
    def stage(self, index: int, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The stem before and after its ReLU, or a stage's last linear bottleneck, twice."""
        if index == 0:
            preact_BCHW = self.conv1[1](self.conv1[0](map_BCHW))
            return preact_BCHW, nn.functional.relu(preact_BCHW)
        for group in self.blocks[slice(*STAGES[index - 1])]:
            map_BCHW = group(map_BCHW)
        return map_BCHW, map_BCHW

    @override
    def last_map(self, map_BCHW: Tensor) -> Tensor:
        """The 1x1 convolution to 1280 channels, after its ReLU."""
        last_BCHW: Tensor = self.conv2(map_BCHW)
        return last_BCHW

    @override
    def stage_norms(self) -> Norms:
        """The BatchNorm after each stage's last projection."""
        return affine(self.blocks[end - 1].get_submodule(f"{GROUPS[end - 1][1] - 1}.conv.7") for _, end in STAGES)


FAMILY = [
    define(
        HalfMobileNetV2,
        "MobileNetV2",
        812_836,
        "MobileNetV2 at half width for small images, expansion 6",
        factor=0.5,
        expansion=6,
    )
]
