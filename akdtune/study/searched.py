"""The part of a study that may be searched: the tree, its arms, and what is wrong with either."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from akdtune.errors import AkdtuneError, Problem, SettingsError, unknown_name
from akdtune.settings import domains, space
from akdtune.settings.domains import Choice, Issue, PlacedDomain, Range
from akdtune.settings.file import KeyPath, SettingsFile, related, shown, written
from akdtune.settings.points import described
from akdtune.settings.space import Arm, Pooled
from akdtune.settings.trial import trial_settings
from akdtune.study import arm_names

MOST_CHECKS = 10_000
"""Options of all arms together."""

NO_DOMAIN: dict[str | KeyPath, str] = {
    "data": "one split serves the teacher and every comparison; make one study per data set",
    "teacher": "all trials of a study share one teacher; make one study per teacher",
    ("training", "epochs"): "rungs and probes compare trials of equal length; make one study per length",
    ("training", "precision"): (
        "trials of a search compete with each other; make one study per precision, or an ablation with it as a factor"
    ),
    ("training", "tf32"): (
        "trials of a search compete with each other; make one study per precision, or an ablation with it as a factor"
    ),
    ("training", "compile"): "it is how a study runs, and changes rounding only",
}


@dataclass
class Remarks:
    """What is wrong with a settings file and what is odd about it, as far as it has been read."""

    file: SettingsFile
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, path: KeyPath, message: str) -> None:
        """Notes what is wrong at a path of the file, unless a value there was refused while it was read."""
        if not any(related(path, refused) for refused in self.file.refused):
            self.problems.append(self.file.problem(path, message))

    def warn(self, path: KeyPath, message: str) -> None:
        """Notes what is odd at a path of the file."""
        self.warnings.append(str(self.file.problem(path, message)))


class Searched:
    """The part of a study that may be searched: the tree, its arms, and what is wrong with either."""

    def __init__(self, remarks: Remarks, values: dict[str, Any], constants: dict[str, Any]) -> None:
        self.remarks = remarks
        self.constants = constants
        self.epochs = 0
        self._refused: set[str | int] = set()
        self._trained: dict[str, set[Any]] = {"epochs": set(), "precision": set(), "tf32": set(), "compile": set()}
        issues: list[Issue] = []
        notes: list[Issue] = []
        self.tree = domains.parse(values, issues, notes)
        self._broken = [path for path, _ in issues] + [(section,) for section in values if values[section] is None]
        for path, message in issues:
            remarks.problem(path, message)
        for path, message in notes:
            remarks.warn(path, message)
        for placed in domains.domains(self.tree):
            if reason := NO_DOMAIN.get(placed.logical[:2]):
                remarks.problem(placed.domain.path, f"cannot be searched over: {reason}")
                self._refused.add(placed.logical[1])
        try:
            self.expanded = space.expand(self.tree)
        except AkdtuneError as error:
            raise SettingsError([*remarks.problems, remarks.file.problem(("method",), str(error))]) from None
        self._refuse_too_many()
        self._seen: set[Issue] = set()
        for tree, origins, _ in self.expanded:
            self._check_arm(tree, origins)

    def _refuse_too_many(self) -> None:
        """Every option is checked in every arm; more than this can only be a mistake."""
        checks = 0
        for tree, _, _ in self.expanded:
            checks += 1 + sum(
                len(placed.domain.options) if isinstance(placed.domain, Choice) else 2
                for placed in domains.domains(tree)
            )
            if checks > MOST_CHECKS:
                message = f"arms and their options are more than {MOST_CHECKS:,} combinations to check"
                raise SettingsError([*self.remarks.problems, self.remarks.file.problem(("method",), message)])

    def _check_arm(self, tree: dict[str, Any], origins: dict[KeyPath, KeyPath]) -> None:
        """Types the base configuration, then each option and each end of every domain, one at a time."""
        self._check(tree, origins, {})
        for placed in domains.domains(tree):
            under = {choice.path: index for choice, index in placed.under}
            ends = range(len(placed.domain.options)) if isinstance(placed.domain, Choice) else placed.domain.ends()
            for value in ends:
                self._check(tree, origins, {**under, placed.domain.path: value})
        for key, known in self._trained.items():
            if len(known) > 1 and key not in self._refused:
                several = "numbers of epochs" if key == "epochs" else f"values of {key}"
                self._add(("training",), f"has several {several}: {NO_DOMAIN['training', key]}")
        self.epochs = max(self._trained["epochs"], default=0)

    def _check(self, tree: Any, origins: dict[KeyPath, KeyPath], forced: Mapping[KeyPath, Any]) -> None:
        """Notes what is wrong with one configuration, and how it trains."""
        places: dict[KeyPath, KeyPath] = {}

        def decide(domain: domains.Domain, _: KeyPath) -> Any:
            return forced.get(domain.path, domains.first(domain))

        values = domains.decided(tree, decide, places)
        settings, issues = trial_settings(values, self.constants)
        for logical, message in issues:
            # An unknown key is wrong whatever its value: it is shown once, not for every option.
            cut = len(logical) - message.startswith("unknown key")
            self._add((*_place(logical[:cut], places, origins), *logical[cut:]), message)
        for key, known in self._trained.items():
            if "training" in settings:
                known.add(settings["training"][key])

    def _add(self, path: KeyPath, message: str) -> None:
        if (path, message) in self._seen or any(path[: len(broken)] == broken for broken in self._broken):
            return
        self._seen.add((path, message))
        self.remarks.problem(path, message)

    def refuse_uncountable(self) -> None:
        """A grid needs values that can be listed."""
        for placed in domains.domains(self.tree):
            if isinstance(placed.domain, Range) and placed.domain.count() is None:
                self._add(
                    placed.domain.path,
                    f"'{placed.domain.kind}' has no values to list: with search.algorithm grid, use `grid` or `choice`",
                )

    def check_fixed(self, fixed: Mapping[str, Any]) -> None:
        """Refuses values of `probe.fixed` for settings that are not searched, or outside their domain."""
        known: dict[str, list[PlacedDomain]] = {}
        for tree, _, _ in self.expanded:
            for placed in domains.domains(tree):
                known.setdefault(space.setting_path(placed.logical, tree), []).append(placed)
        for path, value in fixed.items():
            at: KeyPath = ("probe", "fixed", path)
            if path not in known:
                self._add(at, unknown_name("searched setting", path, known))
            elif not all(_holds(placed.domain, value) for placed in known[path]):
                allowed = " and ".join(dict.fromkeys(described(placed.domain) for placed in known[path]))
                self._add(at, f"must be within {allowed}, got {shown(value)}")

    def arms(self, constants: dict[str, Any], fixed: Mapping[str, Any]) -> tuple[tuple[Arm, ...], Pooled]:
        """The arms with their names, and all of them pooled."""
        given: space.Names = {}
        trees = [tree for tree, _, _ in self.expanded]
        decided = [[logical for _, logical, _ in taken] for _, _, taken in self.expanded]
        complete = functools.partial(_complete, constants)
        arms = tuple(
            Arm(name, tree, given, complete, fixed, drawn_as)
            for name, drawn_as, tree in zip(
                arm_names.names(trees, decided), arm_names.numbered_names(trees, decided), trees, strict=True
            )
        )
        return arms, Pooled(arms, [taken for _, _, taken in self.expanded], given)


def _place(logical: KeyPath, places: Mapping[KeyPath, KeyPath], origins: Mapping[KeyPath, KeyPath]) -> KeyPath:
    """Where in the file a path of a trial stands: by what was decided last, else by what made it an arm."""
    for length in range(len(logical), -1, -1):
        head, rest = logical[:length], logical[length:]
        if head in places and places[head] != head:
            return (*places[head], *rest)
        if head in origins:
            return (*origins[head], *rest)
    return logical


def _holds(domain: domains.Domain, value: Any) -> bool:
    if isinstance(domain, Choice):
        return domains.label(value) in domain.labels
    return domain.holds(value)


def _complete(constants: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """All settings of a trial; a combination that no single value forbade may still be wrong."""
    settings, issues = trial_settings(values, constants)
    if issues:
        raise SettingsError(Problem(written(path), message) for path, message in issues)
    return {**copy.deepcopy(constants), **settings}
