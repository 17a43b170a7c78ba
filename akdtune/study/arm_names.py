"""What the arms of a study are called: by their components, and by the settings that tell those alike apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from akdtune.settings import domains
from akdtune.settings.domains import Choice, Range
from akdtune.settings.file import KeyPath
from akdtune.settings.trial import selected

Tree: TypeAlias = Mapping[str, Any]
Texts: TypeAlias = dict[KeyPath, str]
"""Text of a setting by its path in the trial."""

BRACKET_LETTERS = 40
"""Settings beyond those that tell arms apart are named as long as all of them take no more letters."""

VALUE_LETTERS = 20
"""A longer value loses its middle."""


def numbered_names(trees: Sequence[Tree], decided: Sequence[Sequence[KeyPath]]) -> list[str]:
    """Names by components and variant alone, with `#2`, `#3` behind those that came before.

    Proposals are drawn from these, and studies from before arms were named by their settings hold them.

    Args:
        trees: the settings of each arm with every structural choice decided.
        decided: the paths of each arm's structural choices.
    """
    return domains.unique(_by_components(trees, decided))


def names(trees: Sequence[Tree], decided: Sequence[Sequence[KeyPath]]) -> list[str]:
    """Names by components, and in brackets the settings in which arms of the same components differ.

    `none/time_self[direction=w2s]`: the shortest first, as many as tell the arms apart, and further ones while they are
    short. A setting that an arm leaves at its default is not named there. Where nothing tells two arms apart, the later
    one gets `#2`.

    Args:
        trees: the settings of each arm with every structural choice decided.
        decided: the paths of each arm's structural choices.
    """
    plain = _by_components(trees, decided)
    named = list(plain)
    for name in dict.fromkeys(name for name in plain if plain.count(name) > 1):
        alike = [place for place, other in enumerate(plain) if other == name]
        for place, texts in zip(alike, _telling([trees[place] for place in alike]), strict=True):
            named[place] = _name(trees[place], decided[place], texts, variant=":" in name)
    return domains.unique(named)


def _by_components(trees: Sequence[Tree], decided: Sequence[Sequence[KeyPath]]) -> list[str]:
    """`views[:variant]/method[+method][@selection][/network]`; variant and network where they distinguish arms."""
    labels = [_name(tree, paths) for tree, paths in zip(trees, decided, strict=True)]
    return [
        _name(tree, paths, variant="variant" in tree["views"] and labels.count(label) > 1)
        for tree, paths, label in zip(trees, decided, labels, strict=True)
    ]


def _name(
    tree: Tree, decided: Sequence[KeyPath], texts: Mapping[KeyPath, str] | None = None, variant: bool = False
) -> str:
    """The name of one arm: each text in the brackets of its component, those of training behind the methods."""
    texts = texts or {}

    def bracket(*head: str | int) -> str:
        own = [text for path, text in texts.items() if path[: len(head)] == head]
        return f"[{','.join(own)}]" if own else ""

    views, terms = tree["views"], tree["method"]
    first = str(views["name"])
    if variant or ("views", "variant") in decided:
        first += f":{views['variant']}"
    if isinstance(terms, list):
        method = "+".join(f"{term['name']}{bracket('method', index)}" for index, term in enumerate(terms))
    else:
        method = f"{terms['name']}{bracket('method')}"
    selection = selected(tree) + bracket("selection")
    parts = [first + bracket("views"), method + bracket("training") + selection]
    of_student = bracket("student")
    if of_student or any(path[:2] == ("student", "network") or path == ("student",) for path in decided):
        parts.append(domains.label(tree["student"]["network"]) + of_student)
    return "/".join(parts)


def _telling(trees: Sequence[Tree]) -> list[Texts]:
    """For each of some arms of the same components, the settings by which it is named."""
    settings = [dict(_settings(tree)) for tree in trees]
    paths = dict.fromkeys(path for of_arm in settings for path in of_arm)
    differing: dict[KeyPath, list[str]] = {}
    for path in paths:
        texts = _value_texts([of_arm.get(path) for of_arm in settings])
        if len(set(texts)) > 1:
            differing[path] = [f"{_key(path)}={text}" if text else "" for text in texts]
    taken: list[Texts] = [{} for _ in trees]
    letters = [0] * len(trees)
    for path in sorted(differing, key=lambda path: (max(map(len, differing[path])), path[:1] != ("views",))):
        longer = [count + len(text) for count, text in zip(letters, differing[path], strict=True)]
        apart = len({tuple(of_arm.values()) for of_arm in taken}) == len(trees)
        if apart and max(longer) > BRACKET_LETTERS:
            break
        letters = longer
        for of_arm, text in zip(taken, differing[path], strict=True):
            if text:
                of_arm[path] = text
    return taken


def _settings(tree: Tree) -> Iterator[tuple[KeyPath, Any]]:
    """Every setting that no name of a component says, with its path; of training, the augmentation."""
    for section in (section for section in ("views", "method", "selection", "student") if tree.get(section)):
        for path, value in _leaves(tree[section], (section,)):
            if path[-1] != "name" and path != ("student", "network"):
                yield path, value
    training = tree.get("training")
    if isinstance(training, Mapping) and "augmentation" in training:
        yield from _leaves(training["augmentation"], ("training", "augmentation"))


def _leaves(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(node, Mapping):
        for key, item in node.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        for index, item in enumerate(node):
            yield from _leaves(item, (*path, index))
    else:
        yield path, node


def _key(path: KeyPath) -> str:
    """The path inside its component: `direction`, `noise.kind`."""
    inside = path[1:]
    if path[:2] == ("student", "network") or (path[0] == "method" and isinstance(path[1], int)):
        inside = path[2:]
    return ".".join(map(str, inside))


_ABSENT = ""


def _value_texts(values: Sequence[Any]) -> list[str]:
    """A text for each value, different where the values are: as short as that allows; None has none."""
    forms = [[_ABSENT if value is None else form(value) for value in values] for form in (_cut, _short, _whole)]
    most = max(len(set(texts)) for texts in forms)
    return next(texts for texts in forms if len(set(texts)) == most)


def _whole(value: Any) -> str:
    if isinstance(value, Range):
        step = "" if value.step is None else f", {value.step}"
        return f"{value.kind}({value.low}, {value.high}{step})"
    return domains.label(value)


def _short(value: Any) -> str:
    if isinstance(value, Range):
        return f"{value.low}..{value.high}"
    return "|".join(value.labels) if isinstance(value, Choice) else domains.label(value)


def _cut(value: Any) -> str:
    text = _short(value)
    half = (VALUE_LETTERS - 1) // 2
    return text if len(text) <= VALUE_LETTERS else f"{text[:half]}…{text[-half:]}"
