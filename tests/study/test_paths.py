"""Paths of a settings file: `~`, variables and relative ones, wherever they may stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from akdtune.datasets._file_patterns import matches
from akdtune.errors import SettingsError
from akdtune.folders import here
from akdtune.settings.data import DataSettings
from akdtune.study import spec
from akdtune.study.paths import make_paths_absolute


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PICTURES", "/pictures")
    monkeypatch.setenv("T", "test.parquet")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path)


def test_variables_and_homes_are_resolved_everywhere(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "data": {"root": "~/$T/set", "train": ["a", "~/b", "${PICTURES}/c-*"], "test": "$T"},
        "teacher": {
            "network": "resnet110",
            "checkpoint": {"path": "$PICTURES/t.pt", "key": "model"},
            "others": [{"network": "vgg13", "checkpoint": "auto"}],
            "distilled_from": [{"network": "x", "distilled_from": [{"network": "y", "checkpoint": "~/y.pt"}]}],
        },
        "student": {"checkpoint": {"choice": ["s.pt", "$PICTURES/s.pt"]}},
        "teacher_cache": {"location": "$TMPDIR/x", "seed_from": "~/seed"},
        "ablation": {"factors": {"student.checkpoint": ["$PICTURES/f.pt", "f.pt"]},
                     "arms": {"other": {"student": {"checkpoint": "~/o.pt"}}}},
    }  # fmt: skip
    home = Path.home()
    assert make_paths_absolute(values) == []
    assert values["data"] == {
        "root": str(home / "test.parquet/set"),
        "train": [str(home / "test.parquet/set/a"), str(home / "b"), "/pictures/c-*"],
        "test": str(home / "test.parquet/set/test.parquet"),
    }
    assert values["teacher"]["checkpoint"] == {"path": "/pictures/t.pt", "key": "model"}
    assert values["teacher"]["others"][0]["checkpoint"] == "auto"
    assert values["teacher"]["distilled_from"][0]["distilled_from"][0]["checkpoint"] == str(home / "y.pt")
    assert values["student"]["checkpoint"] == {"choice": [str(tmp_path / "s.pt"), "/pictures/s.pt"]}
    assert values["teacher_cache"] == {"location": "$TMPDIR/x", "seed_from": str(home / "seed")}
    assert values["ablation"]["factors"]["student.checkpoint"] == ["/pictures/f.pt", "f.pt"]
    assert values["ablation"]["arms"]["other"]["student"]["checkpoint"] == str(home / "o.pt")


def test_a_data_folder_that_begins_with_a_variable_is_each_nodes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {"data": {"root": "$PICTURES/set", "train": ["a", "~/b"], "test": "$T"}}
    assert make_paths_absolute(values) == []
    assert values["data"] == {
        "root": "$PICTURES/set",
        "train": ["a", str(Path.home() / "b")],
        "test": "test.parquet",
    }
    monkeypatch.setenv("PICTURES", "/of/another/node")
    settings = DataSettings(name="parquet", validation=1, **values["data"])
    assert [pattern for pattern, _ in matches(settings, "train")] == ["/of/another/node/set/a", str(Path.home() / "b")]
    assert here("$PICTURES/set") == Path("/of/another/node/set")


def test_what_cannot_be_resolved_is_named_by_key() -> None:
    values: dict[str, Any] = {
        "data": {"root": "${UNSET}/set", "train": ["a", "~nobody_of_that_name/b"]},
        "student": {"checkpoint": "$UNSET"},
    }
    assert make_paths_absolute(values) == [
        (("student", "checkpoint"), "'$UNSET': the variable $UNSET is not set"),
        (("data", "root"), "'${UNSET}/set': the variable ${UNSET} is not set"),
        (("data", "train", 1), "'~nobody_of_that_name/b' names the home of a user that this machine does not know"),
    ]


def test_a_dollar_in_a_name_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a$UNSET.parquet").touch()
    values: dict[str, Any] = {"data": {"root": "set", "train": "a$UNSET.parquet"}}
    assert make_paths_absolute(values) == []
    assert values["data"]["train"] == str(tmp_path / "set" / "a$UNSET.parquet")


def test_a_file_with_an_unset_variable_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "data:\n  name: parquet\n  train: $UNSET/a.parquet\n  test: b.parquet\n"
        "teacher: none\nstudent: {network: resnet8}\nmethod: student_only\nsearch: {trials: 1}\n"
    )
    with pytest.raises(SettingsError) as caught:
        spec.load(file)
    assert f"{file}:3: data.train: '$UNSET/a.parquet': the variable $UNSET is not set" in str(caught.value)
    assert (
        f"{file}:1: data.validation: is missing (for example `validation: 5000`: images held out of the training pool, "
        "stratified by class: how many, or which share (0.1))"
    ) in str(caught.value)
    with pytest.raises(SettingsError, match=r"the data set 'image_folder' needs root and size \(for example `root: ~/"):
        spec.load(file, ["data={name: image_folder, validation: 0.1}"])
