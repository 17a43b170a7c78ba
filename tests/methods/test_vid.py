"""VID: the Gaussian likelihood, learned variances."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from akdtune.methods.vid import VID, negative_log_likelihood
from akdtune.signals import Target
from tests.small_world import STUDENT_DIM, TEACHER_DIM, TEACHER_STAGES, batch, method, signals


def built(**settings: float) -> VID:
    vid = method("vid", **settings)
    assert isinstance(vid, VID)
    return vid


def test_likelihood_is_that_of_a_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, teacher = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    log_scale_C = torch.tensor([-2.0, 0.5, 30.0], dtype=torch.float64)
    variance = torch.tensor([math.log1p(math.exp(scale)) + 1e-5 for scale in log_scale_C.tolist()])
    gaussian = torch.distributions.Normal(predicted, variance.double().sqrt()[:, None, None])
    expected = -gaussian.log_prob(teacher).mean() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(negative_log_likelihood(predicted, teacher, log_scale_C, 1e-5), expected)


@pytest.mark.parametrize("variance", [1e-3, 5.0, 2000.0])
def test_variances_start_where_they_are_told_to_and_are_trained(variance: float) -> None:
    vid = built(first_variance=variance)
    for log_scale_C, shape in zip(vid.log_scales, TEACHER_STAGES[1:], strict=True):
        first_C = torch.nn.functional.softplus(log_scale_C.detach()) + 1e-5
        torch.testing.assert_close(first_C, torch.full((shape[0],), variance))
    assert {f"log_scales.{stage}" for stage in range(2)} <= dict(vid.named_parameters()).keys()


def test_the_best_variance_is_the_mean_square_error() -> None:
    teacher = 3 * torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    predicted = torch.zeros_like(teacher)
    scale = torch.tensor([float(torch.special.expm1(teacher.square().mean()).log())], requires_grad=True)
    negative_log_likelihood(predicted, teacher, scale, 1e-7).backward()
    assert scale.grad is not None
    assert abs(float(scale.grad)) < 1e-4


def test_stages_are_summed_through_their_own_predictors() -> None:
    student, teacher, vid = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), built()
    assert student.stages is not None and teacher.stages is not None
    expected = torch.zeros(())
    for stage in (1, 2):
        x = student.stages[stage]
        for layer in (0, 2, 4):
            kernel = vid.predictors[stage - 1][layer].weight[:, :, 0, 0]
            x = torch.einsum("oc,bchw->bohw", kernel, x)
            x = x.relu() if layer < 4 else x
        expected = expected + 0.5 * ((x - teacher.stages[stage]).square() / 5.0 + math.log(5.0)).mean()
    torch.testing.assert_close(vid.terms(student, Target.of(teacher), batch())["vid"], expected)
    assert vid.weights(1) == {"vid": 1.0}


def test_the_first_variance_must_exceed_the_smallest() -> None:
    with pytest.raises(ValidationError, match="first_variance must exceed smallest_variance"):
        VID.Settings(first_variance=1e-6)
