"""analysis/compare.py: what two studies share, whether they reproduce each other, what differs between them."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from akdtune.cli import main as akdtune
from akdtune.statistics import paired
from tests.study_fixture import StudyBuilder

analysis = importlib.import_module("akdtune.analysis.compare")
LOCK = {
    "akdtune": "0.3.0", "packages": {"torch": "2.6.0"}, "machine": {"platform": "Linux x86_64"},
    "source_code": {"commit": "abc", "diff": ""}, "settings": {"study": "one", "training": {"epochs": 4}},
}  # fmt: skip
BASE, OTHER = [70.0, 70.5, 71.5, 70.25], [69.0, 69.75, 70.0, 69.5]


def study(path: Path, base: list[float], other: list[float], own: str) -> StudyBuilder:
    built = StudyBuilder(path)
    built.lock = json.loads(json.dumps(LOCK))
    built.cell("base", base)  # type: ignore[arg-type]
    built.cell("base~x", other)  # type: ignore[arg-type]
    built.cell(own, [60.0])
    return built


def compare(a: StudyBuilder, b: StudyBuilder, *options: str) -> dict[str, Any]:
    assert analysis.main([str(a.write()), str(b.write()), *options]) == 0
    content: dict[str, Any] = json.loads((a.path / "reports" / f"compare_{b.path.name}.json").read_text())
    return content


def test_a_reproduction_is_equal_to_the_last_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = study(tmp_path / "a", BASE, OTHER, "own_a"), study(tmp_path / "b", BASE, OTHER, "own_b")
    content = compare(a, b)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == content["headline"] == "2 of 2 shared cells equal to the last digit (8 trials)"
    assert "cells: 1 only in A, 1 only in B; 0 differences between the locks; --all shows each" in printed
    assert len(printed) < 12 and not any("base" in line for line in printed), "details are asked for"
    content = compare(a, b, "--all")
    assert [cell["reproduced"] for cell in content["cells"]] == ["to the last digit"] * 2
    assert (content["only_in_a"], content["only_in_b"]) == (["own_a"], ["own_b"])
    assert content["differences_of_locks"] == []
    printed = capsys.readouterr().out
    assert "2 cells and 8 trials shared: all equal to the last digit" in printed
    assert "only in A, 1 cell: own_a" in printed


def test_equal_accuracies_with_other_measures_that_differ_are_a_tie(tmp_path: Path) -> None:
    a, b = StudyBuilder(tmp_path / "a"), StudyBuilder(tmp_path / "b")
    for built, entropies in ((a, (1.25, 1.5)), (b, (1.25, 1.625))):
        for seed, entropy in enumerate(entropies):
            built.add("angular/kd", 70.0, None, role="search", cell="c", seed=seed, target_entropy=entropy)
    content = compare(a, b)
    assert content["cells"][0]["reproduced"] == "equal, but other measures differ in 1 of 2 seeds"
    assert content["headline"] == (
        "0 of 1 shared cell equal to the last digit (2 trials); "
        "1 with equal val_accuracy and other measures that differ: a tie, not the same training"
    )
    assert content["verdict"].endswith(
        "all equal to the last digit, but in 1 trial other measures differ: a tie, not the same training"
    )
    same = compare(a, a_copy(a, tmp_path / "copy"))
    assert same["cells"][0]["reproduced"] == "to the last digit"
    assert "all equal to the last digit, and so are all other measures (" in same["verdict"]


def a_copy(study: StudyBuilder, path: Path) -> StudyBuilder:
    study.write()
    shutil.copytree(study.path, path)
    copied = StudyBuilder(path)
    copied.plan, copied.events = study.plan, study.events
    return copied


def test_differences_are_paired_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = [70.5, 70.5, 71.0, 71.25]
    b = study(tmp_path / "b", moved[:3], OTHER, "own_b")
    assert b.lock is not None
    b.lock["packages"]["torch"] = "2.7.1"
    b.lock["source_code"]["diff"] = "one\ntwo\n"
    content = compare(study(tmp_path / "a", BASE, OTHER, "own_a"), b, "--all")
    assert content["headline"] == (
        "1 of 2 shared cells equal to the last digit (7 trials); 1 differs, by at most 0.5000 points "
        "(test_accuracy of base)"
    )
    cell = content["cells"][0]
    expected = paired.paired_difference(dict(enumerate(moved[:3])), dict(enumerate(BASE[:3])))
    assert cell["seeds"] == [0, 1, 2]
    assert cell["difference"]["difference"] == pytest.approx(expected.difference)
    assert cell["difference"]["ci_low"] == pytest.approx(expected.ci_low)
    assert (cell["a"]["mean"], cell["b"]["mean"]) == (pytest.approx(212 / 3), pytest.approx(212 / 3))
    assert (cell["equal"], cell["largest"], cell["reproduced"]) == (1, 0.5, "2 of 3 seeds differ")
    assert content["differences_of_locks"] == [
        "packages.torch: '2.6.0' -> '2.7.1'",
        "source_code.diff: '' -> '2 lines'",
    ]
    printed = " ".join(capsys.readouterr().out.split())
    assert "largest difference 0.5000 in base" in printed
    assert "not the same in both: - torch: 2.6.0 in A, 2.7.1 in B" in printed


def test_rounding_is_told_from_a_difference(tmp_path: Path) -> None:
    near = [value * (1 + 1e-13) for value in BASE]
    content = compare(study(tmp_path / "a", BASE, OTHER, "own"), study(tmp_path / "b", near, OTHER, "own"))
    assert content["cells"][0]["reproduced"] == "up to rounding"
    assert content["headline"].endswith("(9 trials); 1 up to rounding")


def test_search_and_report_trials_of_a_cell_are_not_mixed(tmp_path: Path) -> None:
    """They trained on different images, so equal ids and seeds do not make them comparable."""
    a, b = StudyBuilder(tmp_path / "a"), StudyBuilder(tmp_path / "b")
    a.add("angular/kd", 70.0, None, role="search", cell="c", params={"views.margin": 0.3})
    b.add("angular/kd", 72.0, None, role="confirm", cell="c")
    content = compare(a, b)
    assert content["cells"] == []
    assert content["verdict"].startswith("no trial is shared")
    assert content["only_in_a"] == ["angular/kd (views.margin=0.3)"]
    assert content["differences_of_locks"][0].startswith("not known")


def test_search_trials_are_compared_by_validation(tmp_path: Path) -> None:
    a, b = StudyBuilder(tmp_path / "a"), StudyBuilder(tmp_path / "b")
    for built, value in ((a, 70.0), (b, 70.5)):
        built.add("angular/kd", value, None, role="search", cell="c")
        built.add("angular/kd", value, None, role="search", cell="d", status="pruned")
    (cell,) = compare(a, b)["cells"]
    assert (cell["metric"], cell["difference"]["difference"]) == ("val_accuracy", 0.5)
    assert cell["difference"]["ci_low"] is None


def test_other_random_streams_are_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (study(tmp_path / name, BASE, OTHER, "own") for name in ("a", "b"))
    other.lock = {**LOCK, "streams": 2}  # the first is of before streams had names
    compare(one, other, "--all")
    assert "streams: (absent) -> 2" in capsys.readouterr().out


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study(tmp_path / "runs" / "a", BASE, OTHER, "own").write()
    study(tmp_path / "runs" / "b", BASE, OTHER, "own").write()
    assert akdtune(["compare", "a", "b", "--metric", "test_accuracy"]) == 0
    assert capsys.readouterr().out.startswith("3 of 3 shared cells equal to the last digit (9 trials)\n")
    assert akdtune(["compare", "a", "b", "--metric", "test_acuracy"]) == 2
    assert "did you mean 'test_accuracy'?" in capsys.readouterr().err
    assert akdtune(["compare", "a", "a"]) == 2
    assert "are the same study" in capsys.readouterr().err
    assert akdtune(["compare", "a", "c"]) == 2
    assert "no such study directory" in capsys.readouterr().err


def test_a_study_that_cannot_be_written_is_compared_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (study(tmp_path / name, BASE, OTHER, "own").write() for name in "ab")
    (a / "reports").write_text("in the way")
    assert analysis.main([str(a), str(b)]) == 0
    assert "no report written: cannot write" in " ".join(capsys.readouterr().out.split())
    assert analysis.main([str(a), str(b), "--out", str(a / "reports")]) == 2
