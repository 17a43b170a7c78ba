"""What `diversity_accuracy --all` adds: other fits, the path along the ensemble's accuracy, losses; nothing else."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from akdtune.reports.answers import diversity_in
from akdtune.reports.diversity import checks_figures
from akdtune.reports.diversity.checks import Checks, checks_of
from akdtune.reports.diversity.checks_report import checks_json, fit_rows, path_rows, remarks
from akdtune.reports.diversity.measured import HEADLINE, panels_of, relate
from akdtune.reports.page import material as reading
from akdtune.reports.page.content import Section
from akdtune.reports.page.sections import views
from akdtune.statistics.association import Coefficient
from akdtune.statistics.mediation import ASSUMPTIONS, Mediation
from tests.recorded_study import scores, write_teacher, write_trial
from tests.study_fixture import DIVERSITY, StudyBuilder

analysis = importlib.import_module("akdtune.analysis.diversity_accuracy")
ARMS = ("angular/kd", "angular/dkd", "tekap/kd")


def probed(path: Path, *, cells: int = 24, seeds: int = 2, along: float = 1.0, outlier: float = 0.0) -> StudyBuilder:
    """Cells of three arms; diversity makes ensembles better by `along`, and these their students by 2."""
    study, rng, spoiled = StudyBuilder(path), np.random.default_rng(0), -1
    for cell in range(cells):
        arm, x = ARMS[cell % 3], float(rng.normal())
        ensemble = 70 + along * x + 0.5 * rng.normal() + 3 * (cell % 3)
        spoiled = cell if x > 1 and spoiled < 0 else spoiled
        for seed in range(1, seeds + 1):
            accuracy = 60 + 2 * (ensemble - 70) + 0.3 * rng.normal() - 9 * (cell % 3)
            accuracy += outlier if cell == spoiled else 0.0
            study.add(arm, accuracy, x, cell=f"c{cell}", seed=seed, ensemble_accuracy=ensemble)
    return study


def checks(study: StudyBuilder) -> Checks:
    """Those of D_ce."""
    (panel, *_) = panels_of(study.write())[0]
    (found,) = checks_of(panel, relate(panel, ["diversity_ce"], draws=100), draws=100)
    return found


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Checks:
    """Of 24 cells of three arms, two seeds each."""
    return checks(probed(tmp_path_factory.mktemp("usual")))


def test_every_fit_finds_the_slope(usual: Checks) -> None:
    found = usual
    assert list(found.slopes) == ["least_squares", "between_cells", "theil_sen", "huber"]
    for slope in found.slopes.values():
        assert slope.value == pytest.approx(2.0, abs=0.6)
        assert slope.low is not None and slope.low > 0
    assert [left.group for left in found.without_arms] == sorted(ARMS)
    lowest, highest = found.extremes or (None, None)
    assert lowest is not None and highest is not None
    assert (lowest.slope or 0) <= found.slopes["least_squares"].value <= (highest.slope or 0)
    assert found.sentence == "D_ce: all 7 slopes within arms are positive"


def test_seeds_that_differ_in_diversity_have_a_slope_of_their_own(tmp_path: Path) -> None:
    study, rng = StudyBuilder(tmp_path), np.random.default_rng(1)
    for cell in range(20):
        x = float(rng.normal())
        own_first = 0.2 * (-1) ** cell
        for seed, own in ((1, own_first), (2, -own_first)):
            study.add("angular/kd", 60 + x - 3 * own + 0.05 * rng.normal(), x + own, cell=f"c{cell}", seed=seed)
    found = checks(study)
    assert found.slopes["between_cells"].value == pytest.approx(1.0, abs=0.2)
    assert found.slopes["between_seeds"].value == pytest.approx(-3.0, abs=0.5)


def test_an_arm_that_is_the_whole_slope_is_named(tmp_path: Path) -> None:
    """Ten times the spread in x, and the only arm whose accuracy rises."""
    study, rng = StudyBuilder(tmp_path), np.random.default_rng(2)
    for index in range(36):
        arm, x = index % 3, float(rng.normal())
        x, y = (10 * x, 10 * x) if arm == 0 else (x, -x)
        study.add(ARMS[arm], 60 + y + 0.1 * rng.normal(), x)
    found = checks(study)
    lowest, _ = found.extremes or (None, None)
    assert lowest is not None and lowest.group == "angular/kd"
    assert lowest.slope == pytest.approx(-1.0, abs=0.1)
    assert found.sentence.startswith("D_ce: positive by least squares, but not by: ")
    assert "without angular/kd" in found.sentence
    assert ["D_ce", "lowest, without angular/kd"] in [row[:2] for row in fit_rows([found])]


def test_one_cell_far_off_moves_ranks_and_huber_little(tmp_path: Path, usual: Checks) -> None:
    plain, spoiled = usual, checks(probed(tmp_path, outlier=-60.0))
    for name in ("theil_sen", "huber"):
        assert spoiled.slopes[name].value == pytest.approx(plain.slopes[name].value, abs=0.8)
    moved = abs(spoiled.slopes["least_squares"].value - plain.slopes["least_squares"].value)
    assert moved > 1.0


def test_the_path_goes_along_the_ensembles_accuracy(usual: Checks) -> None:
    path = usual.mediation
    assert isinstance(path, Mediation)
    assert path.clusters == 24
    assert path.b.value == pytest.approx(2.0, abs=0.3)
    assert path.indirect.excludes_zero and not path.direct.excludes_zero
    assert usual.path_sentence.startswith("D_ce: the association along the ensemble's accuracy is resolved, ")
    assert "effect" not in usual.path_sentence


def test_without_the_ensembles_accuracy_there_is_no_path(tmp_path: Path) -> None:
    study, rng = StudyBuilder(tmp_path), np.random.default_rng(0)
    for _ in range(15):
        study.add("angular/kd", 60 + rng.normal(), float(rng.normal()))
    found = checks(study)
    assert found.mediation == "no path: the ensemble's accuracy was not recorded"
    assert checks_json(found)["path"] is None
    assert checks_json(found)["refused"]["path"] == found.mediation
    assert path_rows([found]) == []
    assert "no two trials share" in " ".join(remarks([found]))


def analysed(study: StudyBuilder, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, Any], str]:
    assert analysis.main([str(study.write()), "--draws", "100", "--format", "svg", *options]) == 0
    return json.loads((study.path / "reports" / "diversity_accuracy.json").read_text()), capsys.readouterr().out


def recorded(path: Path) -> StudyBuilder:
    """Probes of which two kept the answers of their views."""
    study = probed(path, cells=18)
    for index in range(2):
        write_trial(study.path, f"t{index:05d}", scores(50 + index), [scores(10 * index + view) for view in (1, 2)])
    write_teacher(study.path, scores(0, 4.0))
    return study


def test_all_of_it_stands_in_the_json_and_the_verdict_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headline, table and estimates are those of `relate` and `judge` alone."""
    monkeypatch.setattr(analysis, "draw", lambda *_: {})
    study = recorded(tmp_path)
    report, printed = analysed(study, capsys)
    for part in ("Theil-Sen", "along the path", "theory holds in all of 2 trials", *ASSUMPTIONS):
        assert part not in printed
    assert "other fits, the path along the ensemble's accuracy, losses of the ensembles" in printed
    of = report["panels"]["probe"]["checks"]["diversity_ce"]
    assert set(of) == {"sentence", "slopes", "mixed", "without_arm", "path", "refused"}
    assert set(report["panels"]["probe"]["checks"]) == set(HEADLINE)
    assert set(of["without_arm"]) == set(ARMS)
    path = {part: of["path"][part]["value"] for part in ("indirect", "direct", "total")}
    assert path["indirect"] + path["direct"] == pytest.approx(path["total"])
    assert report["checks"]["path"]["assumptions"] == list(ASSUMPTIONS)
    assert set(report["theory"]["trials"]) == {"t00000", "t00001"}
    assert report["theory"]["left_out"] == {"without predictions": 34}
    said = diversity_in(tmp_path, draws=100)
    assert printed.splitlines()[2] == said.verdict == report["verdict"]
    (relation,) = [each for each in said.relations["probe"] if each.measure == "diversity_ce"]
    assert relation.within is not None and relation.within.slope is not None
    there = report["panels"]["probe"]["measures"]["diversity_ce"]["within_arm"]["slope"]
    assert there == vars(relation.within.slope)
    assert of["slopes"]["least_squares"] == there
    assert said.report()["panels"] == json.loads(json.dumps(report["panels"]))


