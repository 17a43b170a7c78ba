"""Ray's side of a trial: plain JSON in, files in the trial directory, small rows out.

Everything a trial must leave on disk is written before each report, because a pruned trial gets SystemExit inside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from akdtune.ledger import Superseded, TrialDirectory
from akdtune.tracking import Tracker, prepare

CHECKPOINT_EVERY_S = 300.0
"""Between rungs, the state is saved when this much time has passed since the last save, so that a kill costs no more
than that."""

CHECKPOINT_SHARE = 0.01
"""Between rungs, saving takes no larger share of the time than this: on slow storage a large state is saved less
often."""

REPORT_EVERY_S = 1.0
"""Between rungs, finished epochs are reported together, at most this often."""

SAME_ERROR_LIMIT = 2
TRIES = 3
GATE_WARNING = 0.01

Report = Callable[[dict[str, Any]], None]


def run_trial(config: dict[str, Any]) -> None:
    """The function that Ray Tune calls; `config["trial"]` is the trial as JSON text (see study.payload)."""
    trial = json.loads(config["trial"])
    try:
        outcome = execute(trial, tune.report, stop_check(trial))
    except Exception as error:
        if (refused := _disk_refusal(error)) is None:
            raise
        outcome = {"outcome": "interrupted", "epoch": 0, "disk": refused}
    tune.report({"trial": trial["trial_id"], **outcome})


def train_teacher(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Trains the study's teacher as a Ray task, yielding a row per epoch; the last holds the finished teacher.

    Args:
        request: plain JSON: `data` and `teacher` settings, `train_on`, `plugins`, `plugin_folders`, `cpu`, and what
            `stop_check` reads.
    """
    from akdtune import data, teacher
    from akdtune.recipe import resolve_device
    from akdtune.registry import load_plugins

    _one_thread_per_cpu(request)
    load_plugins(request["plugins"], request["plugin_folders"])
    device = resolve_device("auto")
    dataset = data.load(data.DataSettings(**request["data"]), device)
    settings = teacher.TeacherSettings(**request["teacher"])
    yield from teacher.train(settings, dataset, request["train_on"], device, stop_check(request))


