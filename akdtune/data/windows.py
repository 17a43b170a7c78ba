"""Windows of tokens as a data set: cut once, then always the same, so that a teacher need say its part only once.

An item is a window, a row a token of it that is predicted and counted. Windows share no token. Those of the training
pool come first, those of the test set behind them; validation windows are drawn from the pool.

Shapes: W windows, L tokens of a window, N rows of a split, B windows of a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from akdtune.data.crops import epoch_order
from akdtune.data.row_sets import Loaded, RowDataSet, RowSplit, Splits
from akdtune.errors import DataError
from akdtune.randomness import Stream, random_order
from akdtune.roles import TrainOn
from akdtune.settings.data import RowDataSettings
from akdtune.signals import Inputs, Tokens, TokenSpec

LONGEST = 1 << 20
"""Tokens of a window are fewer than this, so that a row is told by its window and place in one number."""

PART_MIB = 16
"""Logits of one network on the windows that it is asked about at a time; what is made of them takes some times that."""

FORMAT = 1
"""Part of every content hash: how windows are cut."""

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Windows:
    """Text cut into windows.

    Attributes:
        ids_WX: tokens of each window and the one behind its last, X = L + 1, int64.
        rows_WL: whether the token behind this place is predicted and counted; of each window at least one.
    """

    ids_WX: Ids
    rows_WL: Flags

    def some(self, windows: Ids | slice) -> Windows:
        """Some of them."""
        return Windows(self.ids_WX[windows], self.rows_WL[windows])


@dataclass(frozen=True)
class Texts:
    """A data set of windows as read, before any split.

    Attributes:
        train, test: the training pool and the test set.
        vocabulary: how many tokens there are.
        classes: what each token stands for, where that is known.
        notes: sentences on what was left out.
    """

    train: Windows
    test: Windows
    vocabulary: int
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def content_hash(self) -> str:
        """Hash of all windows and of what their tokens stand for, 32 hex digits."""
        digest = hashlib.sha256(json.dumps([FORMAT, self.vocabulary, self.classes]).encode())
        for part in (self.train, self.test):
            for array in (part.ids_WX, part.rows_WL):
                digest.update(f"/{array.dtype.str}{array.shape}/".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:32]


def cut(ids: Ids, length: int) -> Windows:
    """A text as windows one behind the other, in which every place counts; what is left over at its end is left out."""
    count = len(ids) // (length + 1)
    ids_WX = ids[: count * (length + 1)].reshape(count, length + 1)
    return Windows(ids_WX, np.ones((count, length), bool))


class WindowSplit(RowSplit):
    """Some windows with their labels, on the device.

    Args:
        windows: of the split.
        first: number of the first window of the pool or test set that they are of, among all windows.
        numbers: which windows of the pool or test set they are.
        device: where all of it lies.
        vocabulary: how many tokens there are.

    Attributes:
        source: all windows of the pool or test set that they are of.
        first_number: number of the first of these among all.
        numbers_W: number of each window among all, int64.
        sample_ids_N: window times `LONGEST` plus place in it.
        labels_N, training_labels_N: the token behind each row.
    """

    def __init__(self, windows: Windows, first: int, numbers: Ids, device: torch.device, vocabulary: int) -> None:
        of_split = windows.some(numbers)
        self.numbers_W = torch.from_numpy(numbers + first).to(device)
        ids_WX = torch.from_numpy(np.ascontiguousarray(of_split.ids_WX)).to(device)
        self.ids_WL, self.rows_WL = ids_WX[:, :-1].contiguous(), torch.from_numpy(of_split.rows_WL).to(device)
        place_WL = self.numbers_W[:, None] * LONGEST + torch.arange(self.ids_WL.shape[1], device=device)
        self.sample_ids_N = place_WL[self.rows_WL]
        self.labels_N = self.training_labels_N = ids_WX[:, 1:][self.rows_WL]
        self._position_WL = (self.rows_WL.flatten().cumsum(0) - 1).view_as(self.rows_WL)
        self.source, self.first_number, self._vocabulary = windows, first, vocabulary

    @override
    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    @override
    def items(self) -> int:
        """How many windows."""
        return len(self.numbers_W)

    @property
    @override
    def at_once(self) -> int:
        """As many windows as have PART_MIB of logits, at least one."""
        return max(1, PART_MIB * 2**20 // (4 * self.rows_WL.shape[1] * self._vocabulary))

    @override
    def first(self, items: int) -> WindowSplit:
        """The first so many windows of the split."""
        numbers = (self.numbers_W[:items] - self.first_number).cpu().numpy()
        return WindowSplit(self.source, self.first_number, numbers, self.numbers_W.device, self._vocabulary)

    def inputs(self, windows_B: Tensor) -> Tokens:
        """What a network is asked about some windows, by their places in the split."""
        return Tokens(self.ids_WL[windows_B], self.rows_WL[windows_B])

    def positions(self, windows_B: Tensor) -> Tensor:
        """Positions of the rows of some windows, in row-major order."""
        return self._position_WL[windows_B][self.rows_WL[windows_B]]

    def windows_of(self, positions_R: Tensor) -> Tensor:
        """The windows, by their places in the split, whose rows these are: whole windows, one behind the other."""
        starts_W = self._starts_W
        windows_R = torch.searchsorted(starts_W, positions_R, right=True) - 1
        return windows_R[positions_R == starts_W[windows_R]]

    @cached_property
    def _starts_W(self) -> Tensor:
        """Position of the first row of each window."""
        counts_W = self.rows_WL.sum(dim=1)
        return counts_W.cumsum(0) - counts_W

    @override
    def plain_batches(self, batch_size: int) -> Generator[tuple[Tensor, Inputs], None, None]:
        """Positions and inputs of the split in order, so many windows at a time."""
        every_W = torch.arange(len(self.numbers_W), device=self.numbers_W.device)
        for windows_B in torch.split(every_W, batch_size):
            yield self.positions(windows_B), self.inputs(windows_B)

    @override
    def epoch(
        self, order_seed: int, epoch: int, batch_size: int, *, images: bool = True, strong: bool = False
    ) -> Generator[Loaded, None, None]:
        """The batches of one epoch, so many windows each, in an order that (order_seed, epoch, window) say.

        A last batch of one row is left out: batch statistics of one row do not exist.
        """
        assert not strong, "a task without a strong augmentation refuses methods that ask for one"
        for windows_B in torch.split(epoch_order(order_seed, epoch, self.numbers_W), batch_size):
            positions_R = self.positions(windows_B)
            if len(positions_R) > 1:
                inputs = self.inputs(windows_B) if images else None
                yield Loaded(positions_R, None, inputs, None, None, 1.0)


class WindowData(RowDataSet):
    """Windows on a device.

    Args:
        settings: of the section `data`; its `rehearsal` leaves the first windows alone.
        texts: as read.
        device: where windows are put.
    """

    settings: RowDataSettings
    called: ClassVar[str] = "tokens"

    def __init__(self, settings: RowDataSettings, texts: Texts, device: torch.device) -> None:
        super().__init__(settings, device)
        self._texts = texts if settings.rehearsal is None else _few(texts, settings.rehearsal)
        self.inputs = TokenSpec(texts.vocabulary, texts.train.rows_WL.shape[1])
        self.num_classes = texts.vocabulary
        self.content_hash = self._texts.content_hash
        self.classes, self.notes = texts.classes, texts.notes

    @override
    def split(self, train_on: TrainOn) -> Splits[WindowSplit]:
        """The data of roles that train on the pool minus validation (`subset`) or on all of the pool (`full`).

        Raises:
            DataError: for more validation windows than there are, or none where trials are selected on them.
        """
        pool = len(self._texts.train.ids_WX)
        every = np.arange(pool)
        held = self._validation(every) if train_on == "subset" else every[:0]
        texts, where = self._texts, (self.device, self.num_classes)
        return Splits(
            train=WindowSplit(texts.train, 0, np.setdiff1d(every, held), *where),
            validation=WindowSplit(texts.train, 0, held, *where) if len(held) else None,
            test=WindowSplit(texts.test, pool, np.arange(len(texts.test.ids_WX)), *where),
        )

    @override
    def fingerprint(self, train_on: TrainOn) -> str:
        """Hash of everything about the data that a trained network can depend on."""
        splits = self.split(train_on)
        parts = [None if part is None else part.numbers_W.tolist() for part in (splits.train, splits.validation)]
        return hashlib.sha256(json.dumps([self.content_hash, parts]).encode()).hexdigest()[:32]

    @property
    @override
    def images_key(self) -> list[Any]:
        """All windows."""
        return [self.content_hash]

    def _validation(self, every: Ids) -> Ids:
        if self.settings.validation == 0:
            raise DataError("data.validation is 0, but trials of a search are selected on validation windows")
        wanted = held_back(len(every), self.settings.validation, "data.validation")
        drawn: Ids = np.sort(random_order(self.settings.split_seed, 0, every, Stream.VALIDATION)[:wanted])
        return drawn


def _few(texts: Texts, windows: int) -> Texts:
    """The first windows, `windows` in training and a quarter of that for testing, at least one."""
    few = texts.train.some(slice(windows)), texts.test.some(slice(max(1, windows // 4)))
    return Texts(*few, texts.vocabulary, texts.classes, texts.notes)


def held_back(total: int, asked: int | float, key: str) -> int:
    """How many of so many windows `key` asks for.

    Raises:
        DataError: for more than leave one to train on.
    """
    wanted = asked if isinstance(asked, int) else max(1, round(asked * total))
    if wanted >= total:
        raise DataError(f"{key} is {asked} of {total} windows, which leaves none to train on")
    return wanted
