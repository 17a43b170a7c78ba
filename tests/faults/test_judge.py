"""The judge finds what is wrong in directories that were spoiled on purpose, and nothing in the others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import judge

EPOCHS = 3
TRIALS = ("a-s0", "b-s0")


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    """A study directory as akdtune leaves it."""
    root = tmp_path / "undisturbed"
    settings = json.dumps({"training": {"epochs": EPOCHS}})
    root.mkdir()
    pq.write_table(pa.table({"trial_id": TRIALS, "settings": [settings] * 2}), root / "plan.parquet")
    events: list[dict[str, Any]] = [{"event": "study_started", "pid": 1}]
    for number, trial_id in enumerate(TRIALS):
        folder = root / "trials" / trial_id
        (folder / "attempts").mkdir(parents=True)
        (folder / "attempts" / "1.json").write_text(json.dumps({"pid": 1, "host": "here", "started": 0.0}))
        values = [10.0 + number + epoch / 3 for epoch in range(EPOCHS)]
        events.append({"event": "started", "trial_id": trial_id, "attempt": 1})
        events += [{"event": "epoch", "trial_id": trial_id, "epoch": n, "value": v} for n, v in enumerate(values, 1)]
        events.append({"event": "done", "trial_id": trial_id, "epoch": EPOCHS})
        rows = {
            "epoch": [1, 2, 3],
            "val_accuracy": values,
            "loss.ce": [0.5, 0.25, -0.0],
            "wall_time_s": [1.0, 1.0, 1.0],
        }
        pq.write_table(pa.table({**rows, "margin": [float("nan")] * 3}), folder / "epochs.parquet")
        logits = pa.array([[0.1, 0.2], [0.3, 0.4]], pa.list_(pa.float32()))
        pq.write_table(
            pa.table({"sample_id": [7, 8], "label": [0, 1], "logits": logits}), folder / "predictions.parquet"
        )
        (folder / "outcome.json").write_text(json.dumps({"outcome": "done", "epoch": EPOCHS}))
        (folder / "checkpoint.pt").write_bytes(b"state")
    events.append({"event": "study_finished"})
    (root / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return root


@pytest.fixture
def study(undisturbed: Path) -> Path:
    return Path(shutil.copytree(undisturbed, undisturbed.parent / "study"))


def events(root: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    path = root / "ledger.jsonl"
    held = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(event) + "\n" for event in change(held)))


def rows(root: Path, change: Callable[[pa.Table], pa.Table], name: str = "epochs.parquet") -> None:
    path = root / "trials" / TRIALS[0] / name
    pq.write_table(change(pq.read_table(path)), path)


def with_value(table: pa.Table, name: str, value: Any, at: int = 1) -> pa.Table:
    values = table[name].to_pylist()
    values[at] = value
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, table.schema.field(name).type))


def of_first(held: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(event for event in held if event["event"] == kind and event["trial_id"] == TRIALS[0])


def drop(root: Path, name: str) -> None:
    (root / "trials" / TRIALS[0] / name).unlink()


def test_undisturbed_is_found_to_be_so(study: Path, undisturbed: Path) -> None:
    verdict = judge.judge(study, undisturbed)
    assert verdict.found == []
    assert (verdict.planned, verdict.ended) == (2, 2)
    assert judge.unfinished(study) == [] and judge.ended(study) == {"a-s0": 1, "b-s0": 1}


def test_times_attempts_and_compression_are_no_numbers(study: Path, undisturbed: Path) -> None:
    rows(study, lambda table: with_value(table, "wall_time_s", 77.0))
    assert judge.judge(study, undisturbed).found == []


def test_trial_tried_again_after_a_failure(study: Path, undisturbed: Path) -> None:
    def again(held: list[dict[str, Any]]) -> list[dict[str, Any]]:
        at = held.index(of_first(held, "epoch"))
        failed = {"event": "failed", "trial_id": TRIALS[0], "epoch": 0}
        return [*held[:at], failed, {"event": "retried", "trial_id": TRIALS[0]}, *held[at:]]

    events(study, again)
    assert judge.judge(study, undisturbed).found == []


ONE_BIT = 10.0 + 1 / 3 + 2e-15
SPOILED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "dropped epoch": ("gaps: a-s0", lambda root: rows(root, lambda table: table.take([0, 2]))),
    "repeated epoch": ("gaps: a-s0", lambda root: rows(root, lambda table: table.take([0, 1, 1, 2]))),
    "last epochs missing everywhere": (
        "gaps: a-s0: done after 2 of 3 epochs",
        lambda root: (
            rows(root, lambda table: table.slice(0, 2)),
            events(root, lambda held: [e for e in held if e != held[held.index(of_first(held, "epoch")) + 2]]),
        ),
    ),
    "epoch missing in the ledger": ("gaps: a-s0", lambda root: events(
        root, lambda held: [event for event in held if event is not of_first(held, "epoch")])),
    "epoch twice in the ledger": ("gaps: a-s0", lambda root: events(
        root, lambda held: [*held, of_first(held, "epoch")])),
    "another value in the ledger": ("differing: a-s0: epoch 1", lambda root: events(
        root, lambda held: [{**e, "value": 1.0} if e is of_first(held, "epoch") else e for e in held])),
    "one bit of a metric": (
        "differing: a-s0/epochs.parquet: val_accuracy differs first at epoch 2",
        lambda root: rows(root, lambda table: with_value(table, "val_accuracy", ONE_BIT)),
    ),
    "sign of a zero": ("differing: a-s0/epochs.parquet: loss.ce", lambda root: rows(
        root, lambda table: with_value(table, "loss.ce", 0.0, 2))),
    "number in place of NaN": ("differing: a-s0/epochs.parquet: margin", lambda root: rows(
        root, lambda table: with_value(table, "margin", 0.0))),
    "column missing": ("differing: a-s0/epochs.parquet: loss.ce is a column of only one", lambda root: rows(
        root, lambda table: table.drop_columns(["loss.ce"]))),
    "one bit of a logit": ("differing: a-s0/predictions.parquet: logits", lambda root: rows(
        root, lambda table: with_value(table, "logits", [0.3, 0.40000004]), "predictions.parquet")),
    "image missing": ("differing: a-s0/predictions.parquet", lambda root: rows(
        root, lambda table: table.slice(0, 1), "predictions.parquet")),
    "two ends": ("twice: a-s0: ended 2 times", lambda root: events(root, lambda held: [*held, of_first(held, "done")])),
    "another end": ("differing: a-s0: failed at epoch 3, undisturbed done", lambda root: events(
        root, lambda held: [{**e, "event": "failed"} if e is of_first(held, "done") else e for e in held])),
    "no end": ("lost: a-s0: has no end", lambda root: events(
        root, lambda held: [event for event in held if event is not of_first(held, "done")])),
    "tried again and not ended": ("lost: a-s0: has no end", lambda root: events(
        root, lambda held: [*held, {"event": "retried", "trial_id": TRIALS[0]}])),
    "trial missing in the plan": ("lost: a-s0: not in the plan", lambda root: pq.write_table(
        pq.read_table(root / "plan.parquet").slice(1), root / "plan.parquet")),
    "plan cut": ("lost: ArrowInvalid", lambda root: (root / "plan.parquet").write_bytes(b"PAR1")),
    "rows missing": ("lost: a-s0: FileNotFoundError", lambda root: drop(root, "epochs.parquet")),
    "rows cut": ("lost: a-s0: ArrowInvalid", lambda root: (
        root / "trials" / TRIALS[0] / "epochs.parquet").write_bytes(b"")),
    "checkpoint missing": ("lost: a-s0: done without checkpoint.pt", lambda root: drop(root, "checkpoint.pt")),
    "predictions missing": ("lost: a-s0: done without predictions.parquet", lambda root: drop(
        root, "predictions.parquet")),
    "outcome missing": ("lost: a-s0: done without outcome.json", lambda root: drop(root, "outcome.json")),
    "outcome of another epoch": ("lost: a-s0: done, and its outcome says", lambda root: (
        root / "trials" / TRIALS[0] / "outcome.json").write_text('{"outcome": "done", "epoch": 2}')),
    "half-written file": ("temporary: ", lambda root: (
        root / "trials" / TRIALS[0] / ".checkpoint.pt.12.34.tmp").write_bytes(b"")),
    "probe": ("temporary: ", lambda root: (root / ".probe").write_bytes(b"")),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_what_was_spoiled_is_found(study: Path, undisturbed: Path, how: str) -> None:
    expected, spoil = SPOILED[how]
    spoil(study)
    found = judge.judge(study, undisturbed).found
    assert any(sentence.startswith(expected) for sentence in found), found
    assert all(TRIALS[1] not in sentence or how == "plan cut" for sentence in found), found


def test_trained_again_after_its_end(study: Path) -> None:
    (study / "trials" / TRIALS[0] / "attempts" / "2.json").write_text("{}")
    assert judge.judge(study, attempts=judge.ended(study)).found == []
    assert judge.judge(study, attempts=dict.fromkeys(TRIALS, 1)).twice == [
        "a-s0: had ended after 1 attempts, and has 2 now"
    ]


def test_half_written_file_in_a_cache(study: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".teacher.pt.1.2.tmp").touch()
    assert len(judge.judge(study, folders=[tmp_path / "cache"]).temporary) == 1


def test_orphans_are_found_by_marker_and_by_directory(tmp_path: Path) -> None:
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    marked = subprocess.Popen(waiting, env={**os.environ, "AKDTUNE_FAULTS": "orphan"}, start_new_session=True)
    named = subprocess.Popen([*waiting, str(tmp_path / "run")], start_new_session=True)
    try:
        found = judge.orphans("AKDTUNE_FAULTS=orphan", tmp_path / "run", within_s=0.5)
        assert [line.partition(":")[0] for line in found] == sorted((str(marked.pid), str(named.pid)), key=int)
        start = judge.started(named.pid)
        assert start is not None
        assert len(judge.orphans("AKDTUNE_FAULTS=nobody", tmp_path / "x", [(named.pid, start)], within_s=0.0)) == 1
    finally:
        for process in (marked, named):
            process.kill()
            process.wait()
    assert judge.orphans("AKDTUNE_FAULTS=orphan", tmp_path / "run", within_s=0.0) == []


def test_the_judge_imports_nothing_of_what_it_judges() -> None:
    code = "import sys; from tests.faults import judge; assert not any(n.startswith('akdtune') for n in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(judge.__file__).parents[2])
