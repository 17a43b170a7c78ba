"""Frozen teachers: trained once and found again by content, or read from published checkpoints.

An `auto` teacher lies in the cache folder under a hash of everything its weights depend on, so that every study with
the same network, data, recipe and seed shares it. It may itself be distilled from larger teachers, and a study may
have further teachers beside its main one.

Shapes: N images, B batch, C, H, W image channels, height and width, K classes.

References:
    Chains: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant" (TAKD), AAAI 2020, arXiv
    1902.03393; Son et al., "Densely Guided Knowledge Distillation" (DGKD), ICCV 2021, arXiv 2009.08825.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.nn import functional

from akdtune import atomic, networks
from akdtune.checkpoints import load_checkpoint, load_plain, weights_hash
from akdtune.data import (
    DataSet,
    InputSpec,
    Loaded,
    Split,
    TrainOn,
    cache_directory,
)
from akdtune.errors import AkdtuneError, CheckpointError
from akdtune.frozen_teacher import FrozenTeacher
from akdtune.networks import Network
from akdtune.recipe import Recipe, derived_seed, set_learning_rate, sgd
from akdtune.registry import network_name, typed
from akdtune.signals import tempered
from akdtune.teacher_settings import PRETRAINED, DistillationSettings, TeacherFile, TeacherSettings

__all__ = [
    "DistillationSettings",
    "FrozenTeacher",
    "TeacherFile",
    "TeacherSettings",
    "distillation_loss",
    "evaluate",
    "find",
    "listed",
    "load",
    "load_others",
    "teacher_key",
    "train",
]

FORMAT = 1
"""Part of every key: a change of how teachers are trained makes old ones unused, not wrong."""

EVALUATION_BATCH = 256
PROGRESS_EVERY_S = 30

_FIRST_RECIPE = frozenset("epochs batch_size lr milestones lr_decay momentum weight_decay".split())
"""Recipe settings that every key holds; later ones enter it only where they are not the default, so that teachers of
earlier versions stay found."""


def teacher_key(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> str:
    """Hash of all that an `auto` teacher's weights depend on; label noise is not in it, teachers see right labels."""
    recipe = settings.model_dump(include=set(Recipe.model_fields))
    recipe = {
        name: value
        for name, value in recipe.items()
        if name in _FIRST_RECIPE or value != Recipe.model_fields[name].get_default(call_default_factory=True)
    }
    facts: dict[str, Any] = {
        "format": FORMAT,
        "network": [network_name(settings.network), typed("networks", settings.network).model_dump()],
        "recipe": recipe | {"milestones": settings.resolved_milestones()},
        "seed": settings.seed,
        "data": dataset.fingerprint(train_on),
        "inputs": asdict(dataset.inputs),
        "train_on": train_on,
    }
    if settings.distilled_from:
        facts["distilled_from"] = [_source(one, dataset, train_on) for one in settings.distilled_from]
        facts["distillation"] = settings.distillation.model_dump() | {"drop": settings.dropped}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _source(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> str:
    """What stands in the key of a teacher that is distilled from this one: its key, or an imported one's weights."""
    if settings.checkpoint == "auto":
        return teacher_key(settings, dataset, train_on)
    return _find_imported(settings, dataset, train_on).weights_hash


def find(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> TeacherFile | None:
    """The teachers of these settings, None where an `auto` one is not trained yet.

    An imported checkpoint is always found; its accuracies are measured at the first call. Teachers that an `auto` one
    was distilled from are not needed any more once it is trained.

    Raises:
        CheckpointError: for a checkpoint path that does not exist or does not fit.
    """
    if settings.absent:
        return TeacherFile.none()
    main = _find_one(settings, dataset, train_on)
    found = [_find_one(other, dataset, train_on) for other in settings.others]
    others = tuple(other for other in found if other is not None)
    if main is None or len(others) < len(found):
        return None
    return replace(main, others=others, saw_validation=any(one.saw_validation for one in (main, *others)))


def _find_one(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> TeacherFile | None:
    """The teacher itself, whatever the others are."""
    if settings.checkpoint != "auto":
        return _find_imported(settings, dataset, train_on)
    folder = _folder(teacher_key(settings, dataset, train_on))
    record = _read_json(folder / "teacher.json")
    if record is None or not (folder / "teacher.pt").exists():
        return None
    # The cache may have been moved since it was written; what an imported source has seen is declared anew.
    file = TeacherFile(**record["teacher"] | {"path": str(folder / "teacher.pt")})
    saw_validation = settings.saw_validation(train_on)
    return replace(file, saw_validation=saw_validation, val_accuracy=None if saw_validation else file.val_accuracy)


def listed() -> list[dict[str, Any]]:
    """The finished `auto` teachers of the cache folder, newest first: teacher, settings, data, seconds, created."""
    files = (cache_directory() / "teachers").glob("*/teacher.json")
    records = [record for file in files if (record := _read_json(file)) is not None]
    return sorted(records, key=lambda record: float(record["created"]), reverse=True)


def train(
    settings: TeacherSettings,
    dataset: DataSet,
    train_on: TrainOn,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """Trains whatever is missing, yielding plain JSON after each epoch: main teacher, others, and their chains.

    One network after the other, each after those that it is distilled from. Only one process trains a teacher at a
    time; the others wait and then find it. When `should_stop` (asked once per step) says so, the iterator ends without
    a last row; the next call goes on after the last finished epoch.

    Yields:
        epoch, epochs, loss, train_accuracy, lr, seconds, network (its name), number (counted from 1) and networks (how
        many are trained in this call); and last {"done": True, "teacher": a TeacherFile as dict}.

    Raises:
        AkdtuneError: when the loss is not finite, or the cache folder cannot be written.
    """
    missing = _missing(settings, dataset, train_on)
    for number, one in enumerate(missing, start=1):
        which = {"network": network_name(one.network), "number": number, "networks": len(missing)}
        finished = yield from _train_one(one, dataset, train_on, device, should_stop, which)
        if not finished:
            return
    found = find(settings, dataset, train_on)
    assert found is not None, "everything that was missing has been trained"
    yield {"done": True, "teacher": found.plain()}


def _missing(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> list[TeacherSettings]:
    """The teachers that have to be trained, each once and after those that it is distilled from."""
    found: dict[str, TeacherSettings] = {}

    def visit(one: TeacherSettings) -> None:
        if not one.absent and _find_one(one, dataset, train_on) is None:
            for source in one.distilled_from:
                visit(source)
            found.setdefault(teacher_key(one, dataset, train_on), one)

    for one in (settings, *settings.others):
        visit(one)
    return list(found.values())


def _train_one(
    settings: TeacherSettings,
    dataset: DataSet,
    train_on: TrainOn,
    device: torch.device,
    should_stop: Callable[[], bool],
    which: Mapping[str, Any],
) -> Generator[dict[str, Any], None, bool]:
    """Trains one network, or finds it after all; returns whether it is there now. Every row also holds `which`."""
    folder = _folder(teacher_key(settings, dataset, train_on))
    with _cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder / "train.lock"), thread_local=False)
        if not _acquired(lock, should_stop):
            return False
    try:
        if _find_one(settings, dataset, train_on) is None:
            training = _Training(settings, dataset, train_on, device, folder)
            for row in training.epochs(should_stop):
                yield {**row, **which}
            if training.epoch < settings.epochs:
                return False
            training.finish()
    finally:
        lock.release()
    return True


class _Training:
    """A teacher on its way, and its state on disk."""

    def __init__(
        self, settings: TeacherSettings, dataset: DataSet, train_on: TrainOn, device: torch.device, folder: Path
    ) -> None:
        self.settings, self.dataset, self.train_on, self.folder = settings, dataset, train_on, folder
        self.splits = dataset.split(train_on)
        self.teachers = self._load_teachers(device)
        init_seed = derived_seed("teacher", settings.seed, "init")
        self.network = networks.build(settings.network, dataset.inputs, init_seed).to(device)
        self.optimizer = sgd(self.network.parameters(), settings)
        self.epoch = 0
        self.seconds = 0.0
        self._resume()
        self._saved_at = time.monotonic()

    def _load_teachers(self, device: torch.device) -> FrozenTeacher | None:
        """Those that this one is distilled from."""
        found = [_find_one(one, self.dataset, self.train_on) for one in self.settings.distilled_from]
        loaded = [load(file, self.dataset.inputs, device) for file in found if file is not None]
        assert len(loaded) == len(found), "a teacher is trained after those that it is distilled from"
        if not loaded:
            return None
        train, augmentation = self.splits.train, self.dataset.augmentation
        return FrozenTeacher(loaded[0], train, augmentation, self.settings.epochs, loaded[1:])

    def epochs(self, should_stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Trains the epochs that remain; ends early, with the last finished epoch saved, when asked to stop."""
        last = self._state()
        while self.epoch < self.settings.epochs:
            started = time.monotonic()
            row = self._train_epoch(self.epoch + 1, should_stop)
            if row is None:
                if last["epoch"] > 0:
                    self._save("progress.pt", last)
                return
            self.epoch += 1
            self.seconds += time.monotonic() - started
            last = self._state()
            if time.monotonic() - self._saved_at > PROGRESS_EVERY_S:
                self._save("progress.pt", last)
                self._saved_at = time.monotonic()
            yield {"epoch": self.epoch, "epochs": self.settings.epochs, **row, "seconds": self.seconds}

    def _train_epoch(self, epoch: int, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        train = self.splits.train
        order_seed = derived_seed("teacher", self.settings.seed, "order")
        torch.manual_seed(derived_seed("teacher", self.settings.seed, "epoch", epoch))  # for dropout in the network
        draws = torch.Generator().manual_seed(derived_seed("teacher", self.settings.seed, "drop", epoch))
        set_learning_rate(self.optimizer, self.settings.learning_rate(epoch))
        sums, count = torch.zeros(2, dtype=torch.float64, device=train.labels_N.device), 0
        self.network.train()
        with contextlib.closing(train.epoch(order_seed, epoch, self.settings.batch_size)) as loading:
            for loaded in loading:
                if should_stop():
                    return None
                labels_B = train.labels_N[loaded.positions_B]
                logits_BK = self.network(loaded.images_BCHW).logits_BK
                loss = _label_loss(logits_BK, labels_B, loaded)
                if self.teachers is not None:
                    teachers = self.teachers.signals(loaded.positions_B, loaded.images_BCHW, loaded.crops_B)
                    loss = self._distilled(
                        loss, logits_BK, [one.logits_BK for one in (teachers, *teachers.others)], draws
                    )
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                right = (logits_BK.detach().argmax(dim=1) == labels_B).sum()
                sums += torch.stack([loss.detach().double() * len(labels_B), right.double()])
                count += len(labels_B)
        mean_loss, accuracy = (sums / count).tolist()
        if not math.isfinite(mean_loss):
            raise AkdtuneError(
                f"the teacher's loss is not finite in epoch {epoch}; lower teacher.lr (now {self.settings.lr})"
            )
        return {"loss": mean_loss, "train_accuracy": 100 * accuracy, "lr": self.settings.learning_rate(epoch)}

    def _distilled(self, loss: Tensor, logits_BK: Tensor, teachers: Sequence[Tensor], draws: torch.Generator) -> Tensor:
        """The cross-entropy mixed with what the teachers say, those that this batch leaves out excepted."""
        distillation = self.settings.distillation
        kept = torch.randperm(len(teachers), generator=draws)[self.settings.dropped :].tolist()
        divergence = distillation_loss(logits_BK, [teachers[index] for index in kept], distillation.temperature)
        return (1 - distillation.weight) * loss + distillation.weight * divergence

    def finish(self) -> None:
        """Measures the trained network and writes it: the weights first, then the record that makes it count."""
        validation = self.splits.validation
        file = TeacherFile(
            path=str(self.folder / "teacher.pt"),
            key=self.folder.name,
            weights_hash=weights_hash(self.network),
            network=self.settings.network,
            val_accuracy=None if validation is None else evaluate(self.network, validation),
            test_accuracy=evaluate(self.network, self.splits.test),
            saw_validation=self.settings.saw_validation(self.train_on),
        )
        self._save("teacher.pt", {"model": self.network.state_dict(), "network": self.settings.network})
        record = {
            "teacher": {key: value for key, value in file.plain().items() if key != "others"},
            "settings": self.settings.model_dump(mode="json"),
            "data": self.dataset.settings.model_dump(mode="json"),
            "train_on": self.train_on,
            "seconds": self.seconds,
            "created": time.time(),
        }
        with _cache_errors(self.folder):
            atomic.write(self.folder / "teacher.json", json.dumps(record), durable=True)
            (self.folder / "progress.pt").unlink(missing_ok=True)

    def _state(self) -> dict[str, Any]:
        state = {"model": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(state) | {"epoch": self.epoch, "seconds": self.seconds}

    def _resume(self) -> None:
        path = self.folder / "progress.pt"
        if not path.exists():
            return
        try:
            state = load_plain(path)
        except CheckpointError:
            return  # damaged on disk: training starts again and writes a new one
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]

    def _save(self, name: str, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError without a cause, a plain write does not
        torch.save(state, buffer)
        with _cache_errors(self.folder):
            atomic.write(self.folder / name, buffer.getbuffer(), durable=True)


def _label_loss(logits_BK: Tensor, labels_B: Tensor, loaded: Loaded) -> Tensor:
    """Mean cross-entropy with the labels; with mixed images, each label by its share."""
    own = functional.cross_entropy(logits_BK, labels_B)
    if loaded.partner_B is None:
        return own
    return torch.lerp(functional.cross_entropy(logits_BK, labels_B[loaded.partner_B]), own, loaded.share)


def distillation_loss(logits_BK: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Temperature squared times the sum over teachers of KL(teacher || network), mean over the batch: a scalar.

    Args:
        logits_BK: of the network that learns.
        teachers: logits of each teacher, [B, K].
        temperature: of the softmax of both sides.
    """
    log_p_BK = torch.log_softmax(tempered(logits_BK, temperature), dim=-1)
    log_teachers = [torch.log_softmax(tempered(teacher_BK, temperature), dim=-1) for teacher_BK in teachers]
    parts = [functional.kl_div(log_p_BK, log_BK, reduction="batchmean", log_target=True) for log_BK in log_teachers]
    return temperature**2 * torch.stack(parts).sum()


def load(file: TeacherFile, inputs: InputSpec, device: torch.device) -> Network:
    """The main teacher's network with its weights, in eval mode and without gradients.

    Raises:
        CheckpointError: for a file that is missing, does not fit the network, or holds other weights than recorded.
    """
    network = load_checkpoint(file.path, file.network, inputs, device)
    if (now := weights_hash(network)) != file.weights_hash:
        raise CheckpointError(f"{file.path}: holds other weights ({now}) than when it was found ({file.weights_hash})")
    return network


def load_others(file: TeacherFile, inputs: InputSpec, device: torch.device) -> tuple[Network, ...]:
    """The networks of the further teachers, as `load` gives the main one; empty where there are none.

    Raises:
        CheckpointError: as `load`.
    """
    return tuple(load(other, inputs, device) for other in file.others)


def evaluate(network: Network, split: Split, batch_size: int = EVALUATION_BATCH) -> float:
    """Accuracy on plain images in percent, in eval mode; the network's mode is as before afterwards."""
    was_training = network.training
    network.eval()
    logits_NK = networks.predict(network, split, batch_size)
    network.train(was_training)
    return float((logits_NK.argmax(dim=1) == split.labels_N).double().mean() * 100)


def _find_imported(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> TeacherFile:
    if settings.checkpoint == PRETRAINED:
        path = _pretrained(settings, dataset.inputs)
    else:
        path = Path(settings.checkpoint).expanduser().resolve()
    network = load_checkpoint(path, settings.network, dataset.inputs, dataset.device)
    weights, saw_validation = weights_hash(network), not settings.clean_validation
    facts = [FORMAT, weights, network_name(settings.network), dataset.fingerprint(train_on), saw_validation]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    cached = cache_directory() / "teachers" / "imported" / f"{name}.json"
    measured = _read_json(cached)
    if measured is None:
        splits = dataset.split(train_on)
        hidden = saw_validation or splits.validation is None
        measured = {
            "val_accuracy": None if hidden or splits.validation is None else evaluate(network, splits.validation),
            "test_accuracy": evaluate(network, splits.test),
        }
        with _cache_errors(cached.parent):
            cached.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(cached, json.dumps(measured), durable=True)
    return TeacherFile(str(path), "", weights, settings.network, saw_validation=saw_validation, **measured)


def _pretrained(settings: TeacherSettings, inputs: InputSpec) -> Path:
    """A file with the weights that the network itself brings, written once."""
    own = typed("networks", settings.network)
    if not getattr(own, "weights", None):
        name = network_name(settings.network)
        raise CheckpointError(
            f"teacher.checkpoint: {PRETRAINED} needs a network with weights of its own, "
            f"e.g. network: {{name: torchvision_resnet34, weights: IMAGENET1K_V1}}; got '{name}' without weights"
        )
    facts = [FORMAT, network_name(settings.network), own.model_dump(mode="json"), asdict(inputs)]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_directory() / "teachers" / "imported" / f"{name}.pt"
    if not path.exists():
        buffer = io.BytesIO()
        torch.save({"model": networks.build(settings.network, inputs, seed=0).state_dict()}, buffer)
        with _cache_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(path, buffer.getbuffer(), durable=True)
    return path


def _folder(key: str) -> Path:
    return cache_directory() / "teachers" / key


def _acquired(lock: FileLock, should_stop: Callable[[], bool]) -> bool:
    """Waits for the lock; False when asked to stop before it is free."""
    while True:
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            if should_stop():
                return False
        else:
            return True


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held


@contextlib.contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Turns a failure to write to the cache into one message."""
    try:
        yield
    except OSError as error:
        message = f"cannot write the teacher to {folder} ({error}); AKDTUNE_CACHE names another cache folder"
        raise CheckpointError(message) from error
