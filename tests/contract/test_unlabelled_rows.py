"""Rows without a label: methods that read labels never see them, and nothing counts them as if they had one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.methods import Method
from akdtune.registry import lookup, names
from akdtune.settings.trial import pair_problem
from akdtune.signals import UNLABELLED, Batch, Signals
from akdtune.training.objective import Loss, Objective
from tests import small_world
from tests.small_world import CLASSES, LABELS_N, STUDENT_DIM, TEACHER_DIM, signals

METHODS = names("methods")
READERS = [name for name in METHODS if lookup("methods", name).reads_labels]
every_method = pytest.mark.parametrize("name", METHODS)

KNOWN_N = torch.arange(small_world.IMAGES) % 3 != 1
"""Which images of the training set have a label."""


def built(name: str, labels_N: Tensor) -> Method:
    component = lookup("methods", name)
    method: Method = component(component.Settings(), small_world.method_context(train_labels_N=labels_N))
    return method


def objective(name: str, labels_N: Tensor, view: str = "none", **settings: Any) -> Objective:
    return Objective({name: built(name, labels_N)}, small_world.views(view, **settings), ce_weight=0.5).train()


def batch_of(labels_N: Tensor, size: int = 9, **changes: Any) -> Batch:
    """The small world's batch with labels of this training set."""
    now = small_world.batch(size)
    return replace(now, labels_B=labels_N[now.positions_B], **changes)


def partly_labelled() -> Tensor:
    return torch.where(KNOWN_N, LABELS_N, UNLABELLED)


def told(labels_N: Tensor, size: int = 9) -> Batch:
    now = batch_of(labels_N, size)
    return replace(now, labelled_B=now.labels_B != UNLABELLED)


def student(seed: int = 1, size: int = 9) -> Signals:
    said = signals(seed, STUDENT_DIM, size, requires_grad=True)
    if said.answers_BJK is not None:
        return said
    return replace(said, answers_BJK=torch.stack([said.logits_BK.detach() * scale for scale in (0.5, 1.5)], dim=1))


def steps(whole: Objective, batches: list[Batch], picked: list[Tensor | None]) -> Loss:
    """The loss of the last batch, those before it having been learnt from; of some rows where so asked."""
    for seed, (batch, rows_B) in enumerate(zip(batches, picked, strict=True)):
        said, teacher = student(10 * seed + 1, len(batch.labels_B)), signals(2, TEACHER_DIM, len(batch.labels_B))
        if rows_B is not None:
            said, teacher, batch = said.rows(rows_B), teacher.rows(rows_B), replace(batch.rows(rows_B), labelled_B=None)
        loss: Loss = whole(said, teacher, batch)
        whole.after_step()
    return loss


@every_method
def test_methods_say_truly_whether_they_read_labels(name: str) -> None:
    values = []
    for labels_N in (LABELS_N, (LABELS_N + 1 + LABELS_N % 2) % CLASSES):
        whole = objective(name, labels_N)
        now = batch_of(labels_N, generator=torch.Generator().manual_seed(1))
        if whole.overlaps_batches:
            whole(student(3), signals(2, TEACHER_DIM), now)
            whole.after_step()
            now = replace(now, repeated=9)
        pooled_BC = torch.rand(9, STUDENT_DIM, generator=torch.Generator().manual_seed(4), requires_grad=True)
        weight_KC = torch.randn(CLASSES, STUDENT_DIM, generator=torch.Generator().manual_seed(5))
        said = replace(student(), pooled_BC=pooled_BC, logits_BK=pooled_BC @ weight_KC.T)
        terms = whole(said, signals(2, TEACHER_DIM), now).terms
        values.append({term: value.detach() for term, value in terms.items() if term != "ce"})
    same = all(torch.equal(values[0][term], values[1][term]) for term in values[0])
    assert same is not lookup("methods", name).reads_labels


@every_method
def test_the_total_is_that_of_the_labelled_rows(name: str) -> None:
    labels_N = partly_labelled()
    now, whole = told(labels_N), objective(name, labels_N)
    batches = [now, replace(now, repeated=5)] if whole.overlaps_batches else [now]
    loss = steps(whole, batches, [None] * len(batches))
    assert torch.isfinite(loss.total)
    loss.total.backward()
    rows_B = now.labelled_B.nonzero().squeeze(1) if now.labelled_B is not None else None
    alone = steps(objective(name, labels_N), batches, [rows_B] * len(batches))
    if not lookup("methods", name).replaces_logits:  # whose BatchNorms know all rows
        assert torch.equal(loss.terms["ce"], alone.terms["ce"])
    if lookup("methods", name).reads_labels:
        assert loss.terms.keys() == alone.terms.keys()
        for term, value in loss.terms.items():
            torch.testing.assert_close(value, alone.terms[term], rtol=0, atol=0)
        assert torch.equal(loss.total, alone.total)
    else:
        every = steps(
            objective(name, labels_N), [batch_of(LABELS_N, repeated=b.repeated) for b in batches], [None] * len(batches)
        )
        assert all(torch.equal(value, every.terms[term]) for term, value in loss.terms.items() if term != "ce")


