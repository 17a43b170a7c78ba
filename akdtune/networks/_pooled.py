"""What the convolutional families share: stage by stage, global average pooling, one linear layer; registration."""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from typing_extensions import override

from akdtune.networks import Network
from akdtune.registry import register
from akdtune.signals import Signals

N = TypeVar("N", bound=Network)
Norms = tuple[tuple[Tensor, Tensor], ...]


class PooledNetwork(Network):
    """A network that ends in the spatial mean of its last map and one linear layer.

    A family gives `stage`, or a `forward` of its own that ends in `answer`.
    """

    last_layer: ClassVar[str] = "fc"
    """Name of the linear layer, as in the published state dict."""

    def stage(self, index: int, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Stage map `index` before and after its ReLU, from the stage map before it (for the stem, the images)."""
        raise NotImplementedError

    def last_map(self, map_BCHW: Tensor) -> Tensor:
        """The map that is pooled, from the last stage map: that map itself unless a family says otherwise."""
        return map_BCHW

    @override
    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        """Logits and pooled feature; the maps of stem and stages, before and after ReLU, when asked."""
        map_BCHW = images_BCHW
        after: list[Tensor] = []
        before: list[Tensor] = []
        for index in range(len(self.stage_shapes)):
            preact_BCHW, map_BCHW = self.stage(index, map_BCHW)
            if stages:
                after.append(map_BCHW)
                before.append(preact_BCHW)
        return self.answer(self.last_map(map_BCHW), after, before)

    def answer(self, last_BCHW: Tensor, after: Sequence[Tensor], before: Sequence[Tensor]) -> Signals:
        """Pools and classifies the last map; maps are part of the answer where there are any."""
        pooled_BC = last_BCHW.mean(dim=(2, 3))
        logits_BK = self._last_layer()(pooled_BC)
        maps = (tuple(after), tuple(before), last_BCHW) if after else ()
        return Signals(logits_BK, pooled_BC, *maps)

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        layer = self._last_layer()
        return layer.weight, layer.bias

    def _hold(self, name: str, module: nn.Module) -> None:
        """Adds a child whose published name is also a method's (`classifier`)."""
        self._modules[name] = module

    def _last_layer(self) -> nn.Linear:
        layer: nn.Module | None = self
        for part in self.last_layer.split("."):  # by key: attribute access would find the method first
            assert layer is not None
            layer = layer._modules[part]
        assert isinstance(layer, nn.Linear)
        return layer


def define(family: type[N], name: str, parameters: int, doc: str, classes: int = 100, **fields: Any) -> type[N]:
    """Registers one member of a family.

    Args:
        family: its base class; what its docstring says becomes the second part of the member's.
        name: registered name.
        parameters: their number for colour images and `classes`.
        doc: what this member is, without a full stop.
        classes: the number of classes that `parameters` was counted with.
        fields: class attributes.
    """
    text = f"{doc}; {parameters:,} parameters at {classes} classes.\n\n{inspect.getdoc(family)}"
    member = type(name, (family,), {"__doc__": text, "__module__": family.__module__, **fields})
    return register(name)(member)


def kaiming_fan_out(network: nn.Module) -> None:
    """Draws every convolution from a normal distribution with variance 2 / (kernel area x output channels)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def small_linear(layer: nn.Linear) -> None:
    """Draws a linear layer from a normal distribution with standard deviation 0.01, bias zero."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)


def halved(size: int, times: int) -> int:
    """Height of a map after so many 3x3 layers of stride 2 and padding 1, which round up."""
    for _ in range(times):
        size = (size + 1) // 2
    return size


def affine(norms: Iterable[nn.Module]) -> Norms:
    """(weight [C], bias [C]) of some BatchNorms, without a gradient."""
    parameters = []
    for norm in norms:
        assert isinstance(norm, nn.BatchNorm2d)
        parameters.append((norm.weight.detach(), norm.bias.detach()))
    return tuple(parameters)
