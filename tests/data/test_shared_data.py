"""A worker that runs trial after trial decodes its data once, and all workers of a machine share the pages."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from akdtune.data.dataset import load_data
from akdtune.datasets import digits as data_sets_digits
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.teacher.file import TeacherFile
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.trial import Trial
from tests.small_trials import CPU, DIGITS, trained

linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc/self/maps")


def mapped_from(address: int) -> str:
    """The file that the memory at an address is mapped from, or nothing."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, last = line.split(maxsplit=5)
        begin, end = (int(bound, 16) for bound in bounds.split("-"))
        if begin <= address < end:
            return last if last.startswith("/") else ""
    return ""


@pytest.fixture(scope="module")
def teacher_file() -> TeacherFile:
    return trained()


def trial_of(file: TeacherFile, cache: CacheSettings | None = None, **of_data: Any) -> Trial:
    settings = {
        "data": DIGITS | of_data,
        "student": {"network": {"name": "cnn", "widths": [2, 4]}},
        "views": {"name": "none"},
        "method": [{"name": "kd"}],
        "training": {"epochs": 1, "batch_size": 32},
    }
    return Trial(TrialConfig.parse(TrialRequest(settings=settings, teacher_file=file, teacher_cache=cache)))


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing can be decoded."""
    load_data(DataSettings(**DIGITS), CPU)
    monkeypatch.setattr(data_sets_digits, "_values", None)


@linux
@pytest.mark.usefixtures("undecodable")
def test_trials_of_one_process_map_the_decoded_images(teacher_file: TeacherFile) -> None:
    files = set()
    for _ in range(2):
        trial = trial_of(teacher_file)
        list(trial.run())
        files.add(mapped_from(trial.train.pixels.images.images_NCHW.data_ptr()))
    (file,) = files
    assert file.endswith("train_images.npy")


@linux
def test_noisy_images_are_the_trials_own(teacher_file: TeacherFile) -> None:
    """What is drawn from settings cannot be a file's pages."""
    trial = trial_of(teacher_file, pixel_noise={"std": 0.1})
    assert not mapped_from(trial.train.pixels.images.images_NCHW.data_ptr())


@linux
def test_a_trial_that_is_over_unmaps_what_it_opened(teacher_file: TeacherFile, tmp_path: Path) -> None:
    """Data and teacher cache: what stays open does not grow with the trials of a process."""

    def opened() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(line.endswith((".npy", ".rows")) for line in lines)

    cache, left = CacheSettings(location=str(tmp_path)), []
    for _ in range(3):
        gc.collect()
        before = opened()
        trial = trial_of(teacher_file, cache)
        list(trial.run())
        assert opened() > before
        del trial
        gc.collect()
        left.append(opened())
    assert left[0] == left[1] == left[2]
