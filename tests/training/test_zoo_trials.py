"""Whole trials of the zoo: no teacher, optimisers and schedules, mixed images, thinned and streamed sets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Epoch
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.declared_columns import JUDGED
from tests.small_trials import DIGITS, numbers, trained


def trial(
    methods: list[dict[str, Any]] | str,
    of_data: Mapping[str, Any] = DIGITS,
    taught: bool = True,
    views: Mapping[str, Any] | None = None,
    **training: Any,
) -> Trial:
    """A trial out of the plain JSON that reaches a worker."""
    settings = {
        "data": dict(of_data),
        "student": {"network": {"name": "cnn", "widths": [2, 4]}},
        "views": dict(views or {"name": "none"}),
        "method": [{"name": methods}] if isinstance(methods, str) else methods,
        "training": {"epochs": 2, "batch_size": 32, **training},
    }
    file = trained(of_data) if taught else TeacherFile.none()
    plain = TrialRequest(settings=settings, teacher_file=file).plain()
    return Trial(TrialConfig.parse(TrialRequest.parse(json.loads(json.dumps(plain)))))


def assert_resumable(*arguments: Any, **settings: Any) -> list[Epoch]:
    """Every number is finite, and a trial that goes on after any epoch computes those of the undisturbed one."""
    whole = list(trial(*arguments, **settings).run())
    for epoch in whole:
        assert all(value is None or math.isfinite(value) for value in epoch.row.values())
    for cut, epoch in enumerate(whole[:-1]):
        torch.manual_seed(cut)  # whatever ran before in this process
        assert numbers(list(trial(*arguments, **settings).run(epoch.state))) == numbers(whole)[cut + 1 :]
    return whole


# ------------------------------------------------------------------------------------------------------ no teacher


@pytest.mark.parametrize("method", ["student_only", "label_smoothing", "last_batch", "sdpgo_style"])
def test_a_trial_without_a_teacher(method: str) -> None:
    whole = assert_resumable(method, taught=False)
    row = whole[-1].row
    assert row["val_accuracy"] is not None
    assert row["train_accuracy"] is not None
    assert {name for name in (*JUDGED, "agreement", "js_divergence") if row.get(name) is not None} == set()
    alone = trial(method, taught=False)
    assert alone.teacher is None
    list(alone.run())
    closing, predictions = alone.close()
    assert closing == {}
    assert len(predictions.logits_NK) == 600


# -------------------------------------------------------------------------------------------- optimisers, schedules


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "dot", "lr": 0.05},
        {"optimizer": "adamw", "lr": 0.005},
        {"schedule": "cosine", "lr": 0.05, "epochs": 3},
        {"optimizer": "dot", "schedule": "cosine", "lr": 0.05},
    ],
)
def test_other_optimisers_and_schedules(training: dict[str, Any]) -> None:
    whole = assert_resumable([{"name": "kd"}, {"name": "crd"}], milestones=[], **training)
    epochs, first = training.get("epochs", 2), training["lr"]
    expected = [first * (1 + math.cos(math.pi * done / epochs)) / 2 for done in range(epochs)]
    rates = [epoch.row["lr"] for epoch in whole]
    assert rates == pytest.approx(expected if "schedule" in training else [first] * epochs)


def test_optimisers_differ() -> None:
    losses = [list(trial("kd", optimizer=name, lr=0.01).run())[-1].row["loss.ce"] for name in ("sgd", "dot", "adamw")]
    assert len(set(losses)) == 3


# ---------------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize(
    "augmentation",
    [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}, {"randaugment": {"ops": 2}, "cutout": 3}],
    ids=lambda augmentation: "+".join(augmentation),
)
@pytest.mark.parametrize("methods", [["kd", "crd"], ["mlkd"]], ids="+".join)
def test_mixed_and_strongly_augmented_images(methods: list[str], augmentation: dict[str, Any]) -> None:
    terms, of_data = [{"name": name} for name in methods], {**DIGITS, "augmentation": augmentation}
    mixed = trial(terms, of_data, epochs=1)
    assert mixed.teacher is not None
    assert not mixed.teacher.keeps_table, "no crop says what was done to these images"
    (first,) = mixed.run()
    assert all(value is None or math.isfinite(value) for value in first.row.values())
    (again,) = trial(terms, of_data, epochs=1).run()
    assert numbers([again]) == numbers([first])
    (plain,) = trial(terms, epochs=1).run()
    assert plain.row["loss.ce"] != first.row["loss.ce"]


def test_mixed_images_resume() -> None:
    assert_resumable([{"name": "kd"}, {"name": "crd"}], {**DIGITS, "augmentation": {"mixup": 0.4, "cutmix": 1.0}})


def test_views_are_taught_on_mixed_images_too() -> None:
    views = {"name": "angular", "variant": "constrained", "warmup_epochs": 1, "num_views": 2}
    whole = assert_resumable("kd", {**DIGITS, "augmentation": {"mixup": 0.4}}, views=views, epochs=1)
    assert [epoch.stage for epoch in whole] == ["warmup", "student"]


# ------------------------------------------------------------------------------------------- thinned, streamed sets


def test_a_long_tailed_and_a_thinned_set() -> None:
    terms = [{"name": "kd"}, {"name": "crd"}]
    tail = trial(terms, {**DIGITS, "imbalance": 5}, epochs=1)
    counts = torch.bincount(tail.train.labels_N, minlength=10).tolist()
    assert (counts[0], counts[-1]) == (30, 6)
    assert counts == sorted(counts, reverse=True)
    thin = trial(terms, {**DIGITS, "fraction": 0.5}, epochs=1)
    assert len(thin.train) == 150
    for thinner in (tail, thin):
        assert thinner.splits.validation is not None
        assert len(thinner.splits.validation) == 600, "what judges stays whole"
        (epoch,) = thinner.run()
        assert all(value is None or math.isfinite(value) for value in epoch.row.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of colour images, bright and dark: 16 training and 4 test images each."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for role, count in (("train", 16), ("test", 4)):
        for label, level in (("bright", 150), ("dark", 0)):
            (root / role / label).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(level, level + 100, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / role / label / f"{index}.png")
    return root


def test_a_streamed_folder_of_images_trains_like_a_stored_one(folder: Path) -> None:
    known = {"name": "image_folder", "root": str(folder), "size": 8, "validation": 8, "mean": [0.5] * 3}
    of_data = {**known, "std": [0.25] * 3, "workers": 0}
    terms = [{"name": "kd"}, {"name": "crd"}]
    streamed = assert_resumable(terms, {**of_data, "stream": "always"}, batch_size=8)
    assert streamed[-1].row["val_accuracy"] is not None
    live = trial(terms, {**of_data, "stream": "always"}, batch_size=8)
    assert live.teacher is not None
    assert not live.teacher.keeps_table
    stored = list(trial(terms, {**of_data, "stream": "never"}, batch_size=8).run())
    of_stored, of_streamed = ([epoch.row["loss.ce"] for epoch in epochs] for epochs in (stored, streamed))
    assert of_stored == pytest.approx(of_streamed, rel=1e-4)
