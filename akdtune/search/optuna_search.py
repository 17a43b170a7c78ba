"""Proposals from Optuna by ask and tell: one study per bracket, all in one journal file that optuna-dashboard opens.

The journal is derived: the ledger and the plan say what was proposed and how it ended, and the journal is rebuilt
from them whenever it does not load or disagrees. Proposal number n is drawn by a sampler that is seeded from
(search seed, what the bracket is drawn as, n), so what was drawn before does not shift it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study as OptunaStudy
from optuna.trial import TrialState, create_trial

from akdtune.randomness import derived_seed
from akdtune.records.ledger.events import DuplicateProposed
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.search.optuna_trials import Values, Worth, attributes, proposed, values_of
from akdtune.settings.space import Proposal, Space

DUPLICATE_OF = "duplicate_of"
"""User attribute of a proposal that a planned trial had made already: that trial's id."""

DUPLICATES_IN_A_ROW = 20
"""After this many proposals in a row that exist already, the space counts as exhausted."""


class OptunaSuggest:
    """Draws each dimension from an Optuna trial.

    Args:
        trial: of Optuna.
        values: the options of each choice as Optuna holds them; which of them is drawn does not depend on it.
    """

    def __init__(self, trial: optuna.Trial, values: Values) -> None:
        self.trial = trial
        self._values = values

    def categorical(self, name: str, labels: Sequence[str]) -> int:
        """Index of the chosen label."""
        options = list(self._values.get(name, labels))
        return options.index(self.trial.suggest_categorical(name, options))

    def float(self, name: str, low: float, high: float, log: bool, step: float | None) -> float:
        """A real number in [low, high]."""
        return self.trial.suggest_float(name, low, high, log=log, step=step)

    def int(self, name: str, low: int, high: int, log: bool, step: int) -> int:
        """A whole number in [low, high]."""
        return self.trial.suggest_int(name, low, high, log=log, step=step)


