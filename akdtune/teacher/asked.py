"""How a frozen teacher is asked: in float32, or in bfloat16. Either way it answers in float32.

In bfloat16, weights are converted once, not at every batch; a BatchNorm that follows a convolution becomes part of its
weights, in float32, before they are rounded; every other one stays in float32, and so does the last layer.

Shapes: B batch, K classes, C channels or feature width, H, W.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from akdtune.errors import AkdtuneError
from akdtune.networks import Network, layout
from akdtune.settings.teacher import Compute
from akdtune.signals import Inputs, Signals

REBUILT = 1e-4
"""Largest difference that is rounding, as a share of the largest number."""

PROBED = 2
"""Images that a network is tried with."""


class Asked(Protocol):
    """What answers images with signals: a network, or one in another precision."""

    def __call__(self, inputs: Inputs, stages: bool = False) -> Signals:
        """As `Network.forward`."""
        ...


def asked(network: Network, compute: Compute) -> Asked:
    """A frozen network as it is to be computed; in eval mode, answers without a gradient and in float32."""
    return network if compute == "fp32" else InBfloat16(network)


def rebuilt(network: Network, signals: Signals) -> bool:
    """Whether a network's logits are its last layer's product with the pooled feature."""
    weight_KC, bias_K = network.classifier()
    return _alike(functional.linear(signals.pooled_BC, weight_KC, bias_K), signals.logits_BK)


class InBfloat16:
    """A frozen network in bfloat16.

    The first call converts a copy; the network itself stays as it is, for whatever reads its weights.

    Args:
        network: in eval mode.
    """

    def __init__(self, network: Network) -> None:
        self._exact = network
        self._network: Network | None = None
        self._classifies = False

    @torch.no_grad()
    def __call__(self, inputs: Inputs, stages: bool = False) -> Signals:
        """As `Network.forward`, in float32.

        Raises:
            AkdtuneError: where the network's code does not run in bfloat16.
        """
        if self._network is None:
            self._convert(inputs)
        assert self._network is not None
        said = _autocast(self._network, inputs, stages).in_float32()
        if not self._classifies:
            return said
        weight_KC, bias_K = self._exact.classifier()
        return replace(said, logits_BK=functional.linear(said.pooled_BC, weight_KC, bias_K))

    def _convert(self, like: Inputs) -> None:
        """Makes the copy, and finds out by a few random images, or the inputs themselves, what may be done to it."""
        probe = like
        if isinstance(like, Tensor):
            drawn = torch.randn(PROBED, *like.shape[1:], generator=torch.Generator().manual_seed(0))
            probe = drawn.to(like.device).contiguous(memory_format=layout(self._exact))
        exact = self._exact(probe, True)
        try:
            self._network = _converted(self._exact, probe, exact)
        except Exception as error:
            raise AkdtuneError(
                f"teacher_cache.compute: network {type(self._exact).__name__} does not run in bfloat16"
                f" ({type(error).__name__}: {error}); set teacher_cache.compute: fp32"
            ) from error
        self._classifies = rebuilt(self._exact, exact)


def _converted(network: Network, inputs: Inputs, exact: Signals) -> Network:
    """A copy with weights in bfloat16, of which `exact` is what the network says to some inputs; it has run once."""
    copied = copy.deepcopy(network)
    fold_norms(copied, inputs)
    if not all(map(_alike, _tensors(copied(inputs, True)), _tensors(exact))):
        copied = copy.deepcopy(network)
    for module in copied.modules():
        if type(module) in (nn.Conv2d, nn.Linear):  # whatever else has weights is autocast's
            module.to(torch.bfloat16)
    _autocast(copied, inputs, True)
    return copied


@torch.no_grad()
def fold_norms(network: Network, inputs: Inputs) -> None:
    """Makes each BatchNorm that alone reads a convolution's output a part of that convolution, in place.

    Args:
        network: in eval mode.
        inputs: any batch; which BatchNorms these are shows while it passes.
    """
    for norm, convolution in _pairs(network, inputs):
        if norm.running_mean is None or norm.running_var is None:
            continue
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        _replace(network, norm)


class _Readers(TorchFunctionMode):
    """Counts by how many functions each tensor is read that make tensors of it."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()
        self._held: list[Any] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) for each in tree_leaves(made)):
            self._held.append((args, kwargs, made))  # so that no later tensor has the id of one of them
            self.of.update({id(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)})
        return made


def _pairs(network: Network, inputs: Inputs) -> list[tuple[nn.BatchNorm2d, nn.Conv2d]]:
    """BatchNorms and the convolutions whose outputs they alone read, where both are called once."""
    made: dict[int, nn.Conv2d] = {}
    calls: Counter[nn.Module] = Counter()
    pairs: list[tuple[nn.BatchNorm2d, nn.Conv2d, int]] = []

    def after_convolution(module: nn.Conv2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module

    def before_norm(module: nn.BatchNorm2d, given: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(given[0]) in made:
            pairs.append((module, made[id(given[0])], id(given[0])))

    handles = [
        module.register_forward_hook(after_convolution) if type(module) is nn.Conv2d
        else module.register_forward_pre_hook(before_norm)
        for module in network.modules() if type(module) in (nn.Conv2d, nn.BatchNorm2d)
    ]  # fmt: skip
    with _Readers() as readers:
        said = network(inputs, True)
    readers.of.update(map(id, _tensors(said)))
    for handle in handles:
        handle.remove()
    return [
        (norm, convolution)
        for norm, convolution, output in pairs
        if calls[norm] == calls[convolution] == readers.of[output] == 1
    ]


def _replace(network: nn.Module, folded: nn.Module) -> None:
    """Puts a module that does nothing in the place of one."""
    for module in network.modules():
        for name, child in module._modules.items():
            if child is folded:
                module._modules[name] = nn.Identity()


def _autocast(network: Network, inputs: Inputs, stages: bool) -> Signals:
    with torch.autocast(network.classifier()[0].device.type, torch.bfloat16):
        said: Signals = network(inputs, stages)
    return said


def _tensors(signals: Signals) -> Iterator[Tensor]:
    yield from (signals.logits_BK, signals.pooled_BC, *(signals.stages or ()), *(signals.preact_stages or ()))
    if signals.last_map is not None:
        yield signals.last_map


def _alike(given: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by rounding alone."""
    return given.shape == expected.shape and bool((given - expected).abs().max() <= REBUILT * expected.abs().max())
