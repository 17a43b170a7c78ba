"""What methods on maps and features share: which stages meet, sizes that fit, lengths that are safe to divide by.

Shapes: B batch, C channels or feature width, H, W, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from akdtune.errors import AkdtuneError
from akdtune.methods import MethodContext, Shape

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

SMALLEST_SQUARE = 1e-24
"""Vectors with a smaller squared length count as zero: they have no direction, and no gradient to one."""


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """A loss on tensors that is computed in at least float32, whatever autocast says; float64 stays float64."""

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        given = [at_least_single(arg) if isinstance(arg, Tensor) else arg for arg in args]
        device = next(arg.device.type for arg in given if isinstance(arg, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*given, **kwargs)  # type: ignore[arg-type]

    return computed


def at_least_single(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; anything else stays as it is."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def unit(vectors: Tensor, dim: int, epsilon: float = 0.0) -> Tensor:
    """Vectors along `dim` over (their length + epsilon), same shape; a zero vector stays zero and gets no gradient."""
    squares = vectors.square().sum(dim=dim, keepdim=True)
    has_length = squares > SMALLEST_SQUARE
    lengths = torch.where(has_length, squares, 1.0).sqrt() + epsilon
    return vectors / torch.where(has_length, lengths, math.inf)  # chosen once a vector


def stage_pairs(student: Sequence[T] | None, teacher: Sequence[T] | None) -> list[tuple[T, T]]:
    """(student's, teacher's) of each stage that both have, without the stem, counted from the last one backwards.

    Args:
        student: something for each stage, stem first: maps, or their shapes.
        teacher: the same of the teacher.
    """
    assert student is not None and teacher is not None, "the objective asks for the maps that a method needs"
    number = min(len(student), len(teacher)) - 1
    return list(zip(student[len(student) - number :], teacher[len(teacher) - number :], strict=True))


def shape_pairs(method: str, context: MethodContext, at_least: int = 1) -> list[tuple[Shape, Shape]]:
    """Shapes of the stages that meet.

    Args:
        method: name, for the message.
        context: of the trial.
        at_least: stages that the method needs, without the stem.

    Raises:
        AkdtuneError: when there are fewer, with the shapes of both networks.
    """
    pairs = stage_pairs(context.student_stages, context.teacher_stages)
    if len(pairs) < at_least:
        plural = "" if at_least == 1 else "s"
        raise AkdtuneError(
            f"method {method} compares at least {at_least} stage{plural} after the stem, and these networks share"
            f" {max(len(pairs), 0)}: {stage_shapes(context)}"
        )
    return pairs


def stage_shapes(context: MethodContext) -> str:
    """Both networks' stages in words, for messages."""
    return f"student {_in_words(context.student_stages)}; teacher {_in_words(context.teacher_stages)}"


def last_maps(method: str, context: MethodContext) -> tuple[Shape, Shape]:
    """Shapes of the student's and the teacher's last map.

    Raises:
        AkdtuneError: when a network has none, or when there is no teacher's classifier.
    """
    student, teacher = context.student_last_map, context.teacher_last_map
    if student is None or teacher is None or context.teacher_classifier is None:
        raise AkdtuneError(
            f"method {method} needs a teacher with a classifier, and maps whose mean is the pooled feature:"
            f" student {student or 'no map'}; teacher {teacher or 'no map'}"
        )
    return student, teacher


def _in_words(shapes: Sequence[Shape]) -> str:
    return ", ".join("x".join(str(number) for number in shape) for shape in shapes) or "no stages"


def same_size(student_BCHW: Tensor, teacher_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps with the smaller of the two heights and widths, the larger ones averaged adaptively."""
    height = min(student_BCHW.shape[-2], teacher_BCHW.shape[-2])
    width = min(student_BCHW.shape[-1], teacher_BCHW.shape[-1])
    return pooled_to(student_BCHW, height, width), pooled_to(teacher_BCHW, height, width)


def pooled_to(map_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average of a map, [B, C, height, width]."""
    had_height, had_width = map_BCHW.shape[-2:]
    if (had_height, had_width) == (height, width):
        return map_BCHW
    if had_height % height == 0 and had_width % width == 0:  # the same numbers, with a deterministic gradient on GPUs
        return nn.functional.avg_pool2d(map_BCHW, (had_height // height, had_width // width))
    return nn.functional.adaptive_avg_pool2d(map_BCHW, (height, width))


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm that takes its running statistics where a training batch has one value per channel."""

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Normalised map, same shape."""
        if self.training and map_BCHW.numel() == map_BCHW.shape[1]:
            return nn.functional.batch_norm(
                map_BCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(map_BCHW)


def initialised(build: Callable[[], M], context: MethodContext) -> M:
    """A module with torch's own initialisation drawn from the trial's generator, on the trial's device."""
    seed = int(torch.randint(2**62, (), generator=context.generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build().to(context.device)
