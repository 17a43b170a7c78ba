"""analysis/transfer.py: measures on arrays with known answers, students by teacher, and what is said about them."""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.markers import CARETLEFT
from rich.console import Console

import akdtune
from akdtune.records.files import trial_directory
from akdtune.records.recorded_files import PREDICTIONS, teacher_logits_file, write_teacher_logits, write_trial_logits
from akdtune.reports.figures import Bar
from akdtune.reports.left_out import DAMAGED, OTHER_IMAGES
from akdtune.reports.page import material as reading
from akdtune.reports.page.content import Section, Sentences
from akdtune.reports.page.drawing import forest
from akdtune.reports.page.drawing.looks import look
from akdtune.reports.page.sections.transfer import transfer
from akdtune.reports.transfer import measures
from akdtune.reports.transfer.answer import transfer_of
from akdtune.reports.transfer.comparison import BY_HEADROOM, TESTED, compare
from akdtune.reports.transfer.figures import split
from akdtune.reports.transfer.measures import CELLS, measured
from akdtune.reports.transfer.students import Block, Cell, Student, Students
from akdtune.study import spec
from akdtune.training.measures import TransferMeter
from tests.study_fixture import StudyBuilder

analysis = importlib.import_module("akdtune.analysis.transfer")

CLASSES, IMAGES = 4, 200
LABELS = np.arange(IMAGES) % CLASSES
SEEDS = tuple(range(100, 110))
KD, APART, NOISE = (0.94, 0.85), (0.93, 0.5), (0.85, 0.4)
"""How likely a student agrees where the teacher is right, and where it is wrong."""


def answers_of(teacher: int) -> np.ndarray[Any, Any]:
    """A teacher that is right on four images of five, on others than another teacher."""
    wrong = np.random.default_rng(teacher).permutation(IMAGES) < IMAGES // 5
    return np.where(wrong, (LABELS + 1) % CLASSES, LABELS)


