"""A small world that is no image: words of letters, each asked for the letter that comes next."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune.data.row_sets import Loaded, RowDataSet, RowSplit, Splits
from akdtune.data.source import RowSource
from akdtune.networks import Network
from akdtune.registry import ComponentSettings, kept, register
from akdtune.roles import TrainOn
from akdtune.settings.data import RowDataSettings
from akdtune.signals import UNLABELLED, Inputs, Signals, Spec, Takes, Tokens, TokenSpec
from akdtune.tasks.image import Accuracies
from akdtune.training.task import Meter, Task

LETTERS, LENGTH, WORDS = 5, 4, 24


@dataclass(frozen=True)
class WordSplit(RowSplit):
    """Some words; each is one item of LENGTH rows."""

    ids_WL: Tensor
    next_WL: Tensor
    words_W: Tensor
    hidden: bool = False

    @property
    def labels_N(self) -> Tensor:  # type: ignore[override]
        return self.next_WL.reshape(-1)

    @property
    def training_labels_N(self) -> Tensor:  # type: ignore[override]
        return self.labels_N

    @property
    @override
    def teacher_labels_N(self) -> Tensor:
        labels_WL = self.next_WL.clone()
        if self.hidden:
            labels_WL[:, 0] = UNLABELLED
        return labels_WL.reshape(-1)

    @property
    @override
    def some_unlabelled(self) -> bool:
        return self.hidden

    @property
    def sample_ids_N(self) -> Tensor:  # type: ignore[override]
        return (self.words_W[:, None] * LENGTH + torch.arange(LENGTH)).reshape(-1)

    @override
    def __len__(self) -> int:
        return self.ids_WL.numel()

    @property
    @override
    def items(self) -> int:
        return len(self.ids_WL)

    @property
    @override
    def at_once(self) -> int:
        return 5

    @override
    def first(self, items: int) -> WordSplit:
        return WordSplit(self.ids_WL[:items], self.next_WL[:items], self.words_W[:items], self.hidden)

    def _of(self, words_B: Tensor) -> tuple[Tensor, Inputs]:
        ids_BL = self.ids_WL[words_B]
        rows_R = (words_B[:, None] * LENGTH + torch.arange(LENGTH)).reshape(-1)
        return rows_R, Tokens(ids_BL, torch.ones_like(ids_BL, dtype=torch.bool))

    @override
    def plain_batches(self, batch_size: int) -> Generator[tuple[Tensor, Inputs], None, None]:
        for words_B in torch.arange(self.items).split(batch_size):
            yield self._of(words_B)

    @override
    def epoch(
        self, order_seed: int, epoch: int, batch_size: int, *, images: bool = True, strong: bool = False
    ) -> Generator[Loaded, None, None]:
        order = torch.randperm(self.items, generator=torch.Generator().manual_seed(order_seed % 2**31 + epoch))
        for words_B in order.split(batch_size):
            positions_R, inputs = self._of(words_B)
            yield Loaded(positions_R, None, inputs if images else None, None, None, 1.0)


class WordSet(RowDataSet):
    """Words whose next letter follows from the present one, mostly."""

    inputs = TokenSpec(LETTERS, LENGTH)
    num_classes = LETTERS
    called = "letters"

    def __init__(self, settings: RowDataSettings, device: torch.device) -> None:
        super().__init__(settings, device)
        generator = torch.Generator().manual_seed(0)
        self._ids_WL = torch.randint(LETTERS, (WORDS, LENGTH), generator=generator)
        self._next_WL = (self._ids_WL * 2 + 1) % LETTERS
        self.content_hash = hashlib.sha256(self._ids_WL.numpy().tobytes()).hexdigest()

    @override
    def split(self, train_on: TrainOn) -> Splits[RowSplit]:
        every, pool = torch.arange(WORDS), 18
        hidden = bool(getattr(self.settings, "hidden", False))
        held_out = int(self.settings.validation) if train_on == "subset" else 0
        train, validation, test = (
            WordSplit(self._ids_WL[of], self._next_WL[of], of, hidden)
            for of in (every[: pool - held_out], every[pool - held_out : pool], every[pool:])
        )
        return Splits(train, validation if held_out else None, test)

    @override
    def fingerprint(self, train_on: TrainOn) -> str:
        return hashlib.sha256(f"{self.content_hash} {train_on} {self.settings!r}".encode()).hexdigest()

    @property
    @override
    def images_key(self) -> list[Any]:
        return [self.content_hash]


@contextmanager
def words() -> Iterator[type[Task]]:
    """Registers the data set `words`, the network `table` and the task `spelling` for as long as it lasts."""
    with kept():

        @register("words", kind="data")
        class Words(RowSource):
            """Words of letters."""

            takes: ClassVar[Takes] = "tokens"
            example = "{name: words, validation: 6}"

            class Settings(RowDataSettings):
                """Which words."""

                hidden: bool = False

            @classmethod
            @override
            def spec(cls, settings: RowDataSettings) -> Spec:
                return TokenSpec(LETTERS, LENGTH)

            @classmethod
            @override
            def load(cls, settings: RowDataSettings, device: torch.device) -> RowDataSet:
                return WordSet(settings, device)

        @register("table", kind="networks")
        class Table(Network):
            """A row for each letter, and a linear layer."""

            takes: ClassVar[Takes] = "tokens"
            offers = frozenset()

            class Settings(ComponentSettings):
                width: int = 4

            def __init__(self, settings: Table.Settings, inputs: TokenSpec) -> None:
                super().__init__(settings, inputs)
                self.pooled_dim = settings.width
                self.of_letters = nn.Embedding(inputs.vocabulary, settings.width)
                self.head = nn.Linear(settings.width, inputs.vocabulary)

            @override
            def forward(self, inputs: Tokens, stages: bool = False) -> Signals:
                pooled_RC = self.of_letters(inputs.ids_BL[inputs.rows_BL])
                return Signals(self.head(pooled_RC), pooled_RC)

            @override
            def classifier(self) -> tuple[Tensor, Tensor]:
                return self.head.weight, self.head.bias

        @register("spelling")
        class Spelling(Task):
            """Which letter comes next."""

            takes: ClassVar[Takes] = "tokens"
            called = "letters"

            @override
            def meter(self) -> Meter:
                return Accuracies()

            @override
            def groups(self, sample_ids_R: Tensor) -> Tensor:
                return sample_ids_R // LENGTH

        yield Spelling
