"""`python -m akdtune.training CONFIG`: one trial, start to end, in this process; no Ray, no study directory."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from akdtune import results, spec, teacher_command
from akdtune.errors import AkdtuneError, unknown_name
from akdtune.identity import Identity
from akdtune.ledger import TrialDirectory
from akdtune.prepared import Prepared
from akdtune.registry import plugin_folders
from akdtune.reports import counted
from akdtune.spec import Study

if TYPE_CHECKING:
    from akdtune.training import Epoch, Trial

PROGRAM = "python -m akdtune.training"
CHECKPOINT_EVERY_S = 30.0
"""The state is saved when so much time has passed since the last save, and at the end."""

SHOWN = {
    "train_accuracy": "training {:.2f} %",
    "val_accuracy": "validation {:.2f} %",
    "images_per_s": "{:,.0f} images/s",
    "wall_time_s": "{:.1f} s",
}
"""Columns of an epoch's row that are printed besides its losses, and how."""

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

--out DIR holds trial.json (the trial itself), epochs.parquet (a row an epoch), checkpoint.pt (the state; its student
can be a student.checkpoint), predictions.parquet (logits of the images it is judged by) and outcome.json.

Exit code 0: trained; 1: the loss was not finite; 2: something in the settings is wrong; 130: interrupted.
"""

NEEDED = ("settings", "seeds", "role", "teacher_file")
"""What a trial's JSON must hold; the rest of what reaches a worker of a study may be there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains one trial and returns the exit code; a mistake of the user's is one message and code 2."""
    given = _parser().parse_intermixed_args(None if arguments is None else list(arguments))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(given)
    except AkdtuneError as error:
        print(f"akdtune: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


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


def _run(given: argparse.Namespace) -> int:
    is_trial = Path(given.config).suffix == ".json"
    if is_trial and (given.overrides or given.arm is not None or given.seed is not None):
        raise AkdtuneError(f"{given.config}: a trial's JSON says everything; --arm, --seed and KEY=VALUE need a study")
    if is_trial:
        trial = read_trial(Path(given.config))
    else:
        study = spec.load(given.config, [*given.overrides, "scheduler=null"])  # one trial has no rungs to keep
        arm = _arm(study, given.arm)
        for warning in study.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        found = of_study(study, arm, given.seed)
        if isinstance(found, int):
            return found
        trial = found
    with _Output(given.out, trial) as output:
        return _train(trial, output)


def read_trial(path: Path) -> dict[str, Any]:
    """A trial's plain JSON, as a worker of a study gets it or as `--out` keeps it.

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
    trial: dict[str, Any] = held
    return trial


def _arm(study: Study, name: str | None) -> str:
    names = [arm.name for arm in study.arms]
    if name is None:
        if len(names) == 1:
            return names[0]
        raise AkdtuneError(f"{study.source}: has {len(names)} arms; --arm must be one of {', '.join(names)}")
    if name not in names:
        raise AkdtuneError(f"--arm: {unknown_name('arm', name, names)}")
    return name


def of_study(study: Study, arm: str, seed: int | None = None) -> dict[str, Any] | int:
    """The plain JSON of the trial at the centre of an arm, its teacher trained first where it is missing.

    Args:
        study: checked settings.
        arm: its name.
        seed: of init, order and noise; None: that of the study's search trials.

    Returns:
        The trial, or the exit code with which training the teacher was stopped.
    """
    import torch

    torch.set_num_threads(max(1, int(study.resources.cpu)))
    prepared = Prepared.load(study)
    (chosen,) = [one for one in study.arms if one.name == arm]
    proposal = chosen.centre()
    teacher_file = prepared.find_teacher("subset")
    if teacher_file is None:
        device = proposal.settings["training"]["device"]
        if (code := teacher_command.train(study, "subset", device)) != 0:
            return code
        teacher_file = prepared.find_teacher("subset")
        assert teacher_file is not None, "it has just been trained"
    plan = Identity(study, prepared, teacher_file).plan_row(proposal, "search", arm, None, seed)
    cache = study.teacher_cache
    return {
        **{key: plan[key] for key in ("trial_id", "cell_id", "role", "arm", "seed", "settings", "params")},
        "study": study.name,
        "seeds": {"init": plan["seed"], "order": plan["seed"], "noise": plan["seed"]},
        "teacher_file": teacher_file.plain(),
        "teacher_cache": None if cache is None else cache.model_dump(),
        "plugins": list(study.plugins),
        "plugin_folders": plugin_folders(study.plugins),
        "cpu": study.resources.cpu,
    }


