"""`python -m akdtune.training CONFIG`: one trial, start to end, in this process; no Ray, no study directory."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from akdtune.cli import teachers
from akdtune.devices import ready_to_train
from akdtune.errors import AkdtuneError, unknown_name
from akdtune.metric import Metric
from akdtune.planning.identity import Identity
from akdtune.planning.prepared import Prepared
from akdtune.planning.request import planned_request
from akdtune.records.files import LOCK
from akdtune.records.trial_directory import TrialDirectory
from akdtune.reports.text import counted
from akdtune.running import interruption
from akdtune.running.saved_states import GoOn, built_to_go_on, resumed
from akdtune.running.trial_log import line, printed
from akdtune.running.trial_writer import Limits, TrialWriter
from akdtune.settings.teacher import teacher_compute
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.spec import Study
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import located
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Diverged, Epoch, TrialLoop
from akdtune.training.request import TrialRequest
from akdtune.training.task import task_of
from akdtune.training.trial import trial_of

PROGRAM = "python -m akdtune.training"
LIMITS = Limits(checkpoint_every_s=30.0)
"""How often the state is saved: somebody waits here, and nobody goes on by himself."""

HELP = """Trains one trial of a study in this process, with the numbers that `akdtune run` computes for it.

CONFIG is a study (a YAML file or the name of a packaged one) or one trial of it as JSON.
A study's settings are taken at the centre of what it searches; KEY=VALUE fixes them.
A teacher that is not trained yet is trained first, as `akdtune teacher train` does.
"""

EXAMPLES = f"""examples:
  {PROGRAM} digits_angular --arm angular/kd+crd
  {PROGRAM} study.yaml --arm angular/kd --seed 1 views.margin=0.4 training.epochs=10
  {PROGRAM} study.yaml --arm angular/kd --out trials/kd     (again: goes on, or shows the result)
  {PROGRAM} trials/kd/trial.json                            (the same trial, also on another machine)
  {PROGRAM} runs/digits_angular/trials/ID/trial.json        (a study's trial, with the same numbers)

--out DIR holds trial.json (the trial itself), epochs.parquet (a row an epoch), checkpoint.pt (the state; its student
can be a student.checkpoint), predictions.parquet (logits of the images it is judged by) and outcome.json.

Exit code 0: trained; 1: the loss was not finite; 2: something in the settings is wrong; 130: interrupted.
"""

NEEDED = ("settings", "seeds", "role", "teacher_file")
"""What a trial's JSON must hold; the rest of what reaches a worker of a study may be there."""


def main(arguments: Sequence[str] | None = None, limits: Limits = LIMITS) -> int:
    """Trains one trial and returns the exit code; a mistake of the user's is one message and code 2."""
    given = _parser().parse_intermixed_args(None if arguments is None else list(arguments))
    try:
        with interruption.raising():
            return _run(given, limits)
    except AkdtuneError as error:
        print(f"akdtune: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        interruption.say("stopped")
        return interruption.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=HELP, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="study (YAML file or packaged name), or a trial's JSON file")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="settings of a study that win over its file, read as YAML"
    )
    parser.add_argument("--arm", metavar="NAME", help="arm of the study; needed where it has several")
    parser.add_argument("--seed", metavar="N", type=int, help="of init, order and noise; default: search.trial_seed")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for results; default: they are only printed")
    return parser


def _run(given: argparse.Namespace, limits: Limits) -> int:
    is_trial = Path(given.config).suffix == ".json"
    if is_trial and (given.overrides or given.arm is not None or given.seed is not None):
        raise AkdtuneError(f"{given.config}: a trial's JSON says everything; --arm, --seed and KEY=VALUE need a study")
    if is_trial:
        request = read_trial(Path(given.config))
    else:
        study = spec.load(given.config, [*given.overrides, "scheduler=null"])  # one trial has no rungs to keep
        arm = _arm(study, given.arm)
        for warning in study.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        of_arm = of_study(study, arm, given.seed)
        if isinstance(of_arm, int):
            return of_arm
        request = of_arm
    with _Folder(given.out, request) as folder:
        return _train(request, folder, limits)


