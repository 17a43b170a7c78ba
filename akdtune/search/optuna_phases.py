"""What the sampler does not see stands beside its studies in the journal: probes, the ablation's cells, confirmations.

A derived view, as the whole journal is: each start of a study adds what has ended since. Trials of a search that asks
no sampler (random, grid) stand there in a study per bracket, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial
from typing_extensions import override

from akdtune.errors import AkdtuneError, StudyError
from akdtune.records.study_directory import StudyDirectory
from akdtune.records.trial_record import TrialRecord
from akdtune.search.optuna_search import journal
from akdtune.search.optuna_trials import Worth, attributes, proposed
from akdtune.settings.leaves import leaves, scalar, varied
from akdtune.settings.space import Space

ACCURACY = Worth()


def add_phases(directory: StudyDirectory, spaces: Mapping[str, Space], asked: Iterable[str], search: Worth) -> None:
    """Brings the journal's studies of all trials that no sampler proposed to what the ledger says.

    Args:
        directory: of the study.
        spaces: arms and brackets by name, which say what settings were drawn from.
        asked: brackets that a sampler proposes for.
        search: what trials of the search are worth.

    Raises:
        StudyError: when the journal cannot be read or written; nothing but a view of the study is lost.
    """
    groups = _groups(directory, set(asked))
    if not groups:
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = directory.journal_path
    try:
        try:
            _bring_up(journal(path), groups, spaces, search)
        except Exception:  # whatever is wrong with a derived file: once more from nothing
            if set(asked):
                raise  # the sampler's own studies are in it
            path.unlink(missing_ok=True)
            _bring_up(journal(path), groups, spaces, search)
    except Exception as error:  # nothing follows from it but what optuna-dashboard shows
        reason = f"{type(error).__name__}: {error}"
        raise StudyError(f"{path}: could not take the trials beside the search ({reason}); delete it") from error


def _groups(directory: StudyDirectory, asked: set[str]) -> dict[str, list[TrialRecord]]:
    """Trials that have ended and that no sampler proposed, by the name of their study."""
    of_cells = {
        cell.get("cell_id"): phase for phase, design in directory.read_design().items() for cell in design["cells"]
    }
    groups: dict[str, list[TrialRecord]] = {}
    for record in directory.records.values():
        role, bracket = str(record.plan["role"]), str(record.plan.get("bracket") or record.plan["arm"])
        told = role == "search" and bracket in asked and record.plan.get("proposal") is not None
        if told or record.terminal is None:
            continue
        name = bracket if role == "search" else str(of_cells.get(record.plan["cell_id"]) or role)
        if role == "pilot":
            name = role
        if role == "search" and bracket in asked:
            name = f"{bracket}, further seeds"
        groups.setdefault(name, []).append(record)
    taken = {name for name in groups if name in asked}
    return {f"{name} trials" if name in taken else name: records for name, records in groups.items()}


def _bring_up(
    backend: JournalFileBackend, groups: Mapping[str, list[TrialRecord]], spaces: Mapping[str, Space], search: Worth
) -> None:
    at_once = _AtOnce(backend)
    storage = JournalStorage(at_once)
    for name, records in groups.items():
        worth = search if records[0].plan["role"] == "search" else ACCURACY
        _bring_up_study(storage, name, _frozen(records, spaces, worth), worth)
    at_once.write()


def _bring_up_study(storage: JournalStorage, name: str, expected: Mapping[str, FrozenTrial], worth: Worth) -> None:
    """Adds trials that a study lacks; a study that holds others than expected is made anew."""
    known = {of.study_name: of._study_id for of in storage.get_all_studies()}
    held: dict[str, FrozenTrial] = {}
    if name in known:
        stored = storage.get_all_trials(known[name], deepcopy=False)
        held = {str(trial.user_attrs.get("trial_id")): trial for trial in stored}
        same = len(held) == len(stored) and storage.get_study_directions(known[name]) == worth.directions
        if not same or not all(_alike(trial, expected.get(of)) for of, trial in held.items()):
            storage.delete_study(known.pop(name))
            held = {}
    study = OptunaStudy(name, storage) if name in known else _created(storage, name, worth)
    for of, trial in expected.items():
        if of not in held:
            study.add_trial(trial)


def _created(storage: JournalStorage, name: str, worth: Worth) -> OptunaStudy:
    storage.create_new_study(worth.directions, name)
    return OptunaStudy(name, storage)


def _alike(held: FrozenTrial, expected: FrozenTrial | None) -> bool:
    if expected is None:
        return False
    parts = ("state", "values", "params", "distributions", "user_attrs", "intermediate_values")
    return all(getattr(held, name) == getattr(expected, name) for name in parts)


def _frozen(records: Sequence[TrialRecord], spaces: Mapping[str, Space], worth: Worth) -> dict[str, FrozenTrial]:
    """Trials of one study by their ids: settings from where they were drawn, or those that differ among them."""
    drawn: dict[str, tuple[Mapping[str, Any], Mapping[str, BaseDistribution]]] = {}
    for record in records:
        space = spaces.get(str(record.plan.get("bracket") or record.plan["arm"]))
        try:
            if space is not None and record.plan.get("raw"):
                of = proposed(space, record.plan["raw"])
                drawn[record.trial_id] = of.params, of.by_name
        except (AkdtuneError, ValueError):  # of a space that has been extended since
            continue
    rest = [record for record in records if record.trial_id not in drawn]
    drawn |= _as_they_differ(rest)
    return {
        record.trial_id: worth.frozen(*drawn[record.trial_id], record, attributes(record.plan)) for record in records
    }


def _as_they_differ(
    records: Sequence[TrialRecord],
) -> dict[str, tuple[Mapping[str, Any], Mapping[str, BaseDistribution]]]:
    """Values of the settings that differ among some trials, and distributions that hold just these."""
    paths = varied(record.plan["settings"] for record in records)
    values: dict[str, dict[str, Any]] = {path: {} for path in paths}
    for record in records:
        of = leaves(record.plan["settings"])
        for path in paths:
            if path in of:
                values[path][record.trial_id] = scalar(of[path])
    distributions = {path: _holding(list(of.values())) for path, of in values.items()}
    params = {
        record.trial_id: {path: of[record.trial_id] for path, of in values.items() if record.trial_id in of}
        for record in records
    }
    return {of: (own, {path: distributions[path] for path in own}) for of, own in params.items()}


def _holding(values: Sequence[Any]) -> BaseDistribution:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers and all(isinstance(value, int) for value in values):
        return IntDistribution(min(values), max(values))
    if numbers:
        return FloatDistribution(float(min(values)), float(max(values)))
    labels = list(dict.fromkeys(values))
    return CategoricalDistribution(labels)


class _AtOnce(BaseJournalBackend):
    """Keeps what is written until all of it is: the file is locked and flushed once."""

    def __init__(self, file: JournalFileBackend) -> None:
        self._file = file
        self._read = list(file.read_logs(0)) if Path(file._file_path).exists() else []
        self._new: list[dict[str, Any]] = []

    @override
    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        later = log_number_from - len(self._read)
        return self._new[later:] if later >= 0 else [*self._read[log_number_from:], *self._new]

    @override
    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._new += logs

    def write(self) -> None:
        """Puts it into the file, which must hold it afterwards: half a line at its end would spoil the next one."""
        if self._new:
            self._file.append_logs(self._new)
            if sum(1 for _ in journal(Path(self._file._file_path)).read_logs(0)) != len(self._read) + len(self._new):
                raise ValueError("damaged")
