"""The packaged studies: three pairs of teachers, and nothing else that differs."""

from __future__ import annotations

from akdtune.settings.data import AugmentationSettings
from akdtune.settings.record import RecordSettings
from akdtune.study import spec

WEAK = AugmentationSettings(random_resized_crop={"scale": (0.2, 1.0)}, rotation=15)
STRONG = AugmentationSettings(autoaugment="cifar10", cutout=14)
PAIRS = {"rethink_kd_ww": (WEAK, WEAK), "rethink_kd": (WEAK, STRONG), "rethink_kd_ss": (STRONG, STRONG)}


def test_three_pairs_of_teachers_that_differ_in_augmentation_alone() -> None:
    studies = {name: spec.load(name) for name in PAIRS}
    for name, study in studies.items():
        (other,) = study.teacher.others
        assert (study.teacher.augmentation, other.augmentation) == PAIRS[name], name
        assert (study.teacher.seed, other.seed) == (0, 1)
        assert study.record == RecordSettings(attention=1000, augmented=True, train=True)
        assert study.ablation is not None
        assert list(study.ablation.arms) == ["base", "strong"]
        noise = ["random_teacher"] if name == "rethink_kd" else []  # no teacher of the pair has a part in it
        assert study.ablation.controls == ["student_only", *noise]
    without = [
        {
            **study.values, "study": "",
            "teacher": {**study.values["teacher"], "augmentation": None, "others": []},
            "ablation": {**study.values["ablation"], "controls": []},
        }
        for study in studies.values()
    ]  # fmt: skip
    assert without[0] == without[1] == without[2]
