"""The ensemble's loss against its members' less diversity: equal for squared loss, a bound for cross-entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from akdtune.reports import left_out, members
from akdtune.reports.diversity.theory import EnsembleLosses, ensemble_losses, sharper_factor
from akdtune.reports.diversity.theory_check import check_of, theory_check
from akdtune.statistics.probabilities import log_softmax
from akdtune.training.diversity import cross_entropy_diversity_B, variance_B
from tests.recorded_study import labels, scores, write_teacher, write_trial
from tests.study_fixture import StudyBuilder


def drawn(seed: int, count: int = 4, spread: float = 2.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return log_softmax(spread * rng.normal(size=(count, 200, 5))), rng.integers(0, 5, 200)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_squared_loss_is_an_equality_and_cross_entropy_a_bound(count: int, spread: float) -> None:
    for seed in range(5):
        of = ensemble_losses(*drawn(seed, count, spread))
        assert of.largest_gap < 1e-9
        assert of.squared.slack == pytest.approx(0, abs=1e-9)
        assert (of.broken, of.broken_sharper) == (0, 0)
        assert of.holds
        assert of.cross_entropy.slack >= of.sharper.slack - 1e-12 >= -2e-12
        assert of.sharper.diversity >= of.cross_entropy.diversity - 1e-15


def test_by_hand() -> None:
    """Two members give the label .2 and .6: mean .4, squared 2 (.6^2 + ..)/.., D_ce (.2^2) / (2 .6^2) = .0556."""
    probabilities = np.array([[[0.2, 0.8]], [[0.6, 0.4]]])
    of = ensemble_losses(np.log(probabilities), np.array([0]))
    assert of.squared.ensemble == pytest.approx(2 * 0.6**2)
    assert of.squared.members == pytest.approx((2 * 0.8**2 + 2 * 0.4**2) / 2)
    assert of.squared.diversity == pytest.approx(2 * 0.2**2)
    assert of.cross_entropy.ensemble == pytest.approx(-np.log(0.4))
    assert of.cross_entropy.members == pytest.approx(-(np.log(0.2) + np.log(0.6)) / 2)
    assert of.cross_entropy.diversity == pytest.approx(0.2**2 / (2 * 0.6**2))
    assert (of.members, of.images) == (2, 1)
    assert (of.ensemble_accuracy, of.members_accuracy) == (0.0, 50.0)


def test_diversity_is_that_of_the_columns() -> None:
    log_MNK, labels_N = drawn(7)
    of = ensemble_losses(log_MNK, labels_N)
    log_BMK = torch.from_numpy(log_MNK).transpose(0, 1)
    assert of.squared.diversity == pytest.approx(float(variance_B(log_BMK.exp()).mean()))
    expected = float(cross_entropy_diversity_B(log_BMK, torch.from_numpy(labels_N)).mean())
    assert of.cross_entropy.diversity == pytest.approx(expected)


def test_a_broken_bound_and_a_broken_equality_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akdtune.reports.diversity.theory.sharper_factor", lambda mean_N: 5.0 + 0 * mean_N)
    of = ensemble_losses(*drawn(1))
    assert of.broken_sharper > 50
    assert not of.holds


def test_the_sharper_factor_is_one_half_where_members_agree() -> None:
    near = 1 - np.array([0.0, 1e-12, 1e-6, 9.99e-3, 1.001e-2, 0.5])
    factors = sharper_factor(near)
    assert factors[:2] == pytest.approx([0.5, 0.5])
    assert (np.diff(factors) >= 0).all()
    assert factors[4] - factors[3] < 1e-4, "the series meets the formula"
    assert factors[5] == pytest.approx(np.log(0.5) / 0.25 + 4)


def test_underflow_breaks_nothing() -> None:
    logits = np.zeros((2, 1, 2))
    logits[0, 0, 0] = -2000.0
    of = ensemble_losses(log_softmax(logits), np.array([0]))
    assert of.cross_entropy.members == pytest.approx((2000 + np.log(2)) / 2, rel=1e-3)
    assert of.holds


# ------------------------------------------------------------------------------------------------- of a study


def study(tmp_path: Path) -> StudyBuilder:
    """Two trials with two views each, and one of every kind that is left out."""
    built = StudyBuilder(tmp_path / "small")
    for index in range(2):
        trial = built.add(f"angular/{('kd', 'dkd')[index]}", 60.0, 0.1)
        write_trial(built.path, trial, scores(50 + index), [scores(10 * index + view) for view in (1, 2)])
    write_trial(built.path, built.add("angular/kd", 60.0, 0.1), scores(60), None)
    write_trial(built.path, built.add("none/kd", 60.0, None), scores(61), [])
    built.add("angular/kd", 60.0, 0.1)
    other = built.add("angular/kd", 60.0, 0.1, teacher_accuracy=25.0)
    write_trial(built.path, other, scores(62), [scores(1)])
    built.add("angular/kd", 60.0, 0.1, status="pruned")
    write_teacher(built.path, scores(0, 4.0))
    return built


def test_a_study_is_checked_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    check = theory_check(study(tmp_path).write())
    assert [(trial.arm, trial.losses.members, trial.losses.images) for trial in check.trials] == [
        ("angular/kd", 3, 60), ("angular/dkd", 3, 60),
    ]  # fmt: skip
    assert all(trial.losses.holds for trial in check.trials)
    assert check.left_out == {
        members.NO_VIEWS_KEPT: 1, members.NO_VIEWS: 1, left_out.WITHOUT_PREDICTIONS: 1, members.OTHER_TEACHER: 1,
    }  # fmt: skip
    assert check.sentence.startswith("theory holds in all of 2 trials (equality to ")
    assert "no image above the bound); diversity takes " in check.sentence
    assert [row[:3] for row in check.rows()] == [["t00000", "angular/kd", "3"], ["t00001", "angular/dkd", "3"]]
    of = check.report()["trials"]["t00000"]
    assert of["squared"]["ensemble"] == pytest.approx(of["squared"]["members"] - of["squared"]["diversity"], abs=1e-9)
    assert (of["holds"], of["images_above_bound"], of["images_above_sharper_bound"]) == (True, 0, 0)


def test_members_are_teacher_and_views_in_one_order_of_images(tmp_path: Path) -> None:
    built = study(tmp_path)
    (first, *_) = members.members_of(built.write(), [{"trial_id": "t00000", "arm": "angular/kd", "role": "probe"}])
    assert isinstance(first, members.Members)
    assert first.labels_N.tolist() == labels().tolist()
    expected = log_softmax(np.stack([scores(0, 4.0), scores(1), scores(2)]))
    assert first.members_MNK == pytest.approx(expected, abs=2e-2)  # float16
    assert first.student_NK == pytest.approx(log_softmax(scores(50)), abs=1e-5)
    mean_NK = np.exp(first.members_MNK).mean(axis=0)
    assert first.ensemble_NK == pytest.approx(np.log(mean_NK))


def test_without_a_teacher_or_views_it_says_what_would_keep_them(tmp_path: Path) -> None:
    built = StudyBuilder(tmp_path / "none")
    trial = built.add("angular/kd", 60.0, 0.1)
    write_trial(built.path, trial, scores(1), [scores(2)])
    assert theory_check(built.write()).left_out == {members.NO_TEACHER_KEPT: 1}
    assert "`record: {teacher: true}`" in theory_check(built.path).sentence
    assert check_of(built.path, []).sentence == "the ensembles' losses are not checked: no trial has finished"


def test_damaged_predictions_are_counted(tmp_path: Path) -> None:
    built = study(tmp_path)
    (built.path / "trials" / "t00000" / "predictions.parquet").write_bytes(b"PAR1")
    check = theory_check(built.write())
    assert check.left_out[left_out.DAMAGED] == 1
    assert left_out.left_out_text(check.left_out).startswith("left out: 1 with damaged files")


def test_what_does_not_hold_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ensemble_losses

    def broken(*given: Any) -> EnsembleLosses:
        return EnsembleLosses(**{**vars(real(*given)), "broken": 3})

    monkeypatch.setattr("akdtune.reports.diversity.theory_check.ensemble_losses", broken)
    check = theory_check(study(tmp_path).write())
    assert check.sentence.startswith("theory does not hold in 2 of 2 trials: what they kept is damaged")
