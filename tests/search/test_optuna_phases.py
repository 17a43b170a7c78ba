"""Beside the sampler's studies stand those of all other trials; the sampler never sees them; optuna-dashboard does."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial

from akdtune.errors import StudyError
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.study_directory import StudyDirectory
from akdtune.search.optuna_phases import add_phases
from akdtune.search.optuna_search import journal
from akdtune.search.optuna_trials import Worth
from tests.search.test_optuna_search import arm, play, searcher

CELLS = {"base": 0.3, "margin 0.5": 0.5}


def trials(root: Path) -> dict[str, list[FrozenTrial]]:
    """All studies of the journal, as optuna-dashboard would open them."""
    storage = JournalStorage(journal(root / "optuna.journal"))
    return {
        name: optuna.load_study(study_name=name, storage=storage).trials
        for name in optuna.get_all_study_names(storage)
    }  # fmt: skip


def row(trial_id: str, role: str, seed: int, margin: float, **more: Any) -> dict[str, Any]:
    settings = {"views": {"name": "angular", "margin": margin}, "method": [{"name": "kd", "temperature": 4}]}
    return {"trial_id": trial_id, "cell_id": trial_id.rpartition("-")[0], "seed": seed, "role": role,
            "arm": "angular/kd", "bracket": "angular/kd", "proposal": None, "params": {}, "settings": settings,
            "raw": {}, **more}  # fmt: skip


def beside(directory: StudyDirectory) -> None:
    """A probe, two cells of an ablation with two seeds each, one of which is still to come, and its pilot."""
    raw = {"views.margin": 0.25, "method.kd.weight": 1.5, "method.kd.temperature": "4"}
    rows = [row("p0-s9", "probe", 9, 0.25, raw=raw), row("c0-s0", "pilot", 0, 0.3)]
    for number, (cell, margin) in enumerate(CELLS.items()):
        role = "control" if number else "ablation"
        rows += [row(f"a{number}-s{seed}", role, seed, margin, cell=cell) for seed in (0, 1)]
    directory.add_to_plan(rows)
    cells = [{"name": cell, "cell_id": f"a{number}", "role": "ablation"} for number, cell in enumerate(CELLS)]
    directory.write_design("ablation", {"cells": cells})
    for place, plan in enumerate(rows[:-1]):
        end(directory, plan["trial_id"], 60.0 + place, place)


def end(directory: StudyDirectory, trial_id: str, value: float, test: float | None) -> None:
    directory.epoch(trial_id, 1, value, value)
    directory.finish(TrialEnded(kind="done", trial_id=trial_id, epoch=1, test_accuracy=test))


def added(directory: StudyDirectory, asked: tuple[str, ...] = ("angular/kd",)) -> None:
    from tests.search.test_optuna_search import TREE

    add_phases(directory, {"angular/kd": arm(TREE)}, asked, Worth())


def test_each_phase_is_a_study_whose_trials_say_whose_they_are(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    play(search, 2)
    beside(search.directory)
    added(search.directory)
    studies = trials(tmp_path)
    assert list(studies) == ["angular/kd", "probe", "pilot", "ablation"]
    (probe,) = studies["probe"]
    assert probe.user_attrs == {"trial_id": "p0-s9", "arm": "angular/kd", "seed": 9, "role": "probe"}
    assert probe.params == {"views.margin": 0.25, "method.kd.weight": 1.5, "method.kd.temperature": 4}
    assert probe.distributions["views.margin"] == FloatDistribution(0.1, 0.6)
    assert probe.value == 60.0
    found = [(trial.params, trial.value, trial.user_attrs["cell"], trial.user_attrs["role"]) for trial in
             studies["ablation"]]  # fmt: skip
    assert found == [
        ({"views.margin": 0.3}, 2.0, "base", "ablation"),
        ({"views.margin": 0.3}, 3.0, "base", "ablation"),
        ({"views.margin": 0.5}, 4.0, "margin 0.5", "control"),
    ], "of test accuracy, by the settings that differ; the last seed has not ended"


def test_numbers_in_choices_stay_numbers_and_search_trials_say_whose_they_are(tmp_path: Path) -> None:
    play(searcher(tmp_path), 2)
    first = trials(tmp_path)["angular/kd"][0]
    assert first.distributions["method.kd.temperature"] == CategoricalDistribution([2, 4])
    assert first.params["method.kd.temperature"] in (2, 4)
    assert {name: first.user_attrs[name] for name in ("arm", "seed", "role")} == {
        "arm": "angular/kd", "seed": 0, "role": "search",
    }  # fmt: skip
    assert first.user_attrs["trial_id"].startswith("-".join(str(first.params[name]) for name in ("views.margin",)))


def test_again_adds_only_what_is_new_and_a_retried_trial_replaces_its_study(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    beside(search.directory)
    added(search.directory)
    size = (tmp_path / "optuna.journal").stat().st_size
    added(search.directory)
    assert (tmp_path / "optuna.journal").stat().st_size == size
    end(search.directory, "a1-s1", 70.0, 5.0)
    added(search.directory)
    assert [trial.value for trial in trials(tmp_path)["ablation"]] == [2.0, 3.0, 4.0, 5.0]
    search.directory.records["a0-s0"].test = 9.0
    added(search.directory)
    assert [trial.value for trial in trials(tmp_path)["ablation"]] == [9.0, 3.0, 4.0, 5.0]


def test_proposals_are_the_same_with_and_without_them(tmp_path: Path) -> None:
    alone = play(searcher(tmp_path / "a"), 8)
    search = searcher(tmp_path / "b")
    first = play(search, 4)
    beside(search.directory)
    added(search.directory)
    resumed = searcher(tmp_path / "b")
    assert [*first, *play(resumed, 4, begin=4)] == alone
    added(resumed.directory)
    assert [len(of) for of in trials(tmp_path / "b").values()] == [8, 1, 1, 3]


def test_a_search_that_asks_nobody_stands_there_too_and_a_damaged_journal_is_made_anew(tmp_path: Path) -> None:
    directory = StudyDirectory(tmp_path)
    raw = {"views.margin": 0.25, "method.kd.weight": 1.5, "method.kd.temperature": "2"}
    directory.add_to_plan([row("x-s0", "search", 0, 0.25, raw=raw), row("x-s1", "search", 1, 0.25, raw=raw)])
    end(directory, "x-s0", 50.0, None)
    end(directory, "x-s1", 51.0, None)
    added(directory, ())
    assert [trial.value for trial in trials(tmp_path)["angular/kd"]] == [50.0, 51.0]
    (tmp_path / "optuna.journal").write_bytes(b"\x00\xff{" * 9)
    added(directory, ())
    assert [trial.params["method.kd.temperature"] for trial in trials(tmp_path)["angular/kd"]] == [2, 2]


def test_further_seeds_of_proposals_are_a_study_of_their_own(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    (first,) = play(search, 1)
    known = search.directory.records[first].plan
    search.directory.add_to_plan([{**known, "trial_id": "y-s1", "seed": 1, "proposal": None}])
    end(search.directory, "y-s1", 61.0, None)
    added(search.directory)
    studies = trials(tmp_path)
    assert [len(of) for of in studies.values()] == [1, 1]
    assert studies["angular/kd, further seeds"][0].params == studies["angular/kd"][0].params


def test_a_journal_that_takes_nothing_is_one_sentence(tmp_path: Path) -> None:
    directory = StudyDirectory(tmp_path)
    beside(directory)
    (tmp_path / "optuna.journal").mkdir()
    with pytest.raises(StudyError, match=r"optuna\.journal: could not take the trials beside the search \(.*delete it"):
        added(directory)


def test_journals_of_earlier_versions_are_written_anew_with_the_same_proposals(tmp_path: Path) -> None:
    """Then, choices were text, and no trial said whose it was."""
    undisturbed = play(searcher(tmp_path / "a"), 6)
    first = play(searcher(tmp_path / "b"), 3)
    path = tmp_path / "b" / "optuna.journal"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if line["op_code"] != 8]
    path.write_text("".join(json.dumps(line).replace("[2, 4]", r"[\"2\", \"4\"]") + "\n" for line in lines))
    assert trials(tmp_path / "b")["angular/kd"][0].params["method.kd.temperature"] in ("2", "4")
    rest = play(searcher(tmp_path / "b"), 3, begin=3)
    assert [*first, *rest] == undisturbed
    assert trials(tmp_path / "b")["angular/kd"][0].params["method.kd.temperature"] in (2, 4)


def test_optuna_dashboard_reads_it(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    search = searcher(tmp_path)
    play(search, 2)
    beside(search.directory)
    added(search.directory)
    app = dashboard.wsgi(str(tmp_path / "optuna.journal"))
    answers: dict[str, Any] = {}
    for address in ("/api/studies", "/api/studies/0", "/api/studies/3"):
        request = {"REQUEST_METHOD": "GET", "PATH_INFO": address, "QUERY_STRING": "after=0", "SERVER_NAME": "here",
                   "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO()}  # fmt: skip
        answers[address] = json.loads(b"".join(app(request, lambda status, headers, error=None: None)))
    names = [study["study_name"] for study in answers["/api/studies"]["study_summaries"]]
    assert sorted(names) == ["ablation", "angular/kd", "pilot", "probe"]
    shown = answers["/api/studies/3"]["trials"][0]
    assert {"key": "role", "value": "ablation"} in shown["user_attrs"]
    assert {param["name"]: param["param_external_value"] for param in shown["params"]} == {"views.margin": "0.3"}
