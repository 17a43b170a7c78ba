"""What a trial is asked: the plain JSON that reaches it, that users keep, and that comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from akdtune.errors import CheckpointError
from akdtune.settings.teacher import CacheSettings
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest, trial_seeds

TEACHER = TeacherFile("t.pt", "key", "weights", "cnn", 80.0, 81.0, False, (TeacherFile.none(),))
SETTINGS: dict[str, Any] = {
    "data": {"name": "digits", "validation": 600},
    "student": {"network": {"name": "cnn", "widths": [2, 4]}},
    "views": {"name": "none"},
    "method": [{"name": "kd"}],
    "training": {"epochs": 1, "batch_size": 32},
}
ALONE = TrialRequest(
    trial_id="c-s3",
    cell_id="c",
    arm="none/kd",
    seed=3,
    settings=SETTINGS,
    params={"method.kd.weight": 1.0},
    study="small",
    seeds=trial_seeds(3),
    teacher_file=TEACHER,
    teacher_cache=CacheSettings(),
    plugins=["mine"],
    plugin_folders=["/there"],
    cpu=2.0,
)
KEYS = ["trial_id", "cell_id", "role", "arm", "seed", "settings", "params", "study", "seeds", "teacher_file",
        "teacher_cache", "plugins", "plugin_folders", "cpu"]  # fmt: skip
OF_A_STUDY = {
    "cell", "study_uid", "report_trains_on", "tracking", "record", "rungs", "root", "stop_flag", "stop_actor",
}  # fmt: skip


def test_seeds_are_the_trials_own_but_where_its_cell_shifts_them() -> None:
    assert trial_seeds(3) == trial_seeds(3, {}) == {"init": 3, "order": 3, "noise": 3}
    assert trial_seeds(3, {"noise": 1000}) == {"init": 3, "order": 3, "noise": 1003}
    assert TrialRequest(settings=SETTINGS, teacher_file=TEACHER).seeds == {"init": 0, "order": 0, "noise": 0}


def test_outside_a_study_nothing_of_one_is_said() -> None:
    assert list(ALONE.plain()) == KEYS
    assert replace(ALONE, teacher_cache=None).plain()["teacher_cache"] is None


def test_a_trial_of_a_running_study_is_told_all_of_it() -> None:
    plain = replace(ALONE, root="/run", stop_flag=".stop").plain()
    assert set(plain) == set(KEYS) | OF_A_STUDY
    assert (plain["cell"], plain["stop_actor"], plain["rungs"]) == (None, None, [])


@pytest.mark.parametrize(
    "changes",
    [{}, {"root": "/run", "rungs": [4], "cell": "base", "stop_flag": ".stop"}, {"report_trains_on": "subset"},
     {"teacher_cache": None}],
)  # fmt: skip
def test_what_was_asked_comes_back(changes: dict[str, Any]) -> None:
    request = replace(ALONE, **{"rungs": [], **changes})
    plain = json.loads(json.dumps(request.plain()))
    assert TrialRequest.parse(plain).plain() == plain
    assert TrialRequest.parse({"rungs": [], **plain}) == request


def test_a_users_trial_may_hold_little_and_more() -> None:
    plain = {
        "settings": SETTINGS,
        "seeds": {"order": 2},
        "role": "ablation",
        "teacher_file": TeacherFile.none().plain(),
    }
    config = TrialConfig.parse(TrialRequest.parse({**plain, "report_trains_on": "subset", "note": "mine"}))
    assert (config.seeds.init, config.seeds.order, config.seeds.noise) == (0, 2, 0)
    assert (config.role, config.train_on, config.rungs, config.teacher_cache) == ("ablation", "subset", (), None)


def test_what_is_of_another_form_is_refused() -> None:
    plain = ALONE.plain()
    with pytest.raises(KeyError, match="teacher_file"):
        TrialRequest.parse({"settings": {}})
    with pytest.raises(TypeError, match="settings"):
        TrialRequest.parse({"teacher_file": plain["teacher_file"]})
    with pytest.raises(CheckpointError, match="teacher: damaged, key, weights_hash"):
        TrialRequest.parse({**plain, "teacher_file": {"path": "t.pt"}})
    with pytest.raises(ValidationError, match="dtype"):
        TrialRequest.parse({**plain, "teacher_cache": {"dtype": "fp8"}})
