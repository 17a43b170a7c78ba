"""What one trial leaves on disk, and who may write it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from akdtune import atomic
from akdtune.columns import Column
from akdtune.records import files
from akdtune.records.processes import is_alive


class TrialDirectory:
    """One trial's files. Each has one writer: the latest attempt; an earlier one notices and leaves.

    Attributes:
        columns: what is declared about the rows that are written; set by who knows what is measured.
    """

    def __init__(self, path: Path, attempt: int | None = None) -> None:
        self.path = path
        self.attempt = attempt
        self.columns: Sequence[Column] = ()

    @property
    def checkpoint(self) -> Path:
        """State of the last saved epoch."""
        return self.path / "checkpoint.pt"

    @property
    def epochs(self) -> Path:
        """Rows of all finished epochs."""
        return self.path / "epochs.parquet"

    @property
    def log(self) -> Path:
        """What the trial printed, warned and raised."""
        return self.path / "log.txt"

    @property
    def predictions(self) -> Path:
        """Student logits on the images the role is judged by."""
        return self.path / "predictions.parquet"

    @property
    def outcome(self) -> Path:
        """How the trial ended; written after every other file."""
        return self.path / "outcome.json"

    def take_attempt(self) -> int:
        """Takes the next attempt number, exclusively, and makes this object its writer."""
        folder = self.path / "attempts"
        folder.mkdir(parents=True, exist_ok=True)
        number = self.latest_attempt() + 1
        while True:
            try:
                with (folder / f"{number}.json").open("x") as file:
                    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}, file)
            except FileExistsError:
                number += 1
                continue
            self.attempt = number
            return number

    def close_attempt(self) -> None:
        """Marks this attempt as left behind: its tracking is closed, nothing of it runs any more."""
        (self.path / "attempts" / f"{self.attempt}.closed").touch()

    def is_closing(self) -> bool:
        """Whether the latest attempt lives and has not closed yet; a pruned one closes after its last report."""
        closed = self.path / "attempts" / f"{self.latest_attempt()}.closed"
        return not closed.exists() and self.running_process() is not None

    def latest_attempt(self) -> int:
        """The highest attempt number taken, 0 for none."""
        folder = self.path / "attempts"
        numbers = [int(file.stem) for file in folder.glob("*.json")] if folder.is_dir() else []
        return max(numbers, default=0)

    def check_latest(self) -> None:
        """Raises Superseded when a later attempt has started."""
        if self.attempt is not None and (self.path / "attempts" / f"{self.attempt + 1}.json").exists():
            raise Superseded(f"attempt {self.attempt} of {self.path.name} was superseded")

    @contextmanager
    def replacing(self, target: Path) -> Iterator[Path]:
        """Gives a temporary path to write, and renames it over `target` if this attempt is still the latest."""
        with atomic.beside(target, self.check_latest) as temporary:
            yield temporary

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replaces epochs.parquet."""
        with self.replacing(self.epochs) as temporary:
            files.write_rows(temporary, rows, declared=self.columns)

    def read_rows(self) -> list[dict[str, Any]]:
        """Rows of all finished epochs; empty before the first."""
        return files.read_rows(self.epochs) if self.epochs.exists() else []

    def rows_written(self) -> int:
        """How many epochs are on disk."""
        return files.count_rows(self.epochs) if self.epochs.exists() else 0

    def write_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Writes how the trial ended, last of all its files."""
        with self.replacing(self.outcome) as temporary:
            temporary.write_text(json.dumps(outcome))

    def read_outcome(self) -> dict[str, Any] | None:
        """How the trial ended, None while it has not."""
        return json.loads(self.outcome.read_text()) if self.outcome.exists() else None

    def latest_host(self) -> str:
        """The node of the latest attempt, empty where that is not known."""
        try:
            held = json.loads((self.path / "attempts" / f"{self.latest_attempt()}.json").read_text())
            return str(held["host"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def running_process(self) -> int | None:
        """Process id of the latest attempt if it still lives on this machine."""
        latest = self.path / "attempts" / f"{self.latest_attempt()}.json"
        try:
            record = json.loads(latest.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        pid = int(record["pid"])
        if record["host"] != socket.gethostname() or not is_alive(pid, float(record["started"])):
            return None
        return pid


class Superseded(Exception):
    """A later attempt of the same trial has started; this one leaves without writing."""
