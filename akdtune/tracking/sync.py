"""Uploads what a study wrote offline, once; names what is missing, and ends where the server does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from akdtune import progress
from akdtune.errors import AkdtuneError
from akdtune.reports.text import counted
from akdtune.tracking.child import ANSWER_S, START_S, Answer, Child, Probe, TooLong, project_url
from akdtune.tracking.missing import (
    missing_runs,
    save_view,
    study_run_is_due,
    tracked_as,
    write_missing,
    write_study_run,
)
from akdtune.tracking.mode import environment, key_place
from akdtune.tracking.record import SUPERSEDED, RunRecord, mark_tagged, read_record, tag_mark

SYNC_CHUNK = 100
"""Runs handed to one `wandb sync` process."""

STALL_S = 60.0
"""An upload in which no run is finished for so long is ended."""

_POLL_S = 0.2
_NAMED = 3


class TrackingError(AkdtuneError):
    """Runs that cannot be uploaded, for a reason the user can mend."""


@dataclass
class SyncReport:
    """What one `sync` did, as run ids; trials without a run by trial id.

    Attributes:
        own: why the study's own run or its view could not be made.
        url: the project's page, where something was uploaded.
    """

    uploaded: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    tagged: list[str] = field(default_factory=list)
    untagged: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    own: str | None = None
    url: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do but for trials that still run."""
        return not (self.failed or self.untagged or self.missing or self.own)

    def sentence(self) -> str:
        """What was done, for the user; a line more for trials that had no run."""
        parts = [f"{len(self.uploaded)} uploaded", f"{len(self.already)} already there"]
        parts += [f"{len(self.running)} left out because their trials still run"] if self.running else []
        parts += [f"{len(self.failed)} failed ({', '.join(self.failed[:_NAMED])})"] if self.failed else []
        parts += [f"{len(self.tagged)} tagged {SUPERSEDED}"] if self.tagged else []
        parts += [f"{len(self.untagged)} could not be tagged {SUPERSEDED}"] if self.untagged else []
        again = "; the same command tries again" if not self.complete or self.running else ""
        return "\n".join([f"Weights & Biases runs: {', '.join(parts)}{again}", *self._about_missing()])

    def _about_missing(self) -> Iterator[str]:
        if self.written:
            yield f"made from stored rows, as their trials left none: {named(self.written)}"
        if self.missing:
            yield f"trials without a run: {named(self.missing)}"
        if self.own is not None:
            yield f"warning: the study's own run: {self.own}"
        if self.url is not None:
            yield self.url


def named(trials: Mapping[str, str]) -> str:
    """How many trials, and why, the first few by name: `2 (a: no space left; b: its process ended)`."""
    shown = "; ".join(f"{trial}: {why}" for trial, why in list(trials.items())[:_NAMED])
    return f"{len(trials)} ({shown}{'; ...' if len(trials) > _NAMED else ''})"


def sync(run_dir: Path) -> SyncReport:
    """Uploads a study's offline runs, oldest first, and tags the runs that a later attempt superseded.

    Trials that left no whole run get one from their stored rows first. Runs that are marked as uploaded are left
    alone, so the command can be repeated; runs whose trial still writes are left for later.

    Raises:
        TrackingError: without runs, without an API key, or without a server that takes it.
    """
    report = SyncReport()
    study_runs = _study_runs(run_dir)
    with progress.stage("looking at the runs"):
        missing = missing_runs(run_dir, study_runs)
        if missing and tracked_as(run_dir):
            report.missing = write_missing(run_dir, missing)
            report.written = {trial: why for trial, why in missing.items() if trial not in report.missing}
    runs = [run for directory in sorted((run_dir / "trials").glob("*")) for run in read_record(directory)]
    if not runs and not report.missing:
        why = "no trial has been trained yet" if tracked_as(run_dir) else "tracking.wandb is null or disabled"
        raise TrackingError(f"{run_dir}: no Weights & Biases runs here ({why})")
    waiting = _sorted_in(run_dir, runs, report)
    if not study_runs and (waiting or key_place()) and tracked_as(run_dir) and study_run_is_due(run_dir):
        with progress.stage("writing the study's own run"):
            report.own = write_study_run(run_dir, "offline")  # not where it alone would ask for a key
    waiting += _sorted_in(run_dir, read_record(run_dir), report)
    superseded = [run for run in runs if run.superseded_by and not tag_mark(run_dir, run.id).exists()]
    if not waiting and not superseded:
        return report
    with progress.stage("asking the server"):
        place = _require_server(run_dir, len(waiting))
    report.url = project_url(place, tracked_as(run_dir))
    own = {run.id for run in read_record(run_dir)}
    _upload(run_dir, [run for run in waiting if run.id not in own])
    _upload(run_dir, [run for run in waiting if run.id in own])  # what its artefact meets costs no trial's run
    for run in waiting:
        (report.uploaded if run.is_uploaded(run_dir) else report.failed).append(run.id)
    if not report.failed:
        with progress.stage("tagging runs, saving the view"):
            _tag(run_dir, [run for run in superseded if run.mode == "online" or run.is_uploaded(run_dir)], report)
            report.own = report.own or save_view(run_dir, place.get("entity"))
    return report


