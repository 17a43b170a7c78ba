"""What a server makes of the networks that clients trained, and what it sends back.

References:
    McMahan et al. (FedAvg), AISTATS 2017, arXiv 1602.05629; Diao, Ding and Tarokh (HeteroFL), ICLR 2021, arXiv
    2010.01264; Du et al. (FedFree), NeurIPS 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from akdtune.federated.layers import Layer, change, discrepancy, filled, knowledge_gain, matched, overlap
from akdtune.federated.settings import LayerWise
from akdtune.networks import Network

State = Mapping[str, Tensor]
"""The weights and statistics of a network by name."""


@torch.no_grad()
def mean_state(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of networks of one architecture; whole numbers are those of the first.

    Args:
        states: at least one.
        weights: above 0; only their ratios count.
    """
    total = sum(weights)
    mean: dict[str, Tensor] = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            terms = (state[name] * (weight / total) for state, weight in zip(states, weights, strict=True))
            mean[name] = torch.stack(list(terms)).sum(dim=0)
        else:
            mean[name] = first.clone()
    return mean


@torch.no_grad()
def met_in(
    server: State, of_server: Sequence[Layer], clients: Sequence[tuple[State, Sequence[Layer], float]]
) -> dict[str, Tensor]:
    """The server's network with the mean of the clients' layers where they overlap; elsewhere it stays.

    Args:
        server: its state.
        of_server: its layers.
        clients: state, layers and weight of each.
    """
    sums = {name: torch.zeros_like(value) for name, value in server.items()}
    counts = {name: torch.zeros_like(value) for name, value in server.items()}
    for state, layers, weight in clients:
        for mine, its in matched(layers, of_server):
            for own, there in _tensors(mine, its):
                block = overlap(state[own], sums[there])
                sums[there][block] += weight * state[own][block]
                counts[there][block] += weight
    return {
        name: torch.where(counts[name] > 0, sums[name] / counts[name].clamp(min=1e-12), value)
        if value.is_floating_point()
        else value.clone()
        for name, value in server.items()
    }


@torch.no_grad()
def cut_out(server: State, of_server: Sequence[Layer], client: State, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """What of the server's network a client's layers take back, where they overlap; elsewhere these stay."""
    taken = {}
    for mine, its in matched(layers, of_server):
        for own, there in _tensors(mine, its):
            block, value = overlap(client[own], server[there]), client[own].clone()
            value[block] = server[there][block]
            taken[own] = value
    return taken


def _tensors(mine: Layer, its: Layer) -> list[tuple[str, str]]:
    """Names of the tensors that two layers of a kind both have."""
    theirs = {name.removeprefix(its.name): name for name in its.tensors}
    return [(own, theirs[rest]) for own in mine.tensors if (rest := own.removeprefix(mine.name)) in theirs]


@dataclass(frozen=True)
class Upload:
    """A layer that a client sends.

    Attributes:
        mine: the layer of the client.
        its: the layer of the server that it meets.
        weight, bias: of the client's.
    """

    mine: Layer
    its: Layer
    weight: Tensor
    bias: Tensor | None


def uploads(
    before: State, after: State, layers: Sequence[Layer], of_server: Sequence[Layer], number: int
) -> list[Upload]:
    """The matrices of a client that changed most while it trained, and whom they meet; fewer where it has fewer."""
    pairs = [(mine, its) for mine, its in matched(layers, of_server) if mine.is_matrix]
    pairs.sort(key=lambda pair: -change(before, after, pair[0]))
    return [
        Upload(mine, its, after[mine.weight].clone(), None if mine.bias is None else after[mine.bias].clone())
        for mine, its in pairs[:number]
    ]


def draw_together(
    server: Network,
    sent: Sequence[Upload],
    settings: LayerWise,
    generator_of: Callable[[str], torch.Generator],
) -> None:
    """Moves each layer of the server that something was sent for towards what those layers make of Gaussian inputs.

    Args:
        server: changed in place; layers that nothing was sent for stay.
        sent: by all clients.
        settings: steps, their rate, how many inputs.
        generator_of: what the inputs of a layer are drawn from.
    """
    own = dict(server.named_parameters())
    for name in dict.fromkeys(upload.its.name for upload in sent):
        of_layer = [upload for upload in sent if upload.its.name == name]
        its = of_layer[0].its
        weight, bias = own[its.weight], None if its.bias is None else own[its.bias]
        moved = [weight] if bias is None else [weight, bias]
        widest = max(tensor.flatten(1).shape[1] for tensor in (weight, *(upload.weight for upload in of_layer)))
        generator = generator_of(name)
        for _ in range(settings.steps):
            size = settings.pseudo_inputs, widest
            pseudo_BI = torch.randn(size, generator=generator, device=weight.device)
            losses = [discrepancy((weight, bias), (upload.weight, upload.bias), pseudo_BI) for upload in of_layer]
            gradients = torch.autograd.grad(torch.stack(losses).mean(), moved, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(moved, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(gradient, alpha=settings.lr)


@torch.no_grad()
def returned(
    server: State, sent: Sequence[Upload], settings: LayerWise, generator: torch.Generator
) -> tuple[dict[str, Tensor], list[float]]:
    """What comes back to a client, and the gains of the layers that it sent, in nats.

    Args:
        server: its state after it was drawn to what was sent.
        sent: by this client.
        settings: which layer comes back, and how it fills the client's.
        generator: of a random choice (CPU).
    """
    gains = [
        knowledge_gain(upload.weight, server[upload.its.weight], settings.bins, settings.bin_range) for upload in sent
    ]
    chosen = list(range(len(sent)))
    if settings.gain == "random":
        chosen = [int(torch.randint(len(sent), (), generator=generator))]
    elif settings.gain == "kge":
        best = max(chosen, key=lambda index: gains[index])
        chosen = [best] if gains[best] > 0 else []
    back: dict[str, Tensor] = {}
    for upload in (sent[index] for index in chosen):
        back[upload.mine.weight] = filled(upload.weight, server[upload.its.weight], settings.fill)
        if upload.bias is not None and upload.mine.bias is not None and upload.its.bias is not None:
            back[upload.mine.bias] = filled(upload.bias, server[upload.its.bias], settings.fill)
    return back, gains
