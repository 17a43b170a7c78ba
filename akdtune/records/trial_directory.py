"""What one trial leaves on disk, and who may write it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from akdtune import atomic
from akdtune.columns import Column
from akdtune.errors import StudyError
from akdtune.records import check_words, files, recorded_files
from akdtune.records.processes import born, living
from akdtune.records.shapes import check_shape, read_json
from akdtune.roles import TERMINAL


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
        return self.path / recorded_files.PREDICTIONS

    @property
    def description(self) -> Path:
        """What the trial is asked: its settings, seeds and teacher."""
        return self.path / "trial.json"

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
                    json.dump(_this_process(), file)
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
        names = [file.stem for file in folder.glob("*.json")] if folder.is_dir() else []
        return max((int(name) for name in names if _NUMBER.fullmatch(name)), default=0)

    def check_latest(self) -> None:
        """Raises Superseded when a later attempt has started."""
        if self.attempt is not None and (self.path / "attempts" / f"{self.attempt + 1}.json").exists():
            raise Superseded(f"attempt {self.attempt} of {self.path.name} was superseded")

    @contextmanager
    def replacing(self, target: Path) -> Iterator[Path]:
        """Gives a temporary path to write, and renames it over `target` if this attempt is still the latest."""
        with atomic.beside(target, self.check_latest, durable=True) as temporary:
            yield temporary

    def describe(self, asked: Mapping[str, Any]) -> None:
        """Writes what the trial is asked, as plain JSON from which it can be trained again; nothing else reads it."""
        text = json.dumps(asked, indent=1, allow_nan=False) + "\n"
        with contextlib.suppress(FileNotFoundError):
            if self.description.read_text(encoding="utf-8") == text:
                return
        atomic.write(self.description, text)

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
        sealed = {**outcome, "files": self._digests()}
        with self.replacing(self.outcome) as temporary:
            temporary.write_text(check_words.with_check(json.dumps(sealed)))

    def _digests(self) -> dict[str, list[int | str]]:
        """Size and digest of each file that belongs to the outcome."""
        names = (self.epochs.name, *recorded_files.OF_TRIAL)
        there = (path for path in map(self.path.joinpath, names) if path.exists())
        return {path.name: [path.stat().st_size, digest_of(path)] for path in there}

    def read_outcome(self) -> dict[str, Any] | None:
        """How the trial ended, None while it has not.

        Raises:
            StudyError: for a file that is not what `write_outcome` writes, or has been changed since.
        """
        outcome = _checked(read_json(self.outcome), self.outcome)
        if outcome is None or outcome.pop(check_words.CHECK, None) is None:
            return outcome  # of an earlier version
        if not check_words.holds(self.outcome.read_bytes()):
            raise StudyError(f"{self.outcome}: damaged, it was changed after the trial wrote it (its check word says)")
        return outcome

    def outcome_as_it_stands(self) -> dict[str, Any] | None:
        """What outcome.json holds, whatever its check word says; None where that cannot be read."""
        with contextlib.suppress(StudyError):
            return read_json(self.outcome)
        return None

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
            record = read_json(latest)
        except StudyError:
            return None
        started = None if record is None else record.get("started")
        return None if record is None else living(record, started if isinstance(started, float) else None)


_NUMBER = re.compile(r"[0-9]{1,9}")

_OUTCOME: dict[str, Any] = {
    "outcome": str, "epoch": int, "streams": int, "train_images": int, "test_accuracy": (float, None),
    "test_value": (float, None), "warning": (str, None), "error": (str, None), "diverged_in": (int, None),
    "trained_on": (dict, None),
    "reused_from": (str, None), "trial_id": str, "files": dict,
}  # fmt: skip


def _checked(outcome: dict[str, Any] | None, path: Path) -> dict[str, Any] | None:
    if outcome is not None:
        check_shape(path, outcome, _OUTCOME, ("outcome", "epoch"))
        if outcome["outcome"] not in TERMINAL:
            raise StudyError(f"{path}: damaged, outcome '{outcome['outcome']}' is none of {', '.join(TERMINAL)}")
    return outcome


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": time.time(), "born": born(pid)}


def digest_of(path: Path) -> str:
    """Hash of a file's bytes, 32 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:32]


class Superseded(Exception):
    """A later attempt of the same trial has started; this one leaves without writing."""
