"""Networks of timm by name: the same numbers as timm gives, what each offers, and names and images that do not fit."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from akdtune import networks
from akdtune.cli import components
from akdtune.errors import AkdtuneError, SettingsError
from akdtune.networks import timm_models
from akdtune.registry import families, lookup, names
from akdtune.signals import InputSpec
from akdtune.study import spec
from akdtune.study.schema import json_schema

COLOUR = InputSpec(3, 32, 5)
MODELS: dict[str, tuple[set[str], int]] = {
    "test_resnet.r160_in1k": ({"stages", "last_map"}, 5),
    "test_efficientnet": ({"stages", "last_map"}, 5),
    "test_convnext": ({"stages"}, 5),
    "test_vit": ({"stages"}, 5),
    "mobilenetv3_small_050.lamb_in1k": ({"stages"}, 5),
    "swin_s3_tiny_224": ({"stages"}, 5),
}
"""Small models of each kind: what they offer, and how many stage maps. A tag only says which weights are meant."""


def images(inputs: InputSpec = COLOUR) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, inputs.channels, inputs.size, inputs.size, generator=generator)


def test_timm_is_not_imported_with_the_file() -> None:
    for node in ast.parse(Path(timm_models.__file__).read_text()).body:
        assert not (isinstance(node, ast.Import) and any(alias.name.startswith("timm") for alias in node.names))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (not name.startswith("test_"))) for name in MODELS]
)
def test_the_numbers_are_timms_and_the_maps_where_it_says(name: str) -> None:
    offers, stages = MODELS[name]
    network = networks.build(f"timm/{name}", COLOUR, 9)
    size: dict[str, Any] = {"img_size": 32} if type(network).fixed_size else {}  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        own = timm.create_model(name, pretrained=False, num_classes=5, in_chans=3, **size)
    assert list(network.state_dict()) == list(own.state_dict())
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in own.state_dict().items())
    own.to(memory_format=networks.layout(network))
    network.eval()
    with torch.no_grad():
        said = network(images(), stages=True)
        torch.testing.assert_close(said.logits_BK, own.eval()(images()))
    assert network.offers == offers
    torch.testing.assert_close(torch.nn.functional.linear(said.pooled_BC, *network.classifier()), said.logits_BK)
    assert len(network.stage_shapes) == stages
    assert tuple(tuple(stage.shape[1:]) for stage in said.stages) == network.stage_shapes
    sizes = [height for _, height, _ in network.stage_shapes]
    assert sizes == sorted(sizes, reverse=True)
    if "last_map" in offers:
        torch.testing.assert_close(said.last_map.mean(dim=(2, 3)), said.pooled_BC)
    logits_BK = network.train()(images()).logits_BK
    logits_BK.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_tokens_are_laid_out_as_the_patches_are() -> None:
    inputs = InputSpec(3, 64, 5)
    network = networks.build("timm/test_vit", inputs, 0).eval()
    for key, parameter in network.named_parameters():
        if ".attn.proj." in key or ".mlp.fc2." in key:
            parameter.data.zero_()  # tokens stay what they were: patch and position
    changed = images(inputs)
    changed[:, :, 16:32, 48:64] += 1  # the patch in row 1, column 3
    with torch.no_grad():
        moved = network(changed, stages=True).stages[-1] - network(images(inputs), stages=True).stages[-1]
    assert moved[0].abs().sum(dim=0).nonzero().tolist() == [[1, 3]]


def test_grey_images_and_weights_of_a_file(tmp_path: Path) -> None:
    grey = InputSpec(1, 32, 5)
    assert networks.build("timm/test_resnet", grey, 0)(images(grey)).logits_BK.shape == (2, 5)
    from akdtune.teacher.checkpoints import fill_weights

    own = timm.create_model("test_resnet", num_classes=5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in own.state_dict().items()}, "arch": "x"}, tmp_path / "t.pth")
    network = networks.build("timm/test_resnet", COLOUR, 0).eval()
    assert fill_weights(network, tmp_path / "t.pth") == "names without 'module.'"
    torch.testing.assert_close(network(images()).logits_BK, own.eval()(images()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet181", "unknown network 'timm/resnet181'; did you mean 'timm/resnet18'? (`akdtune networks 'timm/*'`"),
        ("hf-hub:timm/resnet18", "unknown network 'timm/hf-hub:timm/resnet18'"),
        ("", "unknown network 'timm/'"),
        ("deit_tiny_distilled_patch16_224", "has no single last layer (timm names ('head', 'head_dist'))"),
        ("dla34", "its last layer 'fc' is Conv2d, not Linear"),
    ],
)
def test_names_that_cannot_be_used(name: str, words: str) -> None:
    with pytest.raises(AkdtuneError) as caught:
        lookup("networks", f"timm/{name}")
    assert words in str(caught.value)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(AkdtuneError, match=r"timm/test_vit: cannot (be built for|process) images of 3 x 30 x 30"):
        networks.build("timm/test_vit", InputSpec(3, 30, 5), 0)


def test_without_timm_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_models.timm_network.cache_clear()
    with pytest.raises(AkdtuneError, match="networks of timm need the package timm: pip install timm"):
        lookup("networks", "timm/resnet18")
    assert "timm/NAME" in [row.name for row in components.rows("networks")]


def study(folder: Path, **parts: str) -> spec.Study:
    written = {"teacher": "timm/test_convnext", "student": "timm/test_resnet", "method": "kd"} | parts
    file = folder / "study.yaml"
    file.write_text(
        f"data: {{name: cifar10, validation: 1000}}\nteacher: {{network: {written['teacher']}}}\n"
        f"student: {{network: {written['student']}}}\nmethod: {written['method']}\nsearch: {{algorithm: grid}}\n"
    )
    return spec.load(file)


def test_a_study_names_them_as_teacher_and_student(tmp_path: Path) -> None:
    read = study(tmp_path, method="[kd, at]")
    assert read.teacher.network == "timm/test_convnext"
    assert read.configurations[0]["student"]["network"] == "timm/test_resnet"
    with pytest.raises(SettingsError) as caught:
        study(tmp_path, method="simkd")
    assert str(caught.value) == (
        f"{tmp_path}/study.yaml:4: method: 'simkd' cannot work with the teacher network 'timm/test_convnext': it needs "
        "last_map, which it lacks"
    )
    with pytest.raises(SettingsError, match=r"study.yaml:2: teacher.network: unknown network 'timm/resnet181'; did"):
        study(tmp_path, teacher="timm/resnet181")


def test_they_are_listed() -> None:
    assert list(families("networks")) == ["timm"]
    assert not any(name.startswith("timm/") for name in names("networks"))
    shown = {row.name: row for row in components.rows("networks")}
    assert "pip install timm" in shown["timm/NAME"].about
    assert {row.name for row in components.rows("networks", "timm/test_res*")} >= {"timm/test_resnet"}
    assert "parameters at 1000 classes" in components.details("networks", "timm/test_resnet")
    schema = json_schema()
    options = schema["$defs"]["networks"]["anyOf"]
    assert {"type": "string", "pattern": "^timm/."} in options
