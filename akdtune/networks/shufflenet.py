"""ShuffleNet V1 and V2 for small images, with the published state-dict keys.

References:
    V1: Zhang et al., CVPR 2018, arXiv 1707.01083, with 3 groups. V2: Ma et al., ECCV 2018, arXiv 1807.11164, at width
    1. Stems of one 1x1 convolution and stages as in RepDistiller (arXiv 1910.10699) and mdistiller, whose checkpoints
    load here. Both keep torch's initialisation, as published.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from typing_extensions import override

from akdtune.networks._pooled import Norms, PooledNetwork, affine, define, halved
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec

STEM_WIDTH = 24


def shuffled(tensor: Tensor, groups: int) -> Tensor:
    """The second of two dimensions or more with its groups interleaved: 0 1 2 | 3 4 5 becomes 0 3 1 4 2 5."""
    batch, channels = tensor.shape[:2]
    return tensor.reshape(batch, groups, channels // groups, *tensor.shape[2:]).transpose(1, 2).flatten(1, 2)


def _pointwise(before: int, after: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 1, groups=groups, bias=False)


def _depthwise(width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)


class GroupedBlock(nn.Module):
    """Grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1; added to the input, or beside its average at stride 2."""

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        branch = after - before if stride == 2 else after
        inner = branch // 4
        # The first block of all has too few channels to be grouped at its entry.
        self.groups = 1 if before == STEM_WIDTH else groups
        self.conv1 = _pointwise(before, inner, self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _depthwise(inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _pointwise(inner, branch, groups)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output before its last ReLU, and after."""
        inner_BCHW = shuffled(relu(self.bn1(self.conv1(map_BCHW))), self.groups)
        inner_BCHW = relu(self.bn2(self.conv2(inner_BCHW)))
        branch_BCHW = self.bn3(self.conv3(inner_BCHW))
        if self.stride == 2:
            average_BCHW = nn.functional.avg_pool2d(map_BCHW, 3, stride=2, padding=1)
            preact_BCHW = torch.cat([branch_BCHW, average_BCHW], dim=1)
        else:
            preact_BCHW = branch_BCHW + map_BCHW
        return preact_BCHW, relu(preact_BCHW)


class DownBlock(nn.Module):
    """Halves the map: depthwise and 1x1 beside 1x1, depthwise and 1x1, concatenated and shuffled."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        half = after // 2
        self.conv1 = _depthwise(before, 2)
        self.bn1 = nn.BatchNorm2d(before)
        self.conv2 = _pointwise(before, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _pointwise(before, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = _depthwise(half, 2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = _pointwise(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output before its last ReLU, and after."""
        left_BCHW = self.bn2(self.conv2(self.bn1(self.conv1(map_BCHW))))
        inner_BCHW = self.bn4(self.conv4(relu(self.bn3(self.conv3(map_BCHW)))))
        right_BCHW = self.bn5(self.conv5(inner_BCHW))
        preact_BCHW = shuffled(torch.cat([left_BCHW, right_BCHW], dim=1), 2)
        return preact_BCHW, relu(preact_BCHW)

    def norms(self, _: Sequence[Tensor]) -> list[Tensor]:
        """Weight and bias [C] of the BatchNorms that the output's channels come out of."""
        return _joined(affine([self.bn2])[0], affine([self.bn5])[0])


class SplitBlock(nn.Module):
    """Half of the channels pass; 1x1, depthwise and 1x1 for the others; concatenated and shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = _pointwise(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = _depthwise(half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _pointwise(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output before its last ReLU, and after; what passes has been rectified already."""
        passed_BCHW, entered_BCHW = map_BCHW.chunk(2, dim=1)
        inner_BCHW = self.bn2(self.conv2(relu(self.bn1(self.conv1(entered_BCHW)))))
        branch_BCHW = self.bn3(self.conv3(inner_BCHW))
        preact_BCHW = shuffled(torch.cat([passed_BCHW, branch_BCHW], dim=1), 2)
        return preact_BCHW, relu(preact_BCHW)

    def norms(self, before: Sequence[Tensor]) -> list[Tensor]:
        """Weight and bias [C] of the BatchNorms that the output's channels come out of, given those of the input."""
        return _joined([parameter_C.chunk(2)[0] for parameter_C in before], affine([self.bn3])[0])


