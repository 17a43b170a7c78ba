"""Fidelity, divergence both ways, mutual information, affinity of logits whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from akdtune.reports.fidelity.agreement import (
    affinity,
    answering,
    entropy_nats,
    likeness,
    mean_divergence_nats,
    mean_logits,
    percent_alike,
    percent_right,
)
from akdtune.statistics.probabilities import log_softmax

FIRST_NK, SECOND_NK = np.random.default_rng(0).normal(size=(2, 50, 10)) * 3


def test_divergence_is_torchs_and_has_a_direction() -> None:
    first, second = (torch.from_numpy(logits_NK).log_softmax(1) for logits_NK in (FIRST_NK, SECOND_NK))
    for of, of_NK, against, against_NK in ((first, FIRST_NK, second, SECOND_NK), (second, SECOND_NK, first, FIRST_NK)):
        torchs = torch.nn.functional.kl_div(against, of, reduction="batchmean", log_target=True)
        assert mean_divergence_nats(of_NK, against_NK) == pytest.approx(float(torchs))
    assert mean_divergence_nats(FIRST_NK, FIRST_NK) == 0


def test_by_hand() -> None:
    """One image, (3/4, 1/4) of (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2."""
    of_NK, from_NK = np.log([[0.75, 0.25]]), np.log([[0.5, 0.5]])
    assert mean_divergence_nats(of_NK, from_NK) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert entropy_nats(from_NK) == pytest.approx(np.log(2))


def test_large_logits_do_not_overflow() -> None:
    large_NK = np.array([[1e4, 0.0], [0.0, -1e4]], np.float32)
    assert np.isfinite(log_softmax(large_NK)).all()
    assert mean_divergence_nats(large_NK, large_NK) == 0
    assert entropy_nats(large_NK) == 0


def test_the_ensemble_is_the_mean_of_logits_and_no_vote() -> None:
    """Two of three members say class 0 by a little, one says class 1 by much."""
    members = [np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), np.array([[0.0, 9.0]])]
    assert mean_logits(members).argmax(axis=1).tolist() == [1]


def test_likeness_and_what_the_paper_calls_it() -> None:
    student_NK, teacher_NK = np.eye(4) * 2, np.eye(4)[[0, 1, 2, 0]]
    like = likeness(student_NK, teacher_NK)
    assert like.fidelity == 75
    report = like.report()
    assert report["kl_as_published"] == pytest.approx(10 * mean_divergence_nats(student_NK, teacher_NK))
    assert report["kl_teacher_student_nats"] == pytest.approx(mean_divergence_nats(teacher_NK, student_NK))
    assert report["mutual_information_nats"] == pytest.approx(1.5 * np.log(2))
    with pytest.raises(ValueError, match=r"got \(4, 4\), \(4, 3\)"):
        likeness(student_NK, teacher_NK[:, :3])


def test_a_network_beside_itself() -> None:
    like = likeness(FIRST_NK, FIRST_NK)
    assert (like.fidelity, like.kl_teacher_student, like.kl_student_teacher) == (100, 0, 0)
    assert like.information.adjusted == pytest.approx(1)


def test_answering() -> None:
    labels_N = FIRST_NK.argmax(axis=1)
    labels_N[:10] = (labels_N[:10] + 1) % 10
    alone = answering(FIRST_NK, labels_N)
    assert alone.accuracy == percent_right(FIRST_NK, labels_N) == 80
    assert alone.report()["calibration_error_points"] == alone.calibration_error > 0
    assert percent_alike(FIRST_NK, SECOND_NK) < 40


def test_affinity() -> None:
    assert affinity(45.0, 90.0) == 0.5
    assert affinity(45.0, 0.0) is None
