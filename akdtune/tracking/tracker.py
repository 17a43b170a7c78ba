"""Weights & Biases, written from the trial's own process: one run per trial and attempt, under `<study>/wandb`.

A thread of its own owns the run, so that neither a slow start, nor a lost network, nor a slow close holds up training.
What goes wrong here becomes one line of the trial's log. Parquet stays the truth: a new attempt's run first replays
the stored rows, and a run that could not be written is made from them later.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from akdtune.tracking.child import ANSWER_S, Answer
from akdtune.tracking.mode import Mode, environment, give_up, key_place, mode_of_trial, reason, server
from akdtune.tracking.record import (
    SUPERSEDED,
    RunRecord,
    mark_tagged,
    note_trouble,
    read_record,
    read_trouble,
    write_record,
)

INIT_TIMEOUT_S = 20.0
INTERRUPTED_FINISH_S = 2.0
"""After Ctrl-C closing gets no more than this, whatever `finish_timeout_s` says."""

STORED_FINISH_S = 30.0
"""How long writing a run from stored rows may take to close: nobody trains meanwhile."""

ENDED_WELL = frozenset({"done", "pruned", "diverged"})
GROUP_CHARACTERS = 128
"""A longer name of a group Weights & Biases refuses; the whole name of a cell is in the run's config."""

_HEADER_BYTES = 7
"""A transaction log without a record."""

_PLACE = ("study", "trial_id", "cell_id", "cell", "arm", "role", "seed")
"""What says where a run belongs."""


def prepare(mode: Mode) -> None:
    """Loads the SDK, once per process, in an environment that cannot disturb it; what goes wrong, each run says."""
    if mode == "disabled":
        return
    kept = environment(mode)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    for name, value in kept.items():
        if os.environ.get(name) != value:  # else nothing is set while other threads may read
            os.environ[name] = value
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
        self._mode: Mode = "disabled"
        self._again = ""
        self._left = threading.Event()

    @property
    def run_id(self) -> str:
        """The run's id on the server: a run per trial and attempt."""
        study = self._trial.get("study_uid")  # the same configuration may be a trial of several studies
        return "-".join([*([study] if study else []), self._trial["trial_id"], f"a{self._attempt}{self._again}"])

    @property
    def _directory(self) -> Path:
        return self._root / "trials" / str(self._trial["trial_id"])

    def start(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Opens the run and replays the rows of earlier attempts, so that the newest run holds the whole curve."""
        self._mode = mode_of_trial(self._settings, self._root)
        if self._mode == "disabled":
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
            self._left.set()
            if status != "interrupted":
                self._lost_server(f"it did not take a run within {bound:g} s")
        self._thread = None

    def _lost_server(self, why: str) -> None:
        """Lets later trials write offline, where this one had a key and was to be online."""
        if self._mode == "online" and key_place() is not None:
            give_up(self._root, f"{server()}: {why}")

    def _work(self) -> None:
        """The thread: one run from its start to its end."""
        try:
            run = self._open()
            step = -1
            while not isinstance(job := self._jobs.get(), _Finish):
                step = self._log(run, job, step)
            self._close(run, job, step)
        except Exception as error:  # tracking must not cost a trial
            _say(f"run {self.run_id} stopped: {type(error).__name__}: {reason(error)}")
            self._lost_server(reason(error))
            with contextlib.suppress(OSError):
                note_trouble(self._directory, f"{type(error).__name__}: {reason(error)}")

    def _open(self) -> Any:
        prepare(self._mode)
        try:
            run = self._init(self._mode)
        except Exception as error:
            if self._mode != "online" or self._left.is_set():
                raise
            self._lost_server(reason(error))
            _say(f"the server did not take run {self.run_id} ({reason(error)}); it is written offline")
            self._mode, self._again = "offline", "b"  # the SDK holds on to the id of the run that failed
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
            group=_shortened(trial.get("cell") or trial["arm"]),
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
        known_runs = read_record(self._directory)
        earlier = [known for known in known_runs if known.attempt < self._attempt]
        if any(known.attempt > self._attempt for known in known_runs):
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
        write_record(self._directory, [*earlier, own])
        late = [known for known in earlier if known.mode == "online"]
        if late and own.mode == "online" and not finished:
            threading.Thread(target=_tag_quietly, args=(self._root, late), daemon=True).start()


def write_stored(trial: Mapping[str, Any], settings: Mapping[str, Any], root: Path) -> Answer:
    """Writes the run of a trial that has none from what is stored, offline; in a process where nobody trains.

    Args:
        trial: as a tracker takes it, and `attempt`, `status`, `rows`.
        settings: the study's tracking section.
        root: the study directory.

    Returns:
        `id` of the trial, and `error`, None where the run is whole.
    """
    rows = trial["rows"]
    own = {**settings, "wandb": {**settings["wandb"], "mode": "offline"}, "finish_timeout_s": STORED_FINISH_S}
    tracker = Tracker(own, trial, root, trial["attempt"])
    tracker.start(rows)
    tracker.finish(trial["status"], rows[-1] if rows else {})
    run = next((run for run in read_record(tracker._directory) if run.id == tracker.run_id), None)
    if run is None or not run.is_whole(root):
        return {"id": trial["trial_id"], "error": read_trouble(tracker._directory) or "it did not close"}
    for folder in (root / "wandb").glob(f"*-{tracker.run_id}*"):  # halves of the same attempt
        if folder.name.endswith((tracker.run_id, f"{tracker.run_id}b")) and folder != root / run.directory:
            shutil.rmtree(folder, ignore_errors=True)
    return {"id": trial["trial_id"], "error": None}


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
        "finish_timeout_raises": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
    }
    return {name: value for name, value in wanted.items() if name in known}


def _shortened(name: str) -> str:
    return name if len(name) <= GROUP_CHARACTERS else name[: GROUP_CHARACTERS - 3] + "..."


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


def _tag_quietly(root: Path, runs: Sequence[RunRecord]) -> None:
    """Tags from a running trial; `sync` tags what fails here."""
    with contextlib.suppress(Exception):
        for answer in tag_runs({run.id: run.path for run in runs}, SUPERSEDED):
            if answer["error"] is None:
                mark_tagged(root, answer["id"])


def tag_runs(paths: Mapping[str, str], tag: str) -> Iterator[Answer]:
    """Adds a tag to runs on the server.

    Args:
        paths: id: entity/project/id.
        tag: as a text.
    """
    import wandb  # late: loaded where tracking is on

    api = wandb.Api(timeout=int(ANSWER_S))
    for run_id, path in paths.items():
        try:
            remote: Any = api.run(path)
            remote.tags = sorted({*remote.tags, tag})
            remote.update()
            yield {"id": run_id, "error": None}
        except Exception as error:  # the SDK raises many kinds; the next sync tries again
            yield {"id": run_id, "error": reason(error)}