def logits(answers_N: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    return 3 * np.eye(CLASSES)[answers_N] + np.random.default_rng(seed).normal(0, 0.3, (IMAGES, CLASSES))


def student_of(teacher: int, likely: tuple[float, float], seed: int) -> np.ndarray[Any, Any]:
    """Logits of a student that agrees as often as is likely, by whether its teacher is right."""
    rng, teacher_N = np.random.default_rng(seed), answers_of(teacher)
    agrees = rng.uniform(size=IMAGES) < np.where(teacher_N == LABELS, *likely)
    return logits(np.where(agrees, teacher_N, (teacher_N + 2) % CLASSES), seed)


class Study:
    """A study directory with cells of students beside one teacher."""

    def __init__(self, path: Path, teacher: int = 0) -> None:
        self.builder, self.teacher = StudyBuilder(path), teacher
        self.order = np.random.default_rng(1).permutation(IMAGES)  # readers go by the id
        ids_N = self.order.astype(np.int64)
        path.mkdir(parents=True, exist_ok=True)
        write_teacher_logits(
            teacher_logits_file(path, "test"), ids_N, LABELS[self.order], [logits(answers_of(teacher), 0)[self.order]]
        )

    def cell(
        self, name: str, likely: tuple[float, float], *, seeds: Sequence[int] = SEEDS, shift: int = 0, **options: Any
    ) -> list[str]:
        trials = self.builder.cell(name, [50.0] * len(seeds), seeds=seeds, **options)
        statuses = options.get("statuses") or {}
        for seed, trial in zip(seeds, trials, strict=True):
            if statuses.get(seed, "done") == "done":
                self.predict(trial, student_of(self.teacher, likely, seed + shift))
        return trials

    def predict(self, trial: str, logits_NK: np.ndarray[Any, Any]) -> None:
        path = trial_directory(self.builder.path, trial) / PREDICTIONS
        write_trial_logits(path, self.order.astype(np.int64), LABELS[self.order], logits_NK[self.order])

    def control(self, name: str, likely: tuple[float, float], **options: Any) -> list[str]:
        return self.cell(name, likely, role="control", arm="none/student_only", **options)

    def write(self) -> Path:
        return self.builder.write()


def usual(path: Path, teacher: int = 0, seeds: Sequence[int] = SEEDS, kd: tuple[float, float] = KD) -> Study:
    """Distilled students beside independent ones and such that saw noise."""
    study = Study(path, teacher)
    study.cell("base", kd, seeds=seeds)
    study.control("independent", APART, seeds=seeds, shift=1000)
    study.control("random_teacher", NOISE, seeds=seeds, shift=2000)
    return study


def analyse(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[dict[str, Any], str]:
    """The JSON report and what was printed."""
    assert analysis.main(list(map(str, arguments))) == 0
    out = Path(arguments[0]) / "reports"
    return json.loads((out / "transfer.json").read_text()), " ".join(capsys.readouterr().out.split())


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert analysis.main(list(map(str, arguments))) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures but where they are what is tested: each takes a second."""
    if request.cls is not TestFigures:
        monkeypatch.setattr(analysis, "draw", lambda *_: {})


class TestMeasures:
    def test_four_images_one_in_each_cell(self) -> None:
        labels, teacher, student = (np.array(held) for held in ([0, 1, 2, 0], [0, 1, 0, 1], [0, 2, 0, 0]))
        values = measured(np.eye(3)[student], np.eye(3)[teacher], labels)
        assert {name: values[name] for name in CELLS} == dict.fromkeys(CELLS, 25.0)
        assert (values["accuracy"], values["agreement"]) == (50, 50)
        assert (values["agreement_right"], values["agreement_wrong"], values["asymmetry"]) == (50, 50, 0)

    def test_the_conditional_agreements_are_not_the_joint_ones(self) -> None:
        """Ten images, the teacher wrong on two; the student agrees on six of eight and on two of two."""
        labels = np.zeros(10, np.int64)
        teacher = np.array([0] * 8 + [1, 1])
        student = np.array([0] * 6 + [1, 1] + [1, 1])
        values = measured(np.eye(2)[student], np.eye(2)[teacher], labels)
        assert (values["right_agree"], values["wrong_agree"]) == (60, 20)
        assert (values["agreement_right"], values["agreement_wrong"], values["asymmetry"]) == (75, 100, 25)
        assert values["agreement"] == values["right_agree"] + values["wrong_agree"]

    def test_distances_of_opposite_and_of_equal_predictions(self) -> None:
        sure, other = np.array([[60.0, 0.0]]), np.array([[0.0, 60.0]])
        apart = measured(sure, other, np.array([0]))
        assert apart["activation_distance"] == pytest.approx(math.sqrt(2))
        assert apart["js_divergence"] == pytest.approx(math.log(2))
        assert apart["rank_disagreement"] == 100
        same = measured(sure, sure, np.array([0]))
        names = ("activation_distance", "js_divergence", "rank_disagreement")
        assert [same[name] for name in names] == pytest.approx([0, 0, 0], abs=1e-12)

    def test_ranks_are_counted_class_by_class(self) -> None:
        student, teacher = np.array([[3.0, 2, 1], [0, 0, 0]]), np.array([[2.0, 3, 1], [0, 0, -1]])
        assert measures.rank_disagreement_N(student, teacher).tolist() == pytest.approx([2 / 3, 0])

    def test_they_are_those_of_training(self) -> None:
        student, teacher = logits(LABELS, 1), logits(answers_of(0), 2)
        meter = TransferMeter()
        meter.update(*(torch.tensor(held) for held in (student, teacher, LABELS)))
        values = measured(student, teacher, LABELS)
        wanted = meter.result() | meter.cells()
        assert {name: values[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)

    def test_many_images_are_taken_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = logits(LABELS, 1), logits(answers_of(0), 2)
        whole = measured(student, teacher, LABELS)
        monkeypatch.setattr(measures, "_ROWS", 7)
        assert measured(student, teacher, LABELS) == pytest.approx(whole, rel=1e-12)

    def test_a_teacher_that_is_never_wrong_leaves_no_split(self) -> None:
        values = measured(np.eye(2), np.eye(2), np.array([0, 1]))
        assert values["agreement_right"] == 100
        assert values.keys().isdisjoint({"agreement_wrong", "asymmetry"})

    def test_arrays_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"got \(2, 2\), \(2, 3\) and \(2,\)"):
            measured(np.eye(2), np.eye(2, 3), np.array([0, 1]))
        with pytest.raises(ValueError, match="logits must be finite"):
            measured(np.full((2, 2), np.nan), np.eye(2), np.array([0, 1]))


def arrays(cells: Mapping[str, Mapping[str, Sequence[float]]]) -> Students:
    """Students of one teacher by cell and measure, without a study."""
    held = {
        name: {
            seed: Student("s", f"{name}-{seed}", seed, dict(zip(of, values, strict=True)))
            for seed, values in enumerate(zip(*of.values(), strict=True))
        }
        for name, of in cells.items()
    }
    block = Block(["s"], 90.0, "independent", held)
    known = [Cell(name, name, name in ("independent", "random_teacher"), False) for name in cells]
    return Students("independent", known, [block], 100, 10, [], [])


class TestComparison:
    def test_the_three_asymmetries_by_hand(self) -> None:
        """c+ from 90 to 92 and c- from 50 to 60: ten points against two, a fifth of the headroom of each."""
        of = {
            "agreement_right": [91.0, 92, 93], "agreement_wrong": [59.0, 60, 61], "asymmetry": [-32.0, -32, -32],
            "right_agree": [81.0, 82, 83], "wrong_agree": [6.0, 6, 6],
        }  # fmt: skip
        apart = {
            "agreement_right": [89.0, 90, 91], "agreement_wrong": [49.0, 50, 51], "asymmetry": [-40.0, -40, -40],
            "right_agree": [80.0, 81, 82], "wrong_agree": [5.0, 5, 5],
        }  # fmt: skip
        (finding,) = compare(arrays({"base": of, "independent": apart})).findings
        assert finding.compared["asymmetry"].difference.value == pytest.approx(8)
        assert finding.gained["agreement_right"].value == pytest.approx(20)
        assert finding.gained["agreement_wrong"].value == pytest.approx(20)
        assert finding.compared[BY_HEADROOM].difference.value == pytest.approx(0)
        assert finding.share == pytest.approx(0.5)

    def test_a_part_that_falls_has_no_share(self) -> None:
        of = {"right_agree": [80.0, 81], "wrong_agree": [7.0, 8]}
        apart = {"right_agree": [81.0, 82], "wrong_agree": [5.0, 6]}
        (finding,) = compare(arrays({"base": of, "independent": apart})).findings
        assert finding.share is None

    def test_less_distance_is_more_of_the_teacher(self) -> None:
        near, far = {"js_divergence": [0.1, 0.11, 0.12]}, {"js_divergence": [0.2, 0.21, 0.22]}
        (finding,) = compare(arrays({"base": near, "independent": far})).findings
        held = finding.compared["js_divergence"]
        assert held.difference.value == pytest.approx(-0.1)
        assert (held.test.superiority, held.test.p) == (1, pytest.approx(1 / 20))

    def test_holm_runs_over_all_measures_of_all_cells(self) -> None:
        near, far = {"agreement": [91.0, 92, 93]}, {"agreement": [81.0, 82, 83]}
        done = compare(arrays({"base": near, "half": near, "independent": far}))
        assert len(done.family) == 2
        assert [held.p_holm for held in done.family] == pytest.approx([0.1, 0.1])
        assert done.floor == pytest.approx(0.1)


class TestVerdicts:
    def test_what_is_taken_over_is_said_with_its_asymmetry(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = usual(tmp_path / "kd").write()
        report, printed = analyse(capsys, run)
        assert report["verdict"].startswith("more of the teacher's function than independent students have: base (")
        assert "; negative asymmetry in base: agreement +" in report["verdict"]
        assert report["verdict"].endswith("(one-sided rank tests, Holm over 9; students of one teacher)")
        assert report["verdict"] in printed
        assert report["tests"]["family"] == len(TESTED) == 9
        base = report["findings"]["base"]
        assert base["is_setup"]
        held = base["compared"]["agreement_wrong"]
        students = report["cells"]["base"]["students"], report["cells"]["independent"]["students"]
        means = [fmean(student["agreement_wrong"] for student in group) for group in students]
        assert held["difference"]["value"] == pytest.approx(means[0] - means[1])
        assert held["p"] == pytest.approx(1 / math.comb(20, 10))
        assert held["p_holm"] == pytest.approx(9 * held["p"])
        assert (held["form"], held["students"], held["teachers"]) == ("exact", [10, 10], 1)
        assert report["failed_sanity"] == report["left_out"] == []
        assert base["agreement_against_noise"]["superiority"]["value"] == 1
        assert "one teacher: nothing is said about others" in printed

    def test_equal_students_show_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        report, _ = analyse(capsys, usual(tmp_path / "kd", kd=APART).write())
        assert report["verdict"].startswith("no transfer resolved: base (one-sided")
        assert not any(held["resolved"] for held in report["findings"]["base"]["compared"].values())

    def test_so_few_students_could_show_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        report, _ = analyse(capsys, usual(tmp_path / "kd", seeds=SEEDS[:3]).write())
        said = "no transfer resolved: base, which so few students could not (smallest corrected p .450)"
        assert said in report["verdict"]

    def test_noise_that_gains_agreement_fails_the_check(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        study = Study(tmp_path / "kd")
        study.cell("base", KD)
        study.control("independent", APART, shift=1000)
        study.control("random_teacher", (0.95, 0.9), shift=2000)
        report, printed = analyse(capsys, study.write())
        assert report["failed_sanity"] == ["random_teacher"]
        assert report["verdict"].startswith("failed sanity check: students of random_teacher, who saw noise")
        assert "agree more with it than independent ones (+" in printed

    def test_without_a_control_nothing_is_compared(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        study = Study(tmp_path / "kd")
        study.cell("base", KD)
        report, printed = analyse(capsys, study.write())
        assert report["verdict"] == (
            "nothing is compared: no study has a finished student of independent (ablation.controls: [independent, "
            "random_teacher])"
        )
        assert len(report["cells"]["base"]["students"]) == 10
        assert "students, means" in printed
        report, _ = analyse(capsys, study.write(), "--reference", "base")
        assert "no cell of a design has a finished student beside base" in report["verdict"]

    def test_another_reference(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = usual(tmp_path / "kd").write()
        report, _ = analyse(capsys, run, "--reference", "random_teacher")
        assert "than random_teacher's students have" in report["verdict"]
        assert report["teachers"][0]["control"] == "random_teacher"
        assert "did you mean 'random_teacher'" in refused(capsys, run, "--reference", "random_techer")

    def test_all_shows_controls_whole(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = usual(tmp_path / "kd").write()
        _, few = analyse(capsys, run)
        _, every = analyse(capsys, run, "--all")
        assert "four cells" not in few.replace("with --all: the four cells", "")
        assert "four cells, percent of all images" in every
        assert every.count("by headroom") > few.count("by headroom")

    def test_a_table_that_is_too_wide_stands_closer(self, tmp_path: Path) -> None:
        """Eighty columns hold the usual controls."""
        found = transfer_of([usual(tmp_path / "kd").write()])
        shown = {}
        for width in (80, 100):
            with io.StringIO() as out:
                analysis.print_transfer(Console(file=out, width=width), found, everything=False)
                lines = out.getvalue().splitlines()
            (shown[width],) = [line for line in lines if line.startswith("random_teacher") and "(" in line]
        assert len(shown[80]) <= 80 < len(shown[100])
        assert shown[80].split() == shown[100].split()


class TestFigures:
    def test_files_of_every_kind(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = usual(tmp_path / "kd").write()
        analyse(capsys, run, "--format", "all")
        files = sorted(path.name for path in (run / "reports").iterdir())
        assert files == ["transfer.json", "transfer.pdf", "transfer.png", "transfer.svg"]
        drawn = (run / "reports" / "transfer.svg").read_text()
        assert "where the teacher is wrong" in drawn
        assert "random_teacher" in drawn

    @pytest.mark.parametrize(("c_plus", "beyond"), [(91.0, False), (40.0, True)])
    def test_a_far_off_control_does_not_set_the_axis(self, c_plus: float, beyond: bool) -> None:
        """Cells gain some points; a control at -52 would make them one spot."""

        def students(*right: float) -> dict[str, list[float]]:
            return {"agreement_right": list(right), "agreement_wrong": [50.0, 51, 52]}

        held = {"base": students(94, 95, 96), "independent": students(92, 92.4, 92.8)}
        noise = {"random_teacher": students(c_plus, c_plus + 1, c_plus + 2)}
        comparison = compare(arrays(held | noise))
        points = split(comparison, "study").figure.axes[0]
        low, high = points.get_xlim()
        assert -3 < low < 0 < 3 < high < 7
        assert [text.get_text() for text in points.texts] == (["−51.4"] if beyond else [])
        marks = [line for line in points.lines if line.get_marker() == CARETLEFT]
        assert [float(line.get_xdata()[0]) for line in marks] == ([low] if beyond else [])

    def test_the_page_s_plot_is_limited_alike(self) -> None:
        """The arrow stands at the edge, the value in words, and no mark outside."""
        near = Bar("base", 2.0, 1.0, 3.0, None, None, 10, None, False)
        looks = [look(0), look(1)]
        for far in (Bar("noise", -50.0, -52.0, -48.0, None, None, 10, None, True),
                    Bar("noise", -50.0, None, None, None, None, 10, None, True)):  # fmt: skip
            how: dict[str, Any] = {"name": "n", "xlabel": "x", "margin": None, "level": 0.95, "floor": None}
            whole, limited = (
                str(forest.forest([near, far], looks=looks, layout=forest.WIDE, farthest=farthest, **how))
                for farthest in (None, 1.0)
            )
            assert "−50.00" in whole
            assert "−50.00" in limited
            assert limited.count("l7 -4v8z") == 1
            assert whole.count("l7 -4v8z") == 0
            assert "−40" in whole
            assert "−40" not in limited


class TestTeachers:
    def test_several_studies_are_blocks(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        runs = [usual(tmp_path / f"kd_{n}", n, range(100 * n, 100 * n + 5)).write() for n in (1, 2)]
        report, printed = analyse(capsys, *runs)
        held = report["findings"]["base"]["compared"]["agreement_wrong"]
        assert (held["teachers"], held["form"]) == (2, "exact")
        assert held["p"] == pytest.approx(math.comb(10, 5) ** -2)
        assert len(held["difference"]["by_teacher"]) == 2
        assert report["findings"]["base"]["students_are_independent"]
        assert [teacher["studies"] for teacher in report["teachers"]] == [["kd_1"], ["kd_2"]]
        assert report["verdict"].endswith("within 2 teachers)")
        assert "base: agreement rises with 2 of 2 teachers" in printed
        assert "2 x 5" in printed
        assert set(report["origins"]) == {"kd_1", "kd_2"}

    def test_seeds_that_come_again_are_no_further_evidence(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Independent students know no teacher: with the same seed they are the same in every study."""
        runs = [usual(tmp_path / f"kd_{n}", n).write() for n in (1, 2)]
        report, printed = analyse(capsys, *runs)
        assert not report["findings"]["base"]["students_are_independent"]
        held = report["findings"]["base"]["compared"]["agreement_wrong"]
        assert held["form"] == "twice the mean p"
        assert held["p"] == pytest.approx(2 / math.comb(20, 10))
        assert "some seeds stand in several studies, whose students begin alike" in printed

    def test_one_teacher_in_two_studies_is_one_block(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        runs = [usual(tmp_path / name, 0, seeds).write() for name, seeds in (("a", SEEDS[:6]), ("b", SEEDS[4:]))]
        report, printed = analyse(capsys, *runs)
        assert [teacher["studies"] for teacher in report["teachers"]] == [["a", "b"]]
        assert report["findings"]["base"]["compared"]["agreement"]["students"] == [10, 10]
        assert "6 trials of b stand in an earlier study of the same teacher: counted once" in printed

    def test_one_name_for_two_cells_is_told_apart(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, second = usual(tmp_path / "a", 1), usual(tmp_path / "b", 2, range(200, 210))
        for row in second.builder.plan[:10]:
            row["settings"] = {**row["settings"], "training": {"epochs": 80}}
        report, _ = analyse(capsys, first.write(), second.write())
        assert set(report["findings"]) == {"base (a)", "base (b)", "random_teacher"}
        assert report["findings"]["random_teacher"]["compared"]["agreement"]["teachers"] == 2

    def test_other_images_are_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, second = usual(tmp_path / "a"), usual(tmp_path / "b")
        path = teacher_logits_file(second.builder.path, "test")
        write_teacher_logits(path, np.arange(IMAGES) + 1, LABELS, [logits(LABELS, 0)])
        error = refused(capsys, first.write(), second.write())
        assert "a and b are judged by different images (200 and 200): analyse them apart" in error


class TestLeftOut:
    def test_trials_that_do_not_count_are_counted(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        study = Study(tmp_path / "kd")
        trials = study.cell("base", KD, statuses={100: "diverged", 101: "pruned"})
        study.control("independent", APART, shift=1000)
        (trial_directory(study.builder.path, trials[2]) / PREDICTIONS).unlink()
        ids_N = np.arange(7)
        write_trial_logits(
            trial_directory(study.builder.path, trials[3]) / PREDICTIONS, ids_N, LABELS[:7], logits(LABELS, 0)[:7]
        )
        (trial_directory(study.builder.path, trials[4]) / PREDICTIONS).write_bytes(b"PAR1 cut off")
        report, printed = analyse(capsys, study.write())
        assert {trial["seed"]: trial["status"] for trial in report["left_out"]} == {
            100: "diverged", 101: "pruned", 102: "without predictions", 103: OTHER_IMAGES, 104: DAMAGED,
        }  # fmt: skip
        assert f"left out: 1 diverged, 1 pruned, 1 without predictions, 1 {OTHER_IMAGES}, 1 {DAMAGED}" in printed
        assert report["findings"]["base"]["compared"]["agreement"]["students"] == [5, 10]

    def test_trials_of_a_search_and_repetitions_are_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        study = usual(tmp_path / "kd")
        study.builder.add("none/kd", 50.0, None, role="search")
        _, printed = analyse(capsys, study.write())
        assert "kd: 1 trial of search, probes and pilots are not looked at" in printed

    def test_a_running_study_says_so(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        study = usual(tmp_path / "kd")
        _, whole = analyse(capsys, study.write())
        study.cell("half", KD, statuses={100: "planned", 101: "interrupted"})
        _, printed = analyse(capsys, study.write())
        assert "left out: 1 planned, 1 interrupted - not finished: the numbers will change" in printed
        assert "not finished" not in whole

    def test_without_the_teachers_logits_the_setting_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        study = usual(tmp_path / "kd")
        teacher_logits_file(study.builder.path, "test").unlink()
        error = refused(capsys, study.write())
        assert "teacher-test.parquet" in error
        assert "teacher: true" in error

    def test_without_a_design_or_a_finished_trial(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bare = StudyBuilder(tmp_path / "bare")
        bare.add("none/kd", 50.0, None)
        assert "has no `ablation` and no `confirm` section" in refused(capsys, bare.write())
        study = Study(tmp_path / "kd")
        study.cell("base", KD, statuses=dict.fromkeys(SEEDS, "diverged"))
        assert "kd: no trial has finished that can be compared with a teacher" in refused(capsys, study.write())
        assert "no such study directory" in refused(capsys, tmp_path / "gone")


class TestElsewhere:
    def test_a_notebook_has_the_same_numbers(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        runs = [usual(tmp_path / f"kd_{n}", n, range(100 * n, 100 * n + 5)).write() for n in (1, 2)]
        written, _ = analyse(capsys, *runs)
        found = akdtune.load(runs[0]).transfer(runs[1])
        del written["origins"]
        assert json.loads(json.dumps(found.report())) == written
        assert found.verdict in repr(found)
        assert found.verdict in found._repr_html_().replace("&#x27;", "'")
        assert found.figure().axes
        assert found.sentences[0] == found.verdict

    def test_the_page_has_a_section(self, tmp_path: Path) -> None:
        run = usual(tmp_path / "kd").write()
        section = transfer(reading.read(run))
        assert isinstance(section, Section)
        verdict = transfer_of([run]).verdict
        (lead,) = [part for part in section.parts if isinstance(part, Sentences) and part.lead]
        assert list(lead.said) == [f"{verdict[0].upper()}{verdict[1:]}."]
        captions = [part.caption for part in section.parts if hasattr(part, "headings")]
        assert captions == ["Students, means", "Four cells, % of all images", "Against independent"]

    def test_packaged_studies_have_the_controls(self) -> None:
        for name, controls in (
            ("functional_kd", ["independent", "random_teacher", "label_smoothing", "student_only"]),
            ("functional_kd_same_network", ["independent", "random_teacher"]),
        ):
            plan = spec.load(name).cell_plan
            assert plan is not None
            assert [cell.name for cell in plan.cells] == ["base", "half", "tenth", *controls]
