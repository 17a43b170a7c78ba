"""Which tensors in a file are a network's weights: under which key they stand, and what their names begin with.

A set of tensors fits a network if, without one common beginning (`module.`, `student.`, any other or none), it has
every name that the network has, in the same shape, and no further one with that beginning. What does not begin so is
left aside, and said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from akdtune.errors import CheckpointError, unknown_name
from akdtune.settings.checkpoint import CheckpointFile

Tensors: TypeAlias = dict[str, Tensor]
Shape: TypeAlias = tuple[int, ...]

USUAL = ("", "model", "state_dict", "net", "student")
"""Where weights stand in our own files and in published ones: not worth a word."""

TOP = "."
"""As `checkpoint.key`: the weights that stand at the top of the file."""

_DEPTH = 8
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile and FSDP put into names, wherever a module was wrapped."""

_COUNTED = re.compile(r"(?:^|\.)total_(?:ops|params)$")
"""What the counter of FLOPs `thop` leaves in a network."""


@dataclass(frozen=True)
class Wanted:
    """What a network asks a file for.

    Attributes:
        network: what it is called in messages.
        shapes: of its tensors by name; None where any shape will do.
        spared: names that may be missing.
        may_differ: names that may be missing or of another shape, and are left out then.
        open: whether any names will do, as none are known.
    """

    network: str
    shapes: Mapping[str, Shape | None]
    spared: Set[str] = frozenset()
    may_differ: Set[str] = frozenset()
    open: bool = False

    @classmethod
    def anything(cls, network: str) -> Wanted:
        """Of a network whose tensors are not known yet."""
        return cls(network, {}, open=True)

    @classmethod
    def by(cls, network: str, shapes: Mapping[str, Shape | None], may_differ: Set[str] = frozenset()) -> Wanted:
        """Of a network with these tensors: batch counters may be missing, as in files from before torch 0.4.1."""
        counters = {name for name in shapes if name.endswith("num_batches_tracked")}
        return cls(network, shapes, counters | may_differ, may_differ)


@dataclass(frozen=True)
class Found:
    """Weights in a file, by the network's own names.

    Attributes:
        weights: by name.
        key: where they stand in the file, with dots; empty at the top.
        prefix: what their names in the file begin with.
        aside: further tensors that stand beside them.
    """

    weights: Tensors
    key: str
    prefix: str
    aside: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """What was taken for granted in reading them."""
        said = [f"weights under '{self.key}'"] if self.key not in USUAL else []
        said += [f"names without '{self.prefix}'"] if self.prefix else []
        if self.aside:
            said.append(f"{len(self.aside)} other tensor{'s' * (len(self.aside) > 1)} left aside: {some(self.aside)}")
        return said


def find_weights(held: Mapping[Any, Any], wanted: Wanted, file: CheckpointFile) -> Found:
    """The weights of a network in what a file holds.

    Raises:
        CheckpointError: where none fit, saying what differs; where several fit, naming them.
    """
    sets = weight_sets(held)
    if not sets:
        raise CheckpointError(f"{file.path}: {_without_weights(held)}")
    chosen = "" if file.key == TOP else file.key
    if chosen is not None:
        if chosen not in sets and not dict(_flat(_inside(held, chosen))):
            raise CheckpointError(f"{file.path}: {_no_such_key(chosen, sets)}")
        sets = {chosen: sets.get(chosen, {})}
    if wanted.open:
        return Found({}, chosen or "", "")
    attempts = [attempt for key, tensors in sets.items() for attempt in _attempts(key, tensors, wanted, file.strip)]
    if not any(attempt.fits for attempt in attempts):  # dictionaries in dictionaries, a level for each dot of a name
        attempts += _attempts(chosen or "", dict(_flat(_inside(held, chosen or ""))), wanted, file.strip)
    fitting = _distinct([attempt.found for attempt in attempts if attempt.fits])
    if not fitting:
        raise CheckpointError(f"{file.path}: {_misfit(attempts, sets, wanted, file.strip)}")
    if len(fitting) > 1 and None not in wanted.shapes.values():  # else further shapes may tell them apart
        raise CheckpointError(_ambiguous(fitting, wanted, file))
    return fitting[0]


