"""`akdtune trial` and `akdtune diff`: what a trial is called, in what it differs, what was decided about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from akdtune import cli
from akdtune.errors import AkdtuneError
from akdtune.records.files import trial_directory
from akdtune.records.ledger.events import (
    EpochFinished,
    Event,
    RungDecided,
    StudyFinished,
    StudyStarted,
    TrialEnded,
    TrialInterrupted,
    TrialPlanned,
    TrialStarted,
)
from akdtune.records.ledger.judgements import Candidate, RaceJudged
from akdtune.reports.one_trial.centre import against_centre, arms_of
from akdtune.reports.one_trial.curve import sparkline
from akdtune.reports.one_trial.history import times
from akdtune.reports.one_trial.names import named, one_trial
from akdtune.reports.one_trial.rungs import decisions, races
from tests.study_fixture import StudyBuilder

SETTINGS: dict[str, Any] = {
    "study": "toy",
    "views": {"name": "angular", "margin": {"uniform": [0.1, 0.6]}, "num_views": {"choice": [1, 3, 5]}},
    "method": {"choice": [{"name": "kd", "weight": {"log_uniform": [0.25, 4.0]}}, [{"name": "kd"}, {"name": "crd"}]]},
    "student": {"network": "resnet8"},
    "training": {"lr": 0.1},
    "search": {"objectives": ["accuracy"]},
    "scheduler": {"name": "asha", "grace_period": 2, "reduction_factor": 2.0},
}
LOCK = {"settings": SETTINGS, "arms": ["angular/kd", "angular/kd+crd"]}


def row(trial_id: str, **more: Any) -> dict[str, Any]:
    cell_id, _, seed = trial_id.partition("-s")
    of_all = {"arm": "angular/kd", "role": "search", "cell": None}
    return {"trial_id": trial_id, "cell_id": cell_id, "seed": int(seed), **of_all, **more}


# ----------------------------------------------------------------------------------------------------------- names

ROWS = [
    row("aa11-s0"), row("aa22-s0"), row("bb33-s1", role="ablation", cell="base", arm="none/kd"),
    row("bb33-s2", role="ablation", cell="base", arm="none/kd"),
    row("cc44-s1", role="control", cell="plain", arm="x/y"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("aa11-s0", ["aa11-s0"]), ("aa1", ["aa11-s0"]), ("base", ["bb33-s1", "bb33-s2"]), ("plain", ["cc44-s1"]),
        ("bb33", ["bb33-s1", "bb33-s2"]),
    ],
)  # fmt: skip
def test_a_trial_or_a_cell_by_whatever_it_is_called(name: str, meant: list[str]) -> None:
    assert named(ROWS, name).trial_ids == meant


@pytest.mark.parametrize(
    ("name", "said"),
    [("aa", "'aa' is ambiguous: aa11-s0, aa22-s0"), ("bse", "did you mean 'base'"), ("", "no trial or cell")],
)
def test_what_nothing_or_several_things_are_called_is_refused(name: str, said: str) -> None:
    with pytest.raises(AkdtuneError, match=said):
        named(ROWS, name)


def test_one_trial_of_a_cell_has_to_be_named() -> None:
    assert one_trial(ROWS, "plain")["trial_id"] == "cc44-s1"
    with pytest.raises(
        AkdtuneError, match=r"cell 'base' has 2 trials; name one: bb33-s1 \(ablation, seed 1\), bb33-s2"
    ):
        one_trial(ROWS, "base")


# --------------------------------------------------------------------------------------------------------- settings


def test_a_trial_stands_beside_the_centre_of_its_arm() -> None:
    settings = {
        "views": {"name": "angular", "margin": 0.5, "num_views": 3},
        "method": [{"name": "kd", "weight": 2.0, "temperature": 4.0}], "training": {"lr": 0.1},
    }  # fmt: skip
    compared = against_centre(LOCK, {"arm": "angular/kd", "settings": settings, "params": {}})
    assert [(of.path, of.value, of.other, of.differs) for of in compared] == [
        ("views.margin", 0.5, 0.35, True), ("views.num_views", 3, 3, False), ("method.kd.weight", 2.0, 1.0, True),
    ]  # fmt: skip
    assert against_centre(LOCK, {"arm": "another", "settings": settings, "params": {}}) == []
    assert list(arms_of(LOCK)) == LOCK["arms"]
    assert arms_of({"settings": {}}) == arms_of({}) == {}


# ------------------------------------------------------------------------------------------------------------ rungs


def rung(trial_id: str, value: float | None, cutoff: float | None, decision: str = "CONTINUE", **more: Any) -> Event:
    of = {"epoch": 4, "rung": 4, "bracket": "angular/kd", **more}
    return RungDecided(trial_id=trial_id, value=value, cutoff=cutoff, decision=decision, **of)


def test_a_decision_says_score_cutoff_and_place() -> None:
    events = [
        rung("a", 50.0, None), rung("other", 99.0, None, bracket="x"), rung("b", 40.0, 45.0, "STOP"),
        rung("c", 60.0, 45.0), rung("d", 30.0, 50.0, "CONTINUE", pilot=True, would="STOP"),
        rung("e", None, 45.0, "STOP"), rung("f", 35.0, 45.0, counted=True),
    ]  # fmt: skip
    said = {name: decisions(name, events, "asha") for name in "abcdefg"}
    assert said["a"] == ["epoch 4: score 50.00, no cutoff: the first to come here (2nd of 5 by now): went on"]
    assert said["b"] == ["epoch 4: score 40.00, below the cutoff 45.00, 2nd of 2 so far (3rd of 5 by now): stopped"]
    assert said["c"] == ["epoch 4: score 60.00, not below the cutoff 45.00, 1st of 3 so far (1st of 5 by now): went on"]
    assert said["d"][0].endswith("went on as a pilot trial (it would have been stopped)")
    assert said["e"] == ["epoch 4: its score is not finite: stopped"]
    assert said["f"][0].endswith("4th of 5 so far: only counted for others, it had come to its end")
    assert said["g"] == []


def test_the_median_rule_says_where_it_was_closest() -> None:
    events = [
        rung("a", 30.0, None, epoch=2, rung=2), rung("a", 45.0, 40.0, epoch=3, rung=3),
        rung("a", 41.0, 46.0, "STOP", epoch=4, rung=4),
    ]  # fmt: skip
    assert decisions("a", events, "median") == [
        "epoch 4: its best score so far 45.00, below 46.00, the median of the others' means: stopped",
        "compared 2 times, epochs 3 to 4; this was the closest",
    ]
    assert decisions("a", events[:1], "median") == ["1 epoch asked about, too few others had come as far"]


def test_a_race_says_its_rounds() -> None:
    candidates = [Candidate("c", 70.5, None, None, False), Candidate("d", 60.0, 0.01, 0.02, True)]
    judged = RaceJudged(
        bracket="x", round=6, seeds=[0, 1], alpha=0.05, candidates=candidates, unfinished=["e"], dropped=["d", "e"]
    )
    assert races("d", [judged]) == [
        "race, 6 seeds: mean 60.00, 2nd of 2 (best 70.50), Holm p .020 at alpha 0.05: dropped"
    ]
    assert races("c", [judged]) == ["race, 6 seeds: mean 70.50, 1st of 2 (best 70.50): stays"]
    assert races("e", [judged]) == ["race, 6 seeds: dropped, not every seed came to its end"]


# ------------------------------------------------------------------------------------------------------------- time


def test_waiting_and_attempts_are_told_apart() -> None:
    events: list[Event] = [
        StudyStarted(time=0.0),
        TrialPlanned(time=10.0, trial_id="t", plan={}),
        TrialStarted(time=15.0, trial_id="t", attempt=1),
        TrialInterrupted(time=20.0, trial_id="t", epoch=3, cause="/nfs: no such file"),
        TrialStarted(time=30.0, trial_id="t", attempt=2),
        rung("other", 1.0, None, epoch=1, rung=1),
        StudyStarted(time=100.0),
        TrialStarted(time=110.0, trial_id="t", attempt=3),
        TrialEnded(time=112.0, kind="done", trial_id="t", epoch=4),
        StudyFinished(time=113.0),
    ]
    events[5] = EpochFinished(time=36.0, trial_id="t", epoch=4, value=1.0, score=1.0)
    found = times(events, "t")
    assert (found.planned, found.waited_s, found.attempts, found.ran_s) == (10.0, 5.0, 3, 5.0 + 6.0 + 2.0)
    assert found.notes[0].endswith("interrupted after epoch 3: /nfs: no such file")
    assert found.notes[1].endswith("interrupted: the driver was killed")


def test_a_sparkline_goes_from_end_to_end_and_fits() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 0, 7) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0, 5.0], 5.0, 5.0) == "▁▁"
    long = sparkline([float(value) for value in range(10_000)], 0, 9999)
    assert len(long) == 60 and (long[0], long[-1]) == ("▁", "█")


# --------------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def study(tmp_path: Path) -> Path:
    build = StudyBuilder(tmp_path / "toy")
    build.lock = LOCK
    build.cell("base", [70.0, 70.5, 71.5, 70.25])
    build.cell("base~x", [69.0, 69.75, 70.0, 69.5])
    build.design["ablation"]["reference"] = "base"
    build.plan[4]["settings"]["views"]["margin"] = 0.5
    first = build.add("angular/kd", 61.5, None, role="search", params={"views.margin": 0.25}, epochs=6)
    build.add("angular/kd", 66.5, None, role="search", params={"views.margin": 0.5}, epochs=6, seed=2)
    for plan in build.plan:
        plan["cell"] = next(
            (c["name"] for c in build.design["ablation"]["cells"] if c["cell_id"] == plan["cell_id"]), None
        )
    folder = trial_directory(build.path, first)
    (folder / "log.txt").write_text("epoch 1 of 6: ce 1\nwarning: gates stay shut\nx.py:1: UserWarning: odd\n")
    return build.write()


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines() if str(arguments[1]) not in line)
    return printed


def test_the_command_trial(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = call(capsys, "trial", study, "t00008")
    assert printed.startswith("t00008 (angular/kd, search, seed 1): done after 6 epochs, validation 61.50 %\n")
    assert "validation accuracy, epochs 1 to 6\n  10.00 ▁▁▁▁▁█ 61.50\n  last 61.50, best 61.50 after epoch 6" in printed
    assert "gates stay shut" in printed and "UserWarning: odd" in printed
    assert "ran 7.0 s in 1 attempt" in printed and "epochs 3.0 s (evaluations included)" in printed
    assert "--export t00008.yaml" in printed and "akdtune run t00008.yaml" in printed
    of_cell = call(capsys, "trial", study, "t00004")
    assert "in what it differs from cell base" in of_cell and "views.margin  0.5  base: (absent)" in of_cell
    assert "trials of role ablation are never stopped" in of_cell
    assert "no setting differs from cell base" not in of_cell


def test_the_command_diff_of_two_trials(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = call(capsys, "diff", study, "t00008", "t00009")
    assert "val_accuracy             61.50         66.50       −5.00" in printed
    assert "  seed  1  2\n" in printed
    assert "A ▁▁▁▁▁▇  last 61.50" in printed and "B ▁▁▁▁▁█  last 66.50" in printed
    assert cli.main(["diff", str(study), "t00008", "t00008"]) == 2
    assert "are the same; name two" in capsys.readouterr().err


def test_the_command_diff_of_two_cells(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = " ".join(call(capsys, "diff", study, "base", "base~x").split())
    assert "mean 70.56 69.56" in printed and "0 70.00 69.00 +1.00" in printed
    assert "A less B: +1.00 points over 4 seeds, 95 % interval [+0.44, +1.56], p .011 (paired t, by itself)" in printed
    assert cli.main(["diff", str(study), "base", "bose"]) == 2
    assert "did you mean 'base'?" in capsys.readouterr().err