def read_trial(path: Path) -> TrialRequest:
    """A trial's request out of its plain JSON, as a worker of a study gets it or as `--out` keeps it.

    Raises:
        AkdtuneError: for a file that is missing or something else.
    """
    try:
        held = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise AkdtuneError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise AkdtuneError(f"{path}: is no JSON: {error}") from error
    missing = [name for name in NEEDED if not isinstance(held, dict) or name not in held]
    if missing:
        raise AkdtuneError(f"{path}: is no trial: it lacks {', '.join(missing)}")
    with _legible():
        request = TrialRequest.parse(held).alone()
    return replace(request, teacher_file=located(request.teacher_file))


@contextlib.contextmanager
def _legible() -> Iterator[None]:
    """Says in one sentence what cannot be read in a trial's JSON."""
    try:
        yield
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise AkdtuneError(f"this trial's settings cannot be read: {error.title}: {wrong}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise AkdtuneError(f"this trial's settings cannot be read: {error!r}") from error


def _arm(study: Study, name: str | None) -> str:
    names = [arm.name for arm in study.arms]
    if name is None:
        if len(names) == 1:
            return names[0]
        raise AkdtuneError(f"{study.source}: has {len(names)} arms; --arm must be one of {', '.join(names)}")
    if name not in names:
        raise AkdtuneError(f"--arm: {unknown_name('arm', name, names)}")
    return name


def of_study(study: Study, arm: str, seed: int | None = None) -> TrialRequest | int:
    """What the trial at the centre of an arm is asked, its teacher trained first where it is missing.

    Args:
        study: checked settings.
        arm: its name.
        seed: of init, order and noise; None: that of the study's search trials.

    Returns:
        The request, or the exit code with which training the teacher was stopped.
    """

    ready_to_train(study.resources.cpu)
    prepared = Prepared.load(study)
    (chosen,) = [candidate for candidate in study.arms if candidate.name == arm]
    proposal = chosen.centre()
    teacher_file = prepared.find_teacher("subset")
    if teacher_file is None:
        device = proposal.settings["training"]["device"]
        if (code := teachers.train(study, "subset", device)) != 0:
            return code
        teacher_file = prepared.find_teacher("subset")
        assert teacher_file is not None, "it has just been trained"
    identity = Identity(study, prepared, teacher_file)
    return planned_request(study, identity, identity.plan_row(proposal, "search", arm, None, seed))


# --------------------------------------------------------------------------------------------------------- training


def _train(request: TrialRequest, folder: _Folder, limits: Limits) -> int:
    """Trains from where the folder stands, with a line an epoch; returns the exit code."""

    if folder.outcome is not None:
        ending = _ending(folder.outcome, folder.rows(), task_of(request.settings).metric)
        print(f"{folder.path}: {ending}; nothing is left to do")
        return int(folder.outcome["outcome"] == "diverged")
    ready_to_train(request.cpu)
    with _legible():
        config = TrialConfig.parse(request)
    begins = GoOn() if folder.directory is None else resumed(folder.directory, request.trial_id)
    live, begins = built_to_go_on(folder.directory, begins, lambda: trial_of(config))
    writer, done = TrialWriter(request, folder.directory, begins, limits=limits), "no epoch"
    with _shown(live, begins.state) as show:
        try:
            for epoch in live.run(begins.state):
                show(epoch)
                done = f"{'warm-up ' * (epoch.stage == 'warmup')}epoch {epoch.epoch}"
                with folder.writing():
                    writer.finished(epoch)
        except KeyboardInterrupt:
            with folder.writing():
                writer.save()
            again = "the same command goes on" if folder.path else "without --out nothing is kept"
            interruption.say(f"stopped after {done}; {again}")
            return interruption.INTERRUPTED
        except Diverged as error:
            with folder.writing():
                writer.diverged(error.epoch)
            print(f"diverged: {error}", file=sys.stderr)
            return 1
    with folder.writing():
        outcome = writer.close(live)
    if "warning" in outcome:
        print(f"warning: {outcome['warning']}", file=sys.stderr)
    print(_ending(outcome, writer.rows, config.task.metric) + (f": {folder.path}" if folder.path else ""))
    return 0


@contextlib.contextmanager
def _shown(live: TrialLoop, state: Mapping[str, Any] | None) -> Iterator[Callable[[Epoch], None]]:
    """Prints a line for each epoch; on a terminal a bar below them says how far it is."""
    totals, columns_said = live.epochs, printed(live.config.task.metric)
    stage, done = ("warmup", 0) if state is None else (state["stage"], state["epoch"])
    over = done if stage == "warmup" else totals["warmup"] + done
    if over:
        print(f"going on after {over} of {sum(totals.values())} epochs", flush=True)
    console = Console(highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("epochs", total=sum(totals.values()), completed=over)

        def show(epoch: Epoch) -> None:
            text = line(epoch.stage, epoch.epoch, totals[epoch.stage], epoch.row, columns_said)
            if console.is_terminal:
                console.print(text, soft_wrap=True)
            else:
                print(text, flush=True)
            bar.advance(task)

        yield show


def _ending(outcome: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """How a trial ended, in words."""
    last = rows[-1] if rows else {}
    known = {"validation": last.get(metric.validation), "test": last.get(metric.test)}
    accuracies = [f"{name} {metric.words} {value:.2f} %" for name, value in known.items() if value is not None]
    ending = f"{outcome['outcome']} after {counted(int(outcome['epoch']), 'epoch')}"
    return f"{ending}, {', '.join(accuracies)}" if accuracies else ending


# ----------------------------------------------------------------------------------------------------------- output


class _Folder:
    """Where a trial leaves the files of a study's trial directory; nowhere without a path.

    Raises:
        AkdtuneError: when the folder holds another trial, is in use, or cannot be written.
    """

    def __init__(self, path: Path | None, request: TrialRequest) -> None:
        self.path, self._request = path, request
        self.directory = None if path is None else TrialDirectory(path.expanduser())
        self.outcome: dict[str, Any] | None = None

    def __enter__(self) -> _Folder:
        if self.directory is None:
            return self
        if (study := _study_of(self.directory.path.absolute())) is not None:
            raise AkdtuneError(
                f"{self.path}: lies in the study {study}, whose trials it leaves alone; choose another --out"
            )
        with self.writing():
            self.directory.path.mkdir(parents=True, exist_ok=True)
            self._take_over(self.directory)
            self.outcome = self.directory.read_outcome()
            if self.outcome is None:
                self.directory.take_attempt()
        return self

    def __exit__(self, *_: object) -> None:
        if self.directory is not None and self.directory.attempt is not None:
            with contextlib.suppress(OSError):
                self.directory.close_attempt()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all epochs that are stored; none where nothing is kept."""
        return [] if self.directory is None else self.directory.read_rows()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a failed write into one sentence."""
        try:
            yield
        except OSError as error:
            raise AkdtuneError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _take_over(self, directory: TrialDirectory) -> None:
        """Makes the folder this trial's, unless it is another's."""
        kept = directory.description
        if kept.exists():
            if _facts(read_trial(kept)) != _facts(self._request):
                raise AkdtuneError(f"{self.path}: holds another trial (see trial.json there); choose another --out")
            if directory.is_closing():
                raise AkdtuneError(f"{self.path}: process {directory.running_process()} is working on it")
            return
        if any(not path.name.startswith(".") for path in directory.path.iterdir()):
            raise AkdtuneError(f"{self.path}: is not empty and holds no trial.json; choose another --out")
        directory.describe(self._request.plain())


def _study_of(folder: Path) -> Path | None:
    """The study directory that a folder is or lies in."""
    return next((above for above in (folder, *folder.parents) if (above / LOCK).exists()), None)


def _facts(request: TrialRequest) -> list[Any]:
    """What makes two trials the same: what determines their numbers, not where files lie, and not the device."""
    dtype = "" if request.teacher_cache is None else request.teacher_cache.dtype
    compute = teacher_compute(request.teacher_cache, request.settings["training"])
    teacher = json.dumps(_hashes(request.teacher_file))
    cell = cell_hash(request.settings, "", teacher, cache_dtype=dtype, teacher_compute=compute)
    return [cell, request.seeds, request.role]


def _hashes(file: TeacherFile) -> list[Any]:
    return [file.weights_hash, [_hashes(other) for other in file.others]]
