"""Frozen teachers, found by content or read from published checkpoints.

An `auto` teacher lies in the cache folder under a hash of everything its weights depend on, so that every study with
the same network, data, recipe and seed shares it. A study may have further teachers beside its main one.

Shapes: N images, K classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from akdtune import atomic, networks
from akdtune.data.row_sets import RowDataSet, RowSplit
from akdtune.errors import CheckpointError
from akdtune.folders import cache_directory
from akdtune.networks import Network
from akdtune.registry import lookup, network_name, typed
from akdtune.roles import TrainOn
from akdtune.settings.checkpoint import CheckpointFile
from akdtune.settings.teacher import PRETRAINED, RECIPE_SINCE, TeacherSettings
from akdtune.settings.training import Recipe
from akdtune.signals import Spec
from akdtune.teacher.checkpoints import load_checkpoint, load_noted, weights_hash
from akdtune.teacher.file import TeacherFile

FORMAT = 1
"""Part of every key: a change of how teachers are trained makes old ones unused, not wrong."""

_FIRST_RECIPE = frozenset("epochs batch_size lr milestones lr_decay momentum weight_decay".split())
"""Recipe settings that every key holds; later ones enter it only where they are not the default, so that teachers of
earlier versions stay found."""


def teacher_key(settings: TeacherSettings, dataset: RowDataSet, train_on: TrainOn) -> str:
    """Hash of all that an `auto` teacher's weights depend on; label noise is not in it, teachers see right labels.

    Its augmentation is part of the data's fingerprint, wherever it is set: a teacher of the same training is found.
    """
    recipe = settings.model_dump(include={*Recipe.model_fields, *RECIPE_SINCE})
    recipe = {
        name: value
        for name, value in recipe.items()
        if name in _FIRST_RECIPE or value != TeacherSettings.model_fields[name].get_default(call_default_factory=True)
    }
    facts: dict[str, Any] = {
        "format": FORMAT,
        "network": [network_name(settings.network), typed("networks", settings.network).model_dump()],
        "recipe": recipe | {"milestones": settings.resolved_milestones()},
        "seed": settings.seed,
        "data": dataset.under(settings.augmentation, "teacher.augmentation").fingerprint(train_on),
        "inputs": asdict(dataset.inputs),
        "train_on": train_on,
    }
    if brought := _brought(settings):
        facts["brought"] = brought
    if settings.distilled_from:
        facts["distilled_from"] = [_source(source, dataset, train_on) for source in settings.distilled_from]
        facts["distillation"] = settings.distillation.model_dump() | {"drop": settings.dropped}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _source(settings: TeacherSettings, dataset: RowDataSet, train_on: TrainOn) -> str:
    """What stands in the key of a teacher that is distilled from this one: its key, or an imported one's weights."""
    if settings.checkpoint == "auto":
        return teacher_key(settings, dataset, train_on)
    return _find_imported(settings, dataset, train_on).weights_hash


def find_teacher(settings: TeacherSettings, dataset: RowDataSet, train_on: TrainOn) -> TeacherFile | None:
    """The teachers of these settings, None where an `auto` one is not trained yet.

    An imported checkpoint is always found; its accuracies are measured at the first call. Teachers that an `auto` one
    was distilled from are not needed any more once it is trained.

    Raises:
        CheckpointError: for a checkpoint path that does not exist or does not fit.
    """
    if settings.absent:
        return TeacherFile.none()
    main = find_alone(settings, dataset, train_on)
    files = [find_alone(other, dataset, train_on) for other in settings.others]
    others = tuple(other for other in files if other is not None)
    if main is None or len(others) < len(files):
        return None
    return replace(main, others=others, saw_validation=any(file.saw_validation for file in (main, *others)))


def find_alone(settings: TeacherSettings, dataset: RowDataSet, train_on: TrainOn) -> TeacherFile | None:
    """The teacher itself, whatever the others are."""
    if settings.checkpoint != "auto":
        return _find_imported(settings, dataset, train_on)
    folder = teacher_folder(teacher_key(settings, dataset, train_on))
    record = _read_json(folder / "teacher.json")
    if record is None or not (folder / "teacher.pt").exists():
        return None
    # The cache may have been moved since it was written; what an imported source has seen is declared anew.
    remedy = "delete it to have the teacher trained again"
    described = record.get("teacher")
    if not isinstance(described, dict):
        raise CheckpointError(f"{folder / 'teacher.json'}: damaged, teacher is missing; {remedy}")
    placed = described | {"path": str(folder / "teacher.pt")}
    file = TeacherFile.parse(placed, str(folder / "teacher.json"), remedy)
    saw_validation = settings.saw_validation(train_on)
    return replace(file, saw_validation=saw_validation, val_accuracy=None if saw_validation else file.val_accuracy)


def listed_teachers() -> list[dict[str, Any]]:
    """The finished `auto` teachers of the cache folder, newest first: teacher, settings, data, seconds, created."""
    files = (cache_directory() / "teachers").glob("*/teacher.json")
    records = [record for file in files if (record := _read_json(file)) is not None]
    whole = (record for record in records if record.keys() >= {"teacher", "settings", "data", "seconds", "created"})
    return sorted(whole, key=lambda record: float(record["created"]), reverse=True)


