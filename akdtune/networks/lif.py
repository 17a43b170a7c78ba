"""Spiking networks of leaky integrate-and-fire neurons: layers of them for small images, and a residual network.

Shapes: B batch, K classes, C channels or feature width, H, W.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field, StrictBool
from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.networks._pooled import halved, kaiming_fan_out
from akdtune.networks._spiking import Neuron, Run, SpikingNetwork, SpikingSettings
from akdtune.registry import register
from akdtune.signals import InputSpec

PLANES = (64, 128, 256, 512)
"""Channels of the four stages of a residual network."""


def refuse_branches(name: str, asked: int, most: int) -> None:
    """Refuses more exits than there are stages before the last.

    Raises:
        AkdtuneError: naming the network, what was asked and what is allowed.
    """
    if asked > most:
        raise AkdtuneError(
            f"network {name}: branches: there are exits behind the stages before the last, got {asked} "
            f"(allowed: at most {most})"
        )


@register("lif")
class Lif(SpikingNetwork):
    """Linear layers, each with BatchNorm and leaky neurons, and one linear layer that reads the mean rates.

    For small images, whose pixels are taken as a list. A stage is a layer; an exit is a linear layer with ReLU of the
    layer's own width, and one that classifies.

    Differs: from the papers' convolutional networks, for images that need none.
    """

    source = "neurons and rate pass: Zhao, Yu, Yu, Liu, Wang, NeurIPS 2025, arXiv 2510.06254"
    offers = frozenset({"answers"})

    class Settings(SpikingSettings):
        """Settings of `lif`."""

        widths: list[Annotated[int, Field(gt=0, le=8192)]] = Field(
            [64, 64], min_length=1, description="neurons of each layer"
        )
        norm: StrictBool = Field(True, description="a BatchNorm in front of the neurons of each layer")

    def __init__(self, settings: Settings, inputs: InputSpec) -> None:
        """Builds the network.

        Raises:
            AkdtuneError: for more branches than layers before the last.
        """
        super().__init__(settings, inputs)
        refuse_branches("lif", settings.branches, len(settings.widths) - 1)
        widths = [inputs.channels * inputs.size**2, *settings.widths]
        norm = settings.norm
        self.layers = nn.ModuleList(nn.Linear(before, after, bias=not norm) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for width in settings.widths)
        self.neurons = nn.ModuleList(Neuron(settings) for _ in settings.widths)
        self.fc = nn.Linear(widths[-1], inputs.num_classes)
        self.exits = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, inputs.num_classes))
            for width in settings.widths[: settings.branches]
        )
        self.pooled_dim = widths[-1]

    @override
    def stages(self, run: Run, current: Tensor) -> Sequence[Tensor]:
        sent, current = [], current.flatten(1)
        for layer, norm, neuron in zip(self.layers, self.norms, self.neurons, strict=True):
            current = neuron(run.normalised(norm, layer(current)), run)
            sent.append(current)
        return sent

    @override
    def pooled(self, last: Tensor) -> Tensor:
        return last

    @override
    def _last_layer(self) -> nn.Linear:
        return self.fc


class Block(nn.Module):
    """A residual block of two 3x3 convolutions, each with BatchNorm and neurons, the last behind the sum.

    Args:
        settings: of the neurons.
        before: channels of the map that comes in.
        after: channels of the map that goes out.
        stride: 1 or 2.
    """

    def __init__(self, settings: SpikingSettings, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1, self.neuron1 = nn.BatchNorm2d(after), Neuron(settings)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2, self.neuron2 = nn.BatchNorm2d(after), Neuron(settings)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(after))

    def forward(self, map_BCHW: Tensor, run: Run) -> Tensor:
        """What the block sends on."""
        inner_BCHW = self.neuron1(run.normalised(self.bn1, self.conv1(map_BCHW)), run)
        inner_BCHW = run.normalised(self.bn2, self.conv2(inner_BCHW))
        if len(self.shortcut):
            map_BCHW = run.normalised(self.shortcut[1], self.shortcut[0](map_BCHW))
        sent: Tensor = self.neuron2(inner_BCHW + map_BCHW, run)
        return sent


def small_exit(before: int, halvings: int, num_classes: int) -> nn.Sequential:
    """An exit without neurons: 3x3 convolutions of each channel and 1x1 ones between channels, until the last size.

    Args:
        before: channels of the map that it reads.
        halvings: how often it halves the map and doubles the channels.
        num_classes: K.
    """
    layers: list[nn.Module] = []
    for _ in range(halvings):
        for convolution in (
            nn.Conv2d(before, before, 3, stride=2, padding=1, groups=before, bias=False),
            nn.Conv2d(before, 2 * before, 1, bias=False),
        ):
            layers += [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
        before *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))


@register("lif_resnet18")
class LifResNet18(SpikingNetwork):
    """ResNet-18 of leaky neurons for small images: a 3x3 stem of 64 channels, four stages of two blocks, linear layer.

    Stage maps are mean rates of the stem and of each stage's last block; any image size. Exits stand behind the first
    three stages: depth-wise and point-wise convolutions with BatchNorm and ReLU, down to the last stage's size.

    Differs: exits are light networks without neurons, as described; their layers are our choice. The neurons of a block
        stand where He et al. (CVPR 2016, arXiv 1512.03385) have its ReLUs.
    """

    source = "neurons, rate pass and exits: Zhao, Yu, Yu, Liu, Wang, NeurIPS 2025, arXiv 2510.06254"
    offers = frozenset({"stages", "last_map", "answers"})
    first_exit = 1
    blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)

    class Settings(SpikingSettings):
        """Settings of `lif_resnet18`."""

    def __init__(self, settings: Settings, inputs: InputSpec) -> None:
        """Builds the network.

        Raises:
            AkdtuneError: for more than three branches.
        """
        super().__init__(settings, inputs)
        refuse_branches("lif_resnet18", settings.branches, len(PLANES) - 1)
        self.conv1 = nn.Conv2d(inputs.channels, PLANES[0], 3, padding=1, bias=False)
        self.bn1, self.neuron1 = nn.BatchNorm2d(PLANES[0]), Neuron(settings)
        before = PLANES[0]
        self.layers = nn.ModuleList()
        for place, (planes, blocks) in enumerate(zip(PLANES, self.blocks, strict=True)):
            first = Block(settings, before, planes, 1 if place == 0 else 2)
            self.layers.append(nn.ModuleList([first, *(Block(settings, planes, planes, 1) for _ in range(blocks - 1))]))
            before = planes
        self.fc = nn.Linear(PLANES[-1], inputs.num_classes)
        self.exits = nn.ModuleList(
            small_exit(PLANES[place], len(PLANES) - 1 - place, inputs.num_classes) for place in range(settings.branches)
        )
        self.pooled_dim = PLANES[-1]
        sizes = [halved(inputs.size, times) for times in (0, 0, 1, 2, 3)]
        self.stage_shapes = tuple((width, size, size) for width, size in zip((64, *PLANES), sizes, strict=True))
        self.last_map_shape = self.stage_shapes[-1]
        kaiming_fan_out(self)

    @override
    def stages(self, run: Run, current: Tensor) -> Sequence[Tensor]:
        sent = [self.neuron1(run.normalised(self.bn1, self.conv1(current)), run)]
        for blocks in self.layers:
            map_BCHW = sent[-1]
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                map_BCHW = block(map_BCHW, run)
            sent.append(map_BCHW)
        return sent

    @override
    def pooled(self, last: Tensor) -> Tensor:
        return last.mean(dim=(2, 3))

    @override
    def _last_layer(self) -> nn.Linear:
        return self.fc