def test_all_of_it_is_printed_and_drawn_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = recorded(tmp_path)
    everything = analysed(study, capsys, "--all")[1]
    for part in (
        "Theil-Sen",
        "along the path",
        "theory holds in all of 2 trials",
        "theory holds in all of 2 trials",
        *ASSUMPTIONS,
    ):
        assert part in everything
    assert "left out: 34 without predictions" in everything
    names = sorted(file.name for file in (study.path / "reports").glob("*.svg"))
    assert names == ["diversity_accuracy.svg", "diversity_checks.svg", "diversity_theory.svg"]


def test_figures_have_the_same_rows_for_every_measure(usual: Checks) -> None:
    """And one interval that is long does not make points of all others."""
    long = replace(usual, huber=Coefficient(2.0, -1e6, 1e6))
    figure = checks_figures.fits({"probe": [usual, long]}, "small").figure
    assert max(map(abs, figure.axes[1].get_xlim())) < 100
    assert len(figure.axes) == 2
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [
        "least squares, cell means", "mixed model, between cells", "Theil-Sen", "Huber", "lowest, leaving one arm out",
        "highest, leaving one arm out", "along the ensemble's accuracy", "beside it",
    ]  # fmt: skip
    assert all(axis.get_ylim() == figure.axes[0].get_ylim() for axis in figure.axes)


def test_the_page_has_them_folded(tmp_path: Path) -> None:
    section = views.diversity(reading.read(recorded(tmp_path).write()))
    assert isinstance(section, Section)
    captions = [part.caption for part in section.parts if hasattr(part, "caption") and hasattr(part, "headings")]
    assert captions == [
        "Association of diversity and accuracy, probe trials", "The slope within arms by other fits, probe trials",
        "Along the ensemble's accuracy and beside it, probe trials", "Losses of the ensembles",
    ]  # fmt: skip


def test_measures_that_are_refused_have_no_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis, "draw", lambda *_: {})
    study = StudyBuilder(tmp_path)
    for index in range(5):
        study.add("angular/kd", 60.0 + index % 2, 0.1 * index)
    report, printed = analysed(study, capsys, "--all")
    assert report["panels"]["probe"]["checks"] == {}
    assert "Theil-Sen" not in printed
    assert set(DIVERSITY) == set(report["panels"]["probe"]["measures"])
