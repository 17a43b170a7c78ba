"""What follows from the end of a search trial, and when time is up: the same however a study was cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from akdtune.cli.app import app
from akdtune.planning.cost import surviving_share
from akdtune.planning.identity import initial_rows
from akdtune.planning.report import headline
from akdtune.records.ledger import spans
from akdtune.records.ledger.judgements import RungCorrelation
from akdtune.records.ledger.lines import of_plain
from akdtune.records.trial_record import TrialRecord
from akdtune.running import display
from akdtune.search import follow_up, pilot
from akdtune.settings import sections
from akdtune.study.proposals import Outline
from tests.search_world import Played, ended, load, noise

pytestmark = pytest.mark.ray

ASHA = "scheduler={name: asha, grace_period: 4, reduction_factor: 2}"


def steady(record: TrialRecord, epoch: int) -> float:
    """The rung's order is the final one: a score that depends on the configuration alone, rising with the epoch."""
    return float(record.plan["params"]["views.margin"]) * 100 + epoch


# ------------------------------------------------------------------------------------------------- further seeds


@pytest.mark.parametrize("search", ["{algorithm: random, trials: 6", "{algorithm: tpe, trials: 6"])
def test_survivors_get_the_other_seeds_and_the_pruned_do_not(tmp_path: Path, search: str) -> None:
    study = load(tmp_path, f"search={search}, seeds: [3, 4, 5]}}", ASHA)
    played = Played(study, tmp_path / "run").play()
    cells = played.by_cell()
    assert len(cells) == 6, "the budget counts configurations"
    firsts = [of[3] for of in cells.values()]
    assert {"done", "pruned"} == set(firsts), "the test must exercise both"
    for of_cell in cells.values():
        assert of_cell == ({3: "done", 4: "done", 5: "done"} if of_cell[3] == "done" else {3: "pruned"})
    assert {event.trial_id[-3:] for event in played.events("rung")} == {"-s3"}, "further seeds pass no rung"
    assert played.open().remaining() == 0, "the same command does nothing"
    assert {record.plan["role"] for record in played.directory.records.values()} == {"search"}


def test_a_study_cut_between_trials_goes_on_alike(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: tpe, trials: 4, seeds: [0, 1]}", ASHA, "scheduler.pilot=2")
    whole = Played(study, tmp_path / "whole").play()
    for cut in range(1, len(whole.order), 2):
        root = tmp_path / f"cut{cut}"
        first = Played(study, root).play(most=cut)
        second = Played(study, root).play()
        assert first.order + second.order == whole.order, cut
        assert second.ends() == whole.ends()
        assert second.events("rung") == whole.events("rung")
        assert second.events("pilot") == whole.events("pilot")


def test_a_kill_between_the_end_and_the_plan_loses_no_seed(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: random, trials: 1, seeds: [0, 1]}", "scheduler={name: median, "
                 "grace_period: 4}")  # fmt: skip
    played = Played(study, tmp_path / "run")
    run = played.open()
    record = run.next()
    assert record is not None
    run.started(record)
    for epoch in range(1, 7):
        played.directory.epoch(record.trial_id, epoch, 50.0, 50.0)
    played.directory.finish(ended(record, "done", 6))  # and the driver dies before it plans what follows
    again = Played(study, tmp_path / "run").play()
    assert again.order == [record.trial_id.replace("-s0", "-s1")]


def test_tune_is_not_told_the_end_while_a_first_seed_runs(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: random, trials: 1, seeds: [0, 1]}", ASHA)
    played = Played(study, tmp_path / "run")
    run = played.open()
    assert not run.awaits()
    record = run.next()
    assert record is not None and run.next() is None and run.awaits(), "handed out, though not started yet"
    run.started(record)
    played.end(record, steady)
    follower = run.next()
    assert follower is not None and run.awaits(), "nothing follows a further seed, but it may be tried again itself"
    assert '"rungs": []' in run.payload(follower, None) and '"rungs": [4]' in run.payload(record, None)
    run.stopping = 1.0
    assert not run.awaits()


def test_the_searcher_hears_of_the_first_seed_alone(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: tpe, trials: 3, seeds: [7, 8]}")
    played = Played(study, tmp_path / "run").play()
    (optuna_study,) = played.run.searcher.studies.values()  # type: ignore[union-attr]
    told = [trial.value for trial in optuna_study.trials]
    firsts = [r for r in played.directory.records.values() if r.plan["seed"] == 7]
    assert told == [record.value for record in firsts] and len(played.order) == 6


