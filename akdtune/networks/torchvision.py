"""Torchvision's classifiers for images of ImageNet's size, with torchvision's own state-dict keys.

References:
    ResNet: He et al., CVPR 2016, arXiv 1512.03385. MobileNetV2: Sandler et al., CVPR 2018, arXiv 1801.04381.
    MobileNetV3: Howard et al., ICCV 2019, arXiv 1905.02244. ViT: Dosovitskiy et al., ICLR 2021, arXiv 2010.11929;
    the tiny width: Touvron et al., ICML 2021, arXiv 2012.12877.
"""

# torchvision is imported when a network is built: it is slow to load. Shapes: B batch, T tokens, C channels, H, W.

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError, unknown_name
from akdtune.networks._pooled import define
from akdtune.networks.adapter import AdaptedNetwork, Captures, InputOf
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec

if TYPE_CHECKING:
    from torchvision.models import Weights

PATCH = 16


class TorchvisionNetwork(AdaptedNetwork):
    """Any image size and number of channels; weights of torchvision's own, or drawn as torchvision does.

    Differs: activations do not work in place, so that maps before their ReLU stay what they were.
    """

    class Settings(ComponentSettings):
        """Where the weights come from."""

        weights: str | None = Field(
            None,
            description="name of torchvision's weights, such as IMAGENET1K_V1, downloaded once by torchvision; null: "
            "drawn anew. The last layer is drawn anew where the number of classes is another",
        )

    model: ClassVar[str]
    """Torchvision's name."""
    first: ClassVar[str]
    """Name of the first convolution."""

    @override
    def module(self, settings: ComponentSettings, inputs: InputSpec) -> nn.Module:
        """Torchvision's module, with its first convolution for these channels and its last layer for these classes.

        Raises:
            AkdtuneError: for unknown weights, weights that do not fit these images, or that cannot be downloaded.
        """
        assert isinstance(settings, TorchvisionNetwork.Settings)
        weights = None if settings.weights is None else self._weights(settings.weights, inputs)
        module = self._build(inputs)
        if inputs.channels != 3:
            _replace_first(module, self.first, inputs.channels)
        if weights is not None:
            _load(module, weights, self.captures.classifier, inputs.num_classes, self._name())
        return module

    def _build(self, inputs: InputSpec) -> nn.Module:
        from torchvision import models  # late: it is slow to load, and few trials need it

        built: nn.Module = models.get_model(self.model, weights=None, num_classes=inputs.num_classes)
        return built

    def _weights(self, name: str, inputs: InputSpec) -> Weights:
        """Torchvision's description of some weights."""
        from torchvision import models  # late: it is slow to load, and few trials need it

        known = {entry.name: entry for entry in models.get_model_weights(self.model)}
        if name not in known:
            raise AkdtuneError(f"{self._name()}: {unknown_name('weights', name, known)}")
        if inputs.channels != 3:
            raise AkdtuneError(
                f"{self._name()}: weights {name} are for 3 channels, these images have {inputs.channels}"
            )
        return known[name]


class _ResNet(TorchvisionNetwork):
    """A 7x7 stem of stride 2, max-pooling, four stages, global average, linear layer.

    Stage maps are those of the stem before it is pooled, and of each stage's last block. Any image size and number of
    channels; weights of torchvision's own, or drawn as torchvision does.

    Differs: activations do not work in place, so that maps before their ReLU stay what they were.
    """

    source = "He et al., CVPR 2016, arXiv 1512.03385"
    first = "conv1"


class _MobileNet(TorchvisionNetwork):
    """Inverted residual blocks, a 1x1 convolution, global average, and one linear layer (V2) or two (V3).

    Stage maps are the stem and the last linear bottleneck of each resolution; bottlenecks have no activation, so they
    are signed and the same before and after it. The pooled feature is what the last linear layer gets: for V2 the mean
    of the last map, before dropout; for V3, whose hidden layer comes between, there is no such map. Any image size and
    number of channels; weights of torchvision's own, or drawn as torchvision does.

    Differs: activations do not work in place, so that maps before them stay what they were.
    """

    first = "features.0.0"


class _ViT(TorchvisionNetwork):
    """A vision transformer on patches of 16 pixels, 12 layers, classified by its class token.

    The pooled feature is the class token after the last LayerNorm, so there is no last map. Stage maps are the patch
    embedding and the tokens after every third layer, without the class token and laid out as the patches are. Image
    sizes are multiples of 16.

    Differs: none but that weights are loaded for their own image size alone.
    """

    source = "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929"
    first = "conv_proj"
    width: ClassVar[int]
    """Width of a token."""
    heads: ClassVar[int]
    """Attention heads."""

    @override
    def module(self, settings: ComponentSettings, inputs: InputSpec) -> nn.Module:
        """The transformer for images of this size.

        Raises:
            AkdtuneError: also for images that patches do not cover.
        """
        if inputs.size % PATCH:
            raise AkdtuneError(
                f"{self._name()}: images of {inputs.size} pixels do not divide into patches of {PATCH} "
                f"(allowed: multiples of {PATCH})"
            )
        return super().module(settings, inputs)

    @override
    def _build(self, inputs: InputSpec) -> nn.Module:
        from torchvision.models import VisionTransformer  # late: it is slow to load, and few trials need it

        built: nn.Module = VisionTransformer(
            image_size=inputs.size,
            patch_size=PATCH,
            num_layers=12,
            num_heads=self.heads,
            hidden_dim=self.width,
            mlp_dim=4 * self.width,
            num_classes=inputs.num_classes,
        )
        return built

    @override
    def _weights(self, name: str, inputs: InputSpec) -> Weights:
        if not self.model:
            raise AkdtuneError(f"{self._name()}: torchvision has no weights for it, got '{name}' (allowed: null)")
        weights = super()._weights(name, inputs)
        size = weights.meta["min_size"][0]
        if inputs.size != size:
            raise AkdtuneError(f"{self._name()}: weights {name} are for images of {size} pixels, not {inputs.size}")
        return weights


