"""The same checks over every registered network, and what is particular to a family."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchvision  # noqa: F401  slow to load: not within the first test that needs it
from torch import Tensor, nn

from akdtune import networks
from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.registry import lookup, names
from akdtune.signals import InputSpec

CIFAR100 = InputSpec(3, 32, 100)
DIGITS = InputSpec(1, 8, 10)
# One of every family for checks with numbers; the others differ in depth and width.
QUICK = [
    *("cnn", "resnet8", "resnet8x4", "wrn_16_1", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"),
    *("ResNet18", "torchvision_resnet18", "torchvision_mobilenet_v2", "torchvision_mobilenet_v3_small"),
    "torchvision_vit_tiny",
]
# Stages end in raw sums there, which BatchNorms follow, as published.
PREACTIVATION = ("wrn_16_1", "wrn_16_2")
ELSEWHERE = {"lif", "mlp", "gnn", "transformer", "hf_causal"}
FAMILIES = {"cnn", "resnet", "wrn", "vgg", "mobilenet", "shufflenet", "resnet_four_stage", "torchvision"}


def inputs_of(name: str, channels: int = 1, classes: int = 5) -> InputSpec:
    """Small images that a network can take."""
    return InputSpec(channels, 32 if name.startswith("torchvision") else 12, classes)


def images(inputs: InputSpec, number: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, inputs.channels, inputs.size, inputs.size, generator=generator)


def made_lively(network: Network, inputs: InputSpec) -> Network:
    """In eval mode, with statistics of some images, and scales, shifts and a last layer that are not initial ones."""
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.data.copy_(1 + 0.1 * torch.randn(norm.weight.shape, generator=generator))
        norm.bias.data.copy_(0.1 * torch.randn(norm.bias.shape, generator=generator))
    with torch.no_grad():
        network.train()(images(inputs, 8, seed=1))
    weight_KC, bias_K = network.classifier()
    weight_KC.data.copy_(0.1 * torch.randn(weight_KC.shape, generator=generator))
    bias_K.data.copy_(0.1 * torch.randn(bias_K.shape, generator=generator))
    return network.eval()


Lively = tuple[str, Network, InputSpec]


@pytest.fixture(scope="module")
def lively(request: pytest.FixtureRequest) -> Lively:
    """One network for all tests that leave it as it is; pytest sorts them so that one at a time is held."""
    inputs = inputs_of(request.param)
    return request.param, made_lively(networks.build(request.param, inputs, 0), inputs), inputs


def pairs(network: Network, inputs: InputSpec) -> list[tuple[Tensor, Tensor]]:
    """Each stage map after and before its ReLU."""
    said = network(images(inputs), stages=True)
    return list(zip(said.stages, said.preact_stages, strict=True))


def test_every_family_is_checked() -> None:
    modules = {lookup("networks", name).__module__ for name in names("networks")}
    ours = {module.rpartition(".")[2] for module in modules if module.startswith("akdtune.")}
    assert ours - ELSEWHERE == FAMILIES, "the others have files of their own"
    assert {lookup("networks", name).__module__.rpartition(".")[2] for name in QUICK} == FAMILIES


@pytest.mark.parametrize("name", sorted(name for name in names("networks")))
def test_every_network_says_what_it_is(name: str) -> None:
    network = lookup("networks", name)
    assert network.source
    first = str(network.__doc__).splitlines()[0]
    assert first.endswith(".")
    assert len(first) < 140


@pytest.mark.parametrize("name", sorted({*QUICK, *(n for n in names("networks") if "torchvision" in n)}))
def test_declared_shapes_are_the_actual_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for drawing in ("kaiming_normal_", "kaiming_uniform_", "trunc_normal_", "normal_"):  # slow, and of no use here
        monkeypatch.setattr(nn.init, drawing, lambda tensor, *_, **__: tensor)
    sizes = (32, 28, 64) if "vit" not in name else (32, 64)
    for size in sizes if name in QUICK else (32,):
        inputs = InputSpec(1 if size == 28 else 3, size, 7)
        network = networks.build(name, inputs, 0).eval()
        with torch.no_grad():
            said = network(images(inputs, 2), stages=True)
        assert said.logits_BK.shape == (2, 7)
        assert said.pooled_BC.shape == (2, network.pooled_dim)
        assert tuple(tuple(stage.shape[1:]) for stage in said.stages or ()) == network.stage_shapes
        assert network.offers <= {"stages", "preact", "last_map"}
        assert (said.stages is not None) == ("stages" in network.offers)
        assert (said.preact_stages is not None) == ("preact" in network.offers)
        assert (said.last_map is not None) == ("last_map" in network.offers) == (network.last_map_shape is not None)
        if said.last_map is not None:
            assert tuple(said.last_map.shape[1:]) == network.last_map_shape
        if said.preact_stages is not None:
            assert tuple(tuple(stage.shape[1:]) for stage in said.preact_stages) == network.stage_shapes
            widths = [(len(weight_C), len(bias_C)) for weight_C, bias_C in network.stage_norms()]
            assert widths == [(shape[0], shape[0]) for shape in network.stage_shapes[1:]]


@pytest.mark.parametrize("lively", QUICK, indirect=True)
def test_signals_fit_together(lively: Lively) -> None:
    _, network, inputs = lively
    given = images(inputs)
    kept = given.clone()
    plain, full = network(given), network(given, stages=True)
    assert torch.equal(given, kept)
    assert (plain.stages, plain.preact_stages, plain.last_map) == (None, None, None)
    assert torch.equal(plain.logits_BK, full.logits_BK)
    assert torch.equal(plain.pooled_BC, full.pooled_BC)
    assert float(plain.logits_BK.std(dim=0).max().detach()) > 1e-3
    weight_KC, bias_K = network.classifier()
    torch.testing.assert_close(nn.functional.linear(plain.pooled_BC, weight_KC, bias_K), plain.logits_BK)
    if full.last_map is not None:
        torch.testing.assert_close(full.last_map.mean(dim=(2, 3)), full.pooled_BC, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lively", [name for name in QUICK if "vit" not in name], indirect=True)
def test_maps_before_and_after_their_relu(lively: Lively) -> None:
    name, network, inputs = lively
    for index, (after, before) in enumerate(pairs(network, inputs)):
        assert bool((before < 0).any())
        if "mobilenet" in name.lower() and index > 0:
            assert torch.equal(after, before)  # linear bottlenecks
        elif name == "torchvision_mobilenet_v3_small":
            assert torch.equal(after, nn.functional.hardswish(before))
        elif name == "torchvision_mobilenet_v2":
            assert torch.equal(after, before.clamp(0, 6))
        elif name in PREACTIVATION:
            assert torch.equal(after, before) == (index == 0)
        else:
            assert torch.equal(after, before.relu())


@pytest.mark.parametrize("lively", [n for n in QUICK if "vit" not in n and n != "ShuffleV2"], indirect=True)
def test_stage_norms_are_the_ones_that_end_in_the_maps(lively: Lively) -> None:
    _, network, inputs = lively
    norms = network.stage_norms()
    assert len(norms) == len(network.stage_shapes) - 1
    with torch.no_grad():
        original = pairs(network, inputs)
        for index, (_, bias_C) in enumerate(norms, start=1):
            kept = bias_C.clone()
            bias_C += 1
            moved = pairs(network, inputs)[index][1] - original[index][1]
            bias_C.copy_(kept)
            torch.testing.assert_close(moved, torch.ones_like(moved), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lively", QUICK, indirect=True)
def test_gradients_reach_the_images_through_every_map(lively: Lively) -> None:
    _, network, inputs = lively
    given = images(inputs, 1).requires_grad_()
    said = network(given, stages=True)
    last = () if said.last_map is None else (said.last_map,)
    for one in (*said.stages, *(said.preact_stages or ()), *last):
        (gradient,) = torch.autograd.grad(one.square().sum(), given, retain_graph=True)
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


def test_shuffle_v2_follows_each_channel_to_its_norm() -> None:
    network = networks.build("ShuffleV2", DIGITS, 0).eval()
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # then a map is its BatchNorm's bias, everywhere
            nn.init.zeros_(module.weight)
            module.bias.data = torch.randn(module.bias.shape, generator=generator)
    maps = pairs(network, DIGITS)[1:]
    for (after, before), (weight_C, bias_C) in zip(maps, network.stage_norms(), strict=True):
        assert not weight_C.any()
        torch.testing.assert_close(after, bias_C.relu()[None, :, None, None].expand_as(after))
        rectified = (before[0, :, 0, 0] >= 0) & (bias_C < 0)
        assert 0.15 < float(rectified.float().mean()) < 0.35  # half of the channels pass, half of these were negative


@pytest.mark.parametrize("name", QUICK)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    inputs = inputs_of(name)
    network = networks.build(name, inputs, 0)
    said = network(images(inputs, 4), stages=True)
    # The pooled feature, too, as ViT's last layer starts at zero and lets nothing through.
    ((said.logits_BK - 1).square().sum() + (said.pooled_BC * torch.linspace(0, 1, network.pooled_dim)).sum()).backward()
    idle = [key for key, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


@pytest.mark.parametrize("name", ["cnn", "wrn_16_1", "ShuffleV2", "torchvision_resnet18"])
def test_asking_for_maps_changes_no_statistics(name: str) -> None:
    inputs = inputs_of(name)
    plain = networks.build(name, inputs, 0).train()
    asked = copy.deepcopy(plain)
    plain(images(inputs))
    asked(images(inputs), stages=True)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, asked.state_dict()[key]), key
    assert int(plain.state_dict()[next(key for key in plain.state_dict() if "num_batches" in key)]) == 1


@pytest.mark.parametrize(
    "name", ["cnn", "vgg8", "MobileNetV2", "torchvision_mobilenet_v3_small", "torchvision_vit_tiny"]
)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    inputs = inputs_of(name)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (networks.build(name, inputs, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("name", "key", "fan_out"),
    [
        ("resnet8x4", "layer3.0.conv2.weight", 256 * 9),
        ("wrn_16_2", "block3.layer.1.conv1.weight", 128 * 9),
        ("vgg8", "block2.0.weight", 256 * 9),
        ("MobileNetV2", "blocks.6.0.conv.0.weight", 480),
        ("MobileNetV2", "blocks.6.0.conv.3.weight", 480 * 9),
        ("ResNet18", "layer4.1.conv2.weight", 512 * 9),
    ],
)
def test_initial_weights_are_kaiming_fan_out(name: str, key: str, fan_out: int) -> None:
    weight = networks.build(name, CIFAR100, 0).state_dict()[key]
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert abs(float(weight.mean())) < 0.1 * float(weight.std())


@pytest.mark.parametrize(("name", "std"), [("vgg8", 0.01), ("MobileNetV2", 0.01), ("wrn_16_2", 1 / math.sqrt(3 * 128))])
def test_last_layers_start_as_published(name: str, std: float) -> None:
    weight_KC, bias_K = networks.build(name, CIFAR100, 0).classifier()
    assert float(weight_KC.detach().std()) == pytest.approx(std, rel=0.03)
    assert not bias_K.any()


@pytest.mark.parametrize("name", ["ShuffleV1", "ShuffleV2"])
def test_shufflenets_keep_the_initialisation_of_torch(name: str) -> None:
    weight = networks.build(name, CIFAR100, 0).state_dict()["layer3.2.conv1.weight"]
    bound = 1 / math.sqrt(weight.shape[1])
    assert 0.99 * bound < float(weight.abs().max()) <= bound


@pytest.mark.parametrize(("size", "last"), [(8, 1), (32, 4), (63, 7), (64, 4), (96, 6)])
def test_vgg_pools_a_fourth_time_from_64_pixels_on(size: int, last: int) -> None:
    network = networks.build("vgg8", InputSpec(3, size, 10), 0)
    assert network.last_map_shape == (512, last, last)


def test_vgg_refuses_images_it_cannot_halve() -> None:
    with pytest.raises(AkdtuneError) as caught:
        networks.build("vgg8", InputSpec(3, 7, 10), 0)
    assert str(caught.value) == (
        "network vgg8: images of 7 pixels cannot be halved three times (allowed: 8 pixels and more)"
    )


def test_wide_resnet_maps_are_as_published() -> None:
    inputs = inputs_of("wrn_16_1")
    network = made_lively(networks.build("wrn_16_1", inputs, 0), inputs)
    said = network(images(inputs), stages=True)
    raw = network.get_submodule("conv1")(images(inputs))
    assert torch.equal(said.preact_stages[0], raw)
    for index, (stage, following) in enumerate(
        [("block1", "block2.layer.0.bn1"), ("block2", "block3.layer.0.bn1"), ("block3", "bn1")], start=1
    ):
        _, raw = network.get_submodule(stage)(raw)
        assert torch.equal(said.stages[index], raw)
        assert torch.equal(said.preact_stages[index], network.get_submodule(following)(raw))
    assert torch.equal(said.last_map, said.preact_stages[-1].relu())


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
