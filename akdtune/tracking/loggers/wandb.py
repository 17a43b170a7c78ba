"""Weights & Biases, written from the trial's own process: one run per trial and attempt, under `<study>/wandb`.

Parquet stays the truth: a new attempt's run holds the rows of earlier ones, too, and a run that could not be written
is made from them later.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from typing_extensions import override

from akdtune.registry import register
from akdtune.settings.tracking import GROUP_CHARACTERS, NAME_CHARACTERS, TAG_CHARACTERS, WandbSettings
from akdtune.tracking.arrangement import Metrics, group_of, shortened
from akdtune.tracking.loggers import LoggedTrial, Logger
from akdtune.tracking.mode import Mode, environment, give_up, key_place, mode_of_trial, reason, server
from akdtune.tracking.record import SUPERSEDED, RunRecord, mark_tagged, note_trouble, read_record, write_record
from akdtune.tracking.tags import tag_runs

INIT_TIMEOUT_S = 20.0
ENDED_WELL = frozenset({"done", "pruned", "diverged"})

_HEADER_BYTES = 7
"""A transaction log without a record."""


def load_sdk(mode: Mode) -> None:
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


@register("wandb")
class WandbLogger(Logger):
    """A run of Weights & Biases for each trial and attempt."""

    Settings = WandbSettings

    def __init__(self, settings: WandbSettings, patience_s: float) -> None:
        super().__init__(settings, patience_s)
        self._mode: Mode = "disabled"
        self._again = ""
        self._left = threading.Event()
        self._step = -1
        self._defined: set[str] = set()

    @override
    @classmethod
    def wanted(cls, settings: Mapping[str, Any], root: Path) -> bool:
        return mode_of_trial({"wandb": settings}, root) != "disabled"

    @override
    @classmethod
    def prepare(cls, settings: Mapping[str, Any], root: Path) -> None:
        load_sdk(mode_of_trial({"wandb": settings}, root))

    @property
    def run_id(self) -> str:
        """The run's id on the server: a run per trial and attempt."""
        return f"{run_id(self._trial.study_uid, self._trial.trial_id, self._trial.attempt)}{self._again}"

    @override
    def open(self, trial: LoggedTrial) -> None:
        self._trial = trial
        self._mode = mode_of_trial({"wandb": self.settings.model_dump()}, trial.root)
        load_sdk(self._mode)
        try:
            self._run = self._init(self._mode)
        except Exception as error:
            if self._mode != "online" or self._left.is_set():
                raise
            self._lost_server(reason(error))
            self.say(f"the server did not take run {self.run_id} ({reason(error)}); it is written offline")
            self._mode, self._again = "offline", "b"  # the SDK holds on to the id of the run that failed
            self._run = self._init("offline")
        self._run.define_metric("epoch", hidden=True)
        self._record(finished=False)

    def _init(self, mode: Mode) -> Any:
        import wandb  # late: a study without tracking does not load it

        trial, own = self._trial, self.settings
        place = {"study": trial.study, "arm": trial.arm, "cell": trial.cell}
        return wandb.init(
            project=own.project,
            entity=own.entity,
            tags=tags_of(own.tags, trial.role, trial.study),
            id=self.run_id,
            name=shortened(trial.trial_id, NAME_CHARACTERS),
            group=group_of(place, GROUP_CHARACTERS),
            job_type=trial.role,
            config=dict(trial.config),
            dir=str(trial.root),
            mode=cast(Any, mode),
            reinit="create_new",
            settings=wandb.Settings(**lean_settings(self.patience_s, system_metrics(own))),
        )

    @override
    def log(self, metrics: Metrics) -> None:
        """Logs a row; a step that is not new is skipped (a replay may overlap)."""
        epoch = int(metrics["epoch"])
        if epoch <= self._step:
            return
        self._define(metrics)
        self._run.log(dict(metrics), step=epoch)
        self._step = epoch

    def _define(self, metrics: Metrics) -> None:
        """Epochs as the axis of every metric; best and last value in the summary."""
        for name in metrics:
            if name != "epoch" and name not in self._defined:
                self._defined.add(name)
                self._run.define_metric(name, step_metric="epoch", summary=summary_of(name))

    @override
    def finish(self, status: str, metrics: Metrics) -> None:
        run = self._run
        if metrics and self._step >= 0 and metrics.get("epoch") == self._step:
            self._define(metrics)
            run.log(dict(metrics), step=self._step)  # what was measured at the end belongs to the last epoch
        run.summary.update({"status": status})
        run.finish(exit_code=0 if status in ENDED_WELL else 1)
        if run.offline:
            wait_until_written(Path(run.dir).parent / f"run-{self.run_id}.wandb")
        self._record(finished=True)

    @override
    def lost(self, why: str, late: bool) -> None:
        if late:
            self._left.set()
        self._lost_server(f"it did not take a run within {self.patience_s:g} s" if late else why)
        if not late:
            with contextlib.suppress(OSError):
                note_trouble(self._trial.directory, why)

    def _lost_server(self, why: str) -> None:
        """Lets later trials write offline, where this one had a key and was to be online."""
        if self._mode == "online" and key_place() is not None:
            give_up(self._trial.root, f"{server()}: {why}")

    def _record(self, finished: bool) -> None:
        """Notes this run in the trial's directory, and that it supersedes the runs of earlier attempts."""
        trial, run = self._trial, self._run
        known_runs = read_record(trial.directory)
        earlier = [known for known in known_runs if known.attempt < trial.attempt]
        if any(known.attempt > trial.attempt for known in known_runs):
            return  # a later attempt owns the file now
        own = record_of(run, self.run_id, trial.root, trial.attempt, finished)
        for known in earlier:
            known.superseded_by = self.run_id
        write_record(trial.directory, [*earlier, own])
        late = [known for known in earlier if known.mode == "online"]
        if late and own.mode == "online" and not finished:
            threading.Thread(target=_tag_quietly, args=(trial.root, late), daemon=True).start()


