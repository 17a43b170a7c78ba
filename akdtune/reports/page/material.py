"""What a page is made from: a study directory, read once; what cannot be read is said and the rest is shown."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt
import pyarrow as pa
import yaml

from akdtune.errors import AkdtuneError, AkdtuneWarning, StudyError
from akdtune.metric import ACCURACY, Metric, of_trials
from akdtune.records import files, lock_file, tables
from akdtune.records.ledger import reading
from akdtune.records.ledger.events import Event, RungDecided, TrialEnded
from akdtune.reports import answers, curves
from akdtune.reports.ablation.measured import Phase, phases_of
from akdtune.reports.ablation.tables import Result, compute
from akdtune.reports.column_words import Columns
from akdtune.reports.importance.searched_arms import arms_of
from akdtune.reports.importance.shares import EVALUATORS, LEAST, MIN_DRAWS, JudgedArm, judge, known_domains
from akdtune.reports.origin import Origin, origin_of
from akdtune.reports.page.drawing.looks import Look, looks_of
from akdtune.reports.short_names import searched, settings_text, short_names
from akdtune.reports.standing.opening import Standing, standing
from akdtune.reports.transfer.answer import Transfer, transfer_of
from akdtune.reports.transfer.students import INDEPENDENT
from akdtune.statistics.resampling import Floats

Row = Mapping[str, Any]
Course = tuple[npt.NDArray[Any], Floats]
"""Epochs, and a value for each."""
T = TypeVar("T")
FANOVA_UP_TO = 60
"""Configurations of an arm: of more, its forests take longer than all else on the page together."""

_HOME = re.compile(r"(?<![\w.~/-])(?:/home/[^/\s'\"]+|/Users/[^/\s'\"]+|/root)(?=/|$|['\"\s])")


def without_home(text: str) -> str:
    """Paths below somebody's home folder without its name: a page is for others."""
    return _HOME.sub("~", text)


