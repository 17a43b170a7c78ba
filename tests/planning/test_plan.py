"""What a study would do and cost, as a value and in words."""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch

from akdtune.data.dataset import load_data
from akdtune.designs import cells
from akdtune.errors import SettingsError
from akdtune.planning import cost as plan_cost
from akdtune.planning import identity, prepared, report
from akdtune.planning import plan as study_plan
from akdtune.planning.cost import UntrainedTeacher, surviving_share, teacher_seconds
from akdtune.planning.kept import KeptBytes, kept_size
from akdtune.planning.plan import Images, Plan
from akdtune.planning.prepared import Prepared
from akdtune.records.study_directory import StudyDirectory
from akdtune.reports.text import duration
from akdtune.running import display
from akdtune.settings.record import RecordSettings
from akdtune.settings.space import Arm, Space
from akdtune.settings.teacher import TeacherSettings
from akdtune.study import proposals, spec
from akdtune.study.proposals import Outline
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import load_teacher
from akdtune.training.teachers import train_teachers
from tests.ray.studies import TINY
from tests.search_world import Played

GRID = ("search={algorithm: grid}", "views.margin=0.3", "method.kd.weight={grid: [1, 2]}")
ABLATION = (
    "ablation={design: leave_one_out, factors: {views.noise: [0.1, 0.3]}, controls: [plain], seeds: [0, 1]}",
    "views={name: tekap, level: logit}", "method=kd", "search=null", "probe=null", "scheduler=null",
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(TINY)
    return path


def test_the_share_of_epochs_that_asha_runs(file: Path) -> None:
    study = spec.load(file, ["training.epochs=8", "scheduler={name: asha, grace_period: 2, reduction_factor: 2}"])
    assert study.rungs == [2, 4]
    assert surviving_share(study) == pytest.approx((2 + 2 / 2 + 4 / 4) / 8)
    assert surviving_share(spec.load(file, ["scheduler=null"])) == 1.0


def test_the_dry_run_says_what_a_study_would_do_and_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = report.plan_report(Plan.of(spec.load(file, ["teacher.seed=4321"])))  # one that no other test trains
    text = "\n".join(lines)
    for part in (
        "2 arms: angular/kd, angular/crd", "6 search trials", "2 probes", "ASHA decides after epoch 2, 4",
        "views.margin  uniform [0.1, 0.6]", "300 training, 600 validation, 897 test images", "not trained yet",
        "method.crd.negatives = 270", "at once: at most",
    ):  # fmt: skip
        assert part in text, part
    assert [p.name for p in tmp_path.iterdir()] == ["study.yaml"]


def test_missing_data_is_named_and_nothing_is_timed(file: Path, tmp_path: Path) -> None:
    study = spec.load(file, ["data={name: cifar100, root: " + str(tmp_path / "none") + ", validation: 5000}"])
    text = "\n".join(report.plan_report(Plan.of(study)))
    assert "missing data" in text and "no time estimate" in text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (89.6, "90 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -------------------------------------------------------------------------------------------------- once, not twice

LOOKUPS = {"split", "dataset", "prepared", "teacher_networks", "train_on", "teacher", "study", "trials",
           "search_trials", "probe_trials", "confirm_trials", "ablation_trials", "trial_s",
           "network_label"}  # fmt: skip
"""What hands out a value that is held already, adds a few up, or names one."""


def repeated(work: Callable[[], object]) -> list[str]:
    """Functions that plan and that `work` runs more than once with the same arguments."""
    files = {module.__file__ for module in (proposals, prepared, identity, plan_cost, study_plan, cells)}
    files |= {spec.__file__}
    elsewhere = {function.__code__ for function in (load_data, load_teacher, Arm.corners, Arm.random, Arm.probes)}
    counts: Counter[tuple[CodeType, tuple[int, ...]]] = Counter()
    held = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        watched = code in elsewhere or (code.co_filename in files and code.co_name not in LOOKUPS)
        if event == "call" and watched and not code.co_flags & inspect.CO_GENERATOR and code.co_name[0] not in "_<":
            arguments = [frame.f_locals[name] for name in code.co_varnames[: code.co_argcount]]
            held.append(arguments)  # so that no other object gets one's number
            counts[code, tuple(map(id, arguments))] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    assert len(counts) > 20, "looks at something"
    return [f"{code.co_name}: {count} times" for (code, _), count in counts.items() if count > 1]


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the arms whose grids are enumerated, one for each time."""
    enumerated: list[str] = []
    grid = Space.grid

    def noted(self: Space) -> Iterator[Any]:
        enumerated.append(self.name)
        return grid(self)

    monkeypatch.setattr(Space, "grid", noted)
    return enumerated


@pytest.mark.parametrize("overrides", [GRID, ABLATION, ("probe.trials=4", "confirm={top: 1, seeds: [7]}")])
def test_nothing_in_a_plan_and_its_words_is_computed_twice(
    file: Path, overrides: tuple[str, ...], grids: list[str]
) -> None:
    study = spec.load(file, overrides)
    assert repeated(lambda: report.plan_report(Plan.of(study))) == []
    assert sorted(grids) == (["angular/crd", "angular/kd"] if overrides is GRID else [])


def test_a_run_enumerates_a_grid_once(file: Path, tmp_path: Path, grids: list[str]) -> None:
    outline = Outline(spec.load(file, GRID))
    display.short_report(outline, StudyDirectory(tmp_path / "run"))
    played = Played(outline.study, tmp_path / "run")
    played.outline = outline
    played.open()
    assert outline.trials == 11 and sorted(grids) == ["angular/crd", "angular/kd"]


# ----------------------------------------------------------------------------------------------------------- values


def trained(study: spec.Study) -> list[TeacherFile]:
    """The study's teachers, trained where they are not."""
    ready = Prepared.load(study)
    for train_on in ready.trains_on:
        for _ in train_teachers(study.teacher, ready.dataset, train_on, torch.device("cpu")):
            pass
    files = [ready.find_teacher(train_on) for train_on in ready.trains_on]
    return [teacher for teacher in files if teacher is not None]


def test_a_plan_holds_arms_trials_and_images(file: Path) -> None:
    plan = Plan.of(spec.load(file, ["teacher.seed=977", "search.trials=7", *GRID[1:2]]), timed=False)
    kd, crd = plan.arms
    assert (kd.name, kd.configurations, kd.trials) == ("angular/kd", 4, 4) and crd.trials == 3
    assert [dimension.path for dimension in kd.dimensions] == ["views.num_views", "method.kd.weight"]
    assert kd.grid_size is None, "a range has no countable values"
    assert crd.grid_size == 3
    assert plan.outline.quotas == {"angular/kd": 4, "angular/crd": 3}
    assert plan.trials == {"search": 7, "probe": 2, "confirm": 0, "ablation": 0} and plan.outline.trials == 9
    assert plan.study.rungs == [2, 4] and plan.lacking == ()
    assert plan.estimate is not None
    assert plan.estimate.images == Images(training=300, validation=600, test=897)
    assert plan.estimate.configurations["angular/crd"].facts["method.crd.negatives"] == 270
    assert plan.estimate.configurations["angular/kd"].settings["method"][0]["name"] == "kd"


def test_what_is_searched_as_one_has_no_share_of_its_own(file: Path) -> None:
    plan = Plan.of(spec.load(file, ["search.fair=pooled", "data.validation=100"]), timed=False)
    assert plan.outline.quotas == {"pooled": 6}
    assert {arm.trials for arm in plan.arms} == {None}


def test_without_timing_nothing_is_known_of_time_and_nothing_is_said_of_it(file: Path) -> None:
    plan = Plan.of(spec.load(file, ["teacher.seed=977"]), timed=False)
    assert plan.estimate is not None and plan.estimate.total is None
    assert plan.estimate.configurations["angular/kd"].cost is None
    assert plan.estimate.untrained["teacher"].train_s is None
    lines = report.plan_report(plan)
    assert "a trial of angular/kd: not timed (training.ce_weight[kd] = 0.1)" in lines
    assert "teacher cnn (widths: [4, 8]): not trained yet, 3 epochs come first" in lines
    assert not any(re.search(r"about \d|^time |^disk", line) for line in lines)


def test_a_timed_plan_adds_up(file: Path) -> None:
    study = spec.load(file, ["teacher.seed=978", "resources.concurrent=2", "scheduler.reduction_factor=3"])
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    plan = Plan.of(study)
    assert torch.get_num_threads() == threads + 1, "the caller's threads are as before"
    torch.set_num_threads(threads)
    assert plan.estimate is not None and plan.estimate.total is not None
    costs = [kind.cost for kind in plan.estimate.configurations.values() if kind.cost is not None]
    assert len(costs) == 2 and all(cost.warmup_s > 0 and cost.student_s > 0 for cost in costs)
    total, mean_s = plan.estimate.total, sum(cost.trial_s for cost in costs) / 2
    assert total.slots == 2
    assert total.longest_s == pytest.approx(mean_s * 8 / 2)
    assert total.likely_s == pytest.approx(mean_s * (6 * surviving_share(study) + 2) / 2)
    assert total.checkpoints_mib == pytest.approx(8 * max(cost.checkpoint_mib for cost in costs))
    assert plan.estimate.untrained["teacher"].train_s is not None
    assert plan.rows is None, "no ids before the teacher is trained"


KEEPING = "record={predictions: float16, views: true, features: 50, attention: 20, augmented: true}"


def test_a_timed_plan_says_the_space_of_what_record_keeps(file: Path) -> None:
    plan = Plan.of(spec.load(file, ["teacher.seed=981", "views.num_views=3", *GRID, KEEPING]))
    assert plan.estimate is not None and plan.estimate.total is not None
    kept = plan.estimate.total.kept
    assert kept is not None
    logits, maps, sides = 600 * (10 * 2 + 16), 20 * 16 * 2 * 2, 1 + 3
    assert {kind: round(mib * 2**20) for kind, mib in kept.trial_mib.items()} == {
        "predictions": logits, "views": 600 * 3 * 10 * 2, "features": 50 * (4 + 3 * 8) * 2, "attention": sides * maps,
        "augmented": logits,
    }  # fmt: skip
    assert kept.trials_mib == pytest.approx(3 * sum(kept.trial_mib.values()))
    assert round(kept.teacher_mib * 2**20) == 2 * logits + 50 * 8 * 2 + maps
    (line,) = (line for line in report.plan_report(plan) if line.startswith("kept of a trial"))
    assert line == (
        "kept of a trial (record): predictions 21 KiB, views 35 KiB, features 3 KiB, attention 5 KiB, augmented 21 KiB;"
        " at most 255 KiB of 3 trials, of the teachers 44 KiB"
    )


def test_teachers_answer_under_each_augmentation_of_students() -> None:
    kept = KeptBytes({"augmented": 2**20}, {"predictions": 2**20, "augmented": 2**20})
    size = kept_size([kept], RecordSettings(augmented=True), [(4, 10), (0, 7)], augmentations=3)
    assert (size.trials_mib, size.teacher_mib) == (40, 10 + 3 * 10)


def test_by_default_a_plan_says_the_space_of_predictions(file: Path) -> None:
    plan = Plan.of(spec.load(file, ["teacher.seed=981", "views.num_views=3", *GRID]))
    (line,) = (line for line in report.plan_report(plan) if line.startswith("kept of a trial"))
    assert line == "kept of a trial (record): predictions 33 KiB; at most 98 KiB of 3 trials, of the teachers 21 KiB"


def test_a_trained_teacher_gives_trials_their_ids_and_says_what_is_cached(file: Path) -> None:
    study = spec.load(file, ["teacher.seed=979", *GRID])
    (file_of_teacher,) = trained(study)
    plan = Plan.of(study, timed=False)
    assert plan.estimate is not None and plan.estimate.teacher == file_of_teacher and not plan.estimate.untrained
    cache = plan.estimate.cache
    assert cache is not None and (cache.images, cache.crops, cache.filled) == (900, 9, 0.0)
    assert cache.mib is not None and cache.mib > 0
    assert plan.estimate.configurations["angular/kd"].live is None
    assert plan.rows is not None and plan.estimate.identity is not None
    assert [row["role"] for row in plan.rows] == ["search"] * 9 + ["probe"] * 2
    assert [row["trial_id"] for row in plan.rows[:9]] == [
        plan.estimate.identity.search_trial(proposal) for _, proposal in plan.outline.proposals
    ]


def test_cells_have_gradient_factors_once_the_reports_teacher_is_trained(file: Path) -> None:
    study = spec.load(file, ["teacher.seed=980", *ABLATION])
    before = Plan.of(study, timed=False)
    assert before.estimate is not None and before.estimate.gradient_factors is None
    assert study.cell_plan is not None and before.outline.cells == len(study.cell_plan.cells) == 3
    trained(study)
    after = Plan.of(study, timed=False)
    assert after.estimate is not None and after.estimate.gradient_factors is not None
    assert set(after.estimate.gradient_factors) <= {cell.name for cell in study.cell_plan.cells}
    assert after.estimate.gradient_factors["base"]["kd"] > 0
    assert list(after.estimate.configurations) == ["tekap/kd", "none/kd"]
    assert after.estimate.images == Images(training=900, validation=0, test=897)


def test_cells_with_the_same_targets_are_planned_once_where_the_teacher_is_trained(file: Path) -> None:
    alike = "views={name: tekap, level: logit, teacher_weight: 0.4, view_weight: 0.2}"
    study = spec.load(file, ["teacher.seed=982", *ABLATION, alike, "ablation.controls=[plain, weight_matched]"])
    before = Plan.of(study, timed=False)
    assert before.trials["ablation"] == 2 * 4
    text = "\n".join(report.plan_report(before))
    assert "cells that are then found to have the same targets and weights are trained once" in text
    trained(study)
    after = Plan.of(study, timed=False)
    assert after.trials["ablation"] == 2 * 3 and after.outline.trials == 2 * 3
    assert list(after.estimate.configurations) == ["tekap/kd", "none/kd"] if after.estimate is not None else False
    lines = report.plan_report(after)
    (line,) = [line.strip() for line in lines if line.strip().startswith("weight_matched: ")]
    assert line.startswith("weight_matched: the same targets and weights as plain on 256 real images (largest")
    assert any("6 ablation trials: leave_one_out, 3 cells with 1 control," in line for line in lines)


def test_the_reports_teacher_is_planned_with_the_images_it_trains_on(file: Path) -> None:
    study = spec.load(file, ["teacher.seed=981", "confirm={top: 1, seeds: [7]}"])
    asked: list[int] = []

    def one_second(settings: TeacherSettings, _: Prepared) -> float:
        asked.append(settings.seed)
        return 1.0

    plan = Plan.of(study, timed=False)
    assert plan.estimate is not None
    assert {path: teacher.train_on for path, teacher in plan.estimate.untrained.items()} == {
        "teacher": "subset", "teacher for reports": "full",
    }  # fmt: skip
    seconds = teacher_seconds(list(plan.estimate.untrained.values()), plan.estimate.prepared, one_second)
    assert seconds == [3 * 10, 3 * 29] and asked == [981], "300 and 900 images in batches of 32, one network timed"
    assert UntrainedTeacher(study.teacher, "full").train_s is None


def test_files_that_are_missing_are_in_the_plan(file: Path, tmp_path: Path) -> None:
    checkpoint = Plan.of(spec.load(file, [f"teacher.checkpoint={tmp_path / 't.pt'}"]), timed=False)
    assert checkpoint.missing_checkpoints == {"teacher.checkpoint": str(tmp_path / "t.pt")}
    assert checkpoint.estimate is not None and checkpoint.estimate.teacher is None and not checkpoint.estimate.untrained
    student = Plan.of(spec.load(file, [f"student.checkpoint={tmp_path / 's.pt'}"]))
    assert student.missing_students == (str(tmp_path / "s.pt"),) and student.estimate is None
    folder = "data={name: cifar100, root: " + str(tmp_path / "none") + ", validation: 5000}"
    absent = Plan.of(spec.load(file, [folder]))
    assert len(absent.missing_data) == 3 and absent.estimate is None and absent.rows is None


def test_what_this_machine_lacks_is_in_the_plan(file: Path) -> None:
    (sentence,) = Plan.of(spec.load(file, ["resources.cpu=5000"]), timed=False).lacking
    assert sentence.startswith("resources.cpu: a trial asks for 5000 CPUs, this machine has")


SEEN = (
    "ablation={design: leave_one_out, factors: {training.augmentation: [weak, {pad: 0}, strong]}, seeds: [0, 1]}",
    "views=none", "method=kd", "search=null", "probe=null", "scheduler=null",
)  # fmt: skip


def test_what_is_cached_goes_by_what_students_see(file: Path) -> None:
    study = spec.load(file, ["teacher.seed=984", *SEEN])
    estimate = Plan.of(study, timed=False).estimate
    assert estimate is not None
    kinds = {name.removeprefix("none/kd"): kind.live for name, kind in estimate.configurations.items()}
    why = "training.augmentation does more than crop and flip (randaugment, cutout, cutout_random)"
    assert kinds == {"[augmentation=weak]": None, "[augmentation=pad=0]": None, "[augmentation=strong]": why}
    assert estimate.cache is not None
    assert (estimate.cache.images, estimate.cache.crops, estimate.cache.augmentations) == (900, 9 + 1, 2)
    trained(study)
    plan = Plan.of(study, timed=False)
    assert plan.estimate is not None and plan.estimate.cache is not None and plan.estimate.cache.filled == 0.0
    text = "\n".join(report.plan_report(plan))
    assert "the teacher of none/kd[augmentation=weak]: is cached: 900 images x 10 crops of 2 augmentations" in text
    other = "ablation.factors={training.augmentation: [strong, {cutout: 2}]}"
    estimate = Plan.of(spec.load(file, ["teacher.seed=984", *SEEN, other]), timed=False).estimate
    assert estimate is not None and estimate.cache is None
    assert all(kind.live for kind in estimate.configurations.values())


def test_steps_of_other_augmentations_are_timed_by_themselves(file: Path) -> None:
    plan = Plan.outlined(spec.load(file, ["teacher.seed=985", *SEEN])).with_data()
    timing = plan.timing()
    assert timing is not None and len(timing.groups) == 3
    timing.run()
    assert {cost.like for cost in timing.costs.values()} == {""}


LATER = (
    "ablation={design: full_factorial, base: winner, factors: {training.augmentation: [weak, {cutout: 9}]}, "
    "controls: [], seeds: [10, 11]}"
)
"""Cells whose base a search decides on."""


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.augmentation={cutout: 9}", "training.augmentation.cutout: is 9, the images have 8 pixels"),
        ("teacher.augmentation={cutout: 9}", "teacher.augmentation.cutout: is 9, the images have 8 pixels"),
        ("teacher.others=[{network: {name: cnn, widths: [3]}, augmentation: {cutout: 9}}]",
         "teacher.others[0].augmentation.cutout: is 9, the images have 8 pixels"),
        (LATER, "training.augmentation.cutout: is 9, the images have 8 pixels"),
    ],
)  # fmt: skip
def test_a_part_larger_than_the_images_is_refused_with_its_key(file: Path, override: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"{file}: {words} (allowed: 0..8)")):
        Plan.of(spec.load(file, [override]), timed=False)


def test_a_teacher_that_is_still_to_be_trained_is_named_with_what_it_sees(file: Path) -> None:
    plan = Plan.of(spec.load(file, ["teacher.seed=986", "teacher.augmentation=strong"]), timed=False)
    assert any("augmentation strong: not trained yet" in line for line in report.plan_report(plan))
