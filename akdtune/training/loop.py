"""What a trial is to those who run, time and close one, whatever its loop, and what loops share.

A task says which class runs its trials (`Task.Trial`). Everything around a trial, from rungs and resuming to logs and
tables, knows the contract `TrialLoop` alone: a generator of epochs, and a last reading.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from akdtune.columns import Column
from akdtune.data.row_sets import RowDataSet
from akdtune.errors import AkdtuneError
from akdtune.networks import Network
from akdtune.training.config import TrialConfig
from akdtune.training.evaluation import Evaluation, Predictions
from akdtune.training.limits import TrialLimits
from akdtune.training.recording import Recording

try:
    import resource
except ModuleNotFoundError:
    raise AkdtuneError(
        "akdtune trains on Linux and macOS, not on Windows itself: use it inside WSL 2 (docs/platforms.md)"
    ) from None


class Diverged(Exception):
    """A loss that is not finite; `epoch` is the epoch in which it appeared (0: while the heads warmed up)."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch}")
        self.epoch = epoch


class Interrupted(Exception):
    """`should_stop` said so; the state of the last epoch that was yielded is where to go on from."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Attributes:
        stage: `warmup` (view heads only) or `student`.
        epoch: counted from 1 within its stage.
        row: metrics by column name (accuracies in percent, times in seconds), None where a metric does not apply.
        state: everything needed to go on after this epoch, as a tree of tensors and numbers.
    """

    stage: Literal["warmup", "student"]
    epoch: int
    row: dict[str, float | None]
    state: dict[str, Any]


class TrialLoop(Protocol):
    """Contract of what runs a trial.

    Attributes:
        config: what determines its numbers.
        dataset: its data, under the student's augmentation.
        student: the network that it is about, whose weights a state holds as `student`.
        evaluation: what judges it.
        streams: the oldest way of drawing random numbers that its epochs drew by.
    """

    config: TrialConfig
    dataset: RowDataSet
    student: Network
    evaluation: Evaluation
    streams: int

    def __init__(
        self,
        config: TrialConfig,
        stand_ins: Sequence[Network] = (),
        dataset: RowDataSet | None = None,
        *,
        limits: TrialLimits | None = None,
    ) -> None:
        """Builds it as it begins; see `akdtune.training.trial.Trial` for the arguments."""

    @property
    def train_images(self) -> int:
        """How many rows (images) an epoch trains on."""
        ...

    @property
    def steps(self) -> int:
        """How many updates an epoch makes."""
        ...

    @property
    def epochs(self) -> dict[str, int]:
        """How many epochs each stage has: `warmup`, and `student`."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the rows of its student epochs, and the last reading, hold."""
        ...

    def run(
        self,
        state: Mapping[str, Any] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        share_warmup_as: str = "",
    ) -> Iterator[Epoch]:
        """Trains, yielding each finished epoch; goes on after that of `state`.

        Raises:
            Interrupted: after `should_stop` returned True.
            Diverged: when a loss is not finite.
        """
        ...

    def close(self) -> tuple[dict[str, float | None], Predictions]:
        """The last reading: further columns of the last row, and what the student answers on the judged images."""
        ...

    def recording(self) -> Recording:
        """What can be kept of its networks, once it is closed."""
        ...

    def timed(self, steps: int, until: float) -> dict[str, float]:
        """Seconds of a step of each stage and of an epoch's end: `warmup_step_s`, `student_step_s`, `epoch_end_s`."""
        ...

    def state(self, stage: str, epoch: int) -> dict[str, Any]:
        """A copy of everything that changes; holds at least `stage`, `epoch` and `student`."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state that `state` returned."""
        ...


class Sums:
    """Running sums of one epoch, kept on the device so that nothing waits for it before the epoch ends."""

    def __init__(self) -> None:
        self.count = 0
        self._names: list[str] = []
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, images: int, values: Mapping[str, Tensor]) -> None:
        """Adds the means of a batch; every batch has the same names."""
        self.count += images
        stacked = torch.stack(list(values.values()))
        if self._sums is None:
            self._names, self._sums = list(values), torch.zeros_like(stacked, dtype=torch.float64)
        self._sums.add_(stacked, alpha=images)

    def means(self) -> dict[str, float]:
        """Means over all images of the epoch."""
        assert self._sums is not None
        return {name: value / self.count for name, value in zip(self._names, self._sums.tolist(), strict=True)}


def finite_means(sums: Sums, epoch: int) -> dict[str, float]:
    """The epoch's means, the total as `train_loss`; raises where the total was not finite in any step."""
    means = sums.means()
    means["train_loss"] = total = means.pop("total")
    if not (abs(total) < float("inf")):
        raise Diverged(epoch)
    return means


def timed_steps(epoch: Callable[[Callable[[], bool]], object], steps: int, until: float = float("inf")) -> float:
    """Median seconds between the steps of an epoch that is stopped after `steps` of them, or the first after `until`.

    The loading of the first batch is not counted.
    """
    marks: list[float] = []

    def should_stop() -> bool:
        marks.append(time.monotonic())
        return len(marks) > (steps if marks[-1] < until else 1)

    try:
        epoch(should_stop)
        marks.append(time.monotonic())
    except Interrupted:
        pass
    gaps = sorted(after - before for before, after in zip(marks, marks[1:], strict=False))
    return gaps[len(gaps) // 2]


def peak_memory_mib(device: torch.device) -> float:
    """The highest memory so far, on the GPU or else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
