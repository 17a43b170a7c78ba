"""The checkpoints that a study names, looked at before any data is read: what can never be loaded is refused there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from akdtune import networks
from akdtune.errors import CheckpointError, Problem, SettingsError
from akdtune.registry import lookup, network_name
from akdtune.settings.checkpoint import CheckpointFile, checkpoint_file
from akdtune.settings.file import written
from akdtune.signals import InputSpec
from akdtune.study.spec import Study
from akdtune.teacher import plain_files
from akdtune.teacher.checkpoints import fits
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.state_dicts import Wanted

_SHAPES = (InputSpec(3, 32, 10), InputSpec(1, 64, 20)), (InputSpec(3, 224, 10), InputSpec(1, 256, 20))
"""Images of any two data sets: what has one shape for both has it for all. The second pair is for large images."""


def is_missing(path: str) -> bool:
    """Whether there is no such file."""
    return plain_files.no_file(Path(path)) == plain_files.MISSING


def missing_students(study: Study) -> list[str]:
    """Files that students are to begin with and that are not there."""
    return [path for path in dict.fromkeys(file.path for file, _ in _students(study)) if is_missing(path)]


def check_checkpoints(study: Study, *, missing: bool) -> None:
    """Refuses files that cannot be checkpoints of the networks that a study names, whatever its data.

    Args:
        study: checked settings.
        missing: whether files that are not there are refused as well.

    Raises:
        SettingsError: with every such file, by key path.
    """
    problems: dict[Problem, None] = {}
    named: list[tuple[str, CheckpointFile, Any, bool]] = [
        (written(("teacher", *path, "checkpoint")), teacher.imported, teacher.network, False)
        for path, teacher in study.teacher.with_paths()
        if teacher.imported is not None
    ]
    named += [("student.checkpoint", file, network, True) for file, network in _students(study)]
    classes = lookup("data", study.data.name).class_count(study.data) if named else None
    for key, file, network, begins in named:
        if not missing and is_missing(file.path):
            continue
        try:
            fits(file, _wanted(network, classes, begins))
        except CheckpointError as error:
            problems[Problem(key, str(error), None, study.source)] = None
    if problems:
        raise SettingsError(problems)


def reading_lines(teachers: Iterable[TeacherFile | None], students: Mapping[str, str]) -> list[str]:
    """How imported weights were read where that is not plain, a line for each file."""
    files = [file for teacher in teachers if teacher is not None for file in (teacher, *teacher.others)]
    notes = {file.checkpoint.label: file.note for file in files if file.note} | dict(students)
    return [f"checkpoint {label}: {note}" for label, note in notes.items()]


def _students(study: Study) -> list[tuple[CheckpointFile, Any]]:
    """Each file that students begin with, and their network."""
    corners = [corner["student"] for corner in study.configurations if corner["student"].get("checkpoint")]
    distinct = {json.dumps([corner["checkpoint"], corner["network"]]): corner for corner in corners}
    return [(checkpoint_file(corner["checkpoint"]), corner["network"]) for corner in distinct.values()]


def _wanted(network: str | dict[str, Any], classes: int | None, begins: bool) -> Wanted:
    """What a network asks of a file, as far as it does not depend on the data."""
    name = network_name(network)
    title = name if classes is None else f"{name} for {classes} classes"
    for pair in _SHAPES:
        built = [_built(network, inputs, classes) for inputs in pair]
        if known := [one for one in built if one is not None]:
            first, last = known[0].state_dict(), known[-1].state_dict()
            if first.keys() != last.keys():
                break
            shapes = {key: tuple(first[key].shape) for key in first}
            same = {
                key: shape if len(known) > 1 and shape == tuple(last[key].shape) else None
                for key, shape in shapes.items()
            }
            return Wanted.by(title, same, _last_layer(known[0]) if begins else frozenset())
    return Wanted.anything(title)


def _built(network: str | dict[str, Any], inputs: InputSpec, classes: int | None) -> networks.Network | None:
    """A network to take shapes from; None where its code does not take such images.

    One of another library, which may be large, is built without values. That takes torch seconds to learn, which only
    such a library's own import has spent already.
    """
    device = torch.device("meta" if "/" in network_name(network) else "cpu")
    spec = InputSpec(inputs.channels, inputs.size, classes or inputs.num_classes)
    try:
        with device:
            return networks.build(network, spec, 0)
    except Exception:  # a plug-in's own code, or images it does not take: it is built once the data is there
        return None


def _last_layer(network: networks.Network) -> frozenset[str]:
    last = network.classifier()
    named = network.named_parameters()
    return frozenset(name for name, parameter in named if any(parameter is tensor for tensor in last))
