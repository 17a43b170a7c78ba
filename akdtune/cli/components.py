"""What is there to choose from: methods, views, selections, networks, data sets, described out of the code itself."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from akdtune import signals as akdtune_signals
from akdtune.cli import data_sets
from akdtune.cli.setting_rows import setting_rows, shown
from akdtune.errors import AkdtuneError
from akdtune.registry import Component, Kind, Pair, families, lookup, names

SINGULAR: dict[Kind, str] = {
    "methods": "method", "views": "views", "networks": "network", "data": "data set", "selections": "selection",
}  # fmt: skip

PROMPT = ">>> "
"""What each line of an example in a docstring begins with."""

PAIRS = [
    *(
        Pair("cifar100", teacher, student)
        for teacher, student in (
            ("wrn_40_2", "wrn_16_2"),
            ("wrn_40_2", "wrn_40_1"),
            ("resnet56", "resnet20"),
            ("resnet110", "resnet20"),
            ("resnet110", "resnet32"),
            ("resnet32x4", "resnet8x4"),
            ("vgg13", "vgg8"),
            ("vgg13", "MobileNetV2"),
            ("ResNet50", "MobileNetV2"),
            ("ResNet50", "vgg8"),
            ("resnet32x4", "ShuffleV1"),
            ("resnet32x4", "ShuffleV2"),
            ("wrn_40_2", "ShuffleV1"),
        )
    ),
    Pair("imagenet", "torchvision_resnet34", "torchvision_resnet18"),
    Pair("imagenet", "torchvision_resnet50", "torchvision_mobilenet_v2"),
]
"""The pairs of networks that published tables use, or (ResNet-50 to MobileNetV2 on ImageNet) come nearest to."""


class ComponentRow(NamedTuple):
    """One line of a list: name, what it is, its paper, and what it reads or offers."""

    name: str
    about: str
    source: str
    signals: str


def rows(kind: Kind, pattern: str = "*", only: Sequence[str] | None = None) -> list[ComponentRow]:
    """The registered components of a kind whose names match a pattern, sorted by name.

    Args:
        kind: methods, views, selections, networks or data.
        pattern: with `*`, `?` and `[...]` as in a shell, whatever the case.
        only: names to choose from; None: all.

    Raises:
        AkdtuneError: where nothing matches, with what there is.
    """
    if only is not None and (pattern == "*" or not only):
        return [_row(kind, name) for name in sorted(only, key=_natural)]
    family, slash, _ = pattern.partition("/")
    if slash and family in families(kind):
        return _of_family(kind, family, pattern)
    known = sorted(names(kind) if only is None else only, key=_natural)
    matching = [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
    if not matching:
        raise AkdtuneError(f"no {kind} match '{pattern}' (there are: {', '.join(known)})")
    whole = [_of_other_library(kind, other) for other in families(kind) if pattern == "*"]
    return [*(_row(kind, name) for name in matching), *whole]


def _of_family(kind: Kind, family: str, pattern: str) -> list[ComponentRow]:
    """The names of another library that match a pattern, without what each of them is."""
    known = [f"{family}/{name}" for name in families(kind)[family].names()]
    matching = [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
    if not matching:
        raise AkdtuneError(f"no {kind} match '{pattern}' (there are {len(known)}, `akdtune {kind} '{family}/*'`)")
    return [ComponentRow(name, "", "", "") for name in sorted(matching, key=_natural)]


def _of_other_library(kind: Kind, family: str) -> ComponentRow:
    """The line that stands for all names of another library."""
    about = (
        f"any {SINGULAR[kind]} of {family} by its name there (pip install {family}; list: akdtune {kind} '{family}/*')"
    )
    return ComponentRow(f"{family}/NAME", about, families(kind)[family].source, "differs by name")


def is_pattern(name: str) -> bool:
    """Whether a name has wildcards."""
    return any(wildcard in name for wildcard in "*?[")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `resnet8` before `resnet14`, whatever the case."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name.lower())]


def _row(kind: Kind, name: str) -> ComponentRow:
    component = lookup(kind, name)
    about = (inspect.getdoc(component) or "").partition("\n")[0].rstrip(".")
    return ComponentRow(name, about, component.source, signals(kind, component))


def signals(kind: Kind, component: Any) -> str:
    """What a component reads (methods, views, selections) or offers (networks); empty for data sets."""
    if kind == "methods":
        reads = {
            "logits": "logits",
            "pooled": "pooled feature",
            "stages": "teacher's maps",
            "self": "student only, no teacher",
        }[component.consumes]
        needs = sorted(component.needs)
        return f"{reads}; needs {', '.join(needs)}" if needs else reads
    if kind == "views":
        extra = (["the student's feature"] if component.needs_student else []) + (
            ["teacher.others"] if component.needs_others else []
        )
        extra = ["clients (task federated)"] if component.of_clients else extra
        offers = f"offers {', '.join(sorted(component.offers))}"
        return f"{offers}; needs {' and '.join(extra)}" if extra else offers
    if kind == "selections":
        read = {"teacher's logits": component.needs_teacher, "teacher.others": component.needs_others}
        read["labels"] = component.reads_labels
        return ", ".join(what for what, is_read in read.items() if is_read) or "nothing"
    return (", ".join(sorted(component.offers)) or "no maps") if kind == "networks" else ""


def details(kind: Kind, name: str) -> str:
    """Everything about one component: text of its docstring, source, signals, settings, published values.

    Raises:
        AkdtuneError: for an unknown name, with the nearest valid one.
    """
    component: type[Component] = lookup(kind, name)
    lines = [f"{SINGULAR[kind]} {name}", "", *described(component), ""]
    if component.source:
        lines.append(f"Source: {component.source}")
    if said := signals(kind, component):
        lines.append(f"Signals: {said}")
    if kind == "methods":
        lines.append(f"Weight of the student's cross-entropy beside it: {getattr(component, 'default_ce_weight'):g}")
    lines += ["", *settings_lines(kind, component)]
    if kind == "methods":
        lines += _published(component)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def described(component: type[Component]) -> Iterator[str]:
    """The lines of a component's docstring; its example begins with the imports it needs, so that it can be pasted."""
    for line in (inspect.getdoc(component) or "").splitlines():
        yield line
        if line == "Example:":
            yield from (f"    {PROMPT}{needed}" for needed in _imports(component))


