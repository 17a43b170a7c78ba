"""Trials as Optuna keeps them: what their state and worth is there, where their settings came from, whose they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from typing_extensions import override

from akdtune.records.trial_record import TrialRecord
from akdtune.roles import REPORT_ROLES
from akdtune.settings.pickers import Recorded
from akdtune.settings.sections import COSTS
from akdtune.settings.space import Space

Values: TypeAlias = Mapping[str, Sequence[Any]]
"""The options of each choice as they are, by its name."""

_STATES = {
    "done": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    None: TrialState.RUNNING,
}


def values_of(space: Space) -> dict[str, Sequence[Any]]:
    """The options of each choice of a space as they are: numbers stay numbers."""
    return {dimension.name: dimension.values for dimension in space.dimensions if dimension.options}


def attributes(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Whose a trial is, as its user attributes say it."""
    names = ("trial_id", "arm", "seed", "role", "cell")
    return {name: plan[name] for name in names if plan.get(name) is not None}


class Distributions(Recorded):
    """Repeats a recorded proposal and notes values and the distributions that they came from.

    Attributes:
        by_name: distributions.
        params: values, as Optuna takes them.
    """

    def __init__(self, raw: Mapping[str, Any], values: Values) -> None:
        super().__init__(raw)
        self._values = values
        self.by_name: dict[str, BaseDistribution] = {}
        self.params: dict[str, Any] = {}

    @override
    def categorical(self, name: str, labels: Sequence[str]) -> int:
        index = super().categorical(name, labels)
        options = self._values.get(name, labels)
        self._note(name, options[index], CategoricalDistribution(list(options)))
        return index

    @override
    def float(self, name: str, low: float, high: float, log: bool, step: float | None) -> float:
        value = super().float(name, low, high, log, step)
        self._note(name, value, FloatDistribution(low, high, log=log, step=step))
        return value

    @override
    def int(self, name: str, low: int, high: int, log: bool, step: int) -> int:
        value = super().int(name, low, high, log, step)
        self._note(name, value, IntDistribution(low, high, log=log, step=step))
        return value

    def _note(self, name: str, value: Any, distribution: BaseDistribution) -> None:
        self.params[name], self.by_name[name] = value, distribution


def proposed(space: Space, raw: Mapping[str, Any]) -> Distributions:
    """Values and distributions of a recorded proposal.

    Raises:
        AkdtuneError: when it is from another space.
    """
    recorded = Distributions(raw, values_of(space))
    space.ask(recorded)
    return recorded


@dataclass(frozen=True)
class Worth:
    """What trials are worth to Optuna.

    Attributes:
        objectives: the metric alone, or with costs, which are minimised.
        costs: gives the other objectives of a trial that is done, by name.
    """

    objectives: tuple[str, ...] = ("accuracy",)
    costs: Callable[[TrialRecord], Mapping[str, float]] | None = None

    @property
    def several(self) -> bool:
        """Whether there is more than one objective."""
        return len(self.objectives) > 1

    @property
    def directions(self) -> list[StudyDirection]:
        """Of each objective."""
        return [StudyDirection.MINIMIZE if name in COSTS else StudyDirection.MAXIMIZE for name in self.objectives]

    def values(self, record: TrialRecord) -> list[float]:
        """What a trial that is done is worth, an objective each."""
        value = _value(record)
        assert value is not None
        others = self.costs(record) if self.several and self.costs is not None else {}
        return [others[name] if name in COSTS else value for name in self.objectives]

    def state(self, record: TrialRecord) -> TrialState:
        """A trial's end in Optuna's words, which know no pruning where there are several objectives."""
        state = _STATES[record.terminal]
        if state is not TrialState.RUNNING and _value(record) is None:
            return TrialState.FAIL
        return TrialState.FAIL if self.several and state is TrialState.PRUNED else state

    def intermediate(self, record: TrialRecord) -> dict[int, float]:
        """Values at the rungs and at the last epoch."""
        if self.several:
            return {}
        epochs = sorted({rung.epoch for rung in record.rungs.values()} | {record.last_epoch})
        return {epoch: value for epoch in epochs if (value := record.epochs.get(epoch, (None, None))[0]) is not None}

    def frozen(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        record: TrialRecord | None,
        user_attrs: Mapping[str, Any],
    ) -> FrozenTrial:
        """A trial as it is to stand in a study.

        Args:
            params: its settings.
            distributions: of these.
            record: how it went; None: it failed.
            user_attrs: whose it is.
        """
        state = self.state(record) if record else TrialState.FAIL
        return create_trial(
            state=state,
            values=self.values(record) if record and state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
            params=dict(params),
            distributions=dict(distributions),
            intermediate_values=self.intermediate(record) if record and state.is_finished() else None,
            user_attrs=dict(user_attrs),
        )


def _value(record: TrialRecord) -> float | None:
    """The metric on the test set of a trial that was planned to read that, on validation images of any other."""
    return record.test if record.plan["role"] in REPORT_ROLES else record.value
