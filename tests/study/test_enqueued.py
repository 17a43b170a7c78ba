"""`search.enqueue`: known points come first in every arm that they fit, whatever searches; wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from akdtune.errors import SettingsError
from akdtune.settings.points import leaves
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.study.written import export_yaml
from tests.search_world import TINY, Played

POINT = "  enqueue:\n  - {views.margin: 0.45}\n"
BOTH = "method: {choice: [{name: kd, weight: {log_uniform: [0.1, 4.0]}}, [kd, crd]]}\n"


def written(folder: Path, enqueue: str, *changes: tuple[str, str]) -> Path:
    """The tiny study with points, its `search` section in block style."""
    text = TINY.replace(
        "search: {algorithm: random, trials: 6}\n", f"search:\n  algorithm: random\n  trials: 6\n{enqueue}"
    )
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "study.yaml"
    file.write_text(text)
    return file


def loaded(folder: Path, enqueue: str, *changes: tuple[str, str]) -> spec.Study:
    return spec.load(written(folder, enqueue, *changes))


def first(study: spec.Study) -> dict[str, list[dict[str, Any]]]:
    return {name: [point.params for point in points] for name, points in Outline(study).enqueued.items()}


WITH_BOTH = ("method: {name: kd, weight: {log_uniform: [0.1, 4.0]}}\n", BOTH)


# ------------------------------------------------------------------------------------------------------- what is tried


def test_a_point_is_completed_by_the_centre_of_the_arm(tmp_path: Path) -> None:
    (params,) = first(loaded(tmp_path, POINT))["angular/kd"]
    assert params["views.margin"] == 0.45
    assert params["method.kd.weight"] == pytest.approx((0.1 * 4.0) ** 0.5)


def test_a_point_is_tried_in_every_arm_that_it_fits(tmp_path: Path) -> None:
    points = POINT + "  - {method.kd.weight: 2.0}\n  - {method: [kd, crd], views: {margin: 0.2}}\n"
    found = first(loaded(tmp_path, points, WITH_BOTH))
    assert [params["views.margin"] for params in found["angular/kd"]] == [0.45, 0.35]
    assert [params["views.margin"] for params in found["angular/kd+crd"]] == [0.45, 0.2], "its kd has weight 1"


@pytest.mark.parametrize("algorithm", ["random", "qmc"])
def test_drawn_configurations_follow_the_points(tmp_path: Path, algorithm: str) -> None:
    changed = ("algorithm: random", f"algorithm: {algorithm}")
    outline, plain = (Outline(loaded(tmp_path, enqueue, changed)) for enqueue in (POINT, ""))
    params, drawn = ([proposal.params for _, proposal in of.proposals] for of in (outline, plain))
    assert len(params) == len(drawn) == 6
    assert params[0]["views.margin"] == 0.45 and params[1] == drawn[0]
    if algorithm == "random":
        assert params[1:] == drawn[:5], "a point moves the others, and changes none"


def test_a_grid_begins_with_the_points_and_has_each_configuration_once(tmp_path: Path) -> None:
    changes = (
        ("algorithm: random", "algorithm: grid"),
        ("margin: {uniform: [0.1, 0.6]}", "margin: {choice: [0.1, 0.2, 0.3]}"),
        ("weight: {log_uniform: [0.1, 4.0]}", "weight: {choice: [1, 2]}"),
    )  # fmt: skip
    points = "  enqueue: [{views.margin: 0.3, method.kd.weight: 2}, {views.margin: 0.2}]\n"
    params = [tuple(proposal.params.values()) for _, proposal in Outline(loaded(tmp_path, points, *changes)).proposals]
    assert params[:2] == [(0.3, 2), (0.2, 1)]
    assert sorted(params) == [(m, w) for m in (0.1, 0.2, 0.3) for w in (1, 2)]


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "random"])
@pytest.mark.parametrize("fair", ["per_arm", "pooled"])
def test_a_search_begins_with_the_points_and_goes_on_where_it_was_cut(
    tmp_path: Path, algorithm: str, fair: str
) -> None:
    points = POINT + "  - {views.margin: 0.2}\n"
    study = loaded(tmp_path, points, WITH_BOTH, ("algorithm: random", f"algorithm: {algorithm}\n  fair: {fair}"))
    whole = Played(study, tmp_path / "whole").play()
    margins = [record.plan["params"]["views.margin"] for record in whole.directory.records.values()]
    assert sorted(margins[:4]) == [0.2, 0.2, 0.45, 0.45] and len(margins) == 6
    cut = Played(study, tmp_path / "cut").play(most=1)
    for _ in range(6):
        cut.play(most=1)
    assert list(cut.directory.records) == list(whole.directory.records)
    assert cut.ends() == whole.ends()


def test_ids_of_studies_without_points_stay(tmp_path: Path) -> None:
    study = loaded(tmp_path, "")
    assert "enqueue" not in study.resolved()["search"]
    assert loaded(tmp_path, POINT).resolved()["search"]["enqueue"] == [{"views.margin": 0.45}]


def test_an_exported_configuration_can_be_pasted_in(tmp_path: Path) -> None:
    study = loaded(tmp_path, "", WITH_BOTH)
    arm = study.arms[1]
    proposal = arm.random(3)
    exported = yaml.safe_load(export_yaml(study.resolved(), proposal.settings))
    file = written(tmp_path, "", WITH_BOTH)
    values = yaml.safe_load(file.read_text())
    values["search"]["enqueue"] = [exported]
    file.write_text(yaml.safe_dump(values))
    pasted = spec.load(file)
    assert first(pasted) == {arm.name: [proposal.params]}
    assert any("passed over, a point holds settings of a trial" in warning for warning in pasted.warnings)


def test_the_plan_says_what_comes_first(tmp_path: Path) -> None:
    from akdtune.planning.report import headline

    said = headline(Outline(loaded(tmp_path, POINT)))[-1]
    assert said.startswith("known points come first: 1 of angular/kd (search.enqueue;")


def test_terms_are_named_by_their_methods() -> None:
    written = {
        leaf.path: leaf.value for leaf in leaves({"method": ["kd", {"name": "crd", "weight": 2.0}], "views": None})
    }
    assert written == {"method": ["kd", "crd"], "method.crd.weight": 2.0, "views.name": "none"}
    nested = {leaf.path: leaf.value for leaf in leaves({"method": {"kd": {"weight": 1}}, "student": {"network": "x"}})}
    assert nested == {"method.kd.weight": 1, "student.network.name": "x"}


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("{views.margn: 0.4}",
         "search.enqueue[0].views.margn: unknown setting 'views.margn'; did you mean 'views.margin'?"),
        ("{margin: 0.4}", "search.enqueue[0].margin: unknown setting 'margin'; did you mean 'views.margin'?"),
        ("{views.margin: 0.9}", "search.enqueue[0].views.margin: must be within uniform [0.1, 0.6], got 0.9"),
        ("{views: {margin: wide}}", "search.enqueue[0].views.margin: must be within uniform [0.1, 0.6], got 'wide'"),
        ("{training.lr: 0.3}", "search.enqueue[0].training.lr: is 0.05, and not searched there, got 0.3"),
        ("{method: crd}", "search.enqueue[0].method: is ['kd'], and not searched there, got ['crd']"),
        ("{views.margin: {choice: [0.2]}}", "search.enqueue[0].views.margin: cannot be searched over"),
        ("0.4", "search.enqueue[0]: must be a mapping, got 0.4"),
    ],
)  # fmt: skip
def test_a_point_outside_the_space_is_refused_with_key_and_line(tmp_path: Path, point: str, said: str) -> None:
    file = written(tmp_path, f"  enqueue:\n  - {point}\n")
    with pytest.raises(SettingsError) as refused:
        spec.load(file)
    line = 1 + file.read_text().splitlines().index(f"  - {point}")
    assert f"{file}:{line}: {said}" in str(refused.value)


def test_a_point_that_fits_no_arm_is_told_of_the_nearest(tmp_path: Path) -> None:
    file = written(tmp_path, "  enqueue: [{method: [kd, crd], method.kd.weight: 2.0}]\n", WITH_BOTH)
    with pytest.raises(
        SettingsError, match=r"is \['kd'\], and not searched there, got \['kd', 'crd'\] \(the nearest arm"
    ):
        spec.load(file)


def test_more_points_than_trials_are_refused(tmp_path: Path) -> None:
    points = "".join(f"  - {{views.margin: 0.{number}}}\n" for number in range(2, 6))
    with pytest.raises(
        SettingsError, match=r"search.enqueue: has 4 points for angular/kd, which gets 3 of search.trials"
    ):
        loaded(tmp_path, f"  enqueue:\n{points}", WITH_BOTH)


def test_a_study_may_be_extended_by_points(tmp_path: Path) -> None:
    from akdtune.running.lock import refuse_changes

    lock = {"settings": loaded(tmp_path, "").resolved()}
    study = loaded(tmp_path, POINT)
    assert refuse_changes(study, lock, tmp_path, extend=True) == ["search.enqueue: null -> [{views.margin: 0.45}]"]
