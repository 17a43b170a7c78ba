"""Ray's side of a trial: plain JSON in, files in the trial directory, small rows out.

Everything a trial must leave on disk is written before each report, because a pruned trial gets SystemExit inside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from akdtune.data.dataset import load_data
from akdtune.devices import resolve_device
from akdtune.records.trial_directory import Superseded, TrialDirectory
from akdtune.registry import load_plugins
from akdtune.running.tracking import Tracker, prepare
from akdtune.running.tracking_mode import mode_of_trial
from akdtune.running.trial_writer import Limits, TrialWriter, resumed
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.training.config import TrialConfig
from akdtune.training.request import TrialRequest
from akdtune.training.teachers import train_teachers
from akdtune.training.trial import Diverged, Interrupted, Trial

SAME_ERROR_LIMIT = 2
TRIES = 3

Report = Callable[[dict[str, Any]], None]


def run_trial(config: dict[str, Any]) -> None:
    """The function that Ray Tune calls; `config["trial"]` is what the trial is asked, as JSON text."""
    request = TrialRequest.parse(json.loads(config["trial"]))
    try:
        outcome = execute(request, tune.report, stop_check(request.root, request.stop_flag, request.stop_actor))
    except Exception as error:
        if (refused := _disk_refusal(error)) is None:
            raise
        outcome = {"outcome": "interrupted", "epoch": 0, "disk": refused}
    tune.report({"trial": request.trial_id, **outcome})


def train_teacher(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Trains the study's teacher as a Ray task, yielding a row per epoch; the last holds the finished teacher.

    Args:
        request: plain JSON: `data` and `teacher` settings, `train_on`, `plugins`, `plugin_folders`, `cpu`, `root` and
            `stop_flag`.
    """

    _one_thread_per_cpu(request["cpu"])
    load_plugins(request["plugins"], request["plugin_folders"])
    device = resolve_device("auto")
    dataset = load_data(DataSettings(**request["data"]), device)
    settings = TeacherSettings(**request["teacher"])
    should_stop = stop_check(request["root"], request["stop_flag"])
    yield from train_teachers(settings, dataset, request["train_on"], device, should_stop)


def execute(
    request: TrialRequest, report: Report, should_stop: Callable[[], bool], limits: Limits | None = None
) -> dict[str, Any]:
    """Runs one trial to an outcome; an error of the trial itself is retried once from its checkpoint.

    Args:
        request: what it is asked.
        report: takes its rows.
        should_stop: asked once per step.
        limits: how often it writes and reports.

    Returns:
        {"outcome": done | diverged | interrupted | failed, "epoch": last finished epoch, ...}.
    """
    directory = TrialDirectory(Path(request.root) / "trials" / request.trial_id)
    directory.path.mkdir(parents=True, exist_ok=True)
    seen: dict[str, int] = {}
    with _captured(directory.log):
        _one_thread_per_cpu(request.cpu)
        _load_libraries(request.tracking, Path(request.root))
        for _ in range(TRIES):
            try:
                return _attempt(request, directory, report, should_stop, limits)
            except (MemoryError, Superseded):
                raise  # not this trial's fault: Ray retries, or a later attempt goes on
            except Exception as error:
                if _disk_refusal(error) is not None:
                    raise
                traceback.print_exc()
                signature = _signature(error)
                seen[signature] = seen.get(signature, 0) + 1
                if seen[signature] >= SAME_ERROR_LIMIT:
                    break
        outcome = {"outcome": "failed", "epoch": len(directory.read_rows()), "error": signature}
        directory.write_outcome(outcome)
        return outcome


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
    state, rows = resumed(directory)
    tracker = Tracker(request.tracking, request.plain(), Path(request.root), attempt)
    tracker.start(rows)
    _give_memory_back()
    forget_memory_peak()
    status, writer = "interrupted", None
    try:
        writer = TrialWriter(request, directory, rows, report, tracker.log, limits)
        live = Trial(TrialConfig.parse(request))
        directory.columns = live.columns
        try:
            for epoch in live.run(state, should_stop, request.trial_id):
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
    except BaseException:
        status = "failed"
        raise
    finally:
        rows = rows if writer is None else writer.rows
        tracker.finish(status, rows[-1] if rows else {})
        directory.close_attempt()


def _disk_refusal(error: BaseException | None) -> str | None:
    """What a full or read-only disk said, if that is what stands behind an error: no fault of the trial's."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None


def _signature(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def _one_thread_per_cpu(cpu: float) -> None:

    torch.set_num_threads(max(1, int(cpu)))


def _load_libraries(tracking: Mapping[str, Any], root: Path) -> None:
    """Loads what the first trial of a process would else load amid its training, one thread holding up the other."""

    torch.optim.SGD([torch.zeros(1)], lr=0.0)  # with its first optimiser torch loads its compiler: two seconds
    prepare(mode_of_trial(tracking, root))


def _give_memory_back() -> None:
    """Returns to the system what earlier trials of this process freed: the C library keeps hundreds of MiB of it."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def forget_memory_peak() -> None:
    """Lets the kernel count this process's peak anew: else `peak_memory_mib` is that of the largest trial so far."""
    with contextlib.suppress(OSError):  # not Linux, or not allowed here
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def _captured(log: Path) -> Iterator[None]:
    """Sends what the trial prints and warns to its log file."""
    with (
        log.open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


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
