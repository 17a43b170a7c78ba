"""One teacher for each row: every policy typed anew, where rewards come from, what is learned."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from akdtune.errors import AkdtuneError
from akdtune.signals import UNLABELLED, Batch, Signals, Teaching
from akdtune.views.selector import Selector, SelectorSettings
from tests import small_world
from tests.small_world import CLASSES, STUDENT_DIM, TEACHER_DIM, signals

LABELS_B = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])
POLICIES = ("exact", "reinforce", "random", "entropy", "best", "oracle")


def selector(others: tuple[int, ...] = (TEACHER_DIM, 10), **settings: Any) -> Selector:
    context = replace(small_world.view_context(), others_dims=others)
    return Selector(SelectorSettings(**settings), context).train()


def three(seed: int = 2) -> Signals:
    """A main teacher, one of its width and a narrower one."""
    teacher = signals(seed, TEACHER_DIM)
    others = signals(seed + 10, TEACHER_DIM), signals(seed + 20, 10)
    return replace(teacher, others=others, strong=None)


def batch(**attributes: Any) -> Batch:
    return Batch.of(**{"labels_B": LABELS_B, "right_labels_B": LABELS_B, **attributes})


def taught(views: Selector, teacher: Signals, **attributes: Any) -> Teaching:
    return views.teach(teacher, signals(1, STUDENT_DIM), batch(**attributes))


def logits_BMK(teacher: Signals) -> Tensor:
    return torch.stack([one.logits_BK for one in (teacher, *teacher.others)], dim=1)


def weights_BM(teaching: Teaching) -> Tensor:
    (only,) = teaching.logit_targets
    assert only.weight == 1
    return only.target.weights_M


@pytest.mark.parametrize("policy", POLICIES)
def test_each_row_has_a_mixture_of_its_own(policy: str) -> None:
    teaching = taught(selector(policy=policy), three())
    torch.testing.assert_close(weights_BM(teaching).sum(dim=1), torch.ones(9))
    if policy != "exact":
        assert set(weights_BM(teaching).flatten().tolist()) == {0.0, 1.0}
    (pooled,) = teaching.pooled_targets
    torch.testing.assert_close(pooled.target.weights_M.sum(dim=1), torch.ones(9))
    assert pooled.target.pooled_BMC.shape == (9, 2, TEACHER_DIM)
    assert not teaching.logit_targets[0].target.weights_M.requires_grad


def test_the_surest_teacher() -> None:
    teacher = three()
    p_BMK = logits_BMK(teacher).double().softmax(dim=-1)
    surest = [min(range(3), key=lambda m: float(-(p * p.log()).sum(dim=-1)[m])) for p in p_BMK]
    assert weights_BM(taught(selector(policy="entropy"), teacher)).argmax(dim=1).tolist() == surest
    assert len(set(surest)) > 1


def test_the_oracle_takes_the_surest_of_those_who_are_right_else_the_least_wrong() -> None:
    teacher = three()
    wrong_B = (LABELS_B + 1) % CLASSES
    expected = []
    for row, label in zip(logits_BMK(teacher).double().softmax(dim=-1), LABELS_B.tolist(), strict=True):
        right = [m for m in range(3) if int(row[m].argmax()) == label] or list(range(3))
        expected.append(max(right, key=lambda m: float(row[m, label])))
    views = selector(policy="oracle")
    found = [taught(views, teacher, labels_B=given) for given in (LABELS_B, wrong_B)]
    for teaching in found:  # by the right labels, whatever a student is told
        assert weights_BM(teaching).argmax(dim=1).tolist() == expected
    assert views.reads_right_labels and not selector(policy="exact").reads_right_labels


def test_the_oracle_alone_is_given_right_labels_and_needs_them() -> None:
    with pytest.raises(AkdtuneError, match="the policy oracle reads the right labels: give the batch right_labels_B"):
        taught(selector(policy="oracle"), three(), right_labels_B=None)
    for policy in POLICIES[:-1]:
        both = [taught(selector(policy=policy), three(), right_labels_B=given) for given in (None, LABELS_B)]
        assert torch.equal(*map(weights_BM, both))


def right_of(teacher: Signals, rows: list[int]) -> list[int]:
    """How often each teacher is right on some rows."""
    said_BM = logits_BMK(teacher).argmax(dim=-1)
    return [sum(int(said_BM[row, m]) == int(LABELS_B[row]) for row in rows) for m in range(3)]


def knowing(member: int, rows: list[int], seed: int = 2) -> Signals:
    """Three teachers of whom one knows the labels of some rows, and the main one those of all others."""
    teacher = three(seed)
    all_of = [teacher, *teacher.others]
    for m in range(3):
        logits_BK = torch.zeros_like(all_of[m].logits_BK)
        for row in range(9):
            knows = m == member if row in rows else m == 0
            logits_BK[row, int(LABELS_B[row]) if knows else (int(LABELS_B[row]) + 1) % CLASSES] = 4.0
        all_of[m] = replace(all_of[m], logits_BK=logits_BK)
    return replace(all_of[0], others=tuple(all_of[1:]))


UNTAUGHT_B = torch.tensor([False] * 6 + [True] * 3)


def test_the_best_teacher_is_best_on_labels_that_no_teacher_was_told() -> None:
    teacher = knowing(2, [6, 7, 8])
    assert right_of(teacher, list(range(9))) == [6, 0, 3] and right_of(teacher, [6, 7, 8]) == [0, 0, 3]
    views = selector(policy="best")
    assert weights_BM(taught(views, teacher, untaught_B=UNTAUGHT_B)).argmax(dim=1).tolist() == [2] * 9
    assert views.right_M.tolist() == [0, 0, 3]
    assert weights_BM(taught(selector(policy="best"), teacher)).argmax(dim=1).tolist() == [0] * 9
    unlabelled_B = torch.where(UNTAUGHT_B, LABELS_B, UNLABELLED)
    assert weights_BM(taught(selector(policy="best"), teacher, labels_B=unlabelled_B)).argmax(dim=1).tolist() == [2] * 9


def test_the_best_teacher_is_counted_over_batches_in_training_alone_and_stays_in_the_state() -> None:
    views, teacher = selector(policy="best"), knowing(2, [6, 7, 8])
    taught(views, teacher, untaught_B=UNTAUGHT_B)
    taught(views, teacher, untaught_B=UNTAUGHT_B)
    assert views.right_M.tolist() == [0, 0, 6] and set(views.state_dict()) == {"right_M"}
    taught(views.eval(), teacher)
    assert views.right_M.tolist() == [0, 0, 6]


def test_the_expected_reward_and_its_gradient() -> None:
    views, teacher = selector(policy="exact", least_probability=0.05), three()
    teaching = taught(views, teacher, untaught_B=UNTAUGHT_B)
    policy_BM = weights_BM(teaching)
    p_BM = torch.stack([p[:, label] for p, label in zip(logits_BMK(teacher).softmax(-1), LABELS_B, strict=True)])
    rewards_BM = p_BM.log().clamp(min=math.log(0.05))
    expected = -(policy_BM * rewards_BM).sum(dim=1)[6:].mean()
    torch.testing.assert_close(teaching.penalties["policy"].detach(), expected)
    torch.testing.assert_close(
        teaching.penalties["entropy"].detach(), (policy_BM * policy_BM.log()).sum(dim=1)[6:].mean()
    )
    assert dict(views.penalty_weights()) == {"policy": 1.0, "entropy": 0.01} and views.trains_jointly
    gradient = torch.autograd.grad(teaching.penalties["policy"], views.choice.bias)[0]
    # d/d logit_n of sum_m pi_m r_m is pi_n (r_n - sum_m pi_m r_m)
    advantage_BM = rewards_BM - (policy_BM * rewards_BM).sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradient, -(policy_BM * advantage_BM)[6:].mean(dim=0))


def test_reinforce_rewards_the_drawn_teacher_against_the_mean() -> None:
    views, teacher = selector(policy="reinforce"), three()
    teaching = taught(views, teacher, untaught_B=UNTAUGHT_B)
    drawn_B = weights_BM(teaching).argmax(dim=1)
    log_policy_BM = views._log_policy_BM(logits_BMK(teacher), signals(1, STUDENT_DIM)).detach()
    p_BMK = logits_BMK(teacher).log_softmax(-1)
    got = [max(float(p_BMK[b, drawn_B[b], LABELS_B[b]]), math.log(0.05)) for b in (6, 7, 8)]
    terms = [float(log_policy_BM[b, drawn_B[b]]) * (of - sum(got) / 3) for b, of in zip((6, 7, 8), got, strict=True)]
    assert float(teaching.penalties["policy"].detach()) == pytest.approx(-sum(terms) / 3, rel=1e-5)


@pytest.mark.parametrize("policy", ["exact", "reinforce"])
def test_a_learned_policy_finds_who_knows_what(policy: str) -> None:
    """Teacher 1 knows rows 0 to 4 and is sure of them, teacher 2 the others; rewards come from every row."""
    teacher = three()
    logits = [torch.zeros(9, CLASSES) for _ in range(3)]
    for row, label in enumerate(LABELS_B.tolist()):
        logits[1 if row < 5 else 2][row, label] = 5.0
        logits[2 if row < 5 else 1][row, (label + 1) % CLASSES] = 2.0
    members = [replace(one, logits_BK=own) for one, own in zip((teacher, *teacher.others), logits, strict=True)]
    teacher = replace(members[0], others=tuple(members[1:]))
    views = selector(policy=policy, hidden=16)
    optimizer = torch.optim.AdamW(views.parameters(), lr=0.02)
    student = signals(1, STUDENT_DIM)
    for epoch in range(150):
        teaching = views.teach(teacher, student, batch(seed=epoch))
        weights = views.penalty_weights()
        optimizer.zero_grad()
        sum(weights[name] * value for name, value in teaching.penalties.items()).backward()  # type: ignore[union-attr]
        optimizer.step()
    target = views.eval().evaluation_target(teacher, views.views(teacher, torch.Generator(), student))
    assert target.weights_M.argmax(dim=1).tolist() == [1] * 5 + [2] * 4
    assert torch.equal(target.log_probabilities_BK(1.0).argmax(dim=1), LABELS_B)


def test_a_batch_without_any_reward_costs_nothing() -> None:
    nobody_B = torch.zeros(9, dtype=torch.bool)
    for policy in ("exact", "reinforce"):
        teaching = taught(selector(policy=policy), three(), untaught_B=nobody_B)
        assert [float(value.detach()) for value in teaching.penalties.values()] == [0.0, 0.0]


def test_rows_without_a_label_are_taught_and_reward_nobody() -> None:
    labels_B = torch.where(UNTAUGHT_B, LABELS_B, UNLABELLED)
    for policy in POLICIES:
        one, other = (
            taught(selector(policy=policy), three(), labels_B=given, labelled_B=UNTAUGHT_B)
            for given in (labels_B, LABELS_B)
        )
        assert torch.equal(weights_BM(one), weights_BM(other))
        assert one.penalties.keys() == other.penalties.keys()
        assert all(torch.equal(one.penalties[name], other.penalties[name]) for name in one.penalties)


@pytest.mark.parametrize("policy", POLICIES)
def test_evaluation_knows_no_labels(policy: str) -> None:
    views, teacher, student = selector(policy=policy), three(), signals(1, STUDENT_DIM)
    trained = weights_BM(views.teach(teacher, student, batch()))
    seen = views.eval().views(teacher, torch.Generator(), student)
    assert seen.num_views == 2
    weights = views.evaluation_target(teacher, seen).weights_M
    if policy in ("random", "oracle"):
        assert torch.equal(weights, torch.full((9, 3), 1 / 3))
    elif policy == "reinforce":
        assert not set(weights.flatten().tolist()) <= {0.0, 1.0}
    else:
        torch.testing.assert_close(weights, trained)


def test_who_draws_and_who_learns() -> None:
    for policy in POLICIES:
        settings = SelectorSettings(policy=policy)  # type: ignore[arg-type]
        learned = policy in ("exact", "reinforce")
        assert Selector.draws(settings) is (policy in ("random", "reinforce"))
        assert bool(list(selector(policy=policy).parameters())) is learned
        assert bool(settings.idle()) is not learned
        seeds = [weights_BM(taught(selector(policy=policy), three(), seed=seed)) for seed in (0, 1)]
        assert torch.equal(*seeds) is not Selector.draws(settings)


def test_features_go_to_the_main_teacher_where_only_narrower_ones_are_chosen() -> None:
    teacher = knowing(2, list(range(9)))  # the third is as narrow as no other
    views = selector(policy="oracle")
    teaching = taught(views, teacher)
    assert weights_BM(teaching).argmax(dim=1).tolist() == [2] * 9
    (pooled,) = teaching.pooled_targets
    assert torch.equal(pooled.target.pooled_BC, teacher.pooled_BC)
    same = taught(views, knowing(1, [0, 1]))
    chosen = same.pooled_targets[0].target.pooled_BC
    assert torch.equal(chosen[:2], knowing(1, [0, 1]).others[0].pooled_BC[:2])


def test_columns_say_how_much_of_each_teacher_was_chosen() -> None:
    views = selector(policy="oracle")
    assert views.measures() == {}
    taught(views, knowing(2, [6, 7, 8]), untaught_B=UNTAUGHT_B)
    taught(views, knowing(1, list(range(9))), untaught_B=UNTAUGHT_B)
    found = views.measures()
    assert found == pytest.approx({"selected_1": 6 / 18, "selected_2": 9 / 18, "selected_3": 3 / 18, "rewarded": 1 / 3})
    assert views.measures() == {}


def test_one_teacher_and_wrong_settings_are_refused() -> None:
    with pytest.raises(AkdtuneError, match=r"views\.name: selector needs further teachers"):
        selector(others=())
    for settings in ({"policy": "ppo"}, {"hidden": 0}, {"least_probability": 0.0}, {"least_probability": 1.0}):
        with pytest.raises(ValidationError):
            SelectorSettings(**settings)  # type: ignore[arg-type]
