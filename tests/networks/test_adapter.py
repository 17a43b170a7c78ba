"""Somebody else's modules as networks: what is captured, what is refused, and that nothing is left behind."""

from __future__ import annotations

import copy
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from akdtune import networks
from akdtune.errors import AkdtuneError
from akdtune.networks.adapter import AdaptedNetwork, InputOf, adapt
from akdtune.registry import ComponentSettings, NoSettings, kept, load_plugins
from akdtune.signals import InputSpec

INPUTS = InputSpec(1, 8, 5)
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def plain(settings: Any, inputs: InputSpec) -> nn.Module:
    """Two convolutions, one of them with an in-place ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs.channels, 4, 3, padding=1),
            relu=nn.ReLU(inplace=True),
            down=nn.Conv2d(4, 6, 3, stride=2, padding=1),
            norm=nn.BatchNorm2d(6),
            last=nn.ReLU(inplace=True),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            drop=nn.Dropout(0.5),
            fc=nn.Linear(6, inputs.num_classes),
        )
    )


EVERYTHING: dict[str, Any] = {
    "classifier": "fc",
    "pooled": "pool",
    "stages": ["relu", "last"],
    "preact": ["conv", InputOf("last")],
    "norms": ["norm"],
    "last_map": "last",
}


def built(build: Any = plain, inputs: InputSpec = INPUTS, **captures: Any) -> AdaptedNetwork:
    torch.manual_seed(0)
    return adapt(build, **captures)(NoSettings(), inputs)


def refused(build: Any = plain, inputs: InputSpec = INPUTS, **changes: Any) -> str:
    with pytest.raises(AkdtuneError) as caught:
        built(build, inputs, **(EVERYTHING | changes))
    return str(caught.value)


def test_every_signal_of_a_plain_module() -> None:
    network = built(**EVERYTHING).eval()
    own = plain(None, INPUTS).eval()
    own.load_state_dict(network.state_dict())  # the same keys, without a prefix
    said = network(IMAGES, stages=True)
    torch.testing.assert_close(said.logits_BK, own(IMAGES))
    assert network.offers == {"stages", "preact", "last_map"}
    assert network.stage_shapes == ((4, 8, 8), (6, 4, 4))
    assert network.last_map_shape == (6, 4, 4)
    assert network.pooled_dim == 6
    for stage, preact in zip(said.stages, said.preact_stages, strict=True):
        assert torch.equal(stage, preact.relu())
        assert bool((preact < 0).any())
    assert said.last_map is said.stages[-1]
    torch.testing.assert_close(said.last_map.mean(dim=(2, 3)), said.pooled_BC)
    weight_KC, bias_K = network.classifier()
    torch.testing.assert_close(nn.functional.linear(said.pooled_BC, weight_KC, bias_K), said.logits_BK)
    norm = network.get_submodule("norm")
    assert network.stage_norms()[0][0].data_ptr() == norm.weight.data_ptr()
    without = network(IMAGES)
    assert torch.equal(without.logits_BK, said.logits_BK)
    assert (without.stages, without.preact_stages, without.last_map) == (None, None, None)


def test_only_the_classifier_is_needed() -> None:
    network = built(classifier="fc")
    assert network.offers == frozenset()
    assert (network.stage_shapes, network.last_map_shape, network.stage_norms()) == ((), None, ())
    said = network(IMAGES, stages=True)
    assert (said.stages, said.preact_stages, said.last_map) == (None, None, None)
    # In training mode the pooled feature is what the last layer gets, after dropout.
    torch.testing.assert_close(nn.functional.linear(said.pooled_BC, *network.classifier()), said.logits_BK)
    assert bool((said.pooled_BC == 0).any())


def test_it_is_a_module_like_any_other() -> None:
    network = built(**EVERYTHING)
    assert next(key for key, _ in network.named_parameters()) == "conv.weight"
    assert {key for key, _ in network.named_parameters()} <= set(network.state_dict())
    network.eval()
    assert not any(module.training for module in network.modules())
    assert torch.equal(network(IMAGES).logits_BK, network(IMAGES).logits_BK)
    network.train()
    assert not torch.equal(network(IMAGES).logits_BK, network(IMAGES).logits_BK)
    doubled = network.to(torch.float64).eval()
    assert doubled(IMAGES.double(), stages=True).stages[0].dtype == torch.float64
    network(IMAGES.double()).logits_BK.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


class Root(nn.Module):
    """Parameters, buffers and a mode of its own, outside any child."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))
        self.fc = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.dropout(images.flatten(1) * self.scale, 0.5, self.training)
        if self.training:
            self.seen += 1
        logits: Tensor = self.fc(pooled)
        return logits


def root(settings: Any, inputs: InputSpec) -> nn.Module:
    return Root(inputs.num_classes)


