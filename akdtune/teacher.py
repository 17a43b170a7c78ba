"""Frozen teachers: trained once and found again by content, or read from published checkpoints.

An `auto` teacher lies in the cache folder under a hash of everything its weights depend on, so that every study with
the same network, data, recipe and seed shares it.

Shapes: N images, B batch, R rows of the table (image and crop), C feature width, K classes.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import Field
from torch import Tensor

from akdtune import networks
from akdtune.checkpoints import load_checkpoint, load_plain, weights_hash
from akdtune.data import (
    Augmentation,
    Crops,
    DataSet,
    InputSpec,
    Split,
    TrainOn,
    cache_directory,
    crops,
    epoch_order,
    variant_crops,
)
from akdtune.errors import AkdtuneError, CheckpointError
from akdtune.networks import Network
from akdtune.recipe import Recipe, derived_seed, set_learning_rate, sgd
from akdtune.signals import Signals

FORMAT = 1
"""Part of every key: a change of how teachers are trained makes old ones unused, not wrong."""

EVALUATION_BATCH = 256
PROGRESS_EVERY_S = 30
TABLE_LIMIT_MIB = 64


class TeacherSettings(Recipe):
    """Which network teaches, and how it comes to its weights."""

    network: str | dict[str, Any] = Field(description="a registered network, or {name: ..., its settings}")
    checkpoint: str = Field("auto", description="auto: train once and re-use; else a file of ours or a published one")
    seed: int = Field(0, description="of the weights, batches and crops")
    clean_validation: bool = Field(
        False, description="declares that an imported checkpoint has not seen our validation images"
    )


@dataclass(frozen=True)
class TeacherFile:
    """A teacher that is ready to be loaded; plain JSON by `dataclasses.asdict`.

    Attributes:
        path: the checkpoint.
        key: what an `auto` teacher is found by; empty for an imported one.
        weights_hash: of the weights themselves.
        network: the `network` setting it belongs to.
        val_accuracy: percent; None where it has trained on the validation images or there are none.
        test_accuracy: percent.
        saw_validation: whether our validation images may have been among its training images.
    """

    path: str
    key: str
    weights_hash: str
    network: str | dict[str, Any]
    val_accuracy: float | None
    test_accuracy: float | None
    saw_validation: bool

    @classmethod
    def untrained(cls, settings: TeacherSettings) -> TeacherFile:
        """A stand-in without weights, for plans made before the teacher exists."""
        return cls("", "", "untrained", settings.network, None, None, settings.checkpoint != "auto")


def teacher_key(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> str:
    """Hash of all that an `auto` teacher's weights depend on; label noise is not in it, teachers see right labels."""
    facts = {
        "format": FORMAT,
        "network": [networks.network_name(settings.network), networks.network_settings(settings.network).model_dump()],
        "recipe": settings.model_dump(include=set(Recipe.model_fields))
        | {"milestones": settings.resolved_milestones()},
        "seed": settings.seed,
        "data": dataset.fingerprint(train_on),
        "inputs": asdict(dataset.inputs),
        "train_on": train_on,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def find(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> TeacherFile | None:
    """The teacher of these settings, None where an `auto` one is not trained yet.

    An imported checkpoint is always found; its accuracies are measured at the first call.

    Raises:
        CheckpointError: for a checkpoint path that does not exist or does not fit.
    """
    if settings.checkpoint != "auto":
        return _find_imported(settings, dataset, train_on)
    folder = _folder(teacher_key(settings, dataset, train_on))
    record = _read_json(folder / "teacher.json")
    if record is None or not (folder / "teacher.pt").exists():
        return None
    # The cache may have been moved since it was written.
    return TeacherFile(**record["teacher"] | {"path": str(folder / "teacher.pt")})


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
    """Trains an `auto` teacher, or finds it, yielding plain JSON after each epoch.

    Only one process trains a teacher at a time; the others wait and then find it. When `should_stop` (asked once per
    step) says so, the iterator ends without a last row; the next call goes on after the last finished epoch.

    Yields:
        epoch, epochs, loss, train_accuracy, lr, seconds; and last {"done": True, "teacher": a TeacherFile as dict}.

    Raises:
        AkdtuneError: when the loss is not finite, or the cache folder cannot be written.
    """
    if (found := find(settings, dataset, train_on)) is None:
        folder = _folder(teacher_key(settings, dataset, train_on))
        with _cache_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(folder / "train.lock"), thread_local=False)
            if not _acquired(lock, should_stop):
                return
        try:
            if (found := find(settings, dataset, train_on)) is None:
                training = _Training(settings, dataset, train_on, device, folder)
                yield from training.epochs(should_stop)
                if training.epoch < settings.epochs:
                    return
                found = training.finish()
        finally:
            lock.release()
    yield {"done": True, "teacher": asdict(found)}


class _Training:
    """A teacher on its way, and its state on disk."""

    def __init__(
        self, settings: TeacherSettings, dataset: DataSet, train_on: TrainOn, device: torch.device, folder: Path
    ) -> None:
        self.settings, self.dataset, self.train_on, self.folder = settings, dataset, train_on, folder
        self.splits = dataset.split(train_on)
        init_seed = derived_seed("teacher", settings.seed, "init")
        self.network = networks.build(settings.network, dataset.inputs, init_seed).to(device)
        self.optimizer = sgd(self.network.parameters(), settings)
        self.epoch = 0
        self.seconds = 0.0
        self._resume()
        self._saved_at = time.monotonic()

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
        train, batch_size = self.splits.train, self.settings.batch_size
        order_seed = derived_seed("teacher", self.settings.seed, "order")
        torch.manual_seed(derived_seed("teacher", self.settings.seed, "epoch", epoch))  # for dropout in the network
        set_learning_rate(self.optimizer, self.settings.learning_rate(epoch))
        drawn_N = crops(order_seed, epoch, train.sample_ids_N, self.dataset.augmentation)
        sums, count = torch.zeros(2, dtype=torch.float64, device=train.labels_N.device), 0
        self.network.train()
        for positions_B in torch.split(epoch_order(order_seed, epoch, train.sample_ids_N), batch_size):
            if should_stop():
                return None
            if len(positions_B) < 2:
                continue  # batch statistics of one image do not exist
            images_BCHW = train.images(positions_B, Crops(*(part_N[positions_B] for part_N in drawn_N)))
            labels_B = train.labels_N[positions_B]
            logits_BK = self.network(images_BCHW).logits_BK
            loss = torch.nn.functional.cross_entropy(logits_BK, labels_B)
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

    def finish(self) -> TeacherFile:
        """Measures the trained network and writes it: the weights first, then the record that makes it count."""
        validation = self.splits.validation
        file = TeacherFile(
            path=str(self.folder / "teacher.pt"),
            key=self.folder.name,
            weights_hash=weights_hash(self.network),
            network=self.settings.network,
            val_accuracy=None if validation is None else evaluate(self.network, validation),
            test_accuracy=evaluate(self.network, self.splits.test),
            saw_validation=self.train_on == "full",
        )
        self._save("teacher.pt", {"model": self.network.state_dict(), "network": self.settings.network})
        record = {
            "teacher": asdict(file),
            "settings": self.settings.model_dump(mode="json"),
            "data": self.dataset.settings.model_dump(mode="json"),
            "train_on": self.train_on,
            "seconds": self.seconds,
            "created": time.time(),
        }
        with _cache_errors(self.folder):
            _write(self.folder / "teacher.json", json.dumps(record).encode())
            (self.folder / "progress.pt").unlink(missing_ok=True)
        return file

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
            _write(self.folder / name, buffer.getbuffer())


def load(file: TeacherFile, inputs: InputSpec, device: torch.device) -> Network:
    """The teacher's network with its weights, in eval mode and without gradients.

    Raises:
        CheckpointError: for a file that is missing, does not fit the network, or holds other weights than recorded.
    """
    network = load_checkpoint(file.path, file.network, inputs, device)
    if (now := weights_hash(network)) != file.weights_hash:
        raise CheckpointError(f"{file.path}: holds other weights ({now}) than when it was found ({file.weights_hash})")
    return network


def evaluate(network: Network, split: Split, batch_size: int = EVALUATION_BATCH) -> float:
    """Accuracy on plain images in percent, in eval mode; the network's mode is as before afterwards."""
    was_training = network.training
    network.eval()
    logits_NK = networks.predict(network, split, batch_size)
    network.train(was_training)
    return float((logits_NK.argmax(dim=1) == split.labels_N).double().mean() * 100)


class FrozenTeacher:
    """A teacher's signals for training batches, computed once per image and crop where that is cheaper.

    A frozen teacher in eval mode is a pure function of image and crop. When there are fewer crops than epochs and the
    numbers fit in memory, all are computed at the first call, in batches of one fixed size, so that an image and crop
    have the same numbers to the last bit whoever asks. Stage maps are never kept: they come live.

    Args:
        network: in eval mode, on the device of the split.
        split: the training images; positions count its rows.
        augmentation: what the crops are drawn from.
        epochs: planned epochs, warm-up of view heads included.
    """

    def __init__(self, network: Network, split: Split, augmentation: Augmentation, epochs: int) -> None:
        self.network = network
        self._split = split
        self._augmentation = augmentation
        width = network.pooled_dim + len(network.classifier()[1])
        size_mib = len(split) * augmentation.variants * width * 4 / 2**20
        self.keeps_table = augmentation.variants < epochs and size_mib <= TABLE_LIMIT_MIB
        self._table: Signals | None = None

    @torch.no_grad()
    def signals(self, positions_B: Tensor, images_BCHW: Tensor | None, crops_B: Crops, stages: bool = False) -> Signals:
        """Logits and pooled feature of a batch, and stage maps when asked, without a gradient.

        Args:
            positions_B: rows of the split.
            images_BCHW: the same images, cropped and normalised; read (and needed) only where nothing is stored.
            crops_B: their crops.
            stages: whether stage maps are needed.
        """
        if stages or not self.keeps_table:
            return self.network(images_BCHW, stages).detach()  # type: ignore[no-any-return]
        if self._table is None:
            self._table = self._compute()
        rows_B = positions_B * self._augmentation.variants + crops_B.variant_N(self._augmentation)
        return Signals(self._table.logits_BK[rows_B], self._table.pooled_BC[rows_B])

    def _compute(self) -> Signals:
        """Signals of every image and crop, [R, K] and [R, C] with R = images times variants."""
        variants = self._augmentation.variants
        rows_R = torch.arange(len(self._split) * variants, device=self._split.labels_N.device)
        parts = []
        for start in range(0, len(rows_R), EVALUATION_BATCH):
            rows_B = (start + torch.arange(EVALUATION_BATCH, device=rows_R.device)) % len(rows_R)  # the last one wraps
            crops_B = variant_crops(rows_B % variants, self._augmentation)
            parts.append(self.network(self._split.images(rows_B // variants, crops_B)))
        logits_RK = torch.cat([part.logits_BK for part in parts])[: len(rows_R)]
        return Signals(logits_RK, torch.cat([part.pooled_BC for part in parts])[: len(rows_R)])


def _find_imported(settings: TeacherSettings, dataset: DataSet, train_on: TrainOn) -> TeacherFile:
    path = Path(settings.checkpoint).expanduser().resolve()
    network = load_checkpoint(path, settings.network, dataset.inputs, dataset.device)
    weights, saw_validation = weights_hash(network), not settings.clean_validation
    facts = [FORMAT, weights, networks.network_name(settings.network), dataset.fingerprint(train_on), saw_validation]
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
            _write(cached, json.dumps(measured).encode())
    return TeacherFile(str(path), "", weights, settings.network, saw_validation=saw_validation, **measured)


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


def _write(path: Path, content: bytes | memoryview) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Turns a failure to write to the cache into one message."""
    try:
        yield
    except OSError as error:
        message = f"cannot write the teacher to {folder} ({error}); AKDTUNE_CACHE names another cache folder"
        raise CheckpointError(message) from error
