"""analysis/diversity_accuracy.py: every estimand on data with a known answer, and what is said about it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.study_fixture import DIVERSITY, StudyBuilder

analysis = importlib.import_module("akdtune.analysis.diversity_accuracy")


def analyse(study: StudyBuilder, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The JSON report and what was printed."""
    assert analysis.main([str(study.write()), "--draws", "200"]) == 0
    return json.loads((study.path / "reports" / "diversity_accuracy.json").read_text()), capsys.readouterr().out


def one_measure(study: StudyBuilder, panel: str = "probe", measure: str = "diversity_ce") -> Any:
    """The relation of one measure, without the report around it."""
    (chosen,) = [chosen for chosen in analysis.panels_of(study.write())[0] if chosen.name == panel]
    return analysis.relate(chosen, [measure], draws=200)[0]


def test_pooled_is_the_plain_correlation(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    x, noise = rng.uniform(size=30), rng.normal(size=30)
    study.add_many("angular/kd", list(zip(x, 60 + 3 * x + noise, strict=True)))
    relation = one_measure(study)
    pooled = relation.estimates["pooled"]
    assert pooled.pearson.value == pytest.approx(np.corrcoef(x, 3 * x + noise)[0, 1])
    assert pooled.slope.value == pytest.approx(np.polyfit(x, 3 * x + noise, 1)[0])
    assert relation.estimates["within_arm"] is pooled  # one arm: the three are one number
    assert relation.estimates["adjusted"] is pooled


def test_simpson_is_found_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Within each arm accuracy rises by 2 points per unit; arms with more diversity are worse by 5 points."""
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    for index, method in enumerate(("kd", "dkd", "crd")):
        x = rng.uniform(size=10)
        study.add_many(f"angular/{method}", list(zip(x + index, 70 + 2 * x - 5 * index, strict=True)))
    report, printed = analyse(study, capsys)
    measure = report["panels"]["probe"]["measures"]["diversity_sq_prob"]
    assert measure["pooled"]["pearson"]["value"] < -0.8
    assert measure["within_arm"]["slope"]["value"] == pytest.approx(2.0)
    assert measure["adjusted"]["slope"]["value"] == pytest.approx(2.0)
    assert measure["simpson"] is True
    assert re.search(r"Simpson: diversity_sq_prob has r = -0\.\d\d pooled but \+1\.00 within arms", printed)
    assert "association, never effect" in printed


def test_student_settings_are_adjusted_for_and_view_settings_never(tmp_path: Path) -> None:
    """The KD weight drives both diversity and accuracy; the margin acts on accuracy through diversity alone."""
    rng = np.random.default_rng(0)
    confounded, direct = StudyBuilder(tmp_path / "confounded"), StudyBuilder(tmp_path / "direct")
    for _ in range(40):
        weight, margin = rng.uniform(1, 2), rng.uniform(0.1, 0.6)
        diversity = weight + 0.2 * rng.normal()
        accuracy = 60 + 6 * weight + 0.1 * rng.normal()
        params = {"method.kd.weight": weight, "views.margin": margin}
        confounded.add("angular/kd", accuracy, diversity, role="search", params=params)
        direct.add("angular/kd", 60 + 2 * margin, margin, role="search", params={"views.margin": margin})
    relation = one_measure(confounded, "search")
    assert relation.adjusted_for == ["method.kd.weight"]
    assert relation.estimates["pooled"].pearson.low > 0.6
    assert relation.estimates["within_arm"].pearson.low > 0.6
    adjusted = relation.estimates["adjusted"].slope
    assert adjusted.low < 0 < adjusted.high
    assert abs(adjusted.value) < 0.3
    relation = one_measure(direct, "search")
    assert relation.adjusted_for == []
    assert relation.estimates["adjusted"].slope.value == pytest.approx(2.0)


def test_within_arm_is_by_view_and_method_but_adjustment_by_method_alone(tmp_path: Path) -> None:
    """TeKAP's views differ less than Angular's and teach worse: (c) keeps that difference, (b) takes it out."""
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    for method, shift in (("kd", 0.0), ("dkd", 10.0)):
        for view, level in (("tekap", 0.0), ("angular", 1.0)):
            x = level + 0.1 * rng.uniform(size=12)
            study.add_many(f"{view}/{method}", list(zip(x, 60 + shift + 4 * level + 0 * x, strict=True)))
    relation = one_measure(study)
    assert relation.adjusted_for == ["base method"]
    assert relation.estimates["adjusted"].slope.value == pytest.approx(4.0, rel=0.05)
    assert relation.estimates["within_arm"].pearson is None  # accuracy does not vary within an arm


def test_too_few_residual_degrees_of_freedom_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(14):
        study.add(f"angular/{('kd', 'dkd', 'crd', 'kd+crd')[index % 4]}", 60 + rng.normal(), rng.normal())
    report, printed = analyse(study, capsys)
    measure = report["panels"]["probe"]["measures"]["diversity_ce"]
    assert measure["within_arm"]["refused"].startswith(
        "refused: residual degrees of freedom 9 (14 cells less arm means 4"
    )
    assert measure["adjusted"]["refused"].startswith(
        "refused: residual degrees of freedom 9 (14 cells less student-side columns 4"
    )
    assert "(b) within arm refused: residual degrees of freedom 9" in printed
    study.add("angular/kd", 61.0, 0.3)  # the fifteenth cell makes it ten
    assert one_measure(study).refused == {}


def test_seeds_of_a_cell_count_once(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    for cell in range(12):
        for seed in (1, 2, 3):
            study.add("angular/kd", 60 + rng.normal(), float(cell), cell=f"c{cell}", seed=seed)
    pooled = one_measure(study).estimates["pooled"]
    assert (pooled.n, pooled.clusters, pooled.residual_dof) == (36, 12, 10)


def test_who_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.uniform()
        study.add("angular/kd", 60 + x + 0.1 * rng.normal(), x, role="probe")
        study.add("angular/kd", 60 - x + 0.1 * rng.normal(), x, role="search")
    for status in ("pruned", "diverged", "failed", "planned", "running"):
        study.add("angular/kd", 1.0, 99.0, role="search", status=status)
    study.add("none/kd", 65.0, 0.0, role="search")
    study.add("angular/kd", 65.0, None, role="search")
    study.add("angular/kd", None, 0.5, role="search")
    study.write(finished=False)
    report, printed = analyse(study, capsys)
    panels = report["panels"]
    assert panels["search"]["excluded"] == {"pruned": 1, "diverged": 1, "failed": 1, "planned": 1, "interrupted": 1}
    assert (panels["search"]["finished"], panels["search"]["without_views"]) == (23, 1)
    measure = panels["search"]["measures"]["diversity_ce"]
    assert (measure["pooled"]["n"], measure["without_value"]) == (20, 1)
    assert measure["pooled"]["slope"]["value"] == pytest.approx(-1, abs=0.2)
    assert panels["probe"]["measures"]["diversity_ce"]["pooled"]["slope"]["value"] == pytest.approx(1, abs=0.2)
    assert (panels["search"]["selected_on_accuracy"], panels["probe"]["selected_on_accuracy"]) == (True, False)
    assert "search survivors: selected on accuracy, biased" in printed
    assert "a true correlation of .5 shows as .34" in printed.replace("\n", " ").replace("  ", " ")
    assert "the study is not finished" in printed
    assert "excluded: 1 planned, 1 interrupted, 1 pruned, 1 diverged, 1 failed" in printed
    assert set(report["panels"]["probe"]["measures"]) == set(DIVERSITY)


def test_report_roles_are_judged_on_the_test_set(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    for index in range(12):
        study.add("angular/kd", 60.0 + index, float(index), role="ablation", val_accuracy=1.0)
    (panel,) = analysis.panels_of(study.write())[0]
    assert (panel.name, panel.accuracy_on) == ("report", "test")
    assert panel.accuracy.tolist() == [60.0 + index for index in range(12)]


@pytest.mark.parametrize(
    ("cells", "strength", "expected"),
    [
        (11, 0.0, "n is too small to conclude anything (11 cells; at least 12 are needed)"),
        (
            24,
            0.0,
            "n is too small to tell the sign within arms: the interval covers zero; this many cells show |r| of 0.55",
        ),
        (24, -5.0, "negative association within arms, r = -0."),
    ],
)
def test_the_verdict_says_when_n_is_too_small(tmp_path: Path, cells: int, strength: float, expected: str) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(1)
    for _ in range(cells):
        x = rng.uniform()
        study.add("angular/kd", 60 + strength * x + rng.normal(), x)
    assert analysis.verdict(one_measure(study)).startswith(expected)


def test_report_and_figures_are_written_and_reproducible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(30):
        x = rng.uniform()
        study.add(
            f"angular/{('kd', 'dkd')[index % 2]}", 60 + x + rng.normal(), x, role=("probe", "search")[index % 3 == 0]
        )
    study.add("none/kd", 63.0, None, role="search")
    analyse(study, capsys)
    reports = study.path / "reports"
    first = {path.name: path.read_bytes() for path in reports.iterdir()}
    assert sorted(first) == ["diversity_accuracy.json", "diversity_accuracy.png", "diversity_accuracy.svg"]
    assert first["diversity_accuracy.png"].startswith(b"\x89PNG")
    text = first["diversity_accuracy.svg"].decode()
    for part in (
        "angular/kd",
        "none/kd (no views, not fitted)",
        "selected on accuracy, biased",
        "n = 20",
        "within arms r =",
    ):
        assert part in text
    analyse(study, capsys)
    for path in reports.iterdir():
        assert path.read_bytes() == first[path.name], path.name


def test_a_study_with_nothing_to_fit_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    report, printed = analyse(study, capsys)
    assert report["panels"] == {}
    assert "no probe trial has finished" in printed
    study.add("angular/kd", 60.0, 0.1)
    study.add("none/kd", 61.0, None)
    study.add("angular/kd", None, None, status="running")
    report, printed = analyse(study, capsys)
    measure = report["panels"]["probe"]["measures"]["diversity_ce"]
    assert measure["pooled"] == {"n": 1, "cells": 1, "residual_dof": -1, "x_sd": 0.0, "pearson": None, "spearman": None,
                               "slope": None}  # fmt: skip
    assert "n is too small to conclude anything" in printed
    for diversity in (0.2, 0.35):
        study.add("angular/kd", 60.0 + diversity, diversity)
    assert "+1.00 [n/a]" in analyse(study, capsys)[1]  # three cells: a coefficient, no interval


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such study directory"),
        (lambda path: path.mkdir(), "is no study directory"),
        (lambda path: path.write_text(""), "is not a directory"),
        (lambda path: (path.mkdir(), (path / "plan.parquet").write_text("PAR1")), "plan.parquet: cannot be read"),
    ],
)
def test_bad_input_gets_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, message: str
) -> None:
    path = tmp_path / "run"
    make(path)
    assert analysis.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    assert analysis.main([str(study.write()), "--draws", "5"]) == 2
    assert "--draws: 5 is too few" in capsys.readouterr().err
    assert analysis.main(["--unknown"]) == 2
    (tmp_path / "file").write_text("")
    assert analysis.main([str(tmp_path), "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_help_teaches_and_nothing_heavy_is_imported_before_the_first_line(repository: Path) -> None:
    script = repository / "analysis" / "diversity_accuracy.py"
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    for part in ("(a) pooled", "(b) within arm", "(c) adjusted", "examples:", "never an effect"):
        assert part in shown
    heavy = "torch ray pandas scipy statsmodels matplotlib rich optuna wandb".split()
    code = f"import sys, akdtune.analysis.diversity_accuracy; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_whole_analysis_runs_without_torch(tmp_path: Path, repository: Path) -> None:
    study = StudyBuilder(tmp_path)
    study.add_many("angular/kd", [(0.1 * i, 60.0 + i % 5) for i in range(15)])
    study.write(torn='{"time": 5, "ev')
    code = (
        "import sys, runpy; sys.argv = ['x', sys.argv[1], '--draws', '100']\n"
        f"try: runpy.run_path({str(repository / 'analysis' / 'diversity_accuracy.py')!r}, run_name='__main__')\n"
        "except SystemExit as leaving: print(leaving.code, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == f"diversity and accuracy in {tmp_path}"
    assert done.stdout.splitlines()[-1] == "0 False False"
