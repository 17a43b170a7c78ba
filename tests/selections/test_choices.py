"""Which rows each selection keeps, against numbers worked out by hand and formulas retyped."""

from __future__ import annotations

import pytest
import torch

from akdtune.errors import AkdtuneError
from akdtune.selections import kept_of, top_rows
from akdtune.selections.confidence import Confidence
from akdtune.selections.correct_only import CorrectOnly
from akdtune.selections.disagreement import Disagreement, disagreement_B
from akdtune.selections.gap import Gap, gap_B
from akdtune.selections.random import Random
from akdtune.signals import Batch, Signals

LABELS_B = torch.tensor([0, 1, 2, 0, 1])


def logits(*probabilities: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


STUDENT_BK = logits((0.2, 0.3, 0.5), (0.1, 0.8, 0.1), (0.3, 0.3, 0.4), (0.6, 0.3, 0.1), (0.4, 0.4, 0.2))
TEACHER_BK = logits((0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.5, 0.3, 0.2), (0.9, 0.05, 0.05), (0.3, 0.6, 0.1))
REFERENCE_BK = logits((0.2, 0.3, 0.5), (0.1, 0.8, 0.1), (0.5, 0.3, 0.2), (0.8, 0.1, 0.1), (0.1, 0.1, 0.8))
TEACHER = Signals.of(TEACHER_BK, others=[Signals.of(REFERENCE_BK)])


def rows(selection: object, labels_B: torch.Tensor = LABELS_B) -> list[int]:
    found: list[int] = selection.select(Signals.of(STUDENT_BK), TEACHER, Batch.of(labels_B)).rows_R.tolist()  # type: ignore[attr-defined]
    return found


def kl(p_K: torch.Tensor, q_K: torch.Tensor) -> float:
    return float((p_K.exp() * (p_K - q_K)).sum())


def test_how_many_are_kept() -> None:
    assert [kept_of(share, 8) for share in (0.01, 0.4, 0.5, 0.95, 1.0)] == [1, 3, 4, 8, 8]
    assert kept_of(0.4, 1) == 1
    assert top_rows(torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0]), 2).tolist() == [1, 2], "of equal ones the first"


def test_gap_is_how_much_worse_the_student_is_than_the_reference() -> None:
    expected = [kl(TEACHER_BK[row], STUDENT_BK[row]) - kl(TEACHER_BK[row], REFERENCE_BK[row]) for row in range(5)]
    found_B = gap_B(STUDENT_BK, TEACHER_BK, REFERENCE_BK)
    torch.testing.assert_close(found_B, torch.tensor(expected))
    # the first row is as bad for both, the last worse for the reference: only where a student can do better is left
    assert found_B[0] == pytest.approx(0) and found_B[4] < 0
    assert rows(Gap.alone(share=0.4)) == [2, 3]
    measured = Gap.alone(share=0.4).select(Signals.of(STUDENT_BK), TEACHER, Batch.of(LABELS_B)).measured
    assert float(measured["gap_train"]) == pytest.approx(sum(expected) / 5)
    assert float(measured["gap_selected_train"]) == pytest.approx((expected[2] + expected[3]) / 2)


def test_a_temperature_softens_all_three() -> None:
    soft = [of_BK / 3 for of_BK in (STUDENT_BK, TEACHER_BK, REFERENCE_BK)]
    torch.testing.assert_close(gap_B(STUDENT_BK, TEACHER_BK, REFERENCE_BK, 3.0), gap_B(*soft))
    torch.testing.assert_close(disagreement_B(STUDENT_BK, TEACHER_BK, 3.0), disagreement_B(soft[0], soft[1]))


def test_disagreement_is_kl_both_ways() -> None:
    expected = [kl(TEACHER_BK[row], STUDENT_BK[row]) + kl(STUDENT_BK[row], TEACHER_BK[row]) for row in range(5)]
    torch.testing.assert_close(disagreement_B(STUDENT_BK, TEACHER_BK), torch.tensor(expected))
    assert rows(Disagreement.alone(share=0.2)) == [0]
    assert rows(Disagreement.alone(share=0.4)) == [0, 3]


def test_correct_only_keeps_what_the_teacher_gets_right() -> None:
    assert rows(CorrectOnly.alone()) == [0, 1, 3, 4]
    assert rows(CorrectOnly.alone(), torch.tensor([1, 0, -100, 1, 0])) == []


def test_confidence_by_share_and_by_threshold() -> None:
    assert rows(Confidence.alone(share=0.4)) == [1, 3]
    assert rows(Confidence.alone()) == [1, 3], "0.4 where nothing is said"
    assert rows(Confidence.alone(threshold=0.65)) == [0, 1, 3]
    assert rows(Confidence.alone(threshold=0.95)) == []


def test_random_draws_every_row_equally_often() -> None:
    selection, batch = Random.alone(share=0.4), Batch.of(LABELS_B)
    drawn = torch.zeros(5)
    for _ in range(2000):
        drawn[selection.select(Signals.of(STUDENT_BK), None, batch).rows_R] += 1
    assert drawn.sum() == 4000
    assert (drawn - 800).abs().max() < 4 * (2000 * 0.4 * 0.6) ** 0.5


def test_random_keeps_as_many_as_another_selection() -> None:
    for of, kept in (
        ({"name": "correct_only"}, 4),
        ({"name": "confidence", "threshold": 0.65}, 3),
        ("correct_only", 4),
    ):
        sets = {tuple(rows(Random.alone(of=of), LABELS_B)) for _ in range(3)}
        assert {len(found) for found in sets} == {kept}
    batch = Batch.of(LABELS_B)
    selection = Random.alone(of={"name": "gap", "share": 0.6})
    sets = {tuple(selection.select(Signals.of(STUDENT_BK), TEACHER, batch).rows_R.tolist()) for _ in range(30)}
    assert len(sets) > 3 and {len(found) for found in sets} == {3}


@pytest.mark.parametrize(
    ("selection", "given", "message"),
    [
        (Random, {"share": 0.5, "of": "gap"}, "share and of both say how many rows are kept: give one of them"),
        (Random, {"of": "random"}, "of: must name a selection that chooses rows, got 'random'"),
        (Random, {"of": "none"}, "of: must name a selection that chooses rows, got 'none'"),
        (Random, {"of": {"share": 0.4}}, "of: must name a selection"),
        (Random, {"of": "gaap"}, "did you mean 'gap'"),
        (Random, {"share": 0}, "greater than 0"),
        (Confidence, {"share": 0.5, "threshold": 0.5}, "give one of them"),
        (Gap, {"share": 1.5}, "less than or equal to 1"),
        (Gap, {"shar": 0.5}, "did you mean 'share'"),
    ],
)
def test_refusals(selection: type, given: dict[str, object], message: str) -> None:
    with pytest.raises(AkdtuneError, match=message):
        selection.alone(**given)  # type: ignore[attr-defined]
