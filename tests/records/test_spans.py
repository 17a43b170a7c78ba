"""When a study ran, by its ledger: pauses and what a killed driver left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from akdtune.records.ledger import reading, spans
from akdtune.records.ledger.events import Event
from akdtune.records.ledger.lines import of_plain
from akdtune.records.ledger.spans import read_times, spans_of


def events(*lines: tuple[float, str] | tuple[float, str, str]) -> list[Event]:
    return [of_plain({"time": line[0], "event": line[1], "trial_id": "".join(line[2:])}) for line in lines]


TWO_AT_ONCE: Sequence[tuple[float, str] | tuple[float, str, str]] = (
    (100, "study_started"), (101, "started", "a"), (102, "started", "b"), (111, "done", "a"), (112, "pruned", "b"),
    (113, "study_finished"),
)  # fmt: skip


def test_trials_and_drivers_add_up() -> None:
    found = spans_of(events(*TWO_AT_ONCE))
    assert {name: (span.seconds, span.ended) for name, span in found.trials.items()} == {
        "a": (10.0, "done"), "b": (10.0, "pruned"),
    }  # fmt: skip
    assert (found.elapsed_s, found.at_once, found.finished, found.live) == (13.0, 2, True, False)
    assert found.busy_s == 20.0 and found.pace == pytest.approx(13 / 20), "two at a time, and a start"


def test_what_a_killed_driver_left_counts_to_its_last_event_and_pauses_do_not() -> None:
    found = spans_of(
        events((100, "study_started"), (100, "started", "a"), (130, "epoch", "a"), (5000, "study_started"),
               (5000, "started", "a"), (5010, "interrupted", "a"), (5011, "study_finished"),
               (9000, "study_started"), (9000, "started", "a"), (9020, "done", "a"))
    )  # fmt: skip
    assert found.trials["a"].seconds == 30 + 10 + 20
    assert found.elapsed_s == 30 + 11 + 20 and not found.finished


def test_a_running_study_counts_up_to_now() -> None:
    lines = events((100, "study_started"), (100, "started", "a"), (110, "epoch", "a"))
    running, cut_off = spans_of(lines, now=140.0), spans_of(lines)
    assert (running.trials["a"].running_s, running.trials["a"].seconds, running.elapsed_s) == (40.0, 40.0, 40.0)
    assert (cut_off.trials["a"].running_s, cut_off.trials["a"].seconds, cut_off.elapsed_s) == (None, 10.0, 10.0)


def test_nothing_has_run() -> None:
    found = spans_of([])
    assert (found.trials, found.elapsed_s, found.pace) == ({}, 0.0, 1.0)
    assert spans_of([], now=5.0).live is False


def test_a_trial_taken_over_from_another_study_has_no_time_here() -> None:
    assert spans_of(events((1, "study_started"), (2, "done", "reused"), (3, "study_finished"))).trials == {}


def test_times_are_read_without_decoding_lines(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text(
        '{"time": 1.5, "event": "study_started", "pid": 1}\n{"time": 2.0, "event": "epoch", "trial_id": "a", "epoch": 1'
        ', "value": 1.0, "score": 1.0}\n{"time": NaN, "event": "done", "trial_id": "a"}\n{"time": 3.0, "event": "do'
    )
    assert [(event.time, event.kind, event.trial_id) for event in read_times(tmp_path)] == [
        (1.5, "study_started", ""), (2.0, "epoch", "a"),
    ]  # fmt: skip
    assert spans.spent_s(read_times(tmp_path)) == 0.5


def test_of_epochs_in_a_row_the_last_is_read_and_nothing_else_is_lost(tmp_path: Path) -> None:
    lines = [(1, "study_started", ""), (2, "started", "a"), (3, "epoch", "a"), (4, "epoch", "a"), (5, "done", "a"),
             (6, "epoch", "b"), (7, "epoch", "b")]  # fmt: skip
    text = "".join(json.dumps({"time": float(at), "event": kind, "trial_id": of}) + "\n" for at, kind, of in lines)
    (tmp_path / "ledger.jsonl").write_text(text)
    times, whole = spans.read_course(tmp_path, {"done"})
    assert [(event.time, event.kind) for event in times] == [
        (1.0, "study_started"), (2.0, "started"), (4.0, "epoch"), (5.0, "done"), (7.0, "epoch"),
    ]  # fmt: skip
    assert [(event.time, event.kind, event.trial_id) for event in whole] == [(5.0, "done", "a")]


def test_rare_events_are_found_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 64)
    lines = [f'{{"time": {n}.5, "event": "{"pilot" if n % 7 == 3 else "epoch"}", "n": {n}}}\n' for n in range(30)]
    (tmp_path / "ledger.jsonl").write_text("".join(lines))
    assert [event.time for event in reading.events(tmp_path, {"pilot"})] == [3.5, 10.5, 17.5, 24.5]
    assert len(list(reading.heads(tmp_path))) == 30
    assert [kind for kind, _, _ in reading.heads(tmp_path, "none")] == ["pilot"] * 4