def _imports(component: type[Component]) -> Iterator[str]:
    """What the lines of a component's example need to run: torch, the class, and the signals that they name."""
    words = set(re.findall(r"\w+", "\n".join(example(component))))
    if "torch" in words:
        yield "import torch"
    yield f"from {component.__module__} import {component.__name__}"
    classes = inspect.getmembers(akdtune_signals, inspect.isclass)
    own = {name for name, kind in classes if kind.__module__ == akdtune_signals.__name__}
    if named := sorted(own & words):
        yield f"from {akdtune_signals.__name__} import {', '.join(named)}"


def example(component: type[Component]) -> list[str]:
    """The lines of code of the example in a component's docstring, without imports; empty where it has none."""
    lines = (line.strip() for line in (inspect.getdoc(component) or "").splitlines())
    return [line.removeprefix(PROMPT) for line in lines if line.startswith(PROMPT)]


def settings_lines(kind: Kind, component: type[Component]) -> Iterator[str]:
    """The settings with defaults, allowed values and descriptions, then the presets of a `variant`."""
    if kind == "data":
        yield from data_sets.settings_lines(component)
        return
    schema = component.Settings.model_json_schema()
    properties: Mapping[str, Any] = schema.get("properties", {})
    if not properties:
        yield "Settings: none"
        return
    yield "Settings:"
    yield from setting_rows(properties, schema)
    presets: Mapping[str, Mapping[str, Any]] = getattr(component.Settings, "presets", {})
    for variant, values in presets.items():
        yield ""
        yield f"variant {variant}:"
        yield "  " + ", ".join(f"{key}: {shown(value)}" for key, value in values.items())


def _published(component: Any) -> Iterator[str]:
    """Where a data set or a pair of networks has settings of its own."""
    lines = []
    for pair in PAIRS:
        values = {key: shown(value) for key, value in component.published(pair).items()}
        if component.ce_weight(pair) != component.default_ce_weight:
            values["training.ce_weight"] = shown(component.ce_weight(pair))
        if values:
            listed = ", ".join(f"{key} {value}" for key, value in values.items())
            lines.append(f"  {component.published_for(pair)}: {listed}")
    if lines:
        yield ""
        yield "Published for a pair of networks, taken where the setting is not given (imagenet's numbers on imagenet,"
        yield "cifar100's on every other data set):"
        yield from lines
