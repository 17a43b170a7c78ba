"""Torchvision's networks: the same numbers as torchvision gives, its checkpoints, and weights that cannot be had."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from akdtune import networks
from akdtune.errors import AkdtuneError
from akdtune.registry import names
from akdtune.signals import InputSpec

COLOUR = InputSpec(3, 32, 5)
SMALL = "torchvision_mobilenet_v3_small"
MODELS = {
    "torchvision_resnet18": "resnet18",
    "torchvision_resnet34": "resnet34",
    "torchvision_resnet50": "resnet50",
    "torchvision_mobilenet_v2": "mobilenet_v2",
    "torchvision_mobilenet_v3_large": "mobilenet_v3_large",
    SMALL: "mobilenet_v3_small",
}


def images(inputs: InputSpec = COLOUR, number: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, inputs.channels, inputs.size, inputs.size, generator=generator)


def tiny_vit(inputs: InputSpec) -> nn.Module:
    built: nn.Module = models.VisionTransformer(inputs.size, 16, 12, 3, 192, 768, num_classes=inputs.num_classes)
    return built


def torchvisions_own(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        if name == "torchvision_vit_tiny":
            return tiny_vit(COLOUR)
        own: nn.Module = models.get_model(MODELS[name], num_classes=COLOUR.num_classes)
        return own


def test_torchvision_is_not_imported_with_the_file() -> None:
    file = Path(networks.__path__[0]) / "torchvision.py"
    for node in ast.parse(file.read_text()).body:
        named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        named += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "torchvision" for name in named)


@pytest.mark.parametrize("name", ["torchvision_resnet18", "torchvision_mobilenet_v2", SMALL, "torchvision_vit_tiny"])
def test_the_numbers_are_torchvisions(name: str) -> None:
    own = torchvisions_own(name).to(memory_format=torch.channels_last)  # as ours: batch norm of two images magnifies
    network = networks.build(name, COLOUR, 0)
    assert list(network.state_dict()) == list(own.state_dict())
    network.load_state_dict(own.state_dict())
    dropout = any(isinstance(module, nn.Dropout) and module.p for module in own.modules())
    with torch.no_grad():
        if not dropout:
            torch.testing.assert_close(network.train()(images()).logits_BK, own.train()(images()))
        torch.testing.assert_close(network.eval()(images(), stages=True).logits_BK, own.eval()(images()))
    for key, tensor in own.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key])


@pytest.mark.parametrize("name", ["torchvision_resnet18", SMALL, "torchvision_vit_tiny"])
def test_weights_are_drawn_as_torchvision_draws_them(name: str) -> None:
    own = torchvisions_own(name).state_dict()
    for key, tensor in networks.build(name, COLOUR, 9).state_dict().items():
        assert torch.equal(tensor, own[key])


@pytest.mark.parametrize("name", ["torchvision_resnet18", SMALL, "torchvision_vit_tiny"])
def test_grey_images(name: str) -> None:
    grey = InputSpec(1, 32, 5)
    network, colour = networks.build(name, grey, 0), networks.build(name, COLOUR, 0)
    first = "conv_proj" if "vit" in name else "conv1" if "resnet" in name else "features.0.0"
    ours, theirs = (one.state_dict()[f"{first}.weight"] for one in (network, colour))
    assert ours.shape == (theirs.shape[0], 1, *theirs.shape[2:])
    expected = float(theirs.std()) * (3**0.5 if "vit" in name else 1)  # by fan-in there, by fan-out elsewhere
    assert float(ours.std()) == pytest.approx(expected, rel=0.15)
    assert network(images(grey)).logits_BK.shape == (2, 5)


def test_vit_maps_are_laid_out_as_the_patches_are() -> None:
    inputs = InputSpec(3, 64, 5)
    network = networks.build("torchvision_vit_tiny", inputs, 0).eval()
    assert network.offers == {"stages"}
    assert network.stage_shapes == ((192, 4, 4),) * 5
    said = network(images(inputs), stages=True)
    changed = images(inputs)
    changed[:, :, 16:32, 48:64] += 1  # the patch in row 1, column 3
    moved = (network(changed, stages=True).stages[0] - said.stages[0]).abs().sum(dim=1)
    assert moved[0].nonzero().tolist() == [[1, 3]]
    # With attention and perceptron silenced, tokens stay what they were: patch and position.
    for key, parameter in network.named_parameters():
        if key.endswith(("out_proj.weight", "out_proj.bias", "mlp.3.weight", "mlp.3.bias")):
            parameter.data.zero_()
    said = network(images(inputs), stages=True)
    position = network.state_dict()["encoder.pos_embedding"][0, 1:].T.reshape(192, 4, 4)
    torch.testing.assert_close(said.stages[-1], said.stages[0] + position)


def test_vit_pools_its_class_token() -> None:
    network = networks.build("torchvision_vit_tiny", COLOUR, 0).eval()
    tokens: list[Tensor] = []
    network.get_submodule("encoder").register_forward_hook(lambda *given: tokens.append(given[-1]))
    said = network(images())
    assert torch.equal(said.pooled_BC, tokens[0][:, 0])


def test_mobilenet_v2_pools_before_dropout() -> None:
    network = networks.build("torchvision_mobilenet_v2", COLOUR, 0).train()
    said = network(images(number=4), stages=True)
    torch.testing.assert_close(said.pooled_BC, said.last_map.mean(dim=(2, 3)))
    dropped = nn.functional.linear(said.pooled_BC, *network.classifier())
    assert not torch.allclose(dropped, said.logits_BK)


def build_with(name: str, weights: str, inputs: InputSpec = COLOUR) -> networks.Network:
    return networks.build({"name": name, "weights": weights}, inputs, 0)


def refused(name: str, weights: str, inputs: InputSpec = COLOUR) -> str:
    with pytest.raises(AkdtuneError) as caught:
        build_with(name, weights, inputs)
    return str(caught.value)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What torchvision's download gives here instead of a file from the internet."""
    state: dict[str, Tensor] = models.mobilenet_v3_small().state_dict()
    monkeypatch.setattr(models._api, "load_state_dict_from_url", lambda *_, **__: state)
    return state