def test_what_the_module_itself_holds_follows() -> None:
    network = built(root, classifier="fc")
    assert list(network.state_dict()) == ["scale", "seen", "fc.weight", "fc.bias"]
    copied = copy.deepcopy(network).to(torch.float64)
    copied(IMAGES.double())
    assert float(copied.state_dict()["seen"]) == 1
    assert float(network.state_dict()["seen"]) == 0  # nor did the dry run train
    network.load_state_dict({**network.state_dict(), "scale": torch.tensor(0.0)})
    assert not network(IMAGES).pooled_BC.any()
    assert bool(copied.eval()(IMAGES.double()).pooled_BC.all())


def test_a_copy_is_on_its_own_and_no_hook_stays() -> None:
    network = built(**EVERYTHING).eval()
    copied = copy.deepcopy(network)
    for parameter in copied.parameters():
        parameter.data.zero_()
    assert not copied(IMAGES, stages=True).logits_BK.any()
    assert bool(network(IMAGES, stages=True).logits_BK.any())
    for module in (*network.modules(), *copied.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_hooks_go_when_a_forward_fails() -> None:
    network = built(**EVERYTHING)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 9, 8, 8), stages=True)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert network(IMAGES, stages=True).stages is not None


def test_two_threads_get_their_own_maps() -> None:
    network = built(**EVERYTHING).eval()
    meeting = threading.Barrier(2, timeout=10)
    # Both wait in the middle of their forward, so that each sees the other's hooks.
    network.get_submodule("conv").register_forward_hook(lambda *_: [meeting.wait()].clear())
    said: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: said.update({n: network(IMAGES[n : n + 1], stages=True)})) for n in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    network.get_submodule("conv")._forward_hooks.clear()
    for n in (0, 1):
        alone = network(IMAGES[n : n + 1], stages=True)
        for ours, theirs in zip(said[n].stages, alone.stages, strict=True):
            assert torch.equal(ours, theirs)


class Within(nn.Module):
    """Calls the network that it is part of, on other images, before its own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[AdaptedNetwork] = []

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if self.asks:
            self.asks.pop()(-IMAGES, stages=True)
        return map_BCHW


def test_a_forward_within_a_forward() -> None:
    def nested(settings: Any, inputs: InputSpec) -> nn.Module:
        return nn.Sequential(OrderedDict(within=Within(), rest=plain(settings, inputs)))

    network = built(nested, classifier="rest.fc", stages=["rest.relu", "rest.last"]).eval()
    alone = network(IMAGES, stages=True)
    network.get_submodule("within").asks.append(network)  # type: ignore[union-attr]
    for ours, theirs in zip(network(IMAGES, stages=True).stages, alone.stages, strict=True):
        assert torch.equal(ours, theirs)


class Overwriting(nn.Module):
    """Rectifies in place by a function, which no setting can switch off."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(nn.functional.relu(self.conv(images), inplace=True).mean(dim=(2, 3)))
        return logits


def test_maps_that_are_overwritten_are_copied() -> None:
    network = built(lambda settings, inputs: Overwriting(5), classifier="fc", stages=["conv"])
    raw = network.get_submodule("conv")(IMAGES)
    assert bool((raw < 0).any())
    assert torch.equal(network(IMAGES, stages=True).stages[0], raw)


def test_the_last_run_of_a_module_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.fc = nn.Linear(64, 5)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.relu(self.relu(images) - 1).flatten(1))
            return logits

    said = built(lambda settings, inputs: Twice(), classifier="fc", stages=["relu"])(IMAGES, stages=True)
    assert torch.equal(said.stages[0], (IMAGES.relu() - 1).relu())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier": "fcc"}, "has no module 'fcc'; did you mean 'fc'?"),
        ({"stages": ["rellu", "last"]}, "has no module 'rellu'; did you mean 'relu'?"),
        ({"classifier": "conv"}, "classifier 'conv' is Conv2d, not Linear"),
        ({"norms": ["down"]}, "norm 'down' is Conv2d, not BatchNorm2d"),
        ({"preact": ["conv"]}, "1 preact for 2 stages (one for each stage)"),
        ({"norms": ["norm", "norm"]}, "2 norms for 2 stages (one for each stage but the stem)"),
        ({"preact": ["down", "norm"]}, "maps before their ReLU are 6 x 4 x 4, 6 x 4 x 4, after 4 x 8 x 8, 6 x 4 x 4"),
        ({"stages": ["relu", "flat"]}, "'flat' gives [1, 6], not a map [batch, channels, height, width]"),
        ({"pooled": "relu"}, "the pooled feature is [1, 4], but fc takes [batch, 6]"),
        ({"last_map": "relu"}, "the last map has 4 channels, the pooled feature 6"),
        (
            {"stages": ["last", "relu"], "preact": [InputOf("last"), "conv"]},
            "norm 'norm' has 6 channels, its map 4",
        ),
    ],
)
def test_names_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    assert refused(**changes) == f"network plain: {message}"


