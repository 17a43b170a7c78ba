"""Networks: one file per family; every name is a registered class whose forward gives `Signals`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from akdtune.registry import Component, ComponentSettings, Kind, lookup, network_name, typed
from akdtune.signals import Inputs, Signals, Spec, Takes


class Network(Component, nn.Module):
    """Contract of a network.

    Class attributes:
        offers: which maps `forward` returns when asked: `stages`; `preact` (stage maps before their ReLU, with
            `stage_norms`); `last_map` (the map whose spatial mean is the pooled feature). And `answers`, where
            several answers with a gradient are always a part of what it says in training; see `offered`.
        takes: what it answers: images, tokens or nodes.
        takes_channels_last: whether the code of a network of ours is known to run with channels last; tried if not.
    Attributes:
        pooled_dim: width C of the pooled feature.
        stage_shapes: (C, H, W) of each stage map, stem first; empty where it offers none.
        last_map_shape: (C, H, W) of the last map; None where it offers none.
    """

    kind: ClassVar[Kind] = "networks"
    offers: ClassVar[frozenset[str]] = frozenset({"stages", "preact", "last_map"})
    takes: ClassVar[Takes] = "images"
    takes_channels_last: ClassVar[bool] = True
    pooled_dim: int
    stage_shapes: tuple[tuple[int, int, int], ...] = ()
    last_map_shape: tuple[int, int, int] | None = None

    def __init__(self, settings: ComponentSettings, inputs: Any) -> None:  # the `Spec` of what it takes
        super().__init__()

    @classmethod
    def offered(cls, settings: ComponentSettings) -> frozenset[str]:
        """What of `offers` a network with these settings has."""
        return cls.offers

    def forward(self, inputs: Any, stages: bool = False) -> Signals:
        """Logits and pooled feature of each row of its inputs (of images normalised, [B, C, H, W]).

        Args:
            inputs: `Tokens`, `Nodes`, or images float32 [B, C, H, W].
            stages: whether to add all maps that it offers.
        """
        raise NotImplementedError

    def stage_norms(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """(weight [C], bias [C]) of the BatchNorm that each pre-ReLU stage map comes out of, without the stem."""
        return ()

    @classmethod
    def brought(cls, settings: ComponentSettings) -> str:
        """Hash of files of the user's that a network of these settings begins with; empty without any."""
        return ""

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K, C] and bias [K] of the last layer."""
        raise NotImplementedError


def build(network: str | dict[str, Any], inputs: Spec, seed: int) -> Network:
    """Builds a network with its weights drawn from `seed`, leaving torch's global generator as it was.

    Its kernels lie in memory with channels last, in which convolutions of small images are as fast or faster (on the
    CPU 1.0 to 1.5 times, measured) and differ by rounding only. A plugin's network keeps torch's own layout where its
    code does not take this one, as with `maps.view(batch, -1)`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: Network = lookup("networks", network_name(network))(typed("networks", network), inputs)
        built.to(memory_format=torch.channels_last)
        known = type(built).__module__.startswith("akdtune.") and built.takes_channels_last
        if not known and layout(built) == torch.channels_last and not _runs(built, inputs):
            built.to(memory_format=torch.contiguous_format)
    return built


def layout(network: nn.Module) -> torch.memory_format:
    """How a network's kernels lie in memory, and its images are best given to it."""
    kernels = [parameter for parameter in network.parameters() if parameter.dim() == 4]
    last = bool(kernels) and all(kernel.stride() == _last_strides(*kernel.shape) for kernel in kernels)
    return torch.channels_last if last else torch.contiguous_format


def _last_strides(_: int, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Strides with channels last: kernels of one pixel or channel are contiguous both ways, and differ in these."""
    return height * width * channels, 1, width * channels, channels


def laid_out(inputs: Inputs, layout: torch.memory_format) -> Inputs:
    """Images as kernels lie in memory, else each convolution that reads them turns them; other inputs as they are."""
    images = isinstance(inputs, Tensor) and inputs.dim() == 4
    return inputs.contiguous(memory_format=layout) if images else inputs


@torch.no_grad()
def _runs(network: Network, inputs: Spec) -> bool:
    """Whether a network answers two empty images in its present layout, in eval mode, which it leaves again."""
    modes = {part: part.training for part in network.modules()}
    example = laid_out(inputs.example(2), layout(network))
    network.eval()
    try:
        for stages in (False, True):
            network(example, stages)
    except Exception:  # its own code's; what has nothing to do with the layout is raised again where it is used
        return False
    finally:
        network.train(modes[network])
        for part, mode in modes.items():
            part.training = mode
    return True


@torch.no_grad()
def draws(network: Network, inputs: Spec) -> bool:
    """Whether a network draws random numbers while it trains (dropout, stochastic depth); it stays as it is."""
    trained = copy.deepcopy(network).to("cpu").train()
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        trained(laid_out(inputs.example(2), layout(trained)))
        return not torch.equal(before, torch.get_rng_state())


def draws_sentence(network: str | dict[str, Any]) -> str:
    """Why the rows of a batch cannot change places in a network that draws random numbers."""
    return (
        f"the student '{network_name(network)}' draws random numbers of its own for the rows of a batch (dropout): in "
        "another order each image would get other ones, which is another experiment and not rounding"
    )


class PlainInputs(Protocol):
    """A split of a data set, as far as a network in eval mode cares."""

    def __len__(self) -> int: ...

    def plain_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Inputs]]:
        """Positions and inputs (normalised images) of the whole split in order, without augmentation."""
        ...


@torch.no_grad()
def signals(network: Callable[[Inputs], Signals], split: PlainInputs, batch_size: int) -> Signals:
    """Logits [N, K], pooled features [N, C] and answers of a whole split as it is, in the network's present mode."""
    return signals_of(network, (inputs for _, inputs in split.plain_batches(batch_size)))


@torch.no_grad()
def signals_of(network: Callable[[Inputs], Signals], batches: Iterable[Inputs]) -> Signals:
    """The same of given batches of inputs, one behind the other."""
    parts = [network(inputs) for inputs in batches]
    logits_NK, pooled_NC = (torch.cat([getattr(part, name) for part in parts]) for name in ("logits_BK", "pooled_BC"))
    answers = [part.answers_BJK for part in parts if part.answers_BJK is not None]
    answers_NJK = torch.cat(answers) if answers else None
    return Signals(logits_NK, pooled_NC, answers_BJK=answers_NJK, answer=parts[0].answer)


def predict(network: Network, split: PlainInputs, batch_size: int) -> Tensor:
    """Logits [N, K] of a whole split as it is, in the network's present mode."""
    return signals(network, split, batch_size).logits_BK
