"""Whatever a study lacks on this machine comes in one message, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from akdtune.errors import SettingsError, StudyError
from akdtune.planning import needs
from akdtune.study import spec
from akdtune.study.spec import Study


def study(*overrides: str) -> Study:
    return spec.load("cifar_angular", ["data.download=false", "resources={cpu: 1, gpu: 0}", *overrides])


def test_processors_data_and_checkpoints_at_once(tmp_path: Path) -> None:
    lacks = study(
        f"data.root={tmp_path}",
        f"teacher.checkpoint={tmp_path}/teacher.pt",
        f"student.checkpoint={tmp_path}/student.pt",
        "resources.cpu=5000",
    )
    with pytest.raises(SettingsError) as caught:
        needs.check(lacks)
    head, *lines = str(caught.value).splitlines()
    assert head == "4 problems:"
    assert all(line.startswith("cifar_angular: ") for line in lines)
    cpu, data, teacher, student = (line.removeprefix("cifar_angular: ") for line in lines)
    assert cpu.startswith("resources.cpu: a trial asks for 5000 CPUs, this machine has ")
    assert data == (
        f"data: cifar100: {tmp_path}/cifar-100-python/train (and 2 more): no such file; data.root names their folder, "
        "data.download=true fetches them"
    )
    assert teacher == f"teacher.checkpoint: {tmp_path}/teacher.pt: no such file"
    assert student == f"student.checkpoint: {tmp_path}/student.pt: no such file"


def test_on_a_cluster_processors_are_not_known_here(tmp_path: Path) -> None:
    lacks = study(f"data.root={tmp_path}", f"teacher.checkpoint={tmp_path}/teacher.pt", "resources.cpu=5000")
    assert [line.partition(":")[0] for line in needs.lacking(lacks, elsewhere=True)] == ["data", "teacher.checkpoint"]
    assert [line.partition(":")[0] for line in needs.lacking(lacks, teacher_only=True)] == [
        "data", "teacher.checkpoint",
    ]  # fmt: skip


def test_what_will_be_fetched_is_not_missing(tmp_path: Path) -> None:
    needs.check(study(f"data.root={tmp_path}", "data.download=true"))
    assert needs.lacking(spec.load("digits_angular")) == []


def test_a_single_missing_file_is_refused_where_it_is_read(tmp_path: Path) -> None:
    needs.check(study(f"data.root={tmp_path}"))
    with pytest.raises(StudyError, match=r"^resources\.cpu: a trial asks for 5000 CPUs"):
        needs.check(study("resources.cpu=5000", "data.download=true"))
