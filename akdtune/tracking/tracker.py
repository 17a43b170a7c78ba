"""One attempt of one trial, told to every logger that the study asks for.

Each logger works in a thread of its own, so that neither a slow start, nor a lost network, nor a slow close holds up
training; what it raises becomes one line of the trial's log and is noted for the study's end.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from akdtune import atomic
from akdtune.columns import Column
from akdtune.registry import lookup
from akdtune.tracking.arrangement import Arranged, Metrics, flat_config
from akdtune.tracking.loggers import LoggedTrial, Logger
from akdtune.tracking.mode import reason

INTERRUPTED_FINISH_S = 2.0
"""After Ctrl-C closing gets no more than this, whatever `finish_timeout_s` says."""

TROUBLE_FILE = "loggers.json"
"""In the trial's directory: which loggers failed in its latest attempt, and why."""

NAMES = "names"
"""In the tracking section as trials get it: the flat names of the study's settings."""

NO_LOGGERS = frozenset({"finish_timeout_s", NAMES})
"""Keys of the tracking section that name no logger."""


def asked(tracking: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The loggers that a study asks for, with their settings.

    Args:
        tracking: its tracking section as a plain mapping.
    """
    return {name: own for name, own in tracking.items() if name not in NO_LOGGERS and own is not None}


def prepare(tracking: Mapping[str, Any], root: Path) -> None:
    """Loads what a study's loggers need, before the first trial of a process trains; what fails, `start` says."""
    for name, own in asked(tracking).items():
        with contextlib.suppress(Exception):
            component = lookup("loggers", name)
            if component.wanted(own, root):
                component.prepare(own, root)


class _Finish(NamedTuple):
    status: str
    metrics: Metrics


class _Line:
    """One logger, in its thread."""

    def __init__(self, name: str, logger: Logger, trial: LoggedTrial) -> None:
        self.name, self.logger, self._trial = name, logger, trial
        self.jobs: queue.SimpleQueue[Metrics | _Finish] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=f"{name} {trial.trial_id}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        logger = self.logger
        try:
            logger.open(self._trial)
            while not isinstance(job := self.jobs.get(), _Finish):
                logger.log(job)
            logger.finish(*job)
        except Exception as error:  # a logger must not cost a trial
            why = f"{type(error).__name__}: {reason(error)}"
            logger.say(f"trial {self._trial.trial_id} is not logged any further: {why}")
            with contextlib.suppress(Exception):
                note_trouble(self._trial.directory, self.name, why)
                logger.lost(why, late=False)


class Tracker:
    """One attempt of one trial: `start`, `log` per epoch, `finish`; none of them ever raises."""

    def __init__(
        self, tracking: Mapping[str, Any], trial: Mapping[str, Any], study_directory: Path, attempt: int
    ) -> None:
        """Prepares; nothing is imported, written or sent before `start`.

        Args:
            tracking: the study's tracking section as a plain mapping, and `names` of its settings.
            trial: `study`, `trial_id`, `cell_id`, `arm`, `role`, `seed`, `settings`, `params`.
            study_directory: where the trial belongs.
            attempt: number of this execution of the trial, from 1.
        """
        self._tracking = tracking
        self._patience_s = float(tracking.get("finish_timeout_s", 5.0))
        self._lines: list[_Line] = []
        self._arranged = Arranged()
        self._declared, self._epoch = False, 0
        root = Path(study_directory)
        self.trial = LoggedTrial(
            trial_id=trial["trial_id"],
            study=trial.get("study") or "",
            arm=trial["arm"],
            cell=trial.get("cell"),
            role=trial["role"],
            seed=trial.get("seed"),
            attempt=attempt,
            config=flat_config({**trial, "attempt": attempt}, tracking.get(NAMES) or {}),
            root=root,
            study_uid=trial.get("study_uid") or "",
        )

    def start(self) -> None:
        """Opens every logger; nobody waits for it."""
        forget_trouble(self.trial.directory)
        for name, own in asked(self._tracking).items():
            try:
                component = lookup("loggers", name)
                if component.wanted(own, self.trial.root):
                    logger: Logger = component(component.Settings(**own), self._patience_s)
                    self._lines.append(_Line(name, logger, self.trial))
            except Exception as error:  # a plug-in that is wrong must not cost a trial
                why = f"{type(error).__name__}: {reason(error)}"
                print(f"{name}: {why}", file=sys.stderr, flush=True)
                note_trouble(self.trial.directory, name, why)

    def declare(self, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Says once what the rows' columns are, and the rows of earlier attempts, so that a run has the whole curve.

        Args:
            columns: what is declared.
            rows: in order.
        """
        if self._declared:
            return
        self._arranged, self._declared = Arranged(columns), True
        for row in rows:
            self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Sends one epoch row; its `epoch` is the step, and only its numbers are metrics; a known epoch is no news."""
        if not self._lines or row["epoch"] <= self._epoch:
            return
        self._epoch = row["epoch"]
        metrics = self._arranged.metrics(row)
        for line in self._lines:
            line.jobs.put(metrics)

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Ends, waiting `finish_timeout_s` at most for all loggers (2 s when interrupted).

        Args:
            status: done | pruned | diverged | failed | interrupted.
            summary: the trial's last row; numbers that it adds to the row of its epoch are added to that step.
        """
        bound_s = self._patience_s
        if status == "interrupted":
            bound_s = min(bound_s, INTERRUPTED_FINISH_S)
        metrics = self._arranged.metrics(summary)
        for line in self._lines:
            line.jobs.put(_Finish(status, metrics))
        until = time.monotonic() + bound_s
        for line in self._lines:
            line.thread.join(max(0.0, until - time.monotonic()))
            if line.thread.is_alive():
                line.logger.say(f"did not close within {bound_s:g} s; it goes on in the background")
                with contextlib.suppress(Exception):
                    if status != "interrupted":
                        line.logger.lost("it did not close in time", late=True)
        self._lines = []


# ----------------------------------------------------------------------------------------- what went wrong


def read_trouble(directory: Path) -> dict[str, str]:
    """Which loggers failed in a trial's latest attempt, and why."""
    try:
        held = json.loads((directory / TROUBLE_FILE).read_text(encoding="utf-8"))
        return {str(name): str(why) for name, why in held.items()}
    except (OSError, ValueError, AttributeError):
        return {}


_noting = threading.Lock()


def note_trouble(directory: Path, logger: str, why: str) -> None:
    """Notes that a logger failed."""
    with _noting, contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**read_trouble(directory), logger: why}, indent=1)
        atomic.write(directory / TROUBLE_FILE, text + "\n")


def forget_trouble(directory: Path) -> None:
    """A new attempt begins."""
    with contextlib.suppress(OSError):
        (directory / TROUBLE_FILE).unlink(missing_ok=True)
