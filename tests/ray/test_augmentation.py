"""What students see as a factor, with teachers of augmentations of their own, on Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from akdtune.data.dataset import load_data
from akdtune.records import tables
from akdtune.records.lock_file import read_lock
from akdtune.records.plan_file import read_plan
from akdtune.settings.teacher import TeacherSettings
from akdtune.study import spec
from akdtune.teacher.find import teacher_key
from tests.ray import studies

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]

SEEN = """\
study: seen
data: {name: digits, validation: 0}
teacher:
  {network: {name: cnn, widths: [4, 8]}, epochs: 1, augmentation: weak,
   others: [{network: {name: cnn, widths: [4, 8]}, epochs: 1, augmentation: {autoaugment: cifar10, cutout: 2}}]}
student: {network: {name: cnn, widths: [2, 4]}}
views: multi_teacher
method: kd
training: {epochs: 1, batch_size: 64}
ablation:
  design: full_factorial
  factors: {training.augmentation: [weak, strong]}
  controls: [student_only]
  seeds: [0, 1]
resources: {concurrent: 2}
tracking: {wandb: null}
"""


@pytest.mark.slow  # half a minute; tests/training/test_augmentation.py trains such trials without Ray
def test_a_study_with_what_students_see_as_a_factor(tmp_path: Path) -> None:
    file, root = studies.write(tmp_path, SEEN), tmp_path / "run"
    assert studies.run(file, root) == 0
    rows = tables.read_trials(root).to_pylist()
    assert [row["status"] for row in rows] == ["done"] * 6
    arms = ["multi_teacher/kd[augmentation=weak]", "multi_teacher/kd[augmentation=strong]"]
    (design,) = json.loads((root / "design.json").read_text()).values()
    by_name = {cell["name"]: cell["arm"] for cell in design["cells"]}
    assert by_name == {
        "base": arms[0], "augmentation=strong": arms[1], "student_only": "none/student_only[augmentation=weak]",
    }  # fmt: skip
    seen = {plan["arm"]: plan["settings"]["training"]["augmentation"] for plan in read_plan(root)}
    assert [seen[arm] for arm in arms] == ["weak", "strong"]
    lock, study = read_lock(root), spec.load(file)
    assert lock is not None
    dataset = load_data(study.data, torch.device("cpu"))
    settings: list[TeacherSettings] = [study.teacher, *study.teacher.others]
    keys = [teacher_key(of, dataset, "full") for of in settings]
    files = json.dumps(lock["teacher"])
    assert len(set(keys)) == 2 and all(key in files for key in keys)
    assert studies.run(file, root) == 0, "and goes on as what it began as"
