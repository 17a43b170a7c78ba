"""The ids of trials, the rows a study begins with, and the lock file that holds it to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from akdtune.errors import StudyError
from akdtune.planning.identity import Identity, initial_rows
from akdtune.planning.prepared import Prepared
from akdtune.randomness import STREAMS
from akdtune.running.lock import extended, lock_content, refuse_changes
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.teacher.file import TeacherFile
from tests.ray.studies import TINY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def identity(file: Path) -> Identity:
    study = spec.load(file)
    prepared = Prepared.load(study)
    stand_in = TeacherFile("t.pt", "key", "weights", study.teacher.network, 80.0, 81.0, False)
    return Identity(study, prepared, stand_in)


def test_quasi_random_search_of_nothing_is_one_configuration(identity: Identity, file: Path) -> None:
    fixed = ["search={algorithm: qmc, trials: 4}", "views.margin=0.3", "views.num_views=2", "method=kd", "probe=null"]
    study = spec.load(file, fixed)
    assert len(initial_rows(Outline(study), dataclasses.replace(identity, study=study))) == 1


def test_probe_rows_are_paired_by_seed(identity: Identity, file: Path) -> None:
    study = spec.load(file, ["probe={trials: 8, seeds: [5, 6]}"])
    rows = initial_rows(Outline(study), dataclasses.replace(identity, study=study))
    assert [row["role"] for row in rows] == ["probe"] * 8
    assert sorted(row["cell_id"] for row in rows if row["seed"] == 5) == sorted(
        row["cell_id"] for row in rows if row["seed"] == 6
    )


def test_duplicate_configurations_are_planned_once(identity: Identity, file: Path) -> None:
    overrides = ["search={algorithm: random, trials: 12}", "views.margin=0.3", "method.kd.weight=1", "probe=null"]
    study = spec.load(file, overrides)
    rows = initial_rows(Outline(study), dataclasses.replace(identity, study=study))
    assert len({row["trial_id"] for row in rows}) == len(rows) <= 6


def test_an_id_depends_on_what_determines_the_result_and_on_nothing_else(identity: Identity, file: Path) -> None:
    proposal = identity.study.arms[0].random(0)
    base = identity.search_trial(proposal)
    elsewhere = spec.load(file, ["resources.cpu=2", "search.trials=99", "tracking.finish_timeout_s=9"])
    assert dataclasses.replace(identity, study=elsewhere).search_trial(elsewhere.arms[0].random(0)) == base
    other = dataclasses.replace(identity.teacher, weights_hash="others")
    assert dataclasses.replace(identity, teacher=other).search_trial(proposal) != base
    longer = spec.load(file, ["training.epochs=7"])
    assert dataclasses.replace(identity, study=longer).search_trial(longer.arms[0].random(0)) != base


def test_an_extended_study_keeps_the_streams_that_it_began_with(identity: Identity) -> None:
    lock = lock_content(identity.study, identity)
    assert lock["streams"] == STREAMS
    assert extended(lock, identity.study, identity, [])["streams"] == STREAMS
    del lock["streams"]  # of before streams had names
    assert extended(lock, identity.study, identity, [])["streams"] == 1


def test_the_lock_file_refuses_another_study_and_shows_the_difference(identity: Identity, file: Path) -> None:
    lock = lock_content(identity.study, identity)
    weights = {"training.ce_weight[kd]": 0.1, "training.ce_weight[crd]": 1.0}
    assert lock["resolved"] == {"method.crd.negatives": 270, **weights}
    refuse_changes(spec.load(file, ["resources.cpu=2"]), lock, file.parent)
    with pytest.raises(StudyError, match=r"data\.label_noise\.fraction: \(absent\) -> 0\.1"):
        refuse_changes(spec.load(file, ["data.label_noise={fraction: 0.1}"]), lock, file.parent)


def test_an_id_goes_by_what_the_student_sees_wherever_it_is_set(identity: Identity, file: Path) -> None:
    def trial_id(*overrides: str) -> str:
        study = spec.load(file, overrides)
        return dataclasses.replace(identity, study=study).search_trial(study.arms[0].random(0))

    plain, strong = trial_id(), trial_id("data.augmentation=strong")
    assert plain != strong
    for same in ("weak", "{}", "{preset: weak}", "null"):
        assert trial_id(f"training.augmentation={same}") == plain
    assert trial_id("training.augmentation=strong") == strong, "the teacher's weights are the same here"
    assert trial_id("training.augmentation=strong", "data.augmentation=strong") == strong
    assert trial_id("training.augmentation=weak", "data.augmentation=strong") == plain
    parts = "{autoaugment: cifar10, cutout: 4, rotation: 15}"
    assert trial_id(f"training.augmentation={parts}") == trial_id(f"data.augmentation={parts}") != plain
    others = "teacher.others=[{network: {name: cnn, widths: [3]}, augmentation: strong}]"
    assert trial_id("teacher.augmentation=strong") == plain, "what became of it is in the weights"
    assert trial_id(others) == trial_id(others.replace(", augmentation: strong", ""))


def test_a_lock_says_nothing_of_an_augmentation_that_is_not_set(identity: Identity, file: Path) -> None:
    settings = lock_content(identity.study, identity)["settings"]
    assert "augmentation" not in settings["training"] and "augmentation" not in settings["teacher"]
    given = ["training.augmentation=strong", "teacher.augmentation={cutout: 2}"]
    study = spec.load(file, given)
    lock = lock_content(study, dataclasses.replace(identity, study=study))
    assert lock["settings"]["training"]["augmentation"] == "strong"
    assert lock["settings"]["teacher"]["augmentation"] == {"cutout": 2}
    refuse_changes(study, lock, file.parent)
    refuse_changes(spec.load(file, ["training.augmentation=null"]), lock_content(identity.study, identity), file.parent)
    with pytest.raises(StudyError, match=r"teacher\.augmentation.*\n.*training\.augmentation"):
        refuse_changes(identity.study, lock, file.parent)
