"""Sentences of an ablation's report say what its data support, and no more: one small reproduction each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import akdtune
from akdtune.records.files import read_table, trial_directory
from akdtune.records.recorded_files import write_trial_logits
from akdtune.reports.ablation import figures, tables
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.ablation.tables import Result, compute
from akdtune.reports.ablation.winners import Ranks
from akdtune.reports.ablation.words import sentence
from tests.study_fixture import StudyBuilder

BASE = (70.0, 71.2, 69.5, 70.8, 72.1)


def study_of(path: Path, cells: Mapping[str, Sequence[float]], **options: Any) -> StudyBuilder:
    """Cells with their values by seed; `base` is the reference."""
    study = StudyBuilder(path)
    for name, values in cells.items():
        study.cell(name, list(values), **options)
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base", "equivalence_margin": 0.3}
    return study


def result_of(study: StudyBuilder) -> Result:
    (phase,) = phases_of(study.write())
    return compute(phase, study.path)


def texts(done: Result) -> dict[str, str]:
    """The report in each of its forms."""
    rows = tables.rows_for_csv([done])
    return {
        "md": tables.markdown([done], "study"),
        "tex": tables.tex([done], "study"),
        "csv": json.dumps(rows),
        "json": json.dumps(tables.report_of([done])),
    }


# ----------------------------------------------------------------------------------------------- without spread


def test_equal_differences_are_no_proof_of_anything_but_their_sign_flips(tmp_path: Path) -> None:
    done = result_of(study_of(tmp_path, {"base": BASE, "x": [value + 1 for value in BASE]}))
    (finding,) = done.findings
    assert finding.verdict == "no spread"
    assert sentence(finding) == (
        "x: all 5 seeds differ from base by the same +1.00 points: no spread to judge by; the sign-flip test is the "
        "only one, p = .062"
    )
    assert (finding.more_seeds, finding.low, finding.high) == (None, None, None)
    for form, text in texts(done).items():
        assert "would have shown" not in text, form
        assert "smallest difference that these seeds show" not in text, form
    assert tables.paper_rows(done, controls=False)[1] == ["x", "5", "71.72 ± 1.02", "+1.00", "", "", ".062"]
    (of_x,) = tables.report_of([done])["differences"]
    assert [of_x[key] for key in ("ci_low", "ci_family_low", "minimum_detectable_low", "more_seeds_low")] == [None] * 4


def test_eight_equal_differences_are_higher_by_the_same_test(tmp_path: Path) -> None:
    base = (*BASE, 70.3, 71.0, 69.9)
    (finding,) = result_of(study_of(tmp_path, {"base": base, "x": [value + 1 for value in base]})).findings
    assert finding.verdict == "higher"
    assert sentence(finding) == (
        "x: higher than base: all 8 seeds differ from base by the same +1.00 points: no spread to judge by; the "
        "sign-flip test is the only one, p = .008"
    )


def test_equal_accuracies_without_predictions_are_tied(tmp_path: Path) -> None:
    (finding,) = result_of(study_of(tmp_path, {"base": BASE, "x": BASE})).findings
    assert finding.verdict == "tied"
    assert sentence(finding) == (
        "x: tied with base on 5 seeds: the same value on each, which does not show that nothing changed"
    )
    assert (finding.low, finding.high, finding.difference.ci_low) == (None, None, None)


def test_equal_accuracies_of_identical_predictions_are_identical(tmp_path: Path) -> None:
    (finding,) = result_of(study_of(tmp_path, {"base": BASE, "x": BASE}, predictions=500)).findings
    assert finding.verdict == "identical"
    assert sentence(finding) == (
        "x: identical to base on 5 seeds: identical predictions on all 500 images, to the last digit; the change did "
        "not reach the student"
    )


def test_equal_counts_of_other_images_are_tied(tmp_path: Path) -> None:
    """In each of 5 trials of x, one right and one wrong answer change places."""
    study = study_of(tmp_path, {"base": BASE, "x": BASE}, predictions=500)
    for row in study.plan[5:]:
        path = trial_directory(tmp_path, row["trial_id"]) / "predictions.parquet"
        ids_N, labels_N, logits_NK = predictions_in(path)
        right_N = logits_NK.argmax(1) == labels_N
        for place in (np.flatnonzero(right_N)[0], np.flatnonzero(~right_N)[0]):
            logits_NK[place] = logits_NK[place, ::-1]
        write_trial_logits(path, ids_N, labels_N, logits_NK)
    (finding,) = result_of(study).findings
    assert finding.verdict == "tied"
    assert sentence(finding) == (
        "x: tied with base on 5 seeds: equal counts of right answers, 10 of 2,500 images answered differently"
    )


def test_other_outputs_with_the_same_answers_are_not_called_identical(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"base": BASE, "x": BASE}, predictions=500)
    path = trial_directory(tmp_path, study.plan[5]["trial_id"]) / "predictions.parquet"
    ids_N, labels_N, logits_NK = predictions_in(path)
    write_trial_logits(path, ids_N, labels_N, 1.5 * logits_NK)
    (finding,) = result_of(study).findings
    assert sentence(finding) == "x: tied with base on 5 seeds: the same answer on every image, from outputs that differ"


def predictions_in(path: Path) -> tuple[Any, Any, Any]:
    table = read_table(path)
    logits_NK = np.array(table["logits"].to_pylist())
    return table["sample_id"].to_numpy(), table["label"].to_numpy(), logits_NK


# ----------------------------------------------------------------------------------------------- seeds without a value


def failed_reference(path: Path) -> StudyBuilder:
    """The base failed in 3 of 5 seeds; x is 1.00 and 1.20 above it in the others."""
    study = StudyBuilder(path)
    study.cell("base", list(BASE), statuses=dict.fromkeys((0, 1, 2), "failed"))
    study.cell("x", [60.0, 61.0, 62.0, 71.8, 73.3])
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    return study


def test_a_difference_of_two_pairs_says_so_beside_means_of_five(tmp_path: Path) -> None:
    done = result_of(failed_reference(tmp_path))
    (base, x), (finding,) = tables.paper_rows(done, controls=False), done.findings
    assert base[:3] == ["base", "2/5", "71.45 ± 0.92 (3 failed)"]
    assert x[:4] == ["x", "5", "65.62 ± 6.39", "+1.10 (2 pairs)"]
    note = "x 72.55 against 71.45 (2 pairs)"
    for form in ("md", "tex"):
        assert "(2 pairs)" in texts(done)[form] and note in texts(done)[form], form
    row = tables.rows_for_csv([done])[1]
    assert (row["n"], row["n_pairs"]) == (5, 2)
    assert (row["mean_of_pairs"], row["reference_of_pairs"]) == (pytest.approx(72.55), pytest.approx(71.45))
    assert row["mean_of_pairs"] - row["reference_of_pairs"] == pytest.approx(row["difference"])
    assert finding.verdict == "not resolved on 2 of 5 seeds; base: 3 failed"
    assert "not resolved on the 2 seeds that both finished (base: 3 of 5 failed), +1.10 points" in sentence(finding)
    assert "+1.10 (2 pairs)" in repr(akdtune.load(tmp_path).ablation())


def diverging_control(path: Path, status: str = "diverged") -> StudyBuilder:
    study = StudyBuilder(path)
    study.cell("base", list(BASE))
    higher = [value + more for value, more in zip(BASE, (2.0, 2.1, 1.9, 2.05, 2.0), strict=True)]
    study.cell("strong", higher, role="control", statuses={1: status, 3: status})
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    return study


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_the_verdict_itself_says_that_seeds_are_lost(tmp_path: Path, status: str) -> None:
    done = result_of(diverging_control(tmp_path, status))
    (finding,) = done.findings
    assert finding.verdict == f"higher on 3 of 5 seeds; 2 {status}"
    start = f"strong: higher than base by 1.97 points on the 3 seeds that finished (2 of 5 {status}), simultaneous"
    assert sentence(finding).startswith(start)
    (row,) = tables.paper_rows(done, controls=True)
    assert row[1:4] == ["3/5", f"72.50 ± 1.42 (2 {status})", "+1.97 (3 pairs)"]
    labels = [text.get_text() for text in figures.sheets(done, "study")["ablation"].figure.axes[0].get_yticklabels()]
    assert f"strong (2 {status})" in labels


def test_seeds_that_still_run_are_no_outcome(tmp_path: Path) -> None:
    done = result_of(diverging_control(tmp_path, "planned"))
    (finding,) = done.findings
    assert finding.verdict == "higher on 3 of 5 seeds; 2 not finished"
    assert tables.paper_rows(done, controls=True)[0][1:3] == ["3/5", "72.50 ± 1.42"]


def test_a_cell_that_always_diverged_has_nothing_to_wait_for(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    study.cell("base", list(BASE))
    study.cell("x", list(BASE), statuses=dict.fromkeys(range(5), "diverged"))
    study.design["ablation"] |= {"design": "leave_one_out", "reference": "base"}
    (finding,) = result_of(study).findings
    assert sentence(finding) == "x: no seed that base has finished too (5 of 5 diverged); nothing can be said"
    assert finding.verdict == "no pair on 0 of 5 seeds; 5 diverged"


# ----------------------------------------------------------------------------------------------- winners of a search


def confirmation(path: Path, scores: Sequence[float], means: Sequence[float]) -> Result:
    study = StudyBuilder(path)
    for place, (score, mean) in enumerate(zip(scores, means, strict=True), 1):
        values = [mean - 0.1, mean, mean + 0.1]
        study.cell(f"angular/kd #{place}", values, phase="confirm", rank=place, search_score=score)
    study.cell("kd", [76.0, 76.2, 76.1], phase="confirm", role="control", rank=None, search_score=None)
    study.design["confirm"] |= {"reference": "kd", "trained_on": "full"}
    return result_of(study)


def test_scores_of_different_images_are_compared_by_rank_alone(tmp_path: Path) -> None:
    """58.33 on validation images and 77.12 on test images: no change of +18.79, ranks 1 and 2."""
    done = confirmation(tmp_path, (58.33, 57.5), (77.12, 78.0))
    for form, text in texts(done).items():
        assert "18.79" not in text and '"change"' not in text, form
    first = tables.report_of([done])["confirm"]["cells"][0]
    assert (first["search_rank"], first["confirmed_rank"], first["search_score"]) == (1, 2, 58.33)
    row = tables.rows_for_csv([done])[0]
    assert (row["search_score"], row["search_metric"], row["metric"]) == (58.33, "val_accuracy", "test_accuracy")
    assert (row["search_rank"], row["confirmed_rank"]) == (1, 2)
    assert "| angular/kd #1 | 1 | 2 | 58.33 | 77.12 |" in texts(done)["md"]
    assert "| kd |  |  |  | 76.10 |" in texts(done)["md"]
    assert "Kendall" not in texts(done)["md"]
    loaded = akdtune.load(tmp_path).confirmation()
    assert any("no change of one number" in said for said in loaded.sentences)
    assert loaded.ranks["angular/kd #1"] == Ranks(search_rank=1, confirmed_rank=2)
    assert loaded.ranks["kd"] == Ranks(None, None)


def test_five_winners_have_a_rank_correlation(tmp_path: Path) -> None:
    """Of ten pairs of winners, one is in another order: tau = (9 - 1) / 10; 10 of all 120 orders are as far from 0."""
    done = confirmation(tmp_path, (60.0, 59.0, 58.0, 57.0, 56.0), (77.0, 78.0, 76.5, 76.0, 75.0))
    assert "Kendall's tau of both ranks: +0.80 (p = .083, n = 5 winners)" in texts(done)["md"]


def test_the_figure_shows_ranks_and_no_search_score(tmp_path: Path) -> None:
    done = confirmation(tmp_path, (58.33, 57.5), (77.12, 78.0))
    figure = figures.sheets(done, "study")["winners_curse"].figure
    left, right = figure.axes
    shown = [" ".join(text.get_text().split()) for text in left.get_yticklabels()]
    assert shown == ["rank in the search", "angular/kd #1 1", "angular/kd #2 2", "kd \N{EN DASH}"]
    assert [" ".join(text.get_text().split()) for text in right.get_yticklabels()] == [
        "rank confirmed", "2 n = 3", "1 n = 3", "\N{EN DASH} n = 3",
    ]  # fmt: skip
    low, high = left.get_xlim()
    assert 75 < low < high < 80


# ----------------------------------------------------------------------------------------------- over test images


def test_an_interval_that_holds_more_and_is_narrower_is_explained(tmp_path: Path) -> None:
    """Seeds that differ much and images that differ little: t over 5 seeds is the wider one."""
    shifted = [value + more for value, more in zip(BASE, (3.0, -2.0, 0.5, 4.0, -1.0), strict=True)]
    done = result_of(study_of(tmp_path, {"base": BASE, "x": shifted}, predictions=5000))
    (finding,) = done.findings
    assert finding.crossed is not None and finding.difference.ci_low is not None
    assert finding.crossed[0] > finding.difference.ci_low
    said = [note for note in tables.notes_of(done) if "percentiles" in note]
    assert said == [
        "the interval over test items too is narrower than that of the seeds alone in 1 of 1 comparisons, although it "
        "holds more: it takes percentiles of resampled seeds, which for n = 5 reach about 1.75 standard errors of the "
        "seeds where t reaches 2.78; read the wider of the two"
    ]


def test_and_only_where_it_occurs(tmp_path: Path) -> None:
    near = [value + more for value, more in zip(BASE, (0.9, 1.1, 1.0, 1.1, 0.9), strict=True)]
    done = result_of(study_of(tmp_path, {"base": BASE, "x": near}, predictions=1000))
    assert done.findings[0].crossed is not None
    assert not [note for note in tables.notes_of(done) if "percentiles" in note]
