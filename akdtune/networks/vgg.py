"""VGG networks with BatchNorm for small images, with the published state-dict keys.

References:
    Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, table 1; one linear layer, BatchNorm and the 8-layer variant
    as in RepDistiller (arXiv 1910.10699) and mdistiller, whose checkpoints load here.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.networks._pooled import Norms, PooledNetwork, affine, define, kaiming_fan_out, small_linear
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec

WIDTHS = (64, 128, 256, 512, 512)
LARGE = 64  # pixels from which the fourth block's map is pooled, too


class VGG(PooledNetwork):
    """Five blocks of 3x3 convolution, BatchNorm and ReLU, max-pooling between, global average, linear layer.

    Stage maps are the blocks' outputs before they are pooled. Up to 63 pixels the map is not pooled between the
    fourth and the fifth block, as published for 32 pixels; from 64 on it is, as published for 64.

    Differs: the first block's pre-ReLU map is the one that goes into its ReLU (published: the one that comes out,
    twice).
    """

    source = "Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, as in RepDistiller (ICLR 2020, arXiv 1910.10699)"
    last_layer = "classifier"
    convolutions: ClassVar[tuple[int, int, int, int, int]]
    """Convolutions in each block."""

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        """Builds the network.

        Raises:
            AkdtuneError: for images below 8 pixels, which cannot be halved three times.
        """
        super().__init__(settings, inputs)
        if inputs.size < 8:
            raise AkdtuneError(
                f"network {type(self).__name__}: images of {inputs.size} pixels cannot be halved three times "
                "(allowed: 8 pixels and more)"
            )
        # Pooling before block k, none before the first.
        self.pools = (False, True, True, True, inputs.size >= LARGE)
        before, size, shapes = inputs.channels, inputs.size, []
        for number, (width, convolutions) in enumerate(zip(WIDTHS, self.convolutions, strict=True)):
            self.add_module(f"block{number}", _block(before, width, convolutions))
            size = size // 2 if self.pools[number] else size
            shapes.append((width, size, size))
            before = width
        self.stage_shapes = tuple(shapes)
        self.last_map_shape = self.stage_shapes[-1]
        self.pooled_dim = before
        self._hold("classifier", nn.Linear(before, inputs.num_classes))
        kaiming_fan_out(self)
        small_linear(self._last_layer())

    @override
    def stage(self, index: int, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """A block's output."""
        if self.pools[index]:
            map_BCHW = nn.functional.max_pool2d(map_BCHW, 2)
        preact_BCHW = self.get_submodule(f"block{index}")(map_BCHW)
        return preact_BCHW, nn.functional.relu(preact_BCHW)

    @override
    def stage_norms(self) -> Norms:
        """Each block's last BatchNorm."""
        return affine(list(self.get_submodule(f"block{number}").children())[-1] for number in (1, 2, 3, 4))


def _block(before: int, width: int, convolutions: int) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU in a row, without the last ReLU, which the network applies."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers[:-1])


def _member(depth: int, parameters: int, convolutions: tuple[int, int, int, int, int]) -> type[VGG]:
    doc = f"VGG with BatchNorm, {sum(convolutions)} convolutions in five blocks"
    return define(VGG, f"vgg{depth}", parameters, doc, convolutions=convolutions)


FAMILY = [
    # Six weighted layers, in spite of its name.
    _member(8, 3_965_028, (1, 1, 1, 1, 1)),
    _member(11, 9_277_284, (1, 1, 2, 2, 2)),
    _member(13, 9_462_180, (2, 2, 2, 2, 2)),
    _member(16, 14_774_436, (2, 2, 3, 3, 3)),
    _member(19, 20_086_692, (2, 2, 4, 4, 4)),
]
