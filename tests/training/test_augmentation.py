"""A student and its teacher are shown what `training.augmentation` says, and nothing else follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.data.dataset import load_data
from akdtune.randomness import derived_seed
from akdtune.settings.data import AugmentationSettings, DataSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.teacher.frozen import FrozenTeacher
from akdtune.training.config import TrialConfig
from akdtune.training.trial import Trial
from akdtune.training.warmup import SharedWarmup
from tests.small_trials import ANGULAR, CPU, DIGITS, configured, numbers, roomy_disk, trained

NO_VIEWS, KD = {"name": "none"}, [{"name": "kd"}]


def config(
    of_data: DataSettings, views: Any = NO_VIEWS, methods: Sequence[Any] = KD, cached: bool = False, **training: Any
) -> TrialConfig:
    """A trial whose teacher is always the one of digits as they are."""
    changes = {"teacher_cache": CacheSettings()} if cached else {}
    return configured(of_data, trained(), views, methods, changes=changes, **{"epochs": 2, **training})


@pytest.mark.parametrize(
    "given",
    [
        "strong",
        {"cutout": 3},
        {"pad": 0},
        {"mixup": 0.4, "cutmix": 1.0},
        {"rotation": 15, "random_resized_crop": {"scale": [0.2, 1.0]}},
        {"autoaugment": "cifar10", "cutout": 4},
    ],
    ids=str,
)
def test_a_student_trains_as_if_the_data_had_its_augmentation(given: Any) -> None:
    own = Trial(config(DataSettings(**DIGITS), augmentation=given))
    datas = Trial(config(DataSettings(**DIGITS, augmentation=given)))
    assert own.dataset.augmentation == datas.dataset.augmentation
    theirs = numbers(list(datas.run()))
    assert numbers(list(own.run())) == theirs
    assert numbers(list(Trial(config(DataSettings(**DIGITS))).run())) != theirs
    assert own.close()[1].logits_NK.equal(datas.close()[1].logits_NK)


def test_its_own_augmentation_wins_over_that_of_the_data() -> None:
    plain = numbers(list(Trial(config(DataSettings(**DIGITS))).run()))
    strong = DataSettings(**DIGITS, augmentation="strong")
    assert numbers(list(Trial(config(strong, augmentation="weak")).run())) == plain
    loaded = load_data(strong, CPU)
    trial = Trial(config(strong, augmentation="weak"), dataset=loaded)
    assert numbers(list(trial.run())) == plain and loaded.augmentation.cutout == 4, "what is shared stays as it is"


@pytest.mark.parametrize("given", ["strong", {"pad": 0}, {"autoaugment": "cifar10"}], ids=str)
def test_teacher_and_student_are_shown_the_same_images(given: Any) -> None:
    shown: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    trial = Trial(config(DataSettings(**DIGITS), methods=[{"name": "at"}], augmentation=given))
    assert trial.teacher is not None
    trial.student.register_forward_pre_hook(lambda _, inputs: shown["student"].append(inputs[0].clone()))
    trial.teacher.network.register_forward_pre_hook(lambda _, inputs: shown["teacher"].append(inputs[0].clone()))
    next(trial.run())
    under = load_data(DataSettings(**DIGITS), CPU).under(AugmentationSettings.model_validate(given), "a")
    batches = list(under.split("subset").train.epoch(derived_seed("order", 0, "student"), 1, 32))
    for images in shown.values():
        for seen, batch in zip(images, batches, strict=False):
            assert batch.inputs is not None and torch.equal(seen, batch.inputs)
        assert len(images) >= len(batches) == 10


def test_what_is_kept_of_the_teacher_goes_by_the_students_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path))
    roomy_disk(monkeypatch)
    data = DataSettings(**DIGITS)
    own: list[Any] = [None, "weak", {"pad": 2, "flip": True}, "strong"]
    trials = [Trial(config(data, cached=True, augmentation=given)) for given in own]
    keys, rates = [], []
    for trial in trials:
        assert isinstance(trial.teacher, FrozenTeacher)
        rates.append([epoch.row.get("teacher_cache_hit_rate") for epoch in trial.run()])
        keys.append([rows.store.key for rows in trial.teacher._cached])
    assert keys[0] == keys[1] != keys[2] and keys[3] == []
    assert rates[1][0] == 1.0, "what the first one asked for"
    assert rates[2][0] == 0.0 and rates[3] == [None, None]


def test_a_warm_up_is_shared_by_trials_that_see_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path))

    def key(**given: Any) -> str:
        of_data = DataSettings(**DIGITS, augmentation=given.pop("of_data", None))
        trial = Trial(config(of_data, ANGULAR, **given))
        assert trial.teacher is not None
        shared = SharedWarmup.of(trial.config, trial.dataset, trial.train, trial.teacher, trial.views, "me")
        assert shared is not None
        return shared.key

    plain, strong = key(), key(of_data="strong")
    assert key(augmentation="weak") == key(of_data="strong", augmentation="weak") == plain
    assert key(augmentation="strong") == strong != plain
