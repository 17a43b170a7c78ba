"""What a study has measured, for a notebook or a script: `akdtune.load("digits_angular")`.

Works on a running study and on one that was killed: it shows what is there.
"""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from akdtune.errors import AkdtuneError, StudyError, unknown_name
from akdtune.metric import Metric, of_trials
from akdtune.records import tables
from akdtune.records.files import trial_directory
from akdtune.records.lock_file import read_lock
from akdtune.records.plan_file import read_plan
from akdtune.records.run_names import resolve_run
from akdtune.reports import answers, curves
from akdtune.reports.column_words import Columns
from akdtune.reports.detection.answer import Detected, detected
from akdtune.reports.fidelity.answer import Fidelity, fidelity_in
from akdtune.reports.fidelity.maps import THRESHOLD
from akdtune.reports.geometry.answer import Geometry, geometry_in
from akdtune.reports.notebook import html_table
from akdtune.reports.origin import Origin, origin_of
from akdtune.reports.standing.opening import Standing, standing
from akdtune.reports.transfer.answer import Transfer, transfer_of
from akdtune.reports.trials import best as best_of
from akdtune.reports.trials.cell_means import tally
from akdtune.roles import STATUSES
from akdtune.statistics import association, reliability

if TYPE_CHECKING:
    from akdtune.data.row_sets import RowDataSet
    from akdtune.networks import Network


@dataclass(frozen=True, repr=False)
class BestTrial:
    """The trial with the highest value after its last epoch: the maximum of noisy numbers.

    Attributes:
        directory: of its study.
        id, arm, role, seed: of the trial.
        metric: what it was judged by: val_accuracy, or test_accuracy in a study without search and probes; of a task
            with another metric, the columns of that.
        value: that after the last epoch, percent; `accuracy` is the same number.
        settings: everything that determines its numbers, as plain JSON by section.
        searched: those that the search has set, by key path.
        command: for a shell, in this folder: trains it again, with its seed.
    """

    directory: Path
    id: str
    arm: str
    role: str
    seed: int
    metric: str
    value: float
    settings: dict[str, Any]
    searched: dict[str, Any]
    command: str

    @property
    def accuracy(self) -> float:
        """The value, as it is called in studies of images."""
        return self.value

    def student(self) -> Network:
        """The student with its trained weights: a torch module on the CPU, in eval mode, without gradients.

        It takes normalised images [B, C, H, W], as `data()` gives them, and returns `Signals` (`.logits_BK`). Warns
        where the trial predicts through a method and not through the student's own classifier.

        Raises:
            StudyError: when the trial has left no checkpoint.
            AkdtuneError: when data, plug-in or checkpoint cannot be read.
        """
        from akdtune.training.students import trained_student  # late: torch, which reading needs not

        checkpoint = trial_directory(self.directory, self.id) / "checkpoint.pt"
        if not checkpoint.exists():
            raise StudyError(f"{checkpoint}: no such file; without it there is no trained student of trial {self.id}")
        return trained_student(checkpoint, self.settings, *self._plugins())

    def data(self) -> RowDataSet:
        """The data set that the trial was trained on, on the CPU.

        `data().split("subset").validation` are the images that `accuracy` is of: `images(positions)` normalised,
        `labels_N` their classes.

        Raises:
            AkdtuneError: naming the file that is missing, or the plug-in that cannot be imported.
        """
        from akdtune.training.students import data_of  # late: torch, which reading needs not

        return data_of(self.settings, *self._plugins())

    def _plugins(self) -> tuple[list[str], list[str]]:
        """Modules that the study names, and the folder of its settings file, where they may lie."""
        lock = read_lock(self.directory) or {}
        source = Path(lock.get("source", "")).expanduser()
        return list(lock.get("settings", {}).get("plugins") or []), [str(source.parent.absolute())]

    def __repr__(self) -> str:
        searched = "".join(f" {path}={value}" for path, value in self.searched.items())
        role = "" if self.role == "search" else f"{self.role} "
        images = "test" if best_of.on_test(self.metric) else "validation"
        return f"{role}{self.id} of {self.arm}, seed {self.seed}: {self.value:.2f} % on {images} images;{searched}"

    def _repr_html_(self) -> str:
        about = {"trial": self.id, "arm": self.arm, "seed": self.seed, f"{self.metric}, %": f"{self.value:.2f}"}
        rows = [(name, str(value)) for name, value in (about | self.searched | {"again": self.command}).items()]
        return html_table(("", f"best {self.role} trial"), rows)


