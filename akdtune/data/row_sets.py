"""What training and evaluation read of data, whatever they are of: rows with labels, in batches of items.

An item is what a batch counts (an image, a window of text, a graph), a row one prediction with one label (an image, a
token, a node). `data.dataset` and `data.splits` are those of images.

Shapes: N rows of a split, R rows of a batch.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from akdtune.data.crops import Crops
from akdtune.errors import DataError, printable
from akdtune.roles import TrainOn
from akdtune.settings.data import AnyDataSettings, Augmentation, AugmentationSettings
from akdtune.signals import Inputs, Spec

CLASSES_SHOWN = 12
"""Classes that a line names one by one."""


@dataclass(frozen=True)
class Loaded:
    """One training batch.

    Attributes:
        positions_B: rows of the split, int64.
        crops_B: which crop each image is; None where crops do not say which image it is: other augmentation, mixing,
            or a set that streams.
        inputs: what networks are asked about: normalised images, float32; None when not asked for.
        strong: the same samples under the strong augmentation; None when not asked for.
        partner_B: index within the batch of the image that Mixup or CutMix mixed in, int64; None without mixing.
        share: of the own image (not of its partner), 0.5..1; 1 without mixing.
    """

    positions_B: Tensor
    crops_B: Crops | None
    inputs: Inputs | None
    strong: Inputs | None
    partner_B: Tensor | None
    share: float


class RowSplit(ABC):
    """Some rows of a data set with their labels, on the device.

    Attributes:
        sample_ids_N: number of each row in the whole data set, int64; stable across splits, limits and seeds.
        labels_N: the right labels, int64.
        training_labels_N: the labels a student trains on, int64; `signals.UNLABELLED` where it is given none.
    """

    sample_ids_N: Tensor
    labels_N: Tensor
    training_labels_N: Tensor

    @abstractmethod
    def __len__(self) -> int:
        """How many rows."""

    @property
    @abstractmethod
    def items(self) -> int:
        """How many items, which batches count."""

    @property
    def at_once(self) -> int:
        """How many items a network is asked about at a time where nothing is trained."""
        return 256

    @property
    def teacher_labels_N(self) -> Tensor:
        """The labels a teacher trains on, int64; `signals.UNLABELLED` where it is given none."""
        return self.labels_N

    @property
    def some_unlabelled(self) -> bool:
        """Whether some rows have no label to train on, be it a student or a teacher."""
        return False

    @property
    def crops_only(self) -> bool:
        """Whether a training image is a function of sample, crop and flip alone, and its crops are given."""
        return False

    @property
    def always_same(self) -> bool:
        """Whether an item is given as it is in every epoch, so that a frozen network says the same about it."""
        return True

    def sample(self, items: int) -> tuple[Tensor, Inputs]:
        """Positions and inputs of the first so many items, as they are."""
        with contextlib.closing(self.plain_batches(items)) as batches:
            return next(batches)

    @abstractmethod
    def first(self, items: int) -> Self:
        """The rows of the first so many items."""

    @abstractmethod
    def plain_batches(self, batch_size: int) -> Generator[tuple[Tensor, Inputs], None, None]:
        """Positions of rows and inputs of the whole split in order, as they are, so many items at a time."""

    @abstractmethod
    def epoch(
        self, order_seed: int, epoch: int, batch_size: int, *, images: bool = True, strong: bool = False
    ) -> Generator[Loaded, None, None]:
        """The batches of one epoch, every draw by (order_seed, epoch, sample id) alone.

        Args:
            order_seed: of order and all other draws.
            epoch: counted from 1.
            batch_size: items per batch.
            images: whether inputs are needed at all.
            strong: whether their strong version is, too.
        """


S_co = TypeVar("S_co", bound=RowSplit, covariant=True)


@dataclass(frozen=True)
class Splits(Generic[S_co]):
    """Who sees which data; `validation` is None where everything is trained on."""

    train: S_co
    validation: S_co | None
    test: S_co


class RowDataSet(ABC):
    """A data set on a device.

    Attributes:
        name: the registered name.
        inputs: what its networks are built for.
        num_classes: K.
        content_hash: of inputs and labels, before any split.
        classes: what the labels 0..K-1 stand for; None where nobody says it.
        notes: sentences on what was left out of the files, or is odd in them.
        in_words: a line for the plan on what it holds besides how many rows; empty for none.
        device: where everything lies.
        augmentation: of training images; of what is no image, none.
        augmented_by: key path of the setting that it follows from, for messages.
        streams: whether it is read batch by batch.
    """

    name: str
    inputs: Spec
    num_classes: int
    content_hash: str
    device: torch.device
    classes: Any = None
    notes: Any = ()
    in_words: str = ""
    augmentation: Augmentation = Augmentation(pad=0, flip=False)
    augmented_by: str = "data.augmentation"
    streams: bool = False
    called: ClassVar[str] = "rows"
    """How sentences call its rows."""

    def __init__(self, settings: AnyDataSettings, device: torch.device) -> None:
        self.settings = settings
        self.name = settings.name
        self.device = device

    @abstractmethod
    def split(self, train_on: TrainOn) -> Splits[RowSplit]:
        """The data of roles that train on the pool minus validation (`subset`) or on all of the pool (`full`).

        Raises:
            DataError: for more validation items than there are, or none where trials are selected on them.
        """

    @abstractmethod
    def fingerprint(self, train_on: TrainOn) -> str:
        """Hash of everything about the data that a network trained on them can depend on."""

    @property
    @abstractmethod
    def images_key(self) -> list[Any]:
        """Plain JSON that names the stored inputs to the last bit."""

    def under(self, given: AugmentationSettings | None, key: str) -> Self:
        """The same under another augmentation, which images alone have.

        Raises:
            DataError: where one is given.
        """
        if given is not None:
            raise DataError(f"{key} is set, and the data set '{self.name}' holds no images")
        return self

    @property
    def classes_in_words(self) -> str | None:
        """The classes in their order, as the files call them; None where these do not say it."""
        if self.classes is None:
            return None
        names = [printable(str(name)) for name in self.classes]
        shown = names if len(names) <= CLASSES_SHOWN else [*names[: CLASSES_SHOWN - 2], "...", names[-1]]
        return f"{len(names):,} classes, 0 to {len(names) - 1}: {', '.join(shown)}"
