"""Layers of networks of different architecture: which meet, what one knows more than another, how one fills another.

References:
    Du et al., "FedFree: Breaking Knowledge-sharing Barriers through Layer-wise Alignment in Heterogeneous Federated
    Learning", NeurIPS 2025. Blocks: Diao, Ding and Tarokh (HeteroFL), ICLR 2021, arXiv 2010.01264.

Shapes: B pseudo-inputs, I inputs and O outputs of a layer as a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A module that has weights of its own.

    Attributes:
        name: of the module in its network.
        kind: of the module; layers of one kind meet.
        tensors: names of its weights, biases and statistics in the network's state.
        is_matrix: whether it maps inputs to outputs, as linear layers and convolutions do.
    """

    name: str
    kind: str
    tensors: tuple[str, ...]
    is_matrix: bool

    @property
    def weight(self) -> str:
        """Name of its weight in the network's state."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str | None:
        """Name of its bias; None where it has none."""
        name = f"{self.name}.bias"
        return name if name in self.tensors else None


def layers_of(network: nn.Module) -> list[Layer]:
    """The layers of a network, from the input on."""
    found = []
    for name, module in network.named_modules():
        own = [key for key, _ in module.named_parameters(recurse=False)]
        if "weight" in own:
            counted = [*own, *(key for key, value in module.named_buffers(recurse=False) if value.is_floating_point())]
            weight = getattr(module, "weight")
            tensors = tuple(f"{name}.{key}" for key in counted)
            found.append(Layer(name, type(module).__name__, tensors, weight.dim() >= 2))
    return found


def matched(of_client: Sequence[Layer], of_server: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """The layer of the server that each layer of a client meets: of its kind, at the same relative depth.

    First meets first and last meets last, so that classifiers meet; a kind that the server has not is left out.
    """
    pairs = []
    for kind in dict.fromkeys(layer.kind for layer in of_client):
        mine, theirs = ([layer for layer in layers if layer.kind == kind] for layers in (of_client, of_server))
        if theirs:
            scale = (len(theirs) - 1) / max(1, len(mine) - 1)
            pairs += [(layer, theirs[int(index * scale + 0.5)]) for index, layer in enumerate(mine)]
    return pairs


def change(before: Mapping[str, Tensor], after: Mapping[str, Tensor], layer: Layer) -> float:
    """Length of the difference of a layer's weights."""
    return float((after[layer.weight] - before[layer.weight]).norm())


def entropy(values: Tensor, bins: int, low: float, high: float) -> float:
    """Shannon entropy, in nats, of the histogram of some numbers over equal bins from `low` to `high`."""
    if not low < high:
        return 0.0
    counts = torch.histc(values.detach().float().cpu(), bins, low, high)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


def knowledge_gain(client: Tensor, server: Tensor, bins: int, bin_range: Literal["common", "own"]) -> float:
    """Entropy of the server's weights minus that of the client's, in nats (KGE).

    Args:
        client: weights of a layer, of any shape.
        server: weights of the one that it meets.
        bins: of their histograms.
        bin_range: `common`: both over the range of both together, so that scale counts; `own`: each over its own.
    """
    ranges = [(float(weights.min()), float(weights.max())) for weights in (server, client)]
    if bin_range == "common":
        ranges = [(min(low for low, _ in ranges), max(high for _, high in ranges))] * 2
    of_server, of_client = (
        entropy(weights, bins, *limits) for weights, limits in zip((server, client), ranges, strict=True)
    )
    return of_server - of_client


def filled(client: Tensor, server: Tensor, fill: Literal["keep_local", "zeros"]) -> Tensor:
    """A client's tensor with the first entries of the server's, both flattened.

    Args:
        client: whose shape it has.
        server: as many entries as both have are taken.
        fill: what stands in the others.
    """
    flat = client.flatten().clone() if fill == "keep_local" else torch.zeros_like(client).flatten()
    number = min(len(flat), server.numel())
    flat[:number] = server.flatten()[:number]
    return flat.view_as(client)


def overlap(first: Tensor, second: Tensor) -> tuple[slice, ...]:
    """The block in which two tensors of as many dimensions overlap, from their first entries on."""
    return tuple(slice(min(sizes)) for sizes in zip(first.shape, second.shape, strict=True))


def discrepancy(
    server: tuple[Tensor, Tensor | None], client: tuple[Tensor, Tensor | None], pseudo_BI: Tensor
) -> Tensor:
    """Squared distance of what two layers make of the same inputs, mean over the inputs, a scalar.

    Layers count as matrices [O, I]: a convolution by its outputs for one patch. Of layers of different size, each takes
    as many inputs as it has, and the outputs that both have are compared.

    Args:
        server: weight and bias; None without one.
        client: the same of the other layer.
        pseudo_BI: at least as many columns as the wider of them has inputs.
    """
    outputs = []
    for weight, bias in (server, client):
        matrix_OI = weight.flatten(1)
        outputs.append(nn.functional.linear(pseudo_BI[:, : matrix_OI.shape[1]], matrix_OI, bias))
    both = min(output.shape[1] for output in outputs)
    return (outputs[0][:, :both] - outputs[1][:, :both]).square().sum(dim=1).mean()
