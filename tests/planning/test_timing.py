"""Timing in groups of like cost, for a bounded time, and what it leaves when it is cut short."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from akdtune.cli.app import app
from akdtune.data.dataset import load_data
from akdtune.errors import DataError
from akdtune.planning import report, timing
from akdtune.planning.cost import ArmCost
from akdtune.planning.plan import Plan
from akdtune.planning.timing import Timing, TimingProgress, like_cost
from akdtune.running.interruption import INTERRUPTED
from akdtune.settings.data import DataSettings
from akdtune.study import spec
from tests.search_world import TINY

METHODS = "method={choice: [kd, dkd, crd, at, {name: kd, standardize: true}]}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def plan(file: Path) -> Plan:
    return Plan.outlined(spec.load(file, [METHODS, "views=none", "teacher.seed=5501"])).with_data()


class Costs:
    """Stands for `arm_cost`: counts, and is interrupted where it is told to."""

    def __init__(self, leave_at: int = 99) -> None:
        self.timed: list[list[str]] = []
        self.until: list[float] = []
        self.leave_at = leave_at

    def __call__(self, settings: Mapping[str, Any], bench: object, until: float = math.inf) -> ArmCost:
        if len(self.timed) == self.leave_at:
            raise KeyboardInterrupt
        self.timed.append([term["name"] for term in settings["method"]])
        self.until.append(until)
        return ArmCost(0.0, 10.0 * len(self.timed), 1.0, 2.0)


def of(plan: Plan, within_s: float = 30.0) -> Timing:
    found = plan.timing(within_s)
    assert found is not None
    return found


def test_one_arm_of_each_group_is_timed_and_stands_for_the_others(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs()
    monkeypatch.setattr(timing, "arm_cost", costs)
    timed = of(plan)
    seen: list[TimingProgress] = []
    timed.run(seen.append)
    assert costs.timed == [["kd"], ["crd"], ["at"]], "methods on logits cost alike, maps and banks are their own"
    assert [progress.what for progress in seen] == ["teacher cnn (widths: [4, 8])", "none/kd", "none/crd", "none/at"]
    found = timed.costs
    assert {name: (cost.student_s, cost.like) for name, cost in found.items()} == {
        "none/kd": (10.0, ""), "none/dkd": (10.0, "none/kd"), "none/crd": (20.0, ""), "none/at": (30.0, ""),
        list(found)[-1]: (10.0, "none/kd"),
    }  # fmt: skip
    whole = plan.with_times(timed)
    assert whole.estimate is not None and whole.estimate.total is not None
    lines = report.time_lines(whole)
    assert any(line.startswith("a trial of none/dkd: about 11 s = ") and ", as none/kd" in line for line in lines)
    assert any("8 timed steps of 3 arms for 5 alike on this machine" in line for line in lines)
    assert any(line.startswith("teacher cnn (widths: [4, 8]): about") for line in lines)


def test_what_is_not_timed_when_the_time_is_up_is_estimated(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs()
    monkeypatch.setattr(timing, "arm_cost", costs)
    timed = of(plan, within_s=0.0)
    timed.run()
    assert costs.timed == [["kd"]], "one is timed whatever it takes"
    assert {name: (cost.student_s, cost.estimated) for name, cost in timed.costs.items()}["none/crd"] == (10.0, True)
    lines = report.time_lines(plan.with_times(timed))
    assert any("a trial of none/crd" in line and ", estimated from the arms that were timed" in line for line in lines)
    assert any("8 timed steps of 1 arm for 3 alike on this machine, one thread, 2 estimated" in line
               for line in lines)  # fmt: skip


def test_each_group_gets_its_share_of_the_time_that_is_left(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    costs, now = Costs(), [100.0]
    monkeypatch.setattr(timing, "arm_cost", costs)
    monkeypatch.setattr(timing, "teacher_seconds", lambda *_: [1.0])
    monkeypatch.setattr("akdtune.planning.timing.time.monotonic", lambda: now[0])
    of(plan, within_s=30.0).run()
    assert costs.until == [110.0, 115.0, 130.0]


def test_an_interrupted_timing_keeps_what_it_has(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "arm_cost", Costs(leave_at=1))
    timed = of(plan)
    with pytest.raises(KeyboardInterrupt):
        timed.run()
    assert [cost.estimated for cost in timed.costs.values()] == [False, False, True, True, False]


def test_nothing_timed_says_nothing_of_time(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "arm_cost", Costs(leave_at=0))
    timed = of(plan)
    with pytest.raises(KeyboardInterrupt):
        timed.run()
    whole = plan.with_times(timed)
    assert timed.costs == {} and whole.estimate is not None and whole.estimate.total is None


def test_networks_views_and_batches_make_another_cost(file: Path) -> None:
    def cost(*overrides: str) -> str:
        return like_cost(spec.load(file, overrides).arms[0].random(0).settings)

    assert cost() == cost("method=dkd") == cost("training.lr=0.01")
    others = ["method=crd", "views=none", "views.num_views=2", "training.batch_size=16",
              "student.network={name: cnn, widths: [2, 8]}"]  # fmt: skip
    assert len({cost(), *(cost(override) for override in others)}) == 6


def test_many_validation_images_are_timed_by_some(file: Path) -> None:
    study = spec.load(file)
    split = load_data(DataSettings(**study.data.model_dump()), __import__("torch").device("cpu")).split("subset")
    assert split.validation is not None
    few = split.validation.first(7)
    assert len(few) == 7 and few.sample_ids_N.tolist() == split.validation.sample_ids_N[:7].tolist()
    assert few.images(few.labels_N[:0]).shape[0] == 0


# --------------------------------------------------------------------------------------------------------- printing


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_what_needs_no_data_is_printed_before_data_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Plan) -> Plan:
        raise DataError("broken.npz: truncated")

    monkeypatch.setattr(Plan, "with_data", broken)
    found = invoke(str(file))
    assert isinstance(found.exception, DataError)
    assert "1 arm: angular/kd" in found.stdout and "6 search trials" in found.stdout
    assert "Weights & Biases: off" in found.stdout


def test_without_timing_nothing_is_timed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "arm_cost", Costs(leave_at=0))
    found = invoke(str(file), "teacher.seed=5502", "--no-timing")
    assert found.exit_code == 0 and "a trial of angular/kd: not timed" in found.stdout


def test_ctrl_c_ends_the_timing_with_what_is_known(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "arm_cost", Costs(leave_at=1))
    found = invoke(str(file), METHODS, "views=none", "teacher.seed=5501")
    assert found.exit_code == INTERRUPTED
    assert "a trial of none/kd: about 11 s" in found.stdout and "time with" in found.stdout
    assert "timing was interrupted" in found.stderr


def test_missing_data_and_resources_stand_together_and_the_rest_is_said(file: Path, tmp_path: Path) -> None:
    found = invoke(str(file), f"data={{name: cifar100, root: {tmp_path / 'none'}, validation: 5000}}",
                   f"student.checkpoint={tmp_path / 's.pt'}", "resources.cpu=5000")  # fmt: skip
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("missing checkpoint"))
    together = "\n".join(lines[first:])
    for part in ("s.pt (student.checkpoint)", "missing data (has to be put there", "resources.cpu: a trial asks for",
                 "no time estimate before the data is there"):  # fmt: skip
        assert part in together
    assert "6 search trials" in found.stdout and "views.margin  uniform [0.1, 0.6]" in found.stdout