# --------------------------------------------------------------------------------------------------- what a file holds


def weight_sets(held: Any) -> dict[str, Tensors]:
    """Every mapping with tensors by name in what a file holds, by its place there, such as `state_dict`."""
    sets: dict[str, Tensors] = {}
    seen: set[int] = set()

    def visit(node: Any, place: tuple[str, ...]) -> None:
        if id(node) in seen or len(place) > _DEPTH or not isinstance(node, Mapping | list | tuple):
            return
        seen.add(id(node))
        items = list(node.items()) if isinstance(node, Mapping) else list(enumerate(node))
        if isinstance(node, Mapping):
            tensors = {key: item for key, item in items if isinstance(key, str) and isinstance(item, Tensor)}
            if tensors:
                sets[".".join(place)] = tensors
        for key, item in items:
            visit(item, (*place, str(key)))

    visit(held, ())
    return sets


def _inside(held: Any, key: str) -> Any:
    """What stands at a place that `weight_sets` named."""
    if not key:
        return held
    for name, item in held.items() if isinstance(held, Mapping) else enumerate(held):
        if key == str(name):
            return item
        if key.startswith(f"{name}.") and isinstance(item, Mapping | list | tuple):
            found = _inside(item, key.removeprefix(f"{name}."))
            if found is not None:
                return found
    return None


def _flat(node: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """All tensors below a mapping, with the keys that lead to each as one name."""
    if isinstance(node, Tensor):
        yield ".".join(place), node
    elif isinstance(node, Mapping) and len(place) <= 2 * _DEPTH:
        for key, item in node.items():
            yield from _flat(item, (*place, str(key)))


def _without_weights(held: Mapping[Any, Any]) -> str:
    """Why nothing in a file can be weights, with what it holds."""
    if any(isinstance(item, Tensor) for item in held.values()):
        return f"no weights by name in it: its keys are {some([repr(key) for key in held])}"
    return f"no weights in it, it holds {some([repr(key) for key in held]) if held else 'nothing'}"


def _no_such_key(key: str, sets: Mapping[str, Tensors]) -> str:
    named = [place for place in sets if place]
    if not named:
        return f"checkpoint.key: nothing under '{key}': its tensors stand at the top, leave the key out"
    return f"checkpoint.key: {unknown_name('key', key, named[:12])}"


# ------------------------------------------------------------------------------------------------------- what would fit


@dataclass(frozen=True)
class _Attempt:
    """A set of tensors read with one beginning left out, and what is then wrong with it."""

    found: Found
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]
    known: int

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.shapes)


def _attempts(key: str, tensors: Tensors, wanted: Wanted, strip: str | None) -> list[_Attempt]:
    """A set read in every way that finds names of the network in it, the most names first."""
    if not any(_WRAPPED.search(name) for name in wanted.shapes):
        tensors = {_WRAPPED.sub("", name): tensor for name, tensor in tensors.items()}
    if strip is not None:
        given = _WRAPPED.sub("", strip)
        exact = any(name.startswith(given) and name.removeprefix(given) in wanted.shapes for name in tensors)
        prefixes = [given if exact or given.endswith(".") else f"{given}."]
    else:
        votes: Counter[str] = Counter()
        for name in tensors:
            for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
                if name[start:] in wanted.shapes:
                    votes[name[:start]] += 1
        prefixes = [prefix for prefix, _ in votes.most_common(16)]
    return [_attempt(key, tensors, prefix, wanted) for prefix in prefixes or [""]]


