"""What is refused and what is odd in `search` and `scheduler`, and how the plan says them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from akdtune.planning import report
from akdtune.running.lock import refuse_changes
from akdtune.settings.training import Recipe
from akdtune.study import search_rules, spec
from akdtune.study.proposals import Outline
from tests.search_world import load

SEEDS = "seeds: [0, 1, 2, 3, 4, 5, 6]"


def warnings(folder: Path, *overrides: str) -> str:
    return "\n".join(load(folder, *overrides).warnings)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["scheduler={name: asha, grace_period: 5}", "method={name: dkd, warmup_epochs: 6}"],
         "scheduler.grace_period: 5 is before the end of the ramp method.dkd.warmup_epochs (6)"),
        (["scheduler={name: median, grace_period: 5}", "method={name: dkd, warmup_epochs: {int_uniform: [1, 7]}}"],
         "scheduler.grace_period: 5 is before the end of the ramp method.dkd.warmup_epochs (7)"),
        (["scheduler={name: asha, grace_period: 5}", "method={choice: [kd, {name: reviewkd, warmup_epochs: 9}]}",
          "student={network: resnet8}", "teacher={network: resnet20}", "data={name: cifar100, validation: 5000}"],
         "method.reviewkd.warmup_epochs (9)"),
        (["scheduler={name: median, grace_period: 2}"],
         "scheduler.grace_period: 2 is not after the first milestone (4)"),
        (["scheduler={name: median, grace_period: 5, reduction_factor: 3, pilot: 2}"],
         "scheduler.pilot: is ignored: scheduler.name is median"),
        (["scheduler={name: asha, grace_period: 5, pilot: 6}"],
         "scheduler.pilot: is 6, but no arm gets more than 6: nothing is pruned"),
        ([f"search={{algorithm: random, trials: 6, {SEEDS}}}", "scheduler={name: racing, alpha: 0.03}"],
         "search.seeds: 7 seeds can drop nothing of 6 configurations at once: the smallest p of n seeds is 1 in 2^n, "
         "and Holm's first step needs 0.03/5 (8 seeds)"),
    ],
)  # fmt: skip
def test_what_is_odd_is_said(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in warnings(tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler={name: asha, grace_period: 5}", "method={name: dkd, warmup_epochs: 5}"],
        ["scheduler={name: asha, grace_period: 5, pilot: 3}"],
        [f"search={{algorithm: random, trials: 6, {SEEDS}}}", "scheduler={name: racing}"],
    ],
)
def test_what_is_not_odd_is_not_said(tmp_path: Path, overrides: list[str]) -> None:
    assert warnings(tmp_path, *overrides) == ""


def test_a_rising_learning_rate_is_a_warm_up() -> None:
    class Rising(Recipe):
        def learning_rate(self, epoch: int) -> float:
            return self.lr * min(1.0, epoch / 5)

    assert search_rules.rise_ends(Rising(epochs=20)) == 5
    assert search_rules.rise_ends(Recipe(epochs=20)) == 0
    warnings = list(search_rules.too_early(5, Rising(epochs=20, milestones=[4]), []))
    assert [message for _, message in warnings] == [
        "5 is not after the learning rate's warm-up, which ends with epoch 5"
    ]
    assert list(search_rules.too_early(6, Rising(epochs=20, milestones=[4]), [])) == []


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (
            "{name: asha, grace_period: 4, pilot: 2}",
            "ASHA decides after epoch 4, the first 2 of each arm are not pruned",
        ),
        ("{name: median, grace_period: 4}", "median stopping from epoch 4 on"),
        ("{name: racing}", "racing: after 6 seeds, and after each further one, the worse are dropped"),
    ],
)
def test_the_plan_names_the_early_stopping(tmp_path: Path, scheduler: str, words: str) -> None:
    study = load(tmp_path, f"search={{algorithm: qmc, trials: 6, {SEEDS}}}", f"scheduler={scheduler}")
    assert words in "\n".join(report.headline(Outline(study)))
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(study.resolved()))
    assert spec.load(tmp_path / "resolved.yaml").resolved() == study.resolved()


def test_objectives_are_in_the_plan(tmp_path: Path) -> None:
    text = "\n".join(report.headline(Outline(load(tmp_path, "search.objectives=[accuracy, macs, time]"))))
    assert "objectives: accuracy, the student's multiply-adds, training time (`akdtune show RUN --pareto`)" in text


def test_a_study_locked_before_these_settings_goes_on_and_the_time_budget_may_change(tmp_path: Path) -> None:
    study = load(tmp_path, "scheduler={name: asha, grace_period: 5}")
    settings = study.resolved()
    assert settings["scheduler"] == {"name": "asha", "grace_period": 5, "reduction_factor": 4.0}
    for key in ("objectives", "time_budget"):
        del settings["search"][key]
    refuse_changes(study, {"settings": settings}, tmp_path)
    longer = load(tmp_path, "scheduler={name: asha, grace_period: 5}", "search.time_budget=2h")
    refuse_changes(longer, {"settings": study.resolved()}, tmp_path)