# --------------------------------------------------------------------------------------------------------- training


def _train(trial: Mapping[str, Any], output: _Output) -> int:
    """Trains from where the output stands, with a line an epoch; returns the exit code."""
    import torch

    from akdtune.training import Diverged, Trial
    from akdtune.trial_config import TrialConfig

    if output.outcome is not None:
        print(f"{output.path}: {_ending(output.outcome, output.rows)}; nothing is left to do")
        return int(output.outcome["outcome"] == "diverged")
    torch.set_num_threads(max(1, int(trial.get("cpu", 1))))
    try:
        config = TrialConfig.parse(trial)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise AkdtuneError(f"this trial's settings cannot be read: {error.title}: {wrong}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise AkdtuneError(f"this trial's settings cannot be read: {error!r}") from error
    state = output.begin()
    live = Trial(config)
    with _shown(live, state) as show:
        try:
            for epoch in live.run(state):
                show(epoch)
                output.finished(epoch)
        except KeyboardInterrupt:
            output.save()
            again = "the same command goes on" if output.path else "without --out nothing is kept"
            print(f"stopped after {output.done}; {again}", file=sys.stderr)
            return 130
        except Diverged as error:
            output.end({"outcome": "diverged", "epoch": len(output.rows), "diverged_in": error.epoch})
            print(f"diverged: {error}", file=sys.stderr)
            return 1
    outcome = output.close(live)
    print(_ending(outcome, output.rows) + (f": {output.path}" if output.path else ""))
    return 0


@contextlib.contextmanager
def _shown(live: Trial, state: Mapping[str, Any] | None) -> Iterator[Callable[[Epoch], None]]:
    """Prints a line for each epoch; on a terminal a bar below them says how far it is."""
    totals = {"warmup": live.views.warmup_epochs, "student": live.config.training.epochs}
    stage, done = ("warmup", 0) if state is None else (state["stage"], state["epoch"])
    over = done if stage == "warmup" else totals["warmup"] + done
    if over:
        print(f"going on after {over} of {sum(totals.values())} epochs", flush=True)
    console = Console(highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("epochs", total=sum(totals.values()), completed=over)

        def show(epoch: Epoch) -> None:
            text = line(epoch.stage, epoch.epoch, totals[epoch.stage], epoch.row)
            if console.is_terminal:
                console.print(text, soft_wrap=True)
            else:
                print(text, flush=True)
            bar.advance(task)

        yield show


def line(stage: str, epoch: int, epochs: int, row: Mapping[str, float | None]) -> str:
    """One epoch in words: `epoch 3 of 40: ce 1.204, kd 0.311, training 61.20 %, validation 58.00 %, 1.2 s`."""
    losses = [
        f"{name.removeprefix('loss.')} {value:.4g}"
        for name, value in row.items()
        if name.startswith("loss.") and value is not None
    ]
    others = [text.format(row[name]) for name, text in SHOWN.items() if row.get(name) is not None]
    return f"{'warm-up ' * (stage == 'warmup')}epoch {epoch} of {epochs}: {', '.join([*losses, *others])}"


def _ending(outcome: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """How a trial ended, in words."""
    last = rows[-1] if rows else {}
    known = {"validation": last.get("val_accuracy"), "test": last.get("test_accuracy")}
    found = [f"{name} accuracy {value:.2f} %" for name, value in known.items() if value is not None]
    ending = f"{outcome['outcome']} after {counted(int(outcome['epoch']), 'epoch')}"
    return f"{ending}, {', '.join(found)}" if found else ending


# ----------------------------------------------------------------------------------------------------------- output


class _Output:
    """What a trial leaves: rows in memory, and, in a folder, the files of a study's trial directory.

    Rows are on disk before a state that presupposes them, as in a study.

    Raises:
        AkdtuneError: when the folder holds another trial, is in use, or cannot be written.
    """

    def __init__(self, path: Path | None, trial: Mapping[str, Any]) -> None:
        self.path, self._trial = path, trial
        self.rows: list[dict[str, Any]] = []
        self.outcome: dict[str, Any] | None = None
        self.done = "no epoch"
        self._state: dict[str, Any] | None = None
        self._warmup_s = 0.0
        self._saved_at = time.monotonic()
        self._directory = None if path is None else TrialDirectory(path.expanduser())
        self._attempt = 1

    def __enter__(self) -> _Output:
        if self._directory is None:
            return self
        with self._writing():
            self._directory.path.mkdir(parents=True, exist_ok=True)
            self._take_over(self._directory)
            self.outcome = self._directory.read_outcome()
            if self.outcome is None:
                self._attempt = self._directory.take_attempt()
            self.rows = self._directory.read_rows()
        return self

    def __exit__(self, *_: object) -> None:
        if self._directory is not None and self._directory.attempt is not None:
            with contextlib.suppress(OSError):
                self._directory.close_attempt()

    def begin(self) -> dict[str, Any] | None:
        """The state to go on from; drops rows that are newer, as they are computed again."""
        from akdtune.checkpoints import load_plain

        done = 0
        if self._directory is not None and self._directory.checkpoint.exists():
            self._state = load_plain(self._directory.checkpoint)
            done = self._state["epoch"] if self._state["stage"] == "student" else 0
        self.rows = [row for row in self.rows if row["epoch"] <= done]
        return self._state

    def finished(self, epoch: Epoch) -> None:
        """One epoch is over."""
        self._state = epoch.state
        self.done = f"{'warm-up ' * (epoch.stage == 'warmup')}epoch {epoch.epoch}"
        if epoch.stage == "warmup":
            self._warmup_s += epoch.row["wall_time_s"] or 0.0
        else:
            head = {"trial_id": self._trial.get("trial_id", ""), "attempt": self._attempt, "epoch": epoch.epoch}
            warmup_s = self._warmup_s if epoch.epoch == 1 else 0.0
            self.rows.append({**head, **epoch.row, "warmup_time_s": warmup_s})
        if time.monotonic() - self._saved_at > CHECKPOINT_EVERY_S:
            self.save()

    def save(self) -> None:
        """Puts rows and the last state on disk."""
        self._saved_at = time.monotonic()
        if self._directory is None or self._state is None:
            return
        import torch

        buffer = io.BytesIO()
        torch.save(self._state, buffer)
        with self._writing():
            if self.rows:
                self._directory.write_rows(self.rows)
            with self._directory.replacing(self._directory.checkpoint) as temporary:
                temporary.write_bytes(buffer.getbuffer())

    def close(self, live: Trial) -> dict[str, Any]:
        """The end of a whole trial: its last reading, the state, predictions, and, last of all, how it ended."""
        closing, predictions = live.close()
        self.rows[-1] |= closing
        self.save()
        if self._directory is not None:
            with self._writing(), self._directory.replacing(self._directory.predictions) as temporary:
                results.write_predictions(
                    temporary,
                    predictions.sample_ids_N.numpy(),
                    predictions.labels_N.numpy(),
                    predictions.logits_NK.float().numpy(),
                )
        return self.end({"outcome": "done", "epoch": len(self.rows)})

    def end(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """The trial is over; returns what it was given."""
        if self._directory is not None:
            with self._writing():
                if self.rows:
                    self._directory.write_rows(self.rows)
                self._directory.write_outcome(outcome)
        return outcome

    def _take_over(self, directory: TrialDirectory) -> None:
        """Makes the folder this trial's, unless it is another's."""
        kept = directory.path / "trial.json"
        if kept.exists():
            if _facts(read_trial(kept)) != _facts(self._trial):
                raise AkdtuneError(f"{self.path}: holds another trial (see trial.json there); choose another --out")
            if directory.is_closing():
                raise AkdtuneError(f"{self.path}: process {directory.running_process()} is working on it")
            return
        if any(not one.name.startswith(".") for one in directory.path.iterdir()):
            raise AkdtuneError(f"{self.path}: is not empty and holds no trial.json; choose another --out")
        with directory.replacing(kept) as temporary:
            temporary.write_text(json.dumps(self._trial, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AkdtuneError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def _facts(trial: Mapping[str, Any]) -> list[Any]:
    """What makes two trials the same: what determines their numbers, not where files lie, and not the device."""
    dtype = (trial.get("teacher_cache") or {}).get("dtype", "")
    cell = spec.cell_hash(trial["settings"], "", json.dumps(_hashes(trial["teacher_file"])), cache_dtype=dtype)
    return [cell, trial["seeds"], trial["role"]]


def _hashes(file: Mapping[str, Any]) -> list[Any]:
    return [file["weights_hash"], [_hashes(other) for other in file.get("others", ())]]