def test_without_early_stopping_a_search_that_does_not_learn_plans_all_seeds_at_once(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: qmc, trials: 4, seeds: [0, 1]}")
    assert len(initial_rows(Outline(study), Played(study, tmp_path / "run").identity)) == 8


def test_the_plan_says_how_seeds_follow(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: random, trials: 6, seeds: [0, 1, 2]}", ASHA)
    text = "\n".join(headline(Outline(study)))
    assert "18 search trials (6 configurations x 3 seeds" in text
    assert "each configuration runs with seed 0; where that trial is done, seeds 1, 2 follow, never pruned" in text


def test_the_share_that_runs_counts_the_seeds_of_survivors(tmp_path: Path) -> None:
    study = load(tmp_path, "search={algorithm: random, trials: 6, seeds: [0, 1, 2]}", ASHA)
    assert surviving_share(study) == pytest.approx(((4 + 2 / 2) / 6 + 2 / 2) / 3)


# -------------------------------------------------------------------------------------------------------- pilots


def test_the_pilot_is_not_pruned_counts_at_rungs_and_is_reported(tmp_path: Path) -> None:
    def falling(record: TrialRecord, epoch: int) -> float:
        """Whoever leads at the rung is last at the end."""
        number = record.plan["number"]
        return 10.0 * number + 50 if epoch == 6 else 90 - 10.0 * number

    study = load(tmp_path, ASHA, "scheduler.pilot=4")
    played = Played(study, tmp_path / "run").play(falling)
    assert [record.terminal for record in played.directory.records.values()] == ["done"] * 4 + ["pruned"] * 2
    rungs = played.events("rung")
    assert [event.decision for event in rungs] == ["CONTINUE"] * 4 + ["STOP"] * 2
    assert [event.would for event in rungs] == ["CONTINUE", *["STOP"] * 3, None, None]
    assert rungs[4].cutoff == pytest.approx(75.0), "the median of 90, 80, 70, 60"
    (event,) = played.events("pilot")
    assert event.rungs == [RungCorrelation(4, 4, pytest.approx(-1.0))]
    report = display.closing_report(study, played.directory)
    assert "pilot of angular/kd (4 of 4 trials done, unpruned)" in report and "epoch 4: -1.00" in report
    assert (
        "warning: angular/kd: the order at epoch 4 says little about the final one (-1.00 in 4 trials, below" in report
    )
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "run")])
    assert "\n".join(pilot.lines([event])) in shown.output


def test_a_pilot_whose_rung_ranks_well_gives_no_warning(tmp_path: Path) -> None:
    played = Played(load(tmp_path, ASHA, "scheduler.pilot=4"), tmp_path / "run").play(steady)
    (line,) = pilot.lines(played.directory.events)
    assert line.endswith("epoch 4: 1.00")


def test_a_correlation_needs_three_trials_and_differences(tmp_path: Path) -> None:
    played = Played(load(tmp_path, ASHA, "scheduler.pilot=2"), tmp_path / "run").play(steady)
    assert played.events("pilot")[0].rungs == [RungCorrelation(4, 2, None)]
    flat = Played(load(tmp_path, ASHA, "scheduler.pilot=4"), tmp_path / "flat").play(lambda record, epoch: 50.0)
    assert flat.events("pilot")[0].rungs == [RungCorrelation(4, 4, None)]
    assert "not defined" in pilot.lines(flat.directory.events)[0]


# --------------------------------------------------------------------------------------------------------- races

RACE = ("search={algorithm: random, trials: 3, seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8]}", "scheduler={name: racing}")


def ranked(record: TrialRecord, epoch: int) -> float:
    """Configuration 0 is best; 1 is close and noisy; 2 is worse with every seed."""
    number, seed = _cells.index(record.plan["cell_id"]), record.plan["seed"]
    return 60.0 + 0.37 * seed - (0.0, -3.0 if seed % 2 else 4.0, 5.0 + 0.11 * seed**2)[number]


_cells: list[str] = []


def race(root: Path, most: int | None = None) -> Played:
    study = load(root.parent, *RACE)
    played = Played(study, root)
    played.open()
    _cells[:] = dict.fromkeys(record.plan["cell_id"] for record in played.directory.records.values())
    return played.play(ranked, most)


