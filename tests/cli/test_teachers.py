"""`akdtune teacher`: training, listing and showing plain teachers, chains, several, and none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from akdtune.cli import teachers
from akdtune.cli.terminal import layout
from akdtune.errors import AkdtuneError, SurroundingsError
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.teacher.find import listed_teachers
from akdtune.training import task

SMALL: dict[str, Any] = {"network": {"name": "cnn", "widths": [4, 8]}, "epochs": 1, "batch_size": 128}
LARGE = SMALL | {"network": {"name": "cnn", "widths": [6, 8]}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def train(**given: Any) -> int:
    study: Any = SimpleNamespace(
        plugins=(),
        task={"name": "image"},
        data=DataSettings(name="digits", validation=600),
        teacher=TeacherSettings(**given),
        configurations=(),
        possible_cells=(),
    )
    return teachers.train(study, "subset", "cpu")


def shown() -> str:
    listing = teachers.listing()
    return layout.plain(listing.headings, listing.rows)


def test_a_plain_teacher_has_a_line_per_epoch_and_is_then_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(**SMALL) == 0
    epoch, done = capsys.readouterr().out.strip().splitlines()
    assert epoch.startswith("epoch 1 of 1: loss ")
    assert done.startswith("trained: ")
    assert train(**SMALL) == 0
    assert capsys.readouterr().out.strip() == done.replace("trained", "found")


def test_what_is_odd_about_the_data_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = task.load_data

    def odd(*given: Any) -> Any:
        dataset = read(*given)
        dataset.notes = ("2 images were turned",)
        return dataset

    monkeypatch.setattr(task, "load_data", odd)
    assert train(**SMALL) == 0
    assert capsys.readouterr().err == "warning: 2 images were turned\n"


def test_memory_that_is_not_enough_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        yield

    monkeypatch.setattr(teachers, "train_teachers", fail)
    with pytest.raises(SurroundingsError, match=r"out of memory.*\(lower teacher\.batch_size, or train it"):
        train(**SMALL)


def test_a_chain_and_others_say_which_network_trains(capsys: pytest.CaptureFixture[str]) -> None:
    given = SMALL | {"distilled_from": [LARGE], "others": [SMALL | {"seed": 1}]}
    assert train(**given) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "cnn (1 of 3), epoch 1 of 1",
        "cnn (2 of 3), epoch 1 of 1",
        "cnn (3 of 3), epoch 1 of 1",
        "trained",
        "trained",
    ]
    assert train(**given) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.strip().splitlines()] == ["found"] * 2
    listing = shown()
    assert listing.count("cnn < cnn") == 1
    assert len(listing.strip().splitlines()) == 1 + 3
    key = next(r["teacher"]["key"] for r in listed_teachers() if "distilled_from" in r["settings"])
    details = yaml.safe_load(teachers.details(key[:10]))
    assert details["settings"]["distilled_from"][0]["network"] == LARGE["network"]
    assert details["settings"]["distillation"]["temperature"] == 5.0


def test_a_study_without_teacher_has_nothing_to_train(capsys: pytest.CaptureFixture[str], own_cache: Path) -> None:
    assert train(network="none") == 0
    assert capsys.readouterr().out == "this study has no teacher (teacher.network is none)\n"
    assert not own_cache.exists()


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(AkdtuneError, match="no teacher 'abc'"):
        teachers.details("abc")
