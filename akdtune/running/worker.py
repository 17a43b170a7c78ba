"""Ray's side of a trial: plain JSON in, files in the trial directory, small rows out.

Everything a trial must leave on disk is written before each report, because a pruned trial gets SystemExit inside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from akdtune.devices import ready_to_train, resolve_device
from akdtune.errors import AkdtuneError
from akdtune.records.lock_file import study_uid
from akdtune.records.trial_directory import Superseded, TrialDirectory
from akdtune.registry import load_plugins
from akdtune.running.failures import Fault, as_the_driver_did, disk_refusal, of_unseen_directory, outside, spoils
from akdtune.running.saved_states import built_to_go_on, resumed
from akdtune.running.trial_log import EpochLines, captured
from akdtune.running.trial_writer import Limits, TrialWriter
from akdtune.settings.data import data_settings
from akdtune.settings.teacher import TeacherSettings
from akdtune.tracking.tracker import Tracker, prepare
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Diverged, Interrupted, TrialLoop
from akdtune.training.request import TrialRequest
from akdtune.training.task import task_of
from akdtune.training.teachers import train_teachers
from akdtune.training.trial import trial_of

SAME_ERROR_LIMIT = 2
TRIES = 3
VISIBLE_WITHIN_S = 10.0
"""How long a worker waits for the study directory, which a network file system may show late."""

Report = Callable[[dict[str, Any]], None]


class SpoiledProcess(Exception):
    """An earlier trial lost the GPU or ran out of memory in this process: Ray gives the next one a new process."""


_spoiled = False


def run_trial(config: dict[str, Any]) -> None:
    """The function that Ray Tune calls; `config["trial"]` is what the trial is asked, as JSON text."""
    if _spoiled:
        raise SpoiledProcess
    request = TrialRequest.parse(json.loads(config["trial"]))
    outcome = execute(request, tune.report, stop_check(request.root, request.stop_flag, request.stop_actor))
    tune.report({"trial": request.trial_id, **outcome})


def train_teacher(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Trains the study's teacher as a Ray task, yielding a row per epoch; the last holds the finished teacher.

    Each row says which `host` it comes from.

    Args:
        request: plain JSON: `data` and `teacher` settings, `train_on`, `plugins`, `plugin_folders`, `cpu`, `root` and
            `stop_flag`.
    """

    ready_to_train(request["cpu"])
    load_plugins(request["plugins"], request["plugin_folders"])
    device = resolve_device("auto")
    dataset = task_of(request).load(data_settings(request["data"]), device)
    settings = TeacherSettings(**request["teacher"])
    should_stop = stop_check(request["root"], request["stop_flag"])
    for row in train_teachers(settings, dataset, request["train_on"], device, should_stop):
        yield {**row, "host": socket.gethostname()}


def execute(
    request: TrialRequest, report: Report, should_stop: Callable[[], bool], limits: Limits | None = None
) -> dict[str, Any]:
    """Runs one trial to an outcome; an error of the trial itself is retried once from its checkpoint.

    What stands outside the trial interrupts it at its last saved state.

    Args:
        request: what it is asked.
        report: takes its rows.
        should_stop: asked once per step.
        limits: how often it writes and reports.

    Returns:
        {"outcome": done | diverged | interrupted | failed, "epoch": last finished epoch, ...}; with `fault`,
        a `Fault` as plain JSON, where it met something outside, or `disk`, what the study directory's disk said.
    """
    if (unseen := _unseen(request)) is not None:  # before anything is made there
        return _interrupted(0, unseen)
    directory = TrialDirectory(Path(request.root) / "trials" / request.trial_id)
    try:
        directory.path.mkdir(parents=True, exist_ok=True)
        with captured(directory.log):
            return _tried(request, directory, report, should_stop, limits)
    except Superseded:
        raise  # a later attempt goes on
    except Exception as error:
        _note_spoiled(error)
        if (refused := disk_refusal(error, Path(request.root))) is not None:
            return {"outcome": "interrupted", "epoch": 0, "disk": refused}
        if (fault := outside(error)) is None:
            raise
        return _interrupted(_finished(directory), fault)


def _tried(
    request: TrialRequest,
    directory: TrialDirectory,
    report: Report,
    should_stop: Callable[[], bool],
    limits: Limits | None,
) -> dict[str, Any]:
    """Attempts until one comes to an outcome; the trial's own error ends it when it is raised again."""
    seen: dict[str, int] = {}
    ready_to_train(request.cpu)
    _load_libraries(request)
    for _ in range(TRIES):
        try:
            return _attempt(request, directory, report, should_stop, limits)
        except Superseded:
            raise
        except Exception as error:
            fault = outside(error)
            with contextlib.suppress(OSError):  # a full disk takes no log either
                traceback.print_exc()
                if fault is not None:
                    print(f"interrupted: {fault.cause}; {fault.remedy}")
            if fault is not None:
                raise
            _note_spoiled(error)
            signature = _signature(error)
            seen[signature] = seen.get(signature, 0) + 1
            if seen[signature] >= SAME_ERROR_LIMIT or _spoiled:
                break
    outcome = {"outcome": "failed", "epoch": _finished(directory), "error": signature}
    directory.write_outcome({**outcome, "trial_id": request.trial_id})
    return outcome


def _interrupted(epoch: int, fault: Fault) -> dict[str, Any]:
    return {"outcome": "interrupted", "epoch": epoch, "fault": fault.plain()}


def _finished(directory: TrialDirectory) -> int:
    """Epochs of a trial that are on disk, 0 where that cannot be read."""
    try:
        return directory.rows_written()
    except (OSError, AkdtuneError):
        return 0


