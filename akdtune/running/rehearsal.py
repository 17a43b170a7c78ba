"""A rehearsal: a study in miniature, run on this machine to find what would fail in the whole one."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from akdtune import networks, progress
from akdtune.data.dataset import load_data, missing_files
from akdtune.data.source import Source
from akdtune.errors import AkdtuneError, SurroundingsError
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.registry import lookup
from akdtune.reports.text import duration
from akdtune.running import driver
from akdtune.running.printed import say
from akdtune.settings.data import DataSettings
from akdtune.signals import InputSpec, Spec
from akdtune.study import spec
from akdtune.study.miniature import Miniature, without_weights
from akdtune.study.spec import Study
from akdtune.teacher.find import teacher_folder

ANALYSES = {"probe": "diversity_accuracy", "search": "importance", "ablation": "ablation"}
"""What is asked of a study that has such a section."""


@dataclass(frozen=True)
class Rehearsed:
    """How a rehearsal ended.

    Attributes:
        rows: of each phase and arm: role, arm or cell, trials planned, how many ended well, and the others' errors.
        analyses: name of each analysis that broke, with its last line.
    """

    rows: tuple[tuple[str, str, int, int, tuple[str, ...]], ...]
    analyses: Mapping[str, str]

    @property
    def failed(self) -> int:
        """Trials that did not end, or ended in an error."""
        return sum(planned - ended for _, _, planned, ended, _ in self.rows)


def rehearse(
    source: str, overrides: Sequence[str] = (), root: Path | None = None, console: Console | None = None
) -> int:
    """Runs a study in miniature on this machine and says what failed.

    Args:
        source: path of a settings file, or a packaged name.
        overrides: `key.path=value` texts.
        root: where the miniature study is kept; None: a folder that goes again, unless something failed.
        console: where to show progress.

    Returns:
        0 where every trial ended and every analysis answered, 1 where something failed, 130 when interrupted.

    Raises:
        AkdtuneError: for what the whole study would be refused for as well.
    """
    console = console or Console(markup=False)
    with progress.stage("reading the settings"):
        whole = spec.load(source, overrides)
    began, kept = time.monotonic(), root is not None
    folder = root or Path(tempfile.mkdtemp(prefix="akdtune-rehearsal-"))
    if kept and folder.exists() and any(folder.iterdir()):
        raise AkdtuneError(f"{folder}: is not empty; a rehearsal begins in a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with progress.stage("making the study small"):
            study, notes = _small(whole, source, overrides, folder)
        console.print(f"rehearsal of {whole.name}: the whole study in miniature", highlight=False)
        for line in notes:
            say(console, f"  {line}")
        try:
            code = driver.run(study, folder / "study", console=console, reports=False)
        except SurroundingsError as error:  # what was met stands beside what else was found
            say(console, f"{error}")
            code = error.exit_code
        if code not in (0, 1, SurroundingsError.exit_code):
            kept = True
            return code
        found = _found(study, folder / "study")
        _say(console, whole, found, folder, time.monotonic() - began)
        kept = kept or bool(found.failed or found.analyses)
        return int(bool(found.failed or found.analyses))
    finally:
        _forget_teachers(folder / "study")
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _small(whole: Study, source: str, overrides: Sequence[str], folder: Path) -> tuple[Study, list[str]]:
    """The study in miniature, and what differs from the whole one."""
    notes = []
    inputs: Spec
    missing = missing_files(whole.data)
    if missing and not isinstance(whole.data, DataSettings):
        raise AkdtuneError(
            f"{whole.source}: data: {missing[0]} is not here, and images alone can be made up for a rehearsal"
        )
    if missing and isinstance(whole.data, DataSettings):
        of_data: type[Source] = lookup("data", whole.data.name)
        shape = of_data.shape(whole.data)
        inputs = InputSpec(shape.channels, shape.size, shape.num_classes)
        guessed = f", {' and '.join(shape.guessed)} guessed" if shape.guessed else ""
        notes.append(
            f"data: {missing[0].removesuffix(' (will be downloaded)')} is not here; made-up images stand for "
            f"{whole.data.name} ({inputs.channels}x{inputs.size}x{inputs.size}, "
            f"{inputs.num_classes} classes{guessed})"
        )
    else:
        inputs = load_data(whole.data.model_copy(update={"rehearsal": 64}), torch.device("cpu")).inputs
    known: dict[str, str] = {}

    def stand_in(checkpoint: Any, network: Any) -> Any:
        path = checkpoint.get("path") if isinstance(checkpoint, dict) else checkpoint
        if path != "pretrained" and Path(str(path)).expanduser().exists():
            return checkpoint
        if str(path) not in known:
            known[str(path)] = str(folder / f"stand_in_{len(known)}.pt")
            state = networks.build(without_weights(network), inputs, seed=0).state_dict()
            torch.save({"model": state}, known[str(path)])
            what = "the network's own weights are" if path == "pretrained" else f"{path} is"
            notes.append(f"checkpoint: {what} not here; untrained weights stand for it")
        return known[str(path)]

    gpus = float(torch.cuda.device_count())
    size = inputs.size if isinstance(inputs, InputSpec) else 0
    miniature = Miniature(whole, size, gpus, str(folder / "teacher_cache"), stand_in)
    study = spec.load(source, overrides, miniature)
    return study, [*dict.fromkeys([*notes, *miniature.notes])]


def _found(study: Study, root: Path) -> Rehearsed:
    directory = StudyDirectory(root)
    directory.load()
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in directory.records.values():
        groups.setdefault((record.plan["role"], record.plan["cell"] or record.plan["arm"]), []).append(record)
    rows = []
    for (role, arm), records in groups.items():
        bad = [record for record in records if record.terminal in (None, "failed")]
        said = tuple(dict.fromkeys(record.why or "did not end" for record in bad))
        rows.append((role, arm, len(records), len(records) - len(bad), said))
    asked = [name for section, name in ANALYSES.items() if _has(study, section)]
    return Rehearsed(tuple(rows), dict(_broken(asked, root)))


def _has(study: Study, section: str) -> bool:
    return study.search.searches if section == "search" else getattr(study, section) is not None


def _broken(names: Iterable[str], root: Path) -> Iterable[tuple[str, str]]:
    """Analyses that end in anything but a report or a sentence; that two trials say little is no fault."""
    for name in names:
        try:
            said = progress.stage(f"trying the analysis {name}")
            with said, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                import_module(f"akdtune.analysis.{name}").main([str(root)])
        except (AkdtuneError, SystemExit):
            continue
        except Exception as error:
            yield name, traceback.format_exception_only(error)[-1].strip()


def _say(console: Console, whole: Study, found: Rehearsed, folder: Path, seconds: float) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("phase", "arm or cell"):
        table.add_column(title, overflow="fold")
    for title in ("trials", "ended"):
        table.add_column(title, justify="right")
    for role, arm, planned, ended, _ in found.rows:
        table.add_row(role, arm, str(planned), str(ended))
    console.print(f"\nrehearsed in {duration(seconds)}", highlight=False)
    console.print(table)
    for role, arm, _, _, errors in found.rows:
        for error in errors:
            say(console, f"failed: {role} {arm}: {error}")
    for name, error in found.analyses.items():
        say(console, f"failed: analysis {name}: {error}")
    if found.failed or found.analyses:
        say(console, f"look at {folder / 'study'} (akdtune logs, akdtune show)")
    else:
        say(
            console,
            f"every arm, phase and control of {whole.name} ran. Not tried: full length, full data, memory at the "
            "study's own size without its GPU, and the cluster itself",
        )


def _forget_teachers(root: Path) -> None:
    """Takes the teachers of the rehearsal, which no study will ask for, out of the cache folder."""
    with contextlib.suppress(AkdtuneError):
        lock = StudyDirectory(root).read_lock() or {}
        for key in ("teacher", "report_teacher"):
            teacher = lock.get(key) or {}
            for file in (teacher, *teacher.get("others", ())):
                if file.get("key"):
                    shutil.rmtree(teacher_folder(file["key"]), ignore_errors=True)
