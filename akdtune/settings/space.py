"""The search space: arms (one choice of every component each) and the configurations proposed from them."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.settings import points
from akdtune.settings.domains import Choice, Domain, PlacedDomain, Range, decided, domains
from akdtune.settings.file import KeyPath
from akdtune.settings.pickers import Corner, Grid, Point, RandomPicker, Recorded, Suggest, halton, picked


@dataclass(frozen=True)
class Proposal:
    """One configuration.

    Attributes:
        arm: name of the arm it belongs to.
        settings: data, teacher, student, views, method (a list) and training with defaults filled in; plain JSON.
        params: the value of every setting that the arm searches, by key path (`method.kd.weight`).
        raw: what the searcher was asked, by its names: labels of choices, numbers of ranges.
        written: views, method, student and training as the file has them, every domain decided, no default filled in.
    """

    arm: str
    settings: dict[str, Any]
    params: dict[str, Any]
    raw: dict[str, Any]
    written: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Dimension:
    """One searched setting, as a plan shows it.

    Attributes:
        path: key path as in `Proposal.params`.
        name: name under which it is suggested; unique in the study.
        kind: choice, grid, uniform, ...
        low, high, step: of a range.
        options: labels of a choice.
        values: the options of a choice as they are, where each is text, a number, a truth value or null and no two of
            them are equal (1, 1.0 and true are), else their labels.
        when: the options it depends on, e.g. `training = lr=0.1`; empty when it is always there.
    """

    path: str
    name: str
    kind: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    options: tuple[str, ...] = ()
    values: tuple[str | int | float | bool | None, ...] = ()
    when: str = ""


MAX_ARMS = 1000
"""A search deals its trials over the arms; more than this can only be a mistake."""

Decision = tuple[Choice, KeyPath, int]
"""A structural choice, its path in the trial, and the index of the option taken."""

Expanded = tuple[dict[str, Any], dict[KeyPath, KeyPath], list[Decision]]
"""A tree without structural choices, where in the file its paths stand, and the decisions that made it."""

Names = dict[tuple[KeyPath, str], str]
"""Unique name in the study, by (path as written, path in the trial)."""


class Space:
    """Whatever can be sampled: an arm, or all arms pooled.

    Attributes:
        name: by which plan, ledger and reports name it.
        drawn_as: the name that its draws are derived from; stays what it is when an arm gets another name.
        dimensions: what is searched.
    """

    name: str
    drawn_as: str
    dimensions: tuple[Dimension, ...]

    def sample(self, suggest: Suggest) -> Proposal:
        """One configuration; every open setting is asked of `suggest` under a name that is unique in the study."""
        raise NotImplementedError

    def ask(self, suggest: Suggest) -> None:
        """Asks `suggest` what `sample` asks, and makes no settings of it, which is most of the work."""
        raise NotImplementedError

    def random(self, rng_seed: int) -> Proposal:
        """A configuration that depends on the seed alone."""
        return self.sample(RandomPicker(rng_seed))

    def centre(self) -> Proposal:
        """Every setting at its middle (geometric on a logarithmic scale), choices at their middle option."""
        return self.sample(Point())

    def replay(self, raw: Mapping[str, Any]) -> Proposal:
        """The configuration that `raw` of an earlier proposal describes."""
        return self.sample(Recorded(raw))

    def grid(self) -> Iterator[Proposal]:
        """Every configuration, in the order of the file, the last setting changing fastest.

        Raises:
            AkdtuneError: when a range has no countable values.
        """
        grid = Grid()
        while grid.more:
            yield self.sample(grid)
            grid.advance()


class Arm(Space):
    """One choice of every component, with what remains to be searched.

    Attributes:
        name: `views/method[/network]`, e.g. `angular/kd+crd`, `none/kd[weight=2]`.
        tree: the settings with every structural choice decided.
        dimensions: what is searched.
        probed: names of the dimensions that probes vary: those of the views, without fixed ones.
    """

    def __init__(
        self,
        name: str,
        tree: dict[str, Any],
        names: Names,
        complete: Callable[[dict[str, Any]], dict[str, Any]],
        fixed: Mapping[str, Any] | None = None,
        drawn_as: str | None = None,
    ) -> None:
        self.name = name
        self.drawn_as = name if drawn_as is None else drawn_as
        self.tree = tree
        self._complete = complete
        self._fixed = dict(fixed or {})
        self._placed = list(domains(tree))
        self._names: dict[KeyPath, tuple[str, str]] = {}
        for placed in self._placed:
            path = setting_path(placed.logical, tree)
            self._names[placed.domain.path] = (_named(names, placed.domain.path, path), path)
        self.dimensions = tuple(self._dimension(placed) for placed in self._placed)
        of_views = [dimension for dimension in self.dimensions if dimension.path.startswith("views.")]
        self.probed = tuple(dimension.name for dimension in of_views if dimension.path not in self._fixed)

    def named(self, name: str) -> Arm:
        """The same arm, which proposes the same, under another name."""
        other = copy.copy(self)
        other.name = name
        return other

    @override
    def sample(self, suggest: Suggest) -> Proposal:
        values, params, raw = self._drawn(suggest)
        settings = self._complete(copy.deepcopy(values))
        assert_plain(settings)
        assert_plain(params, "params")
        assert_plain(raw, "raw")
        return Proposal(self.name, settings, params, raw, values)

    @override
    def ask(self, suggest: Suggest) -> None:
        self._drawn(suggest)

    def _drawn(self, suggest: Suggest) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The tree without open settings, and what was drawn for these, by key path and as the picker names it."""
        params: dict[str, Any] = {}
        raw: dict[str, Any] = {}

        def decide(domain: Domain, _: KeyPath) -> Any:
            name, path = self._names[domain.path]
            if isinstance(domain, Range):
                raw[name] = picked(domain, suggest, name)
                params[path] = domain.clean(raw[name])
                return params[path]
            labels = domain.labels
            index = suggest.categorical(name, labels)
            option = domain.options[index]
            raw[name] = labels[index]
            params[path] = labels[index] if isinstance(option, dict | Domain) else option
            return index

        return decided(self.tree, decide, {}), params, raw

    def domains(self) -> dict[str, list[Domain]]:
        """What is searched, by key path; a setting that several options have has several domains."""
        known: dict[str, list[Domain]] = {}
        for placed in self._placed:
            known.setdefault(self._names[placed.domain.path][1], []).append(placed.domain)
        return known

    def at(self, given: Mapping[str, Any]) -> Proposal:
        """The configuration with these values of searched settings, every other one at its centre.

        Args:
            given: by key path, as `points.leaves` gives them; each is one that its domain takes.
        """
        fixed: dict[str, Any] = {}
        for placed in self._placed:
            name, path = self._names[placed.domain.path]
            if isinstance(placed.domain, Range):
                fixed |= {name: placed.domain.clean(given[path])} if path in given else {}
            elif (index := points.option_of(placed.domain, path, given)) is not None:
                fixed[name] = placed.domain.labels[index]
        return self.sample(Point({}, fixed))

    def corners(self) -> list[Proposal]:
        """Configurations that together hold every option of every choice, and both ends of every range."""
        places = max([2, *(len(dimension.options) for dimension in self.dimensions)]) if self.dimensions else 1
        return [self.sample(Corner(place)) for place in range(places)]

    def probes(self, count: int, seed: int) -> list[Proposal]:
        """Quasi-random configurations over the settings of the views; all others stand at their centre.

        Args:
            count: how many, at least 0.
            seed: of the scrambling.

        Returns:
            `count` proposals, or none when the views have nothing to vary.
        """
        if not self.probed:
            return []
        fixed = {name: self._fixed[path] for name, path in self._names.values() if path in self._fixed}
        points = halton(count, len(self.probed), seed)
        return [self.sample(Point(dict(zip(self.probed, point, strict=True)), fixed)) for point in points]

    def grid_size(self) -> int | None:
        """Number of configurations of the grid; None when a range has no countable values."""
        return _size(self.tree)

    def _dimension(self, placed: PlacedDomain) -> Dimension:
        domain = placed.domain
        name, path = self._names[domain.path]
        when = " and ".join(f"{self._names[c.path][1]} = {c.labels[i]}" for c, i in placed.under)
        if isinstance(domain, Choice):
            labels = tuple(domain.labels)
            return Dimension(path, name, domain.key, options=labels, values=_values(domain, labels), when=when)
        return Dimension(path, name, domain.kind, domain.low, domain.high, domain.step, when=when)


