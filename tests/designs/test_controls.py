"""Every control from a real base: what it changes, what it keeps, what it says, and where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from akdtune import networks
from akdtune.designs.controls import MATCHES, NAMES, REPLICAS, ControlContext, build, parameters_of
from akdtune.designs.no_effect import canonical
from akdtune.designs.selecting import RANDOM_ROWS, SAME_ROWS
from akdtune.errors import AkdtuneError
from akdtune.registry import Pair
from akdtune.settings.trial import trial_settings
from akdtune.signals import InputSpec

CONTEXT = ControlContext(Pair("digits", "cnn", "cnn"), (1, 8, 10), {"name": "cnn", "widths": [8, 16, 32]})
CIFAR = ControlContext(Pair("cifar100", "resnet32x4", "resnet8x4"), (3, 32, 100), "resnet32x4")
STUDY = {"data": {"name": "digits"}, "teacher": {"network": {"name": "cnn", "widths": [8, 16, 32]}}}
BASE: dict[str, Any] = {
    "views": {"name": "angular", "variant": "released", "num_views": 3, "warmup_epochs": 4},
    "method": [{"name": "kd", "weight": 1.5}, {"name": "rkd", "weight": 0.5}],
    "student": {"network": {"name": "cnn", "widths": [4, 8]}},
    "training": {"epochs": 10, "milestones": [5, 8], "batch_size": 32},
}
TEKAP = {**BASE, "views": {"name": "tekap"}}


def filled(sections: Any) -> dict[str, Any]:
    settings, issues = trial_settings(dict(sections), STUDY)
    assert not issues
    return settings


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (RANDOM_ROWS, SAME_ROWS)])
@pytest.mark.parametrize("form", ["written", "filled"])
def test_every_control_fits_the_base(name: str, form: str) -> None:
    base = BASE if form == "written" else filled(BASE)
    control = build(name, base, CONTEXT)
    settings = filled(control.sections)
    assert control.explanation.endswith(".") and ". " not in control.explanation
    shifts = {"independent": {"order": 100_003}, **{name: {"rounding": r} for name, r in REPLICAS.items()}}
    assert control.seeds_shift == shifts.get(name, {}) and control.repeats is (name in REPLICAS)
    own = name in ("student_only", "label_smoothing", "independent")
    assert settings["training"]["ce_weight"] == (None if name in REPLICAS else 1.0)
    assert ("own objective" in control.explanation) is own
    if not own:
        assert settings["method"] == filled(BASE)["method"]
    kept = {
        key: value for key, value in settings["training"].items() if key not in ("ce_weight", "epochs", "milestones")
    }
    assert kept == {key: value for key, value in filled(BASE)["training"].items() if key in kept}
    assert (settings["student"] == filled(BASE)["student"]) is (name != "parameter_matched")
    assert (settings["training"]["epochs"] == 10) is (name != "step_matched")


def test_the_weight_of_the_cross_entropy_is_the_bases_number() -> None:
    base = {**TEKAP, "method": ["kd"]}
    for name in ("kd", "plain", *MATCHES, "random_teacher", "step_matched"):
        assert build(name, base, CONTEXT).sections["training"]["ce_weight"] == 0.1
    assert build("student_only", base, CONTEXT).sections["training"]["ce_weight"] == 1.0
    given = {**base, "training": {"ce_weight": 0.3}}
    assert build("plain", given, CONTEXT).sections["training"]["ce_weight"] == 0.3
    assert build("student_only", given, CONTEXT).sections["training"]["ce_weight"] == 1.0
    of_dkd = {**base, "method": ["dkd"]}
    kd = build("kd", of_dkd, CONTEXT)
    assert kd.sections["method"] == [{"name": "kd"}] and kd.sections["training"]["ce_weight"] == 1.0
    assert "cross-entropy weight 1" in kd.explanation


@pytest.mark.parametrize(("name", "match"), MATCHES.items())
def test_matched_controls_wrap_the_bases_views(name: str, match: str) -> None:
    views = filled(build(name, TEKAP, CONTEXT).sections)["views"]
    assert (views["name"], views["match"]) == ("matched", match)
    assert views["of"] == filled(TEKAP)["views"]


def test_views_without_a_shrink_have_one_control_less() -> None:
    shrink, weight = (build(name, BASE, CONTEXT) for name in ("shrink_matched", "weight_matched"))
    assert "has no shrink" in shrink.explanation
    assert canonical(filled(shrink.sections)) == canonical(filled(weight.sections))


@pytest.mark.parametrize("views", [BASE["views"], {"name": "none"}, {"name": "matched", "of": {"name": "tekap"}}])
def test_a_replica_is_the_base_to_the_letter(views: dict[str, Any]) -> None:
    base = filled({**BASE, "views": views})
    control = build("replica", base, CONTEXT)
    assert filled(control.sections) == base and control.seeds_shift == {"rounding": 1}
    assert "the same experiment in exact arithmetic" in control.explanation


def test_a_student_with_dropout_has_no_replica(tmp_path: Path) -> None:
    inputs = ControlContext(CIFAR.pair, (3, 64, 10), CIFAR.teacher)
    student = {"network": {"name": "torchvision_mobilenet_v2", "weights": "IMAGENET1K_V1"}}
    with pytest.raises(AkdtuneError, match="'replica' makes no sense here: the student 'torchvision_mobilenet_v2' dra"):
        build("replica", {**BASE, "student": student}, inputs)
    frozen = {**student, "train": "classifier", "checkpoint": str(tmp_path / "body.pt")}
    assert build("replica", {**BASE, "student": frozen}, inputs).repeats, "a frozen body drops nothing"
    assert build("replica", {**BASE, "student": {"network": "torchvision_resnet18"}}, inputs).repeats


def test_heads() -> None:
    labels = filled(build("heads_labels_only", BASE, CONTEXT).sections)["views"]
    assert (labels["inter"], labels["intra"], labels["gt_weight"], labels["warmup_epochs"]) == (False, False, 0.8, 4)
    frozen = filled(build("ensemble_without_losses", BASE, CONTEXT).sections)["views"]
    assert (frozen["gt_weight"], frozen["train_heads"], frozen["num_views"]) == (0.0, "frozen", 3)


def test_step_matched_takes_the_warmup_into_account() -> None:
    training = build("step_matched", BASE, CONTEXT).sections["training"]
    assert (training["epochs"], training["milestones"]) == (14, [7, 11])
    by_default = {**BASE, "training": {"epochs": 10}}
    assert "milestones" not in build("step_matched", by_default, CONTEXT).sections["training"]
    without, plain = (build(name, TEKAP, CONTEXT) for name in ("step_matched", "plain"))
    assert without.sections == plain.sections and "no warm-up" in without.explanation


def test_parameter_matched_widens_a_cnn() -> None:
    own, beside = parameters_of(BASE, CONTEXT)
    student = networks.build(BASE["student"]["network"], InputSpec(1, 8, 10), 0)
    assert own == sum(parameter.numel() for parameter in student.parameters())
    assert beside == 3 * (32 * 32 + 32 + 2 * 32 + 32 * 10 + 10)  # a head each; kd and rkd have nothing of their own
    network = build("parameter_matched", BASE, CONTEXT).sections["student"]["network"]
    size = sum(parameter.numel() for parameter in networks.build(network, InputSpec(1, 8, 10), 0).parameters())
    assert abs(size - own - beside) / (own + beside) < 0.03
    assert network["widths"][1] == pytest.approx(2 * network["widths"][0], abs=1)


def test_parameter_matched_takes_another_member_of_the_family() -> None:
    base = {"views": "angular", "method": "kd", "student": {"network": "resnet8"}, "training": {}}
    assert parameters_of(base, CIFAR) == (83_892, 5 * 92_004)
    control = build("parameter_matched", base, CIFAR)
    assert control.sections["student"]["network"] == "resnet32"  # 472,756 is nearest to 543,912
    assert "472,756 parameters instead of 83,892" in control.explanation
    with pytest.raises(AkdtuneError, match="no network of the student's family is nearer"):
        build(
            "parameter_matched",
            {**base, "views": {"name": "angular", "num_views": 1}, "student": {"network": "resnet56"}},
            CIFAR,
        )


@pytest.mark.parametrize(
    ("name", "base", "reason"),
    [
        ("wieght_matched", BASE, "did you mean 'weight_matched'"),
        ("plain", {**BASE, "views": None}, "the base has no views"),
        ("weight_matched", {**BASE, "views": "none"}, "the base has no views"),
        ("step_matched", {**BASE, "views": None}, "the base has no views"),
        ("kd", {**BASE, "views": None}, "kd without views already"),
        ("entropy_matched", {**BASE, "views": {"name": "matched"}}, "a control of views itself"),
        ("heads_labels_only", TEKAP, "the views 'tekap' with these settings have no heads that learn"),
        ("ensemble_without_losses", TEKAP, "have no heads with losses"),
        ("random_teacher", {**BASE, "views": "random"}, "noise for a teacher already"),
        ("random_teacher", {**BASE, "views": None, "method": ["at"]}, "at read neither logits nor"),
        ("parameter_matched", TEKAP, "nothing trains beside the student"),
        ("parameter_matched", {**BASE, "student": {"network": "cnn", "checkpoint": "a.pt"}}, "weights of a file"),
    ],
)
def test_controls_that_make_no_sense_are_refused(name: str, base: dict[str, Any], reason: str) -> None:
    with pytest.raises(AkdtuneError, match=reason):
        build(name, base, CONTEXT)


def test_kd_without_views_is_a_control_of_another_method() -> None:
    control = build("kd", {**BASE, "views": None, "method": ["dkd"]}, CONTEXT)
    assert control.sections["method"] == [{"name": "kd"}]
    assert build("kd", BASE, CONTEXT).sections["method"] == BASE["method"]
