"""How a teacher is trained: once for all studies, resumed after an interruption, alone or from larger teachers.

Shapes: N images, B batch, C, H, W image channels, height and width, K classes.

References:
    Chains: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant" (TAKD), AAAI 2020, arXiv
    1902.03393; Son et al., "Densely Guided Knowledge Distillation" (DGKD), ICCV 2021, arXiv 2009.08825.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from akdtune import atomic, networks
from akdtune.data.row_sets import Loaded, RowDataSet
from akdtune.devices import seed_draws
from akdtune.errors import AkdtuneError, CheckpointError
from akdtune.randomness import derived_seed
from akdtune.registry import network_name
from akdtune.roles import TrainOn
from akdtune.settings.teacher import TeacherSettings
from akdtune.signals import UNLABELLED, tempered
from akdtune.teacher.checkpoints import load_plain, weights_hash
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import (
    cache_errors,
    evaluate,
    find_alone,
    find_teacher,
    load_teacher,
    teacher_folder,
    teacher_key,
)
from akdtune.teacher.frozen import FrozenTeacher
from akdtune.teacher.sealed import sealed
from akdtune.training.optimizers import build_optimizer, set_learning_rate
from akdtune.training.teacher_turn import TeacherTurn

PROGRESS_EVERY_S = 30


def train_teachers(
    settings: TeacherSettings,
    dataset: RowDataSet,
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
        many are trained in this call); `waits` alone, a sentence, while another process trains one; and last
        {"done": True, "teacher": a TeacherFile as dict}.

    Raises:
        AkdtuneError: when the loss is not finite, or the cache folder cannot be written.
    """
    missing = _missing(settings, dataset, train_on)
    for number, teacher in enumerate(missing, start=1):
        which = {"network": network_name(teacher.network), "number": number, "networks": len(missing)}
        finished = yield from _train_one(teacher, dataset, train_on, device, should_stop, which)
        if not finished:
            return
    file = find_teacher(settings, dataset, train_on)
    assert file is not None, "everything that was missing has been trained"
    yield {"done": True, "teacher": file.plain()}


def _missing(settings: TeacherSettings, dataset: RowDataSet, train_on: TrainOn) -> list[TeacherSettings]:
    """The teachers that have to be trained, each once and after those that it is distilled from."""
    missing: dict[str, TeacherSettings] = {}

    def visit(teacher: TeacherSettings) -> None:
        if not teacher.absent and find_alone(teacher, dataset, train_on) is None:
            for source in teacher.distilled_from:
                visit(source)
            missing.setdefault(teacher_key(teacher, dataset, train_on), teacher)

    for teacher in (settings, *settings.others):
        visit(teacher)
    return list(missing.values())


def _train_one(
    settings: TeacherSettings,
    dataset: RowDataSet,
    train_on: TrainOn,
    device: torch.device,
    should_stop: Callable[[], bool],
    which: Mapping[str, Any],
) -> Generator[dict[str, Any], None, bool]:
    """Trains one network, or finds it after all; returns whether it is there now. Every row also holds `which`."""
    folder = teacher_folder(teacher_key(settings, dataset, train_on))
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    turn = TeacherTurn(folder)
    with turn.until_done():
        with cache_errors(folder):
            taken = yield from turn.take(should_stop)
        if not taken:
            return False
        if find_alone(settings, dataset, train_on) is None:
            training = _Training(settings, dataset, train_on, device, folder)
            for row in training.epochs(turn.giving_signs(should_stop)):
                yield {**row, **which}
            if training.epoch < settings.epochs:
                return False
            training.finish()
    return True


class _Training:
    """A teacher on its way, and its state on disk."""

    def __init__(
        self, settings: TeacherSettings, dataset: RowDataSet, train_on: TrainOn, device: torch.device, folder: Path
    ) -> None:
        self.settings, self.train_on, self.folder = settings, train_on, folder
        self.dataset = dataset.under(settings.augmentation, "teacher.augmentation")
        self.splits = self.dataset.split(train_on)
        self.teachers = self._load_teachers(device)
        init_seed = derived_seed("teacher", settings.seed, "init")
        self.network = networks.build(settings.network, dataset.inputs, init_seed).to(device)
        self.optimizer = build_optimizer(settings, self.network.parameters())
        self.epoch = 0
        self.seconds = 0.0
        self._resume()
        self._saved_at = time.monotonic()

    def _load_teachers(self, device: torch.device) -> FrozenTeacher | None:
        """Those that this one is distilled from."""
        files = [find_alone(source, self.dataset, self.train_on) for source in self.settings.distilled_from]
        loaded = [load_teacher(file, self.dataset.inputs, device) for file in files if file is not None]
        assert len(loaded) == len(files), "a teacher is trained after those that it is distilled from"
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
        of_network = derived_seed("teacher", self.settings.seed, "epoch", epoch)
        seed_draws(of_network, train.labels_N.device)  # for dropout in the network
        draws = torch.Generator().manual_seed(derived_seed("teacher", self.settings.seed, "drop", epoch))
        set_learning_rate(self.optimizer, self.settings.learning_rate(epoch))
        sums, count = torch.zeros(2, dtype=torch.float64, device=train.labels_N.device), 0
        self.network.train()
        with contextlib.closing(train.epoch(order_seed, epoch, self.settings.batch_size)) as loading:
            for loaded in loading:
                if should_stop():
                    return None
                labels_B = train.teacher_labels_N[loaded.positions_B]
                logits_BK = self.network(loaded.inputs).logits_BK
                loss = label_loss(logits_BK, labels_B, loaded)
                if self.teachers is not None:
                    teachers = self.teachers.signals(loaded.positions_B, loaded.inputs, loaded.crops_B)
                    loss = self._distilled(
                        loss, logits_BK, [signals.logits_BK for signals in (teachers, *teachers.others)], draws
                    )
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                right = (logits_BK.detach().argmax(dim=1) == labels_B).sum()
                sums += torch.stack([loss.detach().double() * len(labels_B), right.double()])
                count += int((labels_B != UNLABELLED).sum()) if train.some_unlabelled else len(labels_B)
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
        with cache_errors(self.folder):
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
        torch.save(sealed(state), buffer)
        with cache_errors(self.folder):
            atomic.write(self.folder / name, buffer.getbuffer(), durable=True)


def label_loss(logits_BK: Tensor, labels_B: Tensor, loaded: Loaded) -> Tensor:
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
