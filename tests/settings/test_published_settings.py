"""The numbers that papers and their code publish, typed anew from those, against what a study without them resolves.

Sources by method: mdistiller's configurations (kd, dkd, fitnet, at, nst, vid, ofd, kdsvd, sp, rkd, pkt, crd, and
reviewkd on ImageNet), RepDistiller (cc), the authors' scripts and configurations (reviewkd, ctkd, cat_kd, nkd, wsld,
simkd, mlkd), their papers (dist, pld, last_batch), and the code of logit standardisation (`standardize`).
"""

from __future__ import annotations

from typing import Any

import pytest

from akdtune.methods import published_on
from akdtune.registry import Pair, lookup, names
from akdtune.settings.training import TrainingSettings
from akdtune.settings.trial import resolve_ce_weight, trial_settings

R34_R18 = ("torchvision_resnet34", "torchvision_resnet18")
R50_MV2 = ("torchvision_resnet50", "torchvision_mobilenet_v2")
PAIRS = {
    "wrn40_2 > wrn16_2": ("wrn_40_2", "wrn_16_2"),
    "wrn40_2 > wrn40_1": ("wrn_40_2", "wrn_40_1"),
    "res56 > res20": ("resnet56", "resnet20"),
    "res110 > res20": ("resnet110", "resnet20"),
    "res110 > res32": ("resnet110", "resnet32"),
    "res32x4 > res8x4": ("resnet32x4", "resnet8x4"),
    "vgg13 > vgg8": ("vgg13", "vgg8"),
    "vgg13 > mv2": ("vgg13", "MobileNetV2"),
    "res50 > mv2": ("ResNet50", "MobileNetV2"),
    "res50 > vgg8": ("ResNet50", "vgg8"),
    "res32x4 > shuv1": ("resnet32x4", "ShuffleV1"),
    "res32x4 > shuv2": ("resnet32x4", "ShuffleV2"),
    "wrn40_2 > shuv1": ("wrn_40_2", "ShuffleV1"),
}
"""Pairs of the CIFAR-100 tables."""

CIFAR100: dict[str, dict[str, Any]] = {
    "student_only": {"ce": 1.0},
    "label_smoothing": {"ce": 1.0, "smoothing": 0.1},
    "last_batch": {"ce": 1.0, "temperature": 3.0, "weight": 1.0},
    "kd": {"ce": 0.1, "temperature": 4.0, "weight": 0.9, "standardize": False},
    "dkd": {"ce": 1.0, "temperature": 4.0, "alpha": 1.0, "weight": 1.0, "warmup_epochs": 20},
    "mlkd": {"ce": 0.1, "ce_strong_weight": 0.1, "weight": 0.9, "temperatures": [4.0, 3.0, 5.0, 2.0, 6.0]},
    "dist": {"ce": 1.0, "temperature": 4.0, "beta": 2.0, "gamma": 2.0},
    "nkd": {"ce": 1.0, "temperature": 3.0, "gamma": 3.5, "weight": 1.0},
    "wsld": {"ce": 1.0, "temperature": 4.0, "alpha": 2.25},
    "ctkd": {"ce": 0.1, "weight": 0.9, "minimum": 1.0, "span": 20.0, "reversal": 1.0, "ramp_epochs": 10},
    "pld": {"ce": 0.0, "temperature": 4.0, "weight": 1.0},
    "fitnet": {"ce": 1.0, "hint_stage": 2, "weight": 100.0},
    "at": {"ce": 1.0, "power": 2, "weight": 1000.0},
    "nst": {"ce": 1.0, "weight": 50.0},
    "vid": {"ce": 1.0, "weight": 1.0, "first_variance": 5.0, "smallest_variance": 1e-5},
    "ofd": {"ce": 1.0, "weight": 1e-3},
    "reviewkd": {"ce": 1.0, "warmup_epochs": 20, "student_preact": False, "max_width": 512},
    "crd": {
        "ce": 1.0,
        "weight": 0.8,
        "embedding_dim": 128,
        "temperature": 0.07,
        "momentum": 0.5,
        "num_negatives": 16384,
    },
    "kdsvd": {"ce": 1.0, "rank": 1, "weight": 1.0},
    "sp": {"ce": 1.0, "weight": 3000.0},
    "rkd": {"ce": 1.0, "distance_weight": 25.0, "angle_weight": 50.0, "weight": 1.0},
    "pkt": {"ce": 1.0, "weight": 30000.0},
    "cc": {"ce": 1.0, "weight": 0.02, "embedding_dim": 128},
    "simkd": {"ce": 0.0, "weight": 1.0, "factor": 2},
    "cat_kd": {"ce": 1.0},
}
"""The same for every pair; `ce` is the weight of the cross-entropy."""