def _attempt(key: str, tensors: Tensors, prefix: str, wanted: Wanted) -> _Attempt:
    weights = {name.removeprefix(prefix): item for name, item in tensors.items() if name.startswith(prefix)}
    aside = [name for name in tensors if not name.startswith(prefix)]
    shapes = []
    for name in sorted(weights.keys() & wanted.shapes.keys()):
        is_shape, shape = _shape(weights[name]), wanted.shapes[name]
        if shape is None or is_shape == shape:
            continue
        if name in wanted.may_differ:
            del weights[name]
        else:
            shapes.append(f"{name} {list(is_shape)} instead of {list(shape)}")
    unexpected = [name for name in weights if name not in wanted.shapes]
    extra = [name for name in unexpected if _COUNTED.search(name) or (not prefix and _is_remark(name, weights[name]))]
    known = {name: weights[name] for name in weights if name in wanted.shapes}
    return _Attempt(
        found=Found(known, key, prefix, (*aside, *extra)),
        missing=[name for name in wanted.shapes if name not in weights and name not in wanted.spared],
        unexpected=[name for name in unexpected if name not in extra],
        shapes=shapes,
        known=len(known),
    )


def _is_remark(name: str, tensor: Tensor) -> bool:
    """Whether a tensor beside the weights is a number about them, such as `epoch` or `best_acc`."""
    return "." not in name and _shape(tensor) in ((), (1,))


def _shape(tensor: Tensor) -> Shape:
    """The shape, (-1,) for a nested tensor, which has none."""
    return (-1,) if tensor.is_nested else tuple(tensor.shape)


def _distinct(found: Sequence[Found]) -> list[Found]:
    """Without those that hold the same numbers as one before."""
    kept: list[Found] = []
    for one in found:
        if not any(_same(one.weights, other.weights) for other in kept):
            kept.append(one)
    return kept


def _same(one: Tensors, other: Tensors) -> bool:
    try:
        return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    except (RuntimeError, NotImplementedError):  # sparse, quantized or without values
        return all(tensor is other[name] for name, tensor in one.items())


# ------------------------------------------------------------------------------------------------------------- messages


def _misfit(attempts: Sequence[_Attempt], sets: Mapping[str, Tensors], wanted: Wanted, strip: str | None) -> str:
    """What keeps the set that comes nearest from fitting."""
    best = max(attempts, key=lambda attempt: (attempt.known - len(attempt.shapes), -len(attempt.unexpected)))
    parts = (("missing keys", best.missing), ("unexpected keys", best.unexpected), ("different shapes", best.shapes))
    said = [f"{what}: {some(entries)}" for what, entries in parts if entries]
    if best.found.prefix and best.known:
        said.append(f"read without the prefix '{best.found.prefix}', which explains {best.known} of its names")
    elif strip is not None:
        said.append(f"checkpoint.strip: no name that begins with '{strip}' fits")
    if not best.known:
        said = (
            [f"it holds: {some(list(sets[best.found.key]))}", f"and not: {some(best.missing)}"]
            if (best.found.key in sets and not strip)
            else said
        )
    where = f" (under '{best.found.key}')" if best.found.key and len(sets) > 1 else ""
    return f"not a checkpoint of {wanted.network}{where}; " + "; ".join(said)


def _ambiguous(fitting: Sequence[Found], wanted: Wanted, file: CheckpointFile) -> str:
    """Names the sets that fit, and how to say which is meant."""
    by_key = len({found.key for found in fitting}) == len(fitting)
    names = [f"'{found.key}'" if found.key else "the top of the file" for found in fitting]
    if not by_key:
        names = [f"'{found.prefix}'" + (f" under '{found.key}'" if found.key else "") for found in fitting]
    chosen = next(found for found in fitting if found.key or not by_key)
    more = {"key": chosen.key, "strip": chosen.prefix if not by_key else ""}
    said = "".join(f", {name}: {value}" for name, value in more.items() if value)
    return (
        f"{file.path}: several weights in it fit {wanted.network}: {', '.join(names[:6])}; say which, e.g. "
        f"checkpoint: {{path: {file.path}{said}}}"
    )


def some(entries: Sequence[str], most: int = 4, longest: int = 60) -> str:
    """A few of many names, shortened."""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entry if len(entry) <= longest else f"{entry[:longest]}..." for entry in entries[:most]) + more
