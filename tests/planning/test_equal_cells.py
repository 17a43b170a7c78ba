"""Cells that are taught the same as another one: found on measured targets, merged, and named where they are missed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from akdtune import networks
from akdtune.designs.cells import Cell, CellPlan
from akdtune.planning import measured_targets
from akdtune.planning.equal_cells import MeasuredPlan, measured_plan
from akdtune.planning.measured_targets import Taught, of_cells
from akdtune.planning.prepared import Prepared
from akdtune.study import spec
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile

STUDY = """\
study: small
data: {name: digits, validation: 300, pixel_noise: {std: 0.25}}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 2}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: tekap, level: logit}
method: kd
training: {epochs: 4}
ablation:
  design: leave_one_out
  factors: {training.lr: [0.05, 0.1]}
  controls: [plain, weight_matched, shrink_matched, entropy_matched, target_matched]
  seeds: [0, 1]
"""
ANGULAR = "views={name: angular, warmup_epochs: 2, num_views: 3, "
FROZEN = ANGULAR + "variant: constrained, train_heads: frozen, dropout: 0.0"
SUMS_TO_1 = "views={name: tekap, level: logit, teacher_weight: 0.4, view_weight: 0.2"


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_targets, "IMAGES", 32)


def loaded(tmp_path: Path, *overrides: str) -> Study:
    (tmp_path / "study.yaml").write_text(STUDY)
    return spec.load(tmp_path / "study.yaml", list(overrides))


def measured(study: Study) -> tuple[MeasuredPlan, dict[str, Taught]]:
    """Under a teacher that is as sure as a trained one."""
    prepared, plan = Prepared.load(study), study.cell_plan
    assert plan is not None
    teacher = networks.build(study.teacher.network, prepared.dataset.inputs, 3).eval()
    with torch.no_grad():
        teacher.classifier()[0].mul_(30)
    taught = of_cells(plan.cells, prepared.dataset, "full", TeacherFile.untrained(study.teacher), (teacher,))
    return measured_plan(plan, taught, 32), taught


def merged(plan: CellPlan) -> dict[str, str]:
    return {name: cell.name for cell in plan.cells for name in cell.stands_for}


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # shrunk or noisy, in all 1.4 times the teacher's weight, ...
        ([], {}),
        # ... of its weight, ...
        ([SUMS_TO_1 + "}"], {"weight_matched": "plain"}),
        # ... and nothing but the teacher: whatever is made of that is the same
        (
            [SUMS_TO_1 + ", noise: 0, shrink: 0}"],
            dict.fromkeys(("plain", "weight_matched", "shrink_matched", "entropy_matched", "target_matched"), "base"),
        ),
        # noise that no method reads is none
        (
            ["views={name: tekap, level: feature}"],
            dict.fromkeys(("plain", "weight_matched", "shrink_matched", "entropy_matched", "target_matched"), "base"),
        ),
        # the same first draws are not the same noise
        (["ablation.factors={views.level: [logit, both]}"], {}),
        # heads that are still to be trained
        ([ANGULAR + "variant: constrained}"], {"weight_matched": "plain"}),
        ([ANGULAR + "variant: paper}", "method=[kd, dkd, crd]"], {"weight_matched": "plain"}),
        ([ANGULAR + "variant: constrained, train_heads: joint}"], {"weight_matched": "plain"}),
        ([ANGULAR + "variant: constrained}", "method=[kd, reviewkd]"], {"weight_matched": "plain"}),
        ([ANGULAR + "variant: released}"], {}),
        ([ANGULAR + "variant: released}", "method=crd"], {}),
        # which a method of relations between images does not see
        ([ANGULAR + "variant: released}", "method=rkd"], {"weight_matched": "plain"}),
        (["views=sakd_style"], {"weight_matched": "plain"}),
        # heads that are never trained are known, and are not the teacher
        ([FROZEN + "}"], {"weight_matched": "plain", "target_matched": "entropy_matched"}),
    ],
)
def test_cells_are_merged_where_their_targets_are_the_same(
    tmp_path: Path, overrides: list[str], expected: dict[str, str]
) -> None:
    has_shrink = "shrink: 0" not in str(overrides) and "angular" not in str(overrides) and "sakd" not in str(overrides)
    study = loaded(tmp_path, *overrides)
    found, _ = measured(study)
    assert study.cell_plan is not None
    names = [cell.name for cell in study.cell_plan.cells]
    assert ("shrink_matched" in names) is has_shrink, "without a shrink it is weight_matched by its settings"
    assert merged(found.plan) == {name: kept for name, kept in expected.items() if name in names}
    assert [cell.name for cell in found.plan.cells] == [name for name in names if name not in expected]
    assert len(found.lines) == len(merged(found.plan))
    for cell in found.plan.cells:
        for name in cell.stands_for:
            (line,) = (line for line in found.lines if line.startswith(f"{name}: "))
            assert line.startswith(
                f"{name}: the same targets and weights as {cell.name} on 32 real images (largest difference "
            )
            assert line.endswith(" of a gradient's length); trained once") and line in cell.merged


@pytest.mark.usefixtures("few_images")
def test_what_trains_otherwise_is_never_merged(tmp_path: Path) -> None:
    arms = {
        "views": "{views: {name: none}}", "ce_weight": "{training.ce_weight: 0.5}",
        "student": "{student.network: resnet8}", "temperature": "{method.kd.temperature: 2}",
        "dkd": "{method: {name: dkd}}",
    }  # fmt: skip
    listed = ", ".join(f"{name}: {changes}" for name, changes in arms.items())
    found, _ = measured(
        loaded(tmp_path, "views={name: tekap, level: feature}", "ablation={design: arms, arms: {" + listed + "}, "
               "controls: [student_only, independent, step_matched], seeds: [0, 1]}")
    )  # fmt: skip
    assert merged(found.plan) == {"views": "base", "step_matched": "base"}, "no warm-up, no further steps"
    assert [cell.name for cell in found.plan.cells] == [
        "base", "ce_weight", "student", "temperature", "dkd", "student_only", "independent",
    ]  # fmt: skip


@pytest.mark.usefixtures("few_images")
def test_merged_cells_leave_no_gradient_factor(tmp_path: Path) -> None:
    controls = "ablation.controls=[plain, weight_matched, shrink_matched, entropy_matched, target_matched, replica]"
    found, taught = measured(loaded(tmp_path, SUMS_TO_1 + "}", controls))
    assert "replica" not in taught and found.plan.cells[-1].name == "replica"
    assert set(found.factors) == {"base", "lr=0.1", "shrink_matched", "entropy_matched", "target_matched"}
    assert taught["weight_matched"].factors["kd"] == pytest.approx(1.0, abs=1e-6)
    assert taught["base"].pulls is None and taught["lr=0.1"].pulls is None, "noise is drawn anew"


# ----------------------------------------------------------------------------------------------------- who is kept


def cell(name: str, views: str = "tekap", role: str = "ablation") -> Cell:
    settings = {"data": {"name": "digits"}, "teacher": {"network": "resnet20"}, "views": {"name": views},
                "student": {"network": "resnet8"}, "method": [{"name": "kd"}], "training": {"epochs": 2}}  # fmt: skip
    return Cell(name, role, f"{views}/kd", settings)


def taught_as(**places: float) -> dict[str, Taught]:
    return {name: Taught({}, ({"kd": torch.tensor([1.0, place])},)) for name, place in places.items()}


CELLS = (cell("base"), cell("less"), cell("matched", "random", "control"), cell("plain", "none", "control"))


@pytest.mark.parametrize(
    ("reference", "places", "expected"),
    [
        ("base", {"matched": 1, "plain": 1}, {"plain": ("matched",)}),
        ("matched", {"matched": 1, "plain": 1}, {"matched": ("plain",)}),
        ("base", {"base": 1, "plain": 1}, {"base": ("plain",)}),
        ("plain", {"base": 1, "plain": 1}, {"plain": ("base",)}),
        ("base", {"less": 1, "matched": 1}, {"less": ("matched",)}),
        ("base", {"base": 1, "less": 2, "matched": 1, "plain": 2}, {"base": ("matched",), "plain": ("less",)}),
        ("base", {"base": 1, "less": 1.001, "plain": 3}, {}),
    ],
)
def test_reference_base_and_plain_stand_for_others(
    reference: str, places: dict[str, float], expected: dict[str, tuple[str, ...]]
) -> None:
    found = measured_plan(CellPlan(CELLS, reference), taught_as(**places), 256).plan
    assert {cell.name: cell.stands_for for cell in found.cells if cell.stands_for} == expected
    gone = [name for names in expected.values() for name in names]
    assert [cell.name for cell in found.cells] == [cell.name for cell in CELLS if cell.name not in gone]
    assert found.reference == reference and found.reference in [cell.name for cell in found.cells]


def test_families_name_the_cell_that_is_trained() -> None:
    found = measured_plan(CellPlan(CELLS, "base"), taught_as(matched=1, plain=1), 256).plan
    assert found.families([["less", "matched", "plain"], ["matched"]]) == [["less", "plain"], ["plain"]]
    assert found.families(None) is None


def test_a_replica_repeats_the_cell_that_is_trained() -> None:
    again = Cell(**{**vars(cell("replica", role="control")), "replica_of": "base"})
    found = measured_plan(CellPlan((*CELLS, again), "plain"), taught_as(base=1, plain=1), 256).plan
    assert [(cell.name, cell.replica_of) for cell in found.cells] == [
        ("less", None), ("matched", None), ("plain", None), ("replica", "plain"),
    ]  # fmt: skip


def test_what_was_merged_before_is_carried_on() -> None:
    cells = (cell("base"), Cell(**{**vars(cell("less")), "merged": ("as before",)}))
    (kept,) = measured_plan(CellPlan(cells, "base"), taught_as(base=1, less=1), 256).plan.cells
    assert len(kept.merged) == 2 and kept.merged[1] == "as before"