def _note_spoiled(error: BaseException) -> None:
    global _spoiled
    _spoiled = _spoiled or spoils(error)


def _unseen(request: TrialRequest) -> Fault | None:
    """What this node sees where the study directory should be, if it is not that; waits for a slow file system."""
    if not request.study_uid:
        return None
    until = time.monotonic() + VISIBLE_WITHIN_S
    while (found := study_uid(request.root)) != request.study_uid:
        if found is not None or time.monotonic() >= until:
            met = "is not visible" if found is None else f"holds another study (uid {found}, not {request.study_uid})"
            return of_unseen_directory(request.root, met)
        time.sleep(min(0.1, VISIBLE_WITHIN_S))
    return None


def _attempt(
    request: TrialRequest,
    directory: TrialDirectory,
    report: Report,
    should_stop: Callable[[], bool],
    limits: Limits | None,
) -> dict[str, Any]:

    attempt = directory.take_attempt()
    now, arm, role = time.strftime("%F %T"), request.arm, request.role
    print(f"{now} attempt {attempt} of {request.trial_id} ({arm}, {role}), pid {os.getpid()}")
    begins = resumed(directory, request.trial_id)
    with contextlib.suppress(OSError):  # nothing depends on it; a disk that is full is said by what does
        directory.describe(request.alone().plain())
    tracker = Tracker(request.tracking, request.plain(), Path(request.root), attempt)
    tracker.start()
    _give_memory_back()
    forget_memory_peak()
    status, writer = "interrupted", None
    try:
        live, begins = built_to_go_on(directory, begins, lambda: _prepared(request))
        tracker.declare(live.columns, begins.rows)
        writer = TrialWriter(request, directory, begins, report, tracker.log, limits)
        say = EpochLines(live.epochs, live.config.task.metric)
        try:
            for epoch in live.run(begins.state, should_stop, request.trial_id):
                say(epoch)
                writer.finished(epoch)
        except Interrupted:
            writer.save()
            return {"outcome": "interrupted", "epoch": len(writer.rows)}
        except Diverged as error:
            print(f"diverged: {error}")
            status = "diverged"
            return writer.diverged(error.epoch)
        except Exception:
            writer.write()  # epochs that were finished since the last report count as well
            raise
        status = "done"
        outcome = writer.close(live)
        if "warning" in outcome:
            print(f"warning: {outcome['warning']}")
        return outcome
    except SystemExit:
        status = "pruned"
        raise
    except Exception as error:
        status = "failed" if outside(error) is None else "interrupted"
        raise
    except BaseException:
        status = "failed"
        raise
    finally:
        rows = begins.rows if writer is None else writer.rows
        if writer is None:
            tracker.declare((), rows)
        tracker.finish(status, rows[-1] if rows else {})
        directory.close_attempt()


def _prepared(request: TrialRequest) -> TrialLoop:
    """A trial with all that it is made of; what the driver had and this node lacks is said so."""
    with as_the_driver_did("plug-ins and settings", "install the same packages and plug-ins on every node"):
        config = TrialConfig.parse(request)
    with as_the_driver_did("data", "make the data visible on every node, under the same path and unchanged"):
        dataset = config.task.load(config.data, resolve_device(config.training.device))
    return trial_of(config, dataset=dataset)


def _signature(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def _load_libraries(request: TrialRequest) -> None:
    """Loads what the first trial of a process would else load amid its training, one thread holding up the other."""
    with contextlib.suppress(Exception):  # what is wrong with them is said where the trial is prepared
        load_plugins(request.plugins, request.plugin_folders)  # they may bring loggers
    prepare(request.tracking, Path(request.root))


def _give_memory_back() -> None:
    """Returns to the system what earlier trials of this process freed: the C library keeps hundreds of MiB of it."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()  # the processes of other trials may share the GPU


def forget_memory_peak() -> None:
    """Lets kernel and GPU count the peak anew: else `peak_memory_mib` is that of the process's largest trial so far."""
    with contextlib.suppress(OSError):  # not Linux, or not allowed here
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()


def stop_check(root: str, stop_flag: str, stop_actor: str | None = None) -> Callable[[], bool]:
    """`should_stop` for one trial: the flag file of the study, or the named actor of a cluster study."""
    flag = Path(root) / stop_flag
    return _polled(flag.exists, 0.05) if not stop_actor else _polled(_ask_actor(stop_actor), 0.5)


def _polled(ask: Callable[[], bool], every_s: float) -> Callable[[], bool]:
    asked, answer = -math.inf, False

    def should_stop() -> bool:
        nonlocal asked, answer
        now = time.monotonic()
        if not answer and now - asked >= every_s:
            asked, answer = now, ask()
        return answer

    return should_stop


def _ask_actor(name: str) -> Callable[[], bool]:

    actor = ray.get_actor(name)
    pending: list[Any] = []

    def ask() -> bool:
        if not pending:
            pending.append(actor.stopped.remote())
        ready, _ = ray.wait(pending, timeout=0)
        if not ready:
            return False
        pending.clear()
        return bool(ray.get(ready[0]))

    return ask


def main() -> int:
    """Runs one trial from a JSON file without Ray: `python -m akdtune.running.worker TRIAL.json`."""
    request = TrialRequest.parse(json.loads(Path(sys.argv[1]).read_text()))
    should_stop = stop_check(request.root, request.stop_flag, request.stop_actor)
    outcome = execute(request, lambda row: print(json.dumps(row)), should_stop)
    print(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
