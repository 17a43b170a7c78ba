"""What is known about a study's Weights & Biases runs without the SDK: a record in each trial's directory."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune import atomic
from akdtune.records.processes import is_alive

RECORD_FILE = "wandb.json"
"""In a trial's directory: the runs of all its attempts, oldest first; written by the trial alone. In the study's: its
own run."""

SUPERSEDED = "superseded"
"""Tag of runs that a later attempt replaced."""

_HEADER_BYTES = 7
"""A transaction log without a record."""


@dataclass
class RunRecord:
    """What `sync` needs to know about one run; `directory` is relative to the study.

    Attributes:
        of: state of the study that its own run shows.
    """

    id: str
    attempt: int
    mode: str
    directory: str
    project: str | None = None
    entity: str | None = None
    finished: bool = False
    host: str = ""
    pid: int = 0
    superseded_by: str | None = None
    of: str = ""

    @property
    def running(self) -> bool:
        """Whether its trial may still write to it."""
        if self.finished or self.superseded_by:
            return False
        return self.host != socket.gethostname() or is_alive(self.pid)

    def log_file(self, study_directory: Path) -> Path:
        """The SDK's transaction log, which holds everything that was logged."""
        return study_directory / self.directory / f"run-{self.id}.wandb"

    @property
    def is_sound(self) -> bool:
        """Whether it has the types that it was written with; the file may have been damaged."""
        texts = (self.id, self.mode, self.directory, self.host)
        return (
            all(isinstance(text, str) for text in texts) and isinstance(self.attempt, int) and isinstance(self.pid, int)
        )

    @property
    def path(self) -> str:
        """Where it is on the server."""
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    def is_whole(self, study_directory: Path) -> bool:
        """Whether it was closed, and stands on the server or on this disk."""
        if not self.finished or self.mode == "online":
            return self.finished
        try:
            return self.log_file(study_directory).stat().st_size > _HEADER_BYTES
        except OSError:
            return False

    def is_uploaded(self, study_directory: Path) -> bool:
        """Whether `wandb sync` has uploaded it: the SDK leaves a mark beside the log."""
        log = self.log_file(study_directory)
        return log.with_name(log.name + ".synced").exists()


def _stored(trial_directory: Path) -> dict[str, Any]:
    try:
        stored = json.loads((trial_directory / RECORD_FILE).read_text(encoding="utf-8"))
        return stored if isinstance(stored, dict) else {}
    except (OSError, ValueError):
        return {}


def read_record(trial_directory: Path) -> list[RunRecord]:
    """The runs of a trial's attempts, oldest first; none where nothing readable is stored."""
    try:
        runs = [RunRecord(**entry) for entry in _stored(trial_directory)["runs"]]
    except (KeyError, TypeError):
        return []
    return runs if all(run.is_sound for run in runs) else []


def read_trouble(trial_directory: Path) -> str | None:
    """Why the trial's latest run could not be written, where that is known."""
    trouble = _stored(trial_directory).get("trouble")
    return None if trouble is None else str(trouble)


def write_record(trial_directory: Path, runs: Sequence[RunRecord], trouble: str | None = None) -> None:
    """Replaces the record of a trial in one step."""
    trial_directory.mkdir(parents=True, exist_ok=True)
    content = {"runs": [vars(run) for run in runs], **({} if trouble is None else {"trouble": trouble})}
    atomic.write(trial_directory / RECORD_FILE, json.dumps(content, indent=1) + "\n")


def note_trouble(trial_directory: Path, trouble: str) -> None:
    """Adds to a trial's record why its latest run could not be written."""
    write_record(trial_directory, read_record(trial_directory), trouble)


def tag_mark(study_directory: Path, run_id: str) -> Path:
    """The file that says that a run is tagged as superseded."""
    return study_directory / "wandb" / SUPERSEDED / run_id


def mark_tagged(study_directory: Path, run_id: str) -> None:
    """Notes that a run is tagged as superseded."""
    mark = tag_mark(study_directory, run_id)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
