"""A multilayer perceptron on flattened images: quick to train on a CPU, without batch statistics."""

# Shapes: B batch, C feature width, H, W.

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from akdtune.networks import Network
from akdtune.registry import ComponentSettings, register
from akdtune.signals import InputSpec, Signals


@register("mlp")
class MLP(Network):
    """A linear layer and ReLU for each width on the flattened image, and a linear layer.

    The pooled feature is the last hidden layer. It has no maps.
    """

    source = "akdtune's own, from no paper"
    offers: ClassVar[frozenset[str]] = frozenset()

    class Settings(ComponentSettings):
        """Widths of the hidden layers, from the image on."""

        widths: list[Annotated[int, Field(gt=0, le=65_536)]] = Field(
            [64], min_length=1, description="units of each hidden layer"
        )

    def __init__(self, settings: Settings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        sizes = [inputs.channels * inputs.size**2, *settings.widths]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.fc = nn.Linear(sizes[-1], inputs.num_classes)
        self.pooled_dim = sizes[-1]

    @override
    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        """Logits and pooled feature."""
        pooled_BC = images_BCHW.flatten(1)
        for layer in self.hidden:
            pooled_BC = nn.functional.relu(layer(pooled_BC))
        return Signals(self.fc(pooled_BC), pooled_BC)

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        return self.fc.weight, self.fc.bias