def _joined(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """Numbers of channels [C / 2] of two branches, in the order of a block's output."""
    return [shuffled(torch.cat(pair)[None], 2)[0] for pair in zip(first, second, strict=True)]


class _ShuffleNet(PooledNetwork):
    """What both versions share: the stem and stages of blocks that give their map before and after its ReLU."""

    last_layer = "linear"

    def _add_stages(self, inputs: InputSpec, stages: Sequence[tuple[int, Sequence[nn.Module]]]) -> None:
        """The stem, then for each stage its width and its blocks."""
        self.conv1 = _pointwise(inputs.channels, STEM_WIDTH)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        shapes = [(STEM_WIDTH, inputs.size, inputs.size)]
        for number, (width, blocks) in enumerate(stages, start=1):
            self.add_module(f"layer{number}", nn.ModuleList(blocks))
            size = halved(inputs.size, number)
            shapes.append((width, size, size))
        self.stage_shapes = tuple(shapes)

    def _blocks(self, number: int) -> list[nn.Module]:
        return list(self.get_submodule(f"layer{number}").children())

    @override
    def stage(self, index: int, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The stem, or the last block's output of a stage."""
        if index == 0:
            preact_BCHW = self.bn1(self.conv1(map_BCHW))
            return preact_BCHW, relu(preact_BCHW)
        for block in self._blocks(index):
            preact_BCHW, map_BCHW = block(map_BCHW)
        return preact_BCHW, map_BCHW


class ShuffleNetV1(_ShuffleNet):
    """A 1x1 stem at full size, three stages of grouped blocks (4, 8 and 4), global average, linear layer.

    Any image size.

    Differs: the stem's pre-ReLU map is the one that goes into its ReLU (published: the one that comes out, twice);
    `stage_norms` are the last BatchNorm of each stage's last block (published: none).
    """

    source = "Zhang et al., CVPR 2018, arXiv 1707.01083, as in RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699)"
    groups = 3

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        stages, before = [], STEM_WIDTH
        for width, blocks in ((240, 4), (480, 8), (960, 4)):
            first = GroupedBlock(before, width, 2, self.groups)
            rest = (GroupedBlock(width, width, 1, self.groups) for _ in range(blocks - 1))
            stages.append((width, [first, *rest]))
            before = width
        self._add_stages(inputs, stages)
        self.linear = nn.Linear(before, inputs.num_classes)
        self.pooled_dim = before
        self.last_map_shape = self.stage_shapes[-1]

    @override
    def stage_norms(self) -> Norms:
        """The third BatchNorm of each stage's last block."""
        return affine(self._blocks(number)[-1].get_submodule("bn3") for number in (1, 2, 3))


class ShuffleNetV2(_ShuffleNet):
    """A 1x1 stem at full size, three stages of split blocks (4, 8 and 4), a 1x1 convolution, mean, linear layer.

    `last_map` is the ReLU of the last 1x1 convolution, 1024 channels. Any image size.

    Differs: pre-ReLU maps have the channels in the order of the stage maps (published: before the last shuffle), and
    the stem's is the one that goes into its ReLU (published: the one that comes out, twice). As published, the half
    of the channels that pass the last block are rectified already. `stage_norms` follow each channel back to the
    BatchNorm it came out of (published: none).
    """

    source = "Ma et al., ECCV 2018, arXiv 1807.11164, as in RepDistiller (Tian et al., ICLR 2020, arXiv 1910.10699)"
    last_width = 1024

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        stages, before = [], STEM_WIDTH
        for width, blocks in ((116, 3), (232, 7), (464, 3)):
            stages.append((width, [DownBlock(before, width), *(SplitBlock(width) for _ in range(blocks))]))
            before = width
        self._add_stages(inputs, stages)
        self.conv2 = _pointwise(before, self.last_width)
        self.bn2 = nn.BatchNorm2d(self.last_width)
        self.linear = nn.Linear(self.last_width, inputs.num_classes)
        self.pooled_dim = self.last_width
        self.last_map_shape = (self.last_width, *self.stage_shapes[-1][1:])

    @override
    def last_map(self, map_BCHW: Tensor) -> Tensor:
        """The 1x1 convolution to 1024 channels, after its ReLU."""
        return relu(self.bn2(self.conv2(map_BCHW)))

    @override
    def stage_norms(self) -> Norms:
        """For each channel of a stage's last map the BatchNorm it came out of."""
        of_stages = []
        for number in (1, 2, 3):
            norms: list[Tensor] = []
            for block in self._blocks(number):
                assert isinstance(block, DownBlock | SplitBlock)
                norms = block.norms(norms)
            weight_C, bias_C = norms
            of_stages.append((weight_C, bias_C))
        return tuple(of_stages)


FAMILY = [
    define(ShuffleNetV1, "ShuffleV1", 949_258, "ShuffleNet V1 for small images, 3 groups"),
    define(ShuffleNetV2, "ShuffleV2", 1_355_528, "ShuffleNet V2 for small images, width 1"),
]
