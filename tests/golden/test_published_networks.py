"""The CIFAR networks of RepDistiller and mdistiller: recorded keys, shapes, counts and outputs."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from akdtune import networks
from akdtune.registry import names
from akdtune.signals import InputSpec, Signals

GOLDEN = Path(__file__).parent
FACTS: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / "networks.json.gz").read_bytes()))
RECORDED = np.load(GOLDEN / "networks.npz")
PUBLISHED = sorted(FACTS)
WITH_OUTPUTS = sorted({key.split("/")[0] for key in RECORDED.files if "/" in key})
CIFAR100 = InputSpec(3, 32, 100)

# Multiply-adds of convolutions and linear layers for one image, in millions, counted on the published networks.
MILLION_MACS = {
    "resnet8": 12.507,
    "resnet14": 26.663,
    "resnet20": 40.819,
    "resnet32": 69.130,
    "resnet44": 97.442,
    "resnet56": 125.754,
    "resnet110": 253.156,
    "resnet8x4": 177.071,
    "resnet32x4": 1083.041,
    "wrn_16_1": 26.663,
    "wrn_16_2": 101.118,
    "wrn_40_1": 83.286,
    "wrn_40_2": 327.611,
    "vgg8": 96.193,
    "vgg11": 209.439,
    "vgg13": 284.936,
    "vgg16": 398.182,
    "vgg19": 511.429,
    "MobileNetV2": 6.524,
    "ShuffleV1": 38.691,
    "ShuffleV2": 44.504,
    "ResNet18": 555.469,
    "ResNet34": 1159.449,
    "ResNet50": 1298.014,
}


def fill(network: networks.Network) -> None:
    """Fills the weights by the rule that the outputs were recorded with."""
    state = network.state_dict()
    for key, tensor in state.items():
        drawn = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(tensor.shape))
        if key.endswith("num_batches_tracked"):
            value = np.zeros(())
        elif key.endswith("running_var"):
            value = 0.5 + np.abs(drawn)
        elif tensor.ndim >= 2:
            value = drawn * np.sqrt(2 / np.prod(tensor.shape[1:]))
        elif key.endswith("weight"):
            value = 0.3 * (1 + 0.1 * drawn)
        else:
            value = 0.1 * drawn
        state[key] = torch.as_tensor(value).to(tensor.dtype)
    network.load_state_dict(state)


def multiply_adds(network: networks.Network, images: torch.Tensor) -> tuple[int, Signals]:
    """Multiply-adds of all convolutions and linear layers for one image, and what the network says about it."""
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, made: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        counts.append(weight.numel() * made.shape[2:].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        found = network(images, stages=True)
    return sum(counts), found


def test_every_recorded_network_is_registered() -> None:
    assert len(PUBLISHED) == 23
    assert set(PUBLISHED) | {"ResNet34"} == set(MILLION_MACS)
    assert set(MILLION_MACS) <= set(names("networks"))


@pytest.mark.parametrize("name", sorted(MILLION_MACS))
def test_keys_shapes_and_counts_are_the_published_ones(name: str) -> None:
    network = networks.build(name, CIFAR100, 0).eval()
    macs, found = multiply_adds(network, torch.zeros(1, 3, 32, 32))
    assert macs / 1e6 == pytest.approx(MILLION_MACS[name], abs=6e-4)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert f"; {parameters:,} parameters at 100 classes." in str(network.__doc__).splitlines()[0]
    if name == "ResNet34":
        return
    facts = FACTS[name]
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == facts["state_dict"]
    assert parameters == facts["parameters"]
    assert network.pooled_dim == found.pooled_BC.shape[1] == facts["pooled_dim"]
    assert [list(stage.shape[1:]) for stage in found.stages] == facts["feats"]
    # Only the pre-ReLU maps of MobileNetV2 are our own.
    assert [list(stage.shape[1:]) for stage in found.preact_stages] == (facts["preact_feats"] or facts["feats"])
    assert bool(facts["preact_feats"]) == (name != "MobileNetV2")


def test_resnet34_has_the_published_keys_of_its_siblings() -> None:
    network = networks.build("ResNet34", CIFAR100, 0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_328_292
    assert sum(buffer.numel() for buffer in network.buffers()) == 17_060
    assert len(network.state_dict()) == 218
    # Block for block it is ResNet50's plan with ResNet18's blocks.
    blocks = {key.rsplit(".", 2)[0] for key in FACTS["ResNet50"]["state_dict"] if key.endswith("conv1.weight")}
    assert {key.rsplit(".", 2)[0] for key in network.state_dict() if key.endswith("conv1.weight")} == blocks
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert FACTS["ResNet18"]["state_dict"].items() <= shapes.items()


@pytest.mark.parametrize("name", WITH_OUTPUTS)
def test_outputs_are_the_published_ones(name: str) -> None:
    network = networks.build(name, CIFAR100, 0).eval()
    fill(network)
    with torch.no_grad():
        found = network(torch.from_numpy(RECORDED["input"]))
    for ours, theirs in ((found.logits_BK, RECORDED[f"{name}/logits"]), (found.pooled_BC, RECORDED[f"{name}/pooled"])):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_outputs_of_every_family_but_two_are_recorded() -> None:
    assert set(WITH_OUTPUTS) == {
        *("resnet8", "resnet20", "resnet8x4", "resnet32x4", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1")
    }