def finite(value: Any) -> float | None:
    """A number that can be drawn; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass
class Material:
    """A study as it is on disk.

    Attributes:
        run: its directory.
        rows: of its table of trials.
        epochs: its table of epochs.
        lock: what reproduces it; empty where it is not there.
        happened: events of the ledger other than epochs.
        trouble: what was wrong with files, a sentence each.
    """

    run: Path
    rows: list[Row]
    epochs: pa.Table
    lock: Mapping[str, Any]
    happened: list[Event]
    trouble: list[str] = field(default_factory=list)
    _courses: dict[str, dict[str, Course]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the study's directory."""
        return self.run.resolve().name

    @property
    def settings(self) -> Mapping[str, Any]:
        """The study's settings with all defaults; empty where its lock is not there."""
        held = self.lock.get("settings")
        return held if isinstance(held, Mapping) else {}

    @functools.cached_property
    def metric(self) -> Metric:
        """What the study is judged by."""
        return of_trials(self.rows[0]) if self.rows else ACCURACY

    @functools.cached_property
    def looks(self) -> dict[str, Look]:
        """Colour and shape of every arm, and of every cell of a design behind them."""
        cells = [cell.name for phase in self.phases for cell in phase.cells]
        return looks_of((str(row["arm"]) for row in self.rows), cells)

    @functools.cached_property
    def short(self) -> dict[str, str]:
        """Settings' names as short as they are unambiguous in this study."""
        return short_names([*self.domains, *(path for row in self.rows for path in searched(row))])

    def settings_text(self, row: Row) -> str:
        """The searched settings of a trial on one line."""
        return settings_text(searched(row), self.short)

    @functools.cached_property
    def domains(self) -> dict[str, Any]:
        """What each searched setting is drawn from, as far as that is known."""
        return self.kept(lambda: known_domains(self.run), {})

    @functools.cached_property
    def columns(self) -> Columns:
        """What columns hold."""
        return Columns({"epochs": self.epochs.schema})

    @property
    def runs_still(self) -> bool:
        """Whether trials are planned, or running, that have not ended."""
        return any(row["status"] in ("planned", "running", "interrupted") for row in self.rows)

    def of_roles(self, *roles: str) -> list[Row]:
        """Trials of these roles."""
        return [row for row in self.rows if row["role"] in roles]

    def course(self, column: str) -> dict[str, Course]:
        """A column's values over the epochs of each trial; empty for a column that is not there."""
        if column not in self._courses:
            there = column in self.epochs.column_names and pa.types.is_floating(self.epochs.schema.field(column).type)
            self._courses[column] = curves.by_trial(self.epochs, column) if there else {}
        return self._courses[column]

    def rungs(self) -> list[RungDecided]:
        """Every decision of early stopping."""
        return [event for event in self.happened if isinstance(event, RungDecided)]

    def ended(self) -> dict[str, TrialEnded]:
        """The last end of each trial."""
        return {event.trial_id: event for event in self.happened if isinstance(event, TrialEnded)}

    @functools.cached_property
    def standing(self) -> Standing | None:
        """What `akdtune show` opens with; None where that cannot be known."""
        return self.kept(lambda: standing(self.run, self.rows), None)

    @functools.cached_property
    def origin(self) -> Origin | None:
        """What trained the trials and reads them; None where it cannot be known."""
        return self.kept(lambda: origin_of(self.run), None)

    @functools.cached_property
    def phases(self) -> list[Phase]:
        """The phases of its design with what they measured."""
        if not (self.run / files.DESIGN).exists():
            return []
        return self.kept(lambda: phases_of(self.run), [])

    @functools.cached_property
    def results(self) -> list[Result]:
        """Everything that is said of each phase."""
        return [compute(phase, self.run, beside=self.phases) for phase in self.phases]

    @functools.cached_property
    def diversity(self) -> answers.Diversity | str:
        """Diversity and accuracy, or why there is nothing to be said of them."""
        try:
            return answers.diversity_in(self.run)
        except AkdtuneError as error:
            return str(error).removeprefix(f"{self.run}: ")

    @functools.cached_property
    def transfer(self) -> Transfer | str:
        """What students have of their teacher's function, or why there is nothing to be said of it."""
        if not any(cell.name == INDEPENDENT for phase in self.phases for cell in phase.cells):
            return f"the study has no control {INDEPENDENT} (ablation.controls)"  # and no prediction need be read
        try:
            return transfer_of([self.run])
        except AkdtuneError as error:
            return str(error).removeprefix(f"{self.run}: ")

    @functools.cached_property
    def judged(self) -> list[JudgedArm]:
        """Which settings mattered, by arm: as `akdtune analyze importance` computes it, with fewer resamples."""
        _, arms = arms_of(self.run)
        if all(len(arm.configurations) < LEAST for arm in arms):
            pooled = arms_of(self.run, pool=("roles",))[1]
            arms = pooled if any(len(arm.configurations) >= LEAST for arm in pooled) else arms
        large = any(len(arm.configurations) > FANOVA_UP_TO for arm in arms)
        evaluators = [name for name in EVALUATORS if name != "fanova" or not large]
        return [judge(arm, self.domains, draws=MIN_DRAWS, seed=0, evaluators=evaluators) for arm in arms]

    def kept(self, read: Callable[[], T], otherwise: T) -> T:
        """What `read` gives; where that fails, `otherwise`, and the page says why."""
        try:
            return read()
        except (StudyError, AkdtuneError) as error:
            self.trouble.append(str(error))
            return otherwise


def read(run: Path) -> Material:
    """A study directory, also of a running study, of an earlier version, or with damaged files.

    Raises:
        StudyError: for a directory that is no study, or one whose trials cannot be read.
    """
    path = files.require_study(run)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AkdtuneWarning)
        material = Material(path, tables.read_trials(path).to_pylist(), tables.read_epochs(path), {}, _events(path))
        material.lock = material.kept(lambda: lock_file.read_lock(path, ()) or {}, {})
    material.trouble += _sentences(caught)
    return material


def _events(path: Path) -> list[Event]:
    kinds = {
        "study_started", "study_finished", "time_budget", "duplicate", "race", "pilot", "seeds", "started", "rung",
        "interrupted", "retried", "done", "pruned", "diverged", "failed",
    }  # fmt: skip
    return list(reading.events(path, kinds))


def _sentences(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """Our own warnings as sentences, each once; all others go on as they are."""
    said = []
    for warning in caught:
        if issubclass(warning.category, AkdtuneWarning):
            said.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return list(dict.fromkeys(said))


def as_yaml(value: Any) -> str:
    """A setting on one line, as a settings file would have it."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...").strip()
