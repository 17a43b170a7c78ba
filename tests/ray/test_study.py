"""Studies end to end on Ray: files, resume, outcomes, re-used actors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from akdtune.errors import StudyError
from akdtune.records import recorded, tables
from akdtune.records.ledger.reading import events, read_events
from akdtune.records.plan_file import read_plan
from akdtune.running import retrying
from tests.ray import studies

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]


@pytest.fixture(scope="module")
def finished(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished tiny study: (YAML, directory)."""
    folder = tmp_path_factory.mktemp("tiny")
    file = studies.write(folder)
    assert studies.run(file, folder / "run") == 0
    return file, folder / "run"


def test_every_trial_ends_once_and_leaves_its_files(finished: tuple[Path, Path]) -> None:
    _, root = finished
    studies.assert_exactly_once(root, trials=8, epochs=6)
    for name in (
        "study.lock.yaml",
        "plan.parquet",
        "ledger.jsonl",
        "optuna.journal",
        "trials.parquet",
        "epochs.parquet",
    ):
        assert (root / name).exists(), name


def test_arms_get_equal_numbers_and_probes_are_complete(finished: tuple[Path, Path]) -> None:
    rows = tables.read_trials(finished[1]).to_pylist()
    search = [row["arm"] for row in rows if row["role"] == "search"]
    assert sorted(search) == ["angular/crd"] * 3 + ["angular/kd"] * 3
    probes = [row for row in rows if row["role"] == "probe"]
    assert [row["status"] for row in probes] == ["done"] * 2
    assert all(row["diversity_sq_prob"] is not None and row["val_accuracy"] is not None for row in probes)
    assert all(row["test_accuracy"] is None for row in rows), "search and probe never read the test set"


def test_the_lock_file_holds_what_reproduces_the_study(finished: tuple[Path, Path]) -> None:
    lock = yaml.safe_load((finished[1] / "study.lock.yaml").read_text())
    assert lock["teacher"]["val_accuracy"] > 0 and lock["teacher"]["test_accuracy"] > 0
    assert lock["resolved"]["method.crd.negatives"] > 0
    assert lock["settings"]["views"]["constraint_weight"] == 10.0, "presets are spelt out"
    assert lock["data"]["hash"] and lock["packages"]["torch"] and lock["seeds"]["probe"] == [1]


def test_the_same_command_again_does_nothing(finished: tuple[Path, Path]) -> None:
    file, root = finished
    before = (root / "ledger.jsonl").read_bytes()
    assert studies.run(file, root) == 0
    assert (root / "ledger.jsonl").read_bytes() == before


def test_a_changed_study_is_refused_with_the_difference(finished: tuple[Path, Path]) -> None:
    file, root = finished
    with pytest.raises(StudyError, match=r"training\.epochs: 6 -> 7"):
        studies.run(file, root, "training.epochs=7")
    with pytest.raises(StudyError, match="belongs to study 'tiny', not 'other'"):
        studies.run(file, root, "study=other")
    assert studies.run(file, root, "resources.concurrent=1") == 0, "resources determine no result"


