"""records/files.py: what is written can be read back, and reading survives whatever a killed study leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from akdtune.errors import AkdtuneWarning, StudyError
from akdtune.records import epoch_rows, files, tables
from akdtune.records.files import (
    EPOCHS,
    TRIAL_COLUMNS,
    TRIALS,
    read_design,
    read_rows,
    read_table,
    write_rows,
    write_table,
)
from akdtune.records.ledger.reading import read_events
from akdtune.records.plan_file import read_plan, write_plan
from akdtune.records.recorded_files import write_trial_logits
from tests.study_fixture import StudyBuilder


def by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["trial_id"]: row for row in table.to_pylist()}


def test_rows_come_back_typed_and_null_filled(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.parquet"
    rows = [
        {"trial_id": "a", "epoch": 1, "val_accuracy": 50, "loss.ce": 1},
        {"trial_id": "a", "epoch": 2, "val_accuracy": None, "loss.kd": 2.5, "note": {"k": [1]}},
    ]
    write_rows(path, rows)
    table = read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds == {
        "trial_id": "string", "epoch": "int64", "val_accuracy": "double", "loss.ce": "double", "loss.kd": "double",
        "note": "string",
    }  # fmt: skip
    assert read_rows(path) == [
        {"trial_id": "a", "epoch": 1, "val_accuracy": 50.0, "loss.ce": 1.0, "loss.kd": None, "note": None},
        {"trial_id": "a", "epoch": 2, "val_accuracy": None, "loss.ce": None, "loss.kd": 2.5, "note": '{"k": [1]}'},
    ]


def test_a_value_of_the_wrong_kind_names_its_column(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'val_accuracy' takes double"):
        write_rows(tmp_path / "rows.parquet", [{"val_accuracy": "high"}])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"epoch": 1}])

    def full(table: pa.Table, file: Any, **_: Any) -> None:
        file.write(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.pq, "write_table", full)
    with pytest.raises(StudyError, match=r"cannot write .*rows.parquet: No space left on device"):
        write_rows(path, [{"epoch": 1}, {"epoch": 2}])
    assert read_rows(path) == [{"epoch": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


def test_predictions_come_back(tmp_path: Path) -> None:
    logits_NK = np.arange(6, dtype=np.float64).reshape(2, 3)
    write_trial_logits(tmp_path / "p.parquet", np.array([7, 9]), np.array([0, 2]), logits_NK)
    assert read_rows(tmp_path / "p.parquet") == [
        {"sample_id": 7, "label": 0, "logits": [0.0, 1.0, 2.0]},
        {"sample_id": 9, "label": 2, "logits": [3.0, 4.0, 5.0]},
    ]


def test_the_plan_keeps_its_json(tmp_path: Path) -> None:
    row = {
        "number": 0, "trial_id": "t", "cell_id": "c", "seed": 3, "role": "search", "arm": "none/kd", "bracket": "b",
        "proposal": None, "params": {"method.kd.weight": 1.5}, "settings": {"method": [{"name": "kd"}]}, "raw": {},
        "cell": "base",
    }  # fmt: skip
    write_plan(tmp_path, [row])
    assert read_plan(tmp_path) == [row]
    assert json.loads(read_rows(tmp_path / "plan.parquet")[0]["settings"]) == row["settings"]
    assert read_plan(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("torn", ["", '{"time": 1, "event": "do', '{"event"', "\x00\x00", '"done"', '{"time": 3}'])
def test_a_torn_ledger_line_is_left_out(tmp_path: Path, torn: str) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"time": 1, "event": "started", "trial_id": "a"}\n' + torn)
    assert [event.kind for event in read_events(tmp_path)] == ["started"]
    assert read_events(tmp_path / "nowhere") == []


def test_one_row_per_planned_trial_in_every_state(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    done = study.add("angular/kd", 71.0, 0.2, params={"views.margin": 0.3, "views.num_views": 5}, peak_memory_mib=7.0)
    pruned = study.add("angular/dkd", 40.0, 0.1, role="search", status="pruned", params={"method.dkd.beta": 2})
    failed = study.add("angular/kd", None, None, status="failed")
    planned = study.add("angular/kd", None, None, status="planned")
    interrupted = study.add("angular/kd", 30.0, None, status="interrupted")
    running = study.add("angular/kd", 20.0, None, status="running")
    rows = by_id(tables.read_trials(study.write(finished=False)))
    assert {trial_id: row["status"] for trial_id, row in rows.items()} == {
        done: "done", pruned: "pruned", failed: "failed", planned: "planned", interrupted: "interrupted",
        running: "running",
    }  # fmt: skip
    assert rows[pruned]["stop_reason"] == "rung 1"
    row = rows[done]
    assert (row["epochs"], row["val_accuracy"], row["diversity_ce"], row["wall_time_s"]) == (2, 71.0, 0.2, 1.0)
    assert (row["val_accuracy_best"], row["attempts"], row["peak_memory_mib"]) == (71.0, 1, 7.0)
    assert (row["param.views.margin"], row["param.views.num_views"], row["param.method.dkd.beta"]) == (0.3, 5, None)
    assert rows[planned]["epochs"] is None
    assert rows[planned]["val_accuracy_best"] is None
    # A driver that has gone leaves no running trial behind.
    assert by_id(tables.read_trials(study.write(finished=True)))[running]["status"] == "interrupted"


def test_columns_and_types_do_not_depend_on_the_study(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    study.add("none/kd", 50.0, None, params={"a": True, "b": 1, "c": 1.5, "d": "x", "e": [1]})
    study.add("none/kd", None, None, status="planned", params={"a": None, "b": 2, "c": 2, "d": "y", "e": 3})
    schema = tables.read_trials(study.write()).schema
    assert {name: schema.field(name).type for name in TRIAL_COLUMNS} == TRIAL_COLUMNS
    params = {name: str(schema.field(f"param.{name}").type) for name in "abcde"}
    assert params == {"a": "bool", "b": "int64", "c": "double", "d": "string", "e": "string"}
    empty = StudyBuilder(tmp_path / "empty").write()
    assert tables.read_trials(empty).schema.names == list(TRIAL_COLUMNS)
    assert tables.read_epochs(empty).num_rows == 0


def test_the_best_epoch_is_not_the_last_and_later_attempts_win(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    trial_id = study.add("angular/kd", 60.0, 0.2)
    names = ("attempt", "epoch", "val_accuracy", "wall_time_s", "images_per_s")
    values = [(1, 1, 65.0, 1.0, 10.0), (1, 2, 99.0, 9.0, 99.0), (2, 2, 61.0, 2.0, 20.0)]
    rows = [{"trial_id": trial_id, **dict(zip(names, row, strict=True))} for row in values]
    write_rows(tmp_path / "trials" / trial_id / "epochs.parquet", rows[::-1])
    row = tables.read_trials(study.write()).to_pylist()[0]
    assert (row["val_accuracy"], row["val_accuracy_best"], row["epochs"]) == (61.0, 65.0, 2)
    assert (row["wall_time_s"], row["images_per_s"]) == (3.0, 15.0)


def test_the_first_terminal_event_and_a_recorded_stop_are_final(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    twice = study.add("angular/kd", 60.0, 0.2)
    study.event("failed", twice, epoch=2, error="late")
    stopped = study.add("angular/kd", 50.0, 0.2, role="search", status="running")
    study.event("rung", stopped, epoch=2, rung=2, value=50.0, cutoff=60.0, decision="STOP", bracket="angular/kd")
    rows = by_id(tables.read_trials(study.write()))
    assert (rows[twice]["status"], rows[twice]["stop_reason"]) == ("done", None)
    assert (rows[stopped]["status"], rows[stopped]["stop_reason"]) == ("pruned", "rung 2")


@pytest.mark.parametrize("column", ["seed", "diversity_sq_prob", "param.views.margin"])
def test_a_compacted_view_with_a_column_of_another_type_is_built_anew(tmp_path: Path, column: str) -> None:
    study = StudyBuilder(tmp_path)
    study.add("angular/kd", 60.0, 0.2, params={"views.margin": 0.4})
    study.write()
    tables.compact(tmp_path)
    table = read_table(tmp_path / "trials.parquet")
    words = pa.array(["x"] * table.num_rows)
    write_table(tmp_path / "trials.parquet", table.set_column(table.column_names.index(column), column, words))
    assert tables.read_trials(tmp_path).equals(tables.build_trials(tmp_path))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"seeds": ":"}, "ablation.seeds: input should be a valid list"),
        ({"seeds": [None]}, "ablation.seeds.0: input should be a valid integer"),
        ({"cells": [{"name": "base"}]}, "ablation.cells.0.cell_id: is missing"),
        ({"alpha": 5.0}, "ablation.alpha: input should be less than 1"),
    ],
)
def test_a_design_of_another_form_is_named_with_its_key(tmp_path: Path, value: dict[str, Any], said: str) -> None:
    whole = {"seeds": [1], "cells": [{"name": "base", "cell_id": "c"}], "alpha": 0.05, "of a later version": 1}
    (tmp_path / "design.json").write_text(json.dumps({"ablation": whole, "confirm": None}))
    assert read_design(tmp_path)["ablation"] == whole
    (tmp_path / "design.json").write_text(json.dumps({"ablation": whole | value}))
    with pytest.raises(StudyError, match=re.escape(f"{tmp_path / 'design.json'}: damaged, {said}")):
        read_design(tmp_path)


def test_a_compacted_view_is_used_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyBuilder(tmp_path)
    first = study.add("angular/kd", 60.0, 0.2)
    study.write()
    tables.compact(tmp_path)
    built = tables.build_trials(tmp_path)
    opened: list[str] = []
    read = read_table
    for module in (tables, epoch_rows):
        monkeypatch.setattr(module, "read_table", lambda path: opened.append(Path(path).parent.name) or read(path))
    assert tables.read_trials(tmp_path).equals(built)
    assert opened == [tmp_path.name]

    second = study.add("angular/kd", 61.0, 0.3)  # the ledger grows: only the new trial's file is opened
    study.write()
    opened.clear()
    assert set(by_id(tables.read_trials(tmp_path))) == {first, second}
    assert second in opened
    assert first not in opened

    study.plan[0]["arm"] = "angular/dkd"  # the plan alone changes
    study.write()
    tables.compact(tmp_path)
    study.plan[0]["arm"] = "angular/crd"
    study.write()
    assert tables.read_trials(tmp_path)["arm"].to_pylist()[0] == "angular/crd"


def test_a_changed_epoch_file_replaces_its_compacted_rows(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    first, second = study.add("angular/kd", 60.0, 0.2), study.add("angular/kd", 61.0, 0.3)
    study.write()
    tables.compact(tmp_path)
    row = {"trial_id": first, "attempt": 2, "epoch": 1, "val_accuracy": 5.0, "loss.new": 1.0}
    write_rows(tmp_path / "trials" / first / "epochs.parquet", [row])
    table = tables.read_epochs(tmp_path)
    assert sorted(table["trial_id"].to_pylist()) == [first, second, second]
    assert table.column_names[-2:] == ["loss.ce", "loss.new"]
    assert 5.0 in table["val_accuracy"].to_pylist()


def test_compacted_files_alone_and_copies_can_be_read(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path / "study")
    trial_id = study.add("angular/kd", 60.0, 0.2)
    tables.compact(study.write())
    built = tables.read_trials(study.path)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in (TRIALS, EPOCHS):
        (alone / name).write_bytes((study.path / name).read_bytes())
    assert tables.read_trials(alone).equals(built)
    assert set(tables.read_epochs(alone)["trial_id"].to_pylist()) == {trial_id}


def test_a_view_without_sources_counts_when_it_is_newer(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    study.add("angular/kd", 60.0, 0.2)
    study.write()
    write_rows(tmp_path / "trials.parquet", [{"trial_id": "from the file"}], TRIAL_COLUMNS)
    ages = {name: (tmp_path / name).stat().st_mtime_ns for name in ("plan.parquet", "ledger.jsonl")}
    newest = max(ages.values())
    os.utime(tmp_path / "trials.parquet", ns=(newest + 10**9, newest + 10**9))
    assert tables.read_trials(tmp_path)["trial_id"].to_pylist() == ["from the file"]
    os.utime(tmp_path / "trials.parquet", ns=(newest - 10**9, newest - 10**9))
    assert tables.read_trials(tmp_path)["trial_id"].to_pylist() == ["t00000"]


def test_missing_files_are_survived(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    trial_id = study.add("angular/kd", 60.0, 0.2)
    study.write(torn='{"time": 1, "ev')
    (tmp_path / "trials" / trial_id / "epochs.parquet").unlink()
    (tmp_path / "trials" / "stray file").write_text("")
    row = tables.read_trials(tmp_path).to_pylist()[0]
    assert (row["status"], row["epochs"], row["val_accuracy"]) == ("done", None, None)
    (tmp_path / "plan.parquet").unlink()
    row = tables.read_trials(tmp_path).to_pylist()[0]
    assert (row["trial_id"], row["status"], row["arm"]) == (trial_id, "done", None)


def test_what_is_no_study_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study directory"):
        tables.read_trials(tmp_path / "nowhere")
    with pytest.raises(StudyError, match="is no study directory"):
        tables.read_epochs(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="is not a directory"):
        tables.build_trials(tmp_path / "file")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    trial_id = study.add("angular/kd", 60.0, 0.2)
    study.write()
    path = tmp_path / "trials" / trial_id / "epochs.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StudyError, match=rf"{trial_id}/epochs.parquet: cannot be read, truncated"):
        read_rows(path)
    with pytest.warns(AkdtuneWarning, match=rf"{trial_id}/epochs.parquet: cannot be read, truncated"):
        assert tables.read_trials(tmp_path)["epochs"].to_pylist() == [None]


def test_a_view_with_flipped_bits_is_read_from_the_trials_and_written_anew(tmp_path: Path) -> None:
    """Its schema is whole, a page is not: only the checksum of the page tells."""
    study = StudyBuilder(tmp_path)
    for number in range(4):
        study.add("angular/kd", 60.0 + number, 0.2)
    study.write()
    tables.compact(tmp_path)
    before = tables.read_epochs(tmp_path)
    damaged = bytearray((tmp_path / "epochs.parquet").read_bytes())
    damaged[60] ^= 3
    (tmp_path / "epochs.parquet").write_bytes(damaged)
    with pytest.warns(AkdtuneWarning, match="CRC checksum verification failed.*; what it holds is read from the tri"):
        assert tables.read_epochs(tmp_path).equals(before)
    with pytest.warns(AkdtuneWarning, match="CRC checksum"):
        tables.compact(tmp_path)
    assert tables.read_epochs(tmp_path).equals(before)


def test_importing_is_light() -> None:
    heavy = "torch ray pandas wandb optuna scipy matplotlib statsmodels".split()
    modules = "akdtune.records.tables, akdtune.statistics.association"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
