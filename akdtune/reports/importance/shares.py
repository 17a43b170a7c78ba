"""Which searched settings mattered: importances and marginals of each arm, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akdtune import progress
from akdtune.metric import ACCURACY
from akdtune.records.lock_file import read_lock
from akdtune.reports.importance.searched_arms import SearchedArm
from akdtune.reports.text import counted

if TYPE_CHECKING:
    from akdtune.statistics.importance import Bin, Distribution, Evaluator, Importance


LEAST = 10
EVALUATORS: dict[Evaluator, str] = {"ped_anova": "PED-ANOVA", "fanova": "fANOVA"}
DRAWS, MIN_DRAWS = 100, 20
FANOVA_SHARE = 4
"""fANOVA gets one draw for so many of PED-ANOVA's: it takes ten times as long."""

INTERVALS = (
    "intervals: 90 % for the mean share of studies with as many configurations, by the spread of resampled "
    "configurations around the share (scale asin sqrt)"
)
READING = (
    "PED-ANOVA: what sets the best configurations apart; fANOVA: what explains accuracy over the whole space, in a "
    "forest's eyes; both describe the configurations that were tried, no cause"
)
SURVIVORS = (
    "pruning ended {pruned} of {all} trials early; those that finished are no random sample (low accuracies are cut "
    "off), so settings whose bad values were pruned look less important than they are; probe trials are never pruned"
)


@dataclass(frozen=True)
class JudgedArm:
    """What one arm's trials say.

    Attributes:
        arm: the arm.
        refused: why nothing was computed; empty where it was.
        kinds: what each setting was drawn from; `guessed` names those whose range is that of the values.
        importances: by evaluator.
        marginals: by setting.
        notes: sentences.
    """

    arm: SearchedArm
    refused: str
    kinds: dict[str, Distribution]
    guessed: list[str]
    importances: dict[Evaluator, list[Importance]]
    marginals: dict[str, list[Bin]]
    notes: list[str]

    @property
    def by_importance(self) -> list[str]:
        """Every setting, the most important first."""
        order = [share.name for shares in self.importances.values() for share in shares]
        return list(dict.fromkeys([*order, *self.kinds]))