def execute(trial: Mapping[str, Any], report: Report, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Runs one trial to an outcome; an error of the trial itself is retried once from its checkpoint.

    Returns:
        {"outcome": done | diverged | interrupted | failed, "epoch": last finished epoch, ...}.
    """
    directory = TrialDirectory(Path(trial["root"]) / "trials" / trial["trial_id"])
    directory.path.mkdir(parents=True, exist_ok=True)
    seen: dict[str, int] = {}
    with _captured(directory.log):
        _one_thread_per_cpu(trial)
        _load_libraries(trial)
        for _ in range(TRIES):
            try:
                return _attempt(trial, directory, report, should_stop)
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
    trial: Mapping[str, Any], directory: TrialDirectory, report: Report, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    from akdtune.training import Diverged, Interrupted, Trial
    from akdtune.trial_config import TrialConfig

    attempt = directory.take_attempt()
    now, arm, role = time.strftime("%F %T"), trial["arm"], trial["role"]
    print(f"{now} attempt {attempt} of {trial['trial_id']} ({arm}, {role}), pid {os.getpid()}")
    state = _load_checkpoint(directory)
    done = state["epoch"] if state and state["stage"] == "student" else 0
    rows = [row for row in directory.read_rows() if row["epoch"] <= done]
    tracker = Tracker(trial["tracking"], trial, Path(trial["root"]), attempt)
    tracker.start(rows)
    _give_memory_back()
    _forget_memory_peak()
    status = "interrupted"
    try:
        progress = _Progress(trial, directory, rows, report)
        live = Trial(TrialConfig.parse(trial))
        directory.columns = live.columns
        warmup_s = 0.0
        try:
            for epoch in live.run(state, should_stop, trial["trial_id"]):
                if epoch.stage == "warmup":
                    warmup_s += epoch.row["wall_time_s"] or 0.0
                    progress.warmed_up(epoch.state)
                    continue
                row = {"trial_id": trial["trial_id"], "attempt": attempt, "epoch": epoch.epoch, **epoch.row}
                row["warmup_time_s"] = warmup_s if epoch.epoch == 1 else 0.0
                tracker.log(row)
                progress.finished(row, epoch.state)
        except Interrupted:
            progress.save()
            return {"outcome": "interrupted", "epoch": len(rows)}
        except Diverged as error:
            print(f"diverged: {error}")
            status = "diverged"
            progress.write()
            outcome: dict[str, Any] = {"outcome": "diverged", "epoch": len(rows), "diverged_in": error.epoch}
            directory.write_outcome(outcome)
            return outcome
        except Exception:
            progress.write()  # epochs that were finished since the last report count as well
            raise
        status = "done"
        return _close(directory, live, rows)
    except SystemExit:
        status = "pruned"
        raise
    except BaseException:
        status = "failed"
        raise
    finally:
        tracker.finish(status, rows[-1] if rows else {})
        directory.close_attempt()


def _close(directory: TrialDirectory, live: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The end of a full-length trial: last reading, predictions, outcome, in this order."""
    from akdtune import results

    closing, predictions = live.close()
    if closing:
        rows[-1] = {**rows[-1], **closing}
        directory.write_rows(rows)
    with directory.replacing(directory.predictions) as temporary:
        results.write_predictions(
            temporary,
            predictions.sample_ids_N.numpy(),
            predictions.labels_N.numpy(),
            predictions.logits_NK.float().numpy(),
        )
    outcome: dict[str, Any] = {"outcome": "done", "epoch": len(rows)}
    if closing.get("test_accuracy") is not None:
        outcome["test_accuracy"] = closing["test_accuracy"]
    shut = _shut_gates(rows)
    if shut:
        outcome["warning"] = shut
        print(f"warning: {shut}")
    directory.write_outcome(outcome)
    return outcome


def _shut_gates(rows: list[dict[str, Any]]) -> str | None:
    """One line when a diversity gate never opened: the diversity term, margin and weight then meant nothing."""
    shut = []
    for column, name in (("gate_open_train", "feature"), ("gate_open_train_logit", "logit")):
        shares = [row[column] for row in rows if row.get(column) is not None]
        acts = any(f"loss.views.{name}_diversity" in row for row in rows)  # else it was switched off on purpose
        if acts and shares and max(shares) < GATE_WARNING:
            shut.append(name)
    if not shut:
        return None
    return f"the {' and '.join(shut)} diversity gate stayed under {GATE_WARNING}: its diversity term never acted"


class _Progress:
    """What an attempt puts on disk and reports while it runs.

    Rows are written before they are reported, and before a state that presupposes them is saved. The state is saved
    at rungs, at the last epoch, on interruption, and between these about every CHECKPOINT_EVERY_S. Reports go out at
    rungs, at the last epoch, and otherwise at most every REPORT_EVERY_S, with all rows since the last one: an epoch of
    milliseconds would else wait for the driver longer than it trains.

    Args:
        rows: the stored rows that this attempt goes on from; a resumed trial reports its last one again.
    """

    def __init__(
        self, trial: Mapping[str, Any], directory: TrialDirectory, rows: list[dict[str, Any]], report: Report
    ) -> None:
        self.trial, self.directory, self.rows, self.send = trial, directory, rows, report
        self.decisive = {*trial["rungs"], trial["settings"]["training"]["epochs"]}
        self.state: dict[str, Any] | None = None
        self.written = self.reported = len(rows)
        self.saved_at = self.reported_at = time.monotonic()
        self.pause_s = CHECKPOINT_EVERY_S
        if rows:
            self.reported -= 1
            self.report()

    def warmed_up(self, state: dict[str, Any]) -> None:
        """One warm-up epoch is over."""
        self.state = state
        if time.monotonic() - self.saved_at > self.pause_s:
            self.save()

    def finished(self, row: dict[str, Any], state: dict[str, Any]) -> None:
        """One student epoch is over; a pruned trial does not come back from here."""
        self.rows.append(row)
        self.state = state
        now, decisive = time.monotonic(), row["epoch"] in self.decisive
        if decisive or now - self.saved_at > self.pause_s:
            self.save()
        if decisive or now - self.reported_at > REPORT_EVERY_S:
            self.report()

    def write(self) -> None:
        """Puts all rows on disk."""
        if self.written < len(self.rows):
            self.directory.write_rows(self.rows)
            self.written = len(self.rows)

    def save(self) -> None:
        """Puts all rows and the last state on disk."""
        import torch

        self.write()
        started = time.monotonic()
        if self.state is not None:
            buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError without a cause, a plain write does not
            torch.save(self.state, buffer)
            with self.directory.replacing(self.directory.checkpoint) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        self.saved_at = time.monotonic()
        self.pause_s = max(CHECKPOINT_EVERY_S, (self.saved_at - started) / CHECKPOINT_SHARE)

    def report(self) -> None:
        """Reports the rows since the last report; the last one's numbers stand at the top."""
        self.write()
        new = self.rows[self.reported :]
        self.reported = len(self.rows)
        rows = [
            [row["epoch"], _finite_or_none(row.get("val_accuracy")), _finite_or_none(row.get("score"))] for row in new
        ]
        epoch, value, score = rows[-1]
        self.reported_at = time.monotonic()
        self.send(
            {"trial": self.trial["trial_id"], "epoch": epoch, "val_accuracy": value, "score": score, "rows": rows}
        )


def _load_checkpoint(directory: TrialDirectory) -> dict[str, Any] | None:
    import torch

    if not directory.checkpoint.exists():
        return None
    state: dict[str, Any] = torch.load(directory.checkpoint, weights_only=True)
    return state


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def _one_thread_per_cpu(trial: Mapping[str, Any]) -> None:
    import torch

    torch.set_num_threads(max(1, int(trial["cpu"])))


def _load_libraries(trial: Mapping[str, Any]) -> None:
    """Loads what the first trial of a process would else load amid its training, one thread holding up the other."""
    import torch

    torch.optim.SGD([torch.zeros(1)], lr=0.0)  # with its first optimiser torch loads its compiler: two seconds
    prepare(trial["tracking"])


def _give_memory_back() -> None:
    """Returns to the system what earlier trials of this process freed: the C library keeps hundreds of MiB of it."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _forget_memory_peak() -> None:
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


def stop_check(trial: Mapping[str, Any]) -> Callable[[], bool]:
    """`should_stop` for one trial: the flag file of the study, or the named actor of a cluster study."""
    flag = Path(trial["root"]) / trial["stop_flag"]
    return _polled(flag.exists, 0.05) if not trial.get("stop_actor") else _polled(_ask_actor(trial["stop_actor"]), 0.5)


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
    import ray

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
    """Runs one trial from a JSON file without Ray: `python -m akdtune.trainable TRIAL.json`."""
    trial = json.loads(Path(sys.argv[1]).read_text())
    outcome = execute(trial, lambda row: print(json.dumps(row)), stop_check(trial))
    print(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
