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

from akdtune.reports.answers import diversity_in
from akdtune.reports.diversity.figures import CLAIM, POOLED, scatter
from akdtune.reports.diversity.measured import HEADLINE, Relation, panels_of, relate
from akdtune.reports.diversity.verdict import judge
from akdtune.statistics.association import Association, Coefficient
from tests.study_fixture import DIVERSITY, StudyBuilder

analysis = importlib.import_module("akdtune.analysis.diversity_accuracy")


def analyse(study: StudyBuilder, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, Any], str]:
    """The JSON report and what was printed."""
    assert analysis.main([str(study.write()), "--draws", "200", *options]) == 0
    return json.loads((study.path / "reports" / "diversity_accuracy.json").read_text()), capsys.readouterr().out


def one_measure(study: StudyBuilder, panel: str = "probe", measure: str = "diversity_ce") -> Any:
    """The relation of one measure, without the report around it."""
    (chosen,) = [chosen for chosen in panels_of(study.write())[0] if chosen.name == panel]
    return relate(chosen, [measure], draws=200)[0]


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
    assert re.search(
        r"Simpson: D_sq, probabilities: r = -0\.\d\d \[.*\] pooled, but \+1\.00 \[.*\] within arms", printed
    )
    assert "association, never effect" in printed


def simple(value: float, low: float, high: float) -> Association:
    return Association(44, 44, 39, Coefficient(value, low, high), None, Coefficient(value, low, high), 1.0)


@pytest.mark.parametrize(
    ("pooled", "within", "p", "turned"),
    [
        ((-0.5, -0.7, -0.2), (0.5, 0.2, 0.7), 0.001, True),
        ((0.5, 0.2, 0.7), (-0.5, -0.7, -0.2), 0.001, True),
        ((-0.1, -0.4, 0.2), (0.5, 0.2, 0.7), 0.001, False),  # signs of point estimates differ, no more
        ((-0.5, -0.7, -0.2), (0.2, -0.1, 0.5), 0.2, False),
        ((-0.5, -0.7, -0.2), (0.3, 0.01, 0.6), 0.04, False),  # four measures were looked at
        ((0.5, 0.2, 0.7), (0.5, 0.2, 0.7), 0.001, False),
    ],
)
def test_simpson_needs_both_intervals(
    pooled: tuple[float, float, float], within: tuple[float, float, float], p: float, turned: bool
) -> None:
    estimates = {"pooled": simple(*pooled), "within_arm": simple(*within)}
    others = [Relation(name, 44, estimates, {}, [], 0.5) for name in list(HEADLINE)[1:]]
    verdict = judge([Relation("diversity_sq_prob", 44, estimates, {}, [], p), *others])
    assert verdict.judged[0].simpson is turned
    assert len(verdict.simpson_sentences) == turned


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
    assert "nothing can be concluded within arms, too few cells: residual degrees of freedom 9 (14 cells" in printed
    assert measure["p"] is None
    assert measure["p_holm"] is None
    assert "(b) within arm refused: residual degrees of freedom 9" in analyse(study, capsys, "--all")[1]
    study.add("angular/kd", 61.0, 0.3)  # the fifteenth cell makes it ten
    assert one_measure(study).refused == {}


