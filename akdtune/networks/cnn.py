"""A small plain convolutional network for small images: quick to train on a CPU."""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.networks._pooled import Norms, PooledNetwork, affine, kaiming_fan_out
from akdtune.registry import ComponentSettings, register
from akdtune.signals import InputSpec


@register("cnn")
class CNN(PooledNetwork):
    """One 3x3 convolution, BatchNorm and ReLU per width, 2x2 max-pooling between, global average, linear layer.

    Stage maps are the outputs of the ReLUs, before the pooling.
    """

    source = "akdtune's own, from no paper"

    class Settings(ComponentSettings):
        """Widths of the convolutions, from the image on."""

        widths: list[Annotated[int, Field(gt=0, le=8192)]] = Field(
            [16, 32, 64], min_length=1, description="channels of each convolution"
        )

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
        self.last_map_shape = self.stage_shapes[-1]
        kaiming_fan_out(self)

    @override
    def stage(self, index: int, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into a ReLU and what comes out, from the map before it is pooled."""
        if index > 0:
            map_BCHW = nn.functional.max_pool2d(map_BCHW, 2)
        preact_BCHW = self.norms[index](self.convs[index](map_BCHW))
        return preact_BCHW, nn.functional.relu(preact_BCHW)

    @override
    def stage_norms(self) -> Norms:
        """Every BatchNorm but the first."""
        return affine(self.norms[1:])
