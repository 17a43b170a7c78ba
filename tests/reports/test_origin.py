"""Every report says where its numbers come from: processor, threads and versions, as far as they were recorded."""

from __future__ import annotations

import importlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import akdtune
from akdtune import __version__
from akdtune.records import tables
from akdtune.reports import figures
from akdtune.reports.origin import ROUNDING, origin_of
from tests.study_fixture import StudyBuilder

EPYC: dict[str, Any] = {
    "processor": "AMD EPYC 9B14", "capability": "AVX512", "threads": 1, "device": "cpu", "torch": "2.9.1",
    "akdtune": "0.1.0", "python": "3.11.7",
}  # fmt: skip
XEON = {**EPYC, "processor": "Intel Xeon", "capability": "AVX2", "onednn_max_cpu_isa": "AVX2", "threads": 2}
ANALYSED = f"analysed with: akdtune {__version__}, numpy {np.__version__}, Python {platform.python_version()}"
LOCK = {
    "settings": {}, "packages": {"torch": "2.8.0"}, "akdtune": "0.1.0", "machine": {"python": "3.12.1"},
    "source_code": {"commit": "0123456789abcdef", "diff": ""},
}  # fmt: skip


def ablation(path: Path, *trained_on: dict[str, Any] | None) -> StudyBuilder:
    """A base and a change on five seeds; trials take turns in where they were trained."""
    study = StudyBuilder(path)
    study.cell("base", [70.0, 71.0, 72.0, 70.5, 71.5])
    study.cell("inter=false", [69.0, 70.5, 71.0, 70.0, 70.5])
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    done = [event for event in study.events if event["event"] == "done"]
    for place, event in enumerate(done):
        if (where := trained_on[place % len(trained_on)]) is not None:
            event["trained_on"] = where
    return study


def test_one_machine(tmp_path: Path) -> None:
    study = ablation(tmp_path, EPYC)
    study.lock = LOCK
    origin = origin_of(study.write())
    assert str(origin) == (
        "trained on: AMD EPYC 9B14 (AVX512), 1 thread a trial, cpu; torch 2.9.1, akdtune 0.1.0 from commit 0123456, "
        f"Python 3.11.7; {ANALYSED}"
    )
    assert origin.short == "AMD EPYC 9B14 (AVX512), 1 thread a trial, torch 2.9.1"
    report = origin.report()
    assert report["trained_on"] == [{**EPYC, "onednn_max_cpu_isa": None, "trials": 10}]
    assert report["trained_from_commit"] == "0123456789abcdef"
    assert report["analysed_with"]["numpy"] == np.__version__


def test_several_are_listed(tmp_path: Path) -> None:
    origin = origin_of(ablation(tmp_path, EPYC, XEON, EPYC).write())
    assert str(origin).startswith(
        "trained on: 2 processors: AMD EPYC 9B14 (AVX512), Intel Xeon (AVX2, oneDNN at most AVX2), "
        "1 or 2 threads a trial, cpu; torch 2.9.1, "
    )
    assert [where["trials"] for where in origin.trained_on] == [7, 3]


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    """Directories of earlier versions hold versions in their lock, and no processor."""
    study = ablation(tmp_path / "old", None)
    study.lock = LOCK
    origin = origin_of(study.write())
    assert str(origin) == (
        "trained on: processor not recorded, threads not recorded; torch 2.8.0, akdtune 0.1.0 from commit 0123456, "
        f"Python 3.12.1; {ANALYSED}"
    )
    assert "trained_on" not in tables.read_trials(tmp_path / "old").column_names, "their tables are as they were"
    nothing = origin_of(ablation(tmp_path / "bare", None).write())
    assert "torch not recorded, akdtune not recorded, Python not recorded" in str(nothing)
    partly = ablation(tmp_path / "partly", EPYC, None)
    partly.lock = LOCK
    origin = origin_of(partly.write())
    assert "2 processors: AMD EPYC 9B14 (AVX512), not recorded" in str(origin)
    assert "torch 2.9.1 and 2.8.0" in str(origin)


def test_a_column_says_it_of_each_trial(tmp_path: Path) -> None:
    results = akdtune.load(ablation(tmp_path, EPYC).write())
    assert {json.loads(text)["processor"] for text in results.trials["trained_on"].to_pylist()} == {"AMD EPYC 9B14"}
    assert "processor, threads, device and versions" in str(results.columns["trained_on"])
    assert results.origin.short.startswith("AMD EPYC 9B14")


def test_every_file_of_an_ablation_holds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ablation(tmp_path, EPYC).write()
    assert importlib.import_module("akdtune.analysis.ablation").main([str(run)]) == 0
    line, where = str(origin_of(run)), run / "reports"
    assert line in " ".join(capsys.readouterr().out.split())
    assert f"{line}; {ROUNDING}." in (where / "ablation.md").read_text()
    assert (where / "ablation.tex").read_text().endswith(f"% {line}\n% {ROUNDING}\n")
    assert json.loads((where / "ablation.json").read_text())["trained_on"][0]["processor"] == "AMD EPYC 9B14"
    assert "AMD EPYC 9B14 (AVX512), 1 thread a trial" in (where / "ablation.svg").read_text()


@pytest.mark.parametrize("name", ["diversity_accuracy", "importance"])
def test_other_analyses_say_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    study = StudyBuilder(tmp_path)
    for index in range(12):
        study.add("angular/kd", 60.0 + index % 4, 0.1 * index, role="probe", params={"views.margin": 0.01 * index})
        study.events[-1]["trained_on"] = EPYC
    run = study.write()
    draws = {"diversity_accuracy": "100", "importance": "20"}[name]
    assert importlib.import_module(f"akdtune.analysis.{name}").main([str(run), "--draws", draws]) == 0
    assert str(origin_of(run)) in " ".join(capsys.readouterr().out.split())
    report = json.loads((run / "reports" / f"{name}.json").read_text())
    assert report["trained_on"][0]["trials"] == 12
    assert report["analysed_with"]["akdtune"] == __version__


def test_a_comparison_says_it_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(ablation(tmp_path / name, where).write()) for name, where in (("a", EPYC), ("b", XEON)))
    assert importlib.import_module("akdtune.analysis.compare").main([a, b, "--all"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "A trained on: AMD EPYC 9B14 (AVX512), 1 thread" in text
    assert "B trained on: Intel Xeon (AVX2, oneDNN at most AVX2), 2 threads" in text
    report = json.loads((tmp_path / "a" / "reports" / "compare_b.json").read_text())
    assert report["origin_b"]["trained_on"][0]["threads"] == 2


def test_the_margin_of_a_figure_takes_what_fits() -> None:
    def svg() -> str:
        with figures.sheet(3.0, 1.0) as drawn:
            drawn.figure.subplots()
        return drawn.files["svg"].decode()

    with figures.stamped("a short line"):
        assert "a short line" in svg()
    with figures.stamped("a long line " * 9):
        text = svg()
    assert "a long line a long" in text and "a long line " * 9 not in text and "…" in text
    assert "line a long" not in svg(), "no figure outside has it"
