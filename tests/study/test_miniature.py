"""A study in miniature: every arm, phase and control of it, two trials each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from akdtune.study import spec
from akdtune.study.miniature import EACH, EPOCHS, Miniature
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study
from tests.extras import readable_studies


def small(source: str | Path, gpus: float = 0, size: int = 32, *overrides: str) -> tuple[Study, Study, list[str]]:
    """The whole study, the small one, and what was said to differ."""
    whole = spec.load(source, overrides)
    change = Miniature(whole, size, gpus, "/cache", lambda checkpoint, network: "/stand_in.pt")
    return whole, spec.load(source, overrides, change), change.notes


@pytest.mark.parametrize("name", readable_studies())
def test_of_every_packaged_study_all_arms_phases_and_controls_stay(name: str) -> None:
    whole, study, _ = small(name)

    assert study.name == f"{whole.name}_rehearsal"
    assert study.epochs == EPOCHS
    assert [arm.name for arm in study.arms] == [arm.name for arm in whole.arms]
    outline = Outline(study)
    if study.search.searches:
        assert outline.configurations <= EACH * len(study.arms)
        assert set(outline.quotas) == {arm.name for arm in study.arms}
        if study.search.algorithm != "grid":
            assert set(outline.quotas.values()) == {EACH}
    assert len(outline.probed_arms) * EACH == outline.probe_trials if whole.probe else not outline.probe_trials
    assert (study.confirm is None) == (whole.confirm is None)
    if whole.cell_plan is not None:
        assert study.cell_plan is not None
        assert [cell.name for cell in study.cell_plan.cells] == [cell.name for cell in whole.cell_plan.cells]
        assert outline.ablation_trials == EACH * len(whole.cell_plan.cells)
    assert study.data.rehearsal is not None
    assert study.tracking.wandb is None or study.tracking.wandb.mode == "offline"
    assert study.resources.gpu == 0


def test_the_whole_study_has_nothing_of_a_rehearsal_in_its_settings() -> None:
    whole, study, _ = small("cifar_angular")

    assert "rehearsal" not in whole.resolved()["data"]
    assert study.resolved()["data"]["rehearsal"] == study.data.rehearsal


def test_without_a_gpu_batches_are_small_and_with_one_they_are_the_studys_own() -> None:
    _, without, said = small("imagenet_r34_r18", 0, 224)
    _, with_one, unsaid = small("imagenet_r34_r18", 1, 224)

    assert [arm.centre().settings["training"]["batch_size"] for arm in without.arms] == [8] * 6
    assert [arm.centre().settings["training"]["batch_size"] for arm in with_one.arms] == [512] * 6
    assert "training.batch_size is at most 8 without a GPU" in said
    assert with_one.resources.gpu == 1
    assert not any("batch_size" in line or "GPU" in line for line in unsaid)


def test_an_epoch_has_two_steps_at_least() -> None:
    for gpus in (0, 1):
        _, study, _ = small("imagenet_r34_r18", gpus, 224)
        batch = study.arms[0].centre().settings["training"]["batch_size"]
        assert study.data.rehearsal is not None
        assert study.data.rehearsal - study.data.validation >= 2 * batch


def test_checkpoints_that_are_missing_have_a_stand_in() -> None:
    _, study, _ = small("tinyimagenet_transfer")
    _, pretrained, said = small("imagenet_r34_r18", 0, 224)

    assert study.arms[0].centre().settings["student"]["checkpoint"] == "/stand_in.pt"
    assert pretrained.teacher.checkpoint == "/stand_in.pt"
    assert "teacher.network: without the weights that it brings itself, which are not fetched" in said


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["scheduler={name: median, grace_period: 3}"], {"name": "median", "grace_period": 1, "min_trials": 1}),
        (
            [
                "scheduler={name: racing, min_seeds: 6}",
                "search={algorithm: random, trials: 8, seeds: [0, 2, 3, 4, 5, 6]}",
                "probe=null",
            ],
            {"name": "racing", "min_seeds": 2, "alpha": 0.05},
        ),
        (["scheduler={name: none}"], {"name": "none"}),
    ],
)
def test_early_stopping_stays_of_its_kind(changed: list[str], expected: dict[str, Any]) -> None:
    _, study, _ = small("digits_angular", 0, 8, *changed)

    assert study.scheduler.resolved() == expected
    assert len(study.search.training_seeds) <= EACH


def test_a_warm_up_that_is_off_stays_off(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "data: {name: digits, validation: 100}\n"
        "teacher: {network: {name: cnn, widths: [4]}, epochs: 9, others: [{network: {name: cnn, widths: [2]}}]}\n"
        "student: {network: {name: cnn, widths: [2]}}\n"
        "views: {choice: [{name: angular, warmup_epochs: 0}, {name: angular, warmup_epochs: 7}, none]}\n"
        "method: kd\n"
        "search: {algorithm: grid}\n"
    )
    _, study, _ = small(file)

    warmups = [arm.centre().settings["views"].get("warmup_epochs") for arm in study.arms]
    assert warmups == [0, 1, None]
    assert [teacher.epochs for _, teacher in study.teacher.with_paths()] == [1, 1]
