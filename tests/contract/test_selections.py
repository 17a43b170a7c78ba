"""The same checks over every registered selection, with all methods and views; a new one is tested by existing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from akdtune.columns import declaration
from akdtune.registry import lookup, may_draw, name_of, names, typed
from akdtune.selections import SELECTED, Selection, kept_of
from akdtune.settings.trial import misfits, pair_problem
from akdtune.signals import UNLABELLED, Signals
from akdtune.training.objective import SELECTION, Objective
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, batch

SETTINGS: list[dict[str, Any]] = [
    *({"name": name} for name in names("selections") if name != "none"),
    {"name": "random", "of": {"name": "correct_only"}},
    {"name": "confidence", "threshold": 0.7},
]
every_selection = pytest.mark.parametrize("given", SETTINGS, ids=lambda given: "-".join(map(str, given.values())))
TEACHER = {"network": "resnet8x4", "others": [{"network": "resnet8x4"}]}


def selection(given: dict[str, Any]) -> Selection:
    built: Selection = lookup("selections", given["name"])(typed("selections", given))
    return built


def said(seed: int, dim: int, requires_grad: bool = False) -> Signals:
    """Signals with answers, of which teacher and student often agree."""
    whole = small_world.signals(seed, dim, requires_grad=requires_grad)
    with torch.no_grad():
        whole.logits_BK[torch.arange(0, 9, 2), batch().labels_B[::2]] += 6
    return replace(whole, answers_BJK=torch.stack([whole.logits_BK.detach()] * 2, dim=1))


@every_selection
def test_every_selection_with_every_method_and_view(given: dict[str, Any]) -> None:
    chosen, refused, worked = selection(given), 0, 0
    methods = {name: small_world.method(name) for name in names("methods")}
    views = {name: small_world.views(name) for name in names("views") if not lookup("views", name).of_clients}
    student, teacher, now = said(1, STUDENT_DIM), said(2, TEACHER_DIM), batch()
    for method, built in methods.items():
        for view, of_view in views.items():
            settings = {"views": {"name": view}, "method": [{"name": method}], "selection": given}
            texts = [text for _, text in misfits(settings, {"teacher": TEACHER})]
            issues = [text for text in texts if "the selection" in text or "which rows are distilled" in text]
            component = lookup("methods", method)
            if component.overlaps_batches or component.replaces_logits or component.consumes == "self":
                assert any(f"'{method}'" in text and f"'{given['name']}'" in text for text in issues), (method, view)
                refused += 1
            elif pair_problem(view, method) is None:
                assert not issues, issues
                loss = Objective({method: built}, of_view, 0.5, chosen).train()(student, teacher, now)
                built.after_step()
                assert torch.isfinite(loss.total), (method, view)
                assert 0 <= float(loss.measured[SELECTED]) <= 1
                worked += 1
    assert refused and worked > 100


@every_selection
def test_rows_are_ascending_and_depend_on_the_batch_alone(given: dict[str, Any]) -> None:
    chosen, student, teacher, now = selection(given), said(1, STUDENT_DIM), said(2, TEACHER_DIM), batch()
    found = chosen.select(student, teacher, now)
    rows = found.rows_R.tolist()
    assert found.rows_R.dtype == torch.int64
    assert rows == sorted(set(rows)) and all(0 <= row < 9 for row in rows)
    share = chosen.share_of(typed("selections", given))
    assert share is None or len(rows) == kept_of(share, 9) == 4
    assert chosen.capturable is (share is not None)
    again = selection(given).select(student, teacher, batch())
    assert again.rows_R.tolist() == rows
    for column in (SELECTED, *found.measured):
        assert declaration(column, chosen.columns) is not None, column
    assert all(value.ndim == 0 and torch.isfinite(value) for value in found.measured.values())


@every_selection
def test_what_is_declared_is_read(given: dict[str, Any]) -> None:
    """Whoever does not need a teacher works without; who reads no labels chooses the same whatever they are."""
    chosen, student, teacher, now = selection(given), said(1, STUDENT_DIM), said(2, TEACHER_DIM), batch()
    inside = chosen.inside(typed("selections", given))
    if not chosen.needs_teacher and inside is None:
        assert len(chosen.select(student, None, now).rows_R)
    if not chosen.needs_others:
        alone = replace(teacher, others=())
        assert torch.equal(
            chosen.select(student, alone, batch()).rows_R, chosen.select(student, teacher, batch()).rows_R
        )
    other = replace(batch(), labels_B=(now.labels_B + 1) % small_world.CLASSES)
    same = len(chosen.select(student, teacher, other).rows_R) == len(chosen.select(student, teacher, batch()).rows_R)
    reads = chosen.reads_labels or (inside is not None and lookup("selections", str(inside["name"])).reads_labels)
    assert same is not reads
    state = now.generator.get_state()
    chosen.select(student, teacher, now)
    drew = not torch.equal(now.generator.get_state(), state)
    assert drew is may_draw("selections", given["name"], typed("selections", given))


@every_selection
def test_a_selection_has_a_stream_of_its_own(given: dict[str, Any]) -> None:
    tekap = small_world.views("tekap")
    plain = Objective({"kd": small_world.method("kd")}, tekap, 0.5)
    selecting = Objective({"kd": small_world.method("kd")}, tekap, 0.5, selection(given))
    assert [*plain.streams, SELECTION] == list(selecting.streams)
    values = []
    for whole in (plain, selecting):
        streams = tuple((name, torch.Generator().manual_seed(place)) for place, name in enumerate(whole.streams))
        now = replace(batch(), streams=streams)
        whole(said(1, STUDENT_DIM), said(2, TEACHER_DIM), now)
        values.append([dict(streams)[name].get_state() for name in plain.streams])
    assert all(torch.equal(one, other) for one, other in zip(*values, strict=True))


@pytest.mark.parametrize(
    "method",
    [
        name
        for name in names("methods")
        if (of := lookup("methods", name)).consumes != "self" and not of.replaces_logits
    ],
)
def test_the_whole_batch_is_no_selection_to_the_last_bit(method: str) -> None:
    losses = []
    for given in (None, {"name": "gap", "share": 1.0}, {"name": "random", "share": 1.0}):
        chosen = None if given is None else selection(given)
        whole = Objective({method: small_world.method(method)}, small_world.views("none"), 0.5, chosen).train()
        student = said(1, STUDENT_DIM, requires_grad=True)
        loss = whole(student, said(2, TEACHER_DIM), batch())
        loss.total.backward()
        pulls = [leaf.grad for leaf in (student.logits_BK, student.pooled_BC) if leaf.grad is not None]
        losses.append([loss.total, *loss.terms.values(), *pulls])
    for other in losses[1:]:
        assert all(torch.equal(one, same) for one, same in zip(losses[0], other, strict=True))


def test_all_rows_are_no_selection() -> None:
    none = lookup("selections", "none")(typed("selections", "none"))
    whole = Objective({"kd": small_world.method("kd")}, small_world.views("none"), 0.5, none)
    assert whole.selection is None
    assert not whole(said(1, STUDENT_DIM), said(2, TEACHER_DIM), batch()).measured
    assert not whole.columns


@every_selection
def test_a_kept_row_pulls_as_hard_as_without_a_selection(given: dict[str, Any]) -> None:
    pulls = []
    for chosen in (None, selection(given)):
        whole = Objective({"kd": small_world.method("kd")}, small_world.views("none"), 0.0, chosen)
        student = said(1, STUDENT_DIM, requires_grad=True)
        whole(student, said(2, TEACHER_DIM), batch()).total.backward()
        assert student.logits_BK.grad is not None
        pulls.append(student.logits_BK.grad)
    kept_R = selection(given).select(said(1, STUDENT_DIM), said(2, TEACHER_DIM), batch()).rows_R
    left_out = [row for row in range(9) if row not in kept_R.tolist()]
    torch.testing.assert_close(pulls[1][kept_R], pulls[0][kept_R])
    assert not pulls[1][left_out].any()


def test_cross_entropy_and_penalties_are_those_of_all_rows() -> None:
    angular = small_world.views("angular", dropout=0.0, train_heads="both")
    plain, selecting = (
        Objective({"kd": small_world.method("kd")}, angular, 0.5, chosen)(
            said(1, STUDENT_DIM), said(2, TEACHER_DIM), batch()
        ).terms
        for chosen in (None, selection({"name": "random"}))
    )
    assert not torch.equal(plain["kd"], selecting["kd"])
    others = [name for name in plain if name != "kd"]
    assert len(others) > 2
    assert all(torch.equal(plain[name], selecting[name]) for name in others)


def test_methods_that_read_labels_get_kept_rows_that_have_one() -> None:
    now = batch()
    labels_B = now.labels_B.clone()
    labels_B[[0, 3, 4]] = UNLABELLED
    now = replace(now, labels_B=labels_B, labelled_B=labels_B != UNLABELLED)
    student, teacher = said(1, STUDENT_DIM), said(2, TEACHER_DIM)
    chosen = selection({"name": "disagreement", "share": 0.6})
    kept = chosen.select(student, teacher, now).rows_R.tolist()
    rows_R = torch.tensor([row for row in kept if row not in (0, 3, 4)])
    assert 0 < len(rows_R) < len(kept) < 9
    whole = Objective({"dkd": small_world.method("dkd")}, small_world.views("none"), 0.0, chosen)
    loss = whole(student, teacher, now)
    alone = Objective({"dkd": small_world.method("dkd")}, small_world.views("none"), 0.0)(
        student.rows(rows_R), teacher.rows(rows_R), replace(now.rows(rows_R), labelled_B=None)
    )
    torch.testing.assert_close(loss.terms["dkd.tckd"], alone.terms["dkd.tckd"])
    torch.testing.assert_close(loss.total, alone.total * len(rows_R) / 6)


def test_a_batch_without_a_kept_row_costs_the_cross_entropy_alone() -> None:
    teacher = said(2, TEACHER_DIM)
    wrong = replace(teacher, logits_BK=-50.0 * torch.nn.functional.one_hot(batch().labels_B, small_world.CLASSES))
    for given in ({"name": "correct_only"}, {"name": "random", "of": "correct_only"}):
        whole = Objective({"dkd": small_world.method("dkd")}, small_world.views("none"), 0.5, selection(given))
        student = said(1, STUDENT_DIM, requires_grad=True)
        loss = whole(student, wrong, batch())
        loss.total.backward()
        torch.testing.assert_close(loss.total, 0.5 * loss.terms["ce"])
        assert float(loss.measured[SELECTED]) == 0
        assert not any(value.detach() for name, value in loss.terms.items() if name != "ce")


def test_names() -> None:
    for name in names("selections"):
        component = lookup("selections", name)
        assert name_of(component) == name
        assert component.source and component.__doc__