def test_seeds_of_a_cell_count_once(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(0)
    for cell in range(12):
        for seed in (1, 2, 3):
            study.add("angular/kd", 60 + rng.normal(), float(cell), cell=f"c{cell}", seed=seed)
    relation = one_measure(study)
    assert (relation.trials, relation.estimates["pooled"].clusters, relation.estimates["pooled"].residual_dof) == (
        36, 12, 10,
    )  # fmt: skip


def test_r_is_that_of_cell_means_and_each_cell_counts_once(tmp_path: Path) -> None:
    """Two seeds a cell, one of them failed in some: means over the seeds that finished, equal weight."""
    study, rng = StudyBuilder(tmp_path), np.random.default_rng(5)
    means = []
    for cell in range(20):
        x, seeds = rng.uniform(), 1 + cell % 3
        y_S, x_S = 60 + x + rng.normal(size=seeds), x + 0.1 * rng.normal(size=seeds)
        means.append((x_S.mean(), y_S.mean()))
        for seed in range(seeds):
            study.add(f"angular/{('kd', 'crd')[cell % 2]}", y_S[seed], x_S[seed], cell=f"c{cell}", seed=seed)
    relation = one_measure(study)
    x_C, y_C = np.array(means).T
    assert relation.estimates["pooled"].pearson.value == pytest.approx(np.corrcoef(x_C, y_C)[0, 1])
    for arm in (0, 1):
        x_C[arm::2] -= x_C[arm::2].mean()
        y_C[arm::2] -= y_C[arm::2].mean()
    assert relation.within is not None
    assert relation.within.pearson.value == pytest.approx(np.corrcoef(x_C, y_C)[0, 1])


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
    assert "the study is not finished" in printed
    (of_all,) = (line for line in printed.splitlines() if line.startswith("with --all"))
    assert "search survivors" in of_all
    everything = analyse(study, capsys, "--all")[1]
    assert "search survivors: selected on accuracy" in everything
    assert ".34" not in everything  # of other studies
    assert "excluded: 1 planned, 1 interrupted, 1 pruned, 1 diverged, 1 failed" in everything
    assert set(report["panels"]["probe"]["measures"]) == set(DIVERSITY)


def test_report_roles_are_judged_on_the_test_set(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    for index in range(12):
        study.add("angular/kd", 60.0 + index, float(index), role="ablation", val_accuracy=1.0)
    (panel,) = panels_of(study.write())[0]
    assert (panel.name, panel.accuracy_on) == ("report", "test")
    assert panel.accuracy.tolist() == [60.0 + index for index in range(12)]


NOTHING = "nothing can be concluded within arms, too few cells: residual degrees of freedom 9 (11 cells"
UNRESOLVED = (
    "no association resolved within arms; these 24 cells find a true |r| of 0.62 with power .8 after correction over 4 "
    "measures (cells needed: 120 for .3, 40 for .5)"
)


@pytest.mark.parametrize(
    ("cells", "strength", "expected"),
    [
        (11, 0.0, NOTHING),
        (24, 0.0, UNRESOLVED),
        (24, -5.0, "negative association within arms: D_sq, probabilities, r = -0."),
    ],
)
def test_the_verdict(tmp_path: Path, cells: int, strength: float, expected: str) -> None:
    study = StudyBuilder(tmp_path)
    rng = np.random.default_rng(1)
    for _ in range(cells):
        x = rng.uniform()
        study.add("angular/kd", 60 + strength * x + rng.normal(), x)
    (panel,) = panels_of(study.write())[0]
    assert judge(relate(panel, list(HEADLINE), draws=200)).sentence.startswith(expected)


def test_only_what_is_resolved_among_four_is_called_associated(tmp_path: Path) -> None:
    """A measure with p = .02 by itself is not enough where four were looked at; r = .7 is."""
    rng = np.random.default_rng(8)
    x_N, unrelated_N = rng.normal(size=(2, 44))
    centred_N = unrelated_N - unrelated_N.mean()
    for wanted, says in (
        (0.36, "no association resolved within arms"),
        (0.7, "positive association within arms: D_ce, r"),
    ):
        noise_N = x_N - x_N.mean()
        noise_N = noise_N / noise_N.std()
        left_N = centred_N - (centred_N @ noise_N) / 44 * noise_N
        y_N = wanted * noise_N + np.sqrt(1 - wanted**2) * left_N / left_N.std()  # r is `wanted` exactly
        study = StudyBuilder(tmp_path / says.split()[0])
        for x, y in zip(x_N, y_N, strict=True):
            others = {name: float(rng.normal()) for name in DIVERSITY}
            study.add("angular/kd", 60 + float(y), {**others, "diversity_ce": float(x)})
        (panel,) = panels_of(study.write())[0]
        verdict = judge(relate(panel, list(HEADLINE), draws=200))
        last = verdict.judged[-1]
        assert verdict.sentence.startswith(says)
        assert last.relation.within is not None
        assert last.relation.within.pearson.value == pytest.approx(wanted)
        assert last.relation.p is not None and last.relation.p < 0.05
        assert last.p_holm == pytest.approx(4 * last.relation.p)


def test_the_answer_is_one_verdict_and_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, rng = StudyBuilder(tmp_path), np.random.default_rng(0)
    for index in range(44):
        x = rng.uniform()
        study.add(f"angular/{('kd', 'dkd', 'crd', 'kd+crd')[index % 4]}", 60 + 8 * x + rng.normal(), x)
        study.add(f"angular/{('kd', 'dkd', 'crd', 'kd+crd')[index % 4]}", 60 + rng.normal(), x, role="search")
    report, printed = analyse(study, capsys)
    lines = printed.splitlines()
    assert len(lines) <= 20
    assert lines[2].startswith("positive association within arms: D_sq, probabilities, r = +0.")
    assert lines[2] == report["verdict"] == report["panels"]["probe"]["verdict"]
    table = [line for line in lines if re.match(r"D_(sq|ce)", line)]
    assert len(table) == 4
    assert all(re.search(r"\+0\.\d\d \[\+0\.\d\d, \+0\.\d\d\] .*< \.001 +44$", row) for row in table)
    assert not any(word in printed for word in ("D_pair", "pooled r", "Spearman rho"))
    everything = analyse(study, capsys, "--all")[1]
    for part in ("D_pair, logits", "(a) pooled", "Spearman rho", "search survivors: selected on accuracy"):
        assert part in everything
    assert report["panels"]["search"]["measures"]["diversity_pair_logit"]["pooled"]["n"] == 44  # JSON has it anyway
    said = diversity_in(study.path, draws=200)
    assert said.verdict == lines[2]
    assert repr(said).startswith(lines[2])
    assert all(row.split(" +")[0].rstrip() in repr(said) for row in table)


def test_the_legend_names_the_lines_that_are_drawn(tmp_path: Path) -> None:
    """No slope within arms where it was refused; no pooled line where it is the slope of the only arm."""

    def words(study: StudyBuilder) -> set[str]:
        panels = panels_of(study.write())[0]
        relations = {panel.name: relate(panel, list(HEADLINE), draws=100) for panel in panels}
        figure = scatter(panels, relations, "name").figure
        widths = {line.get_linewidth() for axis in figure.axes for line in axis.lines if len(line.get_xdata()) > 1}
        (legend,) = figure.legends
        labels = {text.get_text() for text in legend.get_texts() if not text.get_text().startswith("angular")}
        assert ("slope within arms" in labels) == (CLAIM in widths)
        assert ("pooled line (mixes arms)" in labels) == (POOLED in widths)
        return labels

    rng = np.random.default_rng(0)
    few, one, many = (StudyBuilder(tmp_path / name) for name in ("few", "one", "many"))
    for index in range(40):
        arm, x, noise = f"angular/{('kd', 'crd')[index % 2]}", rng.uniform(), rng.normal()
        many.add(arm, 60 + x + noise, x)
        one.add("angular/kd", 60 + x + noise, x)
        if index < 8:
            few.add(arm, 60 + x + noise, x)
    assert words(few) == {"pooled line (mixes arms)"}
    assert words(one) == {"slope within arms", "its 95 % interval"}
    assert words(many) == {"slope within arms", "its 95 % interval", "pooled line (mixes arms)"}
    assert CLAIM > 2 * POOLED


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
        "selected on accuracy",
        "20 cells",
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
    assert "nothing can be concluded within arms, too few cells" in printed
    for diversity in (0.2, 0.35):
        study.add("angular/kd", 60.0 + diversity, diversity)
    assert "+1.00 [n/a]" in analyse(study, capsys, "--all")[1]  # three cells: a coefficient, no interval


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
