"""A plug-in for `against_tune.py`: images made up anywhere, and a line for every epoch that anybody trains.

The images are noise of CIFAR's size around a pattern of their class: a few steps tell some classes apart, so that
students differ at a rung. What a step costs does not depend on them. Both sides of the comparison read them here.
"""

# Shapes: N images, K classes, C, H, W.

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from akdtune.data.source import Source
from akdtune.data.store import Stored
from akdtune.registry import register
from akdtune.settings.data import Augmentation, DataSettings
from akdtune.training.evaluation import Evaluation
from akdtune.training.trial import Trial

CLASSES = 10
TRACE = "AKDTUNE_BENCHMARK_TRACE"
"""Names a file that gets a line for each epoch: the trial's learning rate (no two have the same), stage, epoch, and the
CPU seconds of the thread that trained it, evaluation not counted."""


@register("patterned", kind="data")
class Patterned(Source):
    """So many images of each class as `limit_per_class` says."""

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """As CIFAR's."""
        return Augmentation(pad=4, flip=True)

    @classmethod
    def read(cls, settings: DataSettings) -> Stored:
        """Made, not read."""
        drawn, per_class = np.random.default_rng(0), settings.limit_per_class or 10
        coarse_KCHW = drawn.integers(0, 210, (CLASSES, 3, 4, 4), np.uint8)
        pattern_KCHW = coarse_KCHW.repeat(8, axis=2).repeat(8, axis=3)
        labels_N = np.tile(np.arange(CLASSES), per_class + 1)  # the last of each class is a test image
        images_NCHW = drawn.integers(0, 40, (len(labels_N), 3, 32, 32), np.uint8) + pattern_KCHW[labels_N]
        train, test = slice(None, -CLASSES), slice(-CLASSES, None)
        return Stored(
            images_NCHW[train], labels_N[train], images_NCHW[test], labels_N[test], CLASSES, (0.5,) * 3, (0.21,) * 3,
            f"patterned {per_class}",
        )  # fmt: skip


def note(lr: float, stage: str, epoch: int, cpu_s: float) -> None:
    """Adds a line to the trace, if there is one."""
    if file := os.environ.get(TRACE):
        with Path(file).open("a") as trace:
            trace.write(f"{lr!r} {stage} {epoch} {cpu_s:.3f}\n")


def _noted(epoch_of: Callable[..., Any], stage: str) -> Callable[..., Any]:
    @functools.wraps(epoch_of)
    def run(trial: Trial, epoch: int, *rest: Any) -> Any:
        _Evaluated.cpu_s, began = 0.0, time.thread_time()
        row = epoch_of(trial, epoch, *rest)
        note(trial.config.training.lr, stage, epoch, time.thread_time() - began - _Evaluated.cpu_s)
        return row

    return run


class _Evaluated:
    """CPU seconds of the evaluations within an epoch."""

    cpu_s = 0.0


def _apart(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(evaluate)
    def run(*given: Any) -> Any:
        began = time.thread_time()
        row = evaluate(*given)
        _Evaluated.cpu_s += time.thread_time() - began
        return row

    return run


if os.environ.get(TRACE):
    Trial.student_epoch = _noted(Trial.student_epoch, "student")  # type: ignore[method-assign]
    Trial.warmup_epoch = _noted(Trial.warmup_epoch, "warmup")  # type: ignore[method-assign]
    Evaluation.validation_row = _apart(Evaluation.validation_row)  # type: ignore[method-assign]