class Pooled(Space):
    """All arms in one space: which arm is itself a searched choice."""

    name = drawn_as = "pooled"

    def __init__(self, arms: Sequence[Arm], decisions: Sequence[Sequence[Decision]], names: Names):
        self.arms = tuple(arms)
        self._decisions = [
            [(_named(names, choice.path, setting_path(logical, {})), choice.labels, index)
             for choice, logical, index in of_arm]
            for of_arm in decisions
        ]  # fmt: skip
        structure = dict.fromkeys((name, tuple(labels)) for of_arm in self._decisions for name, labels, _ in of_arm)
        own = [Dimension(name, name, "choice", options=labels, values=labels) for name, labels in structure]
        rest = {dimension.name: dimension for arm in arms for dimension in arm.dimensions}
        self.dimensions = (*own, *rest.values())

    def of(self, arms: Sequence[Arm]) -> Pooled:
        """The same space of the same arms under other names."""
        other = copy.copy(self)
        other.arms = tuple(arms)
        return other

    def at(self, arm: int, given: Mapping[str, Any]) -> Proposal:
        """As `Arm.at`, of one of the arms, by its place."""
        proposal = self.arms[arm].at(given)
        chosen = {name: labels[index] for name, labels, index in self._decisions[arm]}
        return replace(proposal, raw={**chosen, **proposal.raw})

    @override
    def sample(self, suggest: Suggest) -> Proposal:
        arm, raw = self._chosen(suggest)
        proposal = arm.sample(suggest)
        return replace(proposal, raw={**raw, **proposal.raw})

    @override
    def ask(self, suggest: Suggest) -> None:
        self._chosen(suggest)[0].ask(suggest)

    def _chosen(self, suggest: Suggest) -> tuple[Arm, dict[str, Any]]:
        """The arm that was drawn, and the choices that led to it."""
        raw: dict[str, Any] = {}
        left = list(range(len(self.arms)))
        position = 0
        while any(len(self._decisions[arm]) > position for arm in left):
            # Arms that agree on all decisions so far face the same next choice.
            name, labels, _ = self._decisions[left[0]][position]
            index = suggest.categorical(name, labels)
            raw[name] = labels[index]
            left = [arm for arm in left if self._decisions[arm][position][2] == index]
            position += 1
        return self.arms[left[0]], raw