@progress.stage("computing importances")
def judge(
    arm: SearchedArm,
    known: Mapping[str, Any],
    *,
    draws: int,
    seed: int,
    trees: int | None = None,
    evaluators: Iterable[Evaluator] = tuple(EVALUATORS),
) -> JudgedArm:
    """Importances and marginal means of one arm, or why there are none.

    Args:
        arm: its configurations.
        known: domains by setting, from the study's settings.
        draws: of PED-ANOVA.
        seed: of the draws.
        trees: of fANOVA's forests; None: as many as usual.
        evaluators: which are asked.
    """
    # late: only this analysis needs Optuna
    from akdtune.statistics import importance
    from akdtune.statistics.importance import distribution, marginal

    count, settings = len(arm.configurations), arm.settings
    refused = ""
    if count < LEAST:
        refused = f"refused: {count} finished configurations, {LEAST} needed"
        refused += f"; --pool roles gives {arm.pooled}" if arm.pooled >= LEAST else ""
    elif not settings:
        refused = "refused: no searched setting differs between the configurations of this arm"
    if refused:
        return JudgedArm(arm, refused, {}, [], {}, {}, [])
    kinds, guessed, marginals = {}, [], {}
    for name in settings:
        has = [i for i, configuration in enumerate(arm.configurations) if name in configuration]
        values = [arm.configurations[i][name] for i in has]
        kinds[name], certain = distribution(values, known.get(name, []))
        guessed += [] if certain else [name]
        marginals[name] = marginal(values, arm.scores_N[has], kinds[name])
    shares = {
        evaluator: importance.importances(
            arm.configurations, arm.scores_N, kinds, evaluator, seed=seed, trees=trees or importance.TREES,
            draws=draws if evaluator == "ped_anova" else max(MIN_DRAWS, draws // FANOVA_SHARE),
        )
        for evaluator in evaluators
    }  # fmt: skip
    return JudgedArm(arm, "", kinds, guessed, shares, marginals, _notes(arm, shares, guessed))


def _notes(arm: SearchedArm, shares: Mapping[Evaluator, Sequence[Importance]], guessed: Sequence[str]) -> list[str]:
    notes = []
    for evaluator in shares:
        label = EVALUATORS[evaluator]
        above = [importance.name for importance in shares[evaluator] if importance.above_chance]
        if len(arm.settings) < 2 or not shares[evaluator]:
            why = "one setting alone has no share" if len(arm.settings) < 2 else "nothing to tell apart"
            notes.append(f"{label}: none ({why})")
        elif above:
            notes.append(f"{label}: above chance: {', '.join(above)}")
        else:
            notes.append(f"{label}: no setting is above what shuffled scores give, with n = {len(arm.configurations)}")
    lacking = [name for name in arm.settings if not all(name in configuration for configuration in arm.configurations)]
    if lacking:
        notes.append(f"conditional, hence without fANOVA: {', '.join(lacking)}")
    if arm.further_seeds:
        notes.append(
            f"{counted(arm.further_seeds, 'trial')} of seeds that not all configurations have finished do not count: "
            f"--pool seeds takes them"
        )
    if arm.seeds_N and min(arm.seeds_N) < max(arm.seeds_N):
        notes.append("values over more seeds are more exact than others; the evaluators take all alike")
    if guessed:
        notes.append(
            f"the settings do not say what these were drawn from, so the range of their values was taken, logarithmic "
            f"from a factor of ten on: "
            f"{', '.join(guessed)}"
        )
    pruned = arm.excluded.get("pruned", 0) + arm.excluded.get("diverged", 0)
    if pruned:
        notes.append(SURVIVORS.format(pruned=pruned, all=sum(arm.excluded.values()) + sum(arm.trials.values())))
    return notes


# ------------------------------------------------------------------------------------------------- reporting


def report_of(judged: Sequence[JudgedArm], **how: Any) -> dict[str, Any]:
    """Everything that was computed, as plain JSON."""
    from akdtune.statistics.importance import LEVEL  # late: only this analysis needs Optuna

    metric = judged[0].arm.metric if judged else ACCURACY
    return {
        "claim": READING, "score": metric.validation, "level": LEVEL, "least_configurations": LEAST, **how,
        "arms": {arm.arm.name: _arm_json(arm) for arm in judged},
    }  # fmt: skip


def _arm_json(judged: JudgedArm) -> dict[str, Any]:
    shares = {evaluator: {share.name: share for share in of_arm} for evaluator, of_arm in judged.importances.items()}
    settings = {}
    for name, kind in judged.kinds.items():
        settings[name] = {"distribution": str(kind), "from_the_values": name in judged.guessed}
        for evaluator in EVALUATORS:
            share = shares[evaluator].get(name)
            settings[name][evaluator] = (
                None if share is None else {k: v for k, v in asdict(share).items() if k != "name"}
            )
        settings[name]["marginal"] = [
            {key: value for key, value in asdict(bin_).items() if key != "members"} for bin_ in judged.marginals[name]
        ]
    return {
        "configurations": len(judged.arm.configurations), "trials": judged.arm.trials, "excluded": judged.arm.excluded,
        "seeds": list(judged.arm.seeds) or None, "further_seeds": judged.arm.further_seeds,
        "refused": judged.refused or None, "settings": settings, "notes": judged.notes,
    }  # fmt: skip


@progress.stage("reading what was searched")
def known_domains(run: Path) -> dict[str, Any]:
    """What each setting was drawn from, by the study's settings; nothing where they are not known."""
    from akdtune.statistics.importance import domains_of  # late: only this analysis needs Optuna

    lock = read_lock(run)
    return domains_of(lock["settings"]) if lock else {}
