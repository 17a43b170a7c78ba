"""`search.enqueue`: known points of a study's space, tried first in every arm that they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from akdtune.errors import nearest
from akdtune.settings.domains import Issue
from akdtune.settings.file import KeyPath, shown
from akdtune.settings.points import Leaf, described, equal, leaves, takes
from akdtune.settings.sections import STUDY_LEVEL, SearchSettings
from akdtune.settings.space import Arm, Pooled, Proposal

PASSED_OVER = ("study", "plugins", *STUDY_LEVEL)
"""Sections of an exported configuration that say nothing about a trial's settings."""

KEY: KeyPath = ("search", "enqueue")


@dataclass(frozen=True)
class Fitted:
    """A point in one arm.

    Attributes:
        number: of the point in the list.
        arm: place of the arm.
        given: values by key path.
    """

    number: int
    arm: int
    given: dict[str, Any]


def fitted(points: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> list[Fitted]:
    """Every point in every arm that it fits, in the order of the points."""
    known = [_Known(arm) for arm in arms]
    found = []
    for number, point in enumerate(points):
        own = _own(point)
        given = {leaf.path: leaf.value for leaf in own}
        found += [Fitted(number, place, given) for place, arm in enumerate(known) if not arm.issues(own)]
    return found


def proposals(search: SearchSettings, arms: Sequence[Arm], pooled: Pooled) -> dict[str, list[Proposal]]:
    """The points as configurations, by the space that they are searched in; one that stands twice once."""
    by_space: dict[str, list[Proposal]] = {}
    for fit in fitted(search.enqueue, arms) if search.searches else ():
        arm = arms[fit.arm]
        in_one = search.fair == "pooled"
        proposal = pooled.at(fit.arm, fit.given) if in_one else arm.at(fit.given)
        of_space = by_space.setdefault(pooled.name if in_one else arm.name, [])
        if all(other.settings != proposal.settings for other in of_space):
            of_space.append(proposal)
    return by_space


def passed_over(search: SearchSettings) -> Iterator[Issue]:
    """What a point holds that is no setting of a trial, for a warning."""
    for number, point in enumerate(search.enqueue):
        if ignored := [key for key in point if key in PASSED_OVER]:
            yield (*KEY, number, ignored[0]), f"{', '.join(ignored)}: passed over, a point holds settings of a trial"


def problems(search: SearchSettings, arms: Sequence[Arm], pooled: Pooled) -> Iterator[Issue]:
    """What is wrong with the points: settings that there are not, values that are not allowed, too many of them."""
    if search.enqueue and not search.searches:
        yield KEY, f"needs a search, which tries the points first; search.algorithm is {search.algorithm}"
        return
    known = [_Known(arm) for arm in arms]
    wrong = False
    for number, point in enumerate(search.enqueue):
        own = _own(point)
        by_arm = [arm.issues(own) for arm in known]
        if all(by_arm):
            wrong = True
            for leaf, message in _nearest(own, known, by_arm):
                yield (*KEY, number, *leaf.at), message
    if not wrong:
        yield from _too_many(search, arms, pooled)


def _too_many(search: SearchSettings, arms: Sequence[Arm], pooled: Pooled) -> Iterator[Issue]:
    """A point that no trial is left for would be passed over."""
    if search.trials is None:
        return
    count = {name: len(of_space) for name, of_space in proposals(search, arms, pooled).items()}
    names = [pooled.name] if search.fair == "pooled" else [arm.name for arm in arms]
    for place, name in enumerate(names):
        quota = search.trials // len(names) + (place < search.trials % len(names))
        if count.get(name, 0) > quota:
            needed = count[name] * len(names)
            yield (
                KEY,
                f"has {count[name]} points for {name}, which gets {quota} of search.trials ({search.trials}); "
                f"{needed} trials are enough",
            )
            return


def _own(point: Mapping[str, Any]) -> list[Leaf]:
    return list(leaves({key: item for key, item in point.items() if key not in PASSED_OVER}))


class _Known:
    """What an arm searches and what it holds fixed, by key path."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        self.domains = arm.domains()
        self.fixed = {leaf.path: leaf.value for leaf in leaves(arm.centre().settings)}

    @property
    def paths(self) -> set[str]:
        return {*self.domains, *self.fixed}

    def issues(self, point: Sequence[Leaf]) -> list[tuple[Leaf, str]]:
        """Why a point does not fit; none where it does."""
        given = {leaf.path: leaf.value for leaf in point}
        of_domains = {
            path: domain
            for path, of_path in self.domains.items()
            if not any(takes(domain, path, given) for domain in of_path)
            for domain in of_path[:1]
        }
        found = []
        for leaf in point:
            path = next((path for path in of_domains if _within(leaf.path, path)), None)
            if path is not None:
                found.append((leaf, f"must be within {described(of_domains[path])}, got {shown(leaf.value)}"))
        if found:
            return found
        settings = {leaf.path: leaf.value for leaf in leaves(self.arm.at(given).settings)}
        return [
            (leaf, "" if leaf.path not in settings else f"is {shown(settings[leaf.path])}, and not searched there")
            for leaf in point
            if leaf.path not in settings or not equal(settings[leaf.path], leaf.value)
        ]


def _hint(path: str, known: set[str]) -> str:
    """The setting that was probably meant: one that ends so, else the nearest."""
    close = next((name for name in sorted(known) if name.endswith(f".{path}")), None) or nearest(path, known)
    return f"; did you mean '{close}'?" if close else ""


def _within(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}.")


def _nearest(
    point: Sequence[Leaf], known: Sequence[_Known], by_arm: Sequence[list[tuple[Leaf, str]]]
) -> Iterator[tuple[Leaf, str]]:
    """What is wrong with a point: its settings that no arm has, else why it does not fit the arm that is nearest."""
    every = {path for arm in known for path in arm.paths}
    unknown = [leaf for leaf in point if leaf.path not in every]
    for leaf in unknown:
        searched = sorted({path for arm in known for path in arm.domains})
        yield leaf, f"unknown setting '{leaf.path}'{_hint(leaf.path, every)} (searched: {', '.join(searched)})"
    if unknown:
        return
    place = min(range(len(known)), key=lambda index: len(by_arm[index]))
    name = known[place].arm.name
    for leaf, message in by_arm[place]:
        where = f" (the nearest arm, {name})" if len(known) > 1 else ""
        if message:
            got = "" if message.startswith("must") else f", got {shown(leaf.value)}"
            yield leaf, f"{message}{got}{where}"
        else:
            yield leaf, f"is no setting there{where}"
