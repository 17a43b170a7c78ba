"""Clients as teachers: one target of logits, one of features for each architecture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from akdtune.errors import AkdtuneError
from akdtune.signals import Signals
from akdtune.views.clients import Clients
from tests.small_world import CPU, STUDENT_DIM, batch, signals, view_context

ALIKE = (0, 1, 0)
WIDTHS = (4, 6, 4)


def clients_views(**settings: object) -> Clients:
    context = replace(view_context(), others_dims=WIDTHS, others_alike=ALIKE)
    return Clients(Clients.Settings(**settings), context)


def said() -> Signals:
    generator = torch.Generator(CPU).manual_seed(0)
    others = [Signals(torch.randn(9, 7, generator=generator), torch.randn(9, w, generator=generator)) for w in WIDTHS]
    return Signals.of(torch.zeros(9, 7), others=others)


def test_features_are_a_target_for_each_architecture() -> None:
    views, teacher = clients_views(), said()
    teaching = views.teach(teacher, signals(1, STUDENT_DIM), batch())
    assert views.pooled_dims == (4, 6)
    first, second = teaching.pooled_targets
    assert (first.weight, second.weight) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (first.target.place, second.target.place) == (0, 1)
    mean_BC = (teacher.others[0].pooled_BC + teacher.others[2].pooled_BC) / 2
    torch.testing.assert_close(first.target.pooled_BC, mean_BC)
    torch.testing.assert_close(second.target.pooled_BC, teacher.others[1].pooled_BC)


def test_logits_are_one_target_in_either_way() -> None:
    teacher = said()
    all_MBK = torch.stack([other.logits_BK for other in teacher.others])
    expected = {"mean_logits": (all_MBK.mean(0) / 2).softmax(1), "mean_probabilities": (all_MBK / 2).softmax(2).mean(0)}
    for way, probabilities_BK in expected.items():
        teaching = clients_views(logits=way).teach(teacher, signals(1, STUDENT_DIM), batch())
        (only,) = teaching.logit_targets
        assert only.weight == 1.0
        torch.testing.assert_close(only.target.probabilities_BK(2.0), probabilities_BK)


def test_without_clients_they_are_refused() -> None:
    with pytest.raises(AkdtuneError, match="clients needs clients: task federated has them"):
        Clients(Clients.Settings(), replace(view_context(), others_dims=()))
