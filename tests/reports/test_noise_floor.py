"""The noise floor in reports: beside every difference, first among the notes, and what lies below it."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from akdtune.records.files import trial_directory
from akdtune.reports.ablation import noise_floor, tables
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.ablation.tables import Result
from akdtune.reports.answers import compared
from akdtune.statistics.power import t_quantile
from tests.study_fixture import StudyBuilder

BASE = [70.0, 71.0, 72.0, 73.0, 74.0]
NOISE = [3.0, -1.0, 1.0, -3.0, 0.0]  # sd sqrt(5): means of five seeds reach t(.975, 4) = 2.776
FLOOR = "±2.78"


def built(path: Path, *, replica: bool = True, of: str = "base") -> StudyBuilder:
    """A base, a change of 1 point on every seed but a hair, and a replica whose differences are `NOISE`."""
    study = StudyBuilder(path)
    study.cell("base", BASE)
    study.cell("small", [value + 1 + 0.01 * (place % 2) for place, value in enumerate(BASE)])
    study.cell("large", [value - 9 + 0.01 * (place % 2) for place, value in enumerate(BASE)])
    if replica:
        noisy = [value + noise for value, noise in zip(BASE, NOISE, strict=True)]
        study.cell("replica", noisy, role="control", replica_of=of, explanation="The base again.")
    study.design["ablation"] |= {"reference": "base", "families": None}
    return study


def computed(study: StudyBuilder) -> Result:
    study.write()
    phases = phases_of(study.path)
    return tables.compute(phases[0], study.path, draws=100, beside=phases)


def test_the_floor_stands_beside_every_difference(tmp_path: Path) -> None:
    result = computed(built(tmp_path))
    assert result.noise.floor is not None and result.noise.floor.sd == pytest.approx(sqrt(5))
    at = tables.headings(result).index("A/A")
    rows = [*tables.paper_rows(result, controls=False), *tables.paper_rows(result, controls=True)]
    assert [(row[0], row[at]) for row in rows] == [
        ("base", ""), ("small", FLOOR), ("large", FLOOR), ("replica", FLOOR),
    ]  # fmt: skip
    assert {len(row) for row in rows} == {len(tables.headings(result))}
    for text in (tables.markdown([result], "s"), tables.tex([result], "s")):
        assert text.count(FLOOR) >= 4 or text.count(FLOOR.replace("±", r"$\pm$")) >= 3
    content = tables.report_of([result])
    json.dumps(content, allow_nan=False)
    reach = t_quantile(0.025, 5) * sqrt(5) / sqrt(5)
    assert [found["noise_floor"] for found in content["differences"]] == pytest.approx([reach] * 3)
    assert content["noise"]["floor"]["dof"] == 4 and content["noise"]["pairs"] == ["replica repeats base"]
    rows_of_csv = tables.rows_for_csv([result])
    assert rows_of_csv[1]["noise_floor"] == pytest.approx(reach) and rows_of_csv[1]["below_noise_floor"] is True


def test_the_first_note_is_the_floor_and_the_second_what_lies_below_it(tmp_path: Path) -> None:
    result = computed(built(tmp_path))
    first, second, third, *_ = tables.notes_of(result)
    low, high = sqrt(4 * 5 / 11.1433), sqrt(4 * 5 / 0.484419)  # chi-square of 4, .975 and .025
    assert first == (
        "noise floor: two runs of the same thing (replica repeats base) differ by sd 2.24 points a seed, "
        f"[{low:.2f}, {high:.2f}]; a mean over 5 seeds by up to {FLOOR}"
    )
    assert second == (
        f"warning: small: resolved, yet smaller than two runs of the same thing may differ ({FLOOR}): do not read as "
        "an effect before more seeds or replicas"
    )
    assert third.startswith("pairing by seed removes 100 %")
    small, large, _ = result.findings
    assert tables.said_of(result, small).startswith("small: higher than base by 1.00 points")
    assert tables.said_of(result, small).endswith(second.removeprefix("warning: small: "))
    assert "two runs of the same thing" not in tables.said_of(result, large), "9 points lie above it"
    assert compared(tmp_path, "ablation").sentences[3] == first, "as from Python, after the findings"


def test_a_replica_is_noise_and_no_hypothesis(tmp_path: Path) -> None:
    result = computed(built(tmp_path))
    replica = result.findings[-1]
    assert (replica.verdict, replica.within, replica.more_seeds, replica.equivalence) == ("A/A", None, None, None)
    said = tables.said_of(result, replica)
    assert said.startswith("replica: A/A, +0.00 points against base, single [") and "more seeds" not in said
    assert said.endswith("in no family: it repeats base")
    assert [finding.family for finding in result.findings] == [2, 2, 0]
    study = built(tmp_path / "other")
    study.design["ablation"]["reference"] = "replica"
    of_base = next(finding for finding in computed(study).findings if finding.cell.name == "base")
    assert (of_base.verdict, of_base.repeats, of_base.within) == ("A/A", "replica", None)


def test_without_a_replica_one_line_says_so(tmp_path: Path) -> None:
    result = computed(built(tmp_path, replica=False))
    assert result.noise.floor is None and "A/A" not in tables.headings(result)
    notes = tables.notes_of(result)
    assert notes[0] == noise_floor.UNKNOWN
    assert notes[1] == "pairing by seed removes 100 %, [100, 100] of the variance of differences"
    assert not any("two runs of the same thing" in tables.said_of(result, f) for f in result.findings)
    assert noise_floor.remarks(result.noise, result.findings, "points", is_ablation=False)[0] == notes[1]


def test_replicas_that_agree_have_no_floor_but_what_is_shown(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    study.cell("base", BASE)
    study.cell("replica", BASE, role="control", replica_of="base")
    study.design["ablation"] |= {"reference": "base", "families": None}
    result = computed(study)
    assert "have the same number on every seed" in tables.notes_of(result)[0]
    assert result.findings[0].verdict == "A/A"


def test_halves_that_drew_from_other_streams_are_no_pair(tmp_path: Path) -> None:
    """A replica that was added to a study of an earlier version."""
    study = built(tmp_path)
    study.write()
    phases = phases_of(tmp_path)
    for seed, trial in phases[0].cell("replica").trials.items():
        if seed > 1:
            (trial_directory(tmp_path, trial) / "outcome.json").write_text(json.dumps({"streams": 2}))
    result = tables.compute(phases[0], tmp_path, draws=100, beside=phases)
    assert result.noise.floor is not None and (result.noise.floor.dof, result.noise.older) == (1, 3)
    assert tables.notes_of(result)[1].startswith("3 seeds of A/A pairs left out: one half drew from random")
    for trial in phases[0].cell("base").trials.values():
        (trial_directory(tmp_path, trial) / "outcome.json").write_text(json.dumps({"streams": 2}))
    result = tables.compute(phases[0], tmp_path, draws=100, beside=phases)
    assert result.noise.floor is not None and (result.noise.floor.dof, result.noise.older) == (2, 2)


def confirmed(study: StudyBuilder, shared: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    for name, values in {"kd": rng.normal(72, 1, 5), "best #1": rng.normal(73, 1, 5)}.items():
        study.cell(name, list(values), phase="confirm", role="control" if name == "kd" else "confirm", **shared)
    study.design["confirm"] |= {"reference": "kd", "metric": "test_accuracy"}


def test_a_confirmation_takes_the_floor_of_the_ablation(tmp_path: Path) -> None:
    study = built(tmp_path)
    confirmed(study, {})
    study.write()
    phases = phases_of(tmp_path)
    of_confirm = tables.compute(phases[1], tmp_path, draws=100, beside=phases)
    assert noise_floor.shown(of_confirm.noise.reach(of_confirm.findings[0])) == FLOOR
    alone = tables.compute(phases[1], tmp_path, draws=100)
    assert alone.noise.floor is None and noise_floor.UNKNOWN not in tables.notes_of(alone)
