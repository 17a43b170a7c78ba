"""`akdtune rehearse`: what would fail in the whole study fails in minutes, and is named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from akdtune.errors import AkdtuneError
from akdtune.running import rehearsal
from akdtune.teacher.find import listed_teachers
from tests.ray import studies

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]

STUDY = """
study: night
plugins: [troubled]
data: {name: cifar10, root: ROOT, validation: 5000}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 200}
student: {network: {name: cnn, widths: [2, 4]}, checkpoint: students/none.pt}
views: none
method: kd
training: {epochs: 200, batch_size: 128}
ablation:
  design: arms
  arms: {other: {method: {name: troubled, trouble: TROUBLE}}}
  controls: [replica]
  seeds: [1, 2, 3, 4]
resources: {gpu: 1}
"""


def rehearsed(folder: Path, trouble: str) -> tuple[int, str]:
    """Exit code and what was said."""
    text = io.StringIO()
    console = Console(file=text, markup=False, width=100)
    file = studies.write(folder, STUDY.replace("TROUBLE", trouble).replace("ROOT", str(folder)))
    return rehearsal.rehearse(str(file), root=folder / "kept", console=console), text.getvalue()


def test_what_is_not_here_is_made_up_and_said(tmp_path: Path) -> None:
    before = listed_teachers()
    code, said = rehearsed(tmp_path, "none")

    assert code == 0, said
    assert "made-up images stand for cifar10 (3x32x32, 10 classes)" in said
    assert "students/none.pt is not here; untrained weights stand for it" in said
    assert "resources.gpu is 1, here there is none: trials run on the CPU" in said
    assert "every arm, phase and control of night ran" in said
    assert listed_teachers() == before, "no study will ask for its teacher"


def test_what_would_fail_at_night_is_named(tmp_path: Path) -> None:
    """The method breaks in its second epoch only: no check of the settings finds that."""
    code, said = rehearsed(tmp_path, "error")

    assert code == 1, said
    assert "failed: ablation other: RuntimeError: a user's bug" in said
    rows = [line.split() for line in said.splitlines() if line.startswith("ablation ")]
    assert ["ablation", "base", "2", "2"] in rows and ["ablation", "other", "2", "0"] in rows


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()

    with pytest.raises(AkdtuneError, match="is not empty; a rehearsal begins in a folder of its own"):
        rehearsal.rehearse("digits_angular", root=tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
