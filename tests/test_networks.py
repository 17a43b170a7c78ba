"""Networks: golden outputs of the published family, and the same checks over every registered network."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from akdtune import networks, registry
from akdtune.errors import AkdtuneError
from akdtune.networks import InputSpec

GOLDEN = Path(__file__).parent / "golden"
FACTS: dict[str, Any] = json.loads((GOLDEN / "resnets.json").read_text())
CIFAR100 = InputSpec(3, 32, 100)
DIGITS = InputSpec(1, 8, 10)
DEEP = {"resnet32x4", "resnet110", "resnet56"}
QUICK = sorted(set(registry.names("networks")) - DEEP)


def fill(network: networks.Network) -> None:
    """Fills the weights by the rule in the golden files' README."""
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


def published() -> list[str]:
    return sorted(FACTS)


def test_the_whole_published_family_is_registered() -> None:
    assert len(published()) == 9
    assert set(published()) | {"cnn"} <= set(registry.names("networks"))


@pytest.mark.parametrize("name", published())
def test_keys_shapes_and_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        network = registry.lookup("networks", name)(registry.NoSettings(), CIFAR100)
    facts = FACTS[name]
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == facts["state_dict"]
    assert sum(parameter.numel() for parameter in network.parameters()) == facts["parameters"]
    assert network.pooled_dim == facts["pooled_dim"]
    assert [list(shape) for shape in network.stage_shapes] == facts["feats"] == facts["preact_feats"]


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet8x4", "resnet32x4"])
def test_outputs_are_the_published_ones(name: str) -> None:
    golden = np.load(GOLDEN / "resnets.npz")
    network = networks.build(name, CIFAR100, 0).eval()
    fill(network)
    with torch.no_grad():
        found = network(torch.from_numpy(golden["input"]))
    for ours, theirs in ((found.logits_BK, golden[f"{name}/logits"]), (found.pooled_BC, golden[f"{name}/pooled"])):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("inputs", [CIFAR100, DIGITS, InputSpec(1, 28, 10), InputSpec(3, 9, 2)])
@pytest.mark.parametrize("name", QUICK)
def test_signals_have_the_promised_shapes(name: str, inputs: InputSpec) -> None:
    network = networks.build(name, inputs, 0).eval()
    images = torch.randn(3, inputs.channels, inputs.size, inputs.size, generator=torch.Generator().manual_seed(0))
    plain, full = network(images), network(images, stages=True)
    assert plain.logits_BK.shape == (3, inputs.num_classes)
    assert plain.pooled_BC.shape == (3, network.pooled_dim)
    assert plain.stages is None
    assert plain.preact_stages is None
    assert torch.equal(plain.logits_BK, full.logits_BK)
    assert [tuple(stage.shape[1:]) for stage in full.stages] == list(network.stage_shapes)
    for stage, preact in zip(full.stages, full.preact_stages, strict=True):
        assert torch.equal(stage, preact.relu())
        assert (preact < 0).any()
    assert torch.equal(full.stages[-1].mean(dim=(2, 3)), full.pooled_BC)
    weight_KC, bias_K = network.classifier()
    assert torch.equal(torch.nn.functional.linear(plain.pooled_BC, weight_KC, bias_K), plain.logits_BK)


@pytest.mark.parametrize("name", QUICK)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = networks.build(name, DIGITS, 0)
    network(torch.randn(4, 1, 8, 8)).logits_BK.square().sum().backward()
    idle = [key for key, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # At one pixel the corners of a 3x3 kernel see padding alone, but no whole tensor is idle.
    assert idle == []


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (networks.build({"name": "cnn", "widths": [4, 8]}, DIGITS, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
    assert not torch.equal(one.state_dict()["fc.weight"], other.state_dict()["fc.weight"])


def test_initial_weights_are_kaiming_fan_out() -> None:
    network = networks.build("resnet8x4", CIFAR100, 0)
    weight = network.state_dict()["layer3.0.conv2.weight"]
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert bool((network.state_dict()["layer3.0.bn2.weight"] == 1).all())


def test_cnn_for_the_digits_study() -> None:
    teacher = networks.build({"name": "cnn", "widths": [32, 64, 128]}, DIGITS, 0)
    assert teacher.pooled_dim == 128
    assert teacher.stage_shapes == ((32, 8, 8), (64, 4, 4), (128, 2, 2))


def test_cnn_refuses_more_widths_than_the_image_can_be_halved() -> None:
    assert networks.build({"name": "cnn", "widths": [2] * 4}, DIGITS, 0).stage_shapes[-1] == (2, 1, 1)
    with pytest.raises(AkdtuneError) as caught:
        networks.build({"name": "cnn", "widths": [2] * 5}, DIGITS, 0)
    assert str(caught.value) == (
        "network cnn: 5 widths halve images of 8 pixels below one pixel (allowed: at most 4 widths)"
    )


def test_unknown_network_gets_the_nearest_name() -> None:
    with pytest.raises(AkdtuneError, match="unknown network 'resnet8x5'; did you mean 'resnet8x4'"):
        networks.build("resnet8x5", CIFAR100, 0)