@pytest.mark.parametrize("view", [name for name in names("views") if not lookup("views", name).of_clients])
def test_views_do_with_unlabelled_rows(view: str) -> None:
    for name in METHODS:
        if pair_problem(view, name) is None:
            labels_N = partly_labelled()
            whole = objective(name, labels_N, view)
            assert torch.isfinite(whole(student(), signals(2, TEACHER_DIM), told(labels_N)).total), name


@every_method
def test_a_batch_without_any_label_costs_nothing_and_pulls_nowhere(name: str) -> None:
    labels_N = torch.full_like(LABELS_N, UNLABELLED)
    given = LABELS_N if name == "crd" else labels_N  # a training set without any label has nothing to contrast with
    whole, said = objective(name, given), student()
    loss = whole(said, signals(2, TEACHER_DIM), told(labels_N))
    loss.total.backward()
    assert float(loss.terms["ce"].detach()) == 0
    assert said.logits_BK.grad is None or bool(torch.isfinite(said.logits_BK.grad).all())
    if lookup("methods", name).reads_labels:
        assert float(loss.total.detach()) == 0
        assert all(float(value.detach()) == 0 for value in loss.terms.values())
        assert not any(leaf.grad is not None and leaf.grad.any() for leaf in (said.logits_BK, said.pooled_BC))
    whole.after_step()


def test_views_that_read_labels_leave_unlabelled_rows_alone() -> None:
    labels_N = partly_labelled()
    now = told(labels_N)
    teacher = signals(2, TEACHER_DIM)
    angular = small_world.views("angular", dropout=0.0, train_heads="both").eval()
    rows_B = now.labels_B.ne(UNLABELLED).nonzero().squeeze(1)
    whole_B, of_labelled = (
        angular.teach(teacher, student(), now),
        angular.teach(teacher.rows(rows_B), student().rows(rows_B), replace(now.rows(rows_B), labelled_B=None)),
    )
    torch.testing.assert_close(whole_B.penalties["ground_truth"], of_labelled.penalties["ground_truth"])
    none = replace(now, labels_B=torch.full_like(now.labels_B, UNLABELLED))
    assert float(angular.teach(teacher, student(), none).penalties["ground_truth"].detach()) == 0
    several = small_world.views("multi_teacher", combination="confidence")
    (of_all,) = several.teach(teacher, student(), now).logit_targets
    (of_some,) = several.teach(teacher.rows(rows_B), student(), now.rows(rows_B)).logit_targets
    assert torch.equal(of_all.target.weights_M[rows_B], of_some.target.weights_M)
    assert torch.equal(of_all.target.weights_M[now.labels_B == UNLABELLED], torch.full((3, 3), 1 / 3))


def test_sdpgo_follows_the_gradient_of_the_rows_that_it_is_given() -> None:
    labels_N, weight_KC = (
        partly_labelled(),
        torch.randn(CLASSES, STUDENT_DIM, generator=torch.Generator().manual_seed(1)),
    )
    now = told(labels_N)
    rows_B = now.labels_B.ne(UNLABELLED).nonzero().squeeze(1)

    def said(seed: int, picked: Tensor | slice) -> Signals:
        pooled_BC = student(seed).pooled_BC.detach()[picked].requires_grad_()
        return Signals.of(pooled_BC @ weight_KC.T, pooled_BC)

    whole, alone = objective("sdpgo_style", labels_N), objective("sdpgo_style", labels_N)
    losses = []
    for built_objective, picked, batch in ((whole, slice(None), now), (alone, rows_B, now.rows(rows_B))):
        built_objective(said(1, picked), None, batch)
        built_objective.after_step()
        repeated = 5 if batch is now else int((rows_B < 5).sum())
        losses.append(built_objective(said(3, picked), None, replace(batch, repeated=repeated)))
    assert torch.equal(losses[0].terms["sdpgo_style.feature"], losses[1].terms["sdpgo_style.feature"])
    plain = (student(3).pooled_BC - student(1).pooled_BC).detach()[rows_B][: int((rows_B < 5).sum())].square().mean()
    assert not torch.isclose(losses[0].terms["sdpgo_style.feature"], plain), "channels weigh by the gradient"