def load_teacher(file: TeacherFile, inputs: Spec, device: torch.device) -> Network:
    """The main teacher's network with its weights, in eval mode and without gradients.

    Raises:
        CheckpointError: for a file that is missing, does not fit the network, or holds other weights than recorded.
    """
    network = load_checkpoint(file.checkpoint, file.network, inputs, device)
    if (now := weights_hash(network)) != file.weights_hash:
        raise CheckpointError(f"{file.path}: holds other weights ({now}) than when it was found ({file.weights_hash})")
    return network


def load_others(file: TeacherFile, inputs: Spec, device: torch.device) -> tuple[Network, ...]:
    """The networks of the further teachers, as `load` gives the main one; empty where there are none.

    Raises:
        CheckpointError: as `load`.
    """
    return tuple(load_teacher(other, inputs, device) for other in file.others)


@torch.no_grad()
def evaluate(network: Network, split: RowSplit) -> float:
    """Accuracy on plain inputs in percent, in eval mode; the network's mode is as before afterwards."""
    was_training = network.training
    network.eval()
    right = 0
    with contextlib.closing(split.plain_batches(split.at_once)) as batches:
        for positions_R, inputs in batches:
            right += int((network(inputs).logits_BK.argmax(dim=1) == split.labels_N[positions_R]).sum())
    network.train(was_training)
    return right / len(split) * 100


def _find_imported(settings: TeacherSettings, dataset: RowDataSet, train_on: TrainOn) -> TeacherFile:
    checkpoint = _imported_from(settings, dataset.inputs)
    network, note = load_noted(checkpoint, settings.network, dataset.inputs, dataset.device)
    weights, saw_validation = weights_hash(network), not settings.clean_validation
    of_data = dataset.under(None, "").fingerprint(train_on)  # of plain images, whatever students see
    facts = [FORMAT, weights, network_name(settings.network), of_data, saw_validation]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    cached = cache_directory() / "teachers" / "imported" / f"{name}.json"
    measured = _read_json(cached)
    if measured is None or measured.keys() != {"val_accuracy", "test_accuracy"}:
        splits = dataset.split(train_on)
        hidden = saw_validation or splits.validation is None
        measured = {
            "val_accuracy": None if hidden or splits.validation is None else evaluate(network, splits.validation),
            "test_accuracy": evaluate(network, splits.test),
        }
        with cache_errors(cached.parent):
            cached.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(cached, json.dumps(measured), durable=True)
    return TeacherFile(
        path=checkpoint.path,
        key="",
        weights_hash=weights,
        network=settings.network,
        saw_validation=saw_validation,
        inside=checkpoint.key,
        strip=checkpoint.strip,
        note=note,
        **measured,
    )


def _imported_from(settings: TeacherSettings, inputs: Spec) -> CheckpointFile:
    """The file of a teacher that is not trained here, with its whole path."""
    file = settings.imported
    if file is None:
        return CheckpointFile(path=str(_pretrained(settings, inputs)))
    try:
        return file.model_copy(update={"path": str(Path(file.path).expanduser().resolve())})
    except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, no home: said where it is opened
        return file


def _brought(settings: TeacherSettings) -> list[str]:
    """Hash of the user's files that a network begins with, where there are any."""
    name = network_name(settings.network)
    brought = lookup("networks", name).brought(typed("networks", settings.network))
    return [brought] if brought else []


def _pretrained(settings: TeacherSettings, inputs: Spec) -> Path:
    """A file with the weights that the network itself brings, written once."""
    name, own = network_name(settings.network), typed("networks", settings.network)
    if not getattr(own, "weights", None):
        raise CheckpointError(
            f"teacher.checkpoint: {PRETRAINED} needs a network with weights of its own, "
            f"e.g. network: {{name: torchvision_resnet34, weights: IMAGENET1K_V1}}; got '{name}' without weights"
        )
    facts: list[Any] = [FORMAT, name, own.model_dump(mode="json"), asdict(inputs), *_brought(settings)]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_directory() / "teachers" / "imported" / f"{name}.pt"
    if not path.exists():
        buffer = io.BytesIO()
        torch.save({"model": networks.build(settings.network, inputs, seed=0).state_dict()}, buffer)
        with cache_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, buffer.getbuffer(), durable=True)
    return path


def teacher_folder(key: str) -> Path:
    """Where the `auto` teacher of a key lies in the cache folder."""
    return cache_directory() / "teachers" / key


def located(file: TeacherFile) -> TeacherFile:
    """The same teachers, each that is not where it was found in the cache folder of here, where it lies there."""
    others = tuple(located(other) for other in file.others)
    here = teacher_folder(file.key) / "teacher.pt"
    moved = bool(file.key) and not Path(file.path).exists() and here.exists()
    return replace(file, others=others, path=str(here) if moved else file.path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) else None


@contextlib.contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turns a failure to write to the cache into one message."""
    try:
        yield
    except OSError as error:
        message = f"cannot write the teacher to {folder} ({error}); AKDTUNE_CACHE names another cache folder"
        raise CheckpointError(message) from error