def _study_runs(run_dir: Path) -> bool:
    """Whether a driver holds the study."""
    path = run_dir / ".lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _sorted_in(run_dir: Path, runs: Sequence[RunRecord], report: SyncReport) -> list[RunRecord]:
    """The offline runs that can be uploaded, oldest first; the others are noted."""
    waiting = []
    for run in sorted((run for run in runs if run.mode == "offline"), key=lambda run: run.directory):
        if run.is_uploaded(run_dir):
            report.already.append(run.id)
        elif run.running:
            report.running.append(run.id)
        elif not run.log_file(run_dir).exists():
            report.failed.append(run.id)
        else:
            waiting.append(run)
    return waiting


def _require_server(run_dir: Path, waiting: int) -> Answer:
    """Refuses to begin where nobody would answer; whose runs they will be."""
    runs = f"{counted(waiting, 'run')} wait{'s' * (waiting == 1)} for upload"
    if key_place() is None:
        raise TrackingError(
            f"{run_dir}: {runs}, but there is no API key: "
            "set WANDB_API_KEY or run `wandb login`, then repeat this command"
        )
    probe = Probe()
    if (refusal := probe.refusal()) is not None:
        raise TrackingError(f"{run_dir}: {runs}, but {refusal}; nothing is lost, repeat this command later")
    return probe.place


def _upload(run_dir: Path, runs: Sequence[RunRecord]) -> None:
    """Hands runs to the SDK's own command, which shows its progress; success is read from its marks, not its status.

    A server that stops answering ends it: what is not uploaded then waits for the next time.
    """
    for start in range(0, len(runs), SYNC_CHUNK):
        chunk = runs[start : start + SYNC_CHUNK]
        command = [sys.executable, "-m", "wandb", "sync", *(str(run_dir / run.directory) for run in chunk)]
        uploader = subprocess.Popen(command, env=environment("online"))
        try:
            done, since = 0, time.monotonic()
            while uploader.poll() is None:
                time.sleep(_POLL_S)
                if (now := sum(run.is_uploaded(run_dir) for run in chunk)) > done:
                    done, since = now, time.monotonic()
                if time.monotonic() - since > STALL_S:
                    return
        finally:
            uploader.kill()
            uploader.wait()


def _tag(run_dir: Path, runs: Sequence[RunRecord], report: SyncReport) -> None:
    """Tags runs on the server as superseded."""
    if not runs:
        return
    child = Child("tag", {"paths": {run.id: run.path for run in runs}, "tag": SUPERSEDED}, "online")
    left = {run.id for run in runs}
    try:
        for _ in runs:
            answer = child.answer(START_S + ANSWER_S)
            if answer["error"] is None:
                mark_tagged(run_dir, answer["id"])
                report.tagged.append(answer["id"])
                left.discard(answer["id"])
            else:
                print(f"wandb: run {answer['id']} could not be tagged: {answer['error']}", file=sys.stderr)
    except TooLong:
        pass  # the next sync tries again
    finally:
        child.end()
    report.untagged = sorted(left)
