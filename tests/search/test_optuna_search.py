"""Ask and tell: pruned is told as pruned, the journal is derived, duplicates do not run twice, draws repeat."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from akdtune.records.ledger.events import TrialEnded
from akdtune.records.study_directory import StudyDirectory
from akdtune.roles import Terminal
from akdtune.search.optuna_search import DUPLICATES_IN_A_ROW, Searcher
from akdtune.settings import domains, space
from akdtune.settings.space import Arm, Proposal

TREE: dict[str, Any] = {
    "views": {"name": "angular", "margin": {"uniform": [0.1, 0.6]}},
    "method": {"name": "kd", "weight": {"log_uniform": [0.1, 4.0]}, "temperature": {"choice": [2, 4]}},
}
SMALL: dict[str, Any] = {"views": {"name": "angular"}, "method": {"name": "kd", "temperature": {"choice": [2, 4]}}}


def arm(tree: dict[str, Any], name: str = "angular/kd") -> Arm:
    parsed = domains.parse(tree, [], [])
    expanded, _, _ = space.expand(parsed)[0]
    return Arm(name, expanded, {}, lambda values: values)


def identify(proposal: Proposal) -> str:
    return "-".join(f"{value}" for value in proposal.raw.values())


def searcher(root: Path, tree: dict[str, Any] = TREE, algorithm: str = "tpe") -> Searcher:
    root.mkdir(exist_ok=True)
    directory = StudyDirectory(root)
    directory.load()
    return Searcher(directory, {"angular/kd": arm(tree)}, seed=7, startup=2, identify=identify, algorithm=algorithm)


def propose(search: Searcher) -> str | None:
    proposed = search.propose("angular/kd")
    if proposed is None:
        return None
    proposal, number = proposed
    trial_id = identify(proposal)
    search.directory.add_to_plan(
        [
            {
                "trial_id": trial_id, "cell_id": trial_id, "seed": 0, "role": "search", "arm": proposal.arm,
                "bracket": "angular/kd", "proposal": number, "params": proposal.params,
                "settings": proposal.settings, "raw": proposal.raw,
            }
        ]
    )  # fmt: skip
    search.planned(search.directory.records[trial_id])
    return trial_id


def end(search: Searcher, trial_id: str, terminal: Terminal, epochs: int, value: float) -> None:
    for epoch in range(1, epochs + 1):
        search.directory.epoch(trial_id, epoch, value + epoch, value + epoch)
    search.directory.finish(TrialEnded(kind=terminal, trial_id=trial_id, epoch=epochs))
    search.tell(search.directory.records[trial_id])


def play(search: Searcher, count: int, begin: int = 0) -> list[str]:
    ids = []
    for index in range(begin, begin + count):
        trial_id = propose(search)
        assert trial_id is not None
        ids.append(trial_id)
        terminal = ("done", "pruned", "diverged", "failed")[index % 4]
        end(search, trial_id, terminal, 5 if terminal == "done" else 2, 50.0 + index)
    return ids


def stored(root: Path) -> list[optuna.trial.FrozenTrial]:
    """The journal as optuna-dashboard would open it."""
    storage = JournalStorage(JournalFileBackend(str(root / "optuna.journal")))
    return optuna.load_study(study_name="angular/kd", storage=storage).trials


def test_outcomes_reach_optuna_as_what_they_were(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    play(search, 4)
    trials = stored(tmp_path)
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].value == 55.0
    assert trials[1].intermediate_values == {2: 53.0}
    assert set(trials[0].params) == {"views.margin", "method.kd.weight", "method.kd.temperature"}


def test_the_same_history_gives_the_same_proposals_also_after_a_restart(tmp_path: Path) -> None:
    undisturbed = play(searcher(tmp_path / "a"), 8)
    first = play(searcher(tmp_path / "b"), 4)
    assert first == undisturbed[:4]
    rest = play(searcher(tmp_path / "b"), 4, begin=4)
    assert first + rest == undisturbed


def test_a_gaussian_process_proposes_alike_after_a_restart_and_learns(tmp_path: Path) -> None:
    whole = play(searcher(tmp_path / "a", algorithm="gp"), 4)
    part = play(searcher(tmp_path / "b", algorithm="gp"), 3)
    assert [*part, propose(searcher(tmp_path / "b", algorithm="gp"))] == whole
    assert whole[3] != play(searcher(tmp_path / "c"), 4)[3], "tpe draws another one"


@pytest.mark.parametrize("damage", ["torn", "gone", "behind", "garbage"])
def test_the_journal_is_rebuilt_from_the_ledger(tmp_path: Path, damage: str) -> None:
    play(searcher(tmp_path), 5)
    before = stored(tmp_path)
    journal = tmp_path / "optuna.journal"
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    if damage == "gone":
        journal.unlink()
    else:
        damaged = {"torn": content[: len(content) // 2], "behind": b"".join(lines[:-2]), "garbage": b"\x00\xff{" * 9}
        journal.write_bytes(damaged[damage])
    searcher(tmp_path)
    after = stored(tmp_path)
    assert [(t.state, t.params, t.value, t.intermediate_values) for t in after] == [
        (t.state, t.params, t.value, t.intermediate_values) for t in before
    ]


def test_a_proposal_that_was_asked_and_never_planned_fails_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    play(search, 2)
    assert search.propose("angular/kd") is not None  # the driver dies here, before planning it
    resumed = searcher(tmp_path)
    assert stored(tmp_path)[2].state is TrialState.FAIL
    trial_id = propose(resumed)
    assert trial_id is not None
    assert resumed.directory.records[trial_id].plan["proposal"] == 3
    searcher(tmp_path)  # and the gap is no disagreement
    assert [t.state for t in stored(tmp_path)][2:] == [TrialState.FAIL, TrialState.RUNNING]


def test_duplicates_do_not_run_twice_and_an_exhausted_space_ends(tmp_path: Path) -> None:
    search = searcher(tmp_path, SMALL)
    ids = []
    while (trial_id := propose(search)) is not None:
        ids.append(trial_id)
        end(search, trial_id, "done", 3, 60.0)
    assert sorted(ids) == ["2", "4"]
    assert search.exhausted == {"angular/kd"}
    duplicates = [event for event in search.directory.events if event.kind == "duplicate"]
    assert len(duplicates) >= DUPLICATES_IN_A_ROW
    trials = stored(tmp_path)
    assert {t.value for t in trials} == {63.0}, "each duplicate is told the stored outcome"
    searcher(tmp_path, SMALL)
    assert [t.value for t in stored(tmp_path)] == [t.value for t in trials]


def test_a_stale_lock_of_a_killed_driver_does_not_block(tmp_path: Path) -> None:
    play(searcher(tmp_path), 1)
    (tmp_path / "optuna.journal.lock").touch()
    assert propose(searcher(tmp_path)) is not None


def test_what_tune_pickles_is_empty(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(searcher(tmp_path))).__dict__ == {}
