"""What `akdtune show` opens with: the leader, the arms, progress and the next command, each with its right value."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from akdtune.records import tables
from akdtune.reports.standing import opening
from akdtune.reports.standing.next_step import Asked, joined
from akdtune.reports.standing.opening import Standing, standing
from akdtune.reports.standing.progress import Seconds, awaited
from akdtune.reports.standing.table import Table, broken_command, shortened
from akdtune.statistics.power import more_seeds
from tests.study_fixture import StudyBuilder

KD = [70.0, 71.0, 72.0, 70.0, 71.0]
BETTER = [75.0, 76.0, 77.0, 75.0, 76.5]


@pytest.fixture
def builder(tmp_path: Path) -> StudyBuilder:
    return StudyBuilder(tmp_path / "toy")


def stands(builder: StudyBuilder, **how: Any) -> Standing:
    run = builder.write(**how)
    return standing(run, tables.read_trials(run).to_pylist())


def confirmed(builder: StudyBuilder, cells: Mapping[str, list[float | None]], reference: str | None = "kd") -> None:
    for name, values in cells.items():
        builder.cell(name, values, phase="confirm", role="control" if name == "kd" else None, seeds=range(100, 105))
    builder.design["confirm"]["reference"] = reference


def lock(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    file = tmp_path / "toy.yaml"
    file.write_text("study: toy\n")
    of = {"study": "toy", "search": {"algorithm": "tpe", "trials": 4}, "training": {"epochs": 2}, **settings}
    return {"settings": of, "arms": ["angular/kd"], "source": str(file), "overrides": ["search.trials=4"]}


# ------------------------------------------------------------------------------------------------------- the leader


def test_a_confirmed_leader_is_resolved_by_the_finding_of_the_report(builder: StudyBuilder) -> None:
    confirmed(builder, {"kd": KD, "angular/kd #1": BETTER})
    found = stands(builder)
    assert found.leader is not None and (found.leader.name, found.leader.resolved) == ("angular/kd #1", True)
    p = stats.ttest_rel(BETTER, KD).pvalue
    assert p < 0.0005
    assert found.sentence.startswith(
        "angular/kd #1 leads by the confirmation, mean test accuracy 75.90 % over 5 seeds; resolved against kd (higher "
        "than kd by 5.10 points, simultaneous ["
    )
    assert "Holm p < .001" in found.sentence


def test_a_leader_by_luck_is_not_resolved(builder: StudyBuilder) -> None:
    confirmed(builder, {"kd": KD, "angular/kd #1": [72.0, 69.0, 75.0, 68.0, 73.0]})
    found = stands(builder)
    assert found.leader is not None and found.leader.resolved is False
    test = stats.ttest_rel([72.0, 69.0, 75.0, 68.0, 73.0], KD)
    low, high = test.confidence_interval()
    numbers = f"+0.60 points, simultaneous [{low:+.2f}, {high:+.2f}], Holm p = {test.pvalue:.3f}"
    assert f"; not resolved against kd ({numbers.replace('-', '−').replace('= 0.', '= .')}, " in found.sentence


def test_the_reference_itself_may_lead(builder: StudyBuilder) -> None:
    confirmed(builder, {"kd": BETTER, "a #1": KD, "b #1": [75.5, 75.0, 77.5, 74.0, 76.9]})
    found = stands(builder)
    assert found.leader is not None and found.leader.resolved is False
    assert found.sentence.startswith("kd, the reference, leads by the confirmation, mean test accuracy 75.90 %")
    assert "resolved against a #1 (−5.10 points" in found.sentence
    assert "not resolved against b #1 (−0.12 points" in found.sentence


def test_a_control_that_leads_is_called_one(builder: StudyBuilder) -> None:
    for name, values, role in (("base", KD, None), ("plain", BETTER, "control")):
        builder.cell(name, values, role=role, seeds=range(5))
    builder.design["ablation"]["reference"] = "base"
    assert stands(builder).sentence.startswith("plain, a control, leads by the ablation, mean test accuracy 75.90 %")


def test_without_a_reference_the_leader_has_to_beat_every_other(builder: StudyBuilder) -> None:
    confirmed(builder, {"a #1": KD, "b #1": BETTER, "c #1": [60.0, 61.0, 62.5, 60.0, 61.0]}, reference=None)
    found = stands(builder)
    assert found.leader is not None and (found.leader.name, found.leader.resolved) == ("b #1", True)
    assert found.sentence.endswith("resolved against every other")
    (table,) = found.tables
    assert table.rows[1][:3] == ("b #1", "5", "75.90 ± 0.89")
    low, high = stats.t.interval(0.95, 4, stats.tmean(BETTER), stats.sem(BETTER))
    assert table.rows[1][3] == f"[{low:.2f}, {high:.2f}]"


def test_a_level_that_chance_reaches_among_three_is_no_lead(builder: StudyBuilder) -> None:
    """p = .04 for one pair that was declared, and not for the best of three that was looked for."""
    ahead = [70.5, 72.5, 72.4, 70.1, 72.3]
    assert 0.02 < stats.ttest_rel(ahead, KD).pvalue < 0.05
    confirmed(builder, {"a #1": KD, "b #1": ahead, "c #1": KD[::-1]}, reference=None)
    found = stands(builder)
    assert found.leader is not None and found.leader.resolved is False
    assert "not resolved against" in found.sentence and "after selection" in found.sentence


def test_a_confirmation_that_runs_says_so_far(builder: StudyBuilder) -> None:
    builder.cell("kd", [70.0, 71.0], phase="confirm", role="control", seeds=[100, 101])
    builder.cell("x #1", [72.0, 74.0], phase="confirm", seeds=[100, 101])
    builder.design["confirm"] |= {"reference": "kd", "seeds": [100, 101, 102]}
    assert "over 2 seeds (so far; 2 trials to come); not resolved against kd" in stands(builder).sentence


def test_pruned_trials_stand_in_no_mean_and_a_search_compares_no_arms(builder: StudyBuilder) -> None:
    for value in (60.0, 62.0):
        builder.add("angular/kd", value, None, role="search")
    builder.add("angular/kd", 99.0, None, role="search", status="pruned")
    builder.add("angular/crd", 61.0, None, role="search")
    found = stands(builder)
    assert found.leader is not None and (found.leader.name, found.leader.resolved) == ("angular/kd", None)
    assert found.sentence == (
        "nothing is confirmed: angular/kd leads by the search, 62.00 % of the validation images (trial t00001, the "
        "best of 3 configurations that reached the last epoch, so optimistic); whether angular/kd is the better arm "
        "is not resolved: different configurations are no replicates"
    )
    (table,) = found.tables
    assert table.rows == [
        ("angular/kd", "2", "61.00 ± 1.41", "", "62.00", "1 pruned"), ("angular/crd", "1", "61.00", "", "61.00", ""),
    ]  # fmt: skip
    assert table.title == "search: validation accuracy over configurations that reached the last epoch"
    assert "pruned ones stand in no mean" in table.note


def test_probes_are_a_sample_of_each_arm_and_compare_them(builder: StudyBuilder) -> None:
    a, b = [60.0, 61.0, 62.0, 61.5], [70.0, 71.0, 72.0, 70.5]
    for arm, values in (("angular/kd", a), ("angular/crd", b)):
        for value in values:
            builder.add(arm, value, None, role="probe")
    found = stands(builder)
    assert found.leader is not None and (found.leader.name, found.leader.resolved) == ("angular/crd", True)
    assert (
        "over 4 configurations; resolved over configurations against angular/kd, which follows (+9.75" in found.sentence
    )
    (table,) = found.tables
    low, high = stats.t.interval(0.95, 3, stats.tmean(b), stats.sem(b))
    assert table.rows[0] == ("angular/crd", "4", "70.88 ± 0.85", f"[{low:.2f}, {high:.2f}]", "72.00", "")


def test_a_probe_may_be_the_best(builder: StudyBuilder) -> None:
    builder.add("angular/kd", 71.67, None, role="search")
    builder.add("angular/kd", 77.33, None, role="probe")
    assert "77.33 % of the validation images (probe t00001" in stands(builder).sentence


def test_arms_of_one_configuration_are_compared_over_seeds(builder: StudyBuilder) -> None:
    for arm, values in (("none/kd", KD), ("none/dkd", BETTER)):
        for seed, value in enumerate(values):
            builder.add(arm, value, None, role="search", seed=seed, cell=arm)
    found = stands(builder)
    assert found.leader is not None and (found.leader.name, found.leader.resolved) == ("none/dkd", True)
    assert found.leader.phase == "search"
    (table,) = found.tables
    assert table.title == "search: validation accuracy over seeds, one configuration an arm"
    assert [row[:3] for row in table.rows] == [("none/dkd", "5", "75.90 ± 0.89"), ("none/kd", "5", "70.80 ± 0.84")]


def test_nothing_has_ended_yet(builder: StudyBuilder) -> None:
    builder.add("angular/kd", None, None, role="search", status="planned")
    found = stands(builder, finished=False)
    assert found.sentence == "no trial has reached its last epoch yet"
    assert found.lines()[0] == found.sentence


def test_a_cell_that_repeats_another_does_not_lead(builder: StudyBuilder) -> None:
    builder.cell("base", [70.0, 71.0, 72.0])
    builder.cell("replica", [75.0, 76.0, 77.0], replica_of="base")
    builder.cell("x", [60.0, 61.0, 62.5])
    builder.design["ablation"]["reference"] = "base"
    found = stands(builder)
    assert found.leader is not None and found.leader.name == "base"
    assert [row[5] for row in found.tables[0].rows] == ["reference", "A/A", "lower"]


def test_seeds_without_a_value_stand_beside_the_mean_of_the_others(builder: StudyBuilder) -> None:
    statuses = {2: "diverged", 3: "diverged", 4: "failed", 5: "planned"}
    builder.cell("x", [70.0, 72.0, 0.0, 0.0, 0.0, 0.0], statuses=statuses)
    (table,) = stands(builder).tables
    assert table.rows == [("x", "2/6", "71.00 ± 1.41 (2 diverged, 1 failed)", "[58.29, 83.71]")]


# --------------------------------------------------------------------------------------------------------- progress


def test_a_running_study_says_how_long_still(
    builder: StudyBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.lock = lock(tmp_path, scheduler={"name": "none"})
    builder.events = [{"time": 1000.0, "event": "study_started"}]
    for number in range(2):
        trial = builder.add("angular/kd", 60.0, None, role="search")
        builder.events = [event for event in builder.events if event.get("trial_id") != trial]
        builder.events += [
            {"time": 1000.0 + 60 * number, "event": "started", "trial_id": trial},
            {"time": 1060.0 + 60 * number, "event": "done", "trial_id": trial, "epoch": 2},
        ]
    monkeypatch.setattr(opening, "driver_of", lambda started: 1)
    run = builder.write(finished=False)
    found = standing(run, tables.read_trials(run).to_pylist(), now=1120.0)
    assert found.progress == [
        "progress: 2 of at most 4 trials ended: search 2 of 4",
        "runs for 2 min; about 2 min left",
    ]
    assert found.next is None, "it runs: there is nothing to do"


def test_a_driver_on_another_machine_runs_while_it_writes(builder: StudyBuilder, tmp_path: Path) -> None:
    builder.lock = lock(tmp_path)
    builder.add("angular/kd", None, None, role="search", status="planned")
    builder.events = [{"time": 1000.0, "event": "study_started", "pid": 1, "host": "node7", "born": "x.1"}]
    run = builder.write(finished=False)
    rows = tables.read_trials(run).to_pylist()
    live, silent = standing(run, rows, now=1100.0), standing(run, rows, now=9000.0)
    assert live.progress[1].startswith("runs on node7 for 2 min") and live.next is None
    assert silent.progress[1].startswith("stopped, ran for 0 s") and silent.next is not None


def test_what_is_still_to_be_planned() -> None:
    settings: dict[str, Any] = {
        "search": {"algorithm": "tpe", "trials": 8, "seeds": [0, 1]}, "scheduler": {"name": "asha"},
        "confirm": {"top": 2, "seeds": [5, 6, 7], "baselines": ["kd"]}, "ablation": {"design": "arms"},
    }  # fmt: skip
    rows = [{"role": "search", "cell_id": f"c{n}", "status": "pruned" if n else "done"} for n in range(3)]
    found = {phase.phase: phase.trials for phase in awaited(settings, 2, rows, {}, False)}
    assert found == {"search": 8 * 2 - 3 - 2, "confirm": (2 * 2 + 1) * 3, "ablation": None}
    assert awaited(settings, 2, rows, {}, True) == []
    grid = {"search": {"algorithm": "grid", "trials": None}, "scheduler": {"name": "none"}}
    assert awaited(grid, 2, rows, {}, False) == []


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(50, 50, "about 50 s"), (60, 80, "about 60 to 80 s"), (80, 200, "about 80 s to 3 min"),
     (600, 660, "about 10 to 11 min")],
)  # fmt: skip
def test_times_that_are_not_exact(low: float, high: float, words: str) -> None:
    assert Seconds(low, high).words == words


# -------------------------------------------------------------------------------------------------------- next step


def test_where_nothing_is_confirmed_the_best_of_each_arm_is(builder: StudyBuilder, tmp_path: Path) -> None:
    builder.lock = lock(tmp_path, views={"name": "angular"}, teacher={"network": "resnet20", "checkpoint": "auto"})
    builder.add("angular/kd", 60.0, None, role="search", seed=0)
    builder.add("angular/crd", 61.0, None, role="search", seed=101)
    step = stands(builder).next
    assert step is not None and step.trials == 2 * 5
    assert shlex.split(step.command) == [
        "akdtune", "run", str(tmp_path / "toy.yaml"), "search.trials=4", "confirm.top=1",
        "confirm.seeds=[100, 102, 103, 104, 105]", "--dir", str(tmp_path / "toy"), "--extend",
    ]  # fmt: skip
    assert "a teacher is trained on all training images first" in step.note and step.time is not None


def test_one_arm_is_confirmed_beside_a_baseline(builder: StudyBuilder, tmp_path: Path) -> None:
    builder.lock = lock(tmp_path, views={"name": "angular"}, teacher={"network": "resnet20"})
    builder.add("angular/kd", 60.0, None, role="search", seed=0)
    step = stands(builder).next
    assert step is not None and "'confirm.baselines=[plain]'" in step.command and step.trials == 2 * 5


def test_failed_trials_are_tried_again_and_an_interrupted_study_goes_on(builder: StudyBuilder, tmp_path: Path) -> None:
    builder.lock = lock(tmp_path)
    builder.add("angular/kd", 60.0, None, role="search")
    builder.add("angular/kd", None, None, role="search", status="failed")
    step = stands(builder).next
    assert step is not None and (step.command, step.trials) == (f"akdtune retry {tmp_path / 'toy'}", 1)
    builder.add("angular/kd", None, None, role="search", status="interrupted")
    step = stands(builder, finished=False).next
    assert step is not None and step.why == "not finished"
    assert step.command == f"akdtune run {tmp_path / 'toy.yaml'} search.trials=4 --dir {tmp_path / 'toy'}"
    assert step.trials == 2, "one has no end, and the search proposes a fourth"


def test_more_seeds_where_these_do_not_resolve(builder: StudyBuilder, tmp_path: Path) -> None:
    builder.lock = lock(tmp_path, confirm={"top": 1, "seeds": list(range(100, 105))})
    builder.lock["overrides"] = ["confirm.seeds=[100, 101, 102, 103, 104]"]
    builder.add("angular/kd", 60.0, None, role="search")
    confirmed(builder, {"kd": KD, "angular/kd #1": [70.3, 71.0, 72.3, 70.2, 70.7]})
    step = stands(builder).next
    assert step is not None and step.why == "not resolved"
    (seeds,) = [word for word in shlex.split(step.command) if word.startswith("confirm.seeds=")]
    differences = [0.3, 0.0, 0.3, 0.2, -0.3]
    needed = more_seeds(float(stats.tstd(differences)), 5, 0.3, alpha=0.05)
    assert needed is not None
    count = len(seeds.split(",")) - 5
    assert count >= needed[1] and step.trials == 2 * count
    assert "--extend" in step.command and "second look" in step.note


def test_a_study_of_an_earlier_version_without_a_lock_says_what_it_can(builder: StudyBuilder) -> None:
    builder.add("angular/kd", 60.0, None, role="search")
    builder.add("angular/kd", 60.0, None, role="search", status="planned")
    found = stands(builder)
    assert found.next is None and found.leader is not None


def test_words_are_quoted_as_they_are_read_best() -> None:
    words = ["akdtune", "run", "a b.yaml", "data={train: 't-*.parquet'}", "x=$HOME 'y'", "k=v"]
    assert joined(words) == """akdtune run 'a b.yaml' "data={train: 't-*.parquet'}" 'x=$HOME '"'"'y'"'"'' k=v"""
    assert shlex.split(joined(words)) == words


def test_a_settings_file_that_is_not_here_is_said(builder: StudyBuilder, tmp_path: Path) -> None:
    builder.lock = lock(tmp_path) | {"source": "elsewhere/toy.yaml"}
    builder.add("angular/kd", 60.0, None, role="search")
    step = stands(builder).next
    assert step is not None and step.note.startswith("in the folder that elsewhere/toy.yaml was named from")
    assert Asked(Path("runs/toy"), {"study": "toy"}, source="digits_angular").is_here


# ------------------------------------------------------------------------------------------------------------ tables


def test_a_table_fits_its_width_and_cuts_no_number() -> None:
    table = Table("t", ("cell", "n", "x", ""), [("a/rather/long/name/of/an/arm", "5", "70.00 ± 1.00", "")], (1, 2))
    assert table.lines() == [
        "t",
        "cell                          n             x",
        f"{'a/rather/long/name/of/an/arm'}  5  70.00 ± 1.00",
    ]
    narrow = table.lines(30)
    assert all(len(line) <= 30 for line in narrow) and narrow[2].endswith("5  70.00 ± 1.00")
    assert shortened("angular/kd+crd", 8) == "ang…+crd" and shortened("kd", 8) == "kd"


def test_a_long_command_goes_on_in_the_next_line_as_a_shell_takes_it() -> None:
    command = "akdtune run a.yaml confirm.top=1 'confirm.seeds=[100, 101, 102]' \"x='a b'\" --extend"
    lines = broken_command(command, 40)
    assert all(len(line) <= 40 for line in lines) and len(lines) == 3
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == shlex.split(command)
    assert broken_command(command, None) == broken_command(command, 100) == [f"  {command}"]


def test_letters_of_two_columns_are_padded_by_columns() -> None:
    table = Table("t", ("arm", "n"), [("腕/kd", "5"), ("kd", "12")], (1,))
    assert table.lines() == ["t", "arm     n", "腕/kd   5", "kd     12"]
    assert shortened("腕腕腕腕腕腕", 8) == "腕…腕腕"