class Results:
    """What a study has measured so far.

    The tables are read when they are first asked for and stay; `akdtune.load` again shows what a running study has
    measured since.

    Attributes:
        directory: of the study.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def study(self) -> str:
        """The name of the study's directory."""
        return self.directory.resolve().name

    @functools.cached_property
    def trials(self) -> pa.Table:
        """One row per planned trial, as an Arrow table; `columns` says what it holds, `.to_pandas()` converts it."""
        return tables.read_trials(self.directory)

    @functools.cached_property
    def epochs(self) -> pa.Table:
        """One row per trial and finished epoch, as an Arrow table; `.to_pandas()` converts it."""
        return tables.read_epochs(self.directory)

    @functools.cached_property
    def columns(self) -> Columns:
        """What each column of both tables holds, by name: type, unit, one sentence."""
        return Columns({"trials": self.trials.schema, "epochs": self.epochs.schema})

    @property
    def settings(self) -> dict[str, Any]:
        """The study's settings with all defaults, as plain JSON; empty for a study that has not begun."""
        return dict((read_lock(self.directory) or {}).get("settings", {}))

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the plan's order."""
        return list(dict.fromkeys(str(arm) for arm in self.trials["arm"].to_pylist()))

    @property
    def metric(self) -> Metric:
        """What the study's trials are judged by; its columns are `metric.validation` and `metric.test`."""
        return of_trials(self.trials.column_names)

    def counts(self) -> dict[str, int]:
        """How many trials there are by status."""
        counted = Counter(self.trials["status"].to_pylist())
        return {status: counted[status] for status in STATUSES if counted[status]}

    def best(self, arm: str | None = None, role: str | None = None) -> BestTrial:
        """The best trial that has reached its last epoch, of all arms and roles or of one.

        Trials of search, probe and pilot are judged by validation accuracy; where there are none, those of confirmation
        and ablation by test accuracy.

        Args:
            arm: only its trials.
            role: only trials of this one: search, probe, pilot, confirm, ablation or control.

        Raises:
            AkdtuneError: for an unknown arm or role, with the nearest name.
            StudyError: while there is none.
        """
        judged = self.metric
        columns = ["trial_id", "arm", "role", "status", "seed", judged.validation, judged.test, judged.best]
        rows = self.trials.select(columns).to_pylist()
        for name, wanted in (("arm", arm), ("role", role)):
            known = list(dict.fromkeys(str(row[name]) for row in rows))
            if wanted is not None and wanted not in known:
                raise AkdtuneError(unknown_name(name, wanted, known))
            rows = [row for row in rows if wanted in (None, row[name])]
        metric, of_kind = best_of.of_one_kind(rows)
        row = best_of.best_done(of_kind, metric)
        if row is None:
            of_arm = "" if arm is None else f" of {arm}"
            raise StudyError(f"{self.directory}: {best_of.none_yet(of_kind, of_arm)} ({self._tally()})")
        plan = next(plan for plan in read_plan(self.directory) if plan["trial_id"] == row["trial_id"])
        return BestTrial(
            directory=self.directory, id=row["trial_id"], arm=row["arm"], role=row["role"], seed=row["seed"],
            metric=metric, value=row[metric], settings=plan["settings"], searched=plan["params"],
            command=self._command(row["trial_id"]),
        )  # fmt: skip

    def _command(self, trial_id: str) -> str:
        file = f"{trial_id}.yaml"
        export = shlex.join(["akdtune", "best", str(self.directory), trial_id, "--export", file])
        return f"{export} && {shlex.join(['akdtune', 'run', file])}"

    @functools.cached_property
    def origin(self) -> Origin:
        """Which processor, threads and versions trained the finished trials, and which versions read them."""
        return origin_of(self.directory)

    @property
    def standing(self) -> Standing:
        """How the study stands: which arm leads and whether that is more than luck, progress, the next command.

        `print(results.standing)` is what `akdtune show` opens with.
        """
        return standing(self.directory, self.trials.to_pylist())

    def curves(self, column: str | None = None, *, arm: str | None = None, role: str | None = None) -> curves.Curves:
        """How a column of `epochs` went in each trial; `.figure()` draws it by arm.

        Args:
            column: one with numbers; default: the metric on validation images.
            arm: only its trials; default: all.
            role: only trials of this one; default: all.

        Raises:
            AkdtuneError: for a column, arm or role that is not there, with the nearest that is.
            StudyError: while no such trial has a value.
        """
        column = column or self.metric.validation
        unit = self.columns[column].unit if column in self.columns else ""
        return curves.curves_of(self.study, self.trials, self.epochs, column, unit, arm, role)

    def ablation(
        self, *, metric: str | None = None, reference: str | None = None, alpha: float | None = None
    ) -> answers.Compared:
        """The cells of the study's ablation against their reference, as `akdtune analyze ablation` compares them.

        Args:
            metric: a column of `trials` with numbers; default: what the design declares.
            reference: name of a cell; default: what the design declares.
            alpha: error rate of each family; default: what the design declares.

        Raises:
            StudyError: when the study has no ablation, or has not come to it yet.
            AkdtuneError: for an unknown metric or reference, with the nearest.
        """
        return answers.compared(self.directory, "ablation", metric=metric, reference=reference, alpha=alpha)

    def confirmation(
        self, *, metric: str | None = None, reference: str | None = None, alpha: float | None = None
    ) -> answers.Compared:
        """The search's winners trained again with fresh seeds, beside their baselines; arguments as `ablation`.

        Raises:
            StudyError: when the study has no confirmation, or has not come to it yet.
            AkdtuneError: for an unknown metric or reference, with the nearest.
        """
        return answers.compared(self.directory, "confirm", metric=metric, reference=reference, alpha=alpha)

    def diversity(self, *, draws: int = association.DRAWS, seed: int = 0) -> answers.Diversity:
        """How the diversity of views goes together with accuracy, as `akdtune analyze diversity_accuracy` says it.

        Args:
            draws: of the bootstrap, 100 or more.
            seed: of the bootstrap.

        Raises:
            StudyError: while no trial has finished.
            AkdtuneError: for too few draws.
        """
        return answers.diversity_in(self.directory, draws=draws, seed=seed)

    def transfer(self, *others: str | Path, reference: str | None = None) -> Transfer:
        """What students have taken over from their teacher's function, as `akdtune analyze transfer` says it.

        Args:
            others: further studies with other teachers, by their directories or their names under `runs/`.
            reference: name of the cell that others are compared with; default: the control `independent`.

        Raises:
            StudyError: when a study has no design or no logits of its teacher, or judges by other images.
            AkdtuneError: for an unknown reference, with the nearest.
        """
        return transfer_of([self.directory, *(resolve_run(str(run)) for run in others)], reference=reference)

    def fidelity(
        self,
        *others: str | Path,
        threshold: float = THRESHOLD,
        maps: str = "sum",
        draws: int = association.DRAWS,
        seed: int = 0,
    ) -> Fidelity:
        """Whether students attend and answer as their teachers do, as `akdtune analyze fidelity` says it.

        Args:
            others: further studies with teachers of their own, whose overlap is then related to what students do.
            threshold: above which a scaled attention map counts as attended.
            maps: sum (over all classes) or predicted (the predicted class).
            draws: of the bootstrap over arms, 100 or more.
            seed: of the bootstrap.

        Raises:
            NotRecorded: where the teachers' answers are not recorded; says which setting records them.
            StudyError: while no trial has finished, or for a study that is not there.
            AkdtuneError: for a study named twice, unknown maps, a threshold out of range or too few draws.
        """
        runs = [self.directory, *(resolve_run(str(other)) for other in others)]
        return fidelity_in(runs, threshold=threshold, maps=maps, draws=draws, seed=seed)

    def detection(self) -> Detected:
        """Whether students were traced to their teachers, as `akdtune analyze detection` last found it for this study.

        That command asks networks and leaves its numbers in `reports/`, which are read here; they hold for all studies
        that it was given.

        Raises:
            StudyError: where it has not been run yet.
        """
        return detected(self.directory)

    def geometry(self, *, draws: int = reliability.DRAWS, seed: int = 0) -> Geometry:
        """How views lie about their teacher, as `akdtune analyze geometry` says it.

        Angles, margins and gates over the epochs; offsets of the views' features where `record` kept features; the
        calibration of ensembles where it kept the answers of views.

        Args:
            draws: of the bootstrap over images, 100 or more.
            seed: of the bootstrap.

        Raises:
            AkdtuneError: for too few draws.
        """
        return geometry_in(self.directory, draws=draws, seed=seed)

    def _tally(self) -> str:
        return tally(self.trials.select(["status"]).to_pylist())

    def __repr__(self) -> str:
        epochs = f"{self.epochs.num_rows:,} epochs"
        return f"results of {self.directory}: {self._tally()}; {epochs}; arms: {', '.join(self.arms) or 'none'}"

    def _repr_html_(self) -> str:
        return escape(repr(self))


def load(run: str | Path) -> Results:
    """What a study has measured, also a running one.

    Args:
        run: its directory, or its name under `runs/`.

    Raises:
        StudyError: when there is no such study; names the nearest one.
    """
    return Results(resolve_run(str(run)))