BY_PAIR: dict[str, dict[str, dict[str, Any]]] = {
    "dkd": {
        **{name: {"beta": 8.0} for name in PAIRS},
        **{name: {"beta": 2.0} for name in ("res56 > res20", "res110 > res32")},
        **{name: {"beta": 6.0} for name in ("wrn40_2 > wrn16_2", "wrn40_2 > wrn40_1", "vgg13 > vgg8", "vgg13 > mv2")},
    },
    "reviewkd": {
        "wrn40_2 > wrn16_2": {"weight": 5.0},
        "wrn40_2 > wrn40_1": {"weight": 5.0},
        "wrn40_2 > shuv1": {"weight": 5.0},
        "res32x4 > res8x4": {"weight": 5.0},
        "res32x4 > shuv1": {"weight": 5.0},
        "res32x4 > shuv2": {"weight": 8.0},
        "res56 > res20": {"weight": 0.6},
        "res110 > res32": {"weight": 1.0},
    },
    "cat_kd": {
        "res56 > res20": {"weight": 0.7, "resolution": 2, "normalize": False},
        "wrn40_2 > wrn40_1": {"weight": 1.5, "resolution": 2, "normalize": False},
        "res110 > res32": {"weight": 1.8, "resolution": 2, "normalize": False},
        "vgg13 > vgg8": {"weight": 4.5, "resolution": 2, "normalize": False},
        "wrn40_2 > wrn16_2": {"weight": 12.0, "resolution": 2, "normalize": False},
        "res32x4 > res8x4": {"weight": 15.0, "resolution": 2, "normalize": False},
        "vgg13 > mv2": {"weight": 15.0, "resolution": 2, "normalize": True},
        "res50 > mv2": {"weight": 40.0, "resolution": 2, "normalize": True},
        "wrn40_2 > shuv1": {"weight": 80.0, "resolution": 4, "normalize": True},
        "res32x4 > shuv1": {"weight": 600.0, "resolution": 4, "normalize": True},
        "res32x4 > shuv2": {"weight": 600.0, "resolution": 4, "normalize": True},
    },
}

IMAGENET: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    R34_R18: {
        "kd": {"ce": 0.5, "temperature": 1.0, "weight": 0.5},
        "dkd": {"ce": 1.0, "temperature": 1.0, "alpha": 1.0, "beta": 0.5, "warmup_epochs": 1},
        "dist": {"ce": 1.0, "temperature": 1.0, "beta": 2.0, "gamma": 2.0},
        "nkd": {"ce": 1.0, "temperature": 1.0, "gamma": 1.5},
        "wsld": {"ce": 1.0, "temperature": 2.0, "alpha": 2.5},
        "ctkd": {"ce": 1.0, "weight": 1.0, "minimum": 1.0, "span": 20.0, "ramp_epochs": 5},
        "pld": {"ce": 0.0, "temperature": 1.0},
        "at": {"ce": 1.0, "power": 2, "weight": 1000.0},
        "crd": {"ce": 1.0, "weight": 0.8, "num_negatives": 16384},
        "ofd": {"ce": 1.0, "weight": 1e-4},
        "reviewkd": {"ce": 1.0, "weight": 1.0, "warmup_epochs": 1, "student_preact": True},
        "simkd": {"ce": 0.0, "weight": 1.0},
        "cat_kd": {"ce": 1.0, "weight": 0.5, "resolution": 4, "normalize": False},
    },
    R50_MV2: {
        "kd": {"ce": 0.5, "temperature": 1.0, "weight": 0.5},
        "dkd": {"ce": 1.0, "temperature": 1.0, "alpha": 1.0, "beta": 2.0, "warmup_epochs": 1},
        "ofd": {"ce": 1.0, "weight": 1e-4},
        "reviewkd": {"ce": 1.0, "weight": 8.0, "warmup_epochs": 1, "student_preact": True},
        "cat_kd": {"ce": 1.0, "weight": 10.0, "resolution": 2, "normalize": True},
    },
}

STANDARDIZED: dict[str, dict[str, Any]] = {
    "kd": {"ce": 0.1, "temperature": 2.0, "weight": 9.0},
    "dkd": {"ce": 1.0, "temperature": 2.0, "weight": 9.0, "alpha": 1.0},  # alpha and beta times 9
    "mlkd": {"ce": 0.1, "weight": 9.0, "temperatures": [2.0, 3.0, 5.0, 2.0, 6.0]},
}