def test_weights_are_loaded(stored: dict[str, Tensor]) -> None:
    same = build_with(SMALL, "IMAGENET1K_V1", InputSpec(3, 32, 1000)).state_dict()
    for key, tensor in stored.items():
        assert torch.equal(same[key], tensor)
    fewer = build_with(SMALL, "IMAGENET1K_V1").state_dict()
    fresh = networks.build(SMALL, COLOUR, 0).state_dict()
    for key, tensor in stored.items():
        assert torch.equal(fewer[key], fresh[key] if key.startswith("classifier.3.") else tensor)


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value"), PermissionError("cache")])
def test_weights_that_cannot_be_had(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(models._api, "load_state_dict_from_url", fail)
    url = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.url
    assert refused(SMALL, "IMAGENET1K_V1") == (
        f"network {SMALL}: cannot get weights IMAGENET1K_V1 from {url} ({error}); put the file into torchvision's "
        "cache (TORCH_HOME/hub/checkpoints), or load another file as teacher.checkpoint"
    )


def test_weights_that_do_not_fit() -> None:
    assert refused(SMALL, "IMAGENET1K_V9") == (
        f"network {SMALL}: unknown weights 'IMAGENET1K_V9'; did you mean 'IMAGENET1K_V1'? (allowed: IMAGENET1K_V1)"
    )
    assert refused(SMALL, "IMAGENET1K_V1", InputSpec(1, 32, 5)) == (
        f"network {SMALL}: weights IMAGENET1K_V1 are for 3 channels, these images have 1"
    )
    assert refused("torchvision_vit_b_16", "IMAGENET1K_V1") == (
        "network torchvision_vit_b_16: weights IMAGENET1K_V1 are for images of 224 pixels, not 32"
    )
    assert refused("torchvision_vit_tiny", "IMAGENET1K_V1") == (
        "network torchvision_vit_tiny: torchvision has no weights for it, got 'IMAGENET1K_V1' (allowed: null)"
    )


def test_vit_refuses_images_that_patches_do_not_cover() -> None:
    with pytest.raises(AkdtuneError) as caught:
        networks.build("torchvision_vit_tiny", InputSpec(3, 28, 5), 0)
    assert str(caught.value) == (
        "network torchvision_vit_tiny: images of 28 pixels do not divide into patches of 16 (allowed: multiples of 16)"
    )


def test_parameter_counts_in_the_descriptions() -> None:
    for name in (SMALL, "torchvision_resnet18", "torchvision_vit_tiny"):
        network = networks.build(name, InputSpec(3, 32 if "vit" not in name else 224, 1000), 0)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert f"; {count:,} parameters at 1000 classes." in str(network.__doc__).splitlines()[0]


def test_every_name_of_the_issue_is_there() -> None:
    wanted = {*MODELS, "torchvision_resnet152", "torchvision_vit_b_16", "torchvision_vit_tiny"}
    assert {name for name in names("networks") if name.startswith("torchvision_")} == wanted
