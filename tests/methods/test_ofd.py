"""OFD: margins, the partial distance, connectors, what the teacher must bring."""

from __future__ import annotations

import math

import pytest
import torch

from akdtune.errors import AkdtuneError
from akdtune.methods.ofd import OFD, margins, partial_l2
from akdtune.registry import Pair
from akdtune.signals import Target
from tests import small_world
from tests.small_world import STUDENT_DIM, TEACHER_DIM, TEACHER_STAGES, batch, method, signals


def test_margins_are_the_means_of_negative_activations() -> None:
    weight_C, bias_C = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([0.0, 0.7, -1.0, 2.0])
    draws_NC = torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0)) * weight_C + bias_C
    sampled_C = torch.where(draws_NC < 0, draws_NC, 0.0).sum(dim=0) / (draws_NC < 0).sum(dim=0)
    torch.testing.assert_close(margins(weight_C, bias_C), sampled_C, rtol=0.02, atol=0)


def test_margins_of_channels_that_are_hardly_ever_negative_or_constant() -> None:
    margin_C = margins(torch.tensor([0.5, -0.5, 0.0, 0.0, 1.0]), torch.tensor([5.0, 1.6, 1.0, -1.0, -60.0]))
    torch.testing.assert_close(margin_C, torch.tensor([-1.5, -1.5, 0.0, -1.0, -60.0]))


def test_partial_distance_one_activation_at_a_time() -> None:
    margin = -0.4
    values = [-1.0, -0.6, -0.3, -0.1, 0.0, 0.2, 0.9]
    for teacher in values:
        for student in values:
            if teacher <= margin:
                expected = (student - margin) ** 2 if student > margin else 0.0
            elif teacher <= 0:
                expected = (student - teacher) ** 2 if student > teacher else 0.0
            else:
                expected = (student - teacher) ** 2
            maps = (torch.full((1, 1, 1, 1), value) for value in (student, teacher))
            loss = partial_l2(*maps, torch.full((1, 1, 1), margin))
            assert float(loss) == pytest.approx(expected, abs=1e-6), (student, teacher)


def test_later_stages_count_twice_as_much_as_the_ones_before() -> None:
    student, teacher, ofd = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), method("ofd").eval()
    assert isinstance(ofd, OFD)
    assert student.preact_stages is not None and teacher.preact_stages is not None
    norms = small_world.method_context().teacher_norms
    losses = [
        partial_l2(connector(s), t, margins(*norm)[:, None, None])
        for connector, s, t, norm in zip(
            ofd.connectors, student.preact_stages[1:], teacher.preact_stages[1:], norms, strict=True
        )
    ]
    loss = ofd.terms(student, Target.of(teacher), batch())["ofd"]
    torch.testing.assert_close(loss, losses[0] / 2 + losses[1])
    assert ofd.weights(1) == {"ofd": 1e-3}


def test_connectors_start_with_the_published_deviation() -> None:
    context = small_world.method_context(student_stages=((4, 8, 8), (60, 8, 8)), teacher_stages=((6, 8, 8), (80, 8, 8)))
    context = small_world.replace(context, teacher_norms=((torch.ones(80), torch.zeros(80)),))
    weight = OFD(OFD.Settings(), context).connectors[0][0].weight
    assert weight.shape == (80, 60, 1, 1)
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / 80), rel=0.05)


def test_a_teacher_without_batchnorms_is_refused() -> None:
    with pytest.raises(AkdtuneError, match=r"method ofd needs the BatchNorm .* with \[8, 12\] channels, and got \[\]"):
        OFD(OFD.Settings(), small_world.method_context(teacher_norms=()))
    assert [shape[0] for shape in TEACHER_STAGES[1:]] == [8, 12]


def test_published_weight_on_imagenet() -> None:
    assert OFD.published(Pair("imagenet", "resnet50", "mobilenetv2")) == {"weight": 1e-4}
    assert OFD.published(Pair("cifar100", "resnet56", "resnet20")) == {}