def test_nobody_is_contrasted_with_an_unlabelled_row() -> None:
    labels_N = partly_labelled()
    crd = built("crd", labels_N)
    now = told(labels_N)
    rows_B = now.labels_B.ne(UNLABELLED).nonzero().squeeze(1)
    for on_host in (True, False):
        crd.draws_on_host = on_host  # type: ignore[assignment]
        negatives_BJ = crd.negatives_BJ(now.rows(rows_B))  # type: ignore[operator]
        assert negatives_BJ.shape == (len(rows_B), 24), "28 labelled images, 4 of each class"
        assert bool(KNOWN_N[negatives_BJ].all())
        assert bool((labels_N[negatives_BJ] != now.labels_B[rows_B, None]).all())
    repeating = lookup("methods", "crd")
    settings = repeating.Settings(negatives="with_replacement", num_negatives=200)
    again = repeating(settings, small_world.method_context(train_labels_N=labels_N))
    assert bool(KNOWN_N[again.negatives_BJ(now.rows(rows_B))].all())


def test_mixed_images_count_where_both_labels_are_known() -> None:
    now = told(partly_labelled())
    assert now.labelled_B is not None
    partner_B = torch.arange(9).flip(0)
    both_B = now.labelled_B & now.labelled_B[partner_B]
    labels_B = now.labels_B.masked_fill(~both_B, UNLABELLED)
    partners_B = now.labels_B[partner_B].masked_fill(~both_B, UNLABELLED)
    mixed = replace(now, labels_B=labels_B, partner_labels_B=partners_B, share=0.75, labelled_B=both_B)
    whole = objective("label_smoothing", partly_labelled())
    loss = whole(student(), None, mixed)
    log_p_BK = torch.log_softmax(student().logits_BK.detach(), dim=-1)[both_B]
    own_B, other_B = (log_p_BK.gather(1, of[both_B][:, None]).squeeze(1) for of in (labels_B, partners_B))
    torch.testing.assert_close(loss.terms["ce"].detach(), -(0.75 * own_B + 0.25 * other_B).mean())
    assert torch.isfinite(loss.total)


def test_where_all_rows_are_labelled_nothing_is_copied() -> None:
    class Looking(Method):
        reads_labels = True

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def terms(self, student: Signals, target: Any, batch: Batch) -> dict[str, Tensor]:
            self.seen = student, batch.labels_B, target.logits_BMK
            return {"a": student.logits_BK.mean()}

        def weights(self, epoch: int) -> dict[str, float]:
            return {"a": 1.0}

    looking, said, now = Looking(), student(), batch_of(LABELS_N)
    for labelled_B in (None, torch.ones(9, dtype=torch.bool)):
        Objective({"a": looking}, small_world.views("none"), 1.0)(
            said, signals(2, TEACHER_DIM), replace(now, labelled_B=labelled_B)
        )
        assert looking.seen[0] is said
        assert looking.seen[1] is now.labels_B


def test_a_notebooks_batch_knows_its_labelled_rows() -> None:
    assert Batch.of(torch.arange(4)).labelled_B is None
    labelled_B = Batch.of(torch.tensor([1, UNLABELLED, 0])).labelled_B
    assert labelled_B is not None
    assert labelled_B.tolist() == [True, False, True]


def test_rows_of_a_batch_and_of_a_target() -> None:
    now = replace(batch_of(LABELS_N), repeated=4, partner_labels_B=LABELS_N[:9])
    some = now.rows(torch.tensor([1, 3, 6]))
    assert some.labels_B.tolist() == now.labels_B[[1, 3, 6]].tolist()
    assert some.positions_B.tolist() == now.positions_B[[1, 3, 6]].tolist()
    assert some.repeated == 2
    assert some.generator is now.generator
    (target,) = (
        small_world.views("multi_teacher", combination="confidence")
        .teach(signals(2, TEACHER_DIM), student(), now)
        .logit_targets
    )
    whole = target.target.with_maps(signals(2, TEACHER_DIM))
    picked = whole.rows(torch.tensor([1, 3, 6]))
    for at in (1.0, 4.0):
        torch.testing.assert_close(picked.log_probabilities_BK(at), whole.log_probabilities_BK(at)[[1, 3, 6]])
    torch.testing.assert_close(picked.pooled_BC, whole.pooled_BC[[1, 3, 6]])
    assert picked.stages is not None
    assert picked.stages[-1].shape == (3, TEACHER_DIM, 4, 4)
