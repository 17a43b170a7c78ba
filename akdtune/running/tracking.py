"""Weights & Biases, written from the trial's own process: one run per trial and attempt, under `<study>/wandb`.

A thread of its own owns the run, so that neither a slow start, nor a lost network, nor a slow close holds up training.
What goes wrong here becomes one line of the trial's log. Parquet stays the truth: a new attempt's run first replays
the stored rows, and `sync` uploads what was written offline.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from akdtune.errors import AkdtuneError
from akdtune.running.tracking_record import RunRecord, has_key, read_record, write_record

SUPERSEDED = "superseded"
INIT_TIMEOUT_S = 20.0
INTERRUPTED_FINISH_S = 2.0
"""After Ctrl-C closing gets no more than this, whatever `finish_timeout_s` says."""

ENDED_WELL = frozenset({"done", "pruned", "diverged"})
_HEADER_BYTES = 7
"""A transaction log without a record."""

SYNC_CHUNK = 100
"""Runs handed to one `wandb sync` process."""

Mode = Literal["online", "offline", "disabled"]

unreachable = threading.Event()
"""Set when the server did not answer once in this process: later trials in it write offline without trying."""


class TrackingError(AkdtuneError):
    """Runs that cannot be uploaded, for a reason the user can mend."""


def resolve_mode(settings: Mapping[str, Any]) -> Mode:
    """`online`, `offline` or `disabled` for this process.

    `auto` follows the environment variable WANDB_MODE where it is set, else it is online with an API key, and offline
    without one.
    """
    wandb_settings = settings.get("wandb")
    if not wandb_settings:
        return "disabled"
    mode = str(wandb_settings.get("mode", "auto"))
    if mode == "auto":
        asked = os.environ.get("WANDB_MODE", "")
        mode = asked if asked in ("online", "offline", "disabled") else ("online" if has_key() else "offline")
    return "offline" if mode == "online" and unreachable.is_set() else cast(Mode, mode)


def notice(settings: Mapping[str, Any]) -> str | None:
    """One line for the start of a study when its runs are written offline, None otherwise."""
    if resolve_mode(settings) != "offline":
        return None
    why = "as asked" if has_key() else "no API key found (WANDB_API_KEY or ~/.netrc)"
    return f"Weights & Biases: runs are written offline, {why}; `akdtune wandb sync RUN` uploads them"


_PLACE = ("study", "trial_id", "cell_id", "cell", "arm", "role", "seed")
"""What says where a run belongs."""


def prepare(settings: Mapping[str, Any]) -> None:
    """Loads the SDK, once per process; what goes wrong with it, each run says for itself."""
    if resolve_mode(settings) != "disabled":
        with contextlib.suppress(Exception):
            import wandb  # noqa: F401  # late: a study without tracking does not load it


class _Finish(NamedTuple):
    status: str
    summary: Mapping[str, Any]


class Tracker:
    """One attempt of one trial in Weights & Biases: `start`, `log` per epoch, `finish`; none of them ever raises."""

    def __init__(
        self, settings: Mapping[str, Any], trial: Mapping[str, Any], study_directory: Path, attempt: int
    ) -> None:
        """Prepares; nothing is imported, written or sent before `start`.

        Args:
            settings: the study's tracking section as a plain mapping.
            trial: `study`, `trial_id`, `cell_id`, `arm`, `role`, `seed`, `settings`, `params`.
            study_directory: runs land under its `wandb` folder.
            attempt: number of this execution of the trial, from 1.
        """
        self._settings = settings
        self._trial = trial
        self._root = Path(study_directory)
        self._attempt = attempt
        self._jobs: queue.SimpleQueue[Mapping[str, Any] | _Finish] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def run_id(self) -> str:
        """The run's id on the server: a run per trial and attempt."""
        study = self._trial.get("study_uid")  # the same configuration may be a trial of several studies
        return "-".join([*([study] if study else []), self._trial["trial_id"], f"a{self._attempt}"])

    def start(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Opens the run and replays the rows of earlier attempts, so that the newest run holds the whole curve."""
        if resolve_mode(self._settings) == "disabled":
            return
        self._thread = threading.Thread(target=self._work, name=f"wandb {self.run_id}", daemon=True)
        self._thread.start()
        for row in rows:
            self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Sends one epoch row; its `epoch` is the step, and only its numbers are metrics."""
        if self._thread is not None:
            self._jobs.put(dict(row))

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Closes the run, waiting `finish_timeout_s` at most (2 s when interrupted).

        Args:
            status: done | pruned | diverged | failed | interrupted.
            summary: the trial's last row; numbers that it adds to the row of its epoch are added to that step.
        """
        if self._thread is None:
            return
        bound = float(self._settings.get("finish_timeout_s", 5.0))
        if status == "interrupted":
            bound = min(bound, INTERRUPTED_FINISH_S)
        self._jobs.put(_Finish(status, dict(summary)))
        self._thread.join(bound)
        if self._thread.is_alive():
            _say(f"run {self.run_id} did not close within {bound:g} s; it goes on in the background")
        self._thread = None

    def _work(self) -> None:
        """The thread: one run from its start to its end."""
        try:
            run = self._open(resolve_mode(self._settings))
            step = -1
            while not isinstance(job := self._jobs.get(), _Finish):
                step = self._log(run, job, step)
            self._close(run, job, step)
        except Exception as error:  # tracking must not cost a trial
            _say(f"run {self.run_id} stopped: {type(error).__name__}: {error}")

    def _open(self, mode: Mode) -> Any:
        try:
            run = self._init(mode)
        except Exception as error:
            if mode != "online":
                raise
            unreachable.set()
            _say(f"the server did not take run {self.run_id} ({error}); this process writes offline from now on")
            run = self._init("offline")
        self._record(run, finished=False)
        return run

    def _init(self, mode: Mode) -> Any:
        import wandb  # late: a study without tracking does not load it

        trial, own = self._trial, self._settings["wandb"]
        place = {name: trial[name] for name in _PLACE if trial.get(name) is not None}
        config = {**trial["settings"], "params": trial.get("params", {}), "trial": {**place, "attempt": self._attempt}}
        return wandb.init(
            project=own.get("project"),
            entity=own.get("entity"),
            tags=list(own.get("tags") or []) or None,
            id=self.run_id,
            name=trial["trial_id"],
            group=trial.get("cell") or trial["arm"],
            job_type=trial["role"],
            config=config,
            dir=str(self._root),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(**_lean_settings(wandb.Settings.model_fields, self._settings)),
        )

    def _log(self, run: Any, row: Mapping[str, Any], step: int) -> int:
        """Logs a row and returns its step; a step that is not new is skipped (a replay may overlap)."""
        epoch = int(row["epoch"])
        if epoch <= step:
            return step
        run.log(_numbers(row), step=epoch)
        return epoch

    def _close(self, run: Any, end: _Finish, step: int) -> None:
        numbers = _numbers(end.summary)
        if step >= 0 and end.summary.get("epoch") == step:
            run.log(numbers, step=step)
        run.summary.update({**numbers, "status": end.status})
        run.finish(exit_code=0 if end.status in ENDED_WELL else 1)
        if run.offline:
            _wait_until_written(Path(run.dir).parent / f"run-{self.run_id}.wandb")
        self._record(run, finished=True)

    def _record(self, run: Any, finished: bool) -> None:
        """Notes this run in the trial's directory, and that it supersedes the runs of earlier attempts."""
        directory = self._root / "trials" / str(self._trial["trial_id"])
        earlier = [known for known in read_record(directory) if known.id != self.run_id]
        if any(known.attempt > self._attempt for known in earlier):
            return  # a later attempt owns the file now
        own = RunRecord(
            id=self.run_id,
            attempt=self._attempt,
            mode="offline" if run.offline else "online",
            directory=os.path.relpath(Path(run.dir).parent, self._root),
            project=run.project or None,
            entity=run.entity or None,
            finished=finished,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        for known in earlier:
            known.superseded_by = self.run_id
        write_record(directory, [*earlier, own])
        late = [known for known in earlier if known.mode == "online"]
        if late and own.mode == "online" and not finished:
            threading.Thread(target=_tag_quietly, args=(self._root, late), daemon=True).start()


def _wait_until_written(log: Path, quiet_polls: int = 3, poll_s: float = 0.02, bound_s: float = 2.0) -> None:
    """Waits until the SDK's service has written a run to disk: its `finish` returns before the last block is out."""
    size, quiet = _HEADER_BYTES, 0
    deadline = time.monotonic() + bound_s
    while quiet < quiet_polls and time.monotonic() < deadline:
        time.sleep(poll_s)
        now = log.stat().st_size
        quiet = quiet + 1 if now == size > _HEADER_BYTES else 0
        size = now


def _lean_settings(known: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the SDK that make a run cheap and silent; those that this version does not know are left out."""
    wanted = {
        "silent": True,
        "console": "off",
        "symlink": False,  # trials would race for `latest-run`
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "init_timeout": INIT_TIMEOUT_S,
        "finish_timeout": float(settings.get("finish_timeout_s", 5.0)),
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
    }
    return {name: value for name, value in wanted.items() if name in known}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row: its numbers, without nulls, names and the attempt."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "attempt"
    }


def _say(message: str) -> None:
    """One line in the trial's log, which is where a trial's standard error goes."""
    with contextlib.suppress(OSError, ValueError):  # the log may be closed by the time a slow run ends
        print(f"wandb: {message}", file=sys.stderr, flush=True)


@dataclass
class SyncReport:
    """What one `sync` did, as run ids."""

    uploaded: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    tagged: list[str] = field(default_factory=list)
    untagged: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """One line for the user."""
        parts = [f"{len(self.uploaded)} uploaded", f"{len(self.already)} already there"]
        parts += [f"{len(self.running)} left out because their trials still run"] if self.running else []
        parts += [f"{len(self.failed)} failed ({', '.join(self.failed[:3])})"] if self.failed else []
        parts += [f"{len(self.tagged)} tagged {SUPERSEDED}"] if self.tagged else []
        parts += [f"{len(self.untagged)} could not be tagged {SUPERSEDED}"] if self.untagged else []
        again = "; the same command tries again" if self.failed or self.untagged or self.running else ""
        return f"Weights & Biases runs: {', '.join(parts)}{again}"


def sync(run_dir: Path) -> SyncReport:
    """Uploads a study's offline runs, oldest first, and tags the runs that a later attempt superseded.

    Runs that are marked as uploaded are left alone, so the command can be repeated; runs whose trial still writes are
    left for later.

    Raises:
        TrackingError: without runs or without an API key.
    """
    runs = [run for directory in sorted((run_dir / "trials").glob("*")) for run in read_record(directory)]
    if not runs:
        raise TrackingError(f"{run_dir}: no Weights & Biases runs here (tracking.wandb is null or disabled)")
    report = SyncReport()
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
    superseded = [run for run in runs if run.superseded_by and not _tag_mark(run_dir, run).exists()]
    if not waiting and not superseded:
        return report
    if not has_key():
        raise TrackingError(
            f"{run_dir}: {len(waiting)} runs wait for upload, but there is no API key: "
            "set WANDB_API_KEY or run `wandb login`, then repeat this command"
        )
    for chunk in _chunks(waiting, SYNC_CHUNK):
        _upload([run_dir / run.directory for run in chunk])
    for run in waiting:
        (report.uploaded if run.is_uploaded(run_dir) else report.failed).append(run.id)
    there = [run for run in superseded if run.mode == "online" or run.is_uploaded(run_dir)]
    report.tagged, report.untagged = _tag(run_dir, there)
    return report


def _chunks(runs: Sequence[RunRecord], size: int) -> Iterator[Sequence[RunRecord]]:
    for start in range(0, len(runs), size):
        yield runs[start : start + size]


def _upload(directories: Sequence[Path]) -> None:
    """Hands runs to the SDK's own command, which shows its progress; success is read from its marks, not its status."""
    subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, directories)], check=False)


def _tag_mark(run_dir: Path, run: RunRecord) -> Path:
    return run_dir / "wandb" / SUPERSEDED / run.id


def _tag(run_dir: Path, runs: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """Tags runs on the server as superseded; returns the ids that were tagged and those that could not be."""
    tagged: list[str] = []
    untagged: list[str] = []
    if not runs:
        return tagged, untagged
    import wandb  # late: a study without tracking does not load it

    api = wandb.Api()
    for run in runs:
        path = "/".join(part for part in (run.entity, run.project, run.id) if part)
        try:
            remote: Any = api.run(path)
            remote.tags = sorted({*remote.tags, SUPERSEDED})
            remote.update()
        except Exception as error:  # the SDK raises many kinds; the next sync tries again
            _say(f"run {run.id} could not be tagged: {error}")
            untagged.append(run.id)
            continue
        mark = _tag_mark(run_dir, run)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        tagged.append(run.id)
    return tagged, untagged


def _tag_quietly(run_dir: Path, runs: Sequence[RunRecord]) -> None:
    """Tags from a running trial; `sync` tags what fails here."""
    with contextlib.suppress(Exception):
        _tag(run_dir, runs)
