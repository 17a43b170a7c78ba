"""What a study needs is taken away for some seconds and given back: no trial is lost for it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import judge, studies
from tests.faults.studies import Study
from tests.faults.trouble import MOST_COMMANDS, Trouble

pytestmark = [pytest.mark.ray, pytest.mark.long]

AWAY_S = 8.0


@pytest.fixture
def study(trouble: Trouble) -> Study:
    """A study with images and a plug-in of its own beside it, so that they can be taken away."""
    return trouble.study("folder")


def taken_away(trouble: Trouble, study: Study, folder: Path, kind: str) -> None:
    """Moves something away amid a study for some seconds; the same command, given again, is through in the end."""
    command = trouble.begin(study)
    assert command.epochs(trouble.random.randint(1, 10))
    away = folder.with_name(f"{folder.name}.away")
    folder.rename(away)
    trouble.inject(f"{kind} taken away")
    until = time.monotonic() + AWAY_S
    command.wait_for(lambda: time.monotonic() > until)
    give_back(folder, away)
    trouble.ended(command, study)
    trouble.goes_on(study, MOST_COMMANDS)
    trouble.settle(study)


def give_back(folder: Path, away: Path) -> None:
    """What was made in its place meanwhile gives way."""
    if folder.is_dir():
        shutil.rmtree(folder)
    away.rename(folder)


def test_folder_of_the_teacher(trouble: Trouble, study: Study) -> None:
    taken_away(trouble, study, Path(study.environment["AKDTUNE_CACHE"]) / "teachers", "teacher")


def test_cache(trouble: Trouble, study: Study) -> None:
    taken_away(trouble, study, Path(study.environment["AKDTUNE_CACHE"]), "cache")


def test_images(trouble: Trouble, study: Study) -> None:
    taken_away(trouble, study, study.file.parent / "images", "data")


def test_plug_in(trouble: Trouble, study: Study) -> None:
    taken_away(trouble, study, study.file.parent / "brought.py", "plug-in")


def test_study_directory(trouble: Trouble, study: Study) -> None:
    taken_away(trouble, study, study.root, "study directory")


@pytest.mark.parametrize("what", ["teacher", "images", "brought.py"])
def test_absent_from_the_start(trouble: Trouble, study: Study, interrupted: Callable[[str], Path], what: str) -> None:
    """A study goes on where something is missing: it says what, and costs nothing."""
    begun = replace(study, root=trouble.folder / "begun")
    shutil.copytree(interrupted("folder"), begun.root)
    ended = judge.ended(begun.root)
    folder = Path(begun.environment["AKDTUNE_CACHE"]) / "teachers" if what == "teacher" else begun.file.parent / what
    folder.rename(away := folder.with_name(f"{folder.name}.away"))
    trouble.inject(f"{what} absent")
    try:
        code, output = trouble.ended(trouble.begin(begun), begun)
    finally:
        give_back(folder, away)
    is_said = code != 0 and Path(what).stem in output
    if what != "teacher" and not is_said:  # a teacher is trained again, to the same bits
        trouble.found.append(f"unsaid: {code}, {output[-300:]}")
    trouble.goes_on(begun, MOST_COMMANDS)
    trouble.settle(begun, attempts=ended)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_permissions(trouble: Trouble, study: Study) -> None:
    command = trouble.begin(study)
    assert command.epochs(5)
    trials = study.root / "trials"
    trials.chmod(0o500)
    trouble.inject("permissions taken away")
    time.sleep(AWAY_S)
    trials.chmod(0o755)
    trouble.ended(command, study)
    trouble.goes_on(study, MOST_COMMANDS)
    trouble.settle(study)


def test_started_before_anything_is_there(trouble: Trouble, study: Study) -> None:
    """A first command without images leaves nothing behind."""
    (images := study.file.parent / "images").rename(away := images.with_name("images.away"))
    trouble.inject("data absent")
    code, output = trouble.ended(trouble.begin(study), study)
    give_back(images, away)
    if code != 2 or "images" not in output:
        trouble.found.append(f"unsaid: {code}, {output[-300:]}")
    if studies.count(study.root, "study_started"):
        trouble.found.append("twice: a study began without its images")
    trouble.goes_on(study)
    trouble.settle(study)