def test_a_race_drops_what_is_worse_and_plans_no_more_of_it(tmp_path: Path) -> None:
    played = race(tmp_path / "run")
    rounds = played.events("race")
    assert [event.round for event in rounds] == [6, 7, 8, 9]
    first = {candidate.cell_id: candidate for candidate in rounds[0].candidates}
    best, close, worse = (first[cell] for cell in _cells)
    assert best.p is None and worse.p == pytest.approx(1 / 64) and worse.p_holm == pytest.approx(2 / 64)
    assert worse.dropped and not close.dropped and rounds[0].dropped == [_cells[2]]
    assert [len(of) for of in played.by_cell().values()] == [9, 9, 6]
    assert played.open().remaining() == 0
    (line,) = follow_up.race_lines(played.directory.events)
    assert line.startswith("race of angular/kd: 2 of 3 configurations are left after 9 seeds")


def test_a_race_cut_anywhere_is_decided_alike(tmp_path: Path) -> None:
    whole = race(tmp_path / "whole")
    for cut in (17, 19):  # before the first test, and after it
        root = tmp_path / f"cut{cut}"
        first = race(root, most=cut)
        second = race(root)
        assert first.order + second.order == whole.order
        assert second.events("race") == whole.events("race")


def test_a_configuration_that_does_not_end_is_out(tmp_path: Path) -> None:
    study = load(tmp_path, *RACE)
    played = Played(study, tmp_path / "run")
    run = played.open()
    (lost, *_) = (record.plan["cell_id"] for record in played.directory.records.values())
    while (record := run.next()) is not None:
        run.started(record)
        if record.trial_id == f"{lost}-s2":
            run.ended(record, ended(record, "diverged", 0))
        else:
            played.end(record, noise)
    (first, *_) = played.events("race")
    assert first.unfinished == [lost] and lost in first.dropped
    assert len(played.by_cell()[lost]) == 6, "no further seed of it"


# --------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("value", "seconds"), [(90, 90.0), (0.5, 0.5), ("90m", 5400.0), ("2h", 7200.0), ("1.5 d", 129600.0)]
)
def test_times_read_well(value: float | str, seconds: float) -> None:
    assert sections.seconds(value) == seconds


@pytest.mark.parametrize("value", [0, -1, "2 hours", "h", "", float("inf")])
def test_what_is_no_time(value: float | str) -> None:
    with pytest.raises(ValueError, match=r"must be a number of seconds above 0 \(ten years at most\), text like 90m"):
        sections.seconds(value)


def test_time_spent_adds_up_over_runs_and_leaves_out_the_pauses() -> None:
    times = [("study_started", 10), ("done", 15), ("study_started", 100), ("study_finished", 120), ("other", 500)]
    assert spans.spent_s(of_plain({"event": kind, "time": at}) for kind, at in times) == 25.0
    assert spans.spent_s([]) == 0.0


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_no_configuration_starts_once_the_time_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: now[0])

    def hour(record: TrialRecord, epoch: int) -> float:
        now[0] += 600.0
        return noise(record, epoch)

    search = f"search={{algorithm: {algorithm}, trials: 6, time_budget: 90m}}"
    study = load(tmp_path, search, "probe={trials: 1, seeds: [9]}")
    root = tmp_path / "run"
    played = Played(study, root).play(hour, most=1)
    assert len(played.order) == 1
    now[0] += 1e6  # a pause between two runs costs nothing
    two = Played(study, root).play(hour)
    roles = [two.directory.records[trial_id].plan["role"] for trial_id in two.order]
    assert roles == ["search", "probe"], "an hour was spent, so one more begins; probes still run"
    report = display.closing_report(study, two.directory)
    assert "time budget: 1.5 h were spent after 2 search trials had begun; no further one was started" in report
    assert two.open().remaining() == 0, "the same command does nothing"
    more = load(tmp_path, search.replace("90m", "1d"), "probe={trials: 1, seeds: [9]}")
    rest = Played(more, root).play(hour)
    assert len(rest.order) == 4 and "time budget" not in display.closing_report(more, rest.directory)
    assert "time budget: no new configuration starts after 1.5 h" in "\n".join(headline(Outline(study)))