def _token_map(tokens: Tensor) -> Tensor:
    """Tokens [B, 1 + T, C] of square images as a map [B, C, H, W] without the class token; a map as it is."""
    if tokens.ndim == 4:
        return tokens
    side = math.isqrt(tokens.shape[1] - 1)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def _replace_first(module: nn.Module, name: str, channels: int) -> None:
    """Puts a first convolution for another number of channels in place, drawn as torchvision drew the old one."""
    old = module.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    # ViT's patch embedding is drawn by fan-in, which depends on the channels; the others by fan-out.
    if old.bias is None:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    else:
        fan_in = channels * math.prod(new.kernel_size)
        nn.init.trunc_normal_(new.weight, std=math.sqrt(1 / fan_in))
        assert new.bias is not None
        nn.init.zeros_(new.bias)
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)


def _load(module: nn.Module, weights: Weights, classifier: str, classes: int, title: str) -> None:
    """Loads torchvision's weights; those of the last layer only for the classes they were trained on."""
    try:
        state: dict[str, Any] = dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network (URLError), no permission, another hash
        raise AkdtuneError(
            f"{title}: cannot get weights {weights.name} from {weights.url} ({error}); put the file into "
            "torchvision's cache (TORCH_HOME/hub/checkpoints), or load another file as teacher.checkpoint"
        ) from error
    if classes != len(weights.meta["categories"]):
        own = module.state_dict()
        state |= {key: own[key] for key in own if key.startswith(f"{classifier}.")}
    module.load_state_dict(state)


def _resnet(depth: int, parameters: int, blocks: tuple[int, int, int, int], norm: str) -> None:
    last = [f"layer{number}.{count - 1}" for number, count in enumerate(blocks, start=1)]
    captures = Captures(
        "fc",
        stages=("relu", *(f"layer{number}" for number in (1, 2, 3, 4))),
        preact=(InputOf("relu"), *(InputOf(f"{block}.relu") for block in last)),
        norms=tuple(f"{block}.{norm}" for block in last),
        last_map="layer4",
    )
    doc = f"ResNet-{depth} of torchvision"
    name = f"resnet{depth}"
    define(_ResNet, f"torchvision_{name}", parameters, doc, 1000, model=name, captures=captures)


def _mobilenet(
    model: str,
    parameters: int,
    source: str,
    classifier: str,
    blocks: dict[int, str],
    **more: Any,
) -> None:
    """Blocks: number of each stage's last block, and where its last BatchNorm is."""
    captures = Captures(
        classifier,
        stages=("features.0", *(f"features.{number}" for number in blocks)),
        preact=(InputOf("features.0.2"), *(f"features.{number}" for number in blocks)),
        norms=tuple(f"features.{number}.{norm}" for number, norm in blocks.items()),
        **more,
    )
    doc = f"{model.replace('_', ' ').replace('mobilenet v', 'MobileNetV')} of torchvision"
    define(_MobileNet, f"torchvision_{model}", parameters, doc, 1000, model=model, captures=captures, source=source)


def _vit(name: str, model: str, parameters: int, doc: str, width: int, heads: int, **fields: Any) -> None:
    layers = [f"encoder.layers.encoder_layer_{number}" for number in (2, 5, 8, 11)]
    captures = Captures("heads.head", stages=("conv_proj", *layers), as_map=_token_map)
    fields |= {"model": model, "captures": captures, "width": width, "heads": heads}
    define(_ViT, f"torchvision_{name}", parameters, doc, 1000, **fields)


V2 = "Sandler et al., CVPR 2018, arXiv 1801.04381"
V3 = "Howard et al., ICCV 2019, arXiv 1905.02244"
TINY = "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929, at the width of Touvron et al., ICML 2021, arXiv 2012.12877"

_resnet(18, 11_689_512, (2, 2, 2, 2), "bn2")
_resnet(34, 21_797_672, (3, 4, 6, 3), "bn2")
_resnet(50, 25_557_032, (3, 4, 6, 3), "bn3")
_resnet(152, 60_192_808, (3, 8, 36, 3), "bn3")
_mobilenet(
    "mobilenet_v2",
    3_504_872,
    V2,
    "classifier.1",
    {3: "conv.3", 6: "conv.3", 13: "conv.3", 17: "conv.3"},
    pooled="features",
    last_map="features",
)
_mobilenet(
    "mobilenet_v3_large",
    5_483_032,
    V3,
    "classifier.3",
    {3: "block.2.1", 6: "block.3.1", 12: "block.3.1", 15: "block.3.1"},
)
_mobilenet(
    "mobilenet_v3_small",
    2_542_856,
    V3,
    "classifier.3",
    {1: "block.2.1", 3: "block.2.1", 8: "block.3.1", 11: "block.3.1"},
)
_vit("vit_b_16", "vit_b_16", 86_567_656, "ViT-B/16 of torchvision", 768, 12)
_vit("vit_tiny", "", 5_717_416, "ViT-Tiny with patches of 16 pixels, built by torchvision", 192, 3, source=TINY)
