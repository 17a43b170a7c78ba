"""A disk that is full before, while and after a study writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import judge
from tests.faults.studies import EPOCHS, Study
from tests.faults.trouble import MOST_COMMANDS, Trouble

pytestmark = [pytest.mark.ray, pytest.mark.long]

DISK_MIB = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here; Ray's own files rule out a limit on the size of files")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all room but a few bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            pass
    os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler


def on(disk: Path, trouble: Trouble, name: str = "grid") -> Study:
    return replace(trouble.study(name), root=disk / "run")


@pytest.mark.parametrize(("name", "leave"), [("grid", 0), ("grid", 1 << 12), ("asha", 1 << 14)])
def test_full_amid_a_study(trouble: Trouble, disk: Path, name: str, leave: int) -> None:
    study = on(disk, trouble, name)
    command = trouble.begin(study)
    assert command.epochs(trouble.random.randint(1, EPOCHS))
    filler = fill(disk, leave)
    trouble.inject("full disk")
    code, output = trouble.ended(command, study)
    if code == 0 or "No space left" not in output:
        trouble.found.append(f"unsaid: {code}, {output[-400:]}")
    filler.unlink()
    ended = judge.ended(study.root)
    trouble.goes_on(study, MOST_COMMANDS)
    trouble.settle(study, attempts=ended)


def test_full_before_a_study(trouble: Trouble, disk: Path) -> None:
    study = on(disk, trouble)
    filler = fill(disk)
    trouble.inject("full disk")
    code, output = trouble.ended(trouble.begin(study), study)
    if code != 2 or "No space left" not in output:
        trouble.found.append(f"unsaid: {code}, {output[-400:]}")
    if study.root.exists():
        trouble.found.append(f"temporary: {sorted(study.root.rglob('*'))} is left of a study that never began")
    filler.unlink()
    trouble.goes_on(study)
    trouble.settle(study)


def test_full_cache(trouble: Trouble, disk: Path) -> None:
    study = trouble.study()
    filler = fill(disk)
    trouble.inject("full cache disk")
    code, output = trouble.ended(trouble.begin(study, AKDTUNE_CACHE=str(disk)), study)
    if code == 0 or str(disk) not in output:
        trouble.found.append(f"unsaid: {code}, {output[-400:]}")
    filler.unlink()
    trouble.goes_on(study, MOST_COMMANDS)
    trouble.settle(study, folders=[disk])
