"""The command, its files, its sentences; the value of `akdtune.load`; the section of the page."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import akdtune
from akdtune.errors import AkdtuneError, StudyError
from akdtune.reports.page.html import html_of
from akdtune.reports.page.study_page import page_of
from tests.reports.fidelity.recorded_studies import RecordedStudy, three_pairs

analysis = importlib.import_module("akdtune.analysis.fidelity")


def analyse(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON report and what was printed."""
    assert analysis.main([*arguments, "--draws", "100"]) == 0
    return json.loads((Path(arguments[0]) / "reports" / "fidelity.json").read_text()), capsys.readouterr().out


def test_one_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = RecordedStudy(tmp_path / "s")
    study.teach("weak")
    study.teach("student_only", method=[{"name": "student_only"}])
    study.builder.add("none/kd", 1.0, None, role="ablation", status="diverged")
    report, printed = analyse(capsys, str(study.write()))
    assert report["verdict"].startswith("3 students predict as the teachers do on ")
    assert "attend to the same pixels with an IoU of 0." in report["verdict"]
    assert report["verdict"] in printed
    assert "IoU of a teacher with itself 1; with maps of noise 0." in printed
    assert "s: left out: 1 diverged" in printed
    assert report["relations"]["refused"] in printed
    (held,) = report["studies"]
    assert held["left_out"] == {"diverged": 1}
    assert len(held["students"]) == 6
    assert held["teachers"]["itself"] == {"sum": 1, "predicted": 1}
    assert held["students"][0]["augmented"]["ensemble"]["fidelity_percent"] > 50
    names = {path.name for path in (study.builder.path / "reports").iterdir()}
    assert names == {
        "fidelity.json", "fidelity.png", "fidelity.svg", "fidelity_maps.png", "fidelity_maps.svg"
    }  # fmt: skip


def test_three_pairs_of_teachers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(run) for run in three_pairs(tmp_path)]
    report, printed = analyse(capsys, *runs, "--format", "png")
    assert report["verdict"] in printed
    assert report["verdict"].startswith("over 6 arms of 3 pairs of teachers, the teachers' IoU has rank correlations ")
    assert report["verdict"].endswith("an association of 3 pairs of teachers, reported and not tested")
    assert report["relations"]["fidelity"]["spearman_over_arms"]["value"] > 0.8
    assert report["relations"]["fidelity"]["least_p"] == pytest.approx(1 / 3)
    assert "no p below .333 can come of them" in printed
    assert [study["study"] for study in report["studies"]] == ["pair_0", "pair_1", "pair_2"]


def test_maps_and_threshold_are_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = RecordedStudy(tmp_path / "s")
    study.teach("weak", seeds=[1])
    run = str(study.write())
    first = analyse(capsys, run, "--format", "png")[0]
    second = analyse(capsys, run, "--format", "png", "--maps", "predicted", "--threshold", "0.6")[0]
    assert (first["maps"], first["threshold"]) == ("sum", 0.4)
    assert (second["maps"], second["threshold"]) == ("predicted", 0.6)
    ious = [report["studies"][0]["teachers"]["mean_iou"]["sum"] for report in (first, second)]
    assert ious[0] > ious[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "1"], "threshold: 1 leaves nothing to compare (allowed: 0 up to below 1)"),
        (["--draws", "9"], "draws: 9 is too few for an interval (allowed: 100 or more)"),
        (["{run}"], "is named twice; name each study once"),
        (["nowhere"], "nowhere: no such study directory"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    study = RecordedStudy(tmp_path / "s")
    study.teach("weak", seeds=[1])
    run = str(study.write())
    assert analysis.main([run, *(option.format(run=run) for option in options)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said
    assert not (study.builder.path / "reports").exists()


def test_load(tmp_path: Path) -> None:
    runs = three_pairs(tmp_path)
    one = akdtune.load(runs[0]).fidelity(draws=100)
    assert isinstance(one.figure(), Figure) and isinstance(one.figure("fidelity_maps"), Figure)
    assert repr(one).startswith(one.verdict)
    assert "<table" in one._repr_html_()
    assert len(one.rows()) == 2
    with pytest.raises(AkdtuneError, match="unknown figure 'fidelity_map'; did you mean 'fidelity_maps'"):
        one.figure("fidelity_map")
    with pytest.raises(AkdtuneError, match="unknown maps 'sums'; did you mean 'sum'"):
        akdtune.load(runs[0]).fidelity(maps="sums")
    with pytest.raises(StudyError, match="no such study directory"):
        akdtune.load(runs[0]).fidelity(tmp_path / "gone")
    three = akdtune.load(runs[0]).fidelity(*runs[1:], draws=100)
    assert three.verdict.startswith("over 6 arms of 3 pairs")
    json.dumps(three.report(), allow_nan=False)


def test_the_page_has_it(tmp_path: Path) -> None:
    study = RecordedStudy(tmp_path / "s")
    study.teach("weak")
    page = page_of(study.write())
    (section,) = [section for section in page.sections if section.title == "Attention and fidelity"]
    text = html_of(page)
    assert "IoU with the teachers and top-1 fidelity of 3 trials" in text
    assert any("predict as the teachers do" in lead for lead in page.leads)
    assert len(section.parts) == 6


def test_studies_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = []
    for place in ("a", "b"):
        study = RecordedStudy(tmp_path / place / "same")
        study.teach("weak", seeds=[1])
        runs.append(study.write())
    both = akdtune.load(runs[0]).fidelity(runs[1], draws=100)
    assert [study.name for study in both.studies] == [str(run) for run in runs]