def resolved(method: str, pair: tuple[str, str], data: str = "cifar100", **given: Any) -> dict[str, Any]:
    """What a study that says nothing else trains with; `ce` is the weight of the cross-entropy."""
    teacher, student = pair
    values = {
        "student": {"network": student},
        "views": {"name": "none"},
        "method": {"name": method, **given},
        "training": {},
    }
    settings, _ = trial_settings(values, {"data": {"name": data}, "teacher": {"network": teacher}})
    training = TrainingSettings(**settings["training"])
    assert training.ce_weight is None
    ce_weight = resolve_ce_weight(training, [lookup("methods", method)], Pair(data, teacher, student))
    return {**settings["method"][0], "ce": ce_weight}


def agrees(taken: dict[str, Any], published: dict[str, Any]) -> None:
    assert {key: taken[key] for key in published} == published


def test_every_published_method_is_here() -> None:
    # reconstructions without published numbers, and methods of spiking and of federated students
    ours = {"sdpgo_style", "branch_self", "time_self", "fedfd"}
    registered = {name for name in names("methods") if lookup("methods", name).__module__.startswith("akdtune.")}
    assert registered == CIFAR100.keys() | ours


@pytest.mark.parametrize("method", sorted(CIFAR100))
def test_cifar100(method: str) -> None:
    for name, pair in PAIRS.items():
        agrees(resolved(method, pair), CIFAR100[method] | BY_PAIR.get(method, {}).get(name, {}))


def test_pairs_that_nothing_is_published_for_take_the_defaults() -> None:
    for method, by_pair in BY_PAIR.items():
        defaults = lookup("methods", method).Settings().model_dump(mode="json")
        for name in PAIRS.keys() - by_pair.keys():
            agrees(resolved(method, PAIRS[name]), defaults)
    assert len(BY_PAIR["cat_kd"]) == len(BY_PAIR["reviewkd"]) + 3


@pytest.mark.parametrize("pair", [R34_R18, R50_MV2])
def test_imagenet(pair: tuple[str, str]) -> None:
    for method, published in IMAGENET[pair].items():
        agrees(resolved(method, pair, "imagenet"), published)


@pytest.mark.parametrize("data", ["parquet", "image_folder", "cifar10", "tiny_imagenet"])
def test_any_other_data_takes_the_numbers_of_cifar100_by_pair(data: str) -> None:
    for method in ("kd", "dkd", "reviewkd", "cat_kd", "ofd"):
        for name, pair in PAIRS.items():
            agrees(resolved(method, pair, data), CIFAR100[method] | BY_PAIR.get(method, {}).get(name, {}))
        assert resolved(method, R34_R18, data) == resolved(method, R34_R18, "cifar100")
    assert published_on(Pair(data, "a", "b")) == "cifar100"
    assert published_on(Pair("imagenet", None, "b")) == "imagenet"


@pytest.mark.parametrize("method", sorted(STANDARDIZED))
def test_logit_standardization(method: str) -> None:
    agrees(resolved(method, PAIRS["res32x4 > res8x4"], standardize=True), STANDARDIZED[method])
    taken = resolved(method, PAIRS["res56 > res20"], standardize=True)
    agrees(taken, STANDARDIZED[method])
    assert taken.get("beta", 2.0) == 2.0, "the pair's own, nine times through the weight"


def test_the_recipe_is_the_published_one_and_what_is_given_wins() -> None:
    recipe = TrainingSettings()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.lr_decay) == (240, 64, 0.05, 0.1)
    assert (recipe.momentum, recipe.weight_decay, recipe.resolved_milestones()) == (0.9, 5e-4, [150, 180, 210])
    assert (recipe.optimizer, recipe.schedule, recipe.dot_delta) == ("sgd", "step", 0.075)
    assert resolved("dkd", PAIRS["res56 > res20"], beta=8.0)["beta"] == 8.0
    assert resolved("kd", R34_R18, "imagenet", temperature=4.0)["temperature"] == 4.0


def test_a_sum_takes_the_largest_weight_of_the_cross_entropy() -> None:
    pair = Pair("cifar100", *PAIRS["res32x4 > res8x4"])
    for methods, expected in ((("kd", "crd"), 1.0), (("kd", "pld"), 0.1), (("simkd", "pld"), 0.0)):
        assert resolve_ce_weight(TrainingSettings(), [lookup("methods", name) for name in methods], pair) == expected
    given = TrainingSettings(ce_weight=0.3)
    assert resolve_ce_weight(given, [lookup("methods", "kd")], pair) == 0.3
