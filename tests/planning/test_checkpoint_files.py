"""Checkpoints that a study names: refused before any data is read, and how they were read is said and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune import networks
from akdtune.errors import SettingsError, StudyError
from akdtune.planning.identity import Identity, student_hashes
from akdtune.planning.plan import Plan
from akdtune.planning.prepared import Prepared
from akdtune.planning.report import plan_report
from akdtune.running.lock import lock_content, refuse_changes
from akdtune.signals import InputSpec
from akdtune.study import spec
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile

STUDY = """\
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 4]}, checkpoint: teacher.pth}
student: {network: {name: cnn, widths: [2, 2]}}
method: kd
training: {epochs: 1}
search: {algorithm: grid}
"""
NOWHERE = "data={name: cifar10, root: nowhere, validation: 100}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    Path("study.yaml").write_text(STUDY)
    return tmp_path


def weights(widths: list[int], classes: int = 10, channels: int = 1, seed: int = 0) -> dict[str, Any]:
    built = networks.build({"name": "cnn", "widths": widths}, InputSpec(channels, 8, classes), seed)
    return dict(built.state_dict())


def under(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def read(*overrides: str) -> Study:
    return spec.load("study.yaml", overrides)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (lambda: weights([4, 4], 7), "different shapes: fc.bias [7] instead of [10], fc.weight [7, 4]"),
        (lambda: weights([4, 4, 4]), "unexpected keys: "),
        (lambda: weights([4, 5]), "different shapes: "),
        (lambda: [1], "holds list, not weights by name"),
    ],
)
def test_what_cannot_be_the_teacher_is_refused_before_the_data(held: Any, words: str) -> None:
    torch.save(held(), "teacher.pth")
    for act in (Plan.of, Prepared.load):
        study = read(NOWHERE)
        with pytest.raises(SettingsError) as caught:
            act(study)
        assert str(caught.value).startswith(f"study.yaml: teacher.checkpoint: {Path.cwd()}/teacher.pth: ")
        assert words in str(caught.value)


def test_images_of_any_size_and_colour_are_left_to_the_data() -> None:
    torch.save(weights([4, 4], channels=3), "teacher.pth")
    assert Plan.of(read(NOWHERE)).missing_data
    torch.save({"a": weights([4, 4], channels=3), "b": weights([4, 4])}, "teacher.pth")  # the data tells them apart
    assert Plan.of(read(NOWHERE)).missing_data
    with pytest.raises(SettingsError, match="no such file"):
        Prepared.load(read(NOWHERE, "teacher.checkpoint=elsewhere.pth"))
    assert Plan.of(read(NOWHERE, "teacher.checkpoint=elsewhere.pth")).missing_checkpoints
    long = "x" * 300
    with pytest.raises(SettingsError, match=r"cannot be opened \(File name too long\)"):
        Plan.of(read(f"teacher.checkpoint={long}"))


def test_students_are_looked_at_as_well() -> None:
    torch.save(weights([4, 4]), "teacher.pth")
    torch.save({"student": weights([2, 2], 7)}, "other_classes.pth")
    torch.save({"student": weights([3, 3])}, "other.pth")
    Plan.of(read("student.checkpoint=other_classes.pth"), timed=False)
    with pytest.raises(SettingsError, match=r"study.yaml: student.checkpoint: .*other.pth: not a checkpoint of cnn"):
        Plan.of(read(NOWHERE, "student.checkpoint=other.pth"))


def test_how_they_were_read_is_said_and_kept() -> None:
    teacher = under("module.student.", weights([4, 4]))
    torch.save({"state_dict": teacher, "ema": under("x.", weights([4, 4], seed=1))}, "teacher.pth")
    torch.save(under("backbone.", weights([2, 2])), "student.pth")
    study = read("teacher.checkpoint={path: teacher.pth, key: state_dict}", "student.checkpoint=student.pth")
    lines = plan_report(Plan.of(study, timed=False))
    here = Path.cwd()
    assert f"    checkpoint {here}/teacher.pth (key: state_dict): names without 'module.student.'" in lines
    assert f"    checkpoint {here}/student.pth: names without 'backbone.'" in lines
    prepared = Prepared.load(study)
    file = prepared.find_teacher()
    assert file is not None
    lock = lock_content(study, Identity(study, prepared, file))
    assert lock["teacher"]["note"] == "names without 'module.student.'"
    assert lock["students_read"] == {f"{here}/student.pth": "names without 'backbone.'"}
    assert TeacherFile(**lock["teacher"]) == file == TeacherFile.parse(file.plain())
    older = {key: value for key, value in lock["teacher"].items() if key not in ("note", "inside", "strip")}
    assert TeacherFile(**older).identity == file.identity
    # Where a study began with a plain path, saying which of the weights are meant is no change: their hash decides.
    refuse_changes(read("teacher.checkpoint=teacher.pth", "student.checkpoint=student.pth"), lock, here)
    with pytest.raises(StudyError, match=r"teacher\.checkpoint"):
        refuse_changes(read("teacher.checkpoint=other.pth", "student.checkpoint=student.pth"), lock, here)


def test_where_in_a_file_a_student_begins_is_part_of_what_it_is() -> None:
    torch.save(weights([4, 4]), "teacher.pth")
    torch.save({"a": weights([2, 2]), "b": weights([2, 2], seed=1)}, "student.pth")

    def digest(checkpoint: str) -> str:
        (found,) = student_hashes(read(f"student.checkpoint={checkpoint}")).values()
        return found

    plain = digest("student.pth")
    assert digest("{path: student.pth}") == plain
    assert len({plain, *(digest(f"{{path: student.pth, key: {key}}}") for key in "ab")}) == 3
