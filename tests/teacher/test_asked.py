"""Frozen teachers in bfloat16: float32 answers close to the exact ones, by every family and of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune import networks
from akdtune.data.crops import crops
from akdtune.data.dataset import load_data
from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import CacheSettings, teacher_compute
from akdtune.signals import InputSpec, Signals
from akdtune.teacher.asked import InBfloat16, asked, fold_norms
from akdtune.teacher.frozen import FrozenTeacher
from tests.small_trials import CPU

FAMILIES = ["cnn", "resnet8", "resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2",
            "torchvision_mobilenet_v3_small"]  # fmt: skip
COLOUR = InputSpec(3, 32, 10)
CLOSE = 0.03
"""Of the length of what is said; a number of bfloat16 has 8 significant bits, and a network rounds at every layer."""


def eval_network(name: str | dict[str, Any], inputs: InputSpec = COLOUR) -> Network:
    """A network whose BatchNorms hold statistics of images, as those of a trained one do."""
    built = networks.build(name, inputs, 0).train()
    with torch.no_grad():
        for _ in range(3):
            built(images(16, inputs))
    return built.eval().requires_grad_(False)


def images(count: int, inputs: InputSpec = COLOUR) -> Tensor:
    drawn = torch.randn(count, inputs.channels, inputs.size, inputs.size, generator=torch.Generator().manual_seed(1))
    return drawn.contiguous(memory_format=torch.channels_last)


def tensors(said: Signals) -> Iterator[tuple[str, Tensor]]:
    """Everything that a network says, by name."""
    yield from (("logits", said.logits_BK), ("pooled", said.pooled_BC))
    for name in ("stages", "preact_stages"):
        yield from ((f"{name}[{number}]", each) for number, each in enumerate(getattr(said, name) or ()))
    if said.last_map is not None:
        yield "last_map", said.last_map


def assert_close(given: Signals, exact: Signals) -> None:
    both = list(zip(tensors(given), tensors(exact), strict=True))
    for (name, mine), (expected_name, expected) in both:
        assert name == expected_name and mine.shape == expected.shape
        assert mine.dtype == torch.float32 and mine.isfinite().all() and not mine.requires_grad, name
        assert float((mine - expected).norm()) <= CLOSE * float(expected.norm()), name


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_says_in_bfloat16_what_it_says_in_float32(name: str) -> None:
    inputs = InputSpec(3, 64 if "_" in name[5:] else 32, 10)
    network = eval_network(name, inputs)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    in_bfloat16 = asked(network, "bf16")
    for stages in (True, False):
        said = in_bfloat16(images(8, inputs), stages)
        exact = network(images(8, inputs), stages)
        assert_close(said, exact)
        assert not torch.equal(said.pooled_BC, exact.pooled_BC), "it was computed in bfloat16"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_float32_is_the_network_itself() -> None:
    network = eval_network("resnet8")
    assert asked(network, "fp32") is network


def test_the_last_layer_stays_in_float32() -> None:
    network = eval_network("resnet8")
    said = asked(network, "bf16")(images(8))
    weight_KC, bias_K = network.classifier()
    assert torch.equal(said.logits_BK, nn.functional.linear(said.pooled_BC, weight_KC, bias_K))


@pytest.mark.parametrize(
    ("name", "left"), [("resnet8", 0), ("vgg8", 0), ("MobileNetV2", 0), ("wrn_16_1", 7), ("wrn_16_2", 7)]
)
def test_norms_after_convolutions_become_part_of_them(name: str, left: int) -> None:
    network = eval_network(name)
    exact = network(images(4), True)
    fold_norms(network, images(2))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == left
    for (of, mine), (_, expected) in zip(tensors(network(images(4), True)), tensors(exact), strict=True):
        assert float((mine - expected).norm()) <= 1e-5 * float(expected.norm()), of


def test_norms_that_stay_do_so_in_float32() -> None:
    in_bfloat16 = InBfloat16(eval_network("wrn_16_1"))
    in_bfloat16(images(2))
    converted = in_bfloat16._network
    assert converted is not None
    kinds = {type(module).__name__: {value.dtype for value in module.parameters(recurse=False)} for module in
             converted.modules() if list(module.parameters(recurse=False))}  # fmt: skip
    assert kinds == {"Conv2d": {torch.bfloat16}, "BatchNorm2d": {torch.float32}, "Linear": {torch.bfloat16}}


class _Wrapped(Network):
    """A small network around a convolution and its BatchNorm, whose map goes through `finish`."""

    def __init__(self, finish: Callable[[_Wrapped, Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.pooled_dim, self.finish = 4, finish
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)
        self.norm.running_mean = torch.arange(4.0)

    @override
    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        pooled_BC = self.finish(self, self.conv(images_BCHW)).mean(dim=(2, 3))
        return Signals(self.fc(pooled_BC), pooled_BC)

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        return self.fc.weight, self.fc.bias


@pytest.mark.parametrize(
    "finish",
    [
        lambda self, made: self.norm(made) + made,
        lambda self, made: self.norm(self.norm(made)),
        lambda self, made: torch.cat([self.norm(made), made], dim=2),
        lambda self, made: self.norm(made.relu()),
        lambda self, made: made,
    ],
)
def test_a_convolution_that_others_read_as_well_keeps_its_norm(finish: Callable[[_Wrapped, Tensor], Tensor]) -> None:
    network: Any = _Wrapped(finish).eval().requires_grad_(False)
    in_bfloat16 = InBfloat16(network)
    assert_close(in_bfloat16(images(8)), network(images(8)))
    assert in_bfloat16._network is not None and isinstance(in_bfloat16._network.norm, nn.BatchNorm2d)


def test_code_that_takes_no_bfloat16_is_named_with_the_remedy() -> None:
    def strict(self: _Wrapped, made: Tensor) -> Tensor:
        return made @ torch.ones(made.shape[-1], 3) if made.dtype == torch.float32 else made.view(torch.float64)

    network: Any = _Wrapped(strict).eval()
    with pytest.raises(AkdtuneError) as raised:
        asked(network, "bf16")(images(2))
    text = str(raised.value)
    assert text.startswith("teacher_cache.compute: network _Wrapped does not run in bfloat16 (")
    assert text.endswith("; set teacher_cache.compute: fp32")


@pytest.mark.parametrize(
    ("cache", "precision", "expected"),
    [
        (CacheSettings(), "fp32", "fp32"),
        (CacheSettings(), "bf16", "bf16"),
        (CacheSettings(compute="fp32"), "bf16", "fp32"),
        (CacheSettings(compute="bf16"), "fp32", "bf16"),
        (None, "bf16", "fp32"),
        (CacheSettings.held({"dtype": "fp16"}), "bf16", "fp32"),
        (CacheSettings.held({"dtype": "fp16", "compute": None}), "bf16", "bf16"),
    ],
)
def test_teachers_follow_the_students_precision_unless_told(
    cache: CacheSettings | None, precision: str, expected: str
) -> None:
    assert teacher_compute(cache, {"precision": precision}) == expected
    if precision == "fp32":
        assert teacher_compute(cache, {}) == expected


@pytest.mark.parametrize("table", [False, True])
def test_live_stored_strong_and_further_signals_are_of_one_precision(table: bool) -> None:
    dataset = load_data(DataSettings(name="digits", validation=600), CPU)
    split = dataset.split("subset").train
    network, other = (eval_network({"name": "cnn", "widths": widths}, dataset.inputs) for widths in ([8, 16], [12]))
    rest = split, dataset.augmentation, 40 if table else 3, [other]
    exact, frozen = FrozenTeacher(network, *rest), FrozenTeacher(network, *rest, compute="bf16")
    assert frozen.keeps_table is table and frozen.network is network and frozen.others == (other,)
    positions_B = torch.arange(64)
    drawn = crops(0, 1, split.sample_ids_N[positions_B], dataset.augmentation)
    images_BCHW = split.images(positions_B, drawn)
    for stages in (False, True):
        mine, expected = (of.signals(positions_B, images_BCHW, drawn, stages, images_BCHW) for of in (frozen, exact))
        assert mine.strong is not None and expected.strong is not None
        for said, as_expected in ((mine, expected), (mine.strong, expected.strong)):
            assert_close(said, as_expected)
            assert not torch.equal(said.pooled_BC, as_expected.pooled_BC)
            for further, further_expected in zip(said.others, as_expected.others, strict=True):
                assert_close(further, further_expected)
                assert not torch.equal(further.pooled_BC, further_expected.pooled_BC)
        if stages:
            assert mine.classifier is not None and mine.classifier[0] is not network.classifier()[0]
            assert torch.equal(mine.classifier[0], network.classifier()[0])
