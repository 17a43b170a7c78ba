"""What all logit methods share: settings, logit standardisation, log-probabilities, divergences.

Shapes: B batch, K classes, M members of a target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, StrictBool, model_validator
from torch import Tensor

from akdtune.registry import ComponentSettings
from akdtune.signals import Target, standardized, tempered


class StandardizeSettings(ComponentSettings):
    """Settings with a key `standardize`, which brings the numbers published for logit standardisation.

    With `standardize: true` the keys of `when_standardized` that were not given take its values; what was given wins,
    and the filled-in settings hold every number, so that they can be written down and read back. A method without
    published numbers for it (`when_standardized` empty) changes nothing but its logits.
    """

    when_standardized: ClassVar[Mapping[str, Any]] = {}

    standardize: StrictBool = Field(
        False,
        description="scale the logits of student and target to mean 0 and standard deviation 1 over the classes first"
        " (Sun et al., CVPR 2024, arXiv 2403.01427); settings that are not given then take that paper's numbers where"
        " it has some",
    )

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values for keys that were not given."""
        return cls.when_standardized if given.get("standardize") is True else {}

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return {**cls.preset(values), **values} if isinstance(values, Mapping) else values


class LogitSettings(StandardizeSettings):
    """Settings of a method with one temperature."""

    temperature: PositiveFloat = Field(4.0, description="softmax temperature of student and target")


def widened(tensor: Tensor) -> Tensor:
    """At least float32: half precision has 8 or 11 bits for what a softmax turns into tiny differences."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def log_student_BK(logits_BK: Tensor, temperature: float | Tensor = 1.0, standardize: bool = False) -> Tensor:
    """Log of the student's tempered probabilities, [B, K]."""
    logits_BK = widened(logits_BK)
    return torch.log_softmax(_over(standardized(logits_BK) if standardize else logits_BK, temperature), dim=-1)


def log_target_BK(target: Target, temperature: float | Tensor = 1.0, standardize: bool = False) -> Tensor:
    """Log of the target's tempered probabilities, [B, K]; a tensor as temperature receives a gradient.

    A target with a temperature of its own keeps it.
    """
    if target.logits_BMK.dtype in (torch.bfloat16, torch.float16):
        target = replace(target, logits_BMK=widened(target.logits_BMK), weights_M=widened(target.weights_M))
    if not isinstance(temperature, Tensor):
        return target.log_probabilities_BK(temperature, standardize)
    if target.temperature is None:
        return target.divided(temperature, standardize).log_probabilities_BK(1.0)
    return target.log_probabilities_BK(1.0, standardize)


def _over(logits: Tensor, temperature: float | Tensor) -> Tensor:
    # a tensor is never compared with 1: that would wait for the device
    return logits / temperature if isinstance(temperature, Tensor) else tempered(logits, temperature)


def kl_of_logs(log_target_BK: Tensor, log_student_BK: Tensor) -> Tensor:
    """Sum over classes of target * (log target - log student), mean over the batch: a scalar in nats.

    A target that does not sum to 1 is taken as it is: its sum multiplies the gradient to the student.
    """
    difference_BK = log_target_BK - log_student_BK
    return torch.dot(log_target_BK.exp().flatten(), difference_BK.flatten()) / len(difference_BK)


def jensen_shannon_of_logs(log_target_BK: Tensor, log_student_BK: Tensor, beta: float) -> Tensor:
    """beta KL(target || M) + (1 - beta) KL(student || M) with M = beta target + (1 - beta) student, in nats: a scalar.

    Args:
        log_target_BK: log-probabilities of the target; each row of their exponentials sums to 1.
        log_student_BK: those of the student.
        beta: above 0 and below 1. Over beta it tends to KL(target || student) towards 0, and over 1 - beta to
            KL(student || target) towards 1; 0.5 is the Jensen-Shannon divergence.

    References:
        Agarwal et al. (GKD), ICLR 2024, arXiv 2306.13649, eq. 1.
    """
    log_middle_BK = torch.logaddexp(log_target_BK + math.log(beta), log_student_BK + math.log1p(-beta))
    of_target, of_student = kl_of_logs(log_target_BK, log_middle_BK), kl_of_logs(log_student_BK, log_middle_BK)
    return beta * of_target + (1 - beta) * of_student


def is_label(labels_B: Tensor, num_classes: int) -> Tensor:
    """Whether a class is the image's label, [B, K]."""
    return labels_B[:, None] == torch.arange(num_classes, device=labels_B.device)


def log_others(log_p_BK: Tensor, is_label_BK: Tensor) -> Tensor:
    """Log-probabilities normalised over the classes other than the label, [B, K]; 0 at the label: 0 * -inf is NaN."""
    log_others_BK = torch.log_softmax(log_p_BK.masked_fill(is_label_BK, -torch.inf), dim=-1)
    return log_others_BK.masked_fill(is_label_BK, 0.0)
