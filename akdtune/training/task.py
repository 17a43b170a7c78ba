"""What a study trains for: what its trials are judged by, what is measured of them, and how its data are read.

A task is one file in `akdtune/tasks`, found by its name. The loop, views and methods know rows alone: one prediction
with one label (an image, a token, a node).

Shapes: R rows of a part of a split, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from akdtune.columns import Column, joined
from akdtune.data.dataset import load_data
from akdtune.data.row_sets import RowDataSet, RowSplit, Splits
from akdtune.metric import ACCURACY, Metric
from akdtune.networks import Network
from akdtune.registry import Component, ComponentSettings, Kind, lookup
from akdtune.settings.data import AnyDataSettings
from akdtune.settings.domains import Issue
from akdtune.settings.task import DEFAULT_TASK
from akdtune.signals import Inputs, Signals, Spec, Takes

if TYPE_CHECKING:
    from akdtune.training.loop import TrialLoop

SCORE_WINDOW = 3
"""A rung is scored by the mean of the metric over this many last epochs."""


class Meter(Protocol):
    """What is measured of a student over the parts of a split."""

    def update(self, student: Signals, teacher: Signals | None, labels_R: Tensor) -> None:
        """Takes a part up: what student and teacher say about its rows, and their right labels."""
        ...

    def result(self) -> dict[str, float | None]:
        """Over all parts: the metric under its name, then the task's own columns.

        The metric of each answer of a student that gives several is called `<metric>_step_1`, or `<metric>_branch_1`.
        """
        ...


class Task(Component):
    """Contract of a task.

    Class attributes:
        takes: what its networks and its data set are made for.
        offers: what its networks may be asked for besides logits and pooled features, see `Method.needs`.
        called: how sentences call its rows.
        metric: what trials are judged by.
        further: columns beside the metric's; their names begin neither with `val_` nor with `test_`.
        items_at_once: how many items of a split are measured at a time; None: all, whose signals are kept.
        idle_training: settings of `training` that change nothing, each with the reason.
        in_parts: measured in parts as large as the split says (`RowSplit.at_once`), as all logits would be too many: of
            predictions the likeliest classes are kept (`training.likeliest`).
        needs_teacher: whether the metric says how a student does beside its teacher.
        Trial: what runs its trials; None: `akdtune.training.trial.Trial`, the loop over rows.
        has_clients: whether clients teach in its trials, so that no teacher is named and views are those of clients.
        keeps_more: whether `record` may keep more of its trials than predictions.
    """

    kind: ClassVar[Kind] = "tasks"
    takes: ClassVar[Takes] = "images"
    called: ClassVar[str] = "images"
    offers: ClassVar[frozenset[str]] = frozenset()
    metric: ClassVar[Metric] = ACCURACY
    further: ClassVar[Sequence[Column]] = ()
    items_at_once: ClassVar[int | None] = None
    idle_training: ClassVar[Mapping[str, str]] = {}
    in_parts: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    Trial: ClassVar[type[TrialLoop] | None] = None
    has_clients: ClassVar[bool] = False
    keeps_more: ClassVar[bool] = True

    def __init__(self, settings: ComponentSettings) -> None:
        self.settings = settings

    @override
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.settings == getattr(other, "settings", None)

    @override
    def __hash__(self) -> int:
        return hash((type(self), repr(self.settings)))

    def load(self, data: AnyDataSettings, device: torch.device) -> RowDataSet:
        """The data on a device."""
        return load_data(data, device)

    @classmethod
    def misfits(cls, settings: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Issue]:
        """What it cannot work with in the settings of a trial, naming both, by path.

        Args:
            settings: views, method, student and training, filled in, as far as they are right.
            study: the sections that trials share, its own among them.
        """
        yield from ()

    def check_splits(self, splits: Splits[RowSplit]) -> None:
        """Refuses data that it cannot use.

        Raises:
            AkdtuneError: naming the setting.
        """

    @property
    def smallest_pool(self) -> int:
        """Training items without which its trials cannot begin, as far as its settings ask for so many."""
        return 0

    def clients(self, inputs: Spec) -> Sequence[Network]:
        """The networks of clients that teach, as they begin; none where the study's teachers do."""
        return ()

    @property
    def others_alike(self) -> Sequence[int]:
        """A number for each client, the same for those of one architecture."""
        return ()

    def meter(self) -> Meter:
        """What measures one split."""
        raise NotImplementedError

    def values(self, student: Signals, teacher: Callable[[], Signals | None], labels_R: Tensor) -> Tensor | None:
        """What each row contributes to the metric, whose value is their mean; None: 100 where the label has the
        largest logit, else 0."""
        return None

    def groups(self, sample_ids_R: Tensor) -> Tensor | None:
        """Which rows are not independent of each other, as a number each; None: each is its own."""
        return None

    def last_measures(
        self,
        student: Callable[[Inputs], Signals],
        teacher: Callable[[Inputs], Signals] | None,
        split: RowSplit,
        key: str,
    ) -> dict[str, float | None]:
        """What is measured of the last epoch alone, on validation items and on the test set.

        Args:
            student: in eval mode.
            teacher: likewise.
            split: what they are asked about.
            key: names teacher and split; empty where nothing may be kept for later trials of this process.
        """
        return {}

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Everything that its meter and the loop say of held-out items besides what views add."""
        metric, words = cls.metric, cls.metric.words
        of_metric = (
            Column(metric.validation, "percent", f"{words} of the student on the validation {cls.called}"),
            Column(metric.test, "percent", f"{words} of the student on the test set, read once, at a trial's end"),
            Column(
                "score", "percent", f"mean {metric.validation} of the last {SCORE_WINDOW} epochs, which rungs decide by"
            ),
        )
        return joined(of_metric, cls.further, cls._of_answers())

    @classmethod
    def _of_answers(cls) -> Iterator[Column]:
        """The metric of each answer of a student that gives several, which a meter names `<metric>_step_1`, ...."""
        for split, rows in (
            (cls.metric.validation, f"the validation {cls.called}"),
            (cls.metric.test, "the test set"),
        ):
            words = f"{cls.metric.words} of the student on {rows}"
            yield Column(f"{split}_step_*", "percent", f"{words} when it stops after so many of its time steps")
            yield Column(f"{split}_branch_*", "percent", f"{words} by this exit, counted from 1, the last its own")


def task_of(settings: Mapping[str, Any]) -> Task:
    """The task of a trial, which is that of its study.

    Args:
        settings: of the trial; those of earlier versions, and of images, name none.
    """
    section = settings.get("task") or {"name": DEFAULT_TASK}
    component: type[Task] = lookup("tasks", str(section["name"]))
    return component(component.Settings(**{key: value for key, value in section.items() if key != "name"}))
