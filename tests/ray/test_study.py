"""Studies end to end on Ray: files, resume, outcomes, re-used actors."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from akdtune import results, study_tables
from akdtune.errors import StudyError
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
    rows = study_tables.read_trials(finished[1]).to_pylist()
    search = [row["arm"] for row in rows if row["role"] == "search"]
    assert sorted(search) == ["angular/crd"] * 3 + ["angular/kd"] * 3
    probes = [row for row in rows if row["role"] == "probe"]
    assert [row["status"] for row in probes] == ["done"] * 2
    assert all(row["diversity_sq_prob"] is not None and row["val_accuracy"] is not None for row in probes)
    assert all(row["test_accuracy"] is None for row in rows), "search and probe never read the test set"


def test_the_lock_file_holds_what_reproduces_the_study(finished: tuple[Path, Path]) -> None:
    import yaml

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


def test_a_reused_actor_and_a_fresh_process_give_identical_metrics(finished: tuple[Path, Path], tmp_path: Path) -> None:
    file, root = finished
    expected = studies.metrics(root)
    done = [r for r in study_tables.read_trials(root).to_pylist() if r["status"] == "done"]
    last = max(done, key=lambda r: r["number"])["trial_id"]
    arms = {row["arm"]: row["trial_id"] for row in done}
    for trial_id in {last, *arms.values()}:
        payload = studies.payload_of(root, trial_id, tmp_path, file)
        subprocess.run([sys.executable, "-m", "akdtune.trainable", str(payload)], check=True, capture_output=True)
        assert studies.metrics(tmp_path)[trial_id] == expected[trial_id]


def test_two_studies_of_the_same_yaml_agree(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Random proposals do not depend on arrival order, so whole studies are bit-identical."""
    file, _ = finished
    for name in ("a", "b"):
        assert studies.run(file, tmp_path / name, "search.algorithm=random", "scheduler=null", "probe=null") == 0
    first = studies.metrics(tmp_path / "a")
    assert first == studies.metrics(tmp_path / "b")
    assert len(first) == 6


def test_grid_plans_everything_at_the_start(tmp_path: Path) -> None:
    file = studies.write(tmp_path)
    overrides = ("search={algorithm: grid}", "scheduler=null", "probe=null", "views.margin=0.3", "method.kd.weight=1")
    assert studies.run(file, tmp_path / "run", *overrides) == 0
    studies.assert_exactly_once(tmp_path / "run", trials=6, epochs=6)
    assert not (tmp_path / "run" / "optuna.journal").exists()


def test_pooled_search_runs(tmp_path: Path) -> None:
    file = studies.write(tmp_path)
    assert studies.run(file, tmp_path / "run", "search.fair=pooled", "search.trials=4", "probe=null") == 0
    rows = results.read_plan(tmp_path / "run")
    assert {row["bracket"] for row in rows} == {"pooled"}
    assert {row["arm"] for row in rows} <= {"angular/kd", "angular/crd"}


def test_survivors_of_early_stopping_get_their_further_seeds(tmp_path: Path) -> None:
    """Tune is kept waiting until the first seeds have ended, and told nothing of what follows before."""
    file, root = studies.write(tmp_path), tmp_path / "run"
    search, scheduler = "search={algorithm: random, trials: 4, seeds: [0, 5]}", "scheduler={name: median, "
    assert studies.run(file, root, search, scheduler + "grace_period: 2, min_trials: 1}", "probe=null") == 0
    seeds: dict[str, dict[int, str]] = {}
    for row in study_tables.read_trials(root).to_pylist():
        seeds.setdefault(row["cell_id"], {})[row["seed"]] = row["status"]
    assert len(seeds) == 4 and "done" in {of_cell[0] for of_cell in seeds.values()}
    assert all(of == ({0: "done", 5: "done"} if of[0] == "done" else {0: "pruned"}) for of in seeds.values()), seeds
    assert any(event.kind == "rung" for event in results.read_events(root))


TROUBLED = """
plugins: [troubled]
views: none
method: {name: troubled, weight: 1.0, trouble: none, temperature: {choice: [2, 4]}}
search: {algorithm: grid}
scheduler: null
probe: null
"""


def troubled(folder: Path, trouble: str) -> Path:
    import yaml

    base = yaml.safe_load(studies.TINY)
    base.update(yaml.safe_load(TROUBLED))
    base["method"]["trouble"] = {"choice": ["none", trouble]}
    del base["method"]["temperature"]
    return studies.write(folder, yaml.safe_dump(base))


def outcome(root: Path, trouble: str) -> dict[str, object]:
    rows = study_tables.read_trials(root).to_pylist()
    return next(row for row in rows if row["param.method.troubled.trouble"] == trouble)


def test_an_infinite_loss_is_recorded_as_diverged(tmp_path: Path) -> None:
    assert studies.run(troubled(tmp_path, "infinite"), tmp_path / "run") == 0
    studies.assert_exactly_once(tmp_path / "run", trials=2, epochs=6)
    row = outcome(tmp_path / "run", "infinite")
    assert (row["status"], row["epochs"]) == ("diverged", 1)
    assert outcome(tmp_path / "run", "none")["status"] == "done"


def test_a_users_bug_fails_after_the_same_error_twice(tmp_path: Path) -> None:
    assert studies.run(troubled(tmp_path, "error"), tmp_path / "run") == 1
    root = tmp_path / "run"
    row = outcome(root, "error")
    assert (row["status"], row["epochs"]) == ("failed", 1)
    log = (root / "trials" / str(row["trial_id"]) / "log.txt").read_text()
    assert log.count("RuntimeError: a user's bug") == 2
    (event,) = results.events(root, {"failed"})
    error = event.plain()["error"]
    assert "a user's bug" in error and "troubled.py" in error
    assert studies.run(troubled(tmp_path, "error"), root) == 1, "a failed trial is not run again by itself"


def test_a_killed_worker_is_retried_and_changes_no_number(tmp_path: Path) -> None:
    mark = str(tmp_path / "died")
    file = troubled(tmp_path, mark)
    assert studies.run(file, tmp_path / "run") == 0
    assert Path(mark).exists(), "the worker did die"
    studies.assert_exactly_once(tmp_path / "run", trials=2, epochs=6)
    row = outcome(tmp_path / "run", mark)
    attempts = list((tmp_path / "run" / "trials" / str(row["trial_id"]) / "attempts").glob("*.json"))
    assert len(attempts) == 2
    assert studies.run(file, tmp_path / "again") == 0
    assert studies.metrics(tmp_path / "run") == studies.metrics(tmp_path / "again")


def test_a_slow_close_neither_fails_the_successor_nor_stalls_the_study(tmp_path: Path) -> None:
    file = studies.write(tmp_path, studies.TINY + "plugins: [slow_close]\n")
    started = time.monotonic()
    assert studies.run(file, tmp_path / "run", "search.trials=4", "probe=null", "resources.concurrent=1") == 0
    assert 16 < time.monotonic() - started < 60, "each of four trials takes four seconds to close"
    studies.assert_exactly_once(tmp_path / "run", trials=4, epochs=6)
    for trial in (tmp_path / "run" / "trials").iterdir():
        assert (trial / "attempts" / "1.closed").exists(), "pruned trials close too, also the last ones"


def test_a_worker_log_and_the_trial_files_are_readable(finished: tuple[Path, Path]) -> None:
    _, root = finished
    for trial in (root / "trials").iterdir():
        assert "attempt 1 of" in (trial / "log.txt").read_text()
    done = next((root / "trials").glob("*/outcome.json"))
    assert json.loads(done.read_text())["outcome"] == "done"