def run_id(study_uid: str, trial_id: str, attempt: int) -> str:
    """The id of a trial's run; the same configuration may be a trial of several studies."""
    return "-".join([*([study_uid] if study_uid else []), trial_id, f"a{attempt}"])


def record_of(run: Any, own_id: str, root: Path, attempt: int, finished: bool) -> RunRecord:
    """What `wandb sync` needs to know of a run that this process has opened."""
    return RunRecord(
        id=own_id,
        attempt=attempt,
        mode="offline" if run.offline else "online",
        directory=os.path.relpath(Path(run.dir).parent, root),
        project=run.project or None,
        entity=run.entity or None,
        finished=finished,
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def tags_of(given: Sequence[str], *own: str) -> list[str]:
    """A study's tags and ours, each once, as long as the server takes them."""
    return list(dict.fromkeys([*given, *(shortened(tag, TAG_CHARACTERS) for tag in own)]))


def summary_of(metric: str) -> str | None:
    """What the summary holds of a metric: of accuracies, and of what a study is judged by, the highest and the last
    value, of losses the lowest and the last.

    None: the last value alone, under the metric's own name.
    """
    of_student = metric.startswith(("student/val_", "student/test_")) or metric == "student/score"
    if "accuracy" in metric or of_student:
        return "max,last"
    return "min,last" if metric.startswith("loss/") else None


def system_metrics(settings: WandbSettings) -> bool:
    """Whether use of processor and memory is sampled: of itself where there is a GPU."""
    if settings.system_metrics != "auto":
        return settings.system_metrics
    torch: Any = sys.modules.get("torch")  # a process without it trains nothing
    return torch is not None and bool(torch.cuda.is_available())


def lean_settings(patience_s: float, sampled: bool) -> dict[str, Any]:
    """Settings of the SDK that make a run cheap and silent; those that this version does not know are left out."""
    import wandb  # late: a study without tracking does not load it

    wanted = {
        "silent": True,
        "console": "off",
        "symlink": False,  # trials would race for `latest-run`
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "init_timeout": INIT_TIMEOUT_S,
        "finish_timeout": patience_s,
        "finish_timeout_raises": True,
        "x_disable_meta": not sampled,
        "x_disable_stats": not sampled,
        "x_disable_machine_info": not sampled,
        "x_save_requirements": False,
    }
    return {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}


def wait_until_written(log: Path, quiet_polls: int = 3, poll_s: float = 0.02, bound_s: float = 2.0) -> None:
    """Waits until the SDK's service has written a run to disk: its `finish` returns before the last block is out."""
    size, quiet = _HEADER_BYTES, 0
    deadline = time.monotonic() + bound_s
    while quiet < quiet_polls and time.monotonic() < deadline:
        time.sleep(poll_s)
        now = log.stat().st_size
        quiet = quiet + 1 if now == size > _HEADER_BYTES else 0
        size = now


def _tag_quietly(root: Path, runs: Sequence[RunRecord]) -> None:
    """Tags from a running trial; `sync` tags what fails here."""
    with contextlib.suppress(Exception):
        for answer in tag_runs({run.id: run.path for run in runs}, SUPERSEDED):
            if answer["error"] is None:
                mark_tagged(root, answer["id"])
