"""A small plain convolutional network for small images: quick to train on a CPU."""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from akdtune.errors import AkdtuneError
from akdtune.networks import InputSpec, Network
from akdtune.registry import ComponentSettings, register
from akdtune.signals import Signals


@register("cnn")
class CNN(Network):
    """One 3x3 convolution, BatchNorm and ReLU per width, 2x2 max-pooling between, global average, linear layer.

    Stage maps are the outputs of the ReLUs, before the pooling.
    """

    class Settings(ComponentSettings):
        """Widths of the convolutions, from the image on."""

        widths: list[PositiveInt] = Field([16, 32, 64], min_length=1, description="channels of each convolution")

    def __init__(self, settings: Settings, inputs: InputSpec) -> None:
        """Builds the network.

        Raises:
            AkdtuneError: when the images are too small to be halved between all convolutions.
        """
        super().__init__(settings, inputs)
        widths = settings.widths
        sizes = [inputs.size >> stage for stage in range(len(widths))]
        if sizes[-1] < 1:
            raise AkdtuneError(
                f"network cnn: {len(widths)} widths halve images of {inputs.size} pixels below one pixel "
                f"(allowed: at most {inputs.size.bit_length()} widths)"
            )
        channels = [inputs.channels, *widths]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.fc = nn.Linear(widths[-1], inputs.num_classes)
        self.pooled_dim = widths[-1]
        self.stage_shapes = tuple((width, size, size) for width, size in zip(widths, sizes, strict=True))
        for module in self.convs.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        """Logits and pooled feature; every ReLU's map, and what goes into it, when asked."""
        map_BCHW = images_BCHW
        after: list[Tensor] = []
        before: list[Tensor] = []
        for stage, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if stage > 0:
                map_BCHW = nn.functional.max_pool2d(map_BCHW, 2)
            preact_BCHW = norm(conv(map_BCHW))
            map_BCHW = nn.functional.relu(preact_BCHW)
            if stages:
                after.append(map_BCHW)
                before.append(preact_BCHW)
        pooled_BC = map_BCHW.mean(dim=(2, 3))
        maps = (tuple(after), tuple(before)) if stages else (None, None)
        return Signals(self.fc(pooled_BC), pooled_BC, *maps)

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K, C] and bias [K] of the last layer."""
        return self.fc.weight, self.fc.bias