class Searcher:
    """Asks for proposals and tells outcomes, bracket by bracket.

    Args:
        directory: the study's state; plan rows of role `search` hold each proposal's number and raw values.
        brackets: the space of each bracket (an arm each, or one for a pooled search), by name.
        seed: the search seed.
        startup: proposals per bracket that are drawn at random before TPE models them.
        identify: gives the trial id of a proposal.
        algorithm: tpe or gp.
        objectives: the metric alone, or with costs, which are minimised.
        costs: gives the other objectives of a trial that is done, by name.
        enqueued: known points of each bracket, which are proposed before any is drawn.
    """

    def __init__(
        self,
        directory: StudyDirectory,
        brackets: Mapping[str, Space],
        seed: int,
        startup: int,
        identify: Callable[[Proposal], str],
        algorithm: str = "tpe",
        objectives: Sequence[str] = ("accuracy",),
        costs: Callable[[TrialRecord], Mapping[str, float]] | None = None,
        enqueued: Mapping[str, Sequence[Proposal]] | None = None,
    ) -> None:
        self.directory = directory
        self.brackets = dict(brackets)
        self.seed = seed
        self.startup = startup
        self.identify = identify
        self.algorithm = algorithm
        self.worth = Worth(tuple(objectives), costs)
        self.enqueued = {name: list(points) for name, points in (enqueued or {}).items()}
        self.exhausted: set[str] = set()
        self._shared: dict[str, Any] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.studies = self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher; nothing of ours is ever restored from there

    def propose(self, bracket: str) -> tuple[Proposal, int] | None:
        """The next new proposal of a bracket and its number, or None when its space is exhausted."""
        if (known_point := self._next_enqueued(bracket)) is not None:
            return known_point
        arm = self.brackets[bracket]
        study = self.studies[bracket]
        for _ in range(DUPLICATES_IN_A_ROW):
            number = len(study.get_trials(deepcopy=False))
            study.sampler = self._sampler(bracket, number)
            with warnings.catch_warnings():
                if self.algorithm == "gp":  # it says what it would do with a further package, and where a fit is rough
                    warnings.simplefilter("ignore")
                asked = study.ask()
                proposal = arm.sample(OptunaSuggest(asked, values_of(arm)))
            assert asked.number == number
            trial_id = self.identify(proposal)
            known = self.directory.records.get(trial_id)
            if known is None:
                return proposal, number
            raw = dict(proposal.raw)
            self.directory.append(
                DuplicateProposed(bracket=bracket, proposal=number, of=trial_id, raw=raw, status=known.terminal)
            )
            asked.set_user_attr(DUPLICATE_OF, trial_id)
            self._tell(study, number, known if known.terminal else None)
        self.exhausted.add(bracket)
        return None

    def _next_enqueued(self, bracket: str) -> tuple[Proposal, int] | None:
        """The next known point that is not planned yet, as a proposal that the sampler learns from like any other."""
        points, study = self.enqueued.get(bracket, []), self.studies[bracket]
        while points:
            proposal = points.pop(0)
            if self.identify(proposal) not in self.directory.records:
                number = len(study.get_trials(deepcopy=False))
                asked = proposed(self.brackets[bracket], proposal.raw)
                params, distributions = asked.params, asked.by_name
                study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))
                return proposal, number
        return None

    def planned(self, record: TrialRecord) -> None:
        """Notes beside a proposal which trial it has become."""
        study = self.studies[record.plan["bracket"]]
        _note(study, int(record.plan["proposal"]), attributes(record.plan))

    def tell(self, record: TrialRecord) -> None:
        """Tells the outcome of a finished search trial."""
        if record.plan["role"] == "search" and record.plan["proposal"] is not None:
            self._tell(self.studies[record.plan["bracket"]], int(record.plan["proposal"]), record)

    def _tell(self, study: OptunaStudy, number: int, record: TrialRecord | None) -> None:
        state = self.worth.state(record) if record else TrialState.FAIL
        trial = _running(study, number)
        for step, reported in self.worth.intermediate(record).items() if record else ():
            trial.report(reported, step)
        values = self.worth.values(record) if record and state is TrialState.COMPLETE else None
        study.tell(number, values, state=state)

    def _sampler(self, bracket: str, number: int) -> optuna.samplers.BaseSampler:
        seed = derived_seed("search", self.seed, self.brackets[bracket].drawn_as, number) % 2**32
        if self.algorithm == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=self.startup, warn_independent_sampling=False)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup)
        if "_search_space" in vars(sampler):  # what all trials so far share, which a new sampler would gather anew
            sampler._search_space = self._shared.setdefault(bracket, sampler._search_space)
        return sampler

    def _open(self) -> dict[str, OptunaStudy]:
        expected = {name: self._expected(name) for name in self.brackets}
        path = self.directory.journal_path
        for stale in path.parent.glob(f"{path.name}*.lock"):  # we hold the study; its former holder is dead
            stale.unlink(missing_ok=True)
        try:
            studies = self._load(path)
            for name, study in studies.items():
                self._settle(study, expected[name])
            return studies
        except Exception:  # whatever is wrong with a derived file, the ledger has the truth
            path.unlink(missing_ok=True)
            studies = self._load(path)
            for name, study in studies.items():
                for trial in expected[name].values():
                    study.add_trial(trial)
            return studies

    def _load(self, path: Path) -> dict[str, OptunaStudy]:
        storage = JournalStorage(journal(path))
        directions = self.worth.directions
        return {
            name: optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
            for name in self.brackets
        }

    def _expected(self, bracket: str) -> dict[int, optuna.trial.FrozenTrial]:
        """What the ledger says the bracket's Optuna study holds, by proposal number."""
        expected: dict[int, optuna.trial.FrozenTrial] = {}
        for record in self.directory.records.values():
            plan = record.plan
            if plan["role"] == "search" and plan["bracket"] == bracket and plan["proposal"] is not None:
                of = attributes(plan)
                expected[int(plan["proposal"])] = self._frozen(bracket, plan["raw"], record, of)
        for event in self.directory.events:
            if isinstance(event, DuplicateProposed) and event.bracket == bracket:
                told = event.status not in (None, "failed")  # of a failed trial that is retried it stays told so
                known = self.directory.records[event.of] if told else None
                expected[event.proposal] = self._frozen(bracket, event.raw, known, {DUPLICATE_OF: event.of})
        lost = create_trial(state=TrialState.FAIL)
        return {number: expected.get(number, lost) for number in range(max(expected, default=-1) + 1)}

    def _frozen(
        self, bracket: str, raw: Mapping[str, Any], record: TrialRecord | None, of: Mapping[str, Any]
    ) -> optuna.trial.FrozenTrial:
        recorded = proposed(self.brackets[bracket], raw)
        return self.worth.frozen(recorded.params, recorded.by_name, record, of)

    def _settle(self, study: OptunaStudy, expected: Mapping[int, optuna.trial.FrozenTrial]) -> None:
        """Brings a loaded study to what the ledger says; raises where only a rebuild can."""
        held = study.get_trials(deepcopy=False)
        for trial in held[len(expected) :]:
            if trial.state is not TrialState.FAIL:  # asked, never planned
                study.tell(trial.number, state=TrialState.FAIL)
        if len(held) < len(expected):
            raise ValueError("the journal lacks proposals")
        for trial, should in zip(held, expected.values(), strict=False):
            if should.params and should.params != trial.params:
                raise ValueError(f"proposal {trial.number} differs")
            if should.distributions and should.distributions != trial.distributions:
                raise ValueError(f"proposal {trial.number} is of other options")
            if trial.state != should.state:
                raise ValueError(f"proposal {trial.number} is {trial.state}, the ledger says {should.state}")
            if should.user_attrs.items() > trial.user_attrs.items() and not trial.state.is_finished():
                _note(study, trial.number, should.user_attrs)
            elif should.user_attrs != trial.user_attrs:
                raise ValueError(f"proposal {trial.number} does not say whose it is")


def journal(path: Path) -> JournalFileBackend:
    """The file that studies stand in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))


def _running(study: OptunaStudy, number: int) -> optuna.Trial:
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _note(study: OptunaStudy, number: int, of: Mapping[str, Any]) -> None:
    trial = _running(study, number)
    for name, value in of.items():
        trial.set_user_attr(name, value)
