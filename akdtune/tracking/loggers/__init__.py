"""Loggers: where a trial's numbers go while it trains, one file each, registered under the file's name.

What a logger raises costs no trial: it is left out of the rest of the attempt, and said once at the end of the study.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from akdtune.registry import Component, Kind, name_of
from akdtune.tracking.arrangement import Flat, Metrics


@dataclass(frozen=True)
class LoggedTrial:
    """What a logger is told of the trial that it serves.

    Attributes:
        trial_id: unique in the study.
        study: its name.
        arm: views and base method, e.g. `angular/kd`.
        cell: its name in an ablation or a confirmation, else None.
        role: search | probe | pilot | confirm | ablation | control.
        seed: of the trial.
        attempt: number of this execution, from 1; a later one is given all rows again.
        config: settings with short flat names, and where the trial belongs.
        root: the study directory.
        study_uid: tells apart studies of the same name.
    """

    trial_id: str
    study: str
    arm: str
    cell: str | None
    role: str
    seed: int | None
    attempt: int
    config: Flat
    root: Path
    study_uid: str = ""

    @property
    def directory(self) -> Path:
        """The trial's own."""
        return self.root / "trials" / self.trial_id


class Logger(Component):
    """Takes one attempt of one trial: `open`, `log` for each epoch, `finish`, all in a thread of its own.

    Metrics are named by section: `student/val_accuracy`, `loss/total`; `epoch` is the step.

    Class attributes:
        requires: modules of further packages that it needs.
        extra: akdtune's extra that brings these.
    """

    kind: ClassVar[Kind] = "loggers"
    source = "akdtune"
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    def __init__(self, settings: Any, patience_s: float) -> None:
        """Prepares; nothing is written before `open`.

        Args:
            settings: typed.
            patience_s: how long a trial waits for `finish`.
        """
        self.settings = settings
        self.patience_s = patience_s

    @classmethod
    def wanted(cls, settings: Mapping[str, Any], root: Path) -> bool:
        """Whether a trial that starts now is logged."""
        return True

    @classmethod
    def prepare(cls, settings: Mapping[str, Any], root: Path) -> None:
        """Loads what is slow to load, once in a process, before it trains; may fail, `open` then does so again."""

    def open(self, trial: LoggedTrial) -> None:
        """Begins; whatever an earlier attempt left of this trial is replaced."""
        raise NotImplementedError

    def log(self, metrics: Metrics) -> None:
        """Takes the numbers of one epoch, `epoch` among them; an epoch comes once, in order."""
        raise NotImplementedError

    def finish(self, status: str, metrics: Metrics) -> None:
        """Ends.

        Args:
            status: done | pruned | diverged | failed | interrupted.
            metrics: the last epoch's, with what was measured at the end; empty before the first.
        """
        raise NotImplementedError

    def lost(self, why: str, late: bool) -> None:
        """Is told that it failed, or (`late`) that the trial does not wait for it any longer."""

    def say(self, message: str) -> None:
        """One line in the trial's log, which is where a trial's standard error goes."""
        with contextlib.suppress(OSError, ValueError):  # the log may be closed by the time a slow run ends
            print(f"{name_of(type(self))}: {message}", file=sys.stderr, flush=True)

    @classmethod
    def lacking(cls) -> str | None:
        """What has to be installed first, as a sentence; None: nothing."""
        missing = [module for module in cls.requires if importlib.util.find_spec(module) is None]
        if not missing:
            return None
        return f"needs {', '.join(missing)}, which is not installed: pip install 'akdtune[{cls.extra}]'"
