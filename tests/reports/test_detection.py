"""Which teacher it was: scores against their formulas, rates on answers with a known truth, what is said of them."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from scipy.special import log_softmax
from scipy.stats import entropy, ortho_group
from sklearn.metrics import roc_auc_score

import akdtune
from akdtune.errors import StudyError
from akdtune.reports.detection.figures import accuracy, draw
from akdtune.reports.detection.judged import Detection, chosen, drawn, judge, one_vs_rest
from akdtune.reports.detection.outputs import Group, Kind, Outputs, Pool, StudentFacts, TeacherFacts, write_outputs
from akdtune.reports.detection.report import content, parsed
from akdtune.reports.detection.scores import EPSILON, SCORES, aligned_cosine, divergence, rbf_cka, scores
from akdtune.reports.detection.verdict import choice_rows, headings, remarks, rows, sentence
from akdtune.reports.page.content import LeftOut, Section
from akdtune.reports.page.material import read
from akdtune.reports.page.sections.detection import detection as section
from akdtune.reports.text import save_json
from akdtune.statistics.binomial import clopper_pearson
from tests.study_fixture import StudyBuilder

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c", "d")


def logits(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 2


# ------------------------------------------------------------------------------------------------------------ scores


def test_divergence_is_that_of_the_student_from_the_teacher() -> None:
    student, teachers = logits(5, 7), logits(3, 5, 7, seed=1)
    found = divergence(student.astype(float), teachers.astype(float))
    own = np.exp(log_softmax(student.astype(float), axis=-1))
    for k in range(3):
        other = np.exp(log_softmax(teachers[k].astype(float), axis=-1))
        assert found[k] == pytest.approx(entropy(own, other, axis=-1), rel=1e-9)


def test_point_wise_scores_are_means_over_each_draw() -> None:
    student, teachers = logits(6, 4), logits(2, 6, 4, seed=1)
    draws = np.array([[0, 1, 2], [3, 4, 5]])
    found, each = scores(student, teachers, draws), divergence(student.astype(float), teachers.astype(float))
    assert found["kl"] == pytest.approx(np.array([[-each[k, draw].mean() for k in range(2)] for draw in draws]))
    inverse = np.array([[(1 / (each[k, draw] + EPSILON)).mean() for k in range(2)] for draw in draws])
    assert found["inverse_kl"] == pytest.approx(inverse)
    assert {name: found[name].shape for name in found} == dict.fromkeys(SCORES, (2, 2))


def test_a_copy_scores_highest_everywhere() -> None:
    teachers = logits(4, 20, 6)
    found = scores(teachers[2] + 3, teachers, np.arange(20)[None])  # a softmax does not see the shift
    assert {name: int(values.argmax()) for name, values in found.items()} == dict.fromkeys(SCORES, 2)
    assert found["kl"][0, 2] == pytest.approx(0, abs=1e-6)
    assert found["acs"][0, 2] == pytest.approx(1)
    assert found["cka"][0, 2] == pytest.approx(1)


def test_one_input_is_no_set() -> None:
    assert set(scores(logits(3, 4), logits(2, 3, 4), np.array([[1]]))) == {"kl", "inverse_kl"}


def test_alignment_is_by_procrustes() -> None:
    student, teacher = logits(9, 5).astype(float), logits(9, 5, seed=1).astype(float)
    own, other = student - student.mean(axis=0), teacher - teacher.mean(axis=0)
    turned = other @ orthogonal_procrustes(other, own)[0]
    cosines = (turned * own).sum(axis=1) / np.linalg.norm(turned, axis=1) / np.linalg.norm(own, axis=1)
    assert aligned_cosine(student[None], teacher[None, None])[0, 0] == pytest.approx(cosines.mean())


def test_set_scores_do_not_see_rotation_shift_and_scale() -> None:
    student = logits(12, 4).astype(float)
    moved = 3 * student @ ortho_group.rvs(4, random_state=1) + 5
    assert aligned_cosine(student[None], moved[None, None])[0, 0] == pytest.approx(1)
    assert rbf_cka(student[None], moved[None, None])[0, 0] == pytest.approx(1)


def test_kernel_alignment_is_its_formula() -> None:
    sets = [logits(8, 3, seed=seed).astype(float) for seed in (0, 1)]
    centred = np.eye(8) - 1 / 8
    kernels = []
    for rows_ND in sets:
        distances = ((rows_ND[:, None] - rows_ND[None]) ** 2).sum(axis=-1)
        width = np.median(distances[np.triu_indices(8, 1)])
        kernels.append(centred @ np.exp(-distances / (2 * width)) @ centred)
    expected = (kernels[0] * kernels[1]).sum() / np.sqrt((kernels[0] ** 2).sum() * (kernels[1] ** 2).sum())
    assert rbf_cka(sets[0][None], sets[1][None, None])[0, 0] == pytest.approx(expected)


def test_equal_outputs_have_no_direction_and_no_nan() -> None:
    found = scores(np.zeros((4, 3), np.float32), np.zeros((2, 4, 3), np.float32), np.arange(4)[None])
    assert all(np.isfinite(values).all() for values in found.values())
    assert chosen(found["acs"]) == pytest.approx(np.full((1, 2), 0.5)), "a tie is shared"


# ------------------------------------------------------------------------------------------------------------- rates


def outputs(
    closeness: float = 0.1,
    groups: Sequence[Group] = ("distilled",) * 8 + ("control",) * 4,
    kinds: Sequence[Kind] = ("real", "gaussian"),
    size: int = 40,
    leaning: bool = False,
) -> Outputs:
    """Students that are their teacher plus noise on real inputs, and noise alone elsewhere; so are controls."""
    rng = np.random.default_rng(0)
    names = [f"s{place}" for place in range(len(groups))]
    truths = [NAMES[place % len(NAMES)] for place in range(len(groups))]
    pools = []
    for kind in kinds:
        teachers = rng.normal(size=(len(NAMES), size, 5)) * 2
        students = rng.normal(size=(len(names), size, 5)) * 2
        for place, group in enumerate(groups):
            if group != "control" and kind == "real":
                students[place] = teachers[NAMES.index(truths[place])] + closeness * students[place]
        if leaning:
            teachers[1] = 0
        pools.append(Pool(kind, tuple(names), students.astype(np.float32), teachers[None].astype(np.float32)))
    facts = tuple(
        StudentFacts(name, "cnn", name, group, None if group == "unknown" else truth, "run", "none/kd", 0)
        for name, group, truth in zip(names, groups, truths, strict=True)
    )
    candidates = tuple(TeacherFacts(name, "cnn", name) for name in NAMES)
    return Outputs(candidates, facts, tuple(pools), ("a note",), {"seed": 0})


def found(**changes: Any) -> Detection:
    return judge(outputs(**changes), counts=(1, 10, 40), repeats=5)


def test_students_are_traced_on_real_inputs_alone() -> None:
    detection = found()
    real = detection.last("distilled", "kl", "real")
    assert real is not None
    assert (real.count, real.students, real.right, real.repeats, real.accuracy, real.auc) == (40, 8, 8, 1, 1.0, 1.0)
    assert (real.low, real.high) == (pytest.approx(0.025 ** (1 / 8)), 1.0)
    assert real.p == pytest.approx(0.25**8)
    for kind in ("real", "gaussian"):
        control = detection.last("control", "kl", kind)
        assert control is not None and control.students == 4 and control.p > 0.05
    assert [rate.count for rate in detection.of("distilled", "acs", "real")] == [10, 40]


def test_a_mean_over_draws_counts_each_student_once() -> None:
    (rate,) = [rate for rate in found(closeness=2.0).of("distilled", "kl", "real") if rate.count == 1]
    assert rate.repeats == 5
    assert rate.students == 8
    assert rate.right * 5 == pytest.approx(round(rate.right * 5))


def test_draws_are_the_same_each_time_and_others_with_another_seed() -> None:
    pool = outputs().pools[0]
    draws = drawn(pool, 10, 5, 0)
    assert draws.shape == (5, 10)
    assert all(len(set(draw)) == 10 for draw in draws.tolist()), "without replacement"
    assert np.array_equal(draws, drawn(pool, 10, 5, 0))
    assert not np.array_equal(draws, drawn(pool, 10, 5, 1))
    assert drawn(pool, 40, 5, 0).shape == (1, 40), "the whole pool is one draw"


def test_area_under_the_curve_is_sklearns() -> None:
    values, true = RNG.normal(size=(9, 1, 3)), np.array([0, 1, 2] * 3)
    shares = np.exp(values[:, 0]) / np.exp(values[:, 0]).sum(axis=1, keepdims=True)
    known = roc_auc_score(true, shares, multi_class="ovr")
    assert one_vs_rest(values, true) == pytest.approx(known)
    assert one_vs_rest(values, np.zeros(9, np.int64)) is None, "nobody else to be told from"


def test_a_count_beyond_the_pool_is_left_out_and_said() -> None:
    detection = judge(outputs(size=20), counts=(1, 100), repeats=2)
    assert {rate.count for rate in detection.rates} == {1}
    assert "real inputs: there are 20, so that N = 100 is left out" in detection.notes


def test_own_inputs_of_each_student_are_its_own() -> None:
    """Teachers answer to the inputs of a student with a truth that only there points to the right one."""
    teachers = logits(4, 3, 10, 5)
    pool = Pool("synthesised", ("s0", "s1", "s2", "s3"), np.stack([teachers[i, i % 3] for i in range(4)]), teachers)
    facts = tuple(StudentFacts(f"s{i}", "cnn", f"s{i}", "distilled", NAMES[i % 3]) for i in range(4))
    candidates = tuple(TeacherFacts(name, "cnn", name) for name in NAMES[:3])
    detection = judge(Outputs(candidates, facts, (pool,), (), {}), counts=(10,))
    assert {rate.score: rate.right for rate in detection.rates} == dict.fromkeys(SCORES, 4)


# ----------------------------------------------------------------------------------------------------------- verdict


def test_the_verdict_names_accuracies_chance_and_control() -> None:
    said = sentence(found())
    assert said.startswith(
        "traced to their teacher among 4 by KL, 8 students (chance .25): real 1.00 [.63, 1.00] at N = 40, gaussian"
    )
    assert "; above chance: real (Holm p < .001); the negative control is flat, 4 students without a teacher: " in said


def with_control(right: float, score: str) -> Detection:
    """Twenty controls on real inputs, so many of which a score gives the teacher of their study."""
    detection = found(groups=("distilled",) * 4 + ("control",) * 20)
    low, high = clopper_pearson(right, 20)
    told = tuple(
        dataclasses.replace(rate, right=right, low=low, high=high)
        if (rate.group, rate.inputs, rate.score) == ("control", "real", score)
        else rate
        for rate in detection.rates
    )
    return dataclasses.replace(detection, rates=told)


@pytest.mark.parametrize(
    ("right", "shown"), [(20, "real 1.00 [.83, 1.00]"), (10, "real .50 [.27, .73]"), (0, "real .00 [.00, .17]")]
)
def test_a_control_off_chance_takes_the_verdict_back(right: float, shown: str) -> None:
    said = sentence(with_control(right, "kl"))
    assert "flat" not in said
    assert (
        "; the negative control fails: the study of 20 students without a teacher is not named as often as chance "
        f"names it ({shown}), so that scores tell something else than the teacher"
    ) in said


def test_a_control_whose_interval_holds_chance_is_flat() -> None:
    said = sentence(with_control(9, "kl"))
    assert "the negative control is flat, 20 students without a teacher: real .45 [.23, .68], gaussian" in said


def test_a_control_that_is_not_flat_by_another_score_is_a_remark() -> None:
    detection = with_control(20, "acs")
    assert "the negative control is flat" in sentence(detection)
    assert any(
        said.startswith(
            "the negative control is not flat by other scores: ACS on real inputs 1.00 [.83, 1.00] (1 of 6 intervals"
        )
        for said in remarks(detection)
    )
    assert not any("other scores" in said for said in remarks(with_control(5, "acs")))


def test_without_controls_the_verdict_says_so() -> None:
    assert "no negative control" in sentence(found(groups=("distilled",) * 8))


def test_a_teacher_that_is_near_to_everybody_is_named() -> None:
    detection = found(groups=("distilled",) * 4 + ("control",) * 12, leaning=True)
    assert any("are given b (Holm p < .001): KL leans to it whoever taught" in said for said in remarks(detection))
    level = found(groups=("distilled",) * 4 + ("control",) * 12)
    assert not any("leans" in said for said in remarks(level))


def test_what_is_left_out_is_said() -> None:
    assert remarks(found())[-1] == "a note"


def test_whose_teacher_is_asked_for() -> None:
    detection = found(groups=("unknown", "unknown"))
    assert detection.rates == ()
    assert sentence(detection).startswith("likeliest teacher of s0: a by real inputs, ")
    assert sentence(detection).endswith("no student's teacher is known, so there is no accuracy")
    assert choice_rows(detection)[0] == ["s0", "real, N = 40", *["a 1.00"] * len(SCORES)]
    assert draw(detection, "small") == {}


def test_the_table_has_a_row_for_each_score_and_kind() -> None:
    detection = found()
    assert headings(detection) == ["inputs", "score", "N = 1", "N = 10", "N = 40 [95 %]", "AUC", "no teacher [95 %]"]
    table = rows(detection)
    assert [row[:2] for row in table[:5]] == [
        ["real", "KL"], ["", "mean 1/KL"], ["", "ACS"], ["", "RBF-CKA"], ["gaussian", "KL"],
    ]  # fmt: skip
    assert table[0][2:6] == ["1.00", "1.00", "1.00 [.63, 1.00]", "1.00"]
    assert table[2][2] == "n/a", "one input is no set"


# ------------------------------------------------------------------------------------------------- files, page, load


def test_json_and_back(tmp_path: Path) -> None:
    detection = found()
    path = save_json(tmp_path / "detection.json", content(detection))
    assert parsed(path, json.loads(path.read_text())) == detection


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": 9}, "another version"), ({"rates": [{"group": 1}]}, "damaged"), ({"how": 1}, "damaged")],
)
def test_json_that_is_something_else(change: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        parsed(Path("detection.json"), {**content(found()), **change})


def test_outputs_are_kept_as_they_were(tmp_path: Path) -> None:
    asked = outputs()
    table = pq.read_table(write_outputs(tmp_path, asked)).to_pylist()
    assert len(table) == 2 * 40 * (4 + 12)
    row = next(row for row in table if (row["inputs"], row["name"], row["input"]) == ("gaussian", "s3", 7))
    assert np.array_equal(np.float32(row["logits"]), asked.pools[1].students_SPD[3, 7])
    assert (row["role"], row["inputs_of"], row["sample_id"]) == ("student", None, None)


def test_the_figure_as_every_kind_of_file() -> None:
    files = draw(found(), "small", ("png", "svg", "pdf"))
    assert set(files) == {"detection.png", "detection.svg", "detection.pdf"}
    assert Image.open(io.BytesIO(files["detection.png"])).size[0] > 1000
    for text in ("real inputs", "gaussian inputs", "RBF-CKA", "chance, .25", "students without a teacher"):
        assert text in files["detection.svg"].decode()
    drawn_again = accuracy(found(), "small")
    assert drawn_again is not None and drawn_again.image("svg") == files["detection.svg"], "the same bytes"


def test_what_is_loaded_is_what_was_found(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path / "small")
    study.add("none/kd", 60.0, None)
    results = akdtune.load(study.write())
    with pytest.raises(StudyError, match=r"no detection yet; it asks networks.*akdtune analyze detection"):
        results.detection()
    assert isinstance(section(read(study.path)), LeftOut)
    save_json(study.path / "reports" / "detection.json", content(found()))
    loaded = results.detection()
    assert loaded.found == found()
    assert loaded.verdict == sentence(found())
    assert repr(loaded).startswith(loaded.verdict)
    assert "<table>" in loaded._repr_html_()
    assert loaded.figure() is not None
    shown = section(read(study.path))
    assert isinstance(shown, Section)
    assert len(shown.parts) == 4