def expand(tree: Any) -> list[Expanded]:
    """Every way to decide the structural choices: (tree, origins, decisions), in the order of the file."""
    results: list[Expanded] = []
    prefix: list[int] = []
    while True:
        if len(results) == MAX_ARMS:
            raise AkdtuneError(
                f"the choices of views, method, selection, student and augmentation span more than {MAX_ARMS} arms"
            )
        taken: list[Decision] = []

        origins: dict[KeyPath, KeyPath] = {}
        results.append((decided(tree, functools.partial(_structure, prefix, taken), origins), origins, taken))
        while taken and taken[-1][2] + 1 == len(taken[-1][0].options):
            taken = taken[:-1]
        if not taken:
            return results
        prefix = [*(index for _, _, index in taken[:-1]), taken[-1][2] + 1]


def _structure(prefix: list[int], taken: list[Decision], domain: Domain, logical: KeyPath) -> int | None:
    """Decides structural choices as `prefix` says and then for the first option; notes what it decided."""
    if isinstance(domain, Range) or not structural(domain, logical):
        return None
    index = prefix[len(taken)] if len(taken) < len(prefix) else 0
    taken.append((domain, logical, index))
    return index


def structural(choice: Choice, logical: KeyPath) -> bool:
    """Whether a choice separates arms: it picks a component, a network, a variant or what the student sees.

    So does one between mappings inside of a component. Students that see other images learn at another pace: pruned
    together, those with weaker augmentation would win the early rungs.
    """
    if logical == ("training", "augmentation"):
        return True
    if not logical or logical[0] not in ("views", "method", "selection", "student"):
        return False
    picks_component = len(logical) == 1 or (logical[0] == "method" and isinstance(logical[-1], int))
    return picks_component or logical[-1] in ("name", "network", "variant") or any(map(_has_mapping, choice.options))


def _has_mapping(option: Any) -> bool:
    if isinstance(option, Choice):
        return any(map(_has_mapping, option.options))
    return isinstance(option, dict) or (isinstance(option, list) and any(map(_has_mapping, option)))


def setting_path(logical: KeyPath, tree: Mapping[str, Any]) -> str:
    """The key path of a setting for tables: terms of a sum by their method's name, `method.kd.weight`."""
    if len(logical) > 1 and logical[0] == "method":
        terms = tree.get("method")
        index = logical[1] if isinstance(logical[1], int) else None
        term = terms[index] if isinstance(terms, list) and index is not None else terms
        if isinstance(term, dict) and isinstance(term.get("name"), str):
            return ".".join(map(str, ("method", term["name"], *logical[1 if index is None else 2 :])))
    return ".".join(map(str, logical))


def _named(names: Names, written: KeyPath, path: str) -> str:
    """The unique name of a setting, given out once."""
    if (written, path) not in names:
        taken = set(names.values())
        names[(written, path)] = next(
            name for name in itertools.chain([path], (f"{path}#{n}" for n in itertools.count(2))) if name not in taken
        )
    return names[(written, path)]


def _values(choice: Choice, labels: tuple[str, ...]) -> tuple[Any, ...]:
    """The options as they are, where something that knows equality alone can tell them apart."""
    options = choice.options
    plain = all(option is None or isinstance(option, str | int | float | bool) for option in options)
    return options if plain and len(set(options)) == len(options) else labels


def _size(node: Any) -> int | None:
    if isinstance(node, Range):
        return node.count()
    if isinstance(node, Choice):
        sizes = [_size(option) for option in node.options]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    if isinstance(node, dict | list):
        total = 1
        for item in node.values() if isinstance(node, dict) else node:
            size = _size(item)
            if size is None:
                return None
            total *= size
        return total
    return 1


def assert_plain(value: Any, path: str = "settings") -> None:
    """Asserts that a value is plain JSON: no numpy numbers, tuples, domains or non-finite numbers."""
    if type(value) is dict:
        for key, item in value.items():
            assert type(key) is str, f"{path}: key {key!r} is not a string"
            assert_plain(item, f"{path}.{key}")
    elif type(value) is list:
        for index, item in enumerate(value):
            assert_plain(item, f"{path}[{index}]")
    else:
        assert value is None or type(value) in (str, bool, int, float), f"{path}: {type(value).__name__} is not JSON"
        assert type(value) is not float or math.isfinite(value), f"{path}: {value} is not JSON"
