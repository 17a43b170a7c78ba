"""How a run comes to a teacher that is not trained yet: by a task of Ray, or in the driver while Ray starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import ray
import torch

from akdtune import progress
from akdtune.devices import resolve_device
from akdtune.errors import RayError
from akdtune.planning.prepared import Prepared
from akdtune.records.study_directory import StudyDirectory
from akdtune.registry import plugin_folders
from akdtune.roles import TrainOn
from akdtune.running import ahead
from akdtune.running.display import Display
from akdtune.running.outages import check_teacher_is_here, of_teacher
from akdtune.running.tune import STOP_PATIENCE_S
from akdtune.running.worker import train_teacher
from akdtune.settings.task import named_task
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile
from akdtune.training.teachers import train_teachers


class TeacherTraining:
    """Trains a study's teacher, with a trial's resources, and shows how far it is.

    Args:
        study: its checked settings.
        directory: where it lies.
        stopping: when a signal asked to stop, 0 while none has.
        shown: shows how far it is.
    """

    def __init__(self, study: Study, directory: StudyDirectory, stopping: Callable[[], float], shown: Display) -> None:
        self.study, self.directory, self.shown = study, directory, shown
        self._stopping = stopping

    def fits_here(self) -> bool:
        """Whether the driver may train it: not on a GPU, whose memory it would keep from the trials."""
        return resolve_device("auto").type == "cpu"

    def here(self, prepared: Prepared, train_on: TrainOn) -> TeacherFile | None:
        """Trains it in this process, which has loaded all that it takes, while Ray and its workers come up.

        Raises:
            AkdtuneError: when it cannot be trained.
        """
        ahead.begin(self.study, self.directory.root)
        try:
            with progress.stage("training the teacher"), _threads(self.study.resources.cpu):
                device, stops = resolve_device("auto"), lambda: bool(self._stopping())
                for row in train_teachers(self.study.teacher, prepared.dataset, train_on, device, stops):
                    if row.get("done"):
                        return TeacherFile(**row["teacher"])
                    self.shown.teacher(row)
        except Exception as error:
            raise of_teacher(error) from error
        return None

    def by_ray(self, train_on: TrainOn) -> TeacherFile | None:
        """Trains it as a task of the Ray that is up; None when interrupted.

        Raises:
            AkdtuneError: when it cannot be trained.
        """
        cpu, gpu = self.study.resources.cpu, self.study.resources.gpu
        task = ray.remote(train_teacher).options(num_returns="streaming", num_cpus=cpu, num_gpus=gpu, max_retries=0)
        rows: Any = task.remote(
            {
                **named_task({"task": self.study.task}),
                "data": self.study.data.model_dump(),
                "teacher": self.study.teacher.model_dump(),
                "train_on": train_on,
                "plugins": list(self.study.plugins),
                "plugin_folders": plugin_folders(self.study.plugins),
                "root": str(self.directory.root.resolve()),
                "stop_flag": self.directory.stop_flag.name,
                "device": "auto",
                "cpu": cpu,
            }
        )
        with progress.stage("training the teacher"):
            return self._awaited(rows)

    def _awaited(self, rows: Any) -> TeacherFile | None:
        """The teacher that a task of Ray trains; None when interrupted."""
        while True:
            ready, _ = ray.wait([rows], timeout=0.2)
            if self._stopping() and self._stopping() + STOP_PATIENCE_S < time.monotonic():
                return None
            if not ready:
                continue
            try:
                row: dict[str, Any] = cast(dict[str, Any], ray.get(next(rows)))
            except StopIteration:
                return None
            except ray.exceptions.RayTaskError as error:
                raise of_teacher(error.cause) from error
            except ray.exceptions.WorkerCrashedError:
                raise RayError(
                    "the process that trains the teacher died (killed, perhaps for want of memory); the same command "
                    "goes on after its last saved epoch"
                ) from None
            if row.get("done"):
                teacher = TeacherFile(**row["teacher"])
                check_teacher_is_here(teacher.path, row["host"])
                return teacher
            self.shown.teacher(row)


@contextmanager
def _threads(cpu: float) -> Iterator[None]:
    """As many threads as a trial has."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(cpu)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
