"""Cells of an ablation: from the file to checked configurations, merged, with controls, or refused in one message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from akdtune.designs import controls
from akdtune.errors import SettingsError
from akdtune.planning import cell_lines
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.proposals import Outline, trains_on
from akdtune.study.spec import Study

STUDY = """\
study: small
data: {name: digits, validation: 300}
teacher: {network: {name: cnn, widths: [4, 4]}, epochs: 2}
student: {network: {name: cnn, widths: [2, 2]}}
views: {name: angular, variant: constrained, num_views: 2}
method: kd
training: {epochs: 4}
ablation:
  design: leave_one_out
  factors: {views.inter: [true, false], views.intra: [true, false]}
  controls: [plain, weight_matched]
  seeds: [0, 1, 2]
"""
Loader = Callable[..., Study]


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    def write_and_load(*overrides: str, text: str = STUDY) -> Study:
        (tmp_path / "study.yaml").write_text(text)
        return spec.load(tmp_path / "study.yaml", overrides)

    return write_and_load


def cells(study: Study) -> dict[str, Any]:
    plan = study.cell_plan
    assert plan is not None
    return {cell.name: cell for cell in plan.cells}


def test_precision_is_a_factor_like_any_other(load: Loader) -> None:
    factors = "ablation.factors={training.precision: [fp32, bf16]}"
    by_name = cells(load(factors, "ablation.controls=[replica]"))
    assert list(by_name) == ["base", "precision=bf16", "replica"]
    assert [cell.settings["training"]["precision"] for cell in by_name.values()] == ["fp32", "bf16", "fp32"]
    ids = {cell_hash(cell.settings, "d", "t") for cell in by_name.values()}
    assert len(ids) == 3
    arms = "ablation={design: arms, arms: {bf16: {training.precision: bf16, training.tf32: true}}, seeds: [0, 1, 2]}"
    study = load(arms, "ablation.factors={}")
    assert study.teachers_compute == ["fp32", "bf16"]
    assert load(arms, "ablation.factors={}", "teacher_cache.compute=fp32").teachers_compute == ["fp32"]
    assert load(arms, "ablation.factors={}", "teacher_cache=null").teachers_compute == ["fp32"]


def test_what_the_student_sees_is_a_factor_like_any_other(load: Loader) -> None:
    levels = "[weak, strong, {autoaugment: cifar10, cutout: 4}]"
    study = load(f"ablation.factors={{training.augmentation: {levels}}}", "ablation.controls=[plain, student_only]")
    by_name = cells(study)
    published = "augmentation=autoaugment=cifar10+cutout=4"
    assert list(by_name) == ["base", "augmentation=strong", published, "plain", "student_only"]
    seen = [cell.settings["training"]["augmentation"] for cell in by_name.values()]
    assert seen == ["weak", "strong", {"autoaugment": "cifar10", "cutout": 4}, "weak", "weak"]
    assert [cell.arm for cell in by_name.values()] == [
        "angular/kd[augmentation=weak]",
        "angular/kd[augmentation=strong]",
        "angular/kd[augmentation=autoaugment=cifar10+cutout=4]",
        "none/kd[augmentation=weak]",
        "none/student_only[augmentation=weak]",
    ]
    assert len({cell_hash(cell.settings, "d", "t") for cell in by_name.values()}) == 5
    alone = load("training.augmentation=strong")
    assert {cell.arm for cell in cells(alone).values()} == {cell.arm for cell in cells(load()).values()}


def test_an_arm_says_of_an_augmentation_what_is_set(load: Loader) -> None:
    arms = "ablation={design: arms, arms: {other: {training.augmentation: {cutout: 2}}}, seeds: [0, 1, 2]}"
    weak = "training.augmentation={random_resized_crop: {scale: [0.2, 1.0]}, rotation: 15}"
    base, other = cells(load(weak, arms, "ablation.factors={}")).values()
    assert base.arm == "angular/kd[augmentation=random_resized_crop+rotation=15]"
    assert other.arm == "angular/kd[augmentation=cutout=2]"


def test_one_part_of_an_augmentation_is_a_factor_too(load: Loader) -> None:
    by_name = cells(load("training.augmentation=strong", "ablation.factors={training.augmentation.cutout: [4, 0]}"))
    assert by_name["cutout=0"].settings["training"]["augmentation"] == {"preset": "strong", "cutout": 0}


def test_an_augmentation_that_data_have_anyway_makes_no_cell(load: Loader) -> None:
    factors = "ablation.factors={training.augmentation: [null, weak, strong]}"
    by_name = cells(load(factors, "ablation.controls=[]"))
    assert list(by_name) == ["base", "augmentation=strong"]
    (line,) = by_name["base"].merged
    assert "(training.augmentation has no effect: data.augmentation says the same)" in line
    by_name = cells(load(factors, "ablation.controls=[]", "data.augmentation=strong"))
    assert list(by_name) == ["base", "augmentation=weak"]


@pytest.mark.parametrize("change", ["training.compile: true", "training.device: cpu", "training.cuda_graphs: true"])
def test_how_a_trial_runs_makes_no_cell(load: Loader, change: str) -> None:
    study = load(f"ablation={{design: arms, arms: {{other: {{{change}}}}}, seeds: [0, 1, 2]}}", "ablation.factors={}")
    (base,) = cells(study).values()
    path = change.partition(":")[0]
    (line,) = base.merged
    assert line == f"other: the same as base ({path} has no effect: it says how a trial runs, not what it is)"


def test_a_design_becomes_cells_with_settings_levels_and_roles(load: Loader) -> None:
    study = load()
    by_name = cells(study)
    assert list(by_name) == ["base", "inter=false", "intra=false", "plain", "weight_matched"]
    assert [cell.role for cell in by_name.values()] == ["ablation"] * 3 + ["control"] * 2
    assert by_name["inter=false"].settings["views"]["inter"] is False
    assert by_name["base"].settings["views"]["inter"] is True
    assert by_name["inter=false"].levels == {"views.inter": False, "views.intra": True}
    assert by_name["plain"].levels is None
    assert study.cell_plan is not None
    assert study.cell_plan.reference == "base"
    assert study.warnings == ()
    assert Outline(study).trials == 15
    assert trains_on(study) == ["full"], "an ablation alone needs no teacher of the validation split"


def test_matched_controls_keep_the_cross_entropy_and_every_term(load: Loader) -> None:
    by_name = cells(load("method=[kd, crd]"))
    base, matched = by_name["base"].settings, by_name["weight_matched"].settings
    assert base["training"]["ce_weight"] is None
    assert matched["training"] == {**base["training"], "ce_weight": 1.0}, "that of kd + crd, as a number"
    assert matched["method"] == base["method"]
    assert matched["views"]["name"] == "matched"
    assert matched["views"]["of"] == base["views"]
    assert cells(load())["weight_matched"].settings["training"]["ce_weight"] == 0.1


def test_cells_that_train_the_same_are_trained_once(load: Loader) -> None:
    study = load(
        "ablation.design=full_factorial", "ablation.factors={views.inter: [true, false], views.margin: [0.2, 0.4]}"
    )
    plan = study.cell_plan
    assert plan is not None
    assert [cell.name for cell in plan.cells if cell.role == "ablation"] == ["base", "margin=0.4", "inter=false"]
    (line,) = [line for line in plan.notes if "the same as" in line]
    assert "inter=false, margin=0.4: the same as inter=false" in line
    assert "views.margin has no effect" in line
    assert cells(study)["inter=false"].merged == (line,)


def test_equal_controls_are_trained_once(load: Loader) -> None:
    study = load("ablation.controls=[kd, plain, weight_matched]")
    assert study.cell_plan is not None
    assert "plain" not in cells(study)
    assert "control plain: the same configuration as kd, trained once" in study.cell_plan.notes


def test_views_without_a_matched_control_are_warned_about(load: Loader) -> None:
    (warning,) = load("ablation.controls=[plain]").warnings
    assert "add the control weight_matched" in warning
    assert load("ablation.controls=[student_only]").warnings == (), "it is not compared with a teacher"


def test_named_arms_stand_beside_the_study_itself(load: Loader) -> None:
    study = load(
        text=STUDY.replace("design: leave_one_out", "design: arms").replace(
            "factors: {views.inter: [true, false], views.intra: [true, false]}",
            "arms: {no heads: {views: {name: tekap}}, fewer: {views.num_views: 1}}",
        )
    )
    by_name = cells(study)
    assert list(by_name)[:3] == ["base", "no heads", "fewer"]
    assert by_name["no heads"].settings["views"]["name"] == "tekap"
    assert by_name["no heads"].arm == "tekap/kd"


def test_a_shifted_seed_is_part_of_what_a_cell_is(load: Loader) -> None:
    by_name = cells(load("ablation.controls=[student_only, independent]"))
    assert by_name["independent"].settings["seeds"] == {"order": controls.OTHER_ORDER}
    alone = {key: value for key, value in by_name["independent"].settings.items() if key != "seeds"}
    assert alone == by_name["student_only"].settings


def test_a_replica_is_the_base_with_another_rounding(load: Loader) -> None:
    study = load("ablation.controls=[weight_matched, replica]")
    base, replica = cells(study)["base"], cells(study)["replica"]
    assert replica.settings == {**base.settings, "seeds": {"rounding": 1}}
    assert (replica.role, replica.arm, replica.replica_of) == ("control", base.arm, "base")
    assert [cell.replica_of for cell in cells(study).values()].count(None) == len(cells(study)) - 1
    assert study.cell_plan is not None
    assert study.cell_plan.family_sizes(None) == dict.fromkeys(["inter=false", "intra=false", "weight_matched"], 3)
    assert cell_hash(replica.settings, "data", "teacher") != cell_hash(base.settings, "data", "teacher")
    assert "Holm over all but replicas" in cell_lines.cell_lines(Outline(study))[0]
    with pytest.raises(SettingsError, match=r"ablation\.families: 'replica' repeats base: nothing about it is to be"):
        load("ablation.controls=[weight_matched, replica]", "ablation.families=[[inter=false, replica]]")


def test_a_pilot_has_no_replica(load: Loader) -> None:
    study = load("ablation.seeds={pilot: 3, at_most: 4}", "ablation.controls=[weight_matched, replica]")
    assert Outline(study).cells == 5
    assert Outline(study).ablation_trials == 5 * 4 + 4 * 3
    several = load("ablation.seeds={pilot: 3, at_most: 4}", "ablation.controls=[replica, replica_2]")
    assert Outline(several).ablation_trials == 5 * 4 + 3 * 3
    roundings = [cell.settings["seeds"]["rounding"] for cell in cells(several).values() if cell.replica_of == "base"]
    assert roundings == [1, 2]


def test_report_trials_are_not_the_search_trials_of_the_same_settings() -> None:
    settings = {"views": {"name": "none"}}
    ids = {
        cell_hash(settings, "data", "teacher"),
        cell_hash(settings, "data", "teacher", reports_on="full"),
        cell_hash(settings, "data", "teacher", reports_on="subset"),
    }
    assert len(ids) == 3


def test_the_resolved_study_loads_again_as_the_same_cells(load: Loader, tmp_path: Path) -> None:
    import yaml

    study = load()
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(study.resolved()))
    again = spec.load(tmp_path / "again.yaml")
    assert again.resolved() == study.resolved()
    assert [cell.settings for cell in cells(again).values()] == [cell.settings for cell in cells(study).values()]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("views.inter", "views.iner", "study.yaml:10: ablation.factors: views.iner: unknown setting"),
        ("views.inter", "data.validation", "study.yaml:10: ablation.factors: factors: 'data.validation' is no"),
        ("plain, w", "plan, w", "study.yaml:11: ablation.controls[0]: unknown control 'plan'; did you mean 'plain'?"),
        ("[0, 1, 2]", "[0, 1, 1]", "study.yaml:12: ablation.seeds: seeds must differ, got [0, 1, 1]"),
        ("[0, 1, 2]", "many", "study.yaml:12: ablation.seeds: must be"),
        ("seeds: [", "reference: bse\n  seeds: [", "study.yaml:12: ablation.reference: unknown cell 'bse'"),
        ("leave_one_out", "leave_one", "study.yaml:9: ablation.design: must be one of"),
        ("[true, false], views.intra", "[true], views.intra", "needs two values or more"),
        ("leave_one_out", "leave_one_out\n  base: winner", "ablation.base: winner needs a search"),
        ("num_views: 2", "num_views: {choice: [1, 2]}", "needs one configuration, and views.num_views is searched"),
        ("plain, weight", "heads_labels_only, weight", ""),
        ("angular, variant: constrained, num_views: 2", "none", "has no effect in any cell"),
        ("study: small", "study: small\nconfirm: {seeds: [7]}", "confirm: needs a search"),
        ("study: small", "study: small\nsearch: {trials: 2, trial_seed: 1}", "must not hold 1, a seed of the search"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(load: Loader, old: str, new: str, message: str) -> None:
    assert STUDY.count(old) == 1
    if not message:
        load(text=STUDY.replace(old, new))
        return
    with pytest.raises(SettingsError) as caught:
        load(text=STUDY.replace(old, new))
    assert message in str(caught.value)


def test_the_plan_explains_every_cell(load: Loader) -> None:
    lines = cell_lines.cell_lines(Outline(load()))
    assert lines[1] == "    base: the base as it is"
    assert lines[2] == "    inter=false: views.inter = false"
    assert lines[4].startswith("    plain (control): The base's kd with the plain teacher")
    assert lines[5].startswith("    weight_matched (control): The targets of angular with the same number, weights")
    assert lines[-1].endswith(
        "3 seeds tell a difference of 6.5 sd of the paired differences from zero (power .8, among 4 comparisons)"
    )
    (count,) = cell_lines.counts(Outline(load()))
    assert count.startswith("15 ablation trials: leave_one_out, 5 cells with 2 controls")


def test_families_say_how_many_comparisons_judge_a_cell(load: Loader) -> None:
    plan = load().cell_plan
    assert plan is not None
    names = [cell.name for cell in plan.cells if cell.name != plan.reference]
    assert plan.family_sizes(None) == dict.fromkeys(names, 4)
    declared = plan.family_sizes([[names[0], names[1], plan.reference], [names[3]]])
    assert declared == {names[0]: 2, names[1]: 2, names[2]: 1, names[3]: 1}


def test_a_fraction_says_what_it_cannot_tell_apart(load: Loader) -> None:
    study = load(
        "ablation.design=fractional_factorial",
        "ablation.resolution=3",
        "ablation.factors={views.inter: [true, false], views.intra: [true, false], views.gt_weight: [0.8, 0.4]}",
    )
    plan = study.cell_plan
    assert plan is not None
    assert len([cell for cell in plan.cells if cell.role == "ablation"]) == 4
    assert any("=" in line for line in plan.aliases)
    assert any(line.strip().startswith("alias: ") for line in cell_lines.cell_lines(Outline(study)))


def test_a_pilot_s_seeds_are_no_report_seeds(load: Loader) -> None:
    study = load("ablation.seeds=auto")
    assert study.ablation is not None
    auto = study.ablation.auto_seeds
    assert auto is not None
    assert not set(auto.pilot_seeds) & set(study.ablation.possible_seeds())
    assert trains_on(study) == ["subset", "full"]
    assert Outline(study).ablation_trials == 5 * (20 + 5)
    only_asked = study.ablation.model_copy(update={"seeds": auto.model_copy(update={"take": False})})
    assert Outline(replace(study, ablation=only_asked)).ablation_trials == 5 * 5
