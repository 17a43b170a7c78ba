"""The ledger's events: what stands in a line, byte for byte, and what is read of lines that other versions wrote."""

from __future__ import annotations

import json

import pytest

from akdtune.records.check_words import holds, with_check
from akdtune.records.ledger.events import (
    DuplicateProposed,
    EpochFinished,
    Event,
    RungDecided,
    StudyFinished,
    StudyStarted,
    TimeBudgetSpent,
    TrialEnded,
    TrialInterrupted,
    TrialPlanned,
    TrialStarted,
)
from akdtune.records.ledger.judgements import (
    Candidate,
    PilotJudged,
    RaceJudged,
    RungCorrelation,
    SeedsNeeded,
)
from akdtune.records.ledger.lines import epoch_of, of_plain, parse
from akdtune.roles import TERMINAL

HEAD = {"time": 1.5, "trial_id": "c-s0"}
CANDIDATES = [Candidate("a", 70.5, None, None, False), Candidate("b", 60.0, 0.01, 0.02, True)]
RUNG = {"epoch": 4, "rung": 4, "bracket": "x/kd"}

WRITTEN: list[tuple[Event, str]] = [
    (StudyStarted(time=1.5, pid=12), '{"time": 1.5, "event": "study_started", "pid": 12}'),
    (StudyFinished(time=1.5, interrupted=False), '{"time": 1.5, "event": "study_finished", "interrupted": false}'),
    (TimeBudgetSpent(time=1.5, started=3), '{"time": 1.5, "event": "time_budget", "started": 3}'),
    (
        DuplicateProposed(time=1.5, bracket="x/kd", proposal=7, of="c-s0", raw={"a": 0.1}, status=None),
        '{"time": 1.5, "event": "duplicate", "bracket": "x/kd", "proposal": 7, "of": "c-s0", "raw": {"a": 0.1}, '
        '"status": null}',
    ),
    (
        RaceJudged(
            time=1.5, bracket="x/kd", round=6, seeds=[0, 1], alpha=0.05, candidates=CANDIDATES, unfinished=["c"],
            dropped=["b", "c"],
        ),
        '{"time": 1.5, "event": "race", "bracket": "x/kd", "round": 6, "seeds": [0, 1], "alpha": 0.05, "candidates": '
        '[{"cell_id": "a", "mean": 70.5, "p": null, "p_holm": null, "dropped": false}, {"cell_id": "b", "mean": 60.0, '
        '"p": 0.01, "p_holm": 0.02, "dropped": true}], "unfinished": ["c"], "dropped": ["b", "c"]}',
    ),
    (
        PilotJudged(time=1.5, bracket="x/kd", trials=4, rungs=[RungCorrelation(4, 3, -0.5)], threshold=0.3),
        '{"time": 1.5, "event": "pilot", "bracket": "x/kd", "trials": 4, "rungs": [{"rung": 4, "n": 3, "rho": -0.5}], '
        '"threshold": 0.3}',
    ),
    (
        SeedsNeeded(time=1.5, needed=9, sd=0.2, sd_upper=0.4, cell="a - base", pilot=3, resolve=0.5, power=0.8),
        '{"time": 1.5, "event": "seeds", "needed": 9, "sd": 0.2, "sd_upper": 0.4, "cell": "a - base", "pilot": 3, '
        '"resolve": 0.5, "power": 0.8}',
    ),
    (
        TrialPlanned(time=1.5, trial_id="c-s0", plan={"trial_id": "c-s0", "cell": None}),
        '{"time": 1.5, "event": "planned", "trial_id": "c-s0", "plan": {"trial_id": "c-s0", "cell": null}}',
    ),
    (
        TrialStarted(time=1.5, trial_id="c-s0", attempt=2),
        '{"time": 1.5, "event": "started", "trial_id": "c-s0", "attempt": 2}',
    ),
    (
        TrialStarted(time=1.5, trial_id="c-s0", attempt=2, objectives=["accuracy", "macs"], student_macs=0),
        '{"time": 1.5, "event": "started", "trial_id": "c-s0", "attempt": 2, "objectives": ["accuracy", "macs"], '
        '"student_macs": 0}',
    ),
    (
        EpochFinished(time=1.5, trial_id="c-s0", epoch=3, value=51.0, score=None),
        '{"time": 1.5, "event": "epoch", "trial_id": "c-s0", "epoch": 3, "value": 51.0, "score": null}',
    ),
    (
        RungDecided(**HEAD, **RUNG, value=None, cutoff=None, decision="STOP"),  # type: ignore[arg-type]
        '{"time": 1.5, "event": "rung", "trial_id": "c-s0", "epoch": 4, "rung": 4, "value": null, "cutoff": null, '
        '"decision": "STOP", "bracket": "x/kd"}',
    ),
    (
        RungDecided(**HEAD, **RUNG, value=1.0, cutoff=2.0, decision="CONTINUE", counted=True),  # type: ignore[arg-type]
        '{"time": 1.5, "event": "rung", "trial_id": "c-s0", "epoch": 4, "rung": 4, "value": 1.0, "cutoff": 2.0, '
        '"decision": "CONTINUE", "bracket": "x/kd", "counted": true}',
    ),
    (
        RungDecided(**HEAD, **RUNG, value=1.0, cutoff=2.0, decision="CONTINUE", pilot=True, would="STOP"),  # type: ignore[arg-type]
        '{"time": 1.5, "event": "rung", "trial_id": "c-s0", "epoch": 4, "rung": 4, "value": 1.0, "cutoff": 2.0, '
        '"decision": "CONTINUE", "bracket": "x/kd", "pilot": true, "would": "STOP"}',
    ),
    (
        TrialInterrupted(time=1.5, trial_id="c-s0", epoch=0),
        '{"time": 1.5, "event": "interrupted", "trial_id": "c-s0", "epoch": 0}',
    ),
    (
        TrialEnded(time=1.5, kind="done", trial_id="c-s0", epoch=6, warning="gate", test_accuracy=80.5),
        '{"time": 1.5, "event": "done", "trial_id": "c-s0", "epoch": 6, "warning": "gate", "test_accuracy": 80.5}',
    ),
    (
        TrialEnded(time=1.5, kind="pruned", trial_id="c-s0", epoch=0, reason="rung"),
        '{"time": 1.5, "event": "pruned", "trial_id": "c-s0", "epoch": 0, "reason": "rung"}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("event", "text"), WRITTEN, ids=[event.kind for event, _ in WRITTEN])
def test_a_line_is_written_as_ever_and_read_back(event: Event, text: str) -> None:
    assert event.line() == with_check(text) + "\n"
    assert parse(event.line().encode()) == parse(text.encode()) == event, "with a check word and, as of old, without"
    assert of_plain(json.loads(text)).line() == event.line()


def test_a_digit_that_became_another_one_is_found_wherever_it_stands() -> None:
    line = EpochFinished(time=1.5, trial_id="c-s0", epoch=13, value=51.25, score=50.5).line()
    assert holds(line.encode()) and holds(line.strip().encode())
    for place, letter in enumerate(line.rstrip("\n")):
        if letter.isdigit():
            changed = line[:place] + str((int(letter) + 1) % 10) + line[place + 1 :]
            assert parse(changed.encode()) is None, changed
    assert holds(b'{"time": 1.5, "event": "epoch"}') is None


def test_half_a_line_before_a_whole_one_does_not_count_against_it() -> None:
    event = EpochFinished(time=1.5, trial_id="c-s0", epoch=13, value=51.25, score=50.5)
    assert parse(b'{"time": 1.0, "event": "epo' + event.line().encode()) == event


def test_every_way_to_end_is_an_event() -> None:
    ends = {kind for kind in TERMINAL if isinstance(of_plain({"event": kind, "trial_id": "t"}), TrialEnded)}
    assert ends == set(TERMINAL)


def test_no_number_that_json_lacks_is_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        EpochFinished(trial_id="t", epoch=1, value=float("nan"), score=None).line()


@pytest.mark.parametrize("line", [b'{"time": 1.0, "event": "do', b"[1]", b'{"time": 1.0}', b"\xff\n", b"", b"\n"])
def test_what_is_no_whole_event_is_none(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    "plain",
    [
        {"event": "frozen", "depth": 3},  # a kind of a newer version
        {"event": "epoch", "epoch": 3},  # lacks what its kind holds
        {"event": "race", "bracket": "x", "round": 1, "seeds": [0], "alpha": 0.05, "candidates": [{"cell_id": "a"}],
         "unfinished": [], "dropped": []},
    ],
)  # fmt: skip
def test_of_what_is_not_understood_time_and_trial_are_kept(plain: dict[str, object]) -> None:
    event = of_plain({"time": 2.0, "trial_id": "t", **plain})
    assert type(event) is Event
    assert (event.time, event.kind, event.trial_id) == (2.0, plain["event"], "t")


def test_fields_that_are_not_known_are_passed_over() -> None:
    event = parse(b'{"time": 1.0, "event": "started", "trial_id": "t", "attempt": 2, "host": "there"}')
    assert event == TrialStarted(time=1.0, trial_id="t", attempt=2)


def test_an_event_of_an_old_ledger_may_lack_what_came_later() -> None:
    assert of_plain({"event": "study_started"}) == StudyStarted()
    assert of_plain({"event": "started", "trial_id": "t"}) == TrialStarted(trial_id="t")
    assert of_plain({"event": "done", "trial_id": "t"}) == TrialEnded(kind="done", trial_id="t")


def test_the_end_of_a_trial_is_what_its_outcome_says() -> None:
    where = {"processor": "a", "threads": 1}
    outcome = {"outcome": "done", "epoch": 6, "test_accuracy": 80.5, "disk": None, "trained_on": where}
    assert TrialEnded.of_outcome("t", outcome, reused_from="there") == TrialEnded(
        kind="done", trial_id="t", epoch=6, test_accuracy=80.5, reused_from="there", trained_on=where
    )


NOT_AS_WRITTEN = [
    '{"time": 1.5, "event": "epoch", "trial_id": "t", "epoch": 3, "value": 51, "score": null}\n',
    '{"time": 1.5, "event": "epoch", "trial_id": "a\\"b", "epoch": 3, "value": 51.0, "score": null}\n',
    '{"time": 1.5, "event": "epoch", "trial_id": "t", "epoch": 3, "value": 51.0, "score": null}',
    '{"time": 1.5, "event": "done", "trial_id": "t", "epoch": 3}\n',
    '{"time": 1.5, "event": "epoch", "tri{"time": 1.5, "event": "epoch", "trial_id": "t", "epoch": 3, "value": 1.0, '
    '"score": 1.0}\n',
]


@pytest.mark.parametrize("value", [51.0, None, 1.5e-7, 1.25e300, -0.0])
def test_an_epoch_as_it_is_written_is_read_at_once_as_what_parse_makes_of_it(value: float | None) -> None:
    line = EpochFinished(time=1.5, trial_id="c-s0", epoch=12, value=value, score=7.25).line().encode()
    parsed = parse(line)
    assert isinstance(parsed, EpochFinished)
    assert epoch_of(line) == (parsed.trial_id, parsed.epoch, parsed.value, parsed.score) == ("c-s0", 12, value, 7.25)
    assert epoch_of(line.replace(b"7.25", b"7.26")) is None, "its check word says so"


@pytest.mark.parametrize("line", NOT_AS_WRITTEN)
def test_any_other_line_is_left_to_parse(line: str) -> None:
    assert epoch_of(line.encode()) is None
