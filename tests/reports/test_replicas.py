"""Cells that repeat another one: found in studies that trained one twice, and left out of every family."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from akdtune.reports.ablation import findings, words
from akdtune.reports.ablation.measured import Phase, phases_of
from akdtune.statistics.paired import holm_family, paired_difference
from tests.study_fixture import StudyBuilder

VALUES = np.random.default_rng(4).normal(70, 1, (4, 6)).tolist()
MATCHED = {"name": "matched", "of": {"name": "angular"}, "match": "weight"}


def phase(
    path: Path,
    factors: Mapping[str, float] | None,
    matched: Mapping[str, Any] = MATCHED,
    method: Mapping[str, Any] | None = None,
    families: list[list[str]] | None = None,
    **of_matched: Any,
) -> Phase:
    """A base, a change, the plain teacher and a control whose views, factors and method are given."""
    study = StudyBuilder(path)
    for name, values in zip(("base", "inter=false"), VALUES, strict=False):
        study.cell(name, values)
    study.cell("plain", VALUES[2], role="control")
    study.cell("weight_matched", VALUES[3], role="control", gradient_factor=factors, **of_matched)
    views = {"base": {"name": "angular"}, "inter=false": {"name": "angular", "inter": False},
             "plain": {"name": "none"}, "weight_matched": dict(matched)}  # fmt: skip
    names = [entry["name"] for entry in study.design["ablation"]["cells"] for _ in range(6)]
    for row, name in zip(study.plan, names, strict=True):
        row["settings"] = {"views": views[name], "method": [{"name": "kd", "weight": 1.0}], "training": {"epochs": 2}}
        if name == "weight_matched" and method is not None:
            row["settings"]["method"] = [dict(method)]
    study.design["ablation"] |= {"reference": "base", "families": families}
    (found,) = phases_of(study.write())
    return found


def test_a_weight_matched_control_with_factors_of_1_is_the_plain_teacher_again(tmp_path: Path) -> None:
    measured = phase(tmp_path, {"kd": 0.9999999977})
    assert {cell.name: cell.replica_of for cell in measured.cells if cell.replica_of} == {"weight_matched": "plain"}
    assert findings.families_of(measured) == [["inter=false", "plain"]]
    found = {finding.cell.name: finding for finding in findings.findings(measured, tmp_path, alpha=0.05)}
    base, *others = (dict(enumerate(values)) for values in VALUES[:3])
    expected = holm_family([paired_difference(other, base) for other in others])
    held = [found[name].within for name in ("inter=false", "plain")]
    assert [within and within.p_holm for within in held] == pytest.approx([member.p_holm for member in expected])
    assert found["weight_matched"].within is None and found["weight_matched"].family == 0
    assert "in no family: it repeats plain" in words.sentence(found["weight_matched"])
    said = words.remarks(measured, list(found.values()), 0.05)
    assert "weight_matched repeats plain (same targets, gradient factors 1): an A/A pair, outside the family" in said


@pytest.mark.parametrize(
    "differently",
    [
        {"factors": {"kd": 1.00001}},
        {"factors": {"kd": 1.0, "dkd.tckd": 2.44}},
        {"factors": {}},
        {"factors": None},
        {"factors": {"kd": 1.0}, "matched": {**MATCHED, "match": "entropy"}},
        {"factors": {"kd": 1.0}, "matched": {"name": "angular"}},
        {"factors": {"kd": 1.0}, "method": {"name": "kd", "weight": 2.0}},
    ],
)
def test_what_is_not_known_to_be_the_same_stays_in_its_family(tmp_path: Path, differently: dict[str, Any]) -> None:
    measured = phase(tmp_path, **differently)
    assert not any(cell.replica_of for cell in measured.cells)
    assert findings.families_of(measured) == [["inter=false", "plain", "weight_matched"]]
    assert not any("repeats" in line for line in words.remarks(measured, [], 0.05))


def test_a_recorded_replica_is_believed_and_stays_outside_declared_families(tmp_path: Path) -> None:
    families = [["weight_matched", "plain"], ["inter=false"]]
    measured = phase(tmp_path, None, families=families, replica_of="base")
    assert measured.cell("weight_matched").replica_of == "base"
    assert findings.families_of(measured) == [["plain"], ["inter=false"]]
    (line,) = (line for line in words.remarks(measured, [], 0.05) if "repeats" in line)
    assert line == "weight_matched repeats base: an A/A pair, outside the family"


def test_what_the_reference_repeats_is_outside_the_family_too(tmp_path: Path) -> None:
    measured = phase(tmp_path, {"kd": 1.0})
    path = tmp_path / "design.json"
    design = copy.deepcopy(json.loads(path.read_text()))
    design["ablation"]["reference"] = "weight_matched"
    path.write_text(json.dumps(design))
    (measured,) = phases_of(tmp_path)
    assert findings.families_of(measured) == [["base", "inter=false"]]


def test_a_pair_that_is_planned_no_more_lacks_no_seed(tmp_path: Path) -> None:
    phase(tmp_path, {"kd": 1.0})
    path = tmp_path / "design.json"
    for planned, missing in ((None, 4), (False, 3)):
        design = json.loads(path.read_text())
        design["ablation"]["seeds"] = [0, 1, 2, 3, 4, 5, 6]
        if planned is not None:
            design["ablation"]["cells"][3] |= {"planned": planned, "replica_of": "plain"}
        path.write_text(json.dumps(design))
        (measured,) = phases_of(tmp_path)
        assert measured.missing == missing
        assert measured.cell("weight_matched").replica_of == "plain"