def test_modules_that_do_not_fit() -> None:
    assert refused(lambda settings, inputs: plain(None, InputSpec(1, 8, 4))) == (
        "network <lambda>: returns [1, 4], not logits [batch, 5]"
    )
    assert refused(inputs=InputSpec(1, 0, 5)).startswith("network plain: cannot process images of 1 x 0 x 0 (")

    class Pair(Overwriting):
        def forward(self, images: Tensor) -> Any:
            return super().forward(images), images

    only = {"stages": (), "preact": (), "norms": (), "last_map": None, "pooled": None}
    assert refused(lambda settings, inputs: Pair(5), **only) == "network <lambda>: returns tuple, not logits [batch, 5]"

    def idle(settings: Any, inputs: InputSpec) -> nn.Module:
        module = Overwriting(inputs.num_classes)
        module.idle = nn.ReLU()
        return module

    assert refused(idle, **(only | {"stages": ["idle"]})) == "network idle: no tensor comes out of 'idle' in a forward"
    assert refused(idle, **(only | {"stages": [InputOf("idle")]})) == (
        "network idle: no tensor goes into 'idle' in a forward"
    )


def test_building_leaves_modes_and_random_numbers_alone() -> None:
    def frozen_norm(settings: Any, inputs: InputSpec) -> nn.Module:
        module = plain(settings, inputs)
        module.get_submodule("norm").eval()
        return module

    network = built(frozen_norm, **EVERYTHING)
    assert network.training
    assert network.get_submodule("conv").training
    assert not network.get_submodule("norm").training
    assert int(network.state_dict()["norm.num_batches_tracked"]) == 0


def test_names_of_inputs_are_not_names_of_outputs() -> None:
    assert InputOf("fc") != "fc"
    assert InputOf("fc") == InputOf("fc")
    assert len({InputOf("fc"), "fc", InputOf("fc")}) == 2
    assert repr(InputOf("fc")) == "InputOf('fc')"


PLUGIN = '''
from pydantic import Field
from torch import nn

from akdtune.networks.adapter import adapt
from akdtune.registry import ComponentSettings, register


class Settings(ComponentSettings):
    """Its width."""

    width: int = Field(4, description="channels")


def plugged(settings, inputs):
    """A network of the user's own."""
    return nn.Sequential(
        nn.Conv2d(inputs.channels, settings.width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(settings.width, inputs.num_classes),
    )


register("plugged_network")(adapt(plugged, classifier="3", stages=["0"], settings=Settings, source="nobody"))
'''


def test_a_plugin_registers_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_plugged_plugin.py").write_text(PLUGIN)
    with kept():
        load_plugins(["my_plugged_plugin"], [str(tmp_path)])
        network = networks.build({"name": "plugged_network", "width": 7}, INPUTS, 0)
        same, other = (networks.build({"name": "plugged_network", "width": 7}, INPUTS, seed) for seed in (0, 1))
    assert network.stage_shapes == ((7, 6, 6),)
    assert type(network).__doc__ == "A network of the user's own."
    assert type(network).source == "nobody"
    assert network(IMAGES).logits_BK.shape == (3, 5)
    assert torch.equal(network(IMAGES).logits_BK, same(IMAGES).logits_BK)
    assert not torch.equal(network(IMAGES).logits_BK, other(IMAGES).logits_BK)
    sys.modules.pop("my_plugged_plugin")


def test_a_torchvision_model_that_is_not_registered() -> None:
    from torchvision import models

    def regnet(settings: Any, inputs: InputSpec) -> nn.Module:
        built: nn.Module = models.regnet_y_400mf(num_classes=inputs.num_classes)
        return built

    stages = ["stem", *(f"trunk_output.block{number}" for number in (1, 2, 3, 4))]
    network = built(
        regnet, InputSpec(3, 64, 5), classifier="fc", pooled="avgpool", stages=stages, last_map="trunk_output"
    ).eval()
    assert network.stage_shapes == ((32, 32, 32), (48, 16, 16), (104, 8, 8), (208, 4, 4), (440, 2, 2))
    own = regnet(None, InputSpec(3, 64, 5)).eval()
    own.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    said = network(images, stages=True)
    torch.testing.assert_close(said.logits_BK, own(images))
    torch.testing.assert_close(said.last_map.mean(dim=(2, 3)), said.pooled_BC)


def test_a_subclass_may_have_settings_and_methods_of_its_own() -> None:
    class Mine(AdaptedNetwork):
        """A class instead of a function."""

        class Settings(ComponentSettings):
            classes_more: int = Field(0, description="too many classes")

        captures = adapt(plain, **EVERYTHING).captures

        def module(self, settings: Any, inputs: InputSpec) -> nn.Module:
            return plain(settings, InputSpec(inputs.channels, inputs.size, inputs.num_classes + settings.classes_more))

    assert Mine.offers == {"stages", "preact", "last_map"}
    assert Mine(Mine.Settings(), INPUTS)(IMAGES).logits_BK.shape == (3, 5)
    with pytest.raises(AkdtuneError, match=r"network Mine: returns \[1, 6\], not logits \[batch, 5\]"):
        Mine(Mine.Settings(classes_more=1), INPUTS)
