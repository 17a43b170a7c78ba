"""`akdtune analyze geometry`: angles over epochs, offsets of features, calibration, and what is left out."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import akdtune
from akdtune.errors import AkdtuneError, StudyError
from akdtune.records import tables
from akdtune.records.files import EPOCHS, read_rows, trial_directory, write_rows
from akdtune.reports import members
from akdtune.reports.geometry import trial_offsets
from akdtune.reports.geometry.answer import geometry_in
from akdtune.reports.geometry.courses import courses_of
from akdtune.reports.geometry.offsets import SHOWN, offset_plane
from akdtune.reports.left_out import WITHOUT_PREDICTIONS
from akdtune.reports.page import material as reading
from akdtune.reports.page.content import Section
from akdtune.reports.page.sections import geometry
from akdtune.statistics.probabilities import log_softmax
from tests.recorded_study import CLASSES, features, labels, scores, write_features, write_teacher, write_trial
from tests.study_fixture import StudyBuilder

analysis = importlib.import_module("akdtune.analysis.geometry")


def write_course(study: StudyBuilder, trial: str, **columns: list[float | None]) -> None:
    """Replaces the rows of a trial by one for each value."""
    path = trial_directory(study.path, trial) / EPOCHS
    first = read_rows(path)[0]
    count = len(next(iter(columns.values())))
    write_rows(path, [{**first, "epoch": epoch + 1, **{name: values[epoch] for name, values in columns.items()}}
                      for epoch in range(count)])  # fmt: skip


def turning(path: Path) -> StudyBuilder:
    """Two trials of an arm whose views turn away from their teacher, one pruned, and one without views."""
    study = StudyBuilder(path)
    for last in (0.5, 0.0):
        trial = study.add("angular/kd", 60.0, 0.1, epochs=3)
        write_course(study, trial, teacher_cosine=[1.0, None, last], inter_cosine=[1.0, None, last],
                     gate_open_train=[0.25, 0.5, 1.0])  # fmt: skip
    pruned = study.add("angular/kd", 1.0, 0.1, status="pruned", epochs=3)
    write_course(study, pruned, teacher_cosine=[-1.0, -1.0, -1.0])
    study.add("none/kd", 60.0, None, teacher_cosine=0.3)
    return study


def kept(path: Path) -> StudyBuilder:
    """The same, whose finished trials with views kept answers and features."""
    study = turning(path)
    teacher_NC = features(0)
    for index in range(2):
        views = [scores(10 * index + view) for view in (1, 2)]
        write_trial(study.path, f"t{index:05d}", scores(50 + index, 1.0), views)
        moved = [teacher_NC + 0.1 * features(20 + 10 * index + view) for view in (1, 2)]
        write_features(study.path, f"t{index:05d}", teacher_NC, moved)
    write_teacher(study.path, scores(0, 4.0))
    return study


# ------------------------------------------------------------------------------------------------- courses


def test_angles_are_degrees_of_finished_trials_with_views(tmp_path: Path) -> None:
    run = turning(tmp_path).write()
    courses = courses_of(tables.read_epochs(run), tables.read_trials(run).to_pylist())
    by_name = {course.measure: course for course in courses}
    assert {course.arm for course in courses} == {"angular/kd"}
    teacher = by_name["teacher_cosine"]
    assert [curve.epochs.tolist() for curve in teacher.curves] == [[1, 3], [1, 3]]
    assert (teacher.first, teacher.last) == pytest.approx((0.0, 75.0))
    assert teacher.spread == pytest.approx(np.std([60, 90], ddof=1))
    assert teacher.mean[1].tolist() == pytest.approx([0.0, 75.0])
    assert by_name["gate_open_train"].last == pytest.approx(100.0)
    assert "margin" not in by_name


def test_while_no_trial_is_done_those_that_run_are_shown(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    write_course(study, study.add("angular/kd", None, None, status="running"), teacher_cosine=[0.0, 0.0])
    run = study.write(finished=False)
    (course,) = courses_of(tables.read_epochs(run), tables.read_trials(run).to_pylist())
    assert (course.last, course.spread) == (pytest.approx(90.0), None)


# ------------------------------------------------------------------------------------------------- offsets


def test_the_plane_holds_what_lies_in_it() -> None:
    """Offsets along two given directions: the axes are these, the origin is the teacher, all variance is held."""
    rng = np.random.default_rng(0)
    teacher_NC = np.ones((200, 4))  # of length 2
    first_N, second_N = 3 * rng.normal(size=(2, 200)), rng.normal(size=(2, 200))
    first_N -= first_N.mean()
    second_N -= second_N.mean()
    views_VNC = np.stack([teacher_NC] * 2)
    views_VNC[:, :, 1] += first_N + 1.0
    views_VNC[:, :, 3] += second_N - 4.0
    plane = offset_plane(teacher_NC, views_VNC)
    assert plane is not None
    assert sum(plane.shares_2) == pytest.approx(1.0)
    assert plane.shares_2[0] == pytest.approx(0.9, abs=0.05)
    means_V2 = np.array([view.mean_2 for view in plane.views])
    assert means_V2.mean(axis=0) == pytest.approx([0.5, -2.0], abs=0.2), "in lengths of the teacher's feature"
    assert (plane.images, len(plane.views)) == (200, 2)
    assert plane.views[0].shown_S2.shape == (min(SHOWN, 200), 2)


def test_a_shifted_teacher_is_constant_and_a_new_one_is_not() -> None:
    teacher_NC = features(0)
    shift_C = np.array([1.0, 0, 0, 0, 0, 0])
    shifted_VNC = np.stack([teacher_NC + shift_C, teacher_NC - shift_C])
    plane = offset_plane(teacher_NC, shifted_VNC)
    assert plane is not None
    assert [view.constant for view in plane.views] == pytest.approx([1.0, 1.0])
    assert plane.mean_cosine == pytest.approx(-1.0)
    noise_NC = np.random.default_rng(5).normal(size=teacher_NC.shape)
    other = offset_plane(teacher_NC, (teacher_NC + noise_NC - noise_NC.mean(axis=0))[None])
    assert other is not None
    assert other.views[0].constant == pytest.approx(0.0, abs=1e-12)
    assert other.mean_cosine is None
    length = float(np.linalg.norm(noise_NC - noise_NC.mean(axis=0), axis=1).mean())
    assert other.views[0].length == pytest.approx(length / np.linalg.norm(teacher_NC, axis=1).mean())


def test_offsets_along_one_line_have_no_second_axis() -> None:
    teacher_NC = features(0)
    along_C = np.array([0.6, 0, -0.8, 0, 0, 0])
    plane = offset_plane(teacher_NC, (teacher_NC + np.linspace(-1, 2, len(teacher_NC))[:, None] * along_C)[None])
    assert plane is not None
    assert plane.shares_2 == pytest.approx((1.0, 0.0))
    narrow = offset_plane(teacher_NC[:, :1], teacher_NC[None, :, :1] + np.arange(len(teacher_NC))[None, :, None])
    assert narrow is not None and narrow.shares_2 == pytest.approx((1.0, 0.0)), "features of width 1"


def test_the_plane_is_that_of_singular_vectors() -> None:
    teacher_NC, views_VNC = features(0), np.stack([features(1), features(2)])
    plane = offset_plane(teacher_NC, views_VNC)
    assert plane is not None
    offsets_RC = (views_VNC - teacher_NC).reshape(-1, teacher_NC.shape[1])
    sizes = np.linalg.svd(offsets_RC - offsets_RC.mean(axis=0), compute_uv=False) ** 2
    assert plane.shares_2 == pytest.approx(tuple(sizes[:2] / sizes.sum()))


def test_views_that_have_not_moved_have_no_plane() -> None:
    assert offset_plane(features(0), np.stack([features(0)] * 2)) is None


def test_axes_have_one_sign() -> None:
    teacher_NC, views_VNC = features(0), np.stack([features(1), features(2)])
    first = offset_plane(teacher_NC, views_VNC)
    again = offset_plane(teacher_NC[::-1], views_VNC[:, ::-1])
    assert first is not None and again is not None
    for one, other in zip(first.views, again.views, strict=True):
        assert one.mean_2 == pytest.approx(other.mean_2)


# ------------------------------------------------------------------------------------------------- a study


def test_a_study_in_all_its_parts(tmp_path: Path) -> None:
    found = geometry_in(kept(tmp_path).write(), draws=100)
    assert [trial.trial_id for trial in found.offsets.trials] == ["t00000", "t00001"]
    assert [trial.trial_id for trial in found.calibration.trials] == ["t00000", "t00001"]
    assert found.offsets.left_out == {trial_offsets.NO_FEATURES: 1}
    assert found.calibration.left_out == {WITHOUT_PREDICTIONS: 1}
    assert found.verdict.startswith(
        "views lie, by features, first and last: angular/kd 0.0 to 75.0 degrees from the teacher and 0.0 to 75.0 "
        "degrees from each other; the ensemble's calibration error is "
    )
    assert found.sentences[0] == found.verdict
    assert "than its student's in " in found.sentences[1]
    assert found.sentences[2:] == [
        f"offsets: left out: 1 {trial_offsets.NO_FEATURES}",
        f"calibration: left out: 1 {WITHOUT_PREDICTIONS}",
    ]
    trial = found.calibration.trials[0].compared
    accuracy = 100 * float((scores(0, 4.0).argmax(axis=1) == labels()).mean())
    of_teacher = trial.of["teacher"]
    confidence = 100 * float(np.exp(log_softmax(scores(0, 4.0))).max(axis=1).mean())
    assert of_teacher.overconfidence.value == pytest.approx(confidence - accuracy, abs=0.2)  # float16
    assert found.figures == ["epochs", "offsets", "calibration"]
    assert isinstance(found.figure("calibration"), Figure)
    with pytest.raises(AkdtuneError, match="unknown figure 'offset'; did you mean 'offsets'"):
        found.figure("offset")
    assert repr(found).startswith(f"{found.verdict}\n\n| measure |")


def test_of_many_arms_the_verdict_names_the_ends(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    for arm, last in (("a/kd", 0.0), ("b/kd", 0.5), ("c/kd", 1.0)):
        write_course(study, study.add(arm, 60.0, 0.1), teacher_cosine=[1.0, last], inter_cosine=[1.0, 0.5])
    assert geometry_in(study.write(), draws=100).verdict == (
        "views end, by features, 0.0 (c/kd) to 90.0 degrees (a/kd) from their teacher and 60.0 (a/kd) to 60.0 degrees "
        "(a/kd) from each other, means of 3 arms"
    )


def test_a_trial_with_another_teacher_is_left_out(tmp_path: Path) -> None:
    study = kept(tmp_path)
    path = trial_directory(study.path, "t00001") / EPOCHS
    write_rows(path, [{**row, "teacher_accuracy": 100.0 / CLASSES} for row in read_rows(path)])
    found = geometry_in(study.write(), draws=100)
    assert found.offsets.left_out[members.OTHER_TEACHER] == 1
    assert found.calibration.left_out[members.OTHER_TEACHER] == 1


def test_features_of_another_width_are_left_out(tmp_path: Path) -> None:
    study = turning(tmp_path)
    write_features(study.path, "t00000", features(0), [features(1)[:, :3]])
    assert trial_offsets.offsets_of(study.write(), tables.read_trials(study.path).to_pylist()).left_out == {
        trial_offsets.OTHER_WIDTH: 1, trial_offsets.NO_FEATURES: 2,
    }  # fmt: skip


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    study = kept(tmp_path)
    assert analysis.main([str(study.write()), "--draws", "100", "--format", "svg"]) == 0
    printed = capsys.readouterr().out
    report: dict[str, Any] = json.loads((tmp_path / "reports" / "geometry.json").read_text())
    lines = printed.splitlines()
    assert lines[0] == f"geometry of the views in {tmp_path}"
    assert report["verdict"] in lines
    assert "view to teacher, features" in printed
    assert "\nby trial\n" not in printed
    in_tables = [line for line in lines if line.startswith(("view to", "between", "gate", "angular/kd "))]
    assert in_tables and max(map(len, in_tables)) <= 80
    written = sorted(file.name for file in (tmp_path / "reports").iterdir())
    assert written == ["geometry.json", *(f"geometry_{name}.svg" for name in ("calibration", "epochs", "offsets"))]
    assert report["courses"]["measures"]["teacher_cosine"]["arms"]["angular/kd"]["epochs"] == [1, 3]
    assert report["calibration"]["trials"]["t00000"]["ensemble_lower_than"].keys() == {"teacher", "student"}
    assert sum(report["calibration"]["arms"]["angular/kd"]["teacher"]["images"]) == 2 * 60
    assert len(report["offsets"]["trials"]["t00000"]["views"]) == 2
    said = akdtune.load(str(tmp_path)).geometry(draws=100)
    assert json.loads(json.dumps(said.report())) == {name: report[name] for name in said.report()}
    monkeypatch.setattr(analysis, "draw", lambda *_: {})
    assert analysis.main([str(tmp_path), "--draws", "100", "--all"]) == 0
    assert "\nby trial\n" in capsys.readouterr().out


def test_a_study_without_views_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = StudyBuilder(tmp_path)
    study.add("none/kd", 60.0, None)
    assert analysis.main([str(study.write()), "--format", "svg"]) == 0
    assert "nothing can be said of the views: no finished trial has angles, features or answers of them" in (
        capsys.readouterr().out
    )
    with pytest.raises(StudyError, match="nothing to draw: nothing can be said of the views"):
        geometry_in(tmp_path).figure()


@pytest.mark.parametrize(
    ("options", "said"), [(["--draws", "9"], "--draws: 9 is too few"), (["--unknown"], "unrecognized arguments")]
)
def test_mistakes_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    study = StudyBuilder(tmp_path)
    study.add("angular/kd", 60.0, 0.1)
    assert analysis.main([str(study.write()), *options]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(AkdtuneError, match="draws: 9 is too few"):
        geometry_in(tmp_path, draws=9)


def test_the_page_shows_all_parts(tmp_path: Path) -> None:
    section = geometry.geometry(reading.read(kept(tmp_path).write()))
    assert isinstance(section, Section)
    titles = [getattr(part, "title", None) or getattr(part, "caption", None) for part in section.parts]
    assert [title for title in titles if title] == [
        "Angles, margins and gates over epochs", "Offsets of the views' features",
        "Calibration of ensemble, teacher and student", "Calibration, means over trials",
    ]  # fmt: skip
