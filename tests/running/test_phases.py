"""What a study plans after its search, decided from the ledger alone: confirmation, winner, pilot of the seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from akdtune.designs.cells import CellPlan
from akdtune.planning.equal_cells import MeasuredPlan, measured_plan
from akdtune.planning.measured_targets import Taught
from akdtune.records.ledger.events import TrialEnded
from akdtune.records.ledger.judgements import SeedsNeeded
from akdtune.records.study_directory import StudyDirectory
from akdtune.roles import REPORT_ROLES, Terminal
from akdtune.running.phases import Phases, order
from akdtune.settings.space import Proposal
from akdtune.statistics.power import required_seeds
from akdtune.study import spec
from akdtune.study.proposals import Outline
from akdtune.study.spec import Study

STUDY = """\
study: small
data: {name: digits, validation: 300}
teacher: {network: {name: cnn, widths: [4, 4]}, epochs: 2}
student: {network: {name: cnn, widths: [2, 2]}}
views: {name: tekap, level: logit}
method: {choice: [{name: kd, weight: {choice: [1, 2, 3]}}, {name: dkd, beta: {choice: [2, 8]}}]}
training: {epochs: 4}
search: {algorithm: tpe, trials: 6}
"""
CONFIRM = "confirm={top: 2, seeds: [10, 11], baselines: [kd]}"
ABLATION = "ablation={design: leave_one_out, base: winner, factors: {views.noise: [0.1, 0.3]}, controls: [plain], "


class FakeIdentity:
    """Ids without a teacher: a hash of settings and whether the trial reports."""

    asked = 0
    """How often cells were to be measured, by all that there are."""

    def __init__(self) -> None:
        self.equal: dict[str, str] = {}
        """Cells that are taught the same as another one."""

    def measured(self, plan: CellPlan) -> MeasuredPlan:
        FakeIdentity.asked += 1
        names = [cell.name for cell in plan.cells]
        places = {name: float(names.index(self.equal.get(name, name))) for name in names}
        taught = {name: Taught({}, ({"kd": torch.tensor([1.0, place])},)) for name, place in places.items()}
        return measured_plan(plan, taught, 256)

    def cell_id(self, settings: Mapping[str, Any], role: str = "search") -> str:
        text = json.dumps([settings, role in REPORT_ROLES], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def plan_row(self, proposal: Proposal, role: str, bracket: str, number: int | None, seed: int) -> dict[str, Any]:
        cell = self.cell_id(proposal.settings, role)
        return {
            "trial_id": f"{cell}-s{seed}", "cell_id": cell, "seed": seed, "role": role, "arm": proposal.arm,
            "bracket": bracket, "proposal": number, "params": proposal.params, "settings": proposal.settings,
            "raw": proposal.raw, "cell": None,
        }  # fmt: skip


class World:
    """A study directory whose trials end as a test says."""

    def __init__(self, study: Study, directory: StudyDirectory) -> None:
        self.study, self.directory, self.identity = study, directory, FakeIdentity()
        self.phases = self.fresh()

    def fresh(self) -> Phases:
        """Phases of a driver that has just started."""
        return Phases(Outline(self.study), self.directory, self.identity)  # type: ignore[arg-type]

    def now(self, **equal: str) -> None:
        """From here on with a driver that finds these cells to be taught the same."""
        self.identity.equal = equal
        self.phases = self.fresh()

    def search(self, arm: str, raw: dict[str, Any], value: float, terminal: Terminal = "done") -> str:
        (of_name,) = [known for known in self.study.arms if known.name == arm]
        row = self.identity.plan_row(of_name.replay(raw), "search", arm, 0, 0)
        self.directory.add_to_plan([row])
        self.end(row["trial_id"], value, terminal)
        return str(row["trial_id"])

    def end(self, trial_id: str, value: float | None, terminal: Terminal = "done") -> None:
        self.directory.epoch(trial_id, 4, value, value)
        self.directory.finish(TrialEnded(kind=terminal, trial_id=trial_id, epoch=4))

    def plan(self, searched: bool = True) -> list[dict[str, Any]]:
        rows = self.phases.due(searched)
        self.directory.add_to_plan(rows)
        return rows


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    (tmp_path / "study.yaml").write_text(STUDY)
    directory = StudyDirectory(tmp_path / "run")
    with directory.opened():
        yield lambda *overrides: World(spec.load(tmp_path / "study.yaml", overrides), directory)
        directory.write_lock({"settings": {}, "data": {}, "teacher": {}})


def searched(world: World) -> None:
    world.search("tekap/kd", {"method.kd.weight": "1"}, 60.0)
    world.search("tekap/kd", {"method.kd.weight": "2"}, 64.0)
    world.search("tekap/kd", {"method.kd.weight": "3"}, 70.0, "pruned")
    world.search("tekap/dkd", {"method.dkd.beta": "2"}, 50.0)
    world.search("tekap/dkd", {"method.dkd.beta": "8"}, 90.0, "failed")


def test_the_best_of_each_arm_are_confirmed_on_fresh_seeds_beside_baselines(world: Callable[..., World]) -> None:
    here = world(CONFIRM)
    searched(here)
    assert here.plan(searched=False) == [], "nothing is confirmed before the search has ended"
    assert here.phases.awaited(False) == (2 * 2 + 1) * 2
    rows = here.plan()
    assert [(row["cell"], row["role"], row["seed"]) for row in rows] == [
        ("tekap/kd #1", "confirm", 10), ("tekap/kd #1", "confirm", 11),
        ("tekap/kd #2", "confirm", 10), ("tekap/kd #2", "confirm", 11),
        ("tekap/dkd #1", "confirm", 10), ("tekap/dkd #1", "confirm", 11),
        ("kd", "control", 10), ("kd", "control", 11),
    ]  # fmt: skip
    assert rows[0]["settings"]["method"][0]["weight"] == 2, "the pruned trial's higher value is no final score"
    assert rows[-1]["settings"]["views"] == {"name": "none"}
    written = here.directory.read_design()["confirm"]
    assert [cell["search_score"] for cell in written["cells"]] == [64.0, 60.0, 50.0, None]
    assert written["reference"] == "kd"
    assert here.plan() == [], "what is planned is not planned again"
    assert here.fresh().due(True) == [], "by a resumed driver neither"
    assert here.phases.awaited(True) == 0


def test_the_search_s_winner_is_taken_apart(world: Callable[..., World]) -> None:
    here = world(ABLATION + "seeds: [20, 21]}")
    searched(here)
    assert here.plan(searched=False) == []
    rows = here.plan()
    assert [(row["cell"], row["seed"]) for row in rows] == [
        ("base", 20), ("noise=0.3", 20), ("plain", 20), ("base", 21), ("noise=0.3", 21), ("plain", 21),
    ]  # fmt: skip
    assert {row["settings"]["method"][0]["weight"] for row in rows} == {2}
    assert [row["params"] for row in rows[:3]] == [{"views.noise": 0.1}, {"views.noise": 0.3}, {}]
    asked = FakeIdentity.asked
    assert [here.phases.due(True) for _ in range(3)] == [[], [], []]
    assert FakeIdentity.asked == asked, "nothing is measured again each time a slot is free"
    written = here.directory.read_design()["ablation"]
    assert [cell["role"] for cell in written["cells"]] == ["ablation", "ablation", "control"]
    assert {cell["cell_id"] for cell in written["cells"]} == {row["cell_id"] for row in rows}


def test_a_level_that_is_a_mapping_is_named_by_what_it_holds(world: Callable[..., World]) -> None:
    seen = "training.augmentation: [weak, {cutout: 3}]"
    here = world(ABLATION.replace("views.noise: [0.1, 0.3]", seen) + "seeds: [20, 21]}")
    searched(here)
    named = [row["params"] for row in here.plan()[:2]]
    assert named == [{"training.augmentation": "weak"}, {"training.augmentation": "cutout=3"}]


MATCHED = ABLATION.replace("[plain]", "[plain, weight_matched, entropy_matched]")
REPEATED = "weight_matched: the same targets and weights as plain on 256 real images"


def test_cells_that_are_taught_the_same_are_trained_once(world: Callable[..., World]) -> None:
    here = world(MATCHED + "seeds: [20, 21], families: [[weight_matched, noise=0.3], [entropy_matched]]}")
    here.now(weight_matched="plain")
    searched(here)
    assert here.phases.outline.trials == 6 + 5 * 2 == here.phases.awaited(False) + 6
    rows = here.plan()
    assert [row["cell"] for row in rows if row["seed"] == 20] == ["base", "noise=0.3", "plain", "entropy_matched"]
    assert len(rows) == 4 * 2 and here.phases.outline.trials == 6 + 4 * 2
    (note,) = here.phases.notes
    assert note.startswith(REPEATED) and note.endswith("trained once")
    written = here.directory.read_design()["ablation"]
    assert {cell["name"]: cell["merged"] for cell in written["cells"] if cell["merged"]} == {"plain": [note]}
    assert written["families"] == [["plain", "noise=0.3"], ["entropy_matched"]]
    assert note not in written["notes"]
    asked = FakeIdentity.asked
    assert [here.phases.due(True) for _ in range(3)] == [[], [], []] and FakeIdentity.asked == asked


def test_a_resumed_driver_merges_as_the_first_one_did(world: Callable[..., World]) -> None:
    here = world(MATCHED + "seeds: [20, 21]}")
    here.now(weight_matched="plain")
    searched(here)
    here.plan()
    written = here.directory.read_design()
    here.now(weight_matched="plain")
    assert here.plan() == []
    assert here.directory.read_design() == written


def test_what_was_trained_twice_before_stays_and_is_not_counted(world: Callable[..., World]) -> None:
    here = world(MATCHED + "seeds: [20, 21]}")
    searched(here)
    before = here.plan()
    assert len(before) == 5 * 2
    for row in before:
        here.end(row["trial_id"], 60.0)
    here.now(weight_matched="plain")
    assert here.plan() == [], "nothing is trained again, nothing is refused"
    assert set(here.directory.records) >= {row["trial_id"] for row in before}
    assert all(here.directory.records[row["trial_id"]].terminal == "done" for row in before)
    for _ in range(2):  # and once more, by what is written then
        cells = here.directory.read_design()["ablation"]["cells"]
        assert [cell["name"] for cell in cells] == ["base", "noise=0.3", "plain", "entropy_matched", "weight_matched"]
        assert [cell["replica_of"] for cell in cells] == [None] * 4 + ["plain"], "an A/A pair from now on"
        assert [cell.get("planned") for cell in cells] == [None] * 4 + [False]
        here.now(weight_matched="plain")
        assert here.plan() == []


def test_a_pilot_trains_merged_cells_once(world: Callable[..., World]) -> None:
    here = world(MATCHED + "seeds: {pilot: 3, resolve: 1.0, at_most: 30}}")
    here.now(weight_matched="plain")
    pilot = piloted(here, 0.2)
    assert len(pilot) == 4 * 3
    assert here.phases.outline.ablation_trials == 4 * (3 + 30)
    assert {row["cell"] for row in here.plan()} == {"base", "noise=0.3", "plain", "entropy_matched"}


def test_baselines_that_are_taught_the_same_are_confirmed_once(world: Callable[..., World]) -> None:
    here = world("confirm={top: 1, seeds: [10, 11], baselines: [weight_matched, plain, student_only]}")
    here.now(plain="weight_matched")
    searched(here)
    rows = here.plan()
    assert [row["cell"] for row in rows if row["seed"] == 10] == [
        "tekap/kd #1", "tekap/dkd #1", "weight_matched", "student_only",
    ]  # fmt: skip
    written = here.directory.read_design()["confirm"]
    assert written["reference"] == "weight_matched", "the first baseline, whoever it stands for"
    (line,) = here.phases.notes
    assert line.startswith("plain: the same targets and weights as weight_matched")
    assert [cell.get("merged") for cell in written["cells"]] == [None, None, [line], []]


def test_a_replica_stands_beside_the_best_configuration_and_beside_the_winner(world: Callable[..., World]) -> None:
    both = ABLATION.replace("[plain]", "[replica]") + "seeds: [10, 11]}"
    here = world(CONFIRM.replace("[kd]", "[replica, kd]"), both)
    searched(here)
    rows = here.plan()
    replicas = [row for row in rows if row["cell"] == "replica"]
    assert [(row["role"], row["seed"]) for row in replicas] == [("control", 10), ("control", 11)], "one for both"
    top = next(row for row in rows if row["cell"] in ("tekap/kd #1", "base"))
    assert replicas[0]["settings"] == {**top["settings"], "seeds": {"rounding": 1}}
    written = here.directory.read_design()
    of_confirm, of_ablation = (
        {cell["name"]: cell["replica_of"] for cell in written[phase]["cells"] if cell.get("replica_of")}
        for phase in ("confirm", "ablation")
    )
    assert of_confirm == {"replica": "tekap/kd #1"} and of_ablation == {"replica": "base"}
    assert written["confirm"]["reference"] == "kd", "a replica is no reference"


def test_a_pilot_does_not_judge_what_is_noise_alone(world: Callable[..., World]) -> None:
    pilot = "seeds: {pilot: 3, resolve: 1.0, at_most: 3, first: 100}}"
    here = world(ABLATION.replace("[plain]", "[plain, replica]") + pilot)
    searched(here)
    rows = here.plan()
    assert {row["cell"] for row in rows} == {"base", "noise=0.3", "plain"}
    for row in rows:
        here.end(row["trial_id"], 60.0 + row["seed"] % 7)
    assert {row["cell"] for row in here.plan()} == {"base", "noise=0.3", "plain", "replica"}


def test_without_a_finished_search_trial_there_is_no_winner(world: Callable[..., World]) -> None:
    here = world(CONFIRM, ABLATION + "seeds: [20]}")
    here.search("tekap/kd", {"method.kd.weight": "1"}, 60.0, "pruned")
    assert here.plan() == []
    assert len(here.phases.notes) == 2
    assert all("no search trial reached its last epoch" in note for note in here.phases.notes)


def piloted(here: World, spread: float) -> list[dict[str, Any]]:
    """Runs a pilot in which one cell differs from the base by `spread` times -1, 0, 1, ..."""
    searched(here)
    rows = here.plan()
    assert {row["role"] for row in rows} == {"pilot"}
    for row in rows:
        step = (row["seed"] - rows[0]["seed"]) % 3 - 1
        here.end(row["trial_id"], 60.0 + (spread * step if row["cell"] == "noise=0.3" else 0.0))
    return rows


def test_a_pilot_on_validation_images_decides_on_the_seeds(world: Callable[..., World]) -> None:
    here = world(ABLATION + "seeds: {pilot: 3, resolve: 1.0, at_most: 30}}")
    pilot = piloted(here, 0.2)
    assert sorted({row["seed"] for row in pilot}) == [130, 131, 132]
    rows = here.plan()
    seeds = sorted({row["seed"] for row in rows})
    event = next(event for event in here.directory.events if isinstance(event, SeedsNeeded))
    assert event.cell == "noise=0.3 - base"
    assert event.sd == pytest.approx(0.2)
    assert event.sd_upper > event.sd, "the upper limit of the variance, not the pilot's own"
    rule = required_seeds([-0.2, 0.0, 0.2], 1.0, alpha=0.05 / 2)
    assert event.needed == rule.n > required_seeds([-0.2, 0.0, 0.2], 1.0, alpha=0.05).n, "one of two comparisons"
    assert seeds == list(range(100, 100 + event.needed))
    assert {row["role"] for row in rows} == {"ablation", "control"}
    assert not {row["trial_id"] for row in rows} & {row["trial_id"] for row in pilot}
    assert here.directory.read_design()["ablation"]["seeds"] == seeds
    again = here.fresh()
    assert again.due(True) == []
    assert sum(event.kind == "seeds" for event in here.directory.events) == 1
    assert event.alpha == 0.025


def test_what_a_pilot_has_decided_stays(world: Callable[..., World]) -> None:
    """An earlier version decided without the family, and its event lacks the level."""
    here = world(ABLATION + "seeds: {pilot: 3, resolve: 1.0, at_most: 30}}")
    piloted(here, 0.2)
    earlier = {"needed": 3, "sd": 0.2, "sd_upper": 0.42, "cell": "noise=0.3 - base", "pilot": 3, "resolve": 1.0}
    here.directory.append(SeedsNeeded(**earlier, power=0.8))
    assert sorted({row["seed"] for row in here.plan()}) == [100, 101, 102]
    assert "alpha" not in here.directory.read_design()["ablation"]["pilot"]


def test_more_seeds_than_allowed_are_not_taken(world: Callable[..., World]) -> None:
    here = world(ABLATION + "seeds: {pilot: 3, resolve: 0.1, at_most: 4}}")
    piloted(here, 2.0)
    assert len({row["seed"] for row in here.plan()}) == 4
    assert any("at_most allows 4" in note for note in here.phases.notes)


def test_a_pilot_without_spread_does_not_say_how_many_seeds_are_needed(world: Callable[..., World]) -> None:
    here = world(ABLATION + "seeds: {pilot: 3, resolve: 1.0, at_most: 30}}")
    piloted(here, 0.0)
    here.plan()
    assert any(
        "its differences show no spread, which does not say how many seeds are needed" in note
        for note in here.phases.notes
    )


def test_a_pilot_may_only_propose(world: Callable[..., World]) -> None:
    here = world(ABLATION + "seeds: {pilot: 3, resolve: 1.0, take: false}}")
    piloted(here, 0.2)
    assert here.plan() == []
    assert here.phases.awaited(True) == 0
    assert any("--extend" in note for note in here.phases.notes)


def test_begun_trials_start_first_then_the_search(world: Callable[..., World]) -> None:
    here = world(CONFIRM)
    searched(here)
    here.plan()
    records = here.directory.records
    late = [record for record in records.values() if record.plan["role"] == "confirm"]
    late[2].attempts = 1
    ordered = order(records.values())
    assert ordered[0] is late[2]
    assert [record.plan["role"] for record in ordered[1:6]] == ["search"] * 5