def test_reused_actors_a_fresh_process_and_this_one_give_identical_metrics(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    file, root = finished
    expected = studies.metrics(root)
    done = sorted((r for r in tables.read_trials(root).to_pylist() if r["status"] == "done"), key=lambda r: r["number"])
    last = done[-1]
    other = next(row for row in reversed(done) if row["arm"] != last["arm"])
    studies.run_alone(studies.payload_of(root, last["trial_id"], tmp_path, file))
    studies.run_here(studies.payload_of(root, other["trial_id"], tmp_path, file))
    for row in (last, other):
        assert studies.metrics(tmp_path)[row["trial_id"]] == expected[row["trial_id"]]


def test_survivors_of_early_stopping_get_their_further_seeds(tmp_path: Path) -> None:
    """Tune is kept waiting until the first seeds have ended, and told nothing of what follows before."""
    file, root = studies.write(tmp_path), tmp_path / "run"
    search, scheduler = "search={algorithm: random, trials: 4, seeds: [0, 5]}", "scheduler={name: median, "
    assert studies.run(file, root, search, scheduler + "grace_period: 2, min_trials: 1}", "probe=null") == 0
    seeds: dict[str, dict[int, str]] = {}
    for row in tables.read_trials(root).to_pylist():
        seeds.setdefault(row["cell_id"], {})[row["seed"]] = row["status"]
    assert len(seeds) == 4 and "done" in {of_cell[0] for of_cell in seeds.values()}
    assert all(of == ({0: "done", 5: "done"} if of[0] == "done" else {0: "pruned"}) for of in seeds.values()), seeds
    assert any(event.kind == "rung" for event in read_events(root))


TROUBLED = """
plugins: [troubled]
views: none
method: {name: troubled, weight: 1.0}
training: {epochs: 3, batch_size: 32}
search: {algorithm: grid}
scheduler: null
probe: null
resources: {concurrent: 1}
"""


class Troubled(NamedTuple):
    """A finished study of five trials, four of which meet trouble in their second epoch."""

    file: Path
    root: Path
    mark: str
    """What the trial that dies leaves behind."""

    def row(self, trouble: str) -> dict[str, Any]:
        rows = tables.read_trials(self.root).to_pylist()
        return next(row for row in rows if row["param.method.troubled.trouble"] == trouble)


@pytest.fixture(scope="module")
def troubled(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> Troubled:
    folder = tmp_path_factory.mktemp("troubled")
    settings = {**yaml.safe_load(studies.TINY), **yaml.safe_load(TROUBLED)}
    mark = str(folder / "died")
    settings["method"]["trouble"] = {"choice": ["none", "infinite", "error", mark, f"disk:{mark}.too"]}
    file = studies.write(folder, yaml.safe_dump(settings))
    assert studies.run(file, folder / "run") == 1, "a trial failed"
    return Troubled(file, folder / "run", mark)


def test_trouble_stays_with_its_trial(troubled: Troubled) -> None:
    studies.assert_exactly_once(troubled.root, trials=5, epochs=3)
    assert troubled.row("none")["status"] == "done"


def test_what_passes_outside_a_trial_costs_it_nothing(troubled: Troubled) -> None:
    row = troubled.row(f"disk:{troubled.mark}.too")
    assert (row["status"], row["stop_reason"], row["epochs"]) == ("done", None, 3)
    (event,) = [event for event in events(troubled.root, {"interrupted"}) if event.trial_id == row["trial_id"]]
    assert f"{troubled.mark}.too: Input/output error" in event.plain()["cause"]


def test_an_infinite_loss_is_recorded_as_diverged(troubled: Troubled) -> None:
    row = troubled.row("infinite")
    assert (row["status"], row["epochs"]) == ("diverged", 1)


def test_a_users_bug_fails_after_the_same_error_twice(troubled: Troubled) -> None:
    row = troubled.row("error")
    assert (row["status"], row["epochs"]) == ("failed", 1)
    log = (troubled.root / "trials" / str(row["trial_id"]) / "log.txt").read_text()
    assert log.count("RuntimeError: a user's bug") == 2
    (event,) = events(troubled.root, {"failed"})
    error = event.plain()["error"]
    assert "a user's bug" in error and "troubled.py" in error
    assert studies.run(troubled.file, troubled.root) == 1, "a failed trial is not run again by itself"


def test_a_killed_worker_is_retried_and_changes_no_number(troubled: Troubled, tmp_path: Path) -> None:
    assert Path(troubled.mark).exists(), "the worker did die"
    row = troubled.row(troubled.mark)
    attempts = list((troubled.root / "trials" / str(row["trial_id"]) / "attempts").glob("*.json"))
    assert len(attempts) == 2
    studies.run_here(studies.payload_of(troubled.root, row["trial_id"], tmp_path, troubled.file))
    assert studies.metrics(tmp_path)[row["trial_id"]] == studies.metrics(troubled.root)[row["trial_id"]]


def test_a_retried_trial_ends_once_more(troubled: Troubled) -> None:
    """The last of these tests: its bug is still there."""
    row = troubled.row("error")
    assert [record.trial_id for record in retrying.retry(troubled.root)] == [row["trial_id"]]
    assert troubled.row("error")["status"] == "interrupted"
    assert studies.run(troubled.file, troubled.root) == 1
    studies.assert_exactly_once(troubled.root, trials=5, epochs=3)
    assert len(list(events(troubled.root, {"failed"}))) == 2
    assert troubled.row("error")["status"] == "failed"


@pytest.mark.slow
def test_a_slow_close_neither_fails_the_successor_nor_stalls_the_study(tmp_path: Path) -> None:
    """In a pooled search, whose arms share one bracket."""
    file, root = studies.write(tmp_path, studies.TINY + "plugins: [slow_close]\n"), tmp_path / "run"
    changes = ("search.fair=pooled", "search.trials=4", "probe=null", "resources.concurrent=1")
    began = time.monotonic()
    assert studies.run(file, root, *changes) == 0
    assert 12 < time.monotonic() - began < 60, "each of four trials takes three seconds to close"
    studies.assert_exactly_once(root, trials=4, epochs=6)
    for trial in (root / "trials").iterdir():
        assert (trial / "attempts" / "1.closed").exists(), "pruned trials close too, also the last ones"
    rows = read_plan(root)
    assert {row["bracket"] for row in rows} == {"pooled"}
    assert {row["arm"] for row in rows} <= {"angular/kd", "angular/crd"}


def test_a_worker_log_and_the_trial_files_are_readable(finished: tuple[Path, Path]) -> None:
    _, root = finished
    for trial in (root / "trials").iterdir():
        assert "attempt 1 of" in (trial / "log.txt").read_text()
    done = next((root / "trials").glob("*/outcome.json"))
    assert json.loads(done.read_text())["outcome"] == "done"


def test_what_record_asks_for_is_kept_on_ray_and_may_change_when_the_study_goes_on(
    tmp_path: Path,
) -> None:
    file, root = tmp_path / "study.yaml", tmp_path / "run"
    text = studies.TINY.replace("algorithm: tpe, trials: 6", "algorithm: random, trials: 2")
    text = text.replace("probe: {trials: 2}", "record: {views: true, features: 5, attention: {images: 4}, train: true}")
    file.write_text(text)
    assert studies.run(file, root) == 0
    lock = yaml.safe_load((root / "study.lock.yaml").read_text())
    assert lock["settings"]["record"] == {"views": True, "features": 5, "attention": 4, "train": True}
    done = [row["trial_id"] for row in tables.read_trials(root).to_pylist() if row["status"] == "done"]
    for trial_id in done:
        views = recorded.trial_views(root, trial_id)
        assert len(views.log_probabilities_VNK) in (1, 2, 3)
        assert recorded.trial_features(root, trial_id).of["student"].shape == (5, 4)
        assert recorded.trial_attention(root, trial_id).of["view_1"].sum_NHW.shape == (4, 4, 4)
    teacher = recorded.teacher_logits(root, "validation")
    assert np.array_equal(teacher.sample_ids_N, recorded.trial_logits(root, done[0]).sample_ids_N)
    assert sorted(path.name for path in (root / "predictions").iterdir()) == [
        "teacher-attention-validation.parquet", "teacher-features-validation.parquet", "teacher-validation.parquet",
    ]  # fmt: skip

    (root / "predictions" / "teacher-validation.parquet").unlink()
    assert studies.run(file, root, "record=null") == 0, "record may change"
    again = recorded.teacher_logits(root, "validation")
    np.testing.assert_allclose(again.main_NK, teacher.main_NK, rtol=1e-2, atol=1e-3)
